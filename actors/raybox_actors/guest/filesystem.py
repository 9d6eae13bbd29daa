"""Making the root of a sandbox a machine of its own, from inside its mount namespace and before privileges are gone.

The host's folders become read-only lower layers whose files belong to the sandbox's root (idmapped mounts, Linux 5.12;
as overlay layers 5.19), below a writable layer in the sandbox's own memory file system, which is its quota. Runs in the
first process that enters, once per sandbox: stdlib only.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

#: The same numbers on every architecture.
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_FSOPEN, SYS_FSCONFIG, SYS_FSMOUNT, SYS_FSPICK, SYS_MOUNT_SETATTR = (
    428, 429, 430, 431, 432, 433, 442,
)  # fmt: skip
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
OPEN_TREE_CLONE, CLOEXEC = 1, 0o2000000
MOVE_MOUNT_F_EMPTY_PATH = 4
FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC, FSPICK_CLOEXEC = 1, 1, 1
FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE, FSCONFIG_CMD_RECONFIGURE = 1, 6, 7
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_IDMAP = 1, 2, 4, 0x00100000
MNT_DETACH = 2
#: For nobody inside: it belongs to the host's root, whom the sandbox's user namespace does not know.
LAYERS = "/.layers"

libc = ctypes.CDLL(None, use_errno=True)


def call(what: str, number: int, *arguments: Any) -> int:
    result = int(libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def clone_tree(path: str, user_namespace: int | None = None) -> int:
    """A detached copy of the mount at `path`; read-only and with ids as of `user_namespace`, if it is given."""
    tree = call("open_tree", SYS_OPEN_TREE, AT_FDCWD, path.encode(), OPEN_TREE_CLONE | CLOEXEC)
    if user_namespace is None:
        return tree
    flags = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_IDMAP
    attributes = struct.pack("=QQQQ", flags, 0, 0, user_namespace)
    try:
        call("mount_setattr", SYS_MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, attributes, len(attributes))
    except OSError:
        os.close(tree)
        raise
    return tree


def attach(tree: int, path: str) -> None:
    """Put a detached mount at `path`, and close it."""
    try:
        call("move_mount", SYS_MOVE_MOUNT, tree, b"", AT_FDCWD, path.encode(), MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)


def resize(path: str, options: dict[str, str]) -> None:
    """Give a memory file system that is mounted its bounds."""
    context = call("fspick", SYS_FSPICK, AT_FDCWD, path.encode(), FSPICK_CLOEXEC)
    try:
        for name, value in options.items():
            call(name, SYS_FSCONFIG, context, FSCONFIG_SET_STRING, name.encode(), value.encode(), 0)
        call("reconfigure", SYS_FSCONFIG, context, FSCONFIG_CMD_RECONFIGURE, None, None, 0)
    finally:
        os.close(context)


def overlay(lower: str, upper: str, work: str) -> int:
    """A detached overlay."""
    context = call("fsopen", SYS_FSOPEN, b"overlay", FSOPEN_CLOEXEC)
    try:
        for name, value in (("lowerdir", lower), ("upperdir", upper), ("workdir", work)):
            call(name, SYS_FSCONFIG, context, FSCONFIG_SET_STRING, name.encode(), value.encode(), 0)
        call("overlay", SYS_FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
        flags = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
        return call("fsmount", SYS_FSMOUNT, context, FSMOUNT_CLOEXEC, flags)
    finally:
        os.close(context)


class Root:
    """`prepare` still outside of the mount namespace, `furnish` inside.

    plan: `size_bytes`, `inodes` of all that is written; `shm_inodes` of /dev/shm; `layers`: [folder of the host, folder
    inside] to be made writable; `folders`: [path, mode, id inside] in order; `masked`: files of /proc to be emptied;
    `links`: links in the root; `boot_id`: the machine's identity, as /proc shows it. A layer that cannot be made leaves
    the folder read-only, as bubblewrap has bound it; `can_layer` tells beforehand whether this machine can.
    """

    def __init__(self, plan: dict[str, Any], first_id: int) -> None:
        self.plan, self.first_id = plan, first_id
        self.trees: list[tuple[int, str]] = []

    def prepare(self, user_namespace: int) -> None:
        for source, target in self.plan["layers"]:
            try:
                self.trees.append((clone_tree(source, user_namespace), target))
            except OSError:  # it stays read-only
                continue

    def furnish(self) -> None:
        plan, own = self.plan, self.first_id
        resize("/", {"size": str(plan["size_bytes"]), "nr_inodes": str(plan["inodes"])})
        resize("/dev/shm", {"nr_inodes": str(plan["shm_inodes"])})  # noqa: S108  # the sandbox's own
        for number, (tree, target) in enumerate(self.trees):
            try:
                self.layer(tree, target, f"{LAYERS}/{number}")
            except OSError:
                continue
        os.chown("/", own, own)
        for path, mode, inside in plan["folders"]:
            try:
                os.mkdir(path)
            except FileExistsError:
                pass
            except OSError:  # below a layer that stayed read-only
                continue
            if not os.path.ismount(path):
                os.chown(path, own + inside, own + inside)
                os.chmod(path, mode)
        for name in plan["links"]:
            if os.path.islink(name):
                os.lchown(name, own, own)
        for path in plan["masked"]:
            if os.path.exists(path):
                attach(clone_tree("/dev/null"), path)
        if plan["boot_id"]:
            self.show_boot_id(plan["boot_id"])

    def layer(self, tree: int, target: str, folder: str) -> None:
        lower, upper, work = (f"{folder}/{name}" for name in ("lower", "upper", "work"))
        for name in (LAYERS, folder, lower):
            os.makedirs(name, mode=0o700, exist_ok=True)
        os.mkdir(upper, 0o755)
        os.mkdir(work, 0o700)
        os.chown(upper, self.first_id, self.first_id)
        attach(tree, lower)
        try:
            attach(overlay(lower, upper, work), target)
        finally:
            # The overlay has its own copy of the mount; nothing can be reached by this one.
            if libc.umount2(lower.encode(), MNT_DETACH):
                raise OSError(ctypes.get_errno(), "umount2")
            os.rmdir(lower)

    def show_boot_id(self, boot_id: str) -> None:
        os.makedirs(LAYERS, mode=0o700, exist_ok=True)
        with open(f"{LAYERS}/boot_id", "w") as file:
            file.write(boot_id + "\n")
        os.chmod(f"{LAYERS}/boot_id", 0o444)
        attach(clone_tree(f"{LAYERS}/boot_id"), "/proc/sys/kernel/random/boot_id")
