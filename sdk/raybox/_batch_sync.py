"""A batch for callers that block: the asyncio one, in a thread of its own."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, MappingView, Sequence, Set
from typing import Any

from . import _batch_async
from ._batch import AsyncItems, ExecItem, ItemResult, Items
from ._config import ConnectionConfig
from ._errors import InvalidArgumentException


def exec_many(config: ConnectionConfig, options: Mapping[str, Any], items: Items) -> Iterator[ItemResult]:
    """As `_batch_async.exec_many`. items may block: it is read in a thread, but one at a time."""
    if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
        raise InvalidArgumentException("items must be an iterable of str and ExecItem")
    return _results(config, options, items)


def _results(config: ConnectionConfig, options: Mapping[str, Any], items: Items) -> Iterator[ItemResult]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=_serve, args=(loop,), name="raybox-batch", daemon=True)
    thread.start()
    in_memory = isinstance(items, Sequence | Set | MappingView)  # then what was not taken is told, too
    source: AsyncItems = items if in_memory else _Blocking(items)
    batch = asyncio.run_coroutine_threadsafe(_begin(config, options, source), loop).result()
    try:
        while (result := asyncio.run_coroutine_threadsafe(batch.next(), loop).result()) is not None:
            yield result
    finally:
        asyncio.run_coroutine_threadsafe(batch.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


class _Batch:
    """Lives on the loop."""

    def __init__(self, results: AsyncGenerator[ItemResult, None]) -> None:
        self._results = results
        self._coming: asyncio.Task[ItemResult | None] | None = None

    async def next(self) -> ItemResult | None:
        self._coming = asyncio.ensure_future(anext(self._results, None))
        return await self._coming

    async def close(self) -> None:
        """Also when whoever waits for the next result was interrupted, as by Ctrl-C, and it still comes."""
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.wait({self._coming})
        await self._results.aclose()


async def _begin(config: ConnectionConfig, options: Mapping[str, Any], items: AsyncItems) -> _Batch:
    return _Batch(_batch_async.exec_many(config, options, items))


class _Blocking:
    """An iterable that may block, for a loop that must not. Whoever leaves in the middle is not held up by it: its
    thread ends when it gives something, or with the process."""

    _END = object()

    def __init__(self, items: Items) -> None:
        self._items = items

    async def __aiter__(self) -> AsyncIterator[str | ExecItem]:
        loop = asyncio.get_running_loop()
        asked: queue.SimpleQueue[asyncio.Future[Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(loop, asked), name="raybox-items", daemon=True).start()
        try:
            while True:
                answer: asyncio.Future[Any] = loop.create_future()
                asked.put(answer)
                if (item := await answer) is self._END:
                    return
                yield item
        finally:
            asked.put(None)

    def _read(self, loop: asyncio.AbstractEventLoop, asked: queue.SimpleQueue[asyncio.Future[Any] | None]) -> None:
        items = iter(self._items)
        while (answer := asked.get()) is not None:
            said: tuple[Any, Any]
            try:
                said = (next(items, self._END), None)
            except BaseException as error:
                said = (None, error)
            try:
                loop.call_soon_threadsafe(_answer, answer, *said)
            except RuntimeError:  # the batch was left, and its loop with it
                return


def _answer(answer: asyncio.Future[Any], item: object, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(item)
    else:
        answer.set_exception(error)
