"""SandboxActor: the Ray actor that holds one sandbox at a time, and is recycled when it ends.

What happens next is decided by the pure machine of lifecycle.py; here its instructions are carried out. Everything
runs on the loop of the default group; control calls come in on a thread of their own and are handed over, so that they
are answered however many executions wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import secrets
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import ray
from ray.exceptions import ActorDiedError, RayError

from raybox_actors.agent.handshake import AgentEndpoint
from raybox_actors.agent.server import AgentServer
from raybox_actors.config import NAMESPACE, NodeFacts, PoolConfig, node_agent_name, sandbox_actor_name
from raybox_actors.errors import BadRequest, Cause, InternalError, NotFound, RayboxError, SandboxLost, SlotTaken
from raybox_actors.execute_request import parse_execute
from raybox_actors.isolation.cgroup import this_machine
from raybox_actors.isolation.policy import Limits, WallsPolicy, effective, host_slot, layers_of
from raybox_actors.kernels.identity import Identity
from raybox_actors.life_log import Level, LifeLog
from raybox_actors.lifecycle import (
    AnswerClaim,
    ArmDeadline,
    BuildWalls,
    Claimed,
    DeadlineMoved,
    DeadlinePassed,
    Destroyed,
    DestroyWalls,
    DisarmDeadline,
    Event,
    Exit,
    KillAsked,
    Lifecycle,
    NotifyPool,
    PrepareAsked,
    Prepared,
    PrepareFailed,
    RecordTombstone,
    StopAsked,
    WallsDied,
)
from raybox_actors.network.egress import EgressHost, EgressOptions
from raybox_actors.network.rules import NetworkRequest, parse_request
from raybox_actors.off_loop import off_loop
from raybox_actors.plain import Left, PlainBatch, PlainError, plain_batch, plainly
from raybox_actors.pool_watch import LOOK_INTERVAL_S, PoolWatch
from raybox_actors.sandbox_id import ENTROPY_BYTES, mint
from raybox_actors.session import NO_NETWORK, Session, SessionOptions, begin_session
from raybox_actors.values import (
    ContextInfo,
    CreateRequest,
    EventBatch,
    ExecuteRequest,
    ItemOutcome,
    ItemRequest,
    ItemsDone,
    Lease,
    LogEntry,
    ResourceUsage,
    SandboxInfo,
    SlotDescription,
)

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

#: For ray.remote(concurrency_groups=...): calls that must be answered even when the actor is full of executions.
CONCURRENCY_GROUPS = {"control": 64}
#: How often a change in the number of running executions is worth a message to the pool manager.
BUSY_NOTICE_S = 0.5
NOTICE_DELAY_S = 0.01
#: Of so many executions it is known that their callers have left; more than can wait in one sandbox.
LEFT_REMEMBERED = 1024
#: What methods for callers without raybox answer with.
Plain: TypeAlias = PlainBatch | PlainError


class SandboxActor:
    """Plain class of the actor; whoever creates it wraps it with ray.remote(concurrency_groups=CONCURRENCY_GROUPS).

    Every method that takes a `sandbox_id` raises SandboxLost with the cause for one that lived here, NotFound for any
    other that is not the current one.
    """

    def __init__(self, config: PoolConfig, node_id: str, slot: int, placement: str = "") -> None:
        self._config, self._node_id, self._slot, self._placement = config, node_id, slot, placement
        self._host_slot = host_slot(node_id, slot)
        self._name = sandbox_actor_name(config, node_id, slot)
        self._life = Lifecycle()
        self._sequence = 0
        self._failure = ""  #: of the last preparation
        self._notice: asyncio.TimerHandle | None = None
        self._busy_timer: asyncio.TimerHandle | None = None
        self._running_told = 0  #: what the pool was last told of the executions that run
        self._info: SandboxInfo | None = None
        self._session: Session | None = None
        self._egress: EgressHost | None = None  #: once started, where there is a network
        self._building: asyncio.Task[None] | None = None
        self._claims: dict[str, asyncio.Future[AnswerClaim]] = {}
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._facts: NodeFacts | None = None
        self._identity = Identity(self._host_slot)
        self._cgroups = this_machine()
        self._pool = PoolWatch(config)
        self._log = LifeLog()
        self._env_vars: dict[str, str] = {}  #: as the sandbox was created with
        self._agents = AgentServer(config.secret, self._agent_connection)
        self._left = Left(LEFT_REMEMBERED)  #: of callers over Ray

    # ---- the pool's calls ----

    async def start(self) -> SlotDescription:
        """Learn of the node; before anything else. Idempotent. InternalError when the node agent cannot help."""
        if self._facts is not None:
            return self._describe()
        self._loop = asyncio.get_running_loop()
        agent = await off_loop(ray.get_actor, node_agent_name(self._config, self._node_id), namespace=NAMESPACE)
        self._facts = facts = await agent.facts.remote()
        if self._config.network == "egress" and not facts.no_network:
            options = EgressOptions(self._config.network_denied_cidrs, self._config.network_dns)
            self._egress = EgressHost(self._host_slot, options)
        self._spawn(self._watch_pool())
        return self._describe()

    async def prepare(self) -> SlotDescription:
        """Have walls and a parked kernel ready, if the slot is free. Raises InternalError when they cannot be had."""
        self._failure = ""
        self._apply(PrepareAsked())
        while self._life.state == "preparing":
            await self._change()
        if self._failure:
            raise InternalError(self._failure)
        return self._describe()

    async def claim(self, request: CreateRequest) -> SandboxInfo:
        """Make this slot's sandbox the caller's; the first of two wins. Returns when it answers.

        Raises SlotTaken (try another slot), BadRequest, LimitReached (more resources than the pool gives),
        InternalError (the walls could not be built), SandboxLost (it ended while it was being handed over).
        """
        if not 0 < request.timeout_s <= self._config.max_timeout_s:
            raise BadRequest(f"timeout must be over 0 and at most {self._config.max_timeout_s:.0f} seconds")
        network = self._network(request.network, request.allow_internet_access)
        limits = self._limits(request.resources)
        if self._life.state not in ("idle", "preparing", "warm"):
            raise SlotTaken(f"slot {self._slot} is {self._life.state}")
        entropy = secrets.token_bytes(ENTROPY_BYTES)
        sandbox_id = mint(self._config.secret, self._node_id, self._slot, self._life.epoch, entropy)
        now = time.time()
        info = self._info = self._birth(sandbox_id, request, limits, now)
        answer = self._claims[sandbox_id] = asyncio.get_running_loop().create_future()
        try:
            self._apply(Claimed(sandbox_id, info.end_at_s, now))
            outcome = await answer
        finally:
            del self._claims[sandbox_id]
        if outcome.outcome == "taken":
            raise SlotTaken(outcome.reason)
        if outcome.outcome == "failed":
            raise InternalError(f"the sandbox could not be created: {outcome.reason}")
        self._begin_log(sandbox_id, request, now)
        try:
            if request.resources:
                await self._running(sandbox_id).set_limits(limits)
            await self._running(sandbox_id).update_network(network)
        except InternalError:  # nobody may get a sandbox under other rules or limits than asked for
            self._current(sandbox_id)
            self._apply(KillAsked("internal"))
            raise
        if request.env_vars:
            await self._running(sandbox_id).configure(request.env_vars)
        return self._current(sandbox_id)

    async def confirm(self, sandbox_id: str, timeout_s: float) -> SlotDescription:
        """The gang of this sandbox is whole: from now on it is its creator's, for timeout_s. Idempotent."""
        info = self._current(sandbox_id)
        self._info = dataclasses.replace(info, pending=False)
        self._move_deadline(time.time() + self._checked(timeout_s))
        return self._describe()

    @ray.method(concurrency_group="control")
    async def describe(self) -> SlotDescription:
        return await self._on_loop(self._described)

    @ray.method(concurrency_group="control")
    async def ping(self) -> int:
        """The actor's pid, for tests and operators."""
        return os.getpid()

    async def retire(self) -> None:
        """End the sandbox, if any, and then the actor's process. The call itself ends with the actor's death."""
        self._apply(StopAsked())
        while self._life.state != "stopped":
            await self._change()
        ray.actor.exit_actor()

    # ---- the sandbox's control plane ----

    @ray.method(concurrency_group="control")
    async def info(self, sandbox_id: str) -> SandboxInfo:
        async def read() -> SandboxInfo:
            return self._current(sandbox_id)

        return await self._on_loop(read)

    async def connect(self, sandbox_id: str, timeout_s: float) -> tuple[SandboxInfo, bool]:
        """Extend the deadline to at least now + timeout_s. The flag says whether it was resumed; there is no pause."""
        info = self._current(sandbox_id)
        end_at_s = time.time() + self._checked(timeout_s)
        if end_at_s > info.end_at_s:
            info = self._move_deadline(end_at_s)
        return info, False

    async def set_timeout(self, sandbox_id: str, timeout_s: float) -> None:
        self._current(sandbox_id)
        epoch = self._life.epoch
        self._move_deadline(time.time() + self._checked(timeout_s))
        if timeout_s == 0:
            await self._ended(epoch)

    async def renew_lease(self, sandbox_id: str, lease: Lease) -> SandboxInfo:
        """Extend the deadline to at least now + the lease's ttl, and remember its owners. For the pool manager."""
        end_at_s = time.time() + self._checked(lease.ttl_s)
        info = self._info = dataclasses.replace(self._current(sandbox_id), lease=lease)
        if end_at_s > info.end_at_s:
            return self._move_deadline(end_at_s)
        self._notify()
        return info

    @ray.method(concurrency_group="control")
    async def kill(self, sandbox_id: str, cause: Cause = "killed") -> None:
        """End the sandbox; returns when nothing of it is left."""

        async def end() -> None:
            self._current(sandbox_id)
            epoch = self._life.epoch
            self._apply(KillAsked(cause))
            await self._ended(epoch)

        await self._on_loop(end)

    @ray.method(concurrency_group="control")
    async def environment(self, sandbox_id: str) -> dict[str, str]:
        """The environment variables that the sandbox was created with."""

        async def read() -> dict[str, str]:
            self._current(sandbox_id)
            return dict(self._env_vars)

        return await self._on_loop(read)

    @ray.method(concurrency_group="control")
    async def logs(self, sandbox_id: str) -> list[LogEntry]:
        """What happened in the life of the sandbox, oldest first; also of one that ended not long ago."""

        async def read() -> list[LogEntry]:
            if (entries := self._log.entries(sandbox_id)) is not None:
                return entries
            self._current(sandbox_id)
            return []

        return await self._on_loop(read)

    @ray.method(concurrency_group="control")
    async def metrics(self, sandbox_id: str, start_s: float | None, end_s: float | None) -> list[ResourceUsage]:
        """What the sandbox used since it was claimed, every five seconds, and now if the span is open."""

        async def read() -> list[ResourceUsage]:
            session, info = self._running(sandbox_id), self._current(sandbox_id)
            await session.parked()
            found = session.metrics(max(start_s or 0.0, info.started_at_s), end_s)
            return [*found, session.usage()] if end_s is None else found

        return await self._on_loop(read)

    async def update_network(
        self, sandbox_id: str, network: dict[str, object], allow_internet_access: bool = True
    ) -> None:
        """Replace all rules of the sandbox's network. network: the contract's fields `allowOut`, `denyOut` and
        `dnsServers`. Raises BadRequest (then nothing has changed), InternalError. Connections that are denied now have
        been cut when this returns."""
        wanted = self._network(network, allow_internet_access)
        await self._running(sandbox_id).update_network(wanted)
        info = self._current(sandbox_id)
        kept = {name: value for name, value in (info.network or {}).items() if name == "allowPublicTraffic"}
        allowed = self._egress is not None and allow_internet_access
        self._info = dataclasses.replace(info, network={**kept, **network} or None, allow_internet_access=allowed)
        self._notify()

    def _network(self, network: dict[str, object] | None, allow_internet_access: bool) -> NetworkRequest:
        request = parse_request(network or {}, allow_internet_access)
        if self._egress is None:
            if allow_internet_access and self._facts is not None and self._facts.no_network:
                raise BadRequest(
                    f"no node of this pool can give sandboxes a network ({self._facts.no_network}); create without one,"
                    " with allow_internet_access=False"
                )
            if request.wants_network:
                raise BadRequest(NO_NETWORK)
        return request

    # ---- executions and contexts ----

    async def execute(self, sandbox_id: str, request: ExecuteRequest) -> EventBatch:
        """Session.execute of the current sandbox."""
        batch = await self._running(sandbox_id).execute(request)
        if not batch.done:
            self._watch_busy()
        return batch

    async def run_items(self, sandbox_id: str, items: tuple[ItemRequest, ...], within_s: float | None) -> ItemsDone:
        """Session.run_items of the current sandbox: one call for the items and for their traces' end."""
        self._watch_busy()
        return await self._running(sandbox_id).run_items(items, within_s)

    async def item_end(self, sandbox_id: str) -> ItemOutcome:
        """Session.item_end of the current sandbox."""
        return await self._running(sandbox_id).item_end()

    async def poll(self, sandbox_id: str, execution_id: str, after_seq: int, wait_s: float) -> EventBatch:
        return await self._running(sandbox_id).poll(execution_id, after_seq, wait_s)

    @ray.method(concurrency_group="control")
    async def interrupt(self, sandbox_id: str, execution_id: str) -> None:
        async def interrupt() -> None:
            self._running(sandbox_id).interrupt(execution_id)

        await self._on_loop(interrupt)

    async def create_context(self, sandbox_id: str, language: str | None, cwd: str | None) -> ContextInfo:
        return await self._running(sandbox_id).create_context(language, cwd)

    async def contexts(self, sandbox_id: str) -> list[ContextInfo]:
        session = self._running(sandbox_id)
        await session.parked()
        return session.contexts()

    async def restart_context(self, sandbox_id: str, context_id: str) -> None:
        await self._running(sandbox_id).restart_context(context_id)

    async def remove_context(self, sandbox_id: str, context_id: str) -> None:
        await self._running(sandbox_id).remove_context(context_id)

    # ---- the same for callers without raybox: builtins in and out (docs/protocol.md, "Over Ray") ----

    async def run(self, sandbox_id: str, execution_id: str, body: bytes, headers: dict[str, str]) -> Plain:
        """`execute` as POST /execute has it: its body and its `x-raybox-` headers. A caller who has left already
        (`leave`) gets nothing begun."""

        async def start() -> PlainBatch:
            self._current(sandbox_id)
            told = {name.encode(): value.encode() for name, value in headers.items()}
            request = parse_execute(body, told, execution_id)
            if self._left.has(sandbox_id, execution_id):
                raise BadRequest(f"the caller of execution {execution_id} left before it began")
            batch = await self.execute(sandbox_id, request)
            if self._left.has(sandbox_id, execution_id) and not batch.done:
                self._running(sandbox_id).interrupt(execution_id)
            return plain_batch(batch)

        return await plainly(start())

    async def events(self, sandbox_id: str, execution_id: str, after_seq: int, wait_s: float) -> Plain:
        """`poll`: events from number `after_seq` on, waiting for the next for up to `wait_s`."""

        async def look() -> PlainBatch:
            return plain_batch(await self.poll(sandbox_id, execution_id, after_seq, wait_s))

        return await plainly(look())

    @ray.method(concurrency_group="control")
    async def leave(self, sandbox_id: str, execution_id: str) -> None:
        """Interrupt an execution that nobody waits for any more, also one whose `run` is still to come. Never raises:
        nobody waits for the answer either."""

        async def interrupt() -> None:
            if sandbox_id == self._life.sandbox_id:
                try:
                    self._running(sandbox_id).interrupt(execution_id)
                except NotFound:
                    self._left.add(sandbox_id, execution_id)

        await plainly(self._on_loop(interrupt))

    @ray.method(concurrency_group="control")
    async def halt(self, sandbox_id: str, execution_id: str) -> PlainError | None:
        """`interrupt`; nothing when that is done."""

        async def interrupt() -> None:
            self._running(sandbox_id).interrupt(execution_id)

        return await plainly(self._on_loop(interrupt))

    @ray.method(concurrency_group="control")
    async def look(self, sandbox_id: str) -> PlainError | None:
        """Nothing while the sandbox lives; what there is to say of it when it does not."""

        async def check() -> None:
            self._current(sandbox_id)

        return await plainly(self._on_loop(check))

    # ---- the way to the agent ----

    @ray.method(concurrency_group="control")
    async def agent_endpoint(self, sandbox_id: str, node_id: str) -> AgentEndpoint:
        """Where a process of node `node_id` can have connections to the sandbox's agent (agent/remote.py)."""

        async def find() -> AgentEndpoint:
            self._running(sandbox_id)
            name = self._agents.listen_unix()
            if node_id == self._node_id:
                return AgentEndpoint(self._node_id, name)
            host = ray.util.get_node_ip_address()
            return AgentEndpoint(self._node_id, name, host, self._agents.listen_tcp(host))

        return await self._on_loop(find)

    async def _agent_connection(self, sandbox_id: str) -> socket.socket:
        return await self._running(sandbox_id).agent_connection()

    # ---- what they share ----

    def _current(self, sandbox_id: str) -> SandboxInfo:
        if sandbox_id == self._life.sandbox_id and self._info is not None:
            return self._info
        if cause := self._life.cause_of(sandbox_id):
            raise SandboxLost(sandbox_id, cause)
        raise NotFound("sandbox", sandbox_id)

    def _running(self, sandbox_id: str) -> Session:
        self._current(sandbox_id)
        if self._session is None:  # claimed a moment ago, and nobody was told its id yet
            raise NotFound("sandbox", sandbox_id)
        return self._session

    def _checked(self, timeout_s: float) -> float:
        if not 0 <= timeout_s <= self._config.max_timeout_s:
            raise BadRequest(f"timeout must be at least 0 and at most {self._config.max_timeout_s:.0f} seconds")
        return timeout_s

    def _move_deadline(self, end_at_s: float) -> SandboxInfo:
        assert self._info is not None
        self._info = dataclasses.replace(self._info, end_at_s=end_at_s)
        self._apply(DeadlineMoved(end_at_s))
        return self._info

    async def _ended(self, epoch: int) -> None:
        """Wait until nothing of this epoch is left."""
        while self._life.epoch == epoch:
            await self._change()

    async def _on_loop(self, work: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """Do `work` on the loop of the default group, where all the state lives."""
        if self._loop is None:
            raise InternalError("the sandbox actor has not been started")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), self._loop))

    async def _described(self) -> SlotDescription:
        return self._describe()

    def _describe(self) -> SlotDescription:
        return SlotDescription(
            actor_name=self._name,
            node_id=self._node_id,
            slot=self._slot,
            epoch=self._life.epoch,
            state=self._life.state,
            info=self._info if self._life.sandbox_id is not None else None,
            executions_running=self._session.executions_running if self._session is not None else 0,
            sequence=self._sequence,
            placement=self._placement,
        )

    def _limits(self, asked: dict[str, float]) -> Limits:
        """Of one sandbox here. Raises BadRequest, LimitReached."""
        template = self._facts.resources if self._facts is not None else {}
        return effective(self._config.limits(), template, asked)

    def _birth(self, sandbox_id: str, request: CreateRequest, limits: Limits, now: float) -> SandboxInfo:
        return SandboxInfo(
            sandbox_id=sandbox_id,
            template=request.template,
            state="running",
            started_at_s=now,
            end_at_s=now + request.timeout_s,
            metadata=dict(request.metadata),
            cpu_count=limits.cpu_count,
            memory_mib=limits.memory_mib,
            disk_mib=limits.disk_mib,
            owner=request.owner,
            envd_access_token=secrets.token_urlsafe(24) if request.secure else None,
            traffic_access_token=None if request.allow_public_traffic else secrets.token_urlsafe(24),
            allow_internet_access=self._egress is not None and request.allow_internet_access,
            network=request.network,
            auto_pause=request.auto_pause,
            node_id=self._node_id,
            idempotency_key=request.idempotency_key,
            gang=request.gang,
            pending=bool(request.gang),
            lease=request.lease,
        )

    def _begin_log(self, sandbox_id: str, request: CreateRequest, now: float) -> None:
        """Of a sandbox that has just become somebody's."""
        self._env_vars = dict(request.env_vars)
        self._log.begin(sandbox_id)
        self._log.add(sandbox_id, now, "sandbox created", {"template": request.template})
        self._running(sandbox_id).on_event = lambda what, facts: self._log.add(sandbox_id, time.time(), what, facts)

    # ---- carrying out the machine's instructions ----

    def _apply(self, event: Event) -> None:
        for instruction in self._life.handle(event):
            match instruction:
                case BuildWalls():
                    self._building = self._spawn(self._build())
                case DestroyWalls(cause):
                    self._spawn(self._destroy(cause))
                case ArmDeadline(deadline_s):
                    self._disarm()
                    delay_s = max(0.0, deadline_s - time.time())
                    self._timer = asyncio.get_running_loop().call_later(delay_s, self._time_is_up)
                case DisarmDeadline():
                    self._disarm()
                case AnswerClaim(sandbox_id):
                    claim = self._claims.get(sandbox_id)
                    if claim is not None and not claim.done():
                        claim.set_result(instruction)
                case NotifyPool():
                    self._notify()
                case RecordTombstone():
                    pass  # the machine's own ring is what we have; a durable store may follow
                case Exit():
                    pass  # `retire` waits for the state
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _change(self) -> None:
        await self._changed.wait()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_is_up(self) -> None:
        self._apply(DeadlinePassed(time.time()))

    async def _build(self) -> None:
        try:
            session = self._session = await begin_session(self._options(), self._walls_died)
            if self._life.state == "preparing":
                await session.parked()
            if self._life.state == "preparing":  # nobody waits for it yet; or it would cost the first cell
                await session.exercise()
                session.warm(self._config.warm_languages)
        except Exception as error:  # whatever it is, the slot must not stay in `preparing` for ever
            if not isinstance(error, RayboxError | OSError):
                logger.exception("slot %d", self._slot)
            self._failure = f"{type(error).__name__}: {error}"
            self._apply(PrepareFailed(self._failure))
        else:
            # Whoever waits is answered as soon as the walls stand: the kernel comes up while the answer is on its way.
            self._apply(Prepared())
            await self._lose_unless_parked(session)

    async def _lose_unless_parked(self, session: Session) -> None:
        try:
            await session.parked()
        except Exception as error:  # whatever it is, nobody can do anything with such a sandbox
            logger.warning("slot %d: %r", self._slot, error)
            self._apply(WallsDied())

    def _walls_died(self) -> None:
        self._apply(WallsDied(self._session.death_cause() if self._session is not None else "internal"))

    def _options(self) -> SessionOptions:
        facts, config = self._facts, self._config
        if facts is None:
            raise InternalError("the sandbox actor has not been started")
        policy = WallsPolicy(
            limits=self._limits({}),
            read_only=facts.read_only,
            layers=layers_of(facts.skeleton, facts.read_only) if facts.layers else (),
            mark=f"{config.name}:{self._host_slot}:{self._life.epoch}",
            boot_id=str(uuid.uuid4()),
        )
        return SessionOptions(
            slot=self._host_slot,
            zygote_address=facts.zygote_address,
            python=facts.python,
            skeleton=Path(facts.skeleton),
            policy=policy,
            identity=self._identity,
            cgroups=self._cgroups,
            kernel=config.kernel,
            egress=self._egress,
            languages=facts.languages,
        )

    async def _destroy(self, cause: Cause) -> None:
        """All of this epoch away: first whoever waits is told, then the processes go."""
        building, self._building = self._building, None
        if building is not None and not building.done():
            building.cancel()
            await asyncio.wait({building})
        session, self._session = self._session, None
        info, self._info = self._info, None
        if info is not None:
            level: Level = "info" if cause in ("killed", "timeout") else "error"
            self._log.add(info.sandbox_id, time.time(), "sandbox ended", {"cause": cause}, level)
        if session is not None:
            try:
                await session.close(SandboxLost(info.sandbox_id, cause) if info is not None else None)
            except Exception:  # DestroyWalls must not fail; closing the walls is the last thing that `close` leaves out
                logger.exception("slot %d", self._slot)
        self._apply(Destroyed())

    def _notify(self) -> None:
        """Tell the manager, a moment later and without waiting: whoever waits for this change hears of it first, and
        changes that follow at once are one message. The manager asks us when it has missed something."""
        self._sequence += 1
        if self._notice is None and self._pool.manager is not None:
            self._notice = asyncio.get_running_loop().call_later(NOTICE_DELAY_S, self._send_notice)

    def _send_notice(self) -> None:
        self._notice = None
        self._spawn(self._tell_manager())

    async def _tell_manager(self) -> None:
        try:
            await self._pool.manager.slot_changed.remote(self._describe())
        except ActorDiedError:  # replaced by another, for one that Ray restarts keeps its handle
            with contextlib.suppress(ValueError):  # not there yet; it will ask
                (await self._pool.find()).slot_changed.remote(self._describe())
        except RayError as error:
            logger.info("slot %d could not tell its manager: %r", self._slot, error)

    def _watch_busy(self) -> None:
        """The pool refills more slowly while cells run; it hears of those that take their time, now and then."""
        if self._busy_timer is None:
            self._busy_timer = asyncio.get_running_loop().call_later(BUSY_NOTICE_S, self._tell_busy)

    def _tell_busy(self) -> None:
        self._busy_timer = None
        running = self._session.executions_running if self._session is not None else 0
        if running != self._running_told:
            self._running_told = running
            self._notify()
        if running:
            self._watch_busy()

    async def _watch_pool(self) -> None:
        """Know the manager; end this actor when its pool has been gone for long and nobody uses the sandbox."""
        while True:
            await self._pool.look()
            # Looked at in the same step as the misses: a sandbox that was claimed meanwhile is somebody's.
            if self._pool.is_gone and self._life.sandbox_id is None:
                break
            await asyncio.sleep(LOOK_INTERVAL_S)
        logger.warning("the pool is gone; ending slot %d", self._slot)
        self._apply(StopAsked("owner_died"))
        while self._life.state != "stopped":
            await self._change()
        os._exit(0)

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
