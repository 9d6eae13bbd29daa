"""A view of a sandbox for one process and its children alone: what they write, nobody else sees, and it ends with them.

A copy of the mounts in which every place that user code may write to is a fresh memory file system and all else is
read-only, and a fresh set of System V objects. The way to the sandbox's `sudo` is not in it. Entered by the zygote's
child while it is still the host's root: stdlib only.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from filesystem import (
    AT_FDCWD,
    LAYERS,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    SYS_MOUNT_SETATTR,
    call,
    check_mount,
    libc,
)
from walls import CLONE_NEWIPC, CLONE_NEWNS, check

MS_NOSUID, MS_NODEV = 2, 4


def take_view(plan: dict[str, Any], first_id: int) -> None:
    """plan: `size_bytes`, `inodes` of all that is written outside /dev/shm, `shm_bytes`, `shm_inodes` of what is there;
    `folders`: [path, mode, id inside] that are empty and writable, outer ones first; `read_only`: mounts.

    Raises OSError; then the process must not go on.
    """
    before = os.umask(0)
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWIPC), "unshare")
    mount_memory(LAYERS, f"size={plan['size_bytes']},nr_inodes={plan['inodes']},mode=0700")
    # The sandbox's root may have put a link there, or do so now: through one we could be led out.
    own = os.open(LAYERS, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    made: dict[str, str] = {}
    for number, (path, mode, inside) in enumerate(plan["folders"]):
        outer = next((folder for folder in made if path.startswith(f"{folder}/")), None)
        fresh = f"/proc/self/fd/{own}/{number}" if outer is None else made[outer] + path[len(outer) :]
        os.mkdir(fresh, mode)
        os.chown(fresh, first_id + inside, first_id + inside)
        if outer is None:
            check_mount(libc.mount(fresh.encode(), path.encode(), None, MS_BIND, None))
            made[path] = fresh
    mount_memory("/dev/shm", f"size={plan['shm_bytes']},nr_inodes={plan['shm_inodes']},mode=1777")  # noqa: S108  # the sandbox's own
    attributes = struct.pack("=QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
    for path in plan["read_only"]:
        call("mount_setattr", SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), 0, attributes, len(attributes))
    os.close(own)
    os.umask(before)


def mount_memory(path: str, options: str) -> None:
    check_mount(libc.mount(b"tmpfs", path.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options.encode()))
