"""An Agent without walls: real files under a folder that stands for `/`, real processes, real ports of this machine.

Only for the gateway's tests; the real one has tests of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path, PurePosixPath

from raybox_actors.agent.api import ByteStream, FileReader, FileWriter
from raybox_actors.agent.errors import AgentError
from raybox_actors.agent.values import (
    EntryInfo,
    FileType,
    ProcessEvent,
    ProcessInfo,
    ProcessSelector,
    ProcessSpec,
    PtySize,
    WatchEvent,
)
from raybox_actors.errors import RayboxError
from tests.cluster.gateway.local_process import LocalProcess, set_size

HOMES = {"user": "/home/user", "root": "/root"}
PIECE_BYTES = 256 * 1024
LOOK_S = 0.01


class LocalAgent:
    def __init__(self, root: Path, check: Callable[[], None]) -> None:
        self._root = root
        self._check_alive = check  #: raises when the sandbox is gone
        self._processes: dict[int, LocalProcess] = {}
        self._watchers: dict[str, _Watch] = {}
        self._metadata: dict[str, dict[str, str]] = {}
        self._ids = itertools.count()
        self.room_bytes: int | None = None  #: what still fits on the disk; None: any amount
        self.written_bytes = 0
        self.dialled = 0  #: connections that are open
        self.fault: RayboxError | None = None  #: ends every stream, and is raised by every new call
        self.broken = asyncio.Event()
        for home in HOMES.values():
            self.real(home).mkdir(parents=True, exist_ok=True)

    def real(self, path: str) -> Path:
        """/proc is the machine's: its files claim to be empty."""
        return Path(path) if path.startswith("/proc/") else self._root / path.lstrip("/")

    def end(self, fault: RayboxError) -> None:
        """As when the sandbox goes: everything under way fails."""
        self.fault = fault
        self.broken.set()

    async def close(self) -> None:
        for process in list(self._processes.values()):
            process.kill(signal.SIGKILL)
            await process.ended.wait()

    def _begin(self, user: str = "user") -> None:
        self._check_alive()
        if self.fault is not None:
            raise self.fault
        if user not in HOMES:
            raise AgentError("unauthenticated", f"invalid username: '{user}'")

    def _resolve(self, path: str, user: str) -> str:
        self._begin(user)
        home = HOMES[user]
        if path == "~" or path.startswith("~/"):
            path = home + path[1:]
        return os.path.normpath(PurePosixPath(home) / path)

    def _entry(self, path: str) -> EntryInfo:
        real = self.real(path)
        try:
            own = real.lstat()
        except (FileNotFoundError, NotADirectoryError):
            raise AgentError("not_found", f"path '{path}' does not exist") from None
        is_link, seen, target = stat.S_ISLNK(own.st_mode), own, None
        if is_link:
            target = "/" + str(Path(os.path.realpath(real)).relative_to(self._root))
            with contextlib.suppress(OSError):
                seen = real.stat()
        kind: FileType = "unspecified"
        if stat.S_ISREG(seen.st_mode):
            kind = "file"
        elif stat.S_ISDIR(seen.st_mode):
            kind = "directory"
        permissions = stat.filemode(own.st_mode)
        return EntryInfo(
            name=PurePosixPath(path).name,
            path=path,
            file_type=kind,
            size_bytes=own.st_size,
            mode=stat.S_IMODE(seen.st_mode),
            permissions="L" + permissions[1:] if is_link else permissions,
            owner="user",
            group="user",
            modified_at_s=own.st_mtime,
            symlink_target=target,
            metadata=self._metadata.get(path, {}),
        )

    # ---- files ----

    async def stat(self, path: str, user: str) -> EntryInfo:
        return self._entry(self._resolve(path, user))

    async def list_dir(self, path: str, depth: int, user: str) -> list[EntryInfo]:
        top = self._resolve(path, user)
        if self._entry(top).file_type != "directory":
            raise AgentError("invalid_argument", f"path '{top}' is not a directory")

        def walk(folder: str, left: int) -> Iterator[EntryInfo]:
            for name in sorted(entry.name for entry in self.real(folder).iterdir()):
                entry = self._entry(f"{folder.rstrip('/')}/{name}")
                yield entry
                if left > 1 and entry.file_type == "directory" and entry.symlink_target is None:
                    yield from walk(entry.path, left - 1)

        return list(walk(top, depth))

    async def make_dir(self, path: str, user: str) -> EntryInfo:
        where = self._resolve(path, user)
        if self.real(where).is_dir():
            raise AgentError("already_exists", f"directory already exists: {where}")
        if self.real(where).exists():
            raise AgentError("invalid_argument", f"path '{where}' is not a directory")
        self.real(where).mkdir(parents=True)
        return self._entry(where)

    async def move(self, source: str, destination: str, user: str) -> EntryInfo:
        old, new = self._resolve(source, user), self._resolve(destination, user)
        self._entry(old)
        self.real(new).parent.mkdir(parents=True, exist_ok=True)
        self.real(old).rename(self.real(new))
        return self._entry(new)

    async def remove(self, path: str, user: str) -> None:
        real = self.real(self._resolve(path, user))
        if real.is_dir() and not real.is_symlink():
            shutil.rmtree(real)
        else:
            real.unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def open_read(
        self, path: str, user: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[FileReader]:
        where = self._resolve(path, user)
        entry = self._entry(where)
        if entry.file_type == "directory":
            raise AgentError("is_directory", f"path '{where}' is a directory")
        with self.real(where).open("rb") as file:
            file.seek(offset)
            yield _Reader(self, file.fileno(), entry, length)

    @contextlib.asynccontextmanager
    async def open_write(
        self, path: str, user: str, *, metadata: dict[str, str] | None = None
    ) -> AsyncIterator[FileWriter]:
        where = self._resolve(path, user)
        if self.real(where).is_dir():
            raise AgentError("invalid_argument", f"path '{where}' is a directory")
        self.real(where).parent.mkdir(parents=True, exist_ok=True)
        self._metadata[where] = dict(metadata or {})
        with self.real(where).open("wb", buffering=0) as file:
            yield _Writer(self, where, file.fileno())

    @contextlib.asynccontextmanager
    async def watch(
        self, path: str, user: str, *, recursive: bool, include_entry: bool
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        watch = self._watch(path, user, recursive, include_entry)

        async def events() -> AsyncIterator[WatchEvent]:
            while True:
                for event in watch.changes():
                    yield event
                if self.fault is not None:
                    raise self.fault
                await asyncio.sleep(LOOK_S)

        yield events()

    def _watch(self, path: str, user: str, recursive: bool, include_entry: bool) -> _Watch:
        where = self._resolve(path, user)
        if self._entry(where).file_type != "directory":
            raise AgentError("invalid_argument", f"path '{where}' is not a directory")
        return _Watch(self, where, recursive, include_entry)

    async def create_watcher(self, path: str, user: str, *, recursive: bool, include_entry: bool) -> str:
        watcher_id = f"w{next(self._ids)}"
        self._watchers[watcher_id] = self._watch(path, user, recursive, include_entry)
        return watcher_id

    async def watcher_events(self, watcher_id: str) -> list[WatchEvent]:
        self._begin()
        if watcher_id not in self._watchers:
            raise AgentError("not_found", f"watcher with id {watcher_id} not found")
        return self._watchers[watcher_id].changes()

    async def remove_watcher(self, watcher_id: str) -> None:
        await self.watcher_events(watcher_id)
        del self._watchers[watcher_id]

    # ---- processes ----

    @contextlib.asynccontextmanager
    async def start_process(self, spec: ProcessSpec) -> AsyncIterator[AsyncIterator[ProcessEvent]]:
        self._begin(spec.user)
        cwd = self.real(self._resolve(spec.cwd or "~", spec.user))
        if not cwd.is_dir():
            raise AgentError("invalid_argument", f"cwd '{spec.cwd}' does not exist")
        process = LocalProcess(spec)
        try:
            await process.start(cwd)
        except OSError as error:
            raise AgentError("invalid_argument", f"error starting process '{spec.command}': {error.strerror}") from None
        self._processes[process.pid] = process
        process.ended_callback = lambda: self._processes.pop(process.pid, None)
        yield process.listen(self)

    @contextlib.asynccontextmanager
    async def connect_process(self, selector: ProcessSelector) -> AsyncIterator[AsyncIterator[ProcessEvent]]:
        yield self._process(selector).listen(self)

    def _process(self, selector: ProcessSelector) -> LocalProcess:
        self._begin()
        for process in self._processes.values():
            if process.pid == selector.pid or (selector.tag is not None and process.spec.tag == selector.tag):
                return process
        which = f"pid {selector.pid}" if selector.pid is not None else f"tag {selector.tag}"
        raise AgentError("not_found", f"process with {which} not found")

    async def list_processes(self) -> list[ProcessInfo]:
        self._begin()
        return [ProcessInfo(process.pid, process.spec) for process in self._processes.values()]

    async def send_input(self, selector: ProcessSelector, data: bytes, *, pty: bool) -> None:
        process = self._process(selector)
        if pty != (process.spec.pty is not None):
            raise AgentError("failed_precondition", "the process has no such input")
        await asyncio.to_thread(os.write, process.stdin, data)

    async def close_stdin(self, selector: ProcessSelector) -> None:
        self._process(selector).close_stdin()

    async def signal_process(self, selector: ProcessSelector, signal: int) -> None:
        self._process(selector).kill(signal)

    async def resize(self, selector: ProcessSelector, size: PtySize) -> None:
        set_size(self._process(selector).stdin, size)

    # ---- ports ----

    async def dial(self, port: int) -> ByteStream:
        self._begin()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            raise AgentError("port_closed", f"port {port} is not open") from None
        return _Stream(self, reader, writer)


class _Reader:
    def __init__(self, agent: LocalAgent, fd: int, entry: EntryInfo, length: int | None) -> None:
        self._agent, self._fd, self._length = agent, fd, length
        self.entry = entry

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._length
        while left is None or left > 0:
            if self._agent.fault is not None:
                raise self._agent.fault
            data = os.read(self._fd, PIECE_BYTES if left is None else min(left, PIECE_BYTES))
            if not data:
                return
            left = None if left is None else left - len(data)
            yield data
            await asyncio.sleep(0)


class _Writer:
    def __init__(self, agent: LocalAgent, path: str, fd: int) -> None:
        self._agent, self._path, self._fd = agent, path, fd

    async def write(self, data: bytes) -> None:
        if self._agent.fault is not None:
            raise self._agent.fault
        if self._agent.room_bytes is not None:
            self._agent.room_bytes -= len(data)
            if self._agent.room_bytes < 0:
                raise AgentError("no_space", "not enough disk space left")
        os.write(self._fd, data)
        self._agent.written_bytes += len(data)

    async def commit(self) -> EntryInfo:
        return self._agent._entry(self._path)


class _Watch:
    """Compares what is there with what was there."""

    def __init__(self, agent: LocalAgent, path: str, recursive: bool, include_entry: bool) -> None:
        self._agent, self._path, self._recursive, self._include_entry = agent, path, recursive, include_entry
        self._seen = self._look()

    def _look(self) -> dict[str, tuple[int, int]]:
        top = self._agent.real(self._path)
        found = top.rglob("*") if self._recursive else top.glob("*")
        seen = {}
        for path in found:
            with contextlib.suppress(OSError):
                facts = path.lstat()
                seen[str(path.relative_to(top))] = (facts.st_mtime_ns, facts.st_size)
        return seen

    def changes(self) -> list[WatchEvent]:
        before, self._seen = self._seen, self._look()
        events = [self._event(name, "remove") for name in before if name not in self._seen]
        for name, facts in self._seen.items():
            if name not in before:
                events.append(self._event(name, "create"))
            elif facts != before[name]:
                events.append(self._event(name, "write"))
        return events

    def _event(self, name: str, kind: str) -> WatchEvent:
        entry = None
        if self._include_entry and kind != "remove":
            with contextlib.suppress(AgentError):
                entry = self._agent._entry(f"{self._path}/{name}")
        return WatchEvent(name, kind, entry)  # type: ignore[arg-type]  # one of the kinds


class _Stream:
    def __init__(self, agent: LocalAgent, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._agent, self._reader, self._writer = agent, reader, writer
        self._open = True
        agent.dialled += 1

    async def read(self, limit: int = 65536) -> bytes:
        reading = asyncio.ensure_future(self._reader.read(limit))
        broken = asyncio.ensure_future(self._agent.broken.wait())
        try:
            await asyncio.wait((reading, broken), return_when=asyncio.FIRST_COMPLETED)
            if self._agent.fault is not None:
                raise self._agent.fault
            return reading.result()
        except OSError:
            return b""
        finally:
            reading.cancel()
            broken.cancel()

    async def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError:
            raise AgentError("unavailable", "the connection was closed by the server") from None

    async def write_eof(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    def abort(self) -> None:
        if self._open:
            self._open = False
            self._agent.dialled -= 1
            self._writer.transport.abort()
