"""A sandbox's cgroup: limits of memory, CPU and processes, what it uses, and the end of all that is in it. No Ray.

Groups lie at `<mount>/raybox/<pool>/<slot>-<epoch>-<pid of the actor>` in every hierarchy that is needed, outside Ray's
own tree. Version 2 is used where it has the controllers, else version 1. A process joins by writing "0" to a
descriptor that it is handed (`Cgroup.joins`), before it enters the walls; on version 1 that is `tasks`, which for one
thread that moves itself needs no lock of the whole machine.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

from raybox_actors.isolation.policy import Limits

CONTROLLERS = ("memory", "cpu", "pids")
TOP = "raybox"
CPU_PERIOD_US = 100_000
#: Rounds of killing; one is enough where nothing can fork any more.
KILL_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """memory_bytes: of processes and of files in memory together, without swap. cpus: cores, fractions allowed."""

    memory_bytes: int
    cpus: float
    pids_max: int


def cgroup_limits(limits: Limits) -> CgroupLimits:
    """What a sandbox of these limits gets. Pure."""
    return CgroupLimits(limits.memory_bytes, limits.cpus, limits.pids_max)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where groups are made: controller -> mount point; all the same one in version 2."""

    version: int
    mounts: dict[str, Path] = field(hash=False)

    @property
    def roots(self) -> tuple[Path, ...]:
        """Each mount once, in the order of the controllers."""
        return tuple(dict.fromkeys(self.mounts.values()))


@dataclass(frozen=True, slots=True)
class CgroupUsage:
    """cpu_s: since the group was made. memory_bytes: all that is charged; cache_bytes: of it, files."""

    cpu_s: float
    memory_bytes: int
    cache_bytes: int
    processes: int


def find_hierarchy(mounts: str, controllers_of_v2: str) -> Hierarchy | None:
    """From the text of /proc/self/mounts and the v2 root's cgroup.controllers. None without all controllers. Pure."""
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in mounts.splitlines():
        _, where, kind, options, *_ = line.split(" ")
        words = options.split(",")
        if "ro" in words:
            continue
        if kind == "cgroup2":
            v2 = Path(where)
        elif kind == "cgroup":
            for name in (*CONTROLLERS, "cpuacct"):
                if name in words:
                    v1.setdefault(name, Path(where))
    if v2 is not None and set(CONTROLLERS) <= set(controllers_of_v2.split()):
        return Hierarchy(2, dict.fromkeys(CONTROLLERS, v2))
    if set(CONTROLLERS) <= v1.keys():
        return Hierarchy(1, v1)
    return None


def limit_files(version: int, limits: CgroupLimits) -> dict[str, list[tuple[str, str]]]:
    """Controller -> file and text, in the order of writing. Pure."""
    quota_us = max(1000, round(limits.cpus * CPU_PERIOD_US))
    weight = weight_file(version, limits.cpus)
    if version == 2:
        return {
            "memory": [("memory.max", str(limits.memory_bytes)), ("memory.swap.max", "0"), ("memory.oom.group", "0")],
            "cpu": [("cpu.max", f"{quota_us} {CPU_PERIOD_US}"), weight],
            "pids": [("pids.max", str(limits.pids_max))],
        }
    memory = str(limits.memory_bytes)
    return {
        "memory": [("memory.limit_in_bytes", memory), ("memory.memsw.limit_in_bytes", memory)],
        "cpu": [("cpu.cfs_period_us", str(CPU_PERIOD_US)), ("cpu.cfs_quota_us", str(quota_us)), weight],
        "pids": [("pids.max", str(limits.pids_max))],
    }


def weight_file(version: int, cpus: float) -> tuple[str, str]:
    """File and text that make a group count as much as `cpus` busy processes beside it. Pure."""
    if version == 2:
        return "cpu.weight", str(min(10_000, max(1, round(100 * cpus))))
    return "cpu.shares", str(min(262_144, max(2, round(1024 * cpus))))


#: Absent where the kernel accounts no swap.
OPTIONAL = ("memory.memsw.limit_in_bytes", "memory.swap.max", "memory.oom.group")


def counter(text: str, key: str) -> int:
    """`key` in a file of lines `name number`; 0 if it is not there. Pure."""
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if name == key and number.strip().isdigit():
            return int(number)
    return 0


def this_machine() -> Hierarchy | None:
    """What groups can be made in here; None where limits cannot be set. Makes `raybox` in each hierarchy."""
    hierarchy = find_hierarchy(_read(Path("/proc/self/mounts")), _read(Path("/sys/fs/cgroup/cgroup.controllers")))
    if hierarchy is None:
        return None
    try:
        for root in hierarchy.roots:
            _make(hierarchy, root / TOP)
        _share(hierarchy, TOP)
    except OSError:
        return None
    return hierarchy


def _make(hierarchy: Hierarchy, folder: Path) -> None:
    """A group and those above it, with the controllers handed down to it."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
    if hierarchy.version == 2:
        root = hierarchy.roots[0]
        for parent in [*reversed(folder.parents), folder]:
            if parent.is_relative_to(root) and parent != folder:
                wanted = " ".join(f"+{name}" for name in CONTROLLERS)
                if not set(CONTROLLERS) <= set(_read(parent / "cgroup.subtree_control").split()):
                    (parent / "cgroup.subtree_control").write_text(wanted)


def _share(hierarchy: Hierarchy, name: str) -> None:
    """Let all sandboxes below `name` together count as one busy process on each core, not as one on all of them."""
    file, text = weight_file(hierarchy.version, os.cpu_count() or 1)
    _write(hierarchy.mounts["cpu"] / name / file, text, optional=True)


class Cgroup:
    """One sandbox's groups. Made by `create_cgroup`; `remove` ends it. Every call is a few small files: no thread."""

    def __init__(self, hierarchy: Hierarchy, pool: str, name: str) -> None:
        self.hierarchy, self.pool, self.name = hierarchy, pool, name
        self.folders = {key: mount / TOP / pool / name for key, mount in hierarchy.mounts.items()}
        #: Whoever writes "0" to each of them is inside.
        self.joins: list[int] = []

    def _distinct(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(self.folders.values()))

    def apply(self, limits: CgroupLimits) -> None:
        """Set the limits, also of a group in use. Raises OSError."""
        for controller, files in limit_files(self.hierarchy.version, limits).items():
            for file, text in files:
                _write(self.folders[controller] / file, text, file in OPTIONAL)

    def oom_kills(self) -> int:
        """How many processes the kernel has killed here for want of memory."""
        file = "memory.events" if self.hierarchy.version == 2 else "memory.oom_control"
        return counter(_read(self.folders["memory"] / file), "oom_kill")

    def usage(self) -> CgroupUsage:
        """Zeros for what cannot be read any more."""
        memory, pids = self.folders["memory"], self.folders["pids"]
        stat = _read(memory / "memory.stat")
        if self.hierarchy.version == 2:
            cpu_s = counter(_read(memory / "cpu.stat"), "usage_usec") / 1e6
            used, cache = _number(memory / "memory.current"), counter(stat, "file")
        else:
            cpu_s = _number(self.folders.get("cpuacct", memory) / "cpuacct.usage") / 1e9
            used, cache = _number(memory / "memory.usage_in_bytes"), counter(stat, "cache")
        return CgroupUsage(cpu_s, used, cache, _number(pids / "pids.current"))

    def processes(self) -> list[int]:
        return [int(word) for word in _read(self.folders["memory"] / "cgroup.procs").split()]

    def kill(self) -> int:
        """SIGKILL to whatever is inside; returns how many there were. The net below the pid namespace's own end."""
        found = self.processes()
        if not found:
            return 0
        with contextlib.suppress(OSError):
            if self.hierarchy.version == 2:
                (self.folders["memory"] / "cgroup.kill").write_text("1")
                return len(found)
        # Version 1 has no such file: where nothing can fork, killing one after the other comes to an end.
        with contextlib.suppress(OSError):
            (self.folders["pids"] / "pids.max").write_text("0")
        left = found
        for _ in range(KILL_ROUNDS):
            for pid in left:
                self._kill(pid)
            if not (left := self.processes()):
                break
        return len(found)

    def _kill(self, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return
        try:
            if pid in self.processes():  # and not somebody else's, under the same number
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)

    def remove(self) -> bool:
        """Away with the groups; false while something is inside. Idempotent."""
        while self.joins:
            os.close(self.joins.pop())
        left = [folder for folder in self._distinct() if not _remove(folder)]
        return not left


def create_cgroup(hierarchy: Hierarchy, pool: str, name: str, limits: CgroupLimits) -> Cgroup:
    """Make the groups and set their limits, in 0.3 ms. Raises OSError; then nothing is left."""
    group = Cgroup(hierarchy, pool, name)
    try:
        first = not group.folders["cpu"].parent.is_dir()
        for folder in group._distinct():
            _make(hierarchy, folder)
        if first:
            _share(hierarchy, f"{TOP}/{pool}")
        group.apply(limits)
        entrance = "cgroup.procs" if hierarchy.version == 2 else "tasks"
        for folder in group._distinct():
            group.joins.append(os.open(folder / entrance, os.O_WRONLY | os.O_CLOEXEC))
    except BaseException:
        group.remove()
        raise
    return group


def existing(hierarchy: Hierarchy, pool: str) -> list[Cgroup]:
    """Every group of the pool on this machine, whoever made it."""
    names = set()
    for root in hierarchy.roots:
        with contextlib.suppress(OSError):
            names |= {entry.name for entry in (root / TOP / pool).iterdir() if entry.is_dir()}
    return [Cgroup(hierarchy, pool, name) for name in sorted(names)]


def owner_of(name: str) -> int:
    """The pid of the actor that made the group of this name; 0 if the name says none. Pure."""
    last = name.rpartition("-")[2]
    return int(last) if last.isdigit() else 0


def remove_pool(hierarchy: Hierarchy, pool: str) -> bool:
    """Away with the pool's own folders; false while there is something in them. Idempotent."""
    left = [root for root in hierarchy.roots if not _remove(root / TOP / pool)]
    return not left


def _remove(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _write(file: Path, text: str, optional: bool) -> None:
    try:
        fd = os.open(file, os.O_WRONLY)
    except FileNotFoundError:
        if optional:
            return
        raise
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _number(file: Path) -> int:
    text = _read(file).strip()
    return int(text) if text.isdigit() else 0
