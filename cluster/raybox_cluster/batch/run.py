"""A batch: items in, results out as they come, on sandboxes of its own. What happens next is decided by schedule.py.

Backpressure both ways: items are asked for no further ahead than a few for each sandbox, and while nobody takes a
result, nothing new is begun. So memory is bounded by what is under way, however many items there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from raybox_actors.errors import (
    BadRequest,
    InternalError,
    LimitReached,
    NoCapacity,
    RayboxError,
    SandboxLost,
)
from raybox_actors.values import CreateRequest, ItemOutcome, ItemRequest, SandboxInfo
from raybox_cluster.gateway.backend import Backend

from .holding import LEASE_S, RENEW_S, Hold
from .schedule import MASKED, Emit, EndWorker, Instruction, Rules, Run, Schedule, StartWorker, Status

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

#: How often it is looked which sandboxes are to be renewed.
LOOK_S = 1.0
#: What an item may take beyond its own time until its sandbox is given up.
GRACE_S = 30.0
#: So long items that were given together hold each other up: then those that have not begun are given to others.
TOGETHER_LIMIT_S = 0.5
#: Pause before the next attempt to start a sandbox, where the pool does not say.
PAUSE_S = 0.5
#: While items in hand are that large together, no more are taken, however many sandboxes are free.
HELD_BYTES = 256 * 1024 * 1024
#: Ending all sandboxes, when the batch is left.
END_LIMIT_S = 30.0
#: Among the numbers of workers: what is about none of them.
NEXT_ITEM = -1


@dataclass(frozen=True, slots=True)
class Entry:
    """An item as it came in: a request, or why it is none. `name`: the caller's own."""

    name: str | None
    request: ItemRequest | None
    refusal: RayboxError | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an item; `outcome`: what its code did, if it ran to an end."""

    index: int
    name: str | None
    status: Status
    attempts: int
    outcome: ItemOutcome | None = None
    error: RayboxError | None = None

    @property
    def should_mask_sample(self) -> bool:
        return self.status in MASKED


@dataclass(slots=True)
class _Held:
    entry: Entry
    size_bytes: int
    result: Result | None = None
    fault: RayboxError | None = None


#: What happened, for the schedule to be told at a moment. Not told where it happens: what follows must be carried out
#: in the order in which the schedule hears.
Said = Callable[[float], list[Instruction]]


class Batch:
    """One batch. Iterate over `results` once; leaving it early ends all that runs, before it returns."""

    def __init__(
        self,
        backend: Backend,
        create: CreateRequest,
        rules: Rules,
        items: AsyncIterator[Entry],
        *,
        deadline_s: float | None = None,
        lingering: set[asyncio.Task[None]] | None = None,
    ) -> None:
        """create: what its sandboxes are like; how long they live is said by holding.py. deadline_s: for all of it,
        from the first moment of `results` on.
        lingering: of whoever owns what outlives the batch: creations that nobody waits for, until they can be undone.
        """
        self._lingering = set() if lingering is None else lingering
        self._backend, self._items = backend, items
        self._create = replace(create, timeout_s=LEASE_S)
        self._schedule = Schedule(rules)
        self._deadline_s = deadline_s
        self._workers: dict[int, Hold] = {}
        self._held: dict[int, _Held] = {}
        self._held_bytes = 0
        self._taken = 0
        self._ready: list[Result] = []
        #: What is under way, by the number of the worker that it is about, or NEXT_ITEM.
        self._tasks: dict[int, asyncio.Task[Said]] = {}
        self._kills: set[asyncio.Task[None]] = set()
        self.timed_out = False
        self._refusal: RayboxError | None = None  #: why there were no sandboxes, the last time

    async def results(self) -> AsyncGenerator[Result, None]:
        """Each item's result once, in the order in which they are known."""
        ends_at_s = None if self._deadline_s is None else time.monotonic() + self._deadline_s
        renewing = asyncio.get_running_loop().create_task(self._renew_all())
        try:
            while True:
                while self._ready:
                    yield self._ready.pop(0)
                if self._schedule.over:
                    return
                if self._wants_item and NEXT_ITEM not in self._tasks:
                    self._begin(NEXT_ITEM, self._next_item())
                now_s = time.monotonic()
                if ends_at_s is not None and now_s >= ends_at_s and not self.timed_out:
                    self.timed_out = True
                    self._carry_out(self._schedule.time_is_up())
                    continue
                moments = [at_s for at_s in (ends_at_s, self._schedule.wakes_at_s) if at_s is not None]
                limit_s = max(0.0, min(moments) - now_s) if moments else None
                for about in await self._any_done(limit_s):
                    self._carry_out(self._tasks.pop(about).result()(time.monotonic()))
                self._carry_out(self._schedule.look(time.monotonic()))
        finally:
            renewing.cancel()
            await self._end()

    @property
    def _wants_item(self) -> bool:
        return self._schedule.wants_item and self._held_bytes < HELD_BYTES

    async def _any_done(self, limit_s: float | None) -> list[int]:
        """What is done by then; while the pool is full there may be nothing to wait for but time."""
        if not self._tasks:
            await asyncio.sleep(limit_s or 0.0)
            return []
        await asyncio.wait(self._tasks.values(), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        return [about for about, task in self._tasks.items() if task.done()]

    def _begin(self, about: int, work: Coroutine[Any, Any, Said]) -> None:
        self._tasks[about] = asyncio.get_running_loop().create_task(work)

    def _carry_out(self, instructions: list[Instruction]) -> None:
        for one in instructions:
            match one:
                case StartWorker(worker):
                    self._begin(worker, self._start(worker))
                case Run(worker, indices, attempt):
                    self._begin(worker, self._run(worker, indices, attempt))
                case EndWorker(worker):
                    if (task := self._tasks.pop(worker, None)) is not None:
                        task.cancel()
                    if (ended := self._workers.pop(worker, None)) is not None:
                        self._kill(ended.sandbox_id)
                case Emit(index, attempts, verdict):
                    self._ready.append(self._result(index, attempts, verdict))

    def _result(self, index: int, attempts: int, verdict: Status | None) -> Result:
        held = self._held.pop(index)
        self._held_bytes -= held.size_bytes
        if held.result is not None:  # perhaps in the very moment of the deadline
            return replace(held.result, attempts=attempts)
        error = held.fault or self._refusal if verdict == "infrastructure" else None
        return Result(index, held.entry.name, verdict or "infrastructure", attempts, None, error)

    async def _next_item(self) -> Said:
        entry = await anext(self._items, None)
        if entry is None:
            return lambda _now_s: self._schedule.input_ended()
        index, self._taken = self._taken, self._taken + 1
        if entry.request is not None:
            held = self._held[index] = _Held(entry, entry.request.size_bytes)
            self._held_bytes += held.size_bytes
            return partial(self._schedule.took, index)
        self._ready.append(Result(index, entry.name, "invalid", 0, None, entry.refusal))
        return lambda _now_s: []

    async def _start(self, worker: int) -> Said:
        try:
            hold = await self._new_hold()
        except RayboxError as error:
            self._refusal = error
            pause_s = error.retry_after_s if isinstance(error, NoCapacity) else PAUSE_S
            full = isinstance(error, (NoCapacity, LimitReached))
            return partial(self._schedule.worker_refused, worker, max(pause_s, PAUSE_S), full)
        except Exception as error:
            logger.exception("a sandbox for a batch")
            self._refusal = InternalError(f"no sandbox could be made: {type(error).__name__}")
            return partial(self._schedule.worker_refused, worker, PAUSE_S, False)
        self._workers[worker] = hold
        return partial(self._schedule.worker_started, worker)

    async def _new_hold(self) -> Hold:
        """Cancellation leaves none. Raises what `Backend.create` raises."""
        call = asyncio.ensure_future(self._backend.create(self._create))
        try:
            info = await asyncio.shield(call)
        except asyncio.CancelledError:
            abandoned = asyncio.get_running_loop().create_task(self._abandon(call))
            self._lingering.add(abandoned)
            abandoned.add_done_callback(self._lingering.discard)
            raise
        return Hold(info.sandbox_id, time.monotonic())

    async def _run(self, worker: int, indices: tuple[int, ...], attempt: int) -> Said:
        asked = tuple(self._asked(index, attempt) for index in indices)
        within_s = TOGETHER_LIMIT_S if len(asked) > 1 else None
        limit_s = (within_s or asked[0].timeout_s) + GRACE_S
        try:
            done = await self._using(worker, limit_s, lambda sandbox: self._backend.run_items(sandbox, asked, within_s))
        except Exception as error:
            return self._failed(worker, indices, attempt, error)
        results = [self._take(index, attempt, end) for index, end in zip(indices, done.ends, strict=False)]
        reusable = all(not isinstance(end, ItemOutcome) or end.clean for end in done.ends)

        def said(now_s: float) -> list[Instruction]:
            ended, begun = sum(results), len(results) + done.running
            said = self._schedule.advanced(worker, ended, begun, now_s)
            if done.running:
                self._begin(worker, self._await(worker, indices[ended], attempt))
                return said
            if not all(results):
                return said + self._schedule.faulted(worker, now_s)
            return said + self._schedule.finished(worker, reusable, now_s)

        return said

    async def _await(self, worker: int, index: int, attempt: int) -> Said:
        """The end of an item that takes longer than those that were given together may."""
        limit_s = self._asked(index, attempt).timeout_s + GRACE_S
        try:
            end = await self._using(worker, limit_s, self._backend.item_end)
        except Exception as error:
            return self._failed(worker, (index,), attempt, error)
        self._take(index, attempt, end)
        return partial(self._schedule.finished, worker, end.clean)

    def _asked(self, index: int, attempt: int) -> ItemRequest:
        request = self._held[index].entry.request
        assert request is not None
        return replace(request, execution_id=f"{request.execution_id}-{attempt}")

    async def _using(self, worker: int, limit_s: float, call: Callable[[str], Awaitable[Answer]]) -> Answer:
        """What the worker's sandbox answers, which is not idle meanwhile. Raises InternalError after `limit_s`."""
        hold = await self._hold_of(worker)
        hold.idle_since_s = None
        try:
            async with asyncio.timeout(limit_s):
                return await call(hold.sandbox_id)
        except TimeoutError:
            raise InternalError("the sandbox did not answer in time") from None
        finally:
            hold.idle_since_s = time.monotonic()

    def _failed(self, worker: int, indices: tuple[int, ...], attempt: int, error: Exception) -> Said:
        """There is no end of these items. Alone, one may be to blame for that itself."""
        if len(indices) > 1:
            for index in indices:
                self._held[index].fault = self._fault(index, error)
        elif self._take(indices[0], attempt, error):
            return partial(self._schedule.finished, worker, isinstance(error, BadRequest))
        return partial(self._schedule.faulted, worker)

    def _take(self, index: int, attempt: int, end: ItemOutcome | Exception) -> bool:
        """Whether this is a result."""
        held = self._held[index]
        match end:
            case ItemOutcome():
                held.result = Result(index, held.entry.name, end.status, attempt, end)
            case BadRequest():
                held.result = Result(index, held.entry.name, "invalid", attempt, None, end)
            case SandboxLost(cause="oom"):
                held.result = Result(index, held.entry.name, "oom", attempt, None, end)
            case _:
                held.fault = self._fault(index, end)
        return held.result is not None

    @staticmethod
    def _fault(index: int, error: Exception) -> RayboxError:
        if isinstance(error, RayboxError):
            return error
        logger.error("item %d", index, exc_info=error)
        return InternalError(f"the item could not be run: {type(error).__name__}")

    async def _hold_of(self, worker: int) -> Hold:
        """Its sandbox; another one, if nothing was to do for long and its time is up."""
        hold = self._workers[worker]
        if not hold.is_usable(time.monotonic()):
            self._kill(hold.sandbox_id)
            hold = self._workers[worker] = await self._new_hold()
        return hold

    async def _renew_all(self) -> None:
        """Until cancelled: see holding.py."""
        while True:
            await asyncio.sleep(LOOK_S)
            now_s = time.monotonic()
            due = [hold for hold in self._workers.values() if hold.is_due(now_s)]
            await asyncio.gather(*map(self._renew, due))

    async def _renew(self, hold: Hold) -> None:
        now_s = time.monotonic()
        try:
            async with asyncio.timeout(RENEW_S):
                await self._backend.set_timeout(hold.sandbox_id, LEASE_S)
        except (RayboxError, TimeoutError) as error:
            logger.debug("sandbox %s of a batch was not renewed: %s", hold.sandbox_id, error)
        except Exception:
            logger.exception("renewing sandbox %s of a batch", hold.sandbox_id)
        else:
            hold.renewed_at_s = now_s

    async def _abandon(self, call: asyncio.Future[SandboxInfo]) -> None:
        """A creation that is cut off may yet succeed, and nobody would know the sandbox."""
        try:
            info = await call
        except RayboxError as error:
            logger.debug("a creation that nobody waits for failed by itself: %s", error)
        else:
            await self._kill_quietly(info.sandbox_id)

    def _kill(self, sandbox_id: str) -> None:
        task = asyncio.get_running_loop().create_task(self._kill_quietly(sandbox_id))
        self._kills.add(task)
        task.add_done_callback(self._kills.discard)

    async def _kill_quietly(self, sandbox_id: str) -> None:
        try:
            await self._backend.kill(sandbox_id)
        except RayboxError as error:
            logger.debug("sandbox %s of a batch is gone already: %s", sandbox_id, error)
        except Exception:
            logger.exception("sandbox %s of a batch could not be ended; its time will", sandbox_id)

    async def _end(self) -> None:
        """Nothing of it is left when this returns, or will be, within the sandboxes' own time."""
        ending = asyncio.get_running_loop().create_task(self._end_all())
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            await asyncio.wait((ending,), timeout=END_LIMIT_S)
            raise

    async def _end_all(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())
        for worker in self._workers.values():
            self._kill(worker.sandbox_id)
        if self._kills:
            await asyncio.wait(set(self._kills), timeout=END_LIMIT_S)
        close = getattr(self._items, "aclose", None)
        if close is not None:
            with contextlib.suppress(Exception):
                await close()
