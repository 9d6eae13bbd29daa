"""Files. Its twin is `_filesystem_sync.py`: same methods, same order, same docstrings."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncGenerator, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self, overload

from . import _files, _uploads
from ._callbacks import OutputHandler, called
from ._channel_async import Channel, Messages
from ._envd_models import AsyncWriteData, AsyncWriteEntry, EntryInfo, FilesystemEvent, WriteInfo
from ._envd_requests import path_of
from ._errors import SandboxException
from ._requests import Request
from ._responses import TransportFailure, parsed_by
from ._transport import AsyncStream


class AsyncFileStreamReader:
    """A file that is being read: iterate over its bytes. To leave it early, use it as a context manager or `close` it.

    Iterating raises TimeoutException when it stands still for too long, and SandboxNotRunningException.
    """

    def __init__(self, channel: Channel, request: Request, stream: AsyncStream) -> None:
        """For `files` alone."""
        self._channel = channel
        self._request = request
        self._stream = stream
        gzipped = self._stream.headers.get("content-encoding") == "gzip"
        self._inflater = _uploads.Inflater() if gzipped else None
        self._pieces = self._read()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave the rest unread. May be repeated."""
        await self._pieces.aclose()
        await self._stream.close()

    async def _read(self) -> AsyncGenerator[bytes, None]:
        try:
            while data := await self._stream.read():
                if self._inflater is None:
                    yield data
                else:
                    for piece in self._inflater.feed(data):
                        yield piece
        except TransportFailure as failure:
            raise await self._channel.explain(self._request, failure) from failure
        except ValueError as error:
            raise SandboxException(f"the server sent a file that cannot be unpacked: {error}") from error
        finally:
            await self._stream.close()


class AsyncWatchHandle:
    """A directory that is watched: its events go to the callback of `watch_dir` until `stop`, or its timeout."""

    def __init__(
        self,
        messages: Messages,
        on_event: OutputHandler[FilesystemEvent],
        on_exit: OutputHandler[Exception | None] | None,
    ) -> None:
        """For `files` alone."""
        self._messages = messages
        self._on_event = on_event
        self._on_exit = on_exit
        self._task = asyncio.get_running_loop().create_task(self._pump())

    async def stop(self) -> None:
        """Stop watching, and wait for a callback that runs. Can be repeated."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _pump(self) -> None:
        failure: Exception | None = None
        try:
            while (message := await self._messages.next()) is not None:
                event = _files.streamed_event(message)
                if event is not None:
                    await called(self._on_event, event)
        except asyncio.CancelledError:
            pass  # `stop` is a clean end
        except Exception as error:
            failure = error
        finally:
            await self._messages.close()
        if self._on_exit is not None:
            await called(self._on_exit, failure)


class Filesystem:
    """Files of a sandbox: `sandbox.files`.

    Paths are absolute, or relative to the home of the user who asks (`user`, default `user`); `~` is that home.
    """

    def __init__(self, channel: Channel) -> None:
        """For `Sandbox` alone."""
        self._channel = channel
        self._to = channel.config, channel.address

    @overload
    async def read(
        self,
        path: str,
        format: Literal["text"] = "text",
        user: str | None = None,
        request_timeout: float | None = None,
        gzip: bool = False,
        stream_idle_timeout: float | None = None,
    ) -> str: ...
    @overload
    async def read(
        self,
        path: str,
        format: Literal["bytes"],
        user: str | None = None,
        request_timeout: float | None = None,
        gzip: bool = False,
        stream_idle_timeout: float | None = None,
    ) -> bytearray: ...
    @overload
    async def read(
        self,
        path: str,
        format: Literal["stream"],
        user: str | None = None,
        request_timeout: float | None = None,
        gzip: bool = False,
        stream_idle_timeout: float | None = None,
    ) -> AsyncFileStreamReader: ...
    async def read(
        self,
        path: str,
        format: Literal["text", "bytes", "stream"] = "text",  # noqa: A002  # the E2B SDK's name
        user: str | None = None,
        request_timeout: float | None = None,
        gzip: bool = False,
        stream_idle_timeout: float | None = None,
    ) -> str | bytearray | AsyncFileStreamReader:
        """The content of a file: a str (UTF-8, other bytes replaced), a bytearray, or a stream, read as it comes.

        request_timeout: seconds that may pass without progress; of a stream: that all of it may take, default no limit.
        gzip: whether it travels compressed. stream_idle_timeout: seconds that a stream may stand still, default 60; 0:
        no limit.
        Raises FileNotFoundException, InvalidArgumentException (a directory), TimeoutException, LimitException (more
        than 2 GiB, which only a stream takes).
        """
        request = _files.read(*self._to, path, format, user, request_timeout, gzip, stream_idle_timeout)
        reader = AsyncFileStreamReader(self._channel, request, await self._channel.open(request))
        if format == "stream":
            return reader
        async with reader:
            content = bytearray()
            async for piece in reader:
                content += piece
                _files.check_size(content, path)
        return content if format == "bytes" else content.decode(errors="replace")

    async def write(
        self,
        path: str,
        data: AsyncWriteData,
        user: str | None = None,
        request_timeout: float | None = None,
        gzip: bool = False,
        use_octet_stream: bool | None = None,
        metadata: dict[str, str] | None = None,
    ) -> WriteInfo:
        """Write a file; it is created with the directories above it, or replaced.

        data: text (as UTF-8), bytes, an open file, or an iterable of bytes; the latter two are sent piece by piece.
        request_timeout: seconds that may pass without progress. gzip: whether it travels compressed; then
        use_octet_stream cannot be False. use_octet_stream: whether the bytes travel bare and not in a form; default:
        what is sent piece by piece does. metadata: kept with the file, and replaced by the next write; keys are
        lower-cased.
        Raises NotEnoughSpaceException, InvalidArgumentException, TimeoutException. May be repeated; a file that was
        only written in part may be left when it fails.
        """
        return (await self._write([(path, data)], user, request_timeout, gzip, use_octet_stream, metadata))[0]

    async def write_files(
        self,
        files: Sequence[AsyncWriteEntry],
        user: str | None = None,
        request_timeout: float | None = None,
        gzip: bool = False,
        use_octet_stream: bool | None = None,
        metadata: dict[str, str] | None = None,
    ) -> builtins.list[WriteInfo]:
        """Write several files, each `{"path": ..., "data": ...}`; everything else as for `write`, and for all of them.

        Some may have been written when it fails.
        """
        listed = [(file["path"], file["data"]) for file in files]
        return await self._write(listed, user, request_timeout, gzip, use_octet_stream, metadata)

    async def _write(
        self,
        files: Sequence[tuple[str, AsyncWriteData]],
        user: str | None,
        request_timeout: float | None,
        gzip: bool,
        use_octet_stream: bool | None,
        metadata: Mapping[str, str] | None,
    ) -> builtins.list[WriteInfo]:
        streamed = any(_uploads.is_streamed(data) for _, data in files)
        bare = _files.use_octet_stream(use_octet_stream, gzip, streamed)
        paths = [path_of(path) for path, _ in files]
        if not files:
            return []
        if not bare:
            contents = [data for _, data in files]
            form = _uploads.multipart(paths)
            where = paths[0] if len(paths) == 1 else None
            body, length = form.body_async(contents), form.length(contents)
            request = _files.write(
                *self._to, where, user, request_timeout, metadata, form.content_type, None, body, length
            )
            return _files.written(request, await self._channel.ask(request), len(files))
        written = []
        for path, data in files:
            body, length = _uploads.pieces_async(data), None if gzip else _uploads.length_of(data)
            if gzip:
                body = _uploads.compressed_async(body)
            request = _files.write(
                *self._to, path, user, request_timeout, metadata, _files.BARE, "gzip" if gzip else None, body, length
            )
            written += _files.written(request, await self._channel.ask(request), 1)
        return written

    async def list(
        self,
        path: str,
        depth: int | None = 1,
        user: str | None = None,
        request_timeout: float | None = None,
    ) -> builtins.list[EntryInfo]:
        """What is in a directory, in lexical order, and what is in those within it down to `depth` levels.

        Links are not followed. Broken links, sockets and devices are left out.
        Raises FileNotFoundException, InvalidArgumentException (no directory).
        """
        request = _files.list_files(*self._to, path, depth, user, request_timeout)
        return parsed_by(_files.entries, request, await self._channel.call(request))

    async def exists(self, path: str, user: str | None = None, request_timeout: float | None = None) -> bool:
        """Whether there is a file or directory of this path."""
        return await self._channel.try_call(_files.info(*self._to, path, user, request_timeout), unless="not_found")

    async def get_info(self, path: str, user: str | None = None, request_timeout: float | None = None) -> EntryInfo:
        """What is known of a file or directory. Raises FileNotFoundException."""
        request = _files.info(*self._to, path, user, request_timeout)
        return parsed_by(_files.entry_of, request, await self._channel.call(request))

    async def remove(self, path: str, user: str | None = None, request_timeout: float | None = None) -> None:
        """Remove a file, or a directory with all that is in it. Nothing happens when there is none."""
        await self._channel.call(_files.remove(*self._to, path, user, request_timeout))

    async def rename(
        self, old_path: str, new_path: str, user: str | None = None, request_timeout: float | None = None
    ) -> EntryInfo:
        """Move a file or directory; directories above its new place are created. Raises FileNotFoundException."""
        request = _files.rename(*self._to, old_path, new_path, user, request_timeout)
        return parsed_by(_files.entry_of, request, await self._channel.call(request))

    async def make_dir(self, path: str, user: str | None = None, request_timeout: float | None = None) -> bool:
        """Create a directory and those above it. True if it was created, False if it was there.

        Raises InvalidArgumentException when there is a file of this path.
        """
        return await self._channel.try_call(
            _files.make_dir(*self._to, path, user, request_timeout), unless="already_exists"
        )

    async def watch_dir(
        self,
        path: str,
        on_event: OutputHandler[FilesystemEvent],
        on_exit: OutputHandler[Exception | None] | None = None,
        user: str | None = None,
        request_timeout: float | None = None,
        timeout: float | None = 60,
        recursive: bool = False,
        include_entry: bool = False,
        allow_network_mounts: bool = False,
    ) -> AsyncWatchHandle:
        """Watch a directory for changes.

        on_event: called, and awaited, with each. on_exit: called at the end with what ended it, None for `stop`.
        timeout: seconds until it ends, with a TimeoutException; None and 0: never.
        recursive: what is in the directories below too, also in those that come later. include_entry: tell with each
        event what the entry was like. allow_network_mounts: also where the file system is a network's, whose events
        may be missing.
        Raises FileNotFoundException, InvalidArgumentException (no directory).
        """
        request = _files.watch(
            *self._to, path, user, request_timeout, timeout, recursive, include_entry, allow_network_mounts
        )
        messages = await Messages.open(self._channel, request)
        try:
            message = await messages.next()
            if message is None or "start" not in message:
                raise SandboxException("the server sent something else than the start of a watch")
        except BaseException:
            await messages.close()
            raise
        return AsyncWatchHandle(messages, on_event, on_exit)
