"""Finding what a dead pool process left on this node. Nothing should: walls and zygotes die with their parents."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from raybox_actors.isolation.walls import MARK

PR_SET_CHILD_SUBREAPER = 36
#: Between two looks at what is about to be killed.
CONFIRM_S = 0.05


@dataclass(frozen=True, slots=True)
class Orphan:
    pid: int
    what: str
    words: tuple[str, ...] = field(repr=False)  #: of its command line, to know it again


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def parent_of(pid: int) -> int:
    """0 for a process that is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def wall_marks() -> dict[int, str]:
    """The outer process of every sandbox's walls on this machine, with its mark (WallsPolicy.mark)."""
    found = {}
    for pid in _pids():
        if MARK in (words := _command_line(pid)):
            position = words.index(MARK)
            if position + 1 < len(words):
                found[pid] = words[position + 1]
    return found


def find_orphans(mark_prefix: str, zygote_address: str, own_zygote: int | None) -> list[Orphan]:
    """Walls of the pool whose actor is gone, and zygotes at our address that are not ours."""
    marks = wall_marks()
    orphans = [
        Orphan(pid, f"walls {mark}", tuple(_command_line(pid)))
        for pid, mark in marks.items()
        # Its parent is the actor's process or, for bubblewrap's own child, bubblewrap.
        if mark.startswith(mark_prefix) and parent_of(pid) not in marks and not is_worker(parent_of(pid))
    ]
    for pid in _pids():
        if own_zygote not in (pid, parent_of(pid)):  # it has another one beside it (guest/lean.py)
            words = _command_line(pid)
            # A kernel has its zygote's command line, but is the first of a session inside a pid namespace.
            if zygote_address in words and "-I" in words and _namespace_depth(pid) == 1:
                orphans.append(Orphan(pid, "zygote", tuple(words)))
    return orphans


def _namespace_depth(pid: int) -> int:
    """1 for a process of our own pid namespace, more for one inside a sandbox."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return len(line.split()) - 1
    except OSError:
        pass
    return 0


def is_worker(pid: int) -> bool:
    words = _command_line(pid)
    return bool(words) and (
        words[0].startswith("ray::") or "default_worker.py" in " ".join(words) or pid == os.getpid()
    )


def sweep(mark_prefix: str, zygote_address: str, own_zygote: int | None) -> list[Orphan]:
    """Kill what `find_orphans` finds twice; returns what was killed. Idempotent. Blocks for a moment if there is any.

    Twice, because /proc is not read at one instant: what is being made or ended may look like an orphan once.
    """
    found = find_orphans(mark_prefix, zygote_address, own_zygote)
    if not found:
        return []
    time.sleep(CONFIRM_S)
    again = find_orphans(mark_prefix, zygote_address, own_zygote)
    return [orphan for orphan in found if orphan in again and _kill(orphan)]


def _kill(orphan: Orphan) -> bool:
    """Unless it has ended and its number is another process's."""
    try:
        pidfd = os.pidfd_open(orphan.pid)
    except OSError:
        return False
    try:
        if _command_line(orphan.pid) != list(orphan.words):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return True
    except OSError:
        return False
    finally:
        os.close(pidfd)


def adopt_orphans() -> None:
    """Make this process the parent of whatever its descendants leave behind; `reap_sandboxed` must follow now and then.

    Kernels whose zygote died would otherwise become children of the machine's pid 1, and where that one does not reap,
    a dead kernel keeps the pid namespace of its sandbox from going away.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def reap_sandboxed() -> int:
    """Reap dead children of this process that were in sandboxes, and no others; returns how many. Does not block."""
    reaped = 0
    own = os.getpid()
    for pid in _pids():
        if parent_of(pid) == own and _namespace_depth(pid) > 1:
            with contextlib.suppress(ChildProcessError):
                reaped += os.waitpid(pid, os.WNOHANG)[0] == pid
    return reaped


def has_children_besides(pid: int) -> bool:
    """Whether this process has any child but `pid`; far cheaper than looking at all processes."""
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that ended
            if any(int(word) != pid for word in (thread / "children").read_text().split()):
                return True
    return False
