"""Processes of this machine as /proc tells of them, and ending those that one `raybox up` started, and no others.

Run as a script it is the guard of one `up`: it waits until that process is gone, however it went, and ends what is left
of it. Standard library only, so that the guard costs 20 ms and 10 MB.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

#: Every process that a pool starts inherits this variable; sandboxes do not, but they die with those who do.
MARKER = "RAYBOX_RUN"


@dataclass(frozen=True, slots=True)
class Process:
    """One process; `started` (kernel ticks since boot) tells it from a later one with the same pid."""

    pid: int
    started: int
    parent: int
    command: str


def look(pid: int) -> Process | None:
    """The process, None if it is gone or a zombie: a zombie holds nothing but its number."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command is in parentheses and may hold any character, parentheses too.
    command = text[text.index("(") + 1 : text.rindex(")")]
    rest = text[text.rindex(")") + 2 :].split()
    if rest[0] in "ZX":
        return None
    return Process(pid, int(rest[19]), int(rest[1]), command)


def is_alive(pid: int, started: int) -> bool:
    found = look(pid)
    return found is not None and found.started == started


def started_ticks(pid: int) -> int:
    """When the process started; 0 if there is none."""
    found = look(pid)
    return found.started if found else 0


def everything() -> list[Process]:
    found = (look(int(name)) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208  # names are all we need
    return [one for one in found if one is not None]


def descendants(pid: int) -> list[Process]:
    """Every process below `pid`, parents before children; without itself."""
    below: dict[int, list[Process]] = {}
    for one in everything():
        below.setdefault(one.parent, []).append(one)
    found: list[Process] = []
    todo = [pid]
    while todo:
        children = below.get(todo.pop(), [])
        found += children
        todo += [one.pid for one in children]
    return found


#: How Ray calls the first log of a driver; the others are called like those of workers.
DRIVER_LOG = "python-core-driver-"


def marked(marker: str) -> list[Process]:
    """Every process, of those we may look into, whose environment says that it belongs to this run; not ourselves."""
    wanted = f"{MARKER}={marker}".encode()
    found = []
    for one in everything():
        try:
            environment = Path(f"/proc/{one.pid}/environ").read_bytes()
        except OSError:
            continue
        if wanted in environment.split(b"\0") and one.pid != os.getpid():
            found.append(one)
    return found


def holding(folder: str) -> list[Process]:
    """Every process that has a file below `folder` open; not ourselves, nor programs that have joined our Ray.

    Ray's agents give themselves titles, which overwrite the environment that `marked` looks at; their log files stay
    open. Once their raylet is gone nothing else connects them to us. A driver has logs of its own part of Ray open, and
    keeps them when it has left the cluster; but it is its user's.
    """
    return [one for one in everything() if one.pid != os.getpid() and _holds(one.pid, f"{folder}/")]


def _holds(pid: int, prefix: str) -> bool:
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
    held = []
    for entry in entries:
        with contextlib.suppress(OSError):  # closed in the meantime
            target = entry.readlink()
            if str(target).startswith(prefix):
                held.append(target.name)
    return bool(held) and not any(name.startswith(DRIVER_LOG) for name in held)


def alive(processes: Iterable[Process]) -> list[Process]:
    return [one for one in processes if is_alive(one.pid, one.started)]


def send(process: Process, number: signal.Signals) -> None:
    """Signal exactly this process: a pid that was reused in the meantime is left alone."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # Looked at after the handle was taken: from here on the handle cannot mean another process.
        if is_alive(process.pid, process.started):
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def wait_gone(processes: Callable[[], list[Process]], timeout_s: float) -> list[Process]:
    """Wait until `processes()` is empty; return what is left after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while left := processes():
        if time.monotonic() > deadline:
            return left
        time.sleep(0.02)
    return []


def start_guard(marker: str, folder: str) -> int:
    """Start the guard of this process; returns the descriptor whose closing, by us or by our death, sets it off.

    It then ends every process with the marker and removes `folder`, the folder of our Ray.
    """
    watched, held = os.pipe()
    try:
        subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, marker, folder],
            stdin=watched,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us
            cwd="/",
        ).returncode = 0  # nobody waits for it: it outlives us
    finally:
        os.close(watched)
    return held


def _guard(marker: str, folder: str) -> None:
    while os.read(0, 1):  # nobody writes: this is the end of the pipe, or the end of the world
        pass
    deadline = time.monotonic() + 60
    ours = Path(folder).name.startswith("raybox-")
    while (left := marked(marker) + (holding(folder) if ours else [])) and time.monotonic() < deadline:
        for top in left:
            for one in (top, *descendants(top.pid)):
                send(one, signal.SIGKILL)
        time.sleep(0.05)
    if ours:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard(sys.argv[1], sys.argv[2])
