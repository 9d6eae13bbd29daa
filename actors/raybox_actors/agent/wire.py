"""The actor's and the gateway's end of a connection to an agent; guest/agent_wire.py is the other and tells the frames.

What an agent says is untrusted: frames are bounded, JSON is checked (answers.py), and whatever makes no sense is
AgentError `internal`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn, cast, get_args

from raybox_actors.agent.errors import AgentCode, AgentError

HEADER, DATA, COMMIT = b"H", b"D", b"C"
OK, FAILED, END = b"O", b"E", b"Z"
ENTRIES, EVENTS = b"L", b"W"
STARTED, STDOUT, STDERR, TERMINAL, ENDED = b"S", b"1", b"2", b"T", b"X"

HEAD_BYTES: Final = 5
MAX_DATA_BYTES: Final = 256 * 1024
MAX_HEADER_BYTES: Final = 4 * 1024 * 1024
#: Of one frame that is JSON, and of the values in it: an empty list costs 56 bytes here and 3 on the wire.
MAX_JSON_BYTES: Final = 8 * 1024 * 1024
MAX_JSON_VALUES: Final = 500_000
MAX_MESSAGE_CHARS: Final = 4000
CODES: Final = frozenset(get_args(AgentCode))


#: Called when a connection was cut: raises SandboxLost or NotFound if the sandbox is gone.
Explain = Callable[[], Awaitable[None]]


def frame(kind: bytes, payload: bytes | memoryview = b"") -> bytes:
    return b"".join((kind, len(payload).to_bytes(4, "big"), payload))


def json_frame(kind: bytes, value: object) -> bytes:
    """Raises AgentError `invalid_argument` when it is over the limit of a header."""
    payload = json.dumps(value).encode()
    if len(payload) > MAX_HEADER_BYTES:
        raise AgentError("invalid_argument", f"the request has {len(payload)} bytes; the limit is {MAX_HEADER_BYTES}")
    return frame(kind, payload)


def length_of(head: bytes) -> int:
    """Of the payload that follows. Raises AgentError when it is over the limit of its kind."""
    length = int.from_bytes(head[1:HEAD_BYTES], "big")
    limit = MAX_DATA_BYTES if head[:1] in (DATA, STDOUT, STDERR, TERMINAL) else MAX_JSON_BYTES
    if length > limit:
        raise broken(f"a frame of {length} bytes")
    return length


def broken(what: str) -> AgentError:
    return AgentError("internal", f"the sandbox's agent broke its protocol: {what}")


def parse_json(payload: bytes) -> Any:
    """Raises AgentError."""
    if payload.count(b",") + payload.count(b"[") + payload.count(b"{") > MAX_JSON_VALUES:
        raise broken("too many values")
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        raise broken("no JSON") from None


def error_of(payload: bytes) -> AgentError:
    """What a FAILED frame says; never raises."""
    try:
        said = parse_json(payload)
    except AgentError as error:
        return error
    if not isinstance(said, dict) or said.get("code") not in CODES:
        return broken("an error that is none")
    return AgentError(cast(AgentCode, said["code"]), str(said.get("message"))[:MAX_MESSAGE_CHARS])


class AgentConnection:
    """Frames over a connected stream socket, which it owns. One reader and one writer at a time.

    Where it ends too early, every method raises what `explain` does, else AgentError `unavailable`.
    """

    def __init__(self, sock: socket.socket, explain: Explain) -> None:
        sock.setblocking(False)
        self._sock, self._explain = sock, explain
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._closed = False

    async def receive(self) -> tuple[bytes, bytes]:
        """Kind and payload. Raises AgentError for a FAILED frame or a broken one."""
        await self._fill(HEAD_BYTES)
        head = bytes(self._buffer[:HEAD_BYTES])
        length = length_of(head)
        await self._fill(HEAD_BYTES + length)
        payload = bytes(memoryview(self._buffer)[HEAD_BYTES : HEAD_BYTES + length])
        del self._buffer[: HEAD_BYTES + length]
        if head[:1] == FAILED:
            raise error_of(payload)
        return head[:1], payload

    async def expect(self, kind: bytes) -> Any:
        """The JSON of the next frame, which has to be of this kind."""
        got, payload = await self.receive()
        if got != kind:
            raise broken(f"{got!r} in place of {kind!r}")
        return parse_json(payload)

    async def _fill(self, count: int) -> None:
        while len(self._buffer) < count:
            data = await self.read(max(65_536, count - len(self._buffer)), fresh=True)
            if not data:
                await self.lost()
            self._buffer += data

    async def read(self, limit: int, fresh: bool = False) -> bytes:
        """Raw bytes, empty at the end; what came with the last frame first, unless `fresh`."""
        if self._buffer and not fresh:
            data = bytes(self._buffer[:limit])
            del self._buffer[:limit]
            return data
        if not self._closed:
            with contextlib.suppress(OSError):
                return await self._loop.sock_recv(self._sock, limit)
        return await self.lost()

    async def send(self, data: bytes) -> None:
        """Returns when the system has taken it all."""
        if not self._closed:
            with contextlib.suppress(OSError):
                await self._loop.sock_sendall(self._sock, data)
                return
        await self.lost()

    async def lost(self) -> NoReturn:
        await self._explain()
        raise AgentError("unavailable", "the connection to the sandbox's agent was cut")

    def end(self) -> None:
        """Say that no more will be sent."""
        if not self._closed:
            with contextlib.suppress(OSError):  # then reading tells
                self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Idempotent. Whoever waits in `read` or `send` finds it cut."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(OSError):
                if self._sock.family != socket.AF_UNIX:  # or an end for good would look like one for sending alone
                    self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._sock.shutdown(socket.SHUT_RDWR)
            self._loop.call_soon(self._sock.close)  # not under those who wait, who are about to wake up
