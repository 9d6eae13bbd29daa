"""PoolManager: the actor that carries out what PoolState decides.

It may be killed at any moment: Ray restarts it, and it learns everything anew from the living actors, the idempotency
keys of their creation included. The gateway gives every create a key, so asking again yields the same sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, ActorUnschedulableError, RayActorError

from raybox_actors import sandbox_id as ids
from raybox_actors.config import NodeFacts, PoolConfig, node_agent_name, sandbox_actor_name
from raybox_actors.errors import (
    BadRequest,
    Cause,
    InternalError,
    LimitReached,
    NoCapacity,
    NotFound,
    RayboxError,
    SandboxLost,
    SlotTaken,
)
from raybox_actors.isolation.policy import effective
from raybox_actors.off_loop import off_loop
from raybox_actors.plain import PlainError, plain_error, plainly
from raybox_actors.values import (
    CreateRequest,
    LeaseOwner,
    PoolCapacity,
    PoolStatus,
    Quota,
    SandboxInfo,
    SlotDescription,
)
from raybox_cluster.gateway.auth import ApiKey
from raybox_cluster.pool import events as ev
from raybox_cluster.pool.actors import ActorClasses, ensure_node_agent, start_sandbox_actor
from raybox_cluster.pool.calls import Handle, alive_nodes, answer, cause_of_loss, find, names, one_line, timed
from raybox_cluster.pool.cluster_view import look, report_demand
from raybox_cluster.pool.demand import Request, request
from raybox_cluster.pool.events import SlotKey
from raybox_cluster.pool.fronts import Fronts, node_of_front
from raybox_cluster.pool.gang_keeper import GangKeeper, gang_key, member_key
from raybox_cluster.pool.instructions import (
    AnswerClaim,
    AnswerGang,
    AssignClaim,
    ConfirmGang,
    DescribeSlot,
    EnsureNodeAgent,
    FailGang,
    Instruction,
    KillSandbox,
    PrepareSlot,
    RefuseClaim,
    RejectClaim,
    RemovePlacement,
    ReservePlacement,
    StartSlot,
    StopNodeAgent,
    StopSlot,
)
from raybox_cluster.pool.leaks import LeakCounts
from raybox_cluster.pool.lease_keeper import LeaseKeeper
from raybox_cluster.pool.leases import LeaseId
from raybox_cluster.pool.owners import OWNER_CHECK_S
from raybox_cluster.pool.placement import RayNode, fitting, may_host, sandbox_bundle
from raybox_cluster.pool.placement_groups import Bundle
from raybox_cluster.pool.quotas import Use
from raybox_cluster.pool.ray_owners import look_up
from raybox_cluster.pool.state import PoolState

logger = logging.getLogger(__name__)

#: Every so many sweeps, placement groups that nobody owns are looked for.
PLACEMENT_SWEEPS: Final = 10
DESCRIBE_TIMEOUT_S: Final = 2.0
DESCRIBE_AT_ONCE: Final = 64
SWEEP_INTERVAL_S: Final = 3.0
#: A slot that has not spoken for so long is asked, in case its last word got lost.
SILENCE_S: Final = 30.0
#: A template may have to be built first.
AGENT_TIMEOUT_S: Final = 300.0
AGENT_CHECK_TIMEOUT_S: Final = 15.0
START_TIMEOUT_S: Final = 120.0
PREPARE_TIMEOUT_S: Final = 60.0
CLAIM_TIMEOUT_S: Final = 60.0
RETIRE_TIMEOUT_S: Final = 15.0
KEYS_KEPT: Final = 10_000


class PoolManager:
    """Plain class of the actor. Nothing here blocks its loop."""

    def __init__(self, config: PoolConfig, classes: ActorClasses | None = None, keys: tuple[ApiKey, ...] = ()) -> None:
        self._config, self._classes = config, classes or ActorClasses()
        self._fronts = Fronts(config, keys)
        self._state = PoolState(
            config.sandboxes,
            config.warm,
            placement=config.placement,
            warm_per_node=config.warm_per_node,
            min_sandboxes=config.min_sandboxes,
            idle_s=config.idle_s,
            unix_ahead_s=time.time() - time.monotonic(),
        )
        self._bundle = sandbox_bundle(config.cpu_request, config.memory_request_mib)
        #: What Ray's autoscaler was last asked for; None: nobody knows yet.
        self._requested: Request | None = None
        self._leaks = LeakCounts(config.name)
        self._handles: dict[SlotKey, Handle] = {}
        self._futures: dict[str, asyncio.Future[SandboxInfo]] = {}
        self._requests: dict[str, CreateRequest] = {}
        self._assigned_at_s: dict[str, float] = {}
        #: Creates by owner and idempotency key, done or under way. Failed ones are forgotten.
        self._by_key: OrderedDict[tuple[str, str], asyncio.Future[Any]] = OrderedDict()
        self._claims_begun = 0
        self._gangs = GangKeeper(
            config,
            tell=self._tell,
            spawn=self._spawn,
            asked=self._asked,
            confirm=self._confirm,
            placed=lambda gang_id: gang_id in self._state.placements,
            requests=self._requests,
            assigned_at_s=self._assigned_at_s,
        )
        self._sweeps = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._wake: asyncio.TimerHandle | None = None
        self._describing = asyncio.Semaphore(DESCRIBE_AT_ONCE)
        self._problems: deque[str] = deque(maxlen=20)
        self._problems_noted = 0
        self._recovered = asyncio.Event()
        self._checking: set[str] = set()
        #: Descriptions asked for and not had yet.
        self._asking: dict[SlotKey, asyncio.Task[None]] = {}
        self._leases = LeaseKeeper(
            self._claim, self._state.claimed, self._call_sandbox, lambda owners: off_loop(look_up, owners)
        )
        self._spawn(self._keep_up_leases())
        self._spawn(self._keep_up())  # on the actor's loop: Ray runs all of an async actor there

    # ---- what others call ----

    async def start(self, config: PoolConfig) -> None:
        """Return when it knows its pool. BadRequest if the caller has another pool of this name in mind."""
        if config != self._config:
            raise BadRequest(f"a pool {config.name} with other settings is already running")
        await self._recovered.wait()

    async def config(self) -> PoolConfig:
        """What it was started with; for whoever wants to know whether this is the pool they have in mind."""
        return self._config

    async def claim(self, request: CreateRequest) -> SandboxInfo:
        """A sandbox for the caller, once it answers. The same idempotency key of the same owner returns the same one.

        Raises NoCapacity after the request's own wait, or else the pool's; LimitReached when the request's quota has no
        room, counting what the owner's other sandboxes and claims use; what the actor says of the request itself.
        """
        await self._recovered.wait()
        if request.idempotency_key is None:
            return await self._claim(request)
        info: SandboxInfo = await self._once(request.owner, request.idempotency_key, partial(self._claim, request))
        return info

    async def claim_many(self, request: CreateRequest, count: int, deadline_s: float) -> list[SandboxInfo]:
        """So many sandboxes for the caller, all of them within deadline_s, or none: then GangFailed, and nothing is
        left. The request must have an idempotency key; the same one of the same owner returns the same sandboxes."""
        await self._recovered.wait()
        assert request.idempotency_key is not None
        before = [self._by_key.get((request.owner, member_key(request, index))) for index in range(count)]
        if all(one is not None and one.done() for one in before):  # a former manager made it
            return [one.result() for one in before if one is not None]
        work = partial(self._gangs.make, request, count, deadline_s)
        infos: list[SandboxInfo] = await self._once(request.owner, gang_key(request.idempotency_key), work)
        return infos

    async def drop_many(self, owner: str, idempotency_key: str) -> None:
        """Whoever called claim_many with this key has gone: end what is left of it. Idempotent."""
        await self._recovered.wait()
        whole = gang_key(idempotency_key)
        for known in [known for known in self._by_key if known[0] == owner and known[1].startswith(whole)]:
            task = self._by_key.pop(known)
            task.cancel()
            await asyncio.wait({task})
        # Whatever the task had to say: a former manager may have made it, or the cancellation came a moment late.
        for info in [info for info, _ in self._state.claimed() if info.owner == owner]:
            parts = ids.parse(info.sandbox_id)
            if parts is not None and (info.idempotency_key or "").startswith(whole):
                await self._kill(SlotKey(info.node_id, parts.slot), info.sandbox_id, "killed")

    async def _once(self, owner: str, key: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """What `work` returned to the first who came with this key; failures are forgotten."""
        task = self._by_key.get((owner, key))
        if task is None:
            task = self._by_key[owner, key] = self._spawn(work())
            task.add_done_callback(partial(self._forget_failure, (owner, key)))
            while len(self._by_key) > KEYS_KEPT:
                self._by_key.popitem(last=False)
        return await asyncio.shield(task)

    async def lease(self, request: CreateRequest, recreate: bool = False) -> tuple[SandboxInfo, bool]:
        """LeaseKeeper.lease. Calls of one lease take turns; one whose caller has gone is finished all the same."""
        await self._recovered.wait()
        return await self._leases.lease(request, recreate=recreate)

    async def release_lease(self, api_key: str, key: str, sandbox_id: str | None) -> bool:
        """LeaseKeeper.release; returns when nothing of the sandbox is left."""
        await self._recovered.wait()
        return await self._leases.release(LeaseId(api_key, key), sandbox_id)

    async def heartbeat(self, owner: LeaseOwner) -> int:
        """How many leases this owner has."""
        await self._recovered.wait()
        return self._leases.heartbeat(owner)

    async def heartbeat_lease(self, api_key: str, key: str) -> bool:
        """A sign of life of all owners of one lease that send any; whether there is such a lease."""
        await self._recovered.wait()
        return self._leases.heartbeat_of(LeaseId(api_key, key))

    async def free_slots(self, limit: int) -> list[str]:
        """Names of actors that may be claimed directly, those to be used first at the front; none while claims wait."""
        await self._recovered.wait()
        return [sandbox_actor_name(self._config, key.node_id, key.slot) for key in self._state.free_slots(limit)]

    async def claimed(self, info: SandboxInfo) -> None:
        """Called by a gateway that claimed a sandbox directly; whoever asks here after this returned is shown it."""
        await self._recovered.wait()
        if (parts := ids.parse(info.sandbox_id)) is not None:
            self._tell(ev.ClaimedDirectly(SlotKey(info.node_id, parts.slot), info))

    async def abandoned(self, actor_name: str, idempotency_key: str) -> None:
        """Called by a gateway whose direct claim, made under this key, brought no answer. If it was won, nobody has the
        sandbox and it is ended; any other sandbox of that actor is left alone."""
        await self._recovered.wait()
        keys = (k for k in self._state.slots if sandbox_actor_name(self._config, k.node_id, k.slot) == actor_name)
        self._tell(ev.ClaimAbandoned(next(keys, None), idempotency_key))

    async def slot_changed(self, description: SlotDescription) -> None:
        """Called by the sandbox actors, who do not wait for it."""
        self._tell(ev.SlotDescribed(description))

    async def sandboxes(self) -> list[SandboxInfo]:
        await self._recovered.wait()
        return list(self._state.live())

    async def status(self) -> PoolStatus:
        await self._recovered.wait()
        return self._leases.added_to(self._leaks.added_to(self._state.status()))

    async def capacity(self, owner: str, quota: Quota | None) -> PoolCapacity:
        """What an API key of this name and quota may start now."""
        await self._recovered.wait()
        return self._state.capacity(owner, quota, self._use({}), time.monotonic())

    async def tombstone(self, sandbox_id: str) -> Cause | None:
        """Why this sandbox is gone, if it died with its actor and that is remembered."""
        await self._recovered.wait()
        return self._state.tombstones.get(sandbox_id)

    # For callers over Ray without raybox: builtins in and out (docs/protocol.md).

    async def front(self, node_id: str) -> str | PlainError:
        """The name of the actor that a caller on this node asks for everything but executions."""
        await self._recovered.wait()
        hosts = [node for node, known in self._state.nodes.items() if known.agent == "ready"]
        own = ray.get_runtime_context().get_node_id()
        return await plainly(self._fronts.on(node_of_front(node_id, hosts, own)))

    async def lost(self, sandbox_id: str) -> PlainError:
        """What became of a sandbox whose actor is not there."""
        parts = ids.verify(self._config.secret, sandbox_id)
        if parts is None:
            return plain_error(NotFound("sandbox", sandbox_id[:80]))
        await self._recovered.wait()
        return plain_error(SandboxLost(sandbox_id, await self._cause_of(sandbox_id, parts.node)))

    async def problems(self) -> tuple[int, list[str]]:
        """How many problems were noted ever, and the latest of them, oldest first; for whoever waits in vain."""
        return self._problems_noted, list(self._problems)

    # ---- a create ----

    async def _claim(self, request: CreateRequest) -> SandboxInfo:
        asked_at_s = time.monotonic()
        self._claims_begun += 1
        claim_id = str(self._claims_begun)
        future: asyncio.Future[SandboxInfo] = asyncio.get_running_loop().create_future()
        self._futures[claim_id] = future
        self._requests[claim_id] = request
        wait_s = self._config.admission_wait_s if request.wait_s is None else request.wait_s
        wait = asyncio.get_running_loop().call_later(wait_s, self._tell, ev.ClaimDeadlinePassed(claim_id))
        try:
            self._tell(self._asked(claim_id, request))
            info = await future
            return timed(info, asked_at_s, self._assigned_at_s[claim_id], time.monotonic())
        finally:
            wait.cancel()
            del self._futures[claim_id], self._requests[claim_id]
            self._assigned_at_s.pop(claim_id, None)

    def _use(self, resources: dict[str, float]) -> Use:
        """What a sandbox with these wishes counts. Raises BadRequest, LimitReached."""
        limits = effective(self._config.limits(), None, resources)
        return Use(1, limits.cpu_count, limits.memory_mib)

    def _asked(self, claim_id: str, request: CreateRequest) -> ev.ClaimAsked:
        """Raises BadRequest, LimitReached."""
        use = self._use(request.resources)
        return ev.ClaimAsked(
            claim_id,
            request.owner,
            request.quota,
            use,
            request.idempotency_key,
            near_node_id=request.near_node_id,
            weight=request.weight,
        )

    async def _confirm(self, key: SlotKey, info: SandboxInfo, timeout_s: float) -> SlotDescription:
        handle = self._handles.get(key)
        if handle is None:
            raise SandboxLost(info.sandbox_id, "internal")
        description: SlotDescription = await answer(handle.confirm.remote(info.sandbox_id, timeout_s), CLAIM_TIMEOUT_S)
        return description

    async def _assign(self, claim_id: str, key: SlotKey) -> None:
        request = self._requests.get(claim_id)
        if request is None:
            self._tell(ev.ClaimDropped(claim_id, key))
            return
        self._assigned_at_s[claim_id] = time.monotonic()
        try:
            info = await answer(self._handles[key].claim.remote(request), CLAIM_TIMEOUT_S)
        except SlotTaken:
            self._tell(ev.ClaimRefused(claim_id, key))
        except InternalError as error:
            self._note(f"slot {key.slot} could not serve a claim: {error}")
            self._tell(ev.ClaimBroke(claim_id, key))
        except RayboxError as error:
            self._fail(claim_id, error)
            if request.gang:
                self._gangs.dropped(claim_id, error)
            self._tell(ev.ClaimDropped(claim_id, key, str(error)))
        except (RayActorError, TimeoutError) as error:
            # Whether it was claimed is not known. Nobody has the id, so ending the actor loses and leaks nothing.
            await self._lose(key, error, kill=True)
        else:
            self._tell(ev.ClaimWon(claim_id, key, info))

    def _forget_failure(self, key: tuple[str, str], task: asyncio.Future[SandboxInfo]) -> None:
        if (task.cancelled() or task.exception() is not None) and self._by_key.get(key) is task:
            del self._by_key[key]

    # ---- events in, instructions out ----

    def _tell(self, event: ev.Event) -> None:
        for order in self._state.handle(event, time.monotonic()):
            self._carry_out(order)
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if (at_s := self._state.wake_at_s) is not None:
            delay_s = max(0.0, at_s - time.monotonic())
            self._wake = asyncio.get_running_loop().call_later(delay_s, self._tell, ev.Ticked())

    def _carry_out(self, order: Instruction) -> None:
        match order:
            case EnsureNodeAgent(node_id):
                self._spawn(self._ensure_agent(node_id, AGENT_TIMEOUT_S))
            case StopNodeAgent(node_id):
                self._spawn(self._stop_agent(node_id))
            case StartSlot(key, placement, bundle):
                within = self._gangs.bundle(placement, bundle) if placement else None
                self._spawn(self._start_slot(key, within))
            case PrepareSlot(key):
                self._spawn(self._prepare(key))
            case DescribeSlot(key):
                self._ask(key)
            case StopSlot(key):
                self._spawn(self._stop_slot(key))
            case AssignClaim(claim_id, key):
                self._spawn(self._assign(claim_id, key))
            case KillSandbox(key, sandbox_id, cause):
                self._spawn(self._kill(key, sandbox_id, cause))
            case AnswerClaim(claim_id, info):
                future = self._futures.get(claim_id)
                if future is not None and not future.done():
                    future.set_result(info)
            case RejectClaim(claim_id, retry_after_s, reason):
                self._fail(claim_id, NoCapacity(reason, retry_after_s))
            case ReservePlacement() | RemovePlacement() | ConfirmGang() | AnswerGang() | FailGang():
                self._gangs.carry_out(order)
            case RefuseClaim(claim_id, reason):
                self._fail(claim_id, LimitReached(reason))

    def _fail(self, claim_id: str, error: RayboxError) -> None:
        if (future := self._futures.get(claim_id)) is not None and not future.done():
            future.set_exception(error)

    async def _ensure_agent(self, node_id: str, timeout_s: float) -> None:
        agent: Handle = None
        try:
            agent = await off_loop(ensure_node_agent, self._config, self._classes, node_id)
            facts: NodeFacts = await answer(agent.start.remote(), timeout_s)
            self._leaks.record(node_id, await answer(agent.ping.remote(), timeout_s))
        except (RayboxError, RayActorError, TimeoutError) as error:
            known = self._state.nodes.get(node_id)
            said = known is not None and known.agent_problem == one_line(error)
            if not (said and any(node.agent == "ready" for node in self._state.nodes.values())):
                self._note(f"node {node_id[:12]}: {error!r}")
            if isinstance(error, RayboxError):  # it has given up; the next attempt shall begin afresh
                ray.kill(agent, no_restart=False)
            self._tell(ev.NodeAgentFailed(node_id, one_line(error) if isinstance(error, RayboxError) else ""))
        else:
            self._tell(ev.NodeAgentReady(node_id, facts.no_network))

    async def _stop_agent(self, node_id: str) -> None:
        await self._fronts.end(node_id)
        with contextlib.suppress(RayActorError, RayboxError, TimeoutError, ValueError):
            agent = await off_loop(find, node_agent_name(self._config, node_id))
            try:
                await answer(agent.stop.remote(), RETIRE_TIMEOUT_S)
            finally:
                ray.kill(agent)
        self._tell(ev.NodeAgentStopped(node_id))

    async def _check_agent(self, node_id: str) -> None:
        """Whether its zygote still answers; without one, no slot can be prepared there."""
        if node_id not in self._checking:
            self._checking.add(node_id)
            try:
                await self._ensure_agent(node_id, AGENT_CHECK_TIMEOUT_S)
            finally:
                self._checking.discard(node_id)

    async def _start_slot(self, key: SlotKey, within: Bundle | None) -> None:
        try:
            handle = await off_loop(start_sandbox_actor, self._config, self._classes, key, within)
            self._handles[key] = handle
            self._tell(ev.SlotDescribed(await answer(handle.start.remote(), START_TIMEOUT_S)))
        except ActorUnschedulableError:
            self._note(f"slot {key.slot}: there is no room for it on node {key.node_id[:12]} any more")
            self._tell(ev.SlotUnplaced(key))
            self._handles.pop(key, None)
        except (RayboxError, RayActorError, TimeoutError, ValueError) as error:
            await self._lose(key, error, kill=True)

    async def _prepare(self, key: SlotKey) -> None:
        try:
            description = await answer(self._handles[key].prepare.remote(), PREPARE_TIMEOUT_S)
        except (RayActorError, TimeoutError) as error:
            await self._lose(key, error, kill=isinstance(error, TimeoutError))
        except RayboxError as error:
            self._note(f"slot {key.slot} could not be prepared: {error}")
            self._tell(ev.PrepareEnded(key, ok=False))
        else:
            ok = description.state not in ("idle", "destroying")
            if not ok:
                self._note(f"slot {key.slot} could not be prepared")
            self._tell(ev.SlotDescribed(description))
            self._tell(ev.PrepareEnded(key, ok=ok))

    def _ask(self, key: SlotKey) -> None:
        if key not in self._asking:
            task = self._asking[key] = self._spawn(self._describe(key))
            task.add_done_callback(lambda _: self._asking.pop(key))

    async def _describe(self, key: SlotKey) -> None:
        """Ask until it answers or is dead. An actor that a former manager created but never started is started."""
        async with self._describing:
            try:
                handle = self._handles.get(key)
                if handle is None:
                    name = sandbox_actor_name(self._config, key.node_id, key.slot)
                    handle = self._handles[key] = await off_loop(find, name)
                try:
                    description = await answer(handle.describe.remote(), DESCRIBE_TIMEOUT_S)
                except InternalError:
                    description = await answer(handle.start.remote(), START_TIMEOUT_S)
            except (TimeoutError, ActorUnavailableError) as error:
                # Slow is not dead, and it may hold somebody's sandbox: the next sweep asks again.
                self._note(f"slot {key.slot} does not answer: {error}")
            except (RayboxError, RayActorError, ValueError) as error:
                await self._lose(key, error)
            else:
                self._tell(ev.SlotDescribed(description))

    async def _stop_slot(self, key: SlotKey) -> None:
        handle = self._handles[key]
        try:
            # The only way to take it that whoever claims it directly respects: by claiming it first.
            request = CreateRequest(timeout_s=self._config.max_timeout_s, allow_internet_access=False)
            await answer(handle.claim.remote(request), CLAIM_TIMEOUT_S)
        except SlotTaken:
            self._tell(ev.StopRefused(key))
            return
        except (RayActorError, RayboxError, TimeoutError) as error:
            self._note(f"slot {key.slot} is stopped although it is broken: {error}")
        with contextlib.suppress(RayActorError, RayboxError, TimeoutError):
            await answer(handle.retire.remote(), RETIRE_TIMEOUT_S)
        ray.kill(handle)
        self._tell(ev.SlotStopped(key))
        self._handles.pop(key, None)

    async def _kill(self, key: SlotKey, sandbox_id: str, cause: Cause) -> None:
        with contextlib.suppress(RayActorError, RayboxError, TimeoutError, ValueError):
            handle = await off_loop(find, sandbox_actor_name(self._config, key.node_id, key.slot))
            await answer(handle.kill.remote(sandbox_id, cause), CLAIM_TIMEOUT_S)

    async def _lose(self, key: SlotKey, error: Exception, *, kill: bool = False) -> None:
        """The actor is dead, or `kill`: as good as dead. The node is asked for too, so that the cause is right."""
        handle = self._handles.get(key)
        if kill and handle is not None and not isinstance(error, ActorDiedError):
            ray.kill(handle)
        self._note(f"slot {key.slot} is lost: {error}")
        if key.node_id not in await off_loop(alive_nodes):
            self._tell(ev.NodeGone(key.node_id))
        self._tell(ev.SlotLost(key))
        self._handles.pop(key, None)

    # ---- keeping up ----

    async def _keep_up(self) -> None:
        """Look around now and then; the first time is the recovery."""
        while True:
            try:
                await self._sweep()
                self._recovered.set()
            except Exception as error:
                logger.exception("sweep")
                self._note(f"sweep: {error!r}")
            await asyncio.sleep(SWEEP_INTERVAL_S)

    async def _keep_up_leases(self) -> None:
        await self._recovered.wait()
        while True:
            try:
                await self._leases.tick()
                self._leaks.record_orphans(self._leases.orphans)
            except Exception as error:
                logger.exception("leases")
                self._note(f"leases: {error!r}")
            await asyncio.sleep(OWNER_CHECK_S)

    async def _call_sandbox(self, sandbox_id: str, method: str, *arguments: object) -> Any:
        """One call of the sandbox's actor. SandboxLost if that is dead; InternalError if it does not answer."""
        parts = ids.parse(sandbox_id)
        assert parts is not None
        try:
            handle = await off_loop(find, sandbox_actor_name(self._config, parts.node, parts.slot))
            return await answer(getattr(handle, method).remote(sandbox_id, *arguments), CLAIM_TIMEOUT_S)
        except (ActorDiedError, ValueError):
            raise SandboxLost(sandbox_id, await self._cause_of(sandbox_id, parts.node)) from None
        except (RayActorError, TimeoutError) as error:
            raise InternalError(f"the sandbox's actor cannot be reached: {error}"[:500]) from None

    async def _cause_of(self, sandbox_id: str, node: str) -> Cause:
        """Why this sandbox went with its actor."""
        known = self._state.tombstones.get(sandbox_id)
        return known if known is not None else await off_loop(cause_of_loss, node)

    async def _sweep(self) -> None:
        # Those that have spoken before the names are listed; others may still be being born.
        known = {key: slot for key, slot in self._state.slots.items() if slot.description is not None}
        nodes, living = await asyncio.gather(off_loop(look), off_loop(names, self._config))
        by_prefix = {node.node_id[:12]: node.node_id for node in nodes}
        for node_id in self._state.nodes.keys() - set(by_prefix.values()):
            self._tell(ev.NodeGone(node_id))
        found, agents = set(), set()
        for name in living:
            match = re.fullmatch(r".*-(?:node|sandbox)-([0-9a-f]{12})(?:-([0-9]+))?", name)
            if match is not None and match[1] in by_prefix:
                node_id = by_prefix[match[1]]
                if match[2] is None:
                    agents.add(node_id)
                else:
                    found.add(SlotKey(node_id, int(match[2])))
        recovering = not self._recovered.is_set()
        for key in sorted(found - self._state.slots.keys()):
            self._tell(ev.SlotFound(key))
        if recovering and self._asking:  # so that the first claims and answers know what there is
            await asyncio.wait(self._asking.values())
        if recovering:
            self._remember_keys()
            self._leases.reconcile()
        if self._sweeps % PLACEMENT_SWEEPS == 0:
            self._tell(await self._gangs.look())
        self._sweeps += 1
        for node in nodes:
            self._tell(self._seen(node))
        for node_id in agents:
            self._tell(ev.NodeAgentFound(node_id))
        for key, known_slot in known.items():
            if key not in found and self._state.slots.get(key) is known_slot:
                await self._lose(key, ActorDiedError())
        for key in self._handles.keys() - self._state.slots.keys():  # they went with their node
            del self._handles[key]
        for key in self._state.silent_since(time.monotonic() - SILENCE_S):
            self._ask(key)
        for node_id, known_node in list(self._state.nodes.items()):
            if known_node.agent == "ready":
                self._spawn(self._check_agent(node_id))
        await self._report_demand(nodes)

    def _seen(self, node: RayNode) -> ev.NodeSeen:
        drain_at_s = None
        if node.drain_deadline_s is not None:
            drain_at_s = self._state.policy.drain_at_s(
                node.drain_deadline_s, self._config.drain_grace_s, time.monotonic(), time.time()
            )
        hosts, room = may_host(self._config.node_labels, node), fitting(self._bundle, node.available)
        return ev.NodeSeen(node.node_id, hosts, room, drain_at_s)

    async def _report_demand(self, nodes: list[RayNode]) -> None:
        wanted = request(self._bundle, self._config.node_labels, self._state.unmet(), nodes)
        if wanted != self._requested:
            try:
                await off_loop(report_demand, self._config.name, wanted)
                self._requested = wanted
            except Exception as error:  # whatever Ray's own layers raise; the next look tries again
                self._note(f"Ray's autoscaler could not be told: {error!r}")

    def _remember_keys(self) -> None:
        """What a former manager promised: its sandboxes know the keys they were created under."""
        for info in self._state.live():
            if info.idempotency_key is not None:
                kept: asyncio.Future[SandboxInfo] = asyncio.get_running_loop().create_future()
                kept.set_result(info)
                self._by_key[(info.owner, info.idempotency_key)] = kept

    def _note(self, problem: str) -> None:
        logger.warning("%s", problem)
        self._problems.append(problem[:500])
        self._problems_noted += 1

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, RayboxError):
            self._note(f"{task}: {error!r}")
