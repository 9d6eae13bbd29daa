"""Single items of many callers as one batch for each of them: sandboxes are kept while there is something to do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable

from raybox_actors.errors import InternalError, NoCapacity
from raybox_actors.values import CreateRequest, ItemRequest
from raybox_cluster.gateway.backend import Backend

from .run import Batch, Entry, Result
from .schedule import Rules

logger = logging.getLogger(__name__)

#: A batch that nobody has given anything for so long ends, and its sandboxes with it.
IDLE_S = 5.0
#: Items of one batch that have no result yet, and how large they may be together; more are refused.
MAX_WAITING = 4096
MAX_WAITING_BYTES = 256 * 1024 * 1024


class Service:
    """Owns the batches. What callers say of sandboxes is a part of `whose`: only equals share them."""

    def __init__(
        self,
        backend: Backend,
        rules: Callable[[], Awaitable[Rules]],
        *,
        idle_s: float = IDLE_S,
    ) -> None:
        """rules: asked once for each new batch."""
        self._backend, self._rules = backend, rules
        self._idle_s = idle_s
        self._batches: dict[Hashable, _Shared] = {}
        self._lingering: set[asyncio.Task[None]] = set()

    async def run(self, whose: Hashable, create: CreateRequest, item: ItemRequest) -> Result:
        """The item's result. Raises NoCapacity (too many wait), InternalError. One whose caller has gone (cancellation)
        is not begun any more."""
        shared = self._open(whose)
        if shared is None:
            rules = await self._rules()
            shared = self._open(whose) or self._begin(whose, create, rules)  # another caller may have been first
        return await shared.run(item)

    def _open(self, whose: Hashable) -> _Shared | None:
        shared = self._batches.get(whose)
        return None if shared is None or shared.closed else shared

    def _begin(self, whose: Hashable, create: CreateRequest, rules: Rules) -> _Shared:
        shared = _Shared(self._backend, create, rules, self._idle_s, self._lingering)
        self._batches[whose] = shared
        shared.pump.add_done_callback(lambda _: self._forget(whose, shared))
        return shared

    def _forget(self, whose: Hashable, shared: _Shared) -> None:
        if self._batches.get(whose) is shared:
            del self._batches[whose]


class _Shared:
    def __init__(
        self,
        backend: Backend,
        create: CreateRequest,
        rules: Rules,
        idle_s: float,
        lingering: set[asyncio.Task[None]],
    ) -> None:
        self.closed = False
        self._bytes = 0  #: of the items that callers wait for
        self._idle_s = idle_s
        self._waiting: asyncio.Queue[tuple[ItemRequest, asyncio.Future[Result]]] = asyncio.Queue()
        #: By index: who waits for what was begun.
        self._under_way: dict[int, asyncio.Future[Result]] = {}
        self._batch = Batch(backend, create, rules, self._items(), lingering=lingering)
        self.pump = asyncio.get_running_loop().create_task(self._pump())

    async def run(self, item: ItemRequest) -> Result:
        if self._waiting.qsize() + len(self._under_way) >= MAX_WAITING:
            raise NoCapacity(f"{MAX_WAITING} pieces of code wait already", 1.0)
        if self._bytes >= MAX_WAITING_BYTES:
            raise NoCapacity(f"pieces of code with {MAX_WAITING_BYTES} bytes wait already", 1.0)
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((item, answer))
        self._bytes += item.size_bytes
        try:
            return await answer
        finally:
            self._bytes -= item.size_bytes

    async def _items(self) -> AsyncGenerator[Entry, None]:
        index = 0
        while True:
            try:
                async with asyncio.timeout(self._idle_s):
                    item, answer = await self._waiting.get()
            except TimeoutError:
                if self._under_way or not self._waiting.empty():
                    continue
                self.closed = True
                return
            if not answer.done():
                self._under_way[index] = answer
                index += 1
                yield Entry(None, item)

    async def _pump(self) -> None:
        fault = InternalError("the batch ended")
        try:
            async for result in self._batch.results():
                answer = self._under_way.pop(result.index)
                if not answer.done():
                    answer.set_result(result)
        except Exception:
            logger.exception("a batch of single items failed")
            fault = InternalError("the batch failed; the gateway's log has the details")
        finally:
            self.closed = True
            left = [*self._under_way.values()]
            while not self._waiting.empty():
                left.append(self._waiting.get_nowait()[1])
            for answer in left:
                if not answer.done():
                    answer.set_exception(fault)
