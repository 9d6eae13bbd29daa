"""Carries out what PoolState decides of gangs: asks, reserves room, confirms the members, answers who waits."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup

from raybox_actors.config import PoolConfig
from raybox_actors.errors import BadRequest, GangFailed, InternalError, LimitReached, NoCapacity, RayboxError
from raybox_actors.off_loop import off_loop
from raybox_actors.values import CreateRequest, SandboxInfo, SlotDescription
from raybox_cluster.pool import events as ev
from raybox_cluster.pool import placement_groups
from raybox_cluster.pool.calls import one_line, timed
from raybox_cluster.pool.events import SlotKey
from raybox_cluster.pool.instructions import AnswerGang, ConfirmGang, FailGang, RemovePlacement, ReservePlacement
from raybox_cluster.pool.placement_groups import Bundle

#: A member that is never confirmed ends by itself so long after its gang's deadline.
CONFIRM_WITHIN_S: Final = 30.0

GangOrder: TypeAlias = ReservePlacement | RemovePlacement | ConfirmGang | AnswerGang | FailGang


def gang_key(idempotency_key: str) -> str:
    """Of all the gang, and the beginning of its members' keys; no caller's own key has a slash."""
    return f"{idempotency_key}/"


def member_key(request: CreateRequest, index: int) -> str:
    return f"{gang_key(request.idempotency_key or '')}{index}"


@dataclass(slots=True)
class _Making:
    """A gang that somebody waits for."""

    timeout_s: float
    asked_at_s: float
    future: asyncio.Future[list[SandboxInfo]]
    infos: list[SandboxInfo] = field(default_factory=list)  #: once all are confirmed


class GangKeeper:
    """One per manager, on its loop.

    tell: an event to PoolState. spawn: starts a task. asked: what a claim of this id says of a request. confirm: the
    call of the actor there. placed: whether PoolState knows a placement group of this gang. requests, assigned_at_s:
    the manager's, by claim; those of members are added to the former and removed from both.
    """

    def __init__(
        self,
        config: PoolConfig,
        *,
        tell: Callable[[ev.Event], None],
        spawn: Callable[[Coroutine[Any, Any, Any]], object],
        asked: Callable[[str, CreateRequest], ev.ClaimAsked],
        confirm: Callable[[SlotKey, SandboxInfo, float], Awaitable[SlotDescription]],
        placed: Callable[[str], bool],
        requests: dict[str, CreateRequest],
        assigned_at_s: dict[str, float],
    ) -> None:
        self._config = config
        self._tell, self._spawn, self._asked, self._confirm_one = tell, spawn, asked, confirm
        self._placed, self._requests, self._assigned_at_s = placed, requests, assigned_at_s
        self._making: dict[str, _Making] = {}
        #: What the actor said to the member that its gang fails for, by claim.
        self._errors: dict[str, RayboxError] = {}
        self._groups: dict[str, PlacementGroup] = {}

    async def make(self, request: CreateRequest, count: int, deadline_s: float) -> list[SandboxInfo]:
        """PoolManager.claim_many for the first who comes with this key. Cancelling gives back what there is."""
        if not 0 < request.timeout_s <= self._config.max_timeout_s:
            raise BadRequest(f"timeout must be over 0 and at most {self._config.max_timeout_s:.0f} seconds")
        gang_id = f"gang-{uuid.uuid4().hex}"
        # Pending until all are there: should nobody be left to confirm them, they end soon by themselves.
        pending_s = min(deadline_s + CONFIRM_WITHIN_S, self._config.max_timeout_s)
        members = {
            f"{gang_id}/{index}": replace(
                request, gang=gang_id, idempotency_key=member_key(request, index), timeout_s=pending_s
            )
            for index in range(count)
        }
        asked = tuple(self._asked(claim_id, member) for claim_id, member in members.items())
        loop = asyncio.get_running_loop()
        making = self._making[gang_id] = _Making(request.timeout_s, time.monotonic(), loop.create_future())
        self._requests |= members  # as it is the manager's own, it is changed and not replaced
        late = loop.call_later(deadline_s, self._tell, ev.GangDeadlinePassed(gang_id))
        try:
            self._tell(ev.GangAsked(gang_id, asked))
            return await making.future
        finally:
            late.cancel()
            del self._making[gang_id]
            for claim_id in members:
                del self._requests[claim_id]
                self._assigned_at_s.pop(claim_id, None)
                self._errors.pop(claim_id, None)
            self._tell(ev.GangDropped(gang_id))  # if it is not over, its caller has gone

    def dropped(self, claim_id: str, error: RayboxError) -> None:
        """The actor of this member refuses what it asks for."""
        if claim_id in self._requests:
            self._errors[claim_id] = error

    def bundle(self, gang_id: str, index: int) -> Bundle:
        return Bundle(self._groups[gang_id], index, gang_id)

    async def look(self) -> ev.PlacementsFound:
        """Which placement groups of the pool there are, besides those that were made here."""
        groups = await off_loop(placement_groups.existing, self._config)
        return ev.PlacementsFound(frozenset(groups.keys() - self._groups.keys()))

    def carry_out(self, order: GangOrder) -> None:
        match order:
            case ReservePlacement(gang_id, bundles):
                self._spawn(self._reserve(gang_id, bundles))
            case RemovePlacement(gang_id):
                self._spawn(self._remove(gang_id))
            case ConfirmGang(gang_id, members):
                self._spawn(self._confirm(gang_id, members))
            case AnswerGang(gang_id):
                making = self._making.get(gang_id)
                if making is not None and not making.future.done():
                    making.future.set_result(making.infos)
            case FailGang():
                self._fail(order)

    def _fail(self, order: FailGang) -> None:
        making = self._making.get(order.gang_id)
        if making is None or making.future.done():
            return
        cause: RayboxError
        if order.cause == "limit":
            cause = LimitReached(order.reason)
        elif order.cause == "capacity":
            cause = NoCapacity(order.reason, order.retry_after_s)
        else:
            cause = self._errors.get(order.failed or "") or InternalError(order.reason)
        making.future.set_exception(GangFailed(cause, order.report))

    async def _confirm(self, gang_id: str, members: tuple[tuple[str, SlotKey, SandboxInfo], ...]) -> None:
        making = self._making.get(gang_id)
        if making is None:
            return  # its caller has gone
        words = await asyncio.gather(
            *(self._confirm_one(key, info, making.timeout_s) for _, key, info in members), return_exceptions=True
        )
        for (claim_id, _, _), word in zip(members, words, strict=True):
            if isinstance(word, BaseException):
                self._tell(ev.GangBroke(gang_id, claim_id, f"it was lost before all were there: {one_line(word)}"))
                return
        ready_at_s = time.monotonic()
        for (claim_id, _, _), word in zip(members, words, strict=True):
            assert isinstance(word, SlotDescription)
            self._tell(ev.SlotDescribed(word))
            if word.info is not None:
                assigned_at_s = self._assigned_at_s.get(claim_id, ready_at_s)
                making.infos.append(timed(word.info, making.asked_at_s, assigned_at_s, ready_at_s))
        self._tell(ev.GangConfirmed(gang_id))

    async def _reserve(self, gang_id: str, bundles: int) -> None:
        group = await off_loop(placement_groups.reserve, self._config, gang_id, bundles)
        self._groups[gang_id] = group
        if not self._placed(gang_id):  # the gang has ended meanwhile
            await self._remove(gang_id)
            return
        try:
            await group.ready()
            node_ids = await off_loop(placement_groups.nodes_of, group, bundles)
        except (RayError, KeyError) as error:  # removed meanwhile, or it cannot be
            reason = f"Ray could not reserve room for {bundles} sandboxes: {one_line(error)}"
            self._tell(ev.PlacementFailed(gang_id, reason))
        else:
            self._tell(ev.PlacementReady(gang_id, node_ids))

    async def _remove(self, gang_id: str) -> None:
        self._groups.pop(gang_id, None)
        await off_loop(placement_groups.remove, self._config, gang_id)
