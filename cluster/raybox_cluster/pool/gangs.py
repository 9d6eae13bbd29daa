"""Gangs: claims that are served together or not at all. What PoolState keeps of each, and what was to be said of it.

The members of a gang stand in their owner's line one after the other. A slot that comes to one of them is kept for it,
and nothing is asked of any actor until all have one, so that a gang that waits has nothing to lose and nothing to leak.
Slots that do not exist yet are reserved as one placement group of Ray, whose actors are started for this gang and end
with its sandboxes. Only one gang at a time collects slots that come free: two that hold half of what they need would
wait for each other.

    forming      slots are collected; given back if the gang fails
    making       every member has a slot, and its actor was asked for the sandbox
    confirming   every sandbox is there, pending; each is told that it is somebody's

A pending sandbox of a gang that the manager does not know is nobody's, and is ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from raybox_actors.values import MemberReport, Quota, SandboxInfo
from raybox_cluster.pool.events import SlotKey
from raybox_cluster.pool.members import Claim
from raybox_cluster.pool.quotas import Use


@dataclass(slots=True)
class Gang:
    gang_id: str
    #: In order; those of a gang that its owner's quota has no room for (yet) are not entered anywhere.
    claims: list[Claim]
    phase: Literal["over_quota", "forming", "making", "confirming"] = "over_quota"
    refuse_at_s: float = 0.0  #: in over_quota
    ready: dict[str, tuple[SlotKey, SandboxInfo]] = field(default_factory=dict)
    #: Members that wait for slots, and those that are to get an actor of the gang's placement group; in no set: others.
    in_line: dict[str, None] = field(default_factory=dict)
    growing: dict[str, None] = field(default_factory=dict)
    placed: bool = False  #: a placement group was asked for
    #: Of it, those whose actor was not started yet; the node, once Ray has found one.
    bundles: dict[int, str | None] = field(default_factory=dict)
    #: Actors that were started there and have not come to a member yet.
    expected: set[SlotKey] = field(default_factory=set)

    @property
    def owner(self) -> str:
        return self.claims[0].owner

    @property
    def quota(self) -> Quota | None:
        return self.claims[0].quota

    @property
    def use(self) -> Use:
        """Of all members together."""
        each, count = self.claims[0].use, len(self.claims)
        return Use(each.sandboxes * count, each.cpu * count, each.memory_mib * count)

    @property
    def has_slots_for_all(self) -> bool:
        return not self.in_line and not self.growing

    @property
    def is_whole(self) -> bool:
        return len(self.ready) == len(self.claims)

    def report(self, failed: str | None, reason: str) -> tuple[MemberReport, ...]:
        """What had become of each member; `failed` is the claim that the gang fails for, if it is one of them."""
        return tuple(self._member(index, claim, failed, reason) for index, claim in enumerate(self.claims))

    def _member(self, index: int, claim: Claim, failed: str | None, reason: str) -> MemberReport:
        if claim.claim_id == failed:
            return MemberReport(index, "failed", reason)
        if claim.claim_id in self.ready:
            return MemberReport(index, "ready")
        if self.phase != "forming":
            why = "its sandbox was being made" if self.phase == "making" else reason
        elif claim.claim_id in self.growing:
            why = "the cluster had no room for it yet"
        else:
            why = "no slot came free" if claim.key is None else "its slot was kept until all had one"
        return MemberReport(index, "not_started", why)
