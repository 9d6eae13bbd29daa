"""Agent (api.py) over connections that somebody else opens: in the sandbox's actor, or through it from elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from raybox_actors.agent import answers, wire
from raybox_actors.agent.answers import checked
from raybox_actors.agent.errors import AgentError
from raybox_actors.agent.values import (
    EntryInfo,
    ProcessEvent,
    ProcessInfo,
    ProcessOutput,
    ProcessSelector,
    ProcessSpec,
    ProcessStarted,
    PtySize,
    Stream,
    WatchEvent,
)
from raybox_actors.agent.wire import AgentConnection, Explain, broken

#: A connected stream socket with an agent at its other end, which becomes the caller's. Raises AgentError,
#: SandboxLost, NotFound.
Connect = Callable[[], Awaitable[socket.socket]]

OUTPUT: Final[dict[bytes, Stream]] = {wire.STDOUT: "stdout", wire.STDERR: "stderr", wire.TERMINAL: "pty"}
MAX_LIST_ENTRIES: Final = 100_000
MAX_WATCH_EVENTS: Final = 20_000


class AgentClient:
    """Implements raybox_actors.agent.api.Agent. Any number of operations at a time, each on a connection of its own."""

    def __init__(self, connect: Connect, explain: Explain) -> None:
        self._connect, self._explain = connect, explain

    # ---- files ----

    async def stat(self, path: str, user: str) -> EntryInfo:
        return checked(answers.entry, await self._ask("stat", path=path, user=user))

    async def list_dir(self, path: str, depth: int, user: str) -> list[EntryInfo]:
        found: list[EntryInfo] = []
        async with self._operation("list_dir", path=path, depth=depth, user=user) as connection:
            while True:
                kind, payload = await connection.receive()
                if kind == wire.END:
                    return found
                if kind != wire.ENTRIES or len(found) > MAX_LIST_ENTRIES:
                    raise broken("more than a list")
                found += checked(answers.entries, wire.parse_json(payload))

    async def make_dir(self, path: str, user: str) -> EntryInfo:
        return checked(answers.entry, await self._ask("make_dir", path=path, user=user))

    async def move(self, source: str, destination: str, user: str) -> EntryInfo:
        return checked(answers.entry, await self._ask("move", path=source, destination=destination, user=user))

    async def remove(self, path: str, user: str) -> None:
        await self._ask("remove", path=path, user=user)

    @asynccontextmanager
    async def open_read(
        self, path: str, user: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[_Reader]:
        async with self._operation("read", path=path, user=user, offset=offset, length=length) as connection:
            yield _Reader(connection, checked(answers.entry, await connection.expect(wire.OK)))

    @asynccontextmanager
    async def open_write(
        self, path: str, user: str, *, metadata: dict[str, str] | None = None
    ) -> AsyncIterator[_Writer]:
        async with self._operation("write", path=path, user=user, metadata=metadata) as connection:
            await connection.expect(wire.OK)
            writer = _Writer(connection)
            try:
                yield writer
            finally:
                await writer.close()

    @asynccontextmanager
    async def watch(
        self, path: str, user: str, *, recursive: bool, include_entry: bool
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        asked = {"path": path, "user": user, "recursive": recursive, "include_entry": include_entry}
        async with self._operation("watch", **asked) as connection:
            await connection.expect(wire.OK)
            async with contextlib.aclosing(self._events(connection)) as events:
                yield events

    @staticmethod
    async def _events(connection: AgentConnection) -> AsyncGenerator[WatchEvent, None]:
        while True:
            for event in checked(answers.watch_events, await connection.expect(wire.EVENTS)):
                yield event

    async def create_watcher(self, path: str, user: str, *, recursive: bool, include_entry: bool) -> str:
        asked = {"path": path, "user": user, "recursive": recursive, "include_entry": include_entry}
        return checked(lambda said: answers.text(said["watcher_id"]), await self._ask("create_watcher", **asked))

    async def watcher_events(self, watcher_id: str) -> list[WatchEvent]:
        found: list[WatchEvent] = []
        async with self._operation("watcher_events", watcher_id=watcher_id) as connection:
            while True:
                kind, payload = await connection.receive()
                if kind == wire.OK:
                    return found
                if kind != wire.EVENTS or len(found) > MAX_WATCH_EVENTS:
                    raise broken("more than a list")
                found += checked(answers.watch_events, wire.parse_json(payload))

    async def remove_watcher(self, watcher_id: str) -> None:
        await self._ask("remove_watcher", watcher_id=watcher_id)

    # ---- processes ----

    @asynccontextmanager
    async def start_process(self, spec: ProcessSpec) -> AsyncIterator[AsyncIterator[ProcessEvent]]:
        async with self._attached("start", spec=dataclasses.asdict(spec)) as events:
            yield events

    @asynccontextmanager
    async def connect_process(self, selector: ProcessSelector) -> AsyncIterator[AsyncIterator[ProcessEvent]]:
        async with self._attached("connect", **selected(selector)) as events:
            yield events

    @asynccontextmanager
    async def _attached(self, op: str, **fields: object) -> AsyncIterator[AsyncIterator[ProcessEvent]]:
        """Entered when the process runs; what kept it from starting is raised then."""
        async with self._operation(op, **fields) as connection:
            started = ProcessStarted(checked(answers.pid, await connection.expect(wire.STARTED)))
            async with contextlib.aclosing(self._output(connection, started)) as events:
                yield events

    @staticmethod
    async def _output(connection: AgentConnection, started: ProcessStarted) -> AsyncGenerator[ProcessEvent, None]:
        yield started
        while True:
            kind, payload = await connection.receive()
            if stream := OUTPUT.get(kind):
                yield ProcessOutput(stream, payload)
            elif kind == wire.ENDED:
                yield checked(answers.ended, wire.parse_json(payload))
                return
            else:
                raise broken(f"{kind!r} from a process")

    async def list_processes(self) -> list[ProcessInfo]:
        return checked(answers.processes, await self._ask("list_processes"))

    async def send_input(self, selector: ProcessSelector, data: bytes, *, pty: bool) -> None:
        async with self._operation("input", pty=pty, **selected(selector)) as connection:
            writer = _Writer(connection)
            try:
                await writer.write(data)
                await writer.finish()
            finally:
                await writer.close()

    async def close_stdin(self, selector: ProcessSelector) -> None:
        await self._ask("close_stdin", **selected(selector))

    async def signal_process(self, selector: ProcessSelector, signal: int) -> None:
        await self._ask("signal", signal=signal, **selected(selector))

    async def resize(self, selector: ProcessSelector, size: PtySize) -> None:
        await self._ask("resize", size=dataclasses.asdict(size), **selected(selector))

    # ---- ports ----

    async def dial(self, port: int) -> _Stream:
        connection = await self._begin("dial", port=port)
        try:
            await connection.expect(wire.OK)
        except BaseException:
            connection.close()
            raise
        return _Stream(connection)

    # ---- what they share ----

    async def _begin(self, op: str, **fields: object) -> AgentConnection:
        header = wire.json_frame(wire.HEADER, {"op": op, **fields})
        connection = AgentConnection(await self._connect(), self._explain)
        try:
            await connection.send(header)
        except BaseException:
            connection.close()
            raise
        return connection

    @asynccontextmanager
    async def _operation(self, op: str, **fields: object) -> AsyncIterator[AgentConnection]:
        connection = await self._begin(op, **fields)
        try:
            yield connection
        finally:
            connection.close()

    async def _ask(self, op: str, **fields: object) -> Any:
        async with self._operation(op, **fields) as connection:
            return await connection.expect(wire.OK)


def selected(selector: ProcessSelector) -> dict[str, object]:
    """Raises AgentError unless it is by exactly one of pid and tag."""
    if (selector.pid is None) == (selector.tag is None):
        raise AgentError("invalid_argument", "a process is selected by either pid or tag")
    return {"pid": selector.pid} if selector.pid is not None else {"tag": selector.tag}


class _Reader:
    def __init__(self, connection: AgentConnection, entry: EntryInfo) -> None:
        self._connection, self.entry = connection, entry

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            kind, payload = await self._connection.receive()
            if kind == wire.END:
                return
            if kind != wire.DATA:
                raise broken(f"{kind!r} from a file")
            yield payload


class _Writer:
    """Sends DATA. The agent says nothing until all is done, or until something failed."""

    def __init__(self, connection: AgentConnection) -> None:
        self._connection = connection
        self._answer = asyncio.ensure_future(connection.expect(wire.OK))
        self._finishing = False

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), wire.MAX_DATA_BYTES):
            await self._send(wire.frame(wire.DATA, view[start : start + wire.MAX_DATA_BYTES]))

    async def commit(self) -> EntryInfo:
        return checked(answers.entry, await self.finish())

    async def finish(self) -> Any:
        """The agent's answer to the whole."""
        self._finishing = True
        await self._send(wire.frame(wire.COMMIT))
        return await self._answer

    async def _send(self, data: bytes) -> None:
        if not self._answer.done():
            try:
                await self._connection.send(data)
                return
            except AgentError:
                pass  # the answer says why, or that it was cut
        await self._answer
        if not self._finishing:
            raise broken("an answer before the end")

    async def close(self) -> None:
        self._answer.cancel()
        await asyncio.wait({self._answer})
        if not self._answer.cancelled():
            self._answer.exception()  # retrieved


class _Stream:
    def __init__(self, connection: AgentConnection) -> None:
        self._connection = connection

    async def read(self, limit: int = 65536) -> bytes:
        return await self._connection.read(limit)

    async def write(self, data: bytes) -> None:
        await self._connection.send(data)

    async def write_eof(self) -> None:
        self._connection.end()

    def abort(self) -> None:
        self._connection.close()
