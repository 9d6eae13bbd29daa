"""Removing and moving, whole trees included (contract 4.6). By handles of folders, with the rights of who asks: what
somebody exchanges meanwhile is never followed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import Iterator
from typing import Any

from agent_files import ATTEMPTS, FOLDER, MAX_DEPTH, PATH_ONLY, STEPS_PER_TURN, entry, names_in, open_folder
from agent_users import User, acting_as, open_at, resolve
from agent_wire import OK, Connection, Failure, failure_of

COPY_BYTES = 1 << 20
#: Folders inside each other, of a tree that is moved to another file system.
MAX_COPY_DEPTH = 200


class Turns:
    """Lets others have their turn, now and then."""

    def __init__(self) -> None:
        self.steps = 0

    async def step(self) -> None:
        self.steps += 1
        if self.steps % STEPS_PER_TURN == 0:
            await asyncio.sleep(0)


async def remove(asked: dict[str, Any], user: User, connection: Connection) -> None:
    path = resolve(asked.get("path"), user)
    parent, name = posixpath.split(path)
    if not name:
        raise Failure("invalid_argument", "the root folder cannot be removed")
    try:
        with acting_as(user):
            folder = open_folder(parent)
        try:
            await remove_at(folder, name, user)
        finally:
            os.close(folder)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise failure_of(error, path) from None
    await connection.send_json(OK, {})


async def remove_at(folder: int, name: str, user: User) -> None:
    """`name` in `folder`, whatever it is. Raises OSError."""
    turns = Turns()
    if _unlink(folder, name, user):
        return
    #: Handle, parent's handle, name there, names inside that are left, how often it was not empty.
    levels: list[tuple[int, int, str, Iterator[str], int]] = []

    def enter(parent: int, name: str) -> None:
        if len(levels) >= MAX_DEPTH:
            raise Failure("failed_precondition", f"there are more than {MAX_DEPTH} folders inside each other")
        try:
            with acting_as(user):
                fd = open_at(name, os.O_RDONLY | FOLDER | os.O_NOFOLLOW, dir_fd=parent)
        except FileNotFoundError:
            return
        except PermissionError:
            with acting_as(user):  # which is enough if it is empty
                os.rmdir(name, dir_fd=parent)
            return
        levels.append((fd, parent, name, iter(names_in(fd, user)), 0))

    try:
        enter(folder, name)
        while levels:
            fd, parent, own_name, names, attempts = levels[-1]
            child = next(names, None)
            if child is not None:
                if not _unlink(fd, child, user):
                    enter(fd, child)
            else:
                try:
                    with acting_as(user), contextlib.suppress(FileNotFoundError):
                        os.rmdir(own_name, dir_fd=parent)
                except OSError as error:
                    if error.errno != errno.ENOTEMPTY or attempts >= ATTEMPTS:
                        raise
                    levels[-1] = (fd, parent, own_name, iter(names_in(fd, user)), attempts + 1)
                else:
                    os.close(levels.pop()[0])
            await turns.step()
    finally:
        for level in levels:
            os.close(level[0])


def _unlink(folder: int, name: str, user: User) -> bool:
    """False if it is a folder."""
    try:
        with acting_as(user):
            os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return True
    except IsADirectoryError:
        return False
    return True


async def move(asked: dict[str, Any], user: User, connection: Connection) -> None:
    source, destination = resolve(asked.get("path"), user), resolve(asked.get("destination"), user)
    (source_parent, name), (parent, new_name) = posixpath.split(source), posixpath.split(destination)
    if not name or not new_name:
        raise Failure("invalid_argument", "the root folder can be moved neither away nor over")
    handles: list[int] = []
    try:
        with acting_as(user):
            entry(source)
            handles.append(open_folder(source_parent))
    except OSError as error:
        raise failure_of(error, source) from None
    try:
        with acting_as(user):
            handles.append(open_folder(parent, make=True))
        try:
            with acting_as(user):
                os.rename(name, new_name, src_dir_fd=handles[0], dst_dir_fd=handles[1])
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            await _move_by_copy(handles[0], name, handles[1], new_name, user)
        with acting_as(user):
            found = entry(destination)
    except OSError as error:
        raise failure_of(error, destination if error.errno != errno.ENOENT else source) from None
    finally:
        for fd in handles:
            os.close(fd)
    await connection.send_json(OK, found)


async def _move_by_copy(source: int, name: str, target: int, new_name: str, user: User) -> None:
    """To another file system. It appears there as a whole, and then goes away here."""
    temporary = f".{new_name[:200]}.{os.urandom(6).hex()}"
    try:
        await _copy(source, name, target, temporary, user, 0, Turns())
        with acting_as(user):
            os.rename(temporary, new_name, src_dir_fd=target, dst_dir_fd=target)
    except BaseException:
        with contextlib.suppress(OSError):
            await remove_at(target, temporary, user)
        raise
    await remove_at(source, name, user)


async def _copy(source: int, name: str, target: int, new_name: str, user: User, depth: int, turns: Turns) -> None:
    with acting_as(user):
        handle = open_at(name, PATH_ONLY | os.O_NOFOLLOW, dir_fd=source)
    facts = os.fstat(handle)
    os.close(handle)
    await turns.step()
    if stat.S_ISLNK(facts.st_mode):
        with acting_as(user):
            os.symlink(os.readlink(name, dir_fd=source), new_name, dir_fd=target)
        return
    if not stat.S_ISDIR(facts.st_mode) and not stat.S_ISREG(facts.st_mode):
        raise Failure("failed_precondition", f"'{name}' is neither file nor folder: it stays on its file system")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | (FOLDER if stat.S_ISDIR(facts.st_mode) else 0)
    with acting_as(user):
        old = open_at(name, flags, dir_fd=source)
    try:
        if stat.S_ISDIR(facts.st_mode):
            if depth >= MAX_COPY_DEPTH:
                raise Failure("failed_precondition", f"there are more than {MAX_COPY_DEPTH} folders inside each other")
            with acting_as(user):
                os.mkdir(new_name, 0o700, dir_fd=target)
                new = open_at(new_name, os.O_RDONLY | FOLDER | os.O_NOFOLLOW, dir_fd=target)
            try:
                for child in names_in(old, user):
                    await _copy(old, child, new, child, user, depth + 1, turns)
                _copy_facts(old, new, user)
            finally:
                os.close(new)
        else:
            with acting_as(user):
                new = open_at(new_name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=target)
            try:
                await _copy_content(old, new, user)
                _copy_facts(old, new, user)
            finally:
                os.close(new)
    finally:
        os.close(old)


async def _copy_content(old: int, new: int, user: User) -> None:
    while data := os.read(old, COPY_BYTES):
        rest = memoryview(data)
        while rest:
            with acting_as(user):
                rest = rest[os.write(new, rest) :]
        await asyncio.sleep(0)


def _copy_facts(old: int, new: int, user: User) -> None:
    facts = os.fstat(old)
    with acting_as(user):
        if user.uid == 0:
            os.fchown(new, facts.st_uid, facts.st_gid)
        for name in os.listxattr(old):
            if name.startswith("user."):
                os.setxattr(new, name, os.getxattr(old, name))
        os.fchmod(new, facts.st_mode & 0o7777)
        os.utime(new, ns=(facts.st_atime_ns, facts.st_mtime_ns))
