"""Making the root of a sandbox a machine of its own, from inside its mount namespace and before privileges are gone.

The host's folders become read-only lower layers whose files belong to the sandbox's root (idmapped mounts, Linux 5.12;
as overlay layers 5.19), below a writable layer in the sandbox's own memory file system, which is its quota. Runs in the
first process that enters, once per sandbox: stdlib only.
"""

from __future__ import annotations

import contextlib
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
MS_BIND = 4096
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
    """`prepare` still outside of the mount namespace, `furnish` inside. Every system call here delays a first result.

    plan: `size_bytes`, `inodes` of all that is written; `shm_inodes` of /dev/shm; `layers`: [folder of the host, folder
    inside] to be made writable; `folders`: [path, mode, id inside] in order; `links`: links in the root; `masked`:
    files of /proc to be emptied; `boot_id`: the machine's identity, as /proc shows it. A layer that cannot be made
    leaves the folder read-only, as bubblewrap has bound it; `python -I filesystem.py` tells beforehand whether this
    machine can.
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
        before = os.umask(0)
        resize("/", {"size": str(plan["size_bytes"]), "nr_inodes": str(plan["inodes"])})
        resize("/dev/shm", {"nr_inodes": str(plan["shm_inodes"])})  # noqa: S108  # the sandbox's own
        os.mkdir(LAYERS, 0o700)
        for number, (tree, target) in enumerate(self.trees):
            try:
                self.layer(tree, target, f"{LAYERS}/{number}")
            except OSError:
                continue
            finally:
                os.close(tree)
        os.chown("/", own, own)
        for path, mode, inside in plan["folders"]:
            try:
                os.mkdir(path, mode)
            except FileExistsError:
                os.chmod(path, mode)
            os.chown(path, own + inside, own + inside)
        for name in plan["links"]:
            with contextlib.suppress(FileNotFoundError):
                os.lchown(name, own, own)
        for path in plan["masked"]:
            libc.mount(b"/dev/null", path.encode(), None, MS_BIND, None)  # those that this kernel has
        if plan["boot_id"]:
            self.show_boot_id(plan["boot_id"])
        os.umask(before)

    def layer(self, tree: int, target: str, folder: str) -> None:
        upper, work = f"{folder}-upper", f"{folder}-work"
        os.mkdir(upper, 0o755)
        os.mkdir(work, 0o700)
        os.chown(upper, self.first_id, self.first_id)
        attach(overlay(f"/proc/self/fd/{tree}", upper, work), target)

    def show_boot_id(self, boot_id: str) -> None:
        path = f"{LAYERS}/boot_id"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        os.write(fd, boot_id.encode() + b"\n")
        os.close(fd)
        check_mount(libc.mount(path.encode(), b"/proc/sys/kernel/random/boot_id", None, MS_BIND, None))


def check_mount(result: int) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, f"mount: {os.strerror(error)}")


CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
PROBE_FIRST_ID = 1 << 20


def probe() -> None:
    """Make one layer as `furnish` does, in a mount namespace of our own that ends with us. Raises OSError."""
    go, mapped = os.pipe()
    told, tell = os.pipe()
    pid = os.fork()
    if not pid:
        failed = libc.unshare(CLONE_NEWUSER)
        os.write(tell, b"n" if failed else b"y")
        os.close(mapped)
        os.read(go, 1)
        os._exit(0)
    try:
        if os.read(told, 1) != b"y":
            raise OSError("no user namespaces")
        for kind in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{kind}", "w") as file:
                file.write(f"0 {PROBE_FIRST_ID} 65536\n")
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
        if libc.unshare(CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "unshare")
        check_mount(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
        tree = clone_tree("/usr", namespace)
        folder = "/tmp"  # noqa: S108  # covered by a file system of our own first
        check_mount(libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, b"mode=0755"))
        for name in ("upper", "work", "merged"):
            os.mkdir(f"{folder}/{name}")
        attach(overlay(f"/proc/self/fd/{tree}", f"{folder}/upper", f"{folder}/work"), f"{folder}/merged")
        if os.stat(f"{folder}/merged/bin").st_uid != PROBE_FIRST_ID:
            raise OSError("files of a layer do not belong to the sandbox's root")
    finally:
        os.close(mapped)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    probe()
