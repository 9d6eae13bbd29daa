"""Looking at this machine for what isolating sandboxes needs, mostly by doing it once. No Ray.

capabilities.py says what the facts mean.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from raybox_actors.isolation.capabilities import CONTROLLERS, RUNTIMES, Facts, TokenFacts
from raybox_actors.network.stack import tun_failure

REMOVE_LIMIT_S: Final = 2.0
#: Of a process that is not part of any Ray.
NO_RAY: Final = TokenFacts()


def probe(run_dir: str = "/run/raybox", token: TokenFacts = NO_RAY) -> Facts:
    """Look at this machine. Takes some 100 ms: starts bubblewrap, and a child that tries things in its own namespaces;
    makes cgroups and removes them. Leaves everything as it was, but for controllers that it enables on cgroup v2.

    token: what is known of the Ray that this process is part of.
    """
    bwrap = _find_bwrap()
    cgroup, controllers, cgroup_failure = _probe_cgroups()
    tried = _tries()
    python = _template_python()
    return Facts(
        system=platform.system(),
        kernel=_kernel(platform.release()),
        root=os.geteuid() == 0,
        bwrap=bwrap,
        bwrap_version=_bwrap_version(bwrap) if bwrap else "",
        bwrap_failure=_try_walls(bwrap) if bwrap else "",
        user_namespaces=_user_namespaces(),
        overlay_failure=tried["overlay"],
        idmap_failure=tried["idmap"],
        seccomp_failure=tried["seccomp"],
        pidfd=hasattr(os, "pidfd_open") and _works(lambda: os.close(os.pidfd_open(os.getpid()))),
        setns_pidfd=_setns_takes_pidfd(),
        cgroup=cgroup,
        cgroup_controllers=controllers,
        cgroup_failure=cgroup_failure,
        run_dir_writable=_can_make(Path(run_dir)),
        template_python=python,
        user_network=shutil.which("slirp4netns"),
        tun_failure=tun_failure(),
        nft=shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin"),
        token=token,
        runtimes={"python": python, **_language_kernels()},
    )


def _language_kernels() -> dict[str, str | None]:
    from raybox_template.languages import find_runtimes

    found = {name: str(next(iter(one.folders), one.command[0])) for name, one in find_runtimes().items()}
    return {language: found.get(kernel) for language, kernel in RUNTIMES.items() if language != "python"}


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


def _tries() -> dict[str, str]:
    """What went wrong with each thing that only trying tells, empty where nothing did."""
    done = _run([sys.executable, "-I", "-S", str(Path(__file__).with_name("probe_child.py"))])
    try:
        said = json.loads(done.stdout) if done is not None else {}
    except ValueError:
        said = {}
    return {name: str(said.get(name, "the probe did not answer")) for name in ("seccomp", "overlay", "idmap")}


#: A limit of each controller, in the words of v1 and v2: what is written to prove that it can be.
_LIMITS = {
    1: {
        "memory": ("memory.limit_in_bytes", "1073741824"),
        "cpu": ("cpu.cfs_quota_us", "100000"),
        "pids": ("pids.max", "99"),
    },
    2: {"memory": ("memory.max", "1073741824"), "cpu": ("cpu.max", "100000 100000"), "pids": ("pids.max", "99")},
}


def _probe_cgroups() -> tuple[int, frozenset[str], str]:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        controllers = frozenset(_read(str(root / "cgroup.controllers")).split())
        return 2, controllers, _try_cgroup_v2(root) if controllers.issuperset(CONTROLLERS) else ""
    mounted = {name: path for name in CONTROLLERS if (path := _v1_mount(name)) is not None}
    present = frozenset(mounted)
    if not present:
        return 0, present, ""
    failures = (_try_limits(path, {_LIMITS[1][name]}) for name, path in mounted.items())
    return 1, present, next((failure for failure in failures if failure), "")


def _try_cgroup_v2(root: Path) -> str:
    """Limits need their controllers enabled for the children of `root`. They stay enabled: disabling them again could
    take them from a pool that is just starting."""
    control = root / "cgroup.subtree_control"
    enabled = _read(str(control)).split()
    try:
        for name in CONTROLLERS:
            if name not in enabled:
                control.write_text(f"+{name}")
        return _try_limits(root, set(_LIMITS[2].values()))
    except OSError as error:
        return f"{control}: {error.strerror}"


def _try_limits(parent: Path, limits: set[tuple[str, str]]) -> str:
    """Make a group, limit it, put a process into it, remove it; what went wrong, empty if nothing did."""
    group = parent / f"raybox-probe-{os.getpid()}-{secrets.token_hex(4)}"
    failure = ""
    child = None
    try:
        group.mkdir()
        for name, value in limits:
            (group / name).write_text(value)
        child = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        (group / "cgroup.procs").write_text(str(child.pid))
    except OSError as error:
        failure = f"{error.filename or group}: {error.strerror}"
    if child is not None:
        child.communicate()
    deadline = time.monotonic() + REMOVE_LIMIT_S  # a group is busy until its last process is gone from it
    while group.exists():
        try:
            group.rmdir()
        except OSError as error:
            if time.monotonic() > deadline:
                return failure or f"{group} cannot be removed: {error.strerror}"
            time.sleep(0.002)
    return failure


def _v1_mount(controller: str) -> Path | None:
    """Where this v1 controller is mounted, None if it is not."""
    for line in _read("/proc/self/mounts").splitlines():
        _, where, kind, options, *_ = line.split(" ")
        if kind == "cgroup" and controller in options.split(",") and _writable_mount(where):
            return Path(where)
    return None


def _writable_mount(folder: str) -> bool:
    try:
        return not os.statvfs(folder).f_flag & os.ST_RDONLY
    except OSError:  # something else was mounted over it
        return False


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


def token_of_ray(required: bool | None = None, environment: Mapping[str, str] = os.environ) -> TokenFacts:
    """How the token is kept of the Ray that this process is, or is about to be, part of.

    required: whether Ray was seen to refuse callers without one; None: believe the environment, which a worker has from
    the node's Ray.
    """
    used = environment.get("RAY_AUTH_MODE", "").lower() == "token"
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        mode = path.stat().st_mode & 0o7777
    except OSError:
        mode = None
    return TokenFacts(
        inside_ray=True,
        used=used,
        required=used if required is None else required,
        in_environment=bool(environment.get("RAY_AUTH_TOKEN")),
        path=str(path) if mode is not None else None,
        mode=mode,
    )
