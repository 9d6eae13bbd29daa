"""A batch under way: sends items while it reads results. asyncio; the blocking pool runs it in a thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Coroutine, Iterable, Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from . import _batch, _transport
from ._batch import AsyncItems, ExecItem, ItemResult
from ._config import ConnectionConfig
from ._errors import InvalidArgumentException, RayboxError
from ._responses import Reply, TransportFailure, error_of, error_of_failure
from ._stream import EventParser

OVERDUE = "the time of the batch was up"
#: How often in a row an answer may break off with no result in it.
MAX_BROKEN = 3
BROKEN_PAUSE_S = 0.5
#: The server knows when the batch's time is up; what it says is waited for so much longer.
LATE_S = 5.0

T = TypeVar("T")


async def exec_many(
    config: ConnectionConfig, options: Mapping[str, Any], items: AsyncItems
) -> AsyncGenerator[ItemResult, None]:
    """One result for each item that was taken, as they are done. Closing it ends what runs.

    items is read ahead by no more than the server can begin. What it raises is raised here. When the answer breaks off,
    the items that have no result yet are sent again.
    """
    if isinstance(items, (str, bytes)) or not isinstance(items, (Iterable, AsyncIterable)):
        raise InvalidArgumentException("items must be an iterable of str and ExecItem")
    feed, broken = _Feed(options, items), 0
    try:
        while True:
            request = _batch.request_of(config, feed.body())
            any_result = False
            try:
                stream = await feed.in_time(_transport.open_duplex(request))
                try:
                    if stream.status != 200:
                        body = await _transport.read_all_async(stream)
                        refusal = error_of(request, Reply(stream.status, stream.headers, body))
                        for index, name in feed.unanswered():  # of requests before this one
                            yield _batch.unreached(index, name, "infrastructure", str(refusal))
                        raise refusal
                    parser, overdue = EventParser(), None
                    while overdue is None:
                        if not (data := await feed.unless_it_fails(stream.read(), feed.patience_s())):
                            raise TransportFailure("broken", "it ended without an end event")
                        for event in parser.feed(data):
                            if event["type"] == "started":
                                feed.widen(_batch.window_of(event["max_in_flight"]))
                            elif event["type"] == "result":
                                any_result = True
                                yield feed.settle(_batch.result_of(event))
                            elif event["type"] == "end":
                                overdue = bool(event.get("deadline"))
                finally:
                    await stream.close()
            except TransportFailure as failure:
                if feed.is_late and not feed.never_sent:
                    overdue = True
                    break
                error: RayboxError = error_of_failure(request, failure)
                broken = 1 if any_result else broken + 1
                if feed.never_sent or broken >= MAX_BROKEN:
                    for index, name in feed.unanswered():
                        yield _batch.unreached(index, name, "infrastructure", str(error))
                    raise error from failure
                await asyncio.sleep(broken * BROKEN_PAUSE_S)
                continue
            break
        if overdue:
            for index, name in feed.unanswered():
                yield _batch.unreached(index, name, "deadline", OVERDUE)
            async for index, name in feed.rest():
                yield _batch.unreached(index, name, "deadline", OVERDUE)
    finally:
        await feed.close()


@dataclass(slots=True)
class _Held:
    """An item that was taken and has no result yet."""

    name: str | None
    line: bytes
    sends: int = 0


class _End:
    """After the last item."""


class _Feed:
    """The bodies of the requests: items as lines, no more on their way than the window allows."""

    def __init__(self, options: Mapping[str, Any], items: AsyncItems) -> None:
        self.failure: BaseException | None = None
        self._options, self._sized = options, isinstance(items, Sized)
        limit_s = options.get("deadline_s")
        self._ends_at_s = None if limit_s is None else time.monotonic() + limit_s
        self._window = _batch.FIRST_WINDOW
        self._room = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._out: dict[int, _Held] = {}
        #: Of this request: the items' places among all, by their places in it.
        self._sent: list[int] = []
        self._taken = 0
        self._ended = False
        # By a task of its own: a request that ends in the midst of waiting for an item must not lose it.
        self._next: asyncio.Queue[str | ExecItem | _End] = asyncio.Queue(1)
        self._pulling = asyncio.get_running_loop().create_task(self._pull(items))

    async def _pull(self, items: AsyncItems) -> None:
        try:
            async for item in _each(items):
                await self._next.put(item)
        except Exception as error:
            self._fail(error)
        else:
            await self._next.put(_End())

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        if not self._failed.done():
            self._failed.set_result(None)

    async def body(self) -> AsyncIterator[bytes]:
        """Of the next request: what has no result yet, and then what comes."""
        self._sent = []
        yield _batch.options_line(self._options, self._left_s())
        for index, held in list(self._out.items()):
            if index in self._out:
                yield self._send(index, held)
        while True:
            while len(self._out) >= self._window:
                self._room.clear()
                await self._room.wait()
            if self._ended:
                return
            item = await self._next.get()
            if isinstance(item, _End):
                self._ended = True
                return
            try:
                held = self._out[self._taken] = _Held(_batch.id_of(item), _batch.item_line(item))
            except InvalidArgumentException as error:
                self._fail(error)
                await asyncio.get_running_loop().create_future()  # the body must not end as if it were whole
            self._taken += 1
            yield self._send(self._taken - 1, held)

    def _send(self, index: int, held: _Held) -> bytes:
        self._sent.append(index)
        held.sends += 1
        return held.line

    def _left_s(self) -> float | None:
        return None if self._ends_at_s is None else max(self._ends_at_s - time.monotonic(), 0.001)

    @property
    def is_late(self) -> bool:
        return self._ends_at_s is not None and time.monotonic() >= self._ends_at_s

    @property
    def never_sent(self) -> bool:
        """No server has been given an item yet: it may well not be there."""
        return not self._taken

    def widen(self, window: int) -> None:
        self._window = window
        self._room.set()

    def settle(self, result: ItemResult) -> ItemResult:
        """With the item's place among all, and what it was begun before."""
        index = self._sent[result.index]
        held = self._out.pop(index)
        self._room.set()
        return replace(result, index=index, attempts=result.attempts + held.sends - 1)

    def unanswered(self) -> list[tuple[int, str | None]]:
        """Index and name of what was taken and has no result."""
        return [(index, held.name) for index, held in sorted(self._out.items())]

    async def rest(self) -> AsyncIterator[tuple[int, str | None]]:
        """Of a collection, what was not taken at all. A stream may have no end."""
        while self._sized and not self._ended:
            if isinstance(item := await self.unless_it_fails(self._next.get()), _End):
                self._ended = True
                return
            yield self._taken, _batch.id_of(item)
            self._taken += 1

    def patience_s(self) -> float | None:
        """Until the batch's time is up, and LATE_S more."""
        return None if self._ends_at_s is None else max(self._ends_at_s + LATE_S - time.monotonic(), 0.0)

    async def in_time(self, work: Awaitable[T]) -> T:
        """What it gives. Raises TransportFailure when `patience_s` is over."""
        clock = asyncio.timeout(self.patience_s())
        try:
            async with clock:
                return await work
        except TimeoutError:
            if clock.expired():
                raise TransportFailure("timeout") from None
            raise

    async def unless_it_fails(self, work: Coroutine[Any, Any, T], limit_s: float | None = None) -> T:
        """What it gives. Raises what taking an item raised, and TransportFailure after `limit_s`."""
        task = asyncio.ensure_future(work)
        try:
            both: set[asyncio.Future[Any]] = {task, self._failed}
            await asyncio.wait(both, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if self.failure is not None:
                raise self.failure
            if not task.done():
                raise TransportFailure("timeout")
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def close(self) -> None:
        self._pulling.cancel()
        await asyncio.wait({self._pulling})


async def _each(items: AsyncItems) -> AsyncGenerator[str | ExecItem, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
