"""Files. Its twin is `_filesystem_async.py`: same methods, same order, same docstrings."""

from __future__ import annotations

import builtins
from collections.abc import Generator, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self, overload

from . import _files, _uploads
from ._channel_sync import Channel
from ._envd_models import EntryInfo, FilesystemEvent, WriteData, WriteEntry, WriteInfo
from ._envd_requests import path_of
from ._errors import SandboxException
from ._requests import Request
from ._responses import TransportFailure, parsed_by


class FileStreamReader:
    """A file that is being read: iterate over its bytes. To leave it early, use it as a context manager or `close` it.

    Iterating raises TimeoutException when it stands still for too long, and SandboxNotRunningException.
    """

    def __init__(self, channel: Channel, request: Request) -> None:
        """For `files` alone."""
        self._channel = channel
        self._request = request
        self._stream = channel.open(request)
        gzipped = self._stream.headers.get("content-encoding") == "gzip"
        self._inflater = _uploads.Inflater() if gzipped else None
        self._pieces = self._read()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the rest unread. May be repeated."""
        self._pieces.close()
        self._stream.close()

    def _read(self) -> Generator[bytes, None, None]:
        try:
            while data := self._stream.read():
                if self._inflater is None:
                    yield data
                else:
                    yield from self._inflater.feed(data)
        except TransportFailure as failure:
            raise self._channel.explain(self._request, failure) from failure
        except ValueError as error:
            raise SandboxException(f"the server sent a file that cannot be unpacked: {error}") from error
        finally:
            self._stream.close()


class WatchHandle:
    """A directory that is watched: ask for what happened in it with `get_new_events`."""

    def __init__(self, channel: Channel, watcher_id: str, user: str | None) -> None:
        """For `files` alone."""
        self._channel = channel
        self._watcher_id = watcher_id
        self._user = user

    def stop(self, request_timeout: float | None = None) -> None:
        """Stop watching. Events that nobody asked for are lost."""
        config, address = self._channel.config, self._channel.address
        self._channel.call(_files.remove_watcher(config, address, self._watcher_id, self._user, request_timeout))

    def get_new_events(self, request_timeout: float | None = None) -> builtins.list[FilesystemEvent]:
        """What happened since the last time this was asked, in order. Raises NotFoundException once it is stopped."""
        config, address = self._channel.config, self._channel.address
        request = _files.watcher_events(config, address, self._watcher_id, self._user, request_timeout)
        return parsed_by(_files.events, request, self._channel.call(request))


class Filesystem:
    """Files of a sandbox: `sandbox.files`.

    Paths are absolute, or relative to the home of the user who asks (`user`, default `user`); `~` is that home.
    """

    def __init__(self, channel: Channel) -> None:
        """For `Sandbox` alone."""
        self._channel = channel
        self._to = channel.config, channel.address

    @overload
    def read(
        self,
        path: str,
        format: Literal["text"] = "text",
        user: str | None = None,
        request_timeout: float | None = None,
        gzip: bool = False,
        stream_idle_timeout: float | None = None,
    ) -> str: ...
    @overload
    def read(
        self,
        path: str,
        format: Literal["bytes"],
        user: str | None = None,
        request_timeout: float | None = None,
        gzip: bool = False,
        stream_idle_timeout: float | None = None,
    ) -> bytearray: ...
    @overload
    def read(
        self,
        path: str,
        format: Literal["stream"],
        user: str | None = None,
        request_timeout: float | None = None,
        gzip: bool = False,
        stream_idle_timeout: float | None = None,
    ) -> FileStreamReader: ...
    def read(
        self,
        path: str,
        format: Literal["text", "bytes", "stream"] = "text",  # noqa: A002  # the E2B SDK's name
        user: str | None = None,
        request_timeout: float | None = None,
        gzip: bool = False,
        stream_idle_timeout: float | None = None,
    ) -> str | bytearray | FileStreamReader:
        """The content of a file: a str (UTF-8, other bytes replaced), a bytearray, or a stream, read as it comes.

        request_timeout: seconds that may pass without progress; of a stream: that all of it may take, default no limit.
        gzip: whether it travels compressed. stream_idle_timeout: seconds that a stream may stand still, default 60; 0:
        no limit.
        Raises FileNotFoundException, InvalidArgumentException (a directory), TimeoutException, LimitException (more
        than 2 GiB, which only a stream takes).
        """
        request = _files.read(*self._to, path, format, user, request_timeout, gzip, stream_idle_timeout)
        reader = FileStreamReader(self._channel, request)
        if format == "stream":
            return reader
        with reader:
            content = bytearray()
            for piece in reader:
                content += piece
                _files.check_size(content, path)
        return content if format == "bytes" else content.decode(errors="replace")

    def write(
        self,
        path: str,
        data: WriteData,
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
        return self._write([(path, data)], user, request_timeout, gzip, use_octet_stream, metadata)[0]

    def write_files(
        self,
        files: Sequence[WriteEntry],
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
        return self._write(listed, user, request_timeout, gzip, use_octet_stream, metadata)

    def _write(
        self,
        files: Sequence[tuple[str, WriteData]],
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
            body, length = form.body(contents), form.length(contents)
            request = _files.write(
                *self._to, where, user, request_timeout, metadata, form.content_type, None, body, length
            )
            return _files.written(request, self._channel.ask(request), len(files))
        written = []
        for path, data in files:
            body, length = _uploads.pieces(data), None if gzip else _uploads.length_of(data)
            if gzip:
                body = _uploads.compressed(body)
            request = _files.write(
                *self._to, path, user, request_timeout, metadata, _files.BARE, "gzip" if gzip else None, body, length
            )
            written += _files.written(request, self._channel.ask(request), 1)
        return written

    def list(
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
        return parsed_by(_files.entries, request, self._channel.call(request))

    def exists(self, path: str, user: str | None = None, request_timeout: float | None = None) -> bool:
        """Whether there is a file or directory of this path."""
        return self._channel.try_call(_files.info(*self._to, path, user, request_timeout), unless="not_found")

    def get_info(self, path: str, user: str | None = None, request_timeout: float | None = None) -> EntryInfo:
        """What is known of a file or directory. Raises FileNotFoundException."""
        request = _files.info(*self._to, path, user, request_timeout)
        return parsed_by(_files.entry_of, request, self._channel.call(request))

    def remove(self, path: str, user: str | None = None, request_timeout: float | None = None) -> None:
        """Remove a file, or a directory with all that is in it. Nothing happens when there is none."""
        self._channel.call(_files.remove(*self._to, path, user, request_timeout))

    def rename(
        self, old_path: str, new_path: str, user: str | None = None, request_timeout: float | None = None
    ) -> EntryInfo:
        """Move a file or directory; directories above its new place are created. Raises FileNotFoundException."""
        request = _files.rename(*self._to, old_path, new_path, user, request_timeout)
        return parsed_by(_files.entry_of, request, self._channel.call(request))

    def make_dir(self, path: str, user: str | None = None, request_timeout: float | None = None) -> bool:
        """Create a directory and those above it. True if it was created, False if it was there.

        Raises InvalidArgumentException when there is a file of this path.
        """
        return self._channel.try_call(_files.make_dir(*self._to, path, user, request_timeout), unless="already_exists")

    def watch_dir(
        self,
        path: str,
        user: str | None = None,
        request_timeout: float | None = None,
        recursive: bool = False,
        include_entry: bool = False,
        allow_network_mounts: bool = False,
    ) -> WatchHandle:
        """Watch a directory for changes.

        recursive: what is in the directories below too, also in those that come later. include_entry: tell with each
        event what the entry was like. allow_network_mounts: also where the file system is a network's, whose events
        may be missing.
        Raises FileNotFoundException, InvalidArgumentException (no directory).
        """
        request = _files.create_watcher(
            *self._to, path, user, request_timeout, recursive, include_entry, allow_network_mounts
        )
        watcher_id = parsed_by(_files.watcher_id, request, self._channel.call(request))
        return WatchHandle(self._channel, watcher_id, user)
