"""Every limit and mount of a sandbox, with units and defaults, as plain data.

The numbers are what the walls enforce today; memory, cpu and process limits by cgroup are not among them yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class WallsPolicy:
    """What one sandbox may see and use."""

    home_mib: int = 1024  #: /home/user, in memory
    tmp_mib: int = 512  #: /tmp and /var/tmp, in memory
    shm_mib: int = 256  #: /dev/shm
    hostname: str = "sandbox"
    mark: str = ""  #: of the pool and slot, on the command line of the walls' process; how orphans are told apart
    read_only: tuple[str, ...] = ()  #: the template's folders, at their own paths
    rlimits: dict[str, int] = field(default_factory=lambda: {"RLIMIT_NOFILE": 65_536})
    nice_above_actor: int = 5  #: kernels give way to the actor that holds them, whatever Ray set for that
    oom_score_adj: int = 800  #: a kernel goes before the pool's own processes


def first_host_id(slot: int) -> int:
    """First of the slot's host ids. Slots of one node never overlap within MAX_SLOTS_PER_NODE consecutive numbers."""
    return FIRST_HOST_ID + (slot % MAX_SLOTS_PER_NODE) * IDS_PER_SANDBOX


def base_environment(python_prefix: str) -> dict[str, str]:
    """What every process of a sandbox starts with; nothing of the host's environment gets in."""
    return {
        "PATH": f"{python_prefix}/bin:{HOME}/.local/bin:/usr/local/bin:/usr/bin:/bin",
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
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        "resolv.conf": "",
    }
