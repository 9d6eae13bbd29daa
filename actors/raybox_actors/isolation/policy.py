"""Every limit and mount of a sandbox, with units and defaults, as plain data, and who may change which.

`effective` decides what one sandbox gets: the pool's numbers are the most that anybody gets, a template's are its
defaults, and a creator may ask for less or more within the pool's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from raybox_actors.errors import BadRequest, LimitReached

#: uid and gid that user code has inside.
USER_ID = 1000
USER_NAME = "user"
HOME = "/home/user"
#: Host ids of sandboxes start here; slot n has 65,536 of them from FIRST_HOST_ID + n * 65,536 on.
FIRST_HOST_ID = 1 << 20
IDS_PER_SANDBOX = 65_536
#: More slots than host ids allow would share ranges; 32 bits of ids are enough for this many.
MAX_SLOTS_PER_NODE = 60_000

#: Of the host, read-only; absent ones are skipped. Links among them (/bin -> usr/bin) are made as links.
SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32")
SYSTEM_FILES = (
    "/etc/R",
    "/etc/alternatives",
    "/etc/fonts",
    "/etc/java-17-openjdk",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
)


#: Of /proc, emptied: what it says of the host helps nobody inside. What needs a capability of the host is not listed.
MASKED = (
    "/proc/cmdline",
    "/proc/diskstats",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/modules",
    "/proc/partitions",
    "/proc/sched_debug",
    "/proc/softirqs",
    "/proc/timer_list",
)
#: Folders of a machine that the host does not lend, in order: path, mode, owner's id inside.
FOLDERS = (
    ("/home", 0o755, 0),
    (HOME, 0o755, USER_ID),
    ("/media", 0o755, 0),
    ("/mnt", 0o755, 0),
    ("/opt", 0o755, 0),
    ("/root", 0o700, 0),
    ("/run", 0o755, 0),
    ("/run/lock", 0o1777, 0),
    ("/srv", 0o755, 0),
    ("/tmp", 0o1777, 0),  # noqa: S108  # the sandbox's own
    ("/var", 0o755, 0),
    ("/var/cache", 0o755, 0),
    ("/var/lib", 0o755, 0),
    ("/var/log", 0o755, 0),
    ("/var/tmp", 0o1777, 0),  # noqa: S108
)

#: Folder of the sandboxes' own /etc, by the pool's `network`: one of another kind is not to be taken for ours.
SKELETONS = {"none": "etc", "egress": "etc-egress"}


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one sandbox may use. All of them are positive.

    The cgroup bounds memory_mib + disk_mib together, because files are in memory too: a sandbox without files has
    disk_mib more for its processes.
    """

    cpus: float = 1.0  #: cores, as a quota of time
    memory_mib: int = 1024  #: of its processes; no swap
    disk_mib: int = 1024  #: of all files outside /dev/shm; also the longest single file
    inodes: int = 262_144  #: files and folders
    shm_mib: int = 256  #: /dev/shm
    shm_inodes: int = 16_384
    pids_max: int = 512  #: processes and threads
    open_files: int = 65_536  #: of each process
    core_bytes: int = 0  #: core dumps

    @property
    def memory_bytes(self) -> int:
        """What the memory cgroup is set to."""
        return (self.memory_mib + self.disk_mib) << 20

    @property
    def cpu_count(self) -> int:
        """Whole cores, as the protocol tells and quotas count them."""
        return max(1, math.ceil(self.cpus))

    def rlimits(self) -> dict[str, int]:
        """No RLIMIT_AS: numpy and Java reserve far more addresses than they use."""
        return {
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_FSIZE": self.disk_mib << 20,
            "RLIMIT_CORE": self.core_bytes,
        }


#: What a template and the creator of a sandbox may say, and the least that a sandbox can do something with.
ADJUSTABLE: dict[str, float] = {"cpus": 0.05, "memory_mib": 64, "disk_mib": 16, "pids_max": 16}


def effective(
    pool: Limits, template: Mapping[str, Any] | None = None, asked: Mapping[str, Any] | None = None
) -> Limits:
    """The limits of one sandbox. Pure.

    template: defaults for what the creator does not say, cut to the pool's. asked: the creator's own wishes; raises
    BadRequest for one that is unknown, no number or too little, LimitReached for one over the pool's.
    """
    chosen: dict[str, Any] = {}
    for name, value in (template or {}).items():
        if name in ADJUSTABLE:
            chosen[name] = min(value, getattr(pool, name))
    for name, value in (asked or {}).items():
        if name not in ADJUSTABLE:
            raise BadRequest(f"unknown resource {name!r}; known: {', '.join(ADJUSTABLE)}")
        kinds = (int, float) if name == "cpus" else (int,)
        if isinstance(value, bool) or not isinstance(value, kinds) or not ADJUSTABLE[name] <= value < 2**40:
            what = "number" if name == "cpus" else "whole number"
            raise BadRequest(f"{name} must be a {what} from {ADJUSTABLE[name]:g} on, not {value!r}")
        if value > getattr(pool, name):
            raise LimitReached(f"{name} is {value}; this pool gives {getattr(pool, name)} at most")
        chosen[name] = value
    return dataclasses.replace(pool, **chosen)


@dataclass(frozen=True, slots=True)
class WallsPolicy:
    """What one sandbox may see and use."""

    limits: Limits = field(default_factory=Limits)
    hostname: str = "sandbox"
    nameserver: str = ""  #: address that /etc/resolv.conf names; empty: names of /etc/hosts only
    mark: str = ""  #: of the pool and slot, on the command line of the walls' process; how orphans are told apart
    read_only: tuple[str, ...] = ()  #: the template's folders, at their own paths
    layers: tuple[tuple[str, str], ...] = ()  #: folder of the host, path inside: writable there for the sandbox's root
    boot_id: str = ""  #: what the sandbox sees as the machine's; empty: the host's
    nice_above_actor: int = 5  #: kernels give way to the actor that holds them, whatever Ray set for that
    oom_score_adj: int = 800  #: a kernel goes before the pool's own processes


def layers_of(skeleton: str, read_only: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """What becomes writable where the kernel can stack layers: system folders, /etc, the template's environment.

    read_only: the environment comes first; the interpreter that it was made from stays read-only.
    """
    own = [(name, name) for name in read_only[:1] if not name.startswith("/usr/")]
    return (("/usr", "/usr"), (skeleton, "/etc"), *own)


def root_plan(policy: WallsPolicy) -> dict[str, Any]:
    """What guest/filesystem.py is asked to make, as JSON values."""
    limits = policy.limits
    above = {str(parent): None for name in policy.read_only for parent in reversed(PurePosixPath(name).parents[:-1])}
    known = {path for path, _, _ in FOLDERS} | {"/usr"}
    return {
        "size_bytes": limits.disk_mib << 20,
        "inodes": limits.inodes,
        "shm_inodes": limits.shm_inodes,
        "layers": [list(layer) for layer in policy.layers],
        # Folders in which a template lies are the sandbox root's, too, as far as they are not the host's.
        "folders": [
            *((path, mode | 0o011 if path in above else mode, owner) for path, mode, owner in FOLDERS),
            *((path, 0o755, 0) for path in above if path not in known),
        ],
        "links": [name for name in SYSTEM_FOLDERS if PurePosixPath(name).name != "usr"],
        "masked": list(MASKED),
        "boot_id": policy.boot_id,
    }


#: Of FOLDERS, what an item of a batch has for itself: all that `user` may write to, and /run with the way to `sudo`.
VIEW = frozenset((HOME, "/run", "/run/lock", "/tmp", "/var/tmp"))  # noqa: S108


def view_plan(policy: WallsPolicy) -> dict[str, Any]:
    """What guest/view.py is asked to make, as JSON values."""
    limits = policy.limits
    return {
        "size_bytes": limits.disk_mib << 20,
        "inodes": limits.inodes,
        "shm_bytes": limits.shm_mib << 20,
        "shm_inodes": limits.shm_inodes,
        "folders": [list(folder) for folder in FOLDERS if folder[0] in VIEW],
        "read_only": ["/", *(target for _, target in policy.layers)],
    }


def first_host_id(slot: int) -> int:
    """First of the slot's host ids. Slots of one node never overlap within MAX_SLOTS_PER_NODE consecutive numbers."""
    return FIRST_HOST_ID + (slot % MAX_SLOTS_PER_NODE) * IDS_PER_SANDBOX


def host_slot(node_id: str, slot: int) -> int:
    """The slot's number on its machine, for host ids, cgroups and marks. Several Ray nodes may share a machine, so each
    begins at a number of its own. node_id: at least twelve hex digits."""
    return (int(node_id[:12], 16) + slot) % MAX_SLOTS_PER_NODE


def base_environment(python_prefix: str) -> dict[str, str]:
    """What every process of a sandbox starts with; nothing of the host's environment gets in."""
    return {
        "PATH": f"{python_prefix}/bin:{HOME}/.local/bin:/usr/local/bin:/usr/bin:/bin:/etc/raybox/bin",
        "HOME": HOME,
        "USER": USER_NAME,
        "LOGNAME": USER_NAME,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "TERM": "xterm-color",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONDONTWRITEBYTECODE": "1",
        "VIRTUAL_ENV": python_prefix,
    }


def etc_files(policy: WallsPolicy) -> dict[str, str]:
    """Files of /etc that are the sandbox's own."""
    return {
        "passwd": (
            f"root:x:0:0:root:/root:/bin/bash\n{USER_NAME}:x:{USER_ID}:{USER_ID}::{HOME}:/bin/bash\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        ),
        "group": f"root:x:0:\n{USER_NAME}:x:{USER_ID}:\nnogroup:x:65534:\n",
        "hosts": f"127.0.0.1 localhost {policy.hostname}\n::1 localhost\n",
        "hostname": f"{policy.hostname}\n",
        "nsswitch.conf": f"passwd: files\ngroup: files\nhosts: files{' dns' if policy.nameserver else ''}\n",
        "resolv.conf": f"nameserver {policy.nameserver}\n" if policy.nameserver else "",
    }
