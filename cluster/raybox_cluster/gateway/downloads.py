"""GET /files: a file as it is, part of it, or gzipped, sent as it is read (contract 4.3). Memory stays flat."""

from __future__ import annotations

import asyncio
import contextlib
import mimetypes
import zlib
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import Final

from starlette.responses import Response

from raybox_actors.agent.api import Agent
from raybox_actors.agent.values import EntryInfo

from .asgi import Headers, Receive, Scope, Send, StreamAborted, json_response
from .http_values import RangeNotSatisfiable, acceptable_encoding, inline_disposition, parse_range

#: Packing is for slow networks and must not slow down fast ones: the fastest level, and none at all for what does not
#: get smaller, which the first piece tells.
GZIP_LEVEL: Final = 1
GZIP_WORTH: Final = 0.9
#: Smaller pieces are packed at once: a thread would take longer.
IN_THREAD_BYTES: Final = 16 * 1024


async def send_file(
    agent: Agent, path: str, user: str, headers: Headers, scope: Scope, receive: Receive, send: Send
) -> None:
    """Raises RayboxError, also in the middle, and StreamAborted if the file becomes shorter while it is read."""
    encoding = acceptable_encoding(headers.get(b"accept-encoding"))
    if encoding is None:
        await json_response(406, {"code": 406, "message": "files come as they are, or gzipped"})(scope, receive, send)
        return
    offset, length, size = 0, None, 0
    if (wanted := headers.get(b"range")) is not None:
        entry = await agent.stat(path, user)
        if entry.file_type == "file":
            size = await _target_size(agent, entry, user)
            try:
                part = parse_range(wanted, size)
            except RangeNotSatisfiable:
                await _unsatisfiable(size)(scope, receive, send)
                return
            if part is not None:
                offset, length = part
    async with agent.open_read(path, user, offset=offset, length=length) as reader:
        pieces = aiter(reader)
        first = await anext(pieces, b"")
        answer = _headers(reader.entry)
        if length is not None:
            answer.append((b"content-range", f"bytes {offset}-{offset + length - 1}/{size}".encode()))
            await _send(206, answer, length, first, pieces, send)
        elif not first:
            await _send(200, answer, 0, b"", pieces, send)
        elif encoding == "gzip":
            await _send_gzipped(answer, first, pieces, send)
        else:
            # What claims to be empty and is not, as under /proc, is read to its end.
            await _send(200, answer, reader.entry.size_bytes or None, first, pieces, send)


async def _target_size(agent: Agent, entry: EntryInfo, user: str) -> int:
    """Of a link, the size that counts is its target's."""
    if entry.symlink_target is None or entry.symlink_target == entry.path:
        return entry.size_bytes
    return (await agent.stat(entry.symlink_target, user)).size_bytes


def _unsatisfiable(size: int) -> Response:
    body = {"code": 416, "message": "nothing of the file is in this range"}
    return json_response(416, body, {"content-range": f"bytes */{size}"})


def _headers(entry: EntryInfo) -> list[tuple[bytes, bytes]]:
    kind = mimetypes.guess_type(entry.name, strict=False)[0] or "application/octet-stream"
    answer = [
        (b"content-type", kind.encode("ascii", "replace")),
        (b"content-disposition", inline_disposition(entry.name).encode("ascii", "replace")),
        (b"vary", b"Accept-Encoding"),
        (b"accept-ranges", b"bytes"),
    ]
    with contextlib.suppress(OverflowError, ValueError, OSError):  # a file may carry any time at all
        answer.append((b"last-modified", formatdate(entry.modified_at_s, usegmt=True).encode()))
    return answer


async def _send(
    status: int,
    headers: list[tuple[bytes, bytes]],
    length: int | None,
    first: bytes,
    rest: AsyncIterator[bytes],
    send: Send,
) -> None:
    """`length` None: as much as there is. A file that grows meanwhile is cut, one that shrinks is a broken answer."""
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    left = length
    piece = first
    while piece:
        if left is not None:
            piece = piece[:left]
            left -= len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": left != 0})
        if left == 0:
            return
        piece = await anext(rest, b"")
    if left:
        raise StreamAborted("the file became shorter while it was read")
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_gzipped(
    headers: list[tuple[bytes, bytes]], first: bytes, rest: AsyncIterator[bytes], send: Send
) -> None:
    worth = len(zlib.compress(first, GZIP_LEVEL)) < GZIP_WORTH * len(first)
    packer = zlib.compressobj(GZIP_LEVEL if worth else 0, wbits=31)
    headers.append((b"content-encoding", b"gzip"))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    piece = first
    while piece:
        packed = packer.compress(piece) if len(piece) < IN_THREAD_BYTES else await _in_thread(packer, piece)
        if packed:
            await send({"type": "http.response.body", "body": packed, "more_body": True})
        piece = await anext(rest, b"")
    await send({"type": "http.response.body", "body": packer.flush(), "more_body": False})


async def _in_thread(packer: zlib._Compress, piece: bytes) -> bytes:
    return await asyncio.to_thread(packer.compress, piece)
