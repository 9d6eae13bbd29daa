"""A pool for a benchmark: `raybox up` in a process of its own, and what it uses of the machine."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from raybox_cluster import cli_state

#: Everything that a pool of this many sandboxes needs to be at rest again.
REST_LIMIT_S = 60.0
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class BenchPool:
    name: str
    url: str
    api_key: str
    pid: int

    def address(self) -> None:
        """Let the SDK speak to this pool from here on."""
        os.environ |= {"RAYBOX_URL": self.url, "RAYBOX_API_KEY": self.api_key}

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """This process is a driver in the pool's Ray; once in a process, because Ray keeps what it reads at import."""
        record = cli_state.read(self.name)
        assert record is not None
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": record.token_path}
        import ray

        ray.init(address=record.ray_address, log_to_driver=False, logging_level=logging.ERROR)
        try:
            yield
        finally:
            ray.shutdown()

    def status(self) -> dict[str, object]:
        answer = httpx.get(f"{self.url}/raybox/status", headers={"X-API-KEY": self.api_key}, timeout=30)
        answer.raise_for_status()
        status: dict[str, object] = answer.json()
        return status

    def wait_for_warm(self, count: int, limit_s: float = REST_LIMIT_S) -> None:
        """Return when at least `count` sandboxes are warm and none is on its way in or out."""
        deadline = time.monotonic() + limit_s
        while True:
            states = self.status()["slots_by_state"]
            assert isinstance(states, dict)
            moving = sum(states.get(state, 0) for state in ("preparing", "starting", "destroying"))
            if states.get("warm", 0) >= count and not moving:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the pool is not at rest: {states}")
            time.sleep(0.005)


@contextlib.contextmanager
def pool(
    sandboxes: int,
    warm: int,
    python: str = sys.executable,
    options: Sequence[str] = (),
    limit_s: float = REST_LIMIT_S,
) -> Iterator[BenchPool]:
    """A running pool of its own, at rest; gone at the end. `python`: whose raybox it is. `options`: more of `up`'s.

    The SDK speaks to the one that came last, or that `address` was called of.
    """
    name = f"bench{os.getpid()}-{next(_numbers)}"
    command = [python, "-m", "raybox_cluster"]
    numbers = ["--port", "0", "--sandboxes", str(sandboxes), "--warm", str(warm), *options]
    subprocess.run(
        [*command, "up", "--detach", "--name", name, "--address", "local", *numbers],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if "--json" in sys.argv else None,
    )
    try:
        record = cli_state.read(name)
        assert record is not None
        running = BenchPool(name, record.url, record.api_key, record.pid)
        running.address()
        wait_for_slots(running, sandboxes, limit_s)
        running.wait_for_warm(warm, limit_s)
        yield running
    finally:
        subprocess.run([*command, "down", "--name", name], check=True, stderr=subprocess.DEVNULL)


def wait_for_slots(running: BenchPool, count: int, limit_s: float) -> None:
    """Every actor that the pool is to have has been started."""
    deadline = time.monotonic() + limit_s
    while True:
        states = running.status()["slots_by_state"]
        assert isinstance(states, dict)
        if sum(states.values()) >= count:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"the pool has not started its sandboxes: {states}")
        time.sleep(0.05)


# ---- what is on the machine ----


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    command: str
    mounts: str  #: its mount namespace


def processes() -> dict[int, Process]:
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            found[int(entry.name)] = Process(int(entry.name), parent, command, str((entry / "ns/mnt").readlink()))
    return found


def descendants(root: int, table: dict[int, Process] | None = None) -> list[Process]:
    """All processes below `root`, and it. Kernels are below the zygote, which is below the node agent."""
    table = table or processes()
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        if pid in table:
            found.append(table[pid])
        todo.extend(children.get(pid, []))
    return found


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a pool at rest holds on the machine."""

    processes: int
    mount_namespaces: int
    folders: int
    actors: int


def footprint(running: BenchPool) -> Footprint:
    tree = descendants(running.pid)
    own = str(Path("/proc/self/ns/mnt").readlink())
    # All that the pool has on the node outside Ray's own session, whose logs grow by themselves.
    folders = sum(1 for _ in Path("/run/raybox", running.name).rglob("*"))
    folders += sum(1 for root in ("/tmp", "/run", "/dev/shm") for _ in Path(root).glob("*raybox*"))
    return Footprint(
        processes=sum(not _passing(process) for process in tree),
        mount_namespaces=len({process.mounts for process in tree} - {own}),
        folders=folders,
        actors=sum("SandboxActor" in process.command for process in tree),
    )


def _passing(process: Process) -> bool:
    """Ray's idle workers come and go by themselves."""
    return "IDLE" in process.command or "default_worker.py" in process.command


def memory_mib(pid: int) -> tuple[float, float]:
    """Private and proportional memory of a process."""
    private = proportional = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean", "Private_Dirty")):
            private += int(line.split()[1])
        elif line.startswith("Pss:"):
            proportional = int(line.split()[1])
    return private / 1024, proportional / 1024
