"""Trying things that cannot be undone, in processes and namespaces that end with the try. Standard library only.

Run as a script; prints one JSON object: what was tried -> what went wrong, empty if it worked.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import struct
import sys
import tempfile
from collections.abc import Callable

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF0000, 0x00050000
BPF_LOAD_WORD, BPF_JUMP_EQUAL, BPF_RETURN = 0x20, 0x15, 0x06
GETPPID = {"x86_64": 110, "aarch64": 173}
OPEN_TREE, MOUNT_SETATTR = 428, 442
AT_FDCWD, AT_EMPTY_PATH, OPEN_TREE_CLONE, MOUNT_ATTR_IDMAP = -100, 0x1000, 1, 0x00100000
#: What sandboxes see of the host.
LENT = "/usr"

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def seccomp() -> None:
    """Load a filter that refuses getppid, which libc does not answer by itself, and see it refused."""
    number = GETPPID.get(platform.machine())
    if number is None:
        raise OSError(0, f"no system call numbers for {platform.machine()}")
    program = [
        (BPF_LOAD_WORD, 0, 0, 0),  # the number of the call
        (BPF_JUMP_EQUAL, 0, 1, number),
        (BPF_RETURN, 0, 0, SECCOMP_RET_ERRNO | 99),
        (BPF_RETURN, 0, 0, SECCOMP_RET_ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header), "prctl(PR_SET_SECCOMP)")
    if libc.syscall(number) != -1 or ctypes.get_errno() != 99:
        raise OSError(0, "a filter was loaded and did nothing")


def _mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    check(libc.mount(*arguments), f"mount of {kind or 'nothing'}")


def _own_mounts() -> str:
    """A mount namespace of our own, and a folder in memory that exists only there."""
    check(libc.unshare(CLONE_NEWNS), "unshare of mounts")
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    folder = tempfile.gettempdir()
    _mount("raybox-probe", folder, "tmpfs")
    return folder


def overlay() -> None:
    folder = _own_mounts()
    lower, upper, work, merged = (f"{folder}/{name}" for name in ("lower", "upper", "work", "merged"))
    for path in (lower, upper, work, merged):
        os.mkdir(path)
    with open(f"{lower}/file", "w") as file:
        file.write("below")
    _mount("raybox-probe", merged, "overlay", 0, f"lowerdir={lower},upperdir={upper},workdir={work}")
    with open(f"{merged}/file", "a") as file:
        file.write(", above")
    with open(f"{lower}/file") as below, open(f"{upper}/file") as above:
        if (below.read(), above.read()) != ("below", "below, above"):
            raise OSError(0, "layers do not behave as layers")


def idmap() -> None:
    """Lend a folder of the host to other ids, by a mount that nobody sees."""
    told, tell = os.pipe()
    done, release = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(release)
        code = libc.unshare(CLONE_NEWUSER)
        os.write(tell, b"x")
        os.read(done, 1)
        os._exit(1 if code else 0)
    try:
        os.close(done)
        os.read(told, 1)
        for kind in ("uid_map", "gid_map"):
            with open(f"/proc/{child}/{kind}", "w") as file:
                file.write("0 1048576 65536\n")
        namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        tree = check(libc.syscall(OPEN_TREE, AT_FDCWD, LENT.encode(), OPEN_TREE_CLONE | os.O_CLOEXEC), "open_tree")
        attributes = ctypes.create_string_buffer(struct.pack("=QQQQ", MOUNT_ATTR_IDMAP, 0, 0, namespace), 32)
        check(libc.syscall(MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, attributes, 32), "mount_setattr")
    finally:
        os.close(release)
        os.waitpid(child, 0)


def attempt(action: Callable[[], None]) -> str:
    """Run it in a process of its own; what went wrong."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            action()
        except BaseException as error:
            os.write(write, (getattr(error, "strerror", None) or repr(error)).encode()[:300] or b"failed")
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        failure = said.read().decode(errors="replace")
    status = os.waitpid(child, 0)[1]
    return failure or (f"ended with {status}" if status else "")


if __name__ == "__main__":
    json.dump({tried.__name__: attempt(tried) for tried in (seccomp, overlay, idmap)}, sys.stdout)
