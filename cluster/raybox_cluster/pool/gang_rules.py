"""The part of PoolState that is about gangs (gangs.py says what they are). Pure."""

from __future__ import annotations

from typing import Literal

from raybox_actors.values import SandboxInfo
from raybox_cluster.pool import events as ev
from raybox_cluster.pool.books import Books
from raybox_cluster.pool.events import SlotKey
from raybox_cluster.pool.gangs import Gang
from raybox_cluster.pool.instructions import (
    AnswerGang,
    AssignClaim,
    ConfirmGang,
    EnsureNodeAgent,
    FailGang,
    Instruction,
    KillSandbox,
    RemovePlacement,
    ReservePlacement,
    StartSlot,
)
from raybox_cluster.pool.members import Claim, Node, Slot
from raybox_cluster.pool.quotas import can_ever


class GangRules(Books):
    # ---- facts ----

    def _gang_asked(self, event: ev.GangAsked, now_s: float) -> list[Instruction]:
        gang = Gang(event.gang_id, [claim_of(one, gang=event.gang_id) for one in event.claims])
        self.gangs[gang.gang_id] = gang
        if len(gang.claims) > self.sandboxes:
            return self._fail_gang(gang, "limit", f"the pool has at most {self.sandboxes} sandboxes")
        refusal = self._refusal_of(gang)
        if refusal is None:
            return self._enter_gang(gang)
        assert gang.quota is not None
        beside = sum(other.phase == "over_quota" and other.owner == gang.owner for other in self.gangs.values())
        if beside > self.policy.over_quota_waiting_most or not can_ever(gang.quota, gang.use):
            return self._fail_gang(gang, "limit", refusal)
        gang.refuse_at_s = now_s + self.policy.over_quota_wait_s
        return self._look_at(gang.owner)

    def _gang_deadline_passed(self, event: ev.GangDeadlinePassed, _now_s: float) -> list[Instruction]:
        gang = self.gangs.get(event.gang_id)
        if gang is None or gang.phase == "confirming":
            return []
        if gang.phase == "over_quota":
            return self._fail_gang(gang, "limit", self._refusal_of(gang) or "")
        return self._fail_gang(gang, "capacity", f"{len(gang.claims)} sandboxes together did not come free in time")

    def _gang_dropped(self, event: ev.GangDropped, _now_s: float) -> list[Instruction]:
        gang = self.gangs.get(event.gang_id)
        return [] if gang is None else self._fail_gang(gang, "capacity", "nobody waits for it any more")

    def _gang_confirmed(self, event: ev.GangConfirmed, _now_s: float) -> list[Instruction]:
        return [AnswerGang(event.gang_id)] if self.gangs.pop(event.gang_id, None) else []

    def _gang_broke(self, event: ev.GangBroke, _now_s: float) -> list[Instruction]:
        gang = self.gangs.get(event.gang_id)
        if gang is None:
            return []
        failed = next(claim for claim in gang.claims if claim.claim_id == event.claim_id)
        return self._fail_gang(gang, "member", event.reason, failed)

    def _placement_ready(self, event: ev.PlacementReady, _now_s: float) -> list[Instruction]:
        if (gang := self.gangs.get(event.gang_id)) is not None:
            gang.bundles = dict(enumerate(event.node_ids))
            for node_id in event.node_ids:
                self.nodes.setdefault(node_id, Node(node_id))
        return []

    def _placement_failed(self, event: ev.PlacementFailed, _now_s: float) -> list[Instruction]:
        gang = self.gangs.get(event.gang_id)
        return [] if gang is None else self._fail_gang(gang, "capacity", event.reason)

    def _placements_found(self, event: ev.PlacementsFound, _now_s: float) -> list[Instruction]:
        if not self.buckets["silent"]:  # one of them may live in any
            for gang_id in event.gang_ids:
                self.placements.setdefault(gang_id, 0)
        return []

    # ---- what follows from where things stand ----

    def _admit_gangs(self, now_s: float) -> list[Instruction]:
        orders: list[Instruction] = []
        for gang in [gang for gang in self.gangs.values() if gang.phase == "over_quota"]:
            refusal = self._refusal_of(gang)
            if refusal is None:
                orders += self._enter_gang(gang)
            elif self._due(gang.refuse_at_s, now_s):
                orders += self._fail_gang(gang, "limit", refusal)
        return orders

    def _serve_placed(self) -> list[Instruction]:
        """Slots of placement groups go to the gang that they were started for; afterwards they end."""
        orders: list[Instruction] = []
        for slot in list(self.buckets["placed"].values()):
            gang = self.gangs.get(slot.placement)
            if gang is not None and slot.key in gang.expected:
                gang.expected.remove(slot.key)
                claim_id = next(iter(gang.growing))
                del gang.growing[claim_id]
                orders += self._give(slot, self.claims[claim_id])
            else:
                orders.append(self._stop(slot))
        return orders

    def _give(self, slot: Slot, claim: Claim) -> list[Instruction]:
        """The slot is this claim's. A gang's is kept until all members have one."""
        claim.key, slot.claim_id = slot.key, claim.claim_id
        self._index(slot)
        if not claim.gang:
            return [AssignClaim(claim.claim_id, slot.key)]
        gang = self.gangs[claim.gang]
        gang.in_line.pop(claim.claim_id, None)
        if gang.phase != "forming":
            return [AssignClaim(claim.claim_id, slot.key)]
        self._note_collecting(gang)
        if not gang.has_slots_for_all:
            return []
        gang.phase = "making"
        return [AssignClaim(one.claim_id, one.key) for one in gang.claims if one.key is not None]

    def _note_collecting(self, gang: Gang) -> None:
        if gang.in_line and self.collecting == "":
            self.collecting = gang.gang_id
        elif not gang.in_line and self.collecting == gang.gang_id:
            self.collecting = ""

    def _grow_gangs(self) -> list[Instruction]:
        """Slots that do not exist yet, for the gang whose turn it is: all that it lacks, or all that there may be."""
        orders: list[Instruction] = []
        while (room := self.sandboxes - self._there_or_coming) > 0:
            first = self.waiting.first(self._held, self._may_take)
            gang = self.gangs.get(self.claims[first].gang) if first is not None else None
            if gang is None or gang.placed or gang.phase != "forming":
                break
            gang.growing = dict.fromkeys(list(gang.in_line)[-room:])
            for claim_id in gang.growing:
                del gang.in_line[claim_id]
                self.waiting.remove(claim_id)
            gang.placed, gang.bundles = True, dict.fromkeys(range(len(gang.growing)))
            self.placements[gang.gang_id] = 0
            self._note_collecting(gang)
            orders.append(ReservePlacement(gang.gang_id, len(gang.growing)))
        return orders

    def _start_placed(self, now_s: float) -> list[Instruction]:
        orders: list[Instruction] = []
        for gang in self.gangs.values():
            for bundle, node_id in list(gang.bundles.items()):
                node = self.nodes.get(node_id) if node_id is not None else None
                if node is None:
                    continue
                if node.agent == "absent" and self._due(node.agent_after_s, now_s):
                    node.agent = "ordered"
                    orders.append(EnsureNodeAgent(node.node_id))
                if node.agent != "ready" or node.silent >= self.policy.starts_per_node:
                    continue
                if not self._due(node.start_after_s, now_s):
                    continue
                del gang.bundles[bundle]
                slot = self._add(SlotKey(node.node_id, node.next_slot))
                self._place(slot, gang.gang_id)
                gang.expected.add(slot.key)
                orders.append(StartSlot(slot.key, gang.gang_id, bundle))
        return orders

    def _remove_placements(self) -> list[Instruction]:
        """Those in which no slot lives, and none is to come."""
        ended = [
            gang_id
            for gang_id, slots in self.placements.items()
            if not slots and not (gang_id in self.gangs and self.gangs[gang_id].bundles)
        ]
        for gang_id in ended:
            del self.placements[gang_id]
        return [RemovePlacement(gang_id) for gang_id in ended]

    def _won_member(self, claim: Claim, key: SlotKey, info: SandboxInfo) -> list[Instruction]:
        gang = self.gangs[claim.gang]
        gang.ready[claim.claim_id] = (key, info)
        if not gang.is_whole:
            return []
        gang.phase = "confirming"
        return [ConfirmGang(gang.gang_id, tuple((one.claim_id, *gang.ready[one.claim_id]) for one in gang.claims))]

    def _abandon(self, gang_id: str) -> list[Instruction]:
        """A gang that this manager does not know was not whole when its own manager died, or has failed."""
        self._remember_abandoned(gang_id)
        known = [(slot.key, slot.description.info) for slot in self.slots.values() if slot.description is not None]
        return [order for key, info in known for order in self._kill_abandoned(key, info)]

    def _refusal_of(self, gang: Gang) -> str | None:
        return None if gang.quota is None else self.ledger.refusal(gang.owner, gang.quota, gang.use)

    def _enter_gang(self, gang: Gang) -> list[Instruction]:
        count, beside = len(gang.claims), self.waiting.count(gang.owner)
        most, most_of_key = self.policy.claims_waiting_most, self.policy.claims_waiting_per_key_most
        if beside + count > most_of_key or len(self.waiting) + count > most:
            return self._fail_gang(gang, "capacity", "too many claims are waiting")
        gang.phase = "forming"
        for claim in gang.claims:
            gang.in_line[claim.claim_id] = None
            self._enter(claim)
        return []

    def _fail_gang(
        self, gang: Gang, cause: Literal["limit", "capacity", "member"], reason: str, failed: Claim | None = None
    ) -> list[Instruction]:
        """Give back all it has. Claims whose actors were asked already stay, and count, until these have answered."""
        name = failed.claim_id if failed is not None else None
        retry_after_s = self._retry_after_s(len(gang.claims), self.now_s)
        said = FailGang(gang.gang_id, cause, reason, retry_after_s, gang.report(name, reason), name)
        orders: list[Instruction] = [said]
        del self.gangs[gang.gang_id]
        for claim in gang.claims:
            if claim.claim_id in gang.ready:
                key, info = gang.ready[claim.claim_id]
                orders.append(KillSandbox(key, info.sandbox_id))
            elif claim.claim_id not in self.claims:  # never entered
                continue
            elif claim.key is not None and gang.phase != "forming":
                claim.doomed = True
            else:
                if claim.claim_id in self.waiting:
                    self.waiting.remove(claim.claim_id)
                elif claim.key is not None:
                    self._release(claim.claim_id, claim.key)
                self._leave(claim.claim_id)
        if self.collecting == gang.gang_id:
            self.collecting = ""
        return orders

    def _wait_again(self, claim_id: str) -> None:
        claim = self.claims[claim_id]
        if claim.doomed:
            self._leave(claim_id)
            return
        self.waiting.put_back(claim_id, claim.owner)
        if claim.expired:
            self._late.append(claim_id)
        if claim.gang:
            self.gangs[claim.gang].in_line[claim_id] = None


def claim_of(event: ev.ClaimAsked, gang: str = "") -> Claim:
    return Claim(
        event.claim_id,
        owner=event.owner,
        quota=event.quota,
        use=event.use,
        idempotency_key=event.idempotency_key,
        near_node_id=event.near_node_id,
        weight=event.weight,
        gang=gang,
    )
