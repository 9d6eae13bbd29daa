"""What the gateway needs of the pool. The real one speaks to Ray actors (backend_ray.py); it raises raybox errors."""

from __future__ import annotations

from typing import Protocol

from raybox_actors.agent.api import Agent
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


class Backend(Protocol):
    """Every method may raise NotFound, SandboxLost, NoCapacity, BadRequest or InternalError; none blocks the loop."""

    async def create(self, request: CreateRequest) -> SandboxInfo:
        """Claim a sandbox; return when it answers. NoCapacity after the pool's admission wait."""
        ...

    async def create_many(self, request: CreateRequest, count: int, deadline_s: float) -> list[SandboxInfo]:
        """So many sandboxes, all within deadline_s or none: then GangFailed, and nothing is left. Cancelling gives back
        what there is, unless the request has an idempotency key, whose owner may come back."""
        ...

    async def capacity(self, owner: str, quota: Quota | None) -> PoolCapacity:
        """What an API key of this name and quota may start now."""
        ...

    async def connect(self, sandbox_id: str, timeout_s: float) -> tuple[SandboxInfo, bool]:
        """Extend the deadline to at least now + timeout_s (never shorten); true if it was resumed from a pause."""
        ...

    async def info(self, sandbox_id: str) -> SandboxInfo: ...

    async def sandboxes(self) -> list[SandboxInfo]:
        """Every live sandbox of the pool, in no order."""
        ...

    async def kill(self, sandbox_id: str) -> None: ...

    async def set_timeout(self, sandbox_id: str, timeout_s: float) -> None:
        """Deadline = now + timeout_s; 0 expires it at once."""
        ...

    async def update_network(self, sandbox_id: str, network: dict[str, object], allow_internet_access: bool) -> None:
        """Replace the rules of the sandbox's network: `allowOut`, `denyOut` and `dnsServers` of the contract. What they
        deny has been cut when this returns. BadRequest where they cannot hold; then nothing has changed."""
        ...

    async def execute(self, sandbox_id: str, request: ExecuteRequest) -> EventBatch:
        """Start a cell (at most once per execution id) and return its first events, or none if it takes longer than
        a few milliseconds to say anything; go on with `poll`."""
        ...

    async def poll(self, sandbox_id: str, execution_id: str, after_seq: int, wait_s: float) -> EventBatch:
        """Events from number `after_seq` on; waits up to `wait_s` for the next. Asking tells the sandbox that somebody
        is listening, and that what came before `after_seq` has arrived. Idempotent."""
        ...

    async def run_items(self, sandbox_id: str, items: tuple[ItemRequest, ...], within_s: float | None) -> ItemsDone:
        """Run items of a batch one after the other, end all that each left, and tell what came of them. For sandboxes
        of batches alone: whatever else there is in one ends. After `within_s` no other is begun, and one that goes on
        is left to `item_end`. BadRequest, as an end, for an item that cannot mean anything."""
        ...

    async def item_end(self, sandbox_id: str) -> ItemOutcome:
        """What came of the item that went on when `run_items` returned, once it has ended."""
        ...

    async def interrupt(self, sandbox_id: str, execution_id: str) -> None:
        """Interrupt a running execution; nothing happens to one that ended."""
        ...

    async def create_context(self, sandbox_id: str, language: str | None, cwd: str | None) -> ContextInfo: ...

    async def contexts(self, sandbox_id: str) -> list[ContextInfo]: ...

    async def restart_context(self, sandbox_id: str, context_id: str) -> None: ...

    async def remove_context(self, sandbox_id: str, context_id: str) -> None: ...

    async def agent(self, sandbox_id: str) -> Agent:
        """The sandbox's files, processes and ports. Bytes go past Ray: connections to the actor, or to the agent."""
        ...

    async def environment(self, sandbox_id: str) -> dict[str, str]:
        """The environment variables that the sandbox was created with."""
        ...

    async def metrics(
        self, sandbox_id: str, start_s: float | None = None, end_s: float | None = None
    ) -> list[ResourceUsage]:
        """What the sandbox used within this span of unix time, oldest first: one sample every few seconds, and, if the
        span is open at its end, one of this moment."""
        ...

    async def logs(self, sandbox_id: str) -> list[LogEntry]:
        """What happened in the life of the sandbox, oldest first; also of one that ended, for a while."""
        ...

    async def lease(self, request: CreateRequest, *, recreate: bool) -> tuple[SandboxInfo, bool]:
        """The sandbox of `request.lease`, of which the request's owner has the key; made if there is none, and then the
        flag is true. SandboxLost, once, if it has died of itself, unless `recreate`."""
        ...

    async def release_lease(self, api_key: str, key: str, sandbox_id: str | None) -> bool:
        """End a lease and its sandbox. False if there is none, or if it has another sandbox than the one given."""
        ...

    async def heartbeat(self, owner: LeaseOwner) -> int:
        """A sign of life of an owner; how many leases it has."""
        ...

    async def heartbeat_lease(self, api_key: str, key: str) -> bool:
        """A sign of life of all owners of one lease that send any; whether there is such a lease."""
        ...

    async def status(self) -> PoolStatus: ...
