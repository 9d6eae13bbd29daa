"""One sandbox from walls up to walls down: its contexts and executions. Knows nothing of Ray, leases or slots."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from raybox_actors.agent.api import Agent
from raybox_actors.agent.client import AgentClient
from raybox_actors.agent.helpers import listen_for_sudo
from raybox_actors.agent.process import AgentProcess
from raybox_actors.config import LanguageKernel
from raybox_actors.contexts import LAST_MOMENTS_S, Context, TimeoutPolicy
from raybox_actors.errors import BadRequest, Cause, InternalError, LimitReached, NotFound, RayboxError
from raybox_actors.executions import Execution, ExecutionLog, OutputLimits
from raybox_actors.isolation.cgroup import Cgroup, Hierarchy, cgroup_limits, create_cgroup
from raybox_actors.isolation.policy import HOME, Limits, WallsPolicy, base_environment
from raybox_actors.isolation.walls import Walls, bwrap_arguments, start_walls
from raybox_actors.items import Surroundings, run_item
from raybox_actors.kernels.base import Kernel, KernelFailed
from raybox_actors.kernels.forked import ForkedKernel
from raybox_actors.kernels.identity import Identity
from raybox_actors.kernels.languages import kernel_language, kernel_maker, normal_language
from raybox_actors.kernels.place import Place
from raybox_actors.kernels.stock import StockKernel
from raybox_actors.kernels.zygote_client import ZygoteClient, wait_readable
from raybox_actors.metering import SAMPLE_INTERVAL_S, Meter
from raybox_actors.network.egress import Egress, EgressHost
from raybox_actors.network.rules import NetworkRequest
from raybox_actors.values import (
    ContextInfo,
    EventBatch,
    ExecuteRequest,
    ItemOutcome,
    ItemRequest,
    ItemsDone,
    ResourceUsage,
)

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

#: Killing all there is in a sandbox takes about 5 ms. It takes for ever where a dead kernel is a zombie of somebody
#: outside who does not reap; its memory and its mounts are gone all the same.
CLOSE_LIMIT_S = 5.0
CANCEL_AGAIN_S = 1.0
#: A dead process leaves its cgroup a moment after its end is known.
CGROUP_REMOVALS, CGROUP_PAUSE_S = 100, 0.01
#: With so much of what came of items that were given together, no other of them is begun.
TOGETHER_BYTES = 1024 * 1024

NO_NETWORK = (
    "network.allowOut: sandboxes of this pool have no network; leave it out, or start the pool with `--network egress`"
)

KERNELS: dict[str, Callable[[Place, str], Kernel]] = {"raybox": ForkedKernel, "ipykernel": StockKernel}


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What a node gives every sandbox on it."""

    slot: int
    zygote_address: str
    python: str
    skeleton: Path
    policy: WallsPolicy = field(default_factory=WallsPolicy)
    identity: Identity | None = None  #: of the slot, if it outlives the session; else the session has one of its own
    cgroups: Hierarchy | None = None  #: where the sandbox's groups are made; None: no limits of memory, CPU, processes
    output: OutputLimits = field(default_factory=OutputLimits)
    timeouts: TimeoutPolicy = field(default_factory=TimeoutPolicy)
    kernel: str = "raybox"  #: or "ipykernel"
    egress: EgressHost | None = None  #: None: no network but the sandbox's own loopback
    languages: dict[str, LanguageKernel] = field(default_factory=dict)  #: installed besides Python
    max_contexts: int = 64
    max_waiting: int = 256  #: executions that have not ended
    unobserved_s: float = 30.0  #: a cell that nobody has asked about for this long is interrupted
    first_wait_s: float = 0.1  #: how long `execute` waits for first events before it answers with none


class Session:
    """Made by `open_session` or `begin_session`; ended by `close`. Every method runs on the loop that made it."""

    def __init__(
        self, options: SessionOptions, walls: Walls, on_death: Callable[[], None], cgroup: Cgroup | None = None
    ) -> None:
        self.options = options
        self._walls, self._cgroup = walls, cgroup
        prefix = str(Path(options.python).parent.parent)
        zygote = ZygoteClient(options.zygote_address)
        env = base_environment(prefix)
        identity = options.identity or Identity(options.slot)
        self._place = Place(walls, zygote, options.policy, identity, options.python, env, cgroup)
        self._agent = AgentProcess(self._place, self._spawn)
        self._meter = Meter(walls, cgroup, options.policy.limits)
        self._contexts: dict[str, Context] = {}
        self._default: dict[str, Context] = {}
        self._default_turn = asyncio.Lock()
        self._items_turn = asyncio.Lock()
        self._item: asyncio.Task[ItemOutcome] | None = None  #: the last one that began
        self._egress: Egress | None = None
        self._log = ExecutionLog()
        self._starting = 0  #: contexts that are being created
        self._runs: dict[str, asyncio.Task[None]] = {}  #: by execution, until it is off its context's hands
        self._tasks: set[asyncio.Task[Any]] = set()
        self._walls_ended = asyncio.Event()
        self._closer: asyncio.Task[None] | None = None
        self._reason: RayboxError | None = None
        self._oom_kills_sampled = (0, 0)  #: at the last two samples
        self._parking = self._spawn(self._park())
        self._parking.add_done_callback(lambda parking: parking.cancelled() or parking.exception())  # retrieved
        #: Told of what people may want to read about later: what happened, and its particulars.
        self.on_event: Callable[[str, dict[str, str]], None] = lambda _what, _facts: None
        self._spawn(self._watch_walls(on_death))
        if cgroup is not None:
            self._spawn(self._sample())

    @property
    def _closing(self) -> bool:
        return self._closer is not None

    def _spawn(self, work: Coroutine[Any, Any, Answer]) -> asyncio.Task[Answer]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _owned(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Do `work` as a task that `close` ends before the walls' descriptors go: their numbers will be used again.

        Raises what `close` was given if it did. Cancellation of the caller cancels `work`.
        """
        if self._closing:
            work.close()
            raise self._gone()
        return await self._outcome(self._spawn(work))

    async def _outcome(self, task: Awaitable[Answer]) -> Answer:
        """Of a task that `close` cancels. Raises what `close` was given if it did."""
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if self._closing and (caller is None or not caller.cancelling()):
                raise self._gone() from None
            raise

    def _gone(self) -> RayboxError:
        return self._reason or NotFound("sandbox", "")

    async def _watch_walls(self, on_death: Callable[[], None]) -> None:
        await wait_readable(self._walls.pidfd)
        self._walls_ended.set()
        if not self._closing:
            on_death()

    async def _sample(self) -> None:
        try:
            await self.parked()  # until then its disk is the host's
        except RayboxError:
            return
        while True:
            self._meter.sample()
            self._oom_kills_sampled = (self._oom_kills_sampled[1], self._oom_kills())
            await asyncio.sleep(SAMPLE_INTERVAL_S)

    def usage(self) -> ResourceUsage:
        """What the sandbox uses now."""
        return self._meter.look()

    def metrics(self, start_s: float | None, end_s: float | None) -> list[ResourceUsage]:
        """What it used, every SAMPLE_INTERVAL_S, within this span of unix time."""
        return self._meter.between(start_s, end_s)

    def _oom_kills(self) -> int:
        """How many processes inside the system has killed for want of memory."""
        return self._cgroup.oom_kills() if self._cgroup is not None else 0

    def death_cause(self) -> Cause:
        """Why the walls ended, when nobody here ended them: `oom` if memory ran out in the seconds before."""
        return "oom" if self._oom_kills() > self._oom_kills_sampled[0] else "internal"

    async def _ends(self, within_s: float) -> bool:
        """Whether the walls have ended by then, or are about to be closed."""
        if not self._closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):  # `wait_for` of Python 3.11 may lose a cancellation
                    await self._walls_ended.wait()
        return self._closing or self._walls_ended.is_set()

    async def parked(self) -> None:
        """Return when the default Python context is ready and the network attached, which everything inside waits for.
        Raises InternalError: then the sandbox is of no use."""
        await self._outcome(asyncio.shield(self._parking))

    async def _park(self) -> None:
        if self.options.egress is None:
            await self._make_defaults()
        else:
            await asyncio.gather(self._make_defaults(), self._attach_network(self.options.egress))

    async def _make_defaults(self) -> None:
        """The default JavaScript context is listed from the start, too; its kernel comes with its first cell."""
        await self._default_context("python")
        self._agent.activate_by(listen_for_sudo(self._walls.first_pid))
        if "javascript" in self.options.languages:
            await self._default_context("javascript")

    async def _attach_network(self, host: EgressHost) -> None:
        """Takes 20 ms, little of which is this process's."""
        self._egress = await self._owned(host.attach(self._walls.first_pid))

    async def update_network(self, request: NetworkRequest) -> None:
        """Replace the rules of the sandbox's network; what they deny is cut when this returns. Raises BadRequest where
        there is no network and one is wanted, InternalError (the rules are those of before)."""
        if self.options.egress is None:
            if request.wants_network:
                raise BadRequest(NO_NETWORK)
            return
        await self.parked()
        assert self._egress is not None
        if request != self._egress.request:
            await self._owned(self._egress.apply(request))

    def warm(self, languages: Iterable[str]) -> None:
        """Begin to start kernels of these languages for their default contexts; whoever needs one first waits for it.

        One that is not installed, or does not start, is left to the first cell that asks for it.
        """
        for language in languages:
            if kernel_language(language) in self.options.languages:
                self._spawn(self._warm(language))

    async def _warm(self, language: str) -> None:
        context = await self._default_context(language)
        try:
            await context.start()
            await context.exercise()
        except KernelFailed as error:
            logger.warning("no warm kernel for %s: %s", language, error)

    async def exercise(self) -> None:
        """Make the first cell fast, for a sandbox that waits to be claimed. Takes 10 ms of the kernel, not of ours."""
        for context in self._contexts.values():
            await context.exercise()

    async def configure(self, env: dict[str, str]) -> None:
        """The sandbox's own environment variables: for every kernel there is and will be."""
        await self.parked()
        self._place.env = {**self._place.env, **env}
        self._agent.set_variables(env)
        self._place.variables = {**self._place.variables, **env}
        for context in self._contexts.values():
            await context.configure(env)

    async def set_limits(self, limits: Limits) -> None:
        """Give the sandbox other bounds than it was built with, of all its processes and files at once.

        Raises InternalError, also where it uses more than that already; then some of them may hold and some may not.
        """
        await self.parked()
        before = self._place.policy.limits
        self._place.policy = dataclasses.replace(self._place.policy, limits=limits)
        self._meter.limits = limits
        try:
            if self._cgroup is not None:
                self._cgroup.apply(cgroup_limits(limits))
        except OSError as error:
            raise InternalError(f"the sandbox's limits could not be set: {error}") from error
        if limits.disk_mib != before.disk_mib:
            await self._owned(self._resize(limits.disk_mib << 20))

    async def _resize(self, size_bytes: int) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        read, write = os.pipe()
        try:
            child = await self._place.enter({"op": "resize", "size_bytes": size_bytes}, "/", [read, null, null])
        except KernelFailed as error:
            os.close(write)
            raise InternalError(f"the sandbox's disk could not be resized: {error}") from error
        except BaseException:
            os.close(write)
            raise
        finally:
            os.close(read)
            os.close(null)
        os.close(write)
        try:
            await child.wait()
        finally:
            child.close()

    # ---- executions ----

    async def execute(self, request: ExecuteRequest) -> EventBatch:
        """Start a cell, unless its id is known; answer with its first events (values.EventBatch).

        Raises NotFound (context), ExecutionForgotten, Conflict (the id is another cell's), BadRequest, LimitReached,
        InternalError (no kernel to be had). Cancellation leaves a cell that was started running.
        """
        execution = self._log.repeated(request)
        if execution is None and request.from_event:  # refused later, it would run with nobody there
            raise BadRequest(
                f"execution {request.execution_id} has not begun; it has no event {request.from_event} yet"
            )
        execution = execution or await self._start(request)
        return await execution.wait(request.from_event, self.options.first_wait_s)

    async def _start(self, request: ExecuteRequest) -> Execution:
        if request.context_id is not None and request.language is not None:
            raise BadRequest("Only one of context_id or language can be provided")
        await self.parked()
        running = self._log.running()
        if len(running) >= self.options.max_waiting:
            raise LimitReached(f"{len(running)} executions have not ended; the limit is {self.options.max_waiting}")
        if request.context_id is not None:
            context = self._context(request.context_id)
        else:
            context = await self._default_context(normal_language(request.language))
        if self._closing:
            raise self._gone()
        if repeated := self._log.repeated(request):  # another call with this id came while a kernel started
            return repeated
        execution = Execution(
            request, self.options.output, asyncio.get_running_loop(), lambda full: context.press(execution, full)
        )
        self._log.add(execution)
        self._runs[request.execution_id] = self._spawn(self._run(context, execution))
        return execution

    async def _run(self, context: Context, execution: Execution) -> None:
        loop = asyncio.get_running_loop()
        # One handle at a time, cancelled at the end: a timer that outlives its cell would keep all of its output.
        handle: asyncio.TimerHandle | None = None

        def look_for_observer() -> None:
            nonlocal handle
            unobserved_s = self.options.unobserved_s
            delay_s = execution.observed_at_s + unobserved_s - loop.time()
            if not execution.observers and delay_s <= 0:
                self.interrupt(execution.request.execution_id)
                delay_s = unobserved_s  # and again, should the cell shrug it off
            handle = loop.call_later(unobserved_s if execution.observers else delay_s, look_for_observer)

        if execution.request.interrupt_if_unobserved:
            handle = loop.call_later(self.options.unobserved_s, look_for_observer)
        facts = {"execution_id": execution.request.execution_id, "context_id": context.info.context_id}
        self.on_event("execution started", facts)
        try:
            await context.run(execution)
        finally:
            if handle is not None:
                handle.cancel()
            self._runs.pop(execution.request.execution_id, None)
            error = execution.fault.kind if execution.fault is not None else execution.failed and execution.failed.name
            self.on_event("execution ended", facts | ({"error": error} if error else {}))

    async def run_items(self, items: Sequence[ItemRequest], within_s: float | None = None) -> ItemsDone:
        """Run items of a batch, one after the other (items.run_item). The first makes the sandbox one of items: its
        contexts end. After `within_s` no other is begun, and this returns, though one may go on (`item_end`); so it
        does after one that could not be run, or left something, and when there are TOGETHER_BYTES of what came of them.

        Raises LimitReached (one is running), InternalError (the sandbox never got ready), or what `close` was given.
        Cancellation leaves the sandbox fit for nothing but its end.
        """
        if self._items_turn.locked() or self._runs_item:
            raise LimitReached("the sandbox runs an item already; it takes one at a time")
        async with self._items_turn:
            await self.parked()
            for context_id in list(self._contexts):
                await self.remove_context(context_id)
            around = Surroundings(self._place, self.options.languages, self._ends, self._oom_kills)
            loop = asyncio.get_running_loop()
            until_s = None if within_s is None else loop.time() + within_s
            ends: list[ItemOutcome | Exception] = []
            size_bytes = 0
            for item in items:
                if self._closing:
                    raise self._gone()
                self._item = self._spawn(run_item(item, around))
                try:
                    await asyncio.wait({self._item}, timeout=None if until_s is None else max(0, until_s - loop.time()))
                except asyncio.CancelledError:
                    self._item.cancel()
                    raise
                if self._runs_item:
                    return ItemsDone(tuple(ends), running=True)
                try:
                    ends.append(await self.item_end())
                except (BadRequest, InternalError) as error:
                    ends.append(error.with_traceback(None))
                end = ends[-1]
                goes_on = end.clean if isinstance(end, ItemOutcome) else isinstance(end, BadRequest)
                size_bytes += end.size_bytes if isinstance(end, ItemOutcome) else 0
                if not goes_on or size_bytes >= TOGETHER_BYTES or (until_s is not None and loop.time() >= until_s):
                    break
            return ItemsDone(tuple(ends))

    async def item_end(self) -> ItemOutcome:
        """What came of the item that began last, once it has ended. Raises BadRequest, InternalError, NotFound (none
        ever began), or what `close` was given."""
        if self._item is None:
            raise NotFound("item", "")
        return await self._outcome(asyncio.shield(self._item))

    @property
    def _runs_item(self) -> bool:
        return self._item is not None and not self._item.done()

    async def poll(self, execution_id: str, after_seq: int, wait_s: float) -> EventBatch:
        """Raises NotFound for an execution that never was, ExecutionForgotten for one that is no longer held, and
        BadRequest for an `after_seq` beyond its next event."""
        return await self._log.get(execution_id).wait(after_seq, min(wait_s, 60.0))

    def interrupt(self, execution_id: str) -> None:
        """SIGINT to a running cell; a waiting one ends at once with ExecutionAborted. Raises NotFound."""
        execution = self._log.get(execution_id)
        for context in self._contexts.values():
            if context.current is execution:
                context.interrupt()
                return
        execution.abort()
        if run := self._runs.get(execution_id):  # or it would keep its place in the queue
            run.cancel()

    @property
    def executions_running(self) -> int:
        return len(self._log.running()) + (self._items_turn.locked() or self._runs_item)

    # ---- contexts ----

    async def create_context(self, language: str | None, cwd: str | None) -> ContextInfo:
        """A new context with a kernel of its own. Raises BadRequest, LimitReached, InternalError."""
        name = normal_language(language)
        await self.parked()
        if len(self._contexts) + self._starting >= self.options.max_contexts:
            raise LimitReached(f"the sandbox has {self.options.max_contexts} contexts, its limit")
        context = self._make_context(name, cwd or HOME)
        self._starting += 1
        try:
            await self._owned(context.start())
        except KernelFailed as error:
            # Our trouble, and no word of the sandbox about what it was asked: there is no zygote, or the walls fell.
            if error.__cause__ is not None or await self._ends(LAST_MOMENTS_S):
                raise InternalError(f"the context could not be created: {error}") from error
            raise BadRequest(f"the context could not be created in {cwd or HOME!r}: {error}") from error
        finally:
            self._starting -= 1
        self._contexts[context.info.context_id] = context
        self.on_event("context started", {"context_id": context.info.context_id, "language": name})
        return context.info

    def contexts(self) -> list[ContextInfo]:
        """In the order of their creation."""
        return [context.info for context in self._contexts.values()]

    async def restart_context(self, context_id: str) -> None:
        """A fresh kernel in the same context. Raises NotFound (also if it was removed meanwhile), InternalError."""
        context = self._context(context_id)
        try:
            await self._owned(context.restart())
        except KernelFailed as error:
            self._context(context_id)
            raise InternalError(f"the context could not be restarted: {error}") from error

    async def remove_context(self, context_id: str) -> None:
        """End it and what runs or waits in it. Raises NotFound."""
        context = self._context(context_id)
        del self._contexts[context_id]
        for language, default in list(self._default.items()):
            if default is context:
                del self._default[language]
        await self._owned(context.remove())

    def _context(self, context_id: str) -> Context:
        if found := self._contexts.get(context_id):
            return found
        raise NotFound("context", context_id)

    def _make_context(self, language: str, cwd: str) -> Context:
        make: Callable[[], Kernel]
        if language == "python":
            make = functools.partial(KERNELS[self.options.kernel], self._place, cwd)
        else:
            make = kernel_maker(language, self.options.languages, self._place, cwd)
        info = ContextInfo(secrets.token_hex(16), language, cwd)
        return Context(info, make, self.options.timeouts, self._ends, self._oom_kills)

    async def _default_context(self, language: str) -> Context:
        """Raises InternalError (no Python kernel), BadRequest (not installed)."""
        language = kernel_language(language)
        if language != "python" and language not in self._default:
            # Its kernel comes with its first cell: nobody waits here for the start of another language's.
            context = self._make_context(language, HOME)
            self._default[language] = self._contexts[context.info.context_id] = context
        if found := self._default.get(language):
            return found
        async with self._default_turn:
            if language not in self._default:
                context = self._make_context(language, HOME)
                try:
                    await self._owned(context.start())
                except KernelFailed as error:
                    raise InternalError(f"no kernel for the default context: {error}") from error
                self._default[language] = self._contexts[context.info.context_id] = context
                if self._parking.done():  # what a sandbox begins with is no event of its life
                    self.on_event("context started", {"context_id": context.info.context_id, "language": language})
            return self._default[language]

    # ---- files, processes, ports ----

    def agent(self) -> Agent:
        """Started by the first operation that is asked of it."""
        return AgentClient(self.agent_connection, self._explain)

    async def agent_connection(self) -> socket.socket:
        """A fresh connection to the agent, the caller's to close. Raises AgentError, or what `close` was given."""
        await self.parked()
        ours, theirs = socket.socketpair()
        try:
            await self._owned(self._agent.hand_over(theirs))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    async def _explain(self) -> None:
        if self._closing:
            raise self._gone()

    # ---- end ----

    async def close(self, reason: RayboxError | None = None) -> None:
        """End everything inside, wait until it is gone, release every descriptor. Idempotent.

        reason: what observers of running executions are raised, and calls that come too late. The first counts.
        On cancellation: it is finished first, which takes no longer than Walls.close allows.
        """
        if self._closer is None:
            self._reason = reason
            self._closer = asyncio.get_running_loop().create_task(self._close())
        cancelled = None
        while not self._closer.done():
            try:
                await asyncio.shield(self._closer)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        self._closer.result()

    async def _close(self) -> None:
        try:
            if self._reason is not None:
                for execution in self._log.running():
                    execution.fail(self._reason)
            self._walls.kill()
            while self._tasks:
                for task in self._tasks:
                    task.cancel()
                # Again, should one have lost its cancellation: a slot that never ends is a slot less for ever.
                await asyncio.wait(self._tasks, timeout=CANCEL_AGAIN_S)
            await self._agent.stop()
            ended = await asyncio.gather(
                *(context.remove() for context in self._contexts.values()), return_exceptions=True
            )
            for error in filter(None, ended):
                logger.error("a context could not be ended: %r", error)
            unplugged = asyncio.create_task(self._egress.close()) if self._egress is not None else None
            if not await self._walls.wait(CLOSE_LIMIT_S):
                logger.error("something in the sandbox is dead and not reaped; going on without it")
            if unplugged is not None:
                await unplugged
        finally:
            self._walls.close()
            await self._end_cgroup()
            if self.options.identity is None:
                self._place.identity.close()

    async def _end_cgroup(self) -> None:
        """All that was inside died with the pid namespace; this is the net below."""
        if self._cgroup is None:
            return
        for _ in range(CGROUP_REMOVALS):
            if self._cgroup.remove():
                return
            if killed := self._cgroup.kill():
                logger.error("%d processes had outlived the walls of their sandbox", killed)
            await asyncio.sleep(CGROUP_PAUSE_S)
        logger.error("the cgroup %s cannot be removed; the node's agent will try again", self._cgroup.name)


def _make_cgroup(options: SessionOptions) -> list[Cgroup]:
    """One, or none where the machine has none."""
    if options.cgroups is None:
        return []
    pool, _, rest = options.policy.mark.partition(":")
    epoch = rest.rpartition(":")[2] or "0"
    limits = options.policy.limits
    try:
        return [create_cgroup(options.cgroups, pool, f"{options.slot}-{epoch}-{os.getpid()}", cgroup_limits(limits))]
    except OSError as error:
        raise InternalError(f"the sandbox's cgroup could not be made: {error}") from error


async def open_session(options: SessionOptions, on_death: Callable[[], None]) -> Session:
    """`begin_session`, and wait until all of it is there. Raises InternalError; then nothing is left, nor on
    cancellation."""
    session = await begin_session(options, on_death)
    try:
        await session.parked()
    except BaseException:
        await session.close()
        raise
    return session


async def begin_session(options: SessionOptions, on_death: Callable[[], None]) -> Session:
    """Build walls and begin to park a Python kernel in them; return when they stand. Calls that need something inside
    wait until it is `parked`. `on_death` is called once if the walls end without `close`.

    Blocks the loop for about 3 ms while bubblewrap starts: the thread of the loop must be the one whose end the walls
    are tied to. Raises InternalError; then nothing is left. On cancellation, too.

    on_death: the kernels went with the walls; what ran in them is told nothing until the caller calls `close`.
    """
    made: list[Cgroup] = []
    try:
        walls = start_walls(
            bwrap_arguments(options.policy, options.skeleton), lambda: made.extend(_make_cgroup(options))
        )
    except BaseException:
        for cgroup in made:
            cgroup.remove()
        raise
    session = Session(options, walls, on_death, *made)
    try:
        await walls.stand()
    except BaseException:
        await session.close()
        raise
    return session
