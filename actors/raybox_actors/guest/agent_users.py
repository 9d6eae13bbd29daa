"""Who asks: users of the sandbox, their paths, and system calls made with their rights.

The agent is root of the sandbox. What it does with files for somebody else it does with that user's ids on the file
system (setfsuid), which takes away root's capabilities over files as well; signals and tracing still see root.
"""

from __future__ import annotations

import ctypes
import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agent_wire import Failure
from walls import libc

PASSWD, GROUP = "/etc/passwd", "/etc/group"
#: Of these files; they are root's, who may write anything into them.
MAX_TABLE_BYTES = 1 << 20

SYS_OPENAT2, RESOLVE_NO_MAGICLINKS, AT_FDCWD = 437, 0x02, -100


@dataclass(frozen=True)
class User:
    name: str
    uid: int
    gid: int
    home: str
    shell: str = "/bin/bash"
    groups: tuple[int, ...] = ()


class Tables:
    """The users and groups there are, read again when the files change."""

    def __init__(self) -> None:
        self.stamp: object = None
        self.users: dict[str, User] = {}
        self.user_names: dict[int, str] = {}
        self.group_names: dict[int, str] = {}

    def refresh(self) -> None:
        stamp = tuple((s.st_mtime_ns, s.st_ino, s.st_size) if (s := _stat(path)) else None for path in (PASSWD, GROUP))
        if stamp == self.stamp:
            return
        self.stamp = stamp
        rows = [row for row in _rows(GROUP) if len(row) >= 4 and row[2].isdigit()]
        self.group_names = {int(row[2]): row[0] for row in reversed(rows)}
        members: dict[str, list[int]] = {}
        for row in rows:
            for name in filter(None, row[3].split(",")):
                members.setdefault(name, []).append(int(row[2]))
        self.users, self.user_names = {}, {}
        for row in _rows(PASSWD):
            if len(row) >= 7 and row[2].isdigit() and row[3].isdigit():
                groups = tuple(sorted({int(row[3]), *members.get(row[0], ())}))
                user = User(row[0], int(row[2]), int(row[3]), row[5] or "/", row[6] or "/bin/sh", groups)
                self.users.setdefault(user.name, user)
                self.user_names.setdefault(user.uid, user.name)


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _rows(path: str) -> list[list[str]]:
    try:
        with open(path, "rb") as file:
            return [line.split(":") for line in file.read(MAX_TABLE_BYTES).decode(errors="replace").splitlines()]
    except OSError:
        return []


TABLES = Tables()


def find_user(name: object) -> User:
    """Raises Failure `unauthenticated`."""
    TABLES.refresh()
    user = TABLES.users.get(name) if isinstance(name, str) else None
    if user is None:
        raise Failure("unauthenticated", f"invalid username: '{str(name)[:100]}'")
    return user


def resolve(path: object, user: User) -> str:
    """The absolute path that is meant (contract 4.3). Raises Failure for what cannot be a path."""
    if not isinstance(path, str) or "\0" in path or len(path) > 4096:
        raise Failure("invalid_argument", "a path is text without null characters, of at most 4096 characters")
    if path == "~" or path.startswith("~/"):
        path = user.home + path[1:]
    return "/" + posixpath.normpath(posixpath.join(user.home, path)).lstrip("/")


@contextmanager
def acting_as(user: User) -> Iterator[None]:
    """File system calls within have the user's rights. Never to be held over an `await`."""
    if user.uid == 0:
        yield
        return
    os.setgroups(user.groups)
    libc.setfsgid(user.gid)
    libc.setfsuid(user.uid)
    try:
        yield
    finally:
        libc.setfsuid(0)
        libc.setfsgid(0)
        os.setgroups([])


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_at(path: str, flags: int, mode: int = 0, dir_fd: int = AT_FDCWD) -> int:
    """os.open that refuses (ELOOP) to go through links of /proc to files, folders and roots of processes.

    /proc/self is the agent here, and a process may have mounted something that never answers.
    """
    how = _How(flags | os.O_CLOEXEC, mode, RESOLVE_NO_MAGICLINKS)
    while True:
        fd: int = libc.syscall(SYS_OPENAT2, dir_fd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return fd
        error = ctypes.get_errno()
        if error != 4:  # EINTR
            raise OSError(error, os.strerror(error), path)
