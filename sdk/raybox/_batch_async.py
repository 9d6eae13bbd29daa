"""A batch under way: sends items while it reads results. asyncio; the blocking pool runs it in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine, Iterable, Sized
from typing import Any

from . import _batch, _transport
from ._batch import AsyncItems, ExecItem, ItemResult
from ._config import ConnectionConfig
from ._errors import InvalidArgumentException, RayboxError
from ._responses import Reply, TransportFailure, error_of, error_of_failure
from ._stream import EventParser

OVERDUE = "the time of the batch was up"


async def exec_many(
    config: ConnectionConfig, options_line: bytes, items: AsyncItems
) -> AsyncGenerator[ItemResult, None]:
    """One result for each item that was taken, as they are done. Closing it ends what runs.

    items is read ahead by no more than the server can begin. What it raises is raised here.
    """
    if isinstance(items, (str, bytes)) or not isinstance(items, (Iterable, AsyncIterable)):
        raise InvalidArgumentException("items must be an iterable of str and ExecItem")
    feed = _Feed(options_line, items)
    request = _batch.request_of(config, feed.lines())
    parser, ended, overdue = EventParser(), False, False
    try:
        stream = await _transport.open_duplex(request)
    except TransportFailure as failure:
        raise feed.failure or error_of_failure(request, failure) from failure
    try:
        if stream.status != 200:
            raise error_of(request, Reply(stream.status, stream.headers, await _transport.read_all_async(stream)))
        while not ended:
            for event in parser.feed(await feed.unless_it_fails(stream.read())):
                if event["type"] == "started":
                    feed.widen(_batch.window_of(event["max_in_flight"]))
                elif event["type"] == "result":
                    result = _batch.result_of(event)
                    feed.done(result.index)
                    yield result
                elif event["type"] == "end":
                    ended, overdue = True, bool(event.get("deadline"))
    except TransportFailure as failure:
        error: RayboxError = error_of_failure(request, failure)
        await stream.close()
        for index, name in feed.unanswered():
            yield _batch.unreached(index, name, "infrastructure", str(error))
        raise error from failure
    finally:
        await stream.close()
    if overdue:
        for index, name in feed.unanswered():
            yield _batch.unreached(index, name, "deadline", OVERDUE)
        async for index, name in feed.rest():
            yield _batch.unreached(index, name, "deadline", OVERDUE)


class _Feed:
    """The body of the request: items as lines, no more on their way than the window allows."""

    def __init__(self, first: bytes, items: AsyncItems) -> None:
        self.failure: BaseException | None = None
        self._first, self._sized = first, isinstance(items, Sized)
        self._items = _each(items)
        self._window = _batch.FIRST_WINDOW
        self._room = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: By index: the names of items that were taken and have no result yet.
        self._out: dict[int, str | None] = {}
        self._taken = 0

    async def lines(self) -> AsyncIterator[bytes]:
        yield self._first
        try:
            async for item in self._items:
                line = _batch.item_line(item)
                self._out[self._taken] = _batch.id_of(item)
                self._taken += 1
                yield line
                while len(self._out) >= self._window:
                    self._room.clear()
                    await self._room.wait()
        except Exception as error:
            self.failure = error
            if not self._failed.done():
                self._failed.set_result(None)
            await asyncio.get_running_loop().create_future()  # the body must not end as if it were whole

    def widen(self, window: int) -> None:
        self._window = window
        self._room.set()

    def done(self, index: int) -> None:
        self._out.pop(index, None)
        self._room.set()

    def unanswered(self) -> list[tuple[int, str | None]]:
        """Index and name of what was taken and has no result."""
        return sorted(self._out.items(), key=lambda one: one[0])

    async def rest(self) -> AsyncIterator[tuple[int, str | None]]:
        """Of a collection, what was not taken at all. A stream may have no end."""
        if self._sized:
            async for item in self._items:
                yield self._taken, _batch.id_of(item)
                self._taken += 1

    async def unless_it_fails(self, reading: Coroutine[Any, Any, bytes]) -> bytes:
        """What is read; raises what taking an item raised."""
        task = asyncio.ensure_future(reading)
        try:
            both: set[asyncio.Future[Any]] = {task, self._failed}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if self.failure is not None:
                raise self.failure
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})


async def _each(items: AsyncItems) -> AsyncGenerator[str | ExecItem, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
