"""What the agent speaks with its actor and with gateways: frames on a stream socket, one operation a connection.

A frame is one byte of kind, four bytes of length (big-endian) and so many bytes of payload. The first of a connection
is HEADER, an operation as JSON; what follows depends on it (agent.py). A connection ends after OK, FAILED, END or
ENDED, but for `dial`, which goes on with raw bytes after OK.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
from typing import Any

HEADER, DATA, COMMIT = b"H", b"D", b"C"  # to the agent
OK, FAILED, END = b"O", b"E", b"Z"  # from it
ENTRIES, EVENTS = b"L", b"W"
STARTED, STDOUT, STDERR, TERMINAL, ENDED = b"S", b"1", b"2", b"T", b"X"

#: Payload of DATA and of output.
MAX_DATA_BYTES = 256 * 1024
#: Payload of HEADER: arguments and environment of a program may be as long as the system allows.
MAX_HEADER_BYTES = 4 * 1024 * 1024
#: A client that connects and says nothing is cut off.
HEADER_LIMIT_S = 30.0

CODES = {
    errno.ENOENT: "not_found",
    errno.ENOTDIR: "not_found",
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.EROFS: "permission_denied",
    errno.EEXIST: "already_exists",
    errno.ENOTEMPTY: "failed_precondition",
    errno.EBUSY: "failed_precondition",
    errno.ETXTBSY: "failed_precondition",
    errno.EISDIR: "is_directory",
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
    errno.EMFILE: "resource_exhausted",
    errno.ENFILE: "resource_exhausted",
    errno.ENOMEM: "resource_exhausted",
    errno.EAGAIN: "resource_exhausted",
    errno.EINVAL: "invalid_argument",
    errno.ELOOP: "invalid_argument",
    errno.ENAMETOOLONG: "invalid_argument",
    errno.EFBIG: "invalid_argument",
}


class Failure(Exception):
    """Ends an operation; `code` as in the actor's agent/errors.py."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class HungUp(Exception):
    """The other end went away."""


def failure_of(error: BaseException, path: str | None = None) -> Failure:
    """What to answer for an exception; `path` as the caller knows it."""
    if isinstance(error, Failure):
        return error
    if not isinstance(error, OSError):
        return Failure("internal", f"{type(error).__name__}: {error}"[:1000])
    code = CODES.get(error.errno or 0, "internal")
    where = f"path '{path}' " if path is not None else ""
    if code == "not_found" and path is not None:
        return Failure(code, f"path '{path}' does not exist")
    if code == "is_directory":
        return Failure(code, f"{where}is a directory".strip())
    if error.errno == errno.ELOOP:
        return Failure(code, f"{where}leads through too many links, or one of /proc's to another process's files")
    if code == "no_space":
        return Failure(code, f"{where}not written: no space left on the disk of the sandbox".strip())
    return Failure(code, f"{where.rstrip()}: {os.strerror(error.errno or 0)}".lstrip(": "))


async def wait_readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)


class Connection:
    """One end of a stream socket. One reader and one writer at a time."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.loop = asyncio.get_running_loop()
        self.buffer = bytearray()

    async def _fill(self, count: int) -> bool:
        """Have `count` bytes in the buffer. False if the other end closed before the first; raises HungUp if later."""
        while len(self.buffer) < count:
            try:
                data = await self.loop.sock_recv(self.sock, max(65536, count - len(self.buffer)))
            except OSError:
                data = b""
            if not data:
                if self.buffer:
                    raise HungUp
                return False
            self.buffer += data
        return True

    async def receive(self, limit: int = MAX_DATA_BYTES) -> tuple[bytes, bytes] | None:
        """Kind and payload; None at the end. Raises HungUp in the middle of a frame, Failure beyond `limit`."""
        if not await self._fill(5):
            return None
        kind, length = bytes(self.buffer[:1]), int.from_bytes(self.buffer[1:5], "big")
        if length > limit:
            raise Failure("invalid_argument", f"a frame of {length} bytes; the limit is {limit}")
        del self.buffer[:5]
        if not await self._fill(length) and length:
            raise HungUp
        payload = bytes(self.buffer[:length])
        del self.buffer[:length]
        return kind, payload

    async def header(self) -> dict[str, Any]:
        """Raises HungUp, Failure, TimeoutError."""
        async with asyncio.timeout(HEADER_LIMIT_S):
            frame = await self.receive(MAX_HEADER_BYTES)
        if frame is None:
            raise HungUp
        try:
            asked = json.loads(frame[1]) if frame[0] == HEADER else None
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict):
            raise Failure("invalid_argument", "the first frame is no operation")
        return asked

    async def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Returns when the system has taken it. Raises HungUp."""
        try:
            await self.loop.sock_sendall(self.sock, kind + len(payload).to_bytes(4, "big") + payload)
        except OSError:
            raise HungUp from None

    async def send_json(self, kind: bytes, value: Any) -> None:
        await self.send(kind, json.dumps(value).encode())

    async def hung_up(self) -> None:
        """Return when the other end closes, in operations that are sent nothing more."""
        with contextlib.suppress(HungUp, Failure):
            while await self.receive() is not None:
                pass

    def close(self) -> None:
        self.sock.close()
