"""What of a pool's dead sandboxes is left on this node: found by kind, removed where that is safe, counted. No Ray.

Nothing should ever be: walls die with their actor, and everything of a sandbox dies with its walls. Whatever could be
of a sandbox that is just being made or ended is left alone until it has been seen by two looks in a row.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

from raybox_actors.isolation.cgroup import TOP, Cgroup, Hierarchy, existing, owner_of
from raybox_actors.isolation.orphans import is_worker, parent_of, sweep, wall_marks
from raybox_actors.isolation.policy import FIRST_HOST_ID, IDS_PER_SANDBOX, MAX_SLOTS_PER_NODE
from raybox_actors.node_folder import OWN_FILES

KINDS = ("processes", "mounts", "folders", "cgroups", "sockets", "uids")
LAST_HOST_ID = FIRST_HOST_ID + MAX_SLOTS_PER_NODE * IDS_PER_SANDBOX


@dataclass(frozen=True, slots=True)
class Leak:
    kind: str  #: one of KINDS
    what: str


class LeakSweeper:
    """Of one pool on this machine; `folder` is its node's own. Every method blocks for some milliseconds, and never
    raises for what it finds."""

    def __init__(self, pool: str, folder: Path, hierarchy: Hierarchy | None) -> None:
        self._pool, self._folder, self._hierarchy = pool, folder, hierarchy
        self._seen: set[Leak] = set()
        #: Leaks found since the start, by kind; should stay zero.
        self.counts = dict.fromkeys(KINDS, 0)

    def sweep(self, zygote_address: str, own_zygote: int | None) -> list[Leak]:
        """Look, remove what is certain, remember the rest for the next look. Returns what was found to be left."""
        orphans = sweep(f"{self._pool}:", zygote_address, own_zygote)
        found = [Leak("processes", f"{orphan.what}, pid {orphan.pid}") for orphan in orphans]
        suspects = [*self._cgroups(), *self._uids(), *self._folders(), *self._mounts()]
        for leak, certain in suspects:
            if certain or leak in self._seen:
                self._remove(leak)
                found.append(leak)
        self._seen = {leak for leak, _ in suspects}
        for leak in found:
            self.counts[leak.kind] += 1
        return found

    # ---- finding: what, and whether one look is enough ----

    def _cgroups(self) -> list[tuple[Leak, bool]]:
        if self._hierarchy is None:
            return []
        standing = set(wall_marks().values())
        found = []
        for group in existing(self._hierarchy, self._pool):
            owner = owner_of(group.name)
            slot_and_epoch = group.name.rpartition("-")[0].replace("-", ":")
            gone = not Path(f"/proc/{owner}").exists()
            if gone or not is_worker(owner) or f"{self._pool}:{slot_and_epoch}" not in standing:
                found.append((Leak("cgroups", group.name), gone))
        return found

    def _uids(self) -> list[tuple[Leak, bool]]:
        """Processes with ids of sandboxes, in a cgroup of this pool, in no walls that stand."""
        own, living = f"/{TOP}/{self._pool}/", standing_pid_namespaces()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if (
                    FIRST_HOST_ID <= entry.stat().st_uid < LAST_HOST_ID
                    and own in (entry / "cgroup").read_text()
                    and (entry / "ns/pid").stat().st_ino not in living
                ):
                    found.append((Leak("uids", entry.name), False))
        return found

    def _folders(self) -> list[tuple[Leak, bool]]:
        found = []
        with contextlib.suppress(OSError):
            for entry in self._folder.iterdir():
                if entry.name not in OWN_FILES:
                    kind = "sockets" if entry.is_socket() else "folders"
                    found.append((Leak(kind, str(entry)), False))
        return found

    def _mounts(self) -> list[tuple[Leak, bool]]:
        """Sandboxes mount in their own namespaces; nothing of them is seen from here."""
        inside = f"{self._folder}/"
        with contextlib.suppress(OSError):
            lines = Path("/proc/self/mountinfo").read_text().splitlines()
            points = [line.split(" ")[4] for line in lines]
            return [(Leak("mounts", point), False) for point in points if point.startswith(inside)]
        return []

    # ---- removing ----

    def _remove(self, leak: Leak) -> None:
        if leak.kind == "cgroups" and self._hierarchy is not None:
            group = Cgroup(self._hierarchy, self._pool, leak.what)
            group.kill()
            group.remove()
        elif leak.kind == "uids":
            _kill_sandboxed(int(leak.what))
        elif leak.kind in ("folders", "sockets"):
            path = Path(leak.what)
            with contextlib.suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


def standing_pid_namespaces() -> set[int]:
    """Of all walls on this machine, whatever their pool: those that the children of their outer process are in."""
    outer = wall_marks()
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and parent_of(int(entry.name)) in outer:
            with contextlib.suppress(OSError):
                found.add((entry / "ns/pid").stat().st_ino)
    return found - {Path("/proc/self/ns/pid").stat().st_ino}


def _kill_sandboxed(pid: int) -> None:
    """Unless the number has become a process's of the host."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if FIRST_HOST_ID <= Path(f"/proc/{pid}").stat().st_uid < LAST_HOST_ID:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(pidfd)
