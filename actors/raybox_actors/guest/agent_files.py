"""Files: facts, folders, reading and writing (contract 4.3, 4.6). Each step has the rights of the user who asks."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import Generator
from typing import Any

from agent_users import AT_FDCWD, TABLES, User, acting_as, open_at, resolve
from agent_wire import COMMIT, DATA, END, ENTRIES, MAX_DATA_BYTES, OK, Connection, Failure, HungUp, failure_of

PATH_ONLY = os.O_PATH
FOLDER = os.O_DIRECTORY
#: Entries of one listing, and how many go into one frame.
MAX_LIST_ENTRIES, ENTRIES_PER_FRAME = 100_000, 200
#: Folders inside each other, of what is listed or removed.
MAX_DEPTH = 4096
#: After so many steps of a long operation others have their turn.
STEPS_PER_TURN = 100
#: How often something that others change meanwhile is tried again.
ATTEMPTS = 8

METADATA = "user.e2b."
MAX_METADATA_BYTES = 4096
LETTERS = {
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "L",
    stat.S_IFBLK: "D",
    stat.S_IFCHR: "D",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "S",
}


def permissions(mode: int) -> str:
    """As Go writes them, which is what the protocol has: "-rw-r--r--", "dtrwxrwxrwx", "Lrwxrwxrwx"."""
    letters = LETTERS.get(stat.S_IFMT(mode), "")
    letters += "u" * bool(mode & stat.S_ISUID) + "g" * bool(mode & stat.S_ISGID)
    letters += "c" * stat.S_ISCHR(mode) + "t" * bool(mode & stat.S_ISVTX)
    return (letters or "-") + "".join(
        letter if mode & (0o400 >> place) else "-" for place, letter in enumerate("rwxrwxrwx")
    )


def file_type(mode: int) -> str:
    return "file" if stat.S_ISREG(mode) else "directory" if stat.S_ISDIR(mode) else "unspecified"


def handle(fd: int) -> str:
    """A path that means what is open as `fd`, whatever its name leads to by now."""
    return f"/proc/self/fd/{fd}"


def metadata_of(fd: int) -> dict[str, str]:
    """Empty for what cannot have any, or may not be read."""
    found = {}
    try:
        for name in os.listxattr(handle(fd)):
            if name.startswith(METADATA):
                found[name.removeprefix(METADATA)] = os.getxattr(handle(fd), name).decode(errors="replace")
    except OSError:
        return {}
    return found


def entry(path: str, name: str | None = None, dir_fd: int = AT_FDCWD) -> dict[str, Any]:
    """EntryInfo of `path`, as fields of the actor's values.py; with `dir_fd`, it is `name` in that folder."""
    name = path if name is None else name
    fd = open_at(name, PATH_ONLY | os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        facts = os.fstat(fd)
        if not stat.S_ISLNK(facts.st_mode):
            return entry_of(path, facts, facts, metadata_of(fd))
        try:
            target_fd = open_at(name, PATH_ONLY, dir_fd=dir_fd)
        except OSError:
            return {**entry_of(path, facts, facts, {}), "symlink_target": path}
        try:
            found = entry_of(path, facts, os.fstat(target_fd), metadata_of(target_fd))
            return {**found, "symlink_target": os.readlink(handle(target_fd))}
        finally:
            os.close(target_fd)
    finally:
        os.close(fd)


def entry_of(path: str, own: os.stat_result, target: os.stat_result, metadata: dict[str, str]) -> dict[str, Any]:
    return {
        "name": posixpath.basename(path) or "/",
        "path": path,
        "file_type": file_type(target.st_mode),
        "size_bytes": own.st_size,
        "mode": target.st_mode & 0o777,
        "permissions": permissions(own.st_mode),
        "owner": TABLES.user_names.get(own.st_uid, str(own.st_uid)),
        "group": TABLES.group_names.get(own.st_gid, str(own.st_gid)),
        "modified_at_s": own.st_mtime_ns / 1e9,
        "symlink_target": None,
        "metadata": metadata,
    }


def stat_path(asked: dict[str, Any], user: User) -> dict[str, Any]:
    path = resolve(asked.get("path"), user)
    try:
        with acting_as(user):
            return entry(path)
    except OSError as error:
        raise failure_of(error, path) from None


# ---- folders ----


def open_folder(path: str, make: bool = False) -> int:
    """A handle (O_PATH) of the folder `path`; with `make`, it and those above it are made where they are missing."""
    for _ in range(ATTEMPTS):
        try:
            return open_at(path, PATH_ONLY | FOLDER)
        except FileNotFoundError:
            if not make:
                raise
        fd = open_at("/", PATH_ONLY | FOLDER)
        try:
            for name in path.strip("/").split("/"):
                try:
                    inner = open_at(name, PATH_ONLY | FOLDER, dir_fd=fd)
                except FileNotFoundError:
                    # Somebody may be faster; or it is a link to nowhere, and then opening it fails.
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o755, dir_fd=fd)
                    inner = open_at(name, PATH_ONLY | FOLDER, dir_fd=fd)
                os.close(fd)
                fd = inner
            return fd
        except FileNotFoundError:  # removed meanwhile
            os.close(fd)
        except BaseException:
            os.close(fd)
            raise
    raise Failure("failed_precondition", f"path '{path}' is being changed by somebody else")


def make_dir(asked: dict[str, Any], user: User) -> dict[str, Any]:
    path = resolve(asked.get("path"), user)
    try:
        with acting_as(user):
            parent, name = posixpath.split(path)
            try:
                fd = open_folder(parent, make=True)
                try:
                    os.mkdir(name or ".", 0o755, dir_fd=fd)
                finally:
                    os.close(fd)
            except FileExistsError:
                if entry(path)["file_type"] == "directory":
                    raise Failure("already_exists", f"directory already exists: {path}") from None
                raise Failure("invalid_argument", f"path already exists but it is not a directory: {path}") from None
            except NotADirectoryError:
                raise Failure("invalid_argument", f"a part of the path is not a directory: {path}") from None
            return entry(path)
    except OSError as error:
        raise failure_of(error, path) from None


async def list_dir(asked: dict[str, Any], user: User, connection: Connection) -> None:
    """Entries in frames of ENTRIES, then END: a walk in which a folder comes before what is in it."""
    path = resolve(asked.get("path"), user)
    depth = asked.get("depth") or 1
    if not isinstance(depth, int) or depth < 0:
        raise Failure("invalid_argument", "depth is a number of at least 0")
    try:
        with acting_as(user):
            root = open_at(path, os.O_RDONLY | FOLDER)
    except NotADirectoryError:
        raise no_folder(path, user) from None
    except OSError as error:
        raise failure_of(error, path) from None
    walk = _walk(root, path, depth, user)
    batch: list[dict[str, Any]] = []
    try:
        for count, found in enumerate(walk):
            if count >= MAX_LIST_ENTRIES:
                raise Failure("resource_exhausted", f"there are more than {MAX_LIST_ENTRIES} entries")
            batch.append(found)
            if len(batch) >= ENTRIES_PER_FRAME:
                await connection.send_json(ENTRIES, batch)
                batch = []
                await asyncio.sleep(0)
        if batch:
            await connection.send_json(ENTRIES, batch)
    finally:
        walk.close()
    await connection.send(END)


def no_folder(path: str, user: User) -> Failure:
    """Why `path` cannot be looked into."""
    try:
        with acting_as(user):
            entry(path)
    except OSError as error:
        return failure_of(error, path)
    return Failure("invalid_argument", f"path '{path}' is not a directory")


def _walk(root: int, path: str, depth: int, user: User) -> Generator[dict[str, Any], None, None]:
    """Closes `root`. Between two entries, others may run."""
    levels = [(root, path, iter(names_in(root, user)))]
    try:
        while levels:
            fd, prefix, names = levels[-1]
            name = next(names, None)
            if name is None:
                os.close(levels.pop()[0])
                continue
            child = posixpath.join(prefix, name)
            try:
                with acting_as(user):
                    found = entry(child, name, fd)
            except OSError:  # it went away
                continue
            yield found
            if found["permissions"].startswith("d") and len(levels) < min(depth, MAX_DEPTH):
                try:
                    with acting_as(user):
                        inner = open_at(name, os.O_RDONLY | FOLDER | os.O_NOFOLLOW, dir_fd=fd)
                except OSError:  # not ours to look into
                    continue
                levels.append((inner, child, iter(names_in(inner, user))))
    finally:
        for fd, _, _ in levels:
            os.close(fd)


def names_in(fd: int, user: User) -> list[str]:
    """Sorted; not many more than a listing may have. Empty for what may not be read."""
    names = []
    try:
        with acting_as(user), os.scandir(fd) as found:
            for item in found:
                names.append(item.name)
                if len(names) > MAX_LIST_ENTRIES:
                    break
    except OSError:
        return []
    return sorted(names, key=os.fsencode)


# ---- reading and writing ----


async def read_file(asked: dict[str, Any], user: User, connection: Connection) -> None:
    """OK with the entry, DATA until the end or `length`, END."""
    path = resolve(asked.get("path"), user)
    offset, length = asked.get("offset") or 0, asked.get("length")
    if not isinstance(offset, int) or offset < 0 or not (length is None or (isinstance(length, int) and length >= 0)):
        raise Failure("invalid_argument", "offset and length are numbers of at least 0")
    try:
        with acting_as(user):
            # Without waiting: opening a named pipe would.
            fd = open_at(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise failure_of(error, path) from None
    try:
        facts = _regular(fd, path)
        with acting_as(user):
            metadata = metadata_of(fd)
        await connection.send_json(OK, entry_of(path, facts, facts, metadata))
        # What is appended meanwhile is not of this reading. Files of /proc say that they have no size.
        left = max(0, facts.st_size - offset) if facts.st_size else None
        if length is not None:
            left = length if left is None else min(left, length)
        while left is None or left:
            try:
                data = os.pread(fd, MAX_DATA_BYTES if left is None else min(MAX_DATA_BYTES, left), offset)
            except OSError as error:
                raise failure_of(error, path) from None
            if not data:
                break
            offset += len(data)
            left = None if left is None else left - len(data)
            await connection.send(DATA, data)
        await connection.send(END)
    finally:
        os.close(fd)


def _regular(fd: int, path: str) -> os.stat_result:
    facts = os.fstat(fd)
    if stat.S_ISDIR(facts.st_mode):
        raise Failure("is_directory", f"path '{path}' is a directory")
    if not stat.S_ISREG(facts.st_mode):
        raise Failure("invalid_argument", f"path '{path}' is not a regular file")
    return facts


async def write_file(asked: dict[str, Any], user: User, connection: Connection) -> None:
    """OK once it is open, then DATA until COMMIT, then OK with the entry. Without COMMIT, what came is kept."""
    path = resolve(asked.get("path"), user)
    metadata = check_metadata(asked.get("metadata") or {})
    try:
        with acting_as(user):
            fd = _open_for_writing(path, user, metadata)
        try:
            await connection.send_json(OK, {})
            while True:
                frame = await connection.receive()
                if frame is None:
                    raise HungUp
                if frame[0] == COMMIT:
                    break
                if frame[0] != DATA:
                    raise Failure("invalid_argument", "neither data nor the end of it")
                rest = memoryview(frame[1])
                with acting_as(user):  # or it would be root who writes to a program that runs with its owner's rights
                    while rest:
                        rest = rest[os.write(fd, rest) :]
            facts = os.fstat(fd)
        finally:
            os.close(fd)
        await connection.send_json(OK, entry_of(path, facts, facts, metadata))
    except OSError as error:
        raise failure_of(error, path) from None


def check_metadata(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(
        isinstance(word, str) and word.isascii() and word.isprintable() for pair in metadata.items() for word in pair
    ):
        raise Failure("invalid_argument", "metadata is printable ASCII")
    if any(not 0 < len(key) <= 246 for key in metadata):
        raise Failure("invalid_argument", "a metadata key has 1 to 246 bytes")
    if sum(map(len, metadata)) + sum(map(len, metadata.values())) > MAX_METADATA_BYTES:
        raise Failure("invalid_argument", f"metadata is over {MAX_METADATA_BYTES} bytes")
    return {key.lower(): value for key, value in metadata.items()}


def _open_for_writing(path: str, user: User, metadata: dict[str, str]) -> int:
    """A descriptor of the empty file. Who watches its folder sees a new file as create, chmod and, later, write."""
    parent, name = posixpath.split(path)
    if not name:
        raise Failure("is_directory", f"path '{path}' is a directory")
    folder = open_folder(parent, make=True)
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        for attempt in range(ATTEMPTS):
            new = False
            try:
                fd = open_at(name, flags, dir_fd=folder)
            except FileNotFoundError:
                new = True
                # The last time without O_EXCL: the name may be a link to a file that is to be made.
                exclusive = os.O_EXCL if attempt < ATTEMPTS - 1 else 0
                try:
                    fd = open_at(name, flags | os.O_CREAT | exclusive, 0o644, dir_fd=folder)
                except FileExistsError:
                    continue
            except OSError as error:
                if error.errno == errno.ENXIO:  # a pipe without a reader
                    raise Failure("invalid_argument", f"path '{path}' is not a regular file") from None
                raise
            break
        else:
            raise Failure("failed_precondition", f"path '{path}' is being changed by somebody else")
    finally:
        os.close(folder)
    try:
        facts = _regular(fd, path)
        if not new and facts.st_size:
            os.ftruncate(fd, 0)
        if user.uid == 0 and (facts.st_uid, facts.st_gid) != (0, 0):
            os.fchown(fd, 0, 0)
        _replace_metadata(fd, metadata)
        if new:
            os.fchmod(fd, 0o644)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _replace_metadata(fd: int, metadata: dict[str, str]) -> None:
    try:
        for name in os.listxattr(fd):
            if name.startswith(METADATA) and name.removeprefix(METADATA) not in metadata:
                os.removexattr(fd, name)
        for key, value in metadata.items():
            os.setxattr(fd, METADATA + key, value.encode())
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        if metadata:
            raise Failure("failed_precondition", "this file system cannot hold metadata of files") from None
