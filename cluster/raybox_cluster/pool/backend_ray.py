"""RayBackend: the gateway's way to the sandboxes. One actor call per request, a create of a warm sandbox included.

A create claims a slot that a look of a moment ago showed warm. Without such a hint, or when it was wrong, and when the
caller gives an idempotency key or has a quota, which only the manager can look up, the manager finds the slot.
"""

from __future__ import annotations

import asyncio
import socket
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, cast

import ray
from ray.exceptions import ActorDiedError, RayActorError

from raybox_actors import sandbox_id as ids
from raybox_actors.agent.api import Agent
from raybox_actors.agent.client import AgentClient
from raybox_actors.agent.handshake import AgentEndpoint
from raybox_actors.agent.remote import Stale, open_connection
from raybox_actors.config import PoolConfig, manager_name, sandbox_actor_name
from raybox_actors.errors import Cause, InternalError, NotFound, RayboxError, SandboxLost, SlotTaken
from raybox_actors.off_loop import off_loop
from raybox_actors.values import (
    ContextInfo,
    CreateRequest,
    EventBatch,
    ExecuteRequest,
    ItemOutcome,
    ItemRequest,
    ItemsDone,
    LeaseOwner,
    LogEntry,
    PoolCapacity,
    PoolStatus,
    Quota,
    ResourceUsage,
    SandboxInfo,
)
from raybox_cluster.pool.calls import Handle, answer, cause_of_loss, find, timed
from raybox_cluster.pool.hints import WarmHints

#: How long a call waits for a manager that is being restarted, beyond what the call itself may take.
MANAGER_RESTART_S: Final = 30.0
RETRY_PAUSE_S: Final = 0.1
HANDLES_KEPT: Final = 10_000
TOMBSTONE_TIMEOUT_S: Final = 2.0
#: A create tries so many hints before it asks the manager.
HINTS_TRIED: Final = 2
#: A warm slot answers in milliseconds; one that was recycled since may have to build its walls.
CLAIM_TIMEOUT_S: Final = 10.0
LOOK_TIMEOUT_S: Final = 2.0
TELL_TIMEOUT_S: Final = 2.0


class RayBackend:
    """Implements raybox_cluster.gateway.backend.Backend. One per process; used on one loop."""

    def __init__(self, config: PoolConfig) -> None:
        self._config = config
        #: By actor name, the least lately used first.
        self._handles: OrderedDict[str, Handle] = OrderedDict()
        self._hints = WarmHints(self._look, self._connect)
        self._creates_at_manager = 0
        #: By sandbox id, the least lately used first.
        self._endpoints: OrderedDict[str, AgentEndpoint] = OrderedDict()
        self._node_id = ""
        #: What the manager was told and has not acknowledged.
        self._told: set[asyncio.Future[Any]] = set()

    async def start(self) -> RayBackend:
        """Begin to look for warm sandboxes, so that the first create is as fast as any; returns itself at once. Without
        it, the first create begins it."""
        self._hints.refresh(0.0)
        return self

    async def create(self, request: CreateRequest) -> SandboxInfo:
        try:
            # Whoever waits at the manager came before.
            free = request.quota is None
            if free and request.idempotency_key is None and not self._creates_at_manager:
                info = await self._claim_directly(request)
                if info is not None:
                    return info
            if request.idempotency_key is None:
                # So that asking again, when the manager went away in the middle, cannot yield a second sandbox.
                request = replace(request, idempotency_key=_new_key())
            self._creates_at_manager += free  # one key that is over its quota shall not slow the others down
            try:
                return cast(SandboxInfo, await self._ask_manager(lambda manager: manager.claim.remote(request)))
            finally:
                self._creates_at_manager -= free
        finally:
            self._hints.refresh()

    async def create_many(self, request: CreateRequest, count: int, deadline_s: float) -> list[SandboxInfo]:
        ends_at_s = time.monotonic() + deadline_s
        keep = request.idempotency_key is not None
        if not keep:
            request = replace(request, idempotency_key=_new_key())
        try:
            return cast(
                "list[SandboxInfo]",
                await self._ask_manager(
                    lambda manager: manager.claim_many.remote(request, count, max(0.0, ends_at_s - time.monotonic()))
                ),
            )
        except asyncio.CancelledError:
            if not keep:
                self._tell_manager("drop_many", request.owner, request.idempotency_key)
            raise
        finally:
            self._hints.refresh()

    async def capacity(self, owner: str, quota: Quota | None) -> PoolCapacity:
        return cast(PoolCapacity, await self._ask_manager(lambda manager: manager.capacity.remote(owner, quota)))

    async def lease(self, request: CreateRequest, *, recreate: bool) -> tuple[SandboxInfo, bool]:
        # Should the manager be replaced meanwhile, the sandbox that it made for this request is known by the key.
        request = replace(request, idempotency_key=_new_key())
        told = await self._ask_manager(lambda manager: manager.lease.remote(request, recreate))
        return cast("tuple[SandboxInfo, bool]", told)

    async def release_lease(self, api_key: str, key: str, sandbox_id: str | None) -> bool:
        return cast(
            bool, await self._ask_manager(lambda manager: manager.release_lease.remote(api_key, key, sandbox_id))
        )

    async def heartbeat(self, owner: LeaseOwner) -> int:
        return cast(int, await self._ask_manager(lambda manager: manager.heartbeat.remote(owner)))

    async def heartbeat_lease(self, api_key: str, key: str) -> bool:
        return cast(bool, await self._ask_manager(lambda manager: manager.heartbeat_lease.remote(api_key, key)))

    async def connect(self, sandbox_id: str, timeout_s: float) -> tuple[SandboxInfo, bool]:
        return cast("tuple[SandboxInfo, bool]", await self._call("connect", sandbox_id, timeout_s))

    async def info(self, sandbox_id: str) -> SandboxInfo:
        return cast(SandboxInfo, await self._call("info", sandbox_id))

    async def sandboxes(self) -> list[SandboxInfo]:
        if self._told:  # Ray may run calls of an asyncio actor in another order than they were made in
            await asyncio.wait(set(self._told))
        return cast("list[SandboxInfo]", await self._ask_manager(lambda manager: manager.sandboxes.remote()))

    async def kill(self, sandbox_id: str) -> None:
        await self._call("kill", sandbox_id)

    async def set_timeout(self, sandbox_id: str, timeout_s: float) -> None:
        await self._call("set_timeout", sandbox_id, timeout_s)

    async def update_network(self, sandbox_id: str, network: dict[str, object], allow_internet_access: bool) -> None:
        await self._call("update_network", sandbox_id, network, allow_internet_access)

    async def execute(self, sandbox_id: str, request: ExecuteRequest) -> EventBatch:
        return cast(EventBatch, await self._call("execute", sandbox_id, request))

    async def poll(self, sandbox_id: str, execution_id: str, after_seq: int, wait_s: float) -> EventBatch:
        return cast(EventBatch, await self._call("poll", sandbox_id, execution_id, after_seq, wait_s))

    async def run_items(self, sandbox_id: str, items: tuple[ItemRequest, ...], within_s: float | None) -> ItemsDone:
        return cast(ItemsDone, await self._call("run_items", sandbox_id, items, within_s))

    async def item_end(self, sandbox_id: str) -> ItemOutcome:
        return cast(ItemOutcome, await self._call("item_end", sandbox_id))

    async def interrupt(self, sandbox_id: str, execution_id: str) -> None:
        await self._call("interrupt", sandbox_id, execution_id)

    async def create_context(self, sandbox_id: str, language: str | None, cwd: str | None) -> ContextInfo:
        return cast(ContextInfo, await self._call("create_context", sandbox_id, language, cwd))

    async def contexts(self, sandbox_id: str) -> list[ContextInfo]:
        return cast("list[ContextInfo]", await self._call("contexts", sandbox_id))

    async def restart_context(self, sandbox_id: str, context_id: str) -> None:
        await self._call("restart_context", sandbox_id, context_id)

    async def remove_context(self, sandbox_id: str, context_id: str) -> None:
        await self._call("remove_context", sandbox_id, context_id)

    async def metrics(
        self, sandbox_id: str, start_s: float | None = None, end_s: float | None = None
    ) -> list[ResourceUsage]:
        return cast(list[ResourceUsage], await self._call("metrics", sandbox_id, start_s, end_s))

    async def environment(self, sandbox_id: str) -> dict[str, str]:
        return cast("dict[str, str]", await self._call("environment", sandbox_id))

    async def logs(self, sandbox_id: str) -> list[LogEntry]:
        return cast("list[LogEntry]", await self._call("logs", sandbox_id))

    async def agent(self, sandbox_id: str) -> Agent:
        if sandbox_id not in self._endpoints:
            await self._find_endpoint(sandbox_id)

        async def connect() -> socket.socket:
            return await self._agent_connection(sandbox_id)

        async def explain() -> None:
            await self._call("info", sandbox_id)

        return AgentClient(connect, explain)

    async def _agent_connection(self, sandbox_id: str) -> socket.socket:
        for _ in range(2):
            endpoint = self._endpoints.get(sandbox_id) or await self._find_endpoint(sandbox_id)
            try:
                connection = await open_connection(self._config.secret, sandbox_id, endpoint, self._own_node())
            except Stale:  # its actor knows more
                self._endpoints.pop(sandbox_id, None)
            else:
                if sandbox_id in self._endpoints:
                    self._endpoints.move_to_end(sandbox_id)
                return connection
        raise InternalError("the sandbox's agent cannot be reached")

    async def _find_endpoint(self, sandbox_id: str) -> AgentEndpoint:
        endpoint = cast(AgentEndpoint, await self._call("agent_endpoint", sandbox_id, self._own_node()))
        self._endpoints[sandbox_id] = endpoint
        while len(self._endpoints) > HANDLES_KEPT:
            self._endpoints.popitem(last=False)
        return endpoint

    def _own_node(self) -> str:
        self._node_id = self._node_id or ray.get_runtime_context().get_node_id()
        return self._node_id

    async def status(self) -> PoolStatus:
        return cast(PoolStatus, await self._ask_manager(lambda manager: manager.status.remote()))

    async def _claim_directly(self, request: CreateRequest) -> SandboxInfo | None:
        """A sandbox of a slot that was free at the last look; None if that did not work out, and then nothing is left
        of the attempt. Raises what the actor says of the request itself."""
        asked_at_s = time.monotonic()
        near = f"-{request.near_node_id[:12]}-" if request.near_node_id else ""  # none there: the manager knows all
        for _ in range(HINTS_TRIED):
            name = self._hints.take(near)
            if name is None:
                return None
            key = _new_key()  # of this attempt: should its outcome stay unknown, the sandbox is recognized by it
            try:
                handle = await self._handle(name)
                chosen_at_s = time.monotonic()
                claim = handle.claim.remote(replace(request, idempotency_key=key))
                info = cast(SandboxInfo, await answer(claim, CLAIM_TIMEOUT_S))
            except SlotTaken:
                continue
            except (ActorDiedError, ValueError):
                self._handles.pop(name, None)
            except (InternalError, RayActorError, TimeoutError):
                self._tell_manager("abandoned", name, key)
                return None
            except asyncio.CancelledError:  # the caller has gone, and with it the only one to learn the id
                self._tell_manager("abandoned", name, key)
                raise
            else:
                ready_at_s = time.monotonic()
                self._tell_manager("claimed", info)
                return timed(info, asked_at_s, chosen_at_s, ready_at_s)
        return None

    async def _look(self, limit: int) -> list[str] | None:
        if not ray.is_initialized():  # this process has left its cluster; a call would make Ray start one
            return None
        name = manager_name(self._config)
        try:
            manager = await self._handle(name)
            return cast("list[str]", await answer(manager.free_slots.remote(limit), LOOK_TIMEOUT_S))
        except (RayActorError, RayboxError, TimeoutError, ValueError) as error:
            if isinstance(error, ActorDiedError):
                self._handles.pop(name, None)
            return None

    async def _connect(self, name: str) -> bool:
        if name in self._handles:
            return True
        try:
            await answer((await self._handle(name)).ping.remote(), LOOK_TIMEOUT_S)
        except (RayActorError, RayboxError, TimeoutError, ValueError):
            self._handles.pop(name, None)
            return False
        return True

    def _tell_manager(self, method: str, *arguments: object) -> None:
        """Without waiting. It may get lost: the actors speak too."""
        # Hints come from the manager, so there is a handle, unless it has just died.
        if (manager := self._handles.get(manager_name(self._config))) is not None:
            call = asyncio.ensure_future(answer(getattr(manager, method).remote(*arguments), TELL_TIMEOUT_S))
            self._told.add(call)
            call.add_done_callback(self._was_told)

    def _was_told(self, call: asyncio.Future[Any]) -> None:
        self._told.discard(call)
        if not call.cancelled():
            call.exception()  # retrieved: it may get lost

    async def _call(self, method: str, sandbox_id: str, *arguments: object) -> Any:
        """One call of the sandbox's actor; never repeated. InternalError, which is retryable, if it is not known
        whether the call arrived."""
        parts = ids.verify(self._config.secret, sandbox_id)
        if parts is None:
            raise NotFound("sandbox", sandbox_id[:80])
        name = sandbox_actor_name(self._config, parts.node, parts.slot)
        try:
            handle = await self._handle(name)
            return await answer(getattr(handle, method).remote(sandbox_id, *arguments))
        except (ActorDiedError, ValueError):
            # Its actor is dead, or its name is gone; the tag says that it did exist.
            self._handles.pop(name, None)
            raise SandboxLost(sandbox_id, await self._cause(sandbox_id, parts.node)) from None
        except RayActorError as error:
            raise InternalError(f"the sandbox's actor cannot be reached: {error}"[:500]) from None

    async def _cause(self, sandbox_id: str, node: str) -> Cause:
        """Why a sandbox went with its actor: the manager may know; the state of its node is the second best."""
        try:
            manager = await self._handle(manager_name(self._config))
            known = await answer(manager.tombstone.remote(sandbox_id), TOMBSTONE_TIMEOUT_S)
        except (RayActorError, TimeoutError, ValueError):
            known = None
        if known is not None:
            return cast(Cause, known)
        return await off_loop(cause_of_loss, node)

    async def _ask_manager(self, call: Callable[[Handle], Any]) -> Any:
        """One call of the manager, repeated while it is away. For calls that may be repeated."""
        deadline_s = time.monotonic() + MANAGER_RESTART_S
        name = manager_name(self._config)
        while True:
            try:
                return await answer(call(await self._handle(name)))
            except (RayActorError, ValueError) as error:
                if isinstance(error, (ActorDiedError, ValueError)):
                    self._handles.pop(name, None)
                if time.monotonic() > deadline_s:
                    raise InternalError("the pool's manager cannot be reached") from None
            await asyncio.sleep(RETRY_PAUSE_S)

    async def _handle(self, name: str) -> Handle:
        """ValueError if there is no such actor."""
        handle = self._handles.get(name)
        if handle is not None:
            self._handles.move_to_end(name)
            return handle
        # In a thread: it asks Ray's control store, and waits for a minute if that is away.
        handle = self._handles[name] = await off_loop(find, name)
        while len(self._handles) > HANDLES_KEPT:
            self._handles.popitem(last=False)
        return handle


def _new_key() -> str:
    return f"raybox-{uuid.uuid4().hex}"
