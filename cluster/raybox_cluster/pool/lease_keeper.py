"""Carries out what LeaseTable and OwnerWatch decide: makes sandboxes, renews them, ends those of dead owners."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, cast
from weakref import WeakValueDictionary

from raybox_actors.errors import Cause, LimitReached, NotFound, RayboxError, SandboxLost
from raybox_actors.values import CreateRequest, Lease, LeaseOwner, PoolStatus, SandboxInfo
from raybox_cluster.pool.leases import LeaseId, LeaseTable, orphaned
from raybox_cluster.pool.owners import OwnerWatch

logger = logging.getLogger(__name__)

#: Living owners of one lease.
OWNERS_MOST: Final = 64
#: How often who waits for the end of a sandbox, or for one that a former manager has in the making, looks again.
LOOK_AGAIN_S: Final = 0.05


class LeaseKeeper:
    """One per manager, on its loop.

    claim: makes a sandbox. claimed: what PoolState.claimed says. call: a method of a sandbox's actor, by the sandbox's
    id; raises SandboxLost also when the actor is dead. look_up: ray_owners.look_up, in a thread.
    """

    def __init__(
        self,
        claim: Callable[[CreateRequest], Awaitable[SandboxInfo]],
        claimed: Callable[[], Iterable[tuple[SandboxInfo, bool]]],
        call: Callable[..., Awaitable[Any]],
        look_up: Callable[[list[LeaseOwner]], Awaitable[Mapping[LeaseOwner, bool | None]]],
    ) -> None:
        self._claim, self._claimed, self._call, self._look_up = claim, claimed, call, look_up
        self._table = LeaseTable()
        self._watch = OwnerWatch()
        #: Whoever makes, renews or ends the sandbox of a lease has its turn.
        self._turns: WeakValueDictionary[LeaseId, asyncio.Lock] = WeakValueDictionary()
        #: What is being ended or asked after, by lease or sandbox.
        self._busy: dict[LeaseId | str, asyncio.Task[None]] = {}

    async def lease(self, request: CreateRequest, *, recreate: bool) -> tuple[SandboxInfo, bool]:
        """The sandbox of `request.lease`, and whether this request made it. Its owner becomes one of the lease's.

        Raises what a create raises; LimitReached beyond OWNERS_MOST; SandboxLost, once, if the sandbox of the lease has
        died of itself, unless `recreate`.
        """
        wanted = request.lease
        assert wanted is not None
        lease_id = LeaseId(request.owner, wanted.key)
        async with self._turn(lease_id):
            while True:
                for owner in wanted.owners:
                    self._watch.hear(owner, time.monotonic())
                what, record = self._table.ask(lease_id)
                if what == "create":
                    return await self._create(lease_id, request), True
                if what == "renew":
                    try:
                        info = await self._renew(lease_id, record.sandbox_id, self._joined(record.lease, wanted))
                    except SandboxLost as lost:
                        self._table.ended(lease_id, record.sandbox_id, lost.cause)
                        continue
                    return info, info.idempotency_key == request.idempotency_key
                if what == "report" and not recreate:
                    raise SandboxLost(record.sandbox_id, record.cause)
                if what == "wait":
                    self.reconcile()
                    await asyncio.sleep(LOOK_AGAIN_S)

    async def release(self, lease_id: LeaseId, sandbox_id: str | None) -> bool:
        """End the lease and its sandbox. False if there is none, or if it has another sandbox than this one."""
        async with self._turn(lease_id):
            record = self._table.get(lease_id)
            if record.state in ("absent", "creating") or (sandbox_id is not None and record.sandbox_id != sandbox_id):
                return False
            await self._end(lease_id, "killed")
            return True

    def heartbeat(self, owner: LeaseOwner) -> int:
        """How many leases it has."""
        self._watch.hear(owner, time.monotonic())
        return sum(owner in record.lease.owners for _, record in self._table.living())

    def heartbeat_of(self, lease_id: LeaseId) -> bool:
        """Of all owners of this lease that send any; False if there is no such lease."""
        record = self._table.get(lease_id)
        for owner in record.lease.owners:
            self._watch.hear(owner, time.monotonic())
        return record.state in ("creating", "starting", "held")

    @property
    def orphans(self) -> int:
        """Leases whose owners are all dead, and whose sandbox is not gone yet."""
        return sum(orphaned(record, self._is_dead) for _, record in self._table.living())

    def added_to(self, status: PoolStatus) -> PoolStatus:
        return replace(status, leases=sum(1 for _ in self._table.living()), orphaned_leases=self.orphans)

    # ---- keeping up ----

    def reconcile(self) -> None:
        """Learn of leases from the sandboxes that there are; ask after those that are not there any more."""
        present = set()
        for info, runs in self._claimed():
            if info.lease is not None:
                present.add(info.sandbox_id)
                surplus = self._table.found(info, runs=runs)
                if surplus is not None:
                    self._begin(surplus, self._kill(surplus, "internal"))
        for lease_id, record in self._table.living():
            if record.sandbox_id not in present:
                self._begin(record.sandbox_id, self._ask_after(lease_id, record.sandbox_id))

    async def tick(self) -> None:
        """Look at the owners; end the leases of dead ones."""
        self.reconcile()
        owners = self._table.owners()
        seen: Mapping[LeaseOwner, bool | None] = {}
        of_ray = [owner for owner in owners if owner.kind in ("job", "actor", "process")]
        if of_ray:
            try:
                seen = await self._look_up(of_ray)
            except Exception as error:  # whatever Ray raises: what cannot be looked at is not dead
                logger.warning("the owners of leases cannot be looked up: %r", error)
        self._watch.look(self._table.owners() | owners, seen, time.monotonic())
        for lease_id in self._table.orphans(self._is_dead):
            self._begin(lease_id, self._free(lease_id))

    # ---- steps ----

    async def _create(self, lease_id: LeaseId, request: CreateRequest) -> SandboxInfo:
        try:
            info = await self._claim(request)
        except BaseException:
            self._table.not_made(lease_id)
            raise
        self._table.made(lease_id, info)
        return info

    async def _renew(self, lease_id: LeaseId, sandbox_id: str, lease: Lease) -> SandboxInfo:
        try:
            info = cast(SandboxInfo, await self._call(sandbox_id, "renew_lease", lease))
        except NotFound:  # so long ago that its actor has forgotten why
            raise SandboxLost(sandbox_id, "killed") from None
        self._table.made(lease_id, info)
        return info

    def _joined(self, known: Lease, wanted: Lease) -> Lease:
        """The owners that live, and the new one."""
        living = [owner for owner in known.owners if not self._is_dead(owner) and owner not in wanted.owners]
        if len(living) + len(wanted.owners) > OWNERS_MOST:
            raise LimitReached(f"lease {wanted.key} has {OWNERS_MOST} living owners, its limit")
        return replace(wanted, owners=(*living, *wanted.owners))

    async def _free(self, lease_id: LeaseId) -> None:
        async with self._turn(lease_id):
            if self._table.is_orphan(lease_id, self._is_dead):  # nobody has come for it meanwhile
                await self._end(lease_id, "owner_died")

    async def _end(self, lease_id: LeaseId, cause: Cause) -> None:
        sandbox_id = self._table.free(lease_id, cause)
        if sandbox_id is not None:
            await self._kill(sandbox_id, self._table.get(lease_id).cause)
            self._table.ended(lease_id, sandbox_id, cause)

    async def _kill(self, sandbox_id: str, cause: Cause) -> None:
        """Raises InternalError if it may still live."""
        try:
            await self._call(sandbox_id, "kill", cause)
        except (SandboxLost, NotFound):
            return

    async def _ask_after(self, lease_id: LeaseId, sandbox_id: str) -> None:
        try:
            await self._call(sandbox_id, "info")
        except SandboxLost as lost:
            self._table.ended(lease_id, sandbox_id, lost.cause)
        except NotFound:
            self._table.ended(lease_id, sandbox_id, "killed")

    def _begin(self, what: LeaseId | str, work: Coroutine[Any, Any, None]) -> None:
        """In a task of its own, one at a time for each lease and sandbox. What fails is tried again at a later look."""
        if what in self._busy:
            work.close()
            return

        async def attempt() -> None:
            try:
                await work
            except RayboxError as error:
                logger.warning("%s: %s", what, error)
            finally:
                del self._busy[what]

        self._busy[what] = asyncio.get_running_loop().create_task(attempt())

    def _turn(self, lease_id: LeaseId) -> asyncio.Lock:
        return self._turns.setdefault(lease_id, asyncio.Lock())

    def _is_dead(self, owner: LeaseOwner) -> bool:
        return self._watch.is_dead(owner, time.monotonic())
