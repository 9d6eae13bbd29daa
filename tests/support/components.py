"""Which process is which part of a running pool; for tests that kill one."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from raybox_actors.isolation.orphans import wall_marks
from raybox_actors.isolation.policy import host_slot
from raybox_actors.sandbox_id import parse
from tests.support.pool import RunningPool, processes_of

MANAGER, GATEWAY, NODE_AGENT = "ray::PoolManager", "ray::ServeReplica", "ray::NodeAgent"


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def pid_of(pool: RunningPool, title: str) -> int:
    """The only process of the pool whose command line begins so."""
    found = [one.pid for one in processes_of(pool) if command_line(one.pid).startswith(title)]
    assert len(found) == 1, (title, [(one.pid, command_line(one.pid)[:80]) for one in processes_of(pool)])
    return found[0]


def zygote_pid(pool: RunningPool) -> int:
    found = [one.pid for one in processes_of(pool) if is_zygote(one.pid)]
    assert found, "no zygote"
    return found[0]


def is_zygote(pid: int) -> bool:
    """Kernels have its command line too, but live in other namespaces."""
    with contextlib.suppress(OSError):
        own = Path("/proc/self/ns/mnt").readlink()
        return "zygote.sock" in command_line(pid) and Path(f"/proc/{pid}/ns/mnt").readlink() == own
    return False


def host_slot_of(sandbox_id: str) -> int:
    """The number that its host ids, its mark and its cgroup go by."""
    address = parse(sandbox_id)
    assert address is not None
    return host_slot(address.node, address.slot)


def walls_of(pool: RunningPool, sandbox_id: str) -> int:
    """The outermost process of a sandbox's walls."""
    prefix = f"{pool.name}:{host_slot_of(sandbox_id)}:"
    found = [pid for pid, mark in wall_marks().items() if mark.startswith(prefix)]
    assert found, (sandbox_id, wall_marks())
    return min(found, key=lambda pid: parent(pid) in found)


def first_inside(walls: int) -> int:
    """The host's number of the sandbox's first process."""
    return int(Path(f"/proc/{walls}/task/{walls}/children").read_text().split()[0])


def processes_inside(walls: int) -> list[int]:
    """Every process in the mount namespace of a sandbox: its first process, its kernels and their children."""
    inside = Path(f"/proc/{first_inside(walls)}/ns/mnt").readlink()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "ns/mnt").readlink() == inside:
                found.append(int(entry.name))
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def actor_pid(pool: RunningPool, sandbox_id: str) -> int:
    """The process of the actor that holds the sandbox: the walls' parent."""
    return parent(walls_of(pool, sandbox_id))


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
