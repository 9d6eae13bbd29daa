"""POST /files: one file as it is, or several as a form, written as they come (contract 4.3). Memory stays flat."""

from __future__ import annotations

import posixpath
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

from raybox_actors.agent.api import Agent, FileWriter
from raybox_actors.agent.values import EntryInfo
from raybox_actors.errors import BadRequest

from .multipart import MultipartReader, PartData, PartEnded, PartStarted

#: Every write crosses process boundaries, so small pieces are joined to this size, and unpacked ones cut to it.
WRITE_BYTES: Final = 256 * 1024
FILE_FIELD: Final = "file"


async def write_body(
    agent: Agent, path: str, user: str, metadata: dict[str, str], body: AsyncIterator[bytes]
) -> EntryInfo:
    """All of `body` into one file. Raises what the body and the agent raise; then the file holds what came before."""
    async with agent.open_write(path, user, metadata=metadata) as writer:
        async for piece in joined(body):
            await writer.write(piece)
        return await writer.commit()


async def write_form(
    agent: Agent, path: str | None, user: str, metadata: dict[str, str], boundary: bytes, body: AsyncIterator[bytes]
) -> list[EntryInfo]:
    """Every part named `file` into the file that `path` names, or else its own file name, in their order.

    Raises also BadRequest for what is no form, parts without a name, and two of the same path; the files before it
    are written.
    """
    reader = MultipartReader(boundary)
    form = _Form(agent, path, user, metadata)
    async with form.stack:
        async for piece in body:
            for event in reader.feed(piece):
                await form.handle(event)
        reader.finish()
    return form.written


class _Form:
    """Between the parts of a form and the files that they become."""

    def __init__(self, agent: Agent, path: str | None, user: str, metadata: dict[str, str]) -> None:
        self._agent, self._path, self._user, self._metadata = agent, path, user, metadata
        self._paths: set[str] = set()
        self._writer: FileWriter | None = None  #: of the part that is being read; None: it is none of ours
        self._pending = bytearray()
        self.written: list[EntryInfo] = []
        self.stack = AsyncExitStack()

    async def handle(self, event: PartStarted | PartData | PartEnded) -> None:
        match event:
            case PartStarted(name, filename):
                if name == FILE_FIELD:
                    await self._open(self._path if self._path is not None else filename)
            case PartData(data):
                if self._writer is not None:
                    self._pending += data
                    if len(self._pending) >= WRITE_BYTES:
                        await self._flush(self._writer)
            case PartEnded():
                if self._writer is not None:
                    await self._flush(self._writer)
                    self.written.append(await self._writer.commit())
                    self._writer = None
                    await self.stack.aclose()

    async def _open(self, path: str | None) -> None:
        if not path:
            raise BadRequest("a file needs a path: in the query, or as the file name of its part")
        where = resolved(path, self._user)
        if where in self._paths:
            raise BadRequest(f"two files of one upload have the path {where!r}")
        self._paths.add(where)
        writing = self._agent.open_write(path, self._user, metadata=self._metadata)
        self._writer = await self.stack.enter_async_context(writing)

    async def _flush(self, writer: FileWriter) -> None:
        if self._pending:
            data = bytes(self._pending)
            self._pending.clear()
            await writer.write(data)


def resolved(path: str, user: str) -> str:
    """The path rules of the contract, as far as they go without looking at the disk: enough to tell two paths apart."""
    home = "/root" if user == "root" else f"/home/{user}"
    if path == "~" or path.startswith("~/"):
        path = home + path[1:]
    return posixpath.normpath(posixpath.join(home, path)).replace("//", "/", 1)


async def joined(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of at least WRITE_BYTES, the last one apart."""
    pending = bytearray()
    async for piece in body:
        if not pending and len(piece) >= WRITE_BYTES:
            yield piece
            continue
        pending += piece
        if len(pending) >= WRITE_BYTES:
            yield bytes(pending)
            pending.clear()
    if pending:
        yield bytes(pending)


async def unzipped(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What was gzipped, in pieces of at most WRITE_BYTES, however well it was packed. Raises BadRequest."""
    inflater = zlib.decompressobj(wbits=31)
    begun = False
    try:
        async for piece in body:
            while piece:
                begun = True
                if unpacked := inflater.decompress(piece, WRITE_BYTES):
                    yield unpacked
                piece = inflater.unconsumed_tail
                if inflater.eof:  # another member may follow
                    piece = inflater.unused_data
                    inflater, begun = zlib.decompressobj(wbits=31), False
        # Output that did not fit the last piece comes without further input.
        while begun and not inflater.eof and (unpacked := inflater.decompress(b"", WRITE_BYTES)):
            yield unpacked
    except zlib.error:
        raise BadRequest("the body is not valid gzip") from None
    if begun and not inflater.eof:
        raise BadRequest("the body ended before its gzip data did")
