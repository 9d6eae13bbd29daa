"""Bodies of uploads, piece by piece: what callers give -> bytes. It reads from what they give, and nothing else."""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ._envd_models import AsyncWriteData, WriteData
from ._errors import InvalidArgumentException

#: How much of a file is read at once.
CHUNK_BYTES = 256 * 1024

#: 16 more than the window: with the head and the tail of gzip.
_GZIP_WINDOW = 31
#: The fastest: the network is local more often than not.
_GZIP_LEVEL = 1


def is_streamed(data: object) -> bool:
    """Whether it is read piece by piece, and not held in memory already.

    Raises InvalidArgumentException for what is no data.
    """
    if isinstance(data, (str, bytes, bytearray, memoryview)):
        return False
    if not hasattr(data, "read") and not isinstance(data, (Iterable, AsyncIterable)):
        raise InvalidArgumentException(f"expected text, bytes, a file or an iterable, got {type(data).__name__}")
    return True


def length_of(data: object) -> int | None:
    """Bytes of what is in memory already; None for what is streamed."""
    held = _held(data)
    return None if held is None else len(held)


def _held(data: Any) -> bytes | None:
    """What is in memory already, as bytes; None for what is streamed."""
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    return None


def _bytes(piece: object) -> bytes:
    held = _held(piece)
    if held is None:
        raise InvalidArgumentException(f"expected pieces of bytes or text, got {type(piece).__name__}")
    return held


def pieces(data: WriteData) -> Iterator[bytes]:
    """Text is written as UTF-8. Raises InvalidArgumentException for what is no data of a blocking call."""
    held = _held(data)
    if held is not None:
        yield held
    elif hasattr(data, "read"):
        while piece := data.read(CHUNK_BYTES):
            yield _bytes(piece)
    elif isinstance(data, Iterable):
        for piece in data:
            yield _bytes(piece)
    else:
        raise InvalidArgumentException(f"an asynchronous iterable ({type(data).__name__}) is for AsyncSandbox")


async def pieces_async(data: AsyncWriteData) -> AsyncIterator[bytes]:
    """As `pieces`; files are read in a thread."""
    held = _held(data)
    if held is not None:
        yield held
    elif hasattr(data, "read"):
        while piece := await asyncio.to_thread(data.read, CHUNK_BYTES):
            yield _bytes(piece)
    elif isinstance(data, AsyncIterable):
        async for piece in data:
            yield _bytes(piece)
    else:
        for piece in data:
            yield _bytes(piece)


def compressed(parts: Iterator[bytes]) -> Iterator[bytes]:
    """As gzip."""
    press = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_WINDOW)
    for piece in parts:
        yield press.compress(piece)
    yield press.flush()


async def compressed_async(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """As gzip."""
    press = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_WINDOW)
    async for piece in parts:
        yield press.compress(piece)
    yield press.flush()


class Multipart(NamedTuple):
    """The frame of a multipart/form-data body with one part per path."""

    boundary: str
    heads: tuple[bytes, ...]
    tail: bytes

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self.boundary}"

    def length(self, data: Sequence[object]) -> int | None:
        """Bytes of the whole body, None if that is not known before it is read."""
        total = len(self.tail) + sum(len(head) for head in self.heads)
        for one in data:
            held = _held(one)
            if held is None:
                return None
            total += len(held)
        return total

    def body(self, data: Sequence[WriteData]) -> Iterator[bytes]:
        for head, one in zip(self.heads, data, strict=True):
            yield head
            yield from pieces(one)
        yield self.tail

    async def body_async(self, data: Sequence[AsyncWriteData]) -> AsyncIterator[bytes]:
        for head, one in zip(self.heads, data, strict=True):
            yield head
            async for piece in pieces_async(one):
                yield piece
        yield self.tail


def multipart(paths: Sequence[str], boundary: str | None = None) -> Multipart:
    """The file name of each part is the whole path, in UTF-8; quotes and line ends are escaped as browsers do."""
    boundary = boundary or os.urandom(16).hex()
    heads = []
    for number, path in enumerate(paths):
        name = path.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        heads.append(
            ("\r\n" if number else "").encode()
            + f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'.encode()
            + b"Content-Type: application/octet-stream\r\n\r\n"
        )
    return Multipart(boundary, tuple(heads), f"\r\n--{boundary}--\r\n".encode())


class Inflater:
    """The inverse of `compressed`, piece by piece, and never much more than CHUNK_BYTES at once."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=_GZIP_WINDOW)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raises ValueError on what is no gzip."""
        try:
            while data:
                piece = self._inflate.decompress(data, CHUNK_BYTES)
                if self._inflate.eof:
                    data = self._inflate.unused_data
                    self._inflate = zlib.decompressobj(wbits=_GZIP_WINDOW)
                else:
                    data = self._inflate.unconsumed_tail
                if piece:
                    yield piece
        except zlib.error as error:
            raise ValueError(f"not gzip: {error}") from error
