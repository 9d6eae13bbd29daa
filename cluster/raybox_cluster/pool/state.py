"""The pool as a pure state machine: what it knows of nodes, slots and claims, and what it wants done about it.

All of it is soft. The sandbox actors are the truth; a new manager starts empty and learns everything from
NodeSeen, SlotFound and SlotDescribed. What it believes of a slot may be old at any moment, so every AssignClaim is an
attempt that the actor may refuse.

No I/O and no clock: `handle` is given the time, in seconds of one monotonic clock. Where time alone will change
something, `wake_at_s` says when to tell Ticked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Final, TypeAlias

from raybox_actors.errors import Cause
from raybox_cluster.pool import events as ev
from raybox_cluster.pool.events import SlotKey
from raybox_cluster.pool.gang_rules import GangRules, claim_of
from raybox_cluster.pool.instructions import (
    AnswerClaim,
    DescribeSlot,
    EnsureNodeAgent,
    Instruction,
    KillSandbox,
    PrepareSlot,
    RefuseClaim,
    RejectClaim,
    StartSlot,
    StopNodeAgent,
)
from raybox_cluster.pool.members import FREE, Claim, Node, Slot
from raybox_cluster.pool.placement import Candidate, allot
from raybox_cluster.pool.quotas import can_ever
from raybox_cluster.pool.warmth import WarmTarget, lacking


@dataclass
class PoolState(GangRules):
    def handle(self, event: ev.Event, now_s: float) -> list[Instruction]:
        """Take in a fact; what is to be done about it. Facts about forgotten slots and claims are ignored."""
        self.now_s = now_s
        orders = HANDLERS[type(event)](self, event, now_s)
        self.wake_at_s = None
        usable = self._usable()
        orders += self._serve_placed()
        orders += self._leave_nodes(usable, now_s)
        while True:
            orders += self._admit(now_s)
            served = self._serve_claims(now_s)
            orders += served
            if not any(isinstance(order, RejectClaim) for order in served):
                break  # one that is rejected leaves room in its owner's quota
        orders += self._grow_gangs()
        self._aim(now_s)
        orders += self._stop_surplus(usable)
        orders += self._start_placed(now_s)
        orders += self._start(usable, now_s)
        orders += self._release_nodes(usable)
        return [*orders, *self._refill(now_s), *self._remove_placements()]

    # ---- nodes ----

    def _node_seen(self, event: ev.NodeSeen, _now_s: float) -> list[Instruction]:
        node = self.nodes.setdefault(event.node_id, Node(event.node_id))
        node.hosts, node.room = event.hosts, event.room
        if event.drain_at_s is None or node.drain_at_s is None:
            node.drain_at_s = event.drain_at_s
        else:  # without a deadline, the grace began when it was first seen
            node.drain_at_s = min(node.drain_at_s, event.drain_at_s)
        return []

    def _node_gone(self, event: ev.NodeGone, _now_s: float) -> list[Instruction]:
        for slot in [slot for slot in self.slots.values() if slot.key.node_id == event.node_id]:
            self._bury(slot, "node_lost")
        self.nodes.pop(event.node_id, None)
        return []

    def _agent_ready(self, event: ev.NodeAgentReady, _now_s: float) -> list[Instruction]:
        if (node := self.nodes.get(event.node_id)) and node.agent != "leaving":
            node.agent, node.agent_failures, node.agent_problem = "ready", 0, ""
            node.no_network = event.no_network
        return []

    def _agent_failed(self, event: ev.NodeAgentFailed, now_s: float) -> list[Instruction]:
        if (node := self.nodes.get(event.node_id)) and node.agent != "leaving":
            node.agent = "absent"
            node.agent_problem = event.reason or node.agent_problem or "its agent does not answer"
            node.agent_failures += 1
            node.agent_after_s = now_s + self.policy.backoff_s(node.agent_failures)
        return []

    def _agent_found(self, event: ev.NodeAgentFound, _now_s: float) -> list[Instruction]:
        if (node := self.nodes.get(event.node_id)) and node.agent == "absent":
            if not node.agent_failures:
                node.agent = "ready"  # or it will be found not to be
            elif node.empty and self._missing <= 0:  # of no use, and it would keep Ray from releasing the node
                node.agent = "leaving"
                return [StopNodeAgent(event.node_id)]
        return []

    def _agent_stopped(self, event: ev.NodeAgentStopped, _now_s: float) -> list[Instruction]:
        if node := self.nodes.get(event.node_id):
            node.agent = "absent"
        return []

    # ---- slots ----

    def _slot_found(self, event: ev.SlotFound, _now_s: float) -> list[Instruction]:
        if event.key in self.slots:
            return []
        self._add(event.key)
        return [DescribeSlot(event.key)]

    def _slot_described(self, event: ev.SlotDescribed, now_s: float) -> list[Instruction]:
        new = event.description
        slot = self.slots.get(SlotKey(new.node_id, new.slot))
        if slot is None:  # buried: a last word that came late
            return []
        slot.described_at_s = now_s
        orders = self._kill_abandoned(slot.key, new.info)
        if slot.description is None:
            self.nodes[new.node_id].start_failures = 0
        elif new.sequence <= slot.description.sequence:
            return orders
        if new.state == "stopped":
            self._bury(slot, "killed")
            return []
        if slot.description is not None and (new.epoch, new.state not in FREE) < (slot.claimed_epoch, True):
            return orders  # from before the claim, which came to be known first: the sandbox stays listed
        slot.description = new
        if new.placement and not slot.placement:  # of a former manager's gang
            self._place(slot, new.placement)
        self._index(slot)
        if new.info is not None and new.info.pending and new.info.gang not in self.gangs:
            orders += self._abandon(new.info.gang)
        return orders

    def _slot_lost(self, event: ev.SlotLost, now_s: float) -> list[Instruction]:
        if slot := self.slots.get(event.key):
            self._bury(slot, "internal")
            if not slot.stopping:
                node = self.nodes[event.key.node_id]
                node.start_failures += 1
                node.start_after_s = now_s + self.policy.backoff_s(node.start_failures)
        return []

    def _slot_unplaced(self, event: ev.SlotUnplaced, _now_s: float) -> list[Instruction]:
        if slot := self.slots.get(event.key):
            self._bury(slot, "internal")
            self.nodes[event.key.node_id].room = 0  # until the next look
        return []

    def _slot_stopped(self, event: ev.SlotStopped, _now_s: float) -> list[Instruction]:
        if slot := self.slots.get(event.key):
            self._bury(slot, "killed")
        return []

    def _stop_refused(self, event: ev.StopRefused, _now_s: float) -> list[Instruction]:
        slot = self.slots.get(event.key)
        if slot is None or slot.description is None:
            return []
        slot.stopping = False
        slot.refused_sequence = slot.description.sequence
        self._index(slot)
        return [DescribeSlot(event.key)]

    def _prepare_ended(self, event: ev.PrepareEnded, now_s: float) -> list[Instruction]:
        if slot := self.slots.get(event.key):
            slot.prepare_ordered = False
            self._index(slot)
            node = self.nodes[event.key.node_id]
            if event.ok:
                node.prepare_failures = 0
                if slot.bucket() == "idle":
                    # Used and recycled meanwhile, or what is believed of it is wrong: not again at once, and not for
                    # ever without a pause.
                    node.prepare_after_s = now_s + self.policy.backoff_first_s
                elif node.executions:
                    node.prepare_after_s = now_s + self.policy.busy_pause_s
            else:
                node.prepare_failures += 1
                node.prepare_after_s = now_s + self.policy.backoff_s(node.prepare_failures)
        return []

    # ---- claims ----

    def _claim_asked(self, event: ev.ClaimAsked, now_s: float) -> list[Instruction]:
        assert event.claim_id not in self.claims, "claim ids are unique"
        claim = claim_of(event)
        refusal = self._refusal(claim)
        if refusal is not None:
            assert claim.quota is not None
            beside = sum(other.owner == claim.owner for other in self.over_quota.values())
            if beside >= self.policy.over_quota_waiting_most or not can_ever(claim.quota, claim.use):
                return [RefuseClaim(claim.claim_id, refusal)]
            claim.refuse_at_s = now_s + self.policy.over_quota_wait_s
            self.over_quota[claim.claim_id] = claim
            return self._look_at(claim.owner)
        if self.waiting.count(claim.owner) >= self.policy.claims_waiting_per_key_most:
            reason = f"too many claims of API key {claim.owner} are waiting"
            return [RejectClaim(event.claim_id, self._retry_after_s(1, self.now_s), reason)]
        orders: list[Instruction] = []
        if len(self.waiting) >= self.policy.claims_waiting_most:
            reason, longest = "too many claims are waiting", self.waiting.longest(claim.owner, claim.weight)
            if longest is None:
                return [RejectClaim(event.claim_id, self._retry_after_s(1, self.now_s), reason)]
            orders += self._reject(self.claims[self.waiting.last(longest)], reason)
        self._enter(claim)
        return orders

    def _claim_deadline_passed(self, event: ev.ClaimDeadlinePassed, _now_s: float) -> list[Instruction]:
        if claim := self.claims.get(event.claim_id) or self.over_quota.get(event.claim_id):
            claim.expired = True
            self._late.append(claim.claim_id)
        return []

    def _claim_won(self, event: ev.ClaimWon, _now_s: float) -> list[Instruction]:
        claim, slot = self.claims.get(event.claim_id), self._release(event.claim_id, event.key)
        if claim is None or slot is None:
            return [KillSandbox(event.key, event.info.sandbox_id)]
        self._leave(event.claim_id)
        self._taken(slot, event.info)
        if claim.doomed:
            return [KillSandbox(event.key, event.info.sandbox_id)]
        if not claim.gang:
            return [AnswerClaim(event.claim_id, event.info)]
        return self._won_member(claim, event.key, event.info)

    def _claimed_directly(self, event: ev.ClaimedDirectly, now_s: float) -> list[Instruction]:
        """A claim that was assigned to the same slot stays so until the actor refuses it."""
        slot = self.slots.get(event.key)
        if slot is not None:  # otherwise it will be found, and say itself what it is
            self._taken(slot, event.info)
            self._pause_refill(slot, now_s)
        return []

    def _claim_abandoned(self, event: ev.ClaimAbandoned, _now_s: float) -> list[Instruction]:
        self._remember_abandoned(event.idempotency_key)
        slot = self.slots.get(event.key) if event.key is not None else None
        if slot is None:
            return []
        known = slot.description.info if slot.description is not None else None
        return [DescribeSlot(slot.key), *self._kill_abandoned(slot.key, known)]

    def _claim_refused(self, event: ev.ClaimRefused, _now_s: float) -> list[Instruction]:
        return self._give_back(event.claim_id, event.key)

    def _claim_broke(self, event: ev.ClaimBroke, _now_s: float) -> list[Instruction]:
        orders = self._give_back(event.claim_id, event.key)
        claim = self.claims.get(event.claim_id)
        if orders and claim is not None:
            claim.broken += 1
            if claim.broken >= self.policy.claim_attempts:
                orders += self._reject(claim, f"building a sandbox failed {claim.broken} times")
        return orders

    def _claim_dropped(self, event: ev.ClaimDropped, _now_s: float) -> list[Instruction]:
        orders = self._give_back(event.claim_id, event.key)
        claim = self.claims.get(event.claim_id)
        if orders and claim is not None:
            if claim.gang:
                return orders + self._fail_gang(self.gangs[claim.gang], "member", event.reason, claim)
            self._leave(event.claim_id)
            self.waiting.remove(event.claim_id)
        return orders

    def _ticked(self, _event: ev.Ticked, _now_s: float) -> list[Instruction]:
        return []

    # ---- what follows from where things stand ----

    def _admit(self, now_s: float) -> list[Instruction]:
        """Claims over their quota: those for which there is room by now wait like any other, late ones are refused."""
        orders: list[Instruction] = []
        for claim in list(self.over_quota.values()):
            refusal = self._refusal(claim)
            if refusal is None:
                del self.over_quota[claim.claim_id]
                self._enter(claim)
            elif claim.expired or self._due(claim.refuse_at_s, now_s):
                del self.over_quota[claim.claim_id]
                orders.append(RefuseClaim(claim.claim_id, refusal))
        return orders + self._admit_gangs(now_s)

    def _serve_claims(self, now_s: float) -> list[Instruction]:
        orders: list[Instruction] = []
        while self.waiting and any(self.buckets[bucket] for bucket in FREE):
            claim_id = self.waiting.take(self._held, self._may_take)
            if claim_id is None:
                break
            claim = self.claims[claim_id]
            slot = self._soonest(claim.near_node_id)
            self._pause_refill(slot, now_s)
            orders += self._give(slot, claim)
        late, self._late = self._late, []
        for claim_id in late:
            if claim_id in self.waiting:
                orders += self._reject(self.claims[claim_id], "no sandbox came free in time")
        return orders

    def _leave_nodes(self, usable: list[Node], now_s: float) -> list[Instruction]:
        """What is free stops at once where no sandboxes may be; what runs on a node that goes away has its grace."""
        orders: list[Instruction] = []
        may = {node.node_id for node in usable}
        for node in self.nodes.values():
            if node.node_id not in may:
                orders += [self._stop(slot) for bucket in FREE for slot in list(node.buckets[bucket].values())]
            if node.drain_at_s is not None and self._due(node.drain_at_s, now_s):
                for slot in node.buckets["taken"].values():
                    info = slot.description.info if slot.description is not None else None
                    if info is not None and slot.drained_id != info.sandbox_id:
                        slot.drained_id = info.sandbox_id
                        orders.append(KillSandbox(slot.key, info.sandbox_id, "node_lost"))
        return orders

    def _aim(self, now_s: float) -> None:
        least = self.sandboxes if self.min_sandboxes is None else self.min_sandboxes
        growing = sum(len(gang.growing) for gang in self.gangs.values())
        needed = self._needed.note(len(self.buckets["taken"]) + len(self.waiting) + growing, now_s)
        self.target = max(least, min(self.sandboxes, needed + self.warm))
        if least < self.target and self._needed.falls_at_s < inf:
            self._due(self._needed.falls_at_s, now_s)

    def _stop_surplus(self, usable: list[Node]) -> list[Instruction]:
        """More slots than wanted: demand fell, a manager before this one or an actor that was thought lost left some.
        Where least is taken first, so that nodes become empty."""
        orders: list[Instruction] = []
        surplus = -self._missing
        for node in sorted(usable, key=lambda node: (node.taken, node.slots)) if surplus > 0 else ():
            free = [slot for bucket in reversed(FREE) for slot in node.buckets[bucket].values()]
            orders += [self._stop(slot) for slot in free[:surplus]]
            surplus -= len(free[:surplus])
        return orders

    def _shares(self, nodes: list[Node]) -> dict[str, int]:
        """How many of the missing slots each of these nodes is to have."""
        if self._missing <= 0:
            return {}
        candidates = [Candidate(node.node_id, node.slots, node.room) for node in nodes if node.room > 0]
        return allot(self.placement, candidates, self._missing)

    def _start(self, usable: list[Node], now_s: float) -> list[Instruction]:
        orders: list[Instruction] = []
        shares = self._shares([n for n in usable if n.agent != "absent" or self._due(n.agent_after_s, now_s)])
        for node in self.nodes.values():
            wanted = node.node_id in shares or not node.empty
            if wanted and node.agent == "absent" and self._due(node.agent_after_s, now_s):
                node.agent = "ordered"
                orders.append(EnsureNodeAgent(node.node_id))

        def has_share(node: Node) -> bool:
            if node.agent == "ready":
                return self._due(node.start_after_s, now_s)
            # What is the share of a node whose agent is coming waits for it, unless somebody waits for a sandbox.
            return node.agent == "ordered" and not node.agent_failures and not self.waiting

        for node_id, share in self._shares([node for node in usable if has_share(node)]).items():
            node = self.nodes[node_id]
            if node.agent == "ready":
                for _ in range(min(share, self.policy.starts_per_node - node.silent)):
                    key = SlotKey(node_id, node.next_slot)
                    self._add(key)
                    node.room -= 1
                    orders.append(StartSlot(key))
        return orders

    def _release_nodes(self, usable: list[Node]) -> list[Instruction]:
        """The agent leaves with the last slot, so that Ray can release the node."""
        wanted = {node.node_id for node in usable} if self._missing > 0 else set()
        wanted |= {node_id for gang in self.gangs.values() for node_id in gang.bundles.values() if node_id is not None}
        orders: list[Instruction] = []
        for node in self.nodes.values():
            if node.agent == "ready" and node.empty and node.node_id not in wanted:
                node.agent = "leaving"
                orders.append(StopNodeAgent(node.node_id))
        return orders

    def _refill(self, now_s: float) -> list[Instruction]:
        ready = sum(len(self.buckets[bucket]) for bucket in ("warm", "preparing"))
        if not self.buckets["idle"] or (ready >= self.warm and not self.warm_per_node):
            return []
        able = [node.warmth for node in self.nodes.values() if node.agent == "ready"]
        lacks = lacking(WarmTarget(self.warm, self.warm_per_node), self.placement, able)
        orders: list[Instruction] = []
        for node_id, count in lacks.items():
            node = self.nodes[node_id]
            allowed = self.policy.prepares_allowed(node.executions) - node.preparing
            if allowed <= 0 or not self._due(node.prepare_after_s, now_s):
                continue
            for slot in node.unprepared(min(count, allowed)):
                slot.prepare_ordered = True
                self._index(slot)
                orders.append(PrepareSlot(slot.key))
        return orders

    def _soonest(self, near_node_id: str) -> Slot:
        """The free slot that a claim takes, of which there must be one: near, or where the policy says, and there the
        one that is ready soonest."""
        sign = 1 if self.placement == "spread" else -1
        best: tuple[tuple[bool, int, int], Slot] | None = None
        for node in self.nodes.values():
            for rank, bucket in enumerate(FREE):
                if node.buckets[bucket]:
                    key = (node.node_id != near_node_id, sign * node.taken, rank)
                    if best is None or key < best[0]:
                        best = key, next(iter(node.buckets[bucket].values()))
                    break
        assert best is not None
        return best[1]

    def _give_back(self, claim_id: str, key: SlotKey) -> list[Instruction]:
        """The claim did not get this slot; nothing if it was not assigned there any more."""
        slot = self._release(claim_id, key)
        if slot is None:
            return []
        assert slot.description is not None, "a silent slot is not free"
        slot.refused_sequence = slot.description.sequence
        self._index(slot)
        self._wait_again(claim_id)
        return [DescribeSlot(key)]

    def _reject(self, claim: Claim, reason: str) -> list[Instruction]:
        if claim.gang:
            return self._fail_gang(self.gangs[claim.gang], "capacity", reason, claim)
        self.waiting.remove(claim.claim_id)
        self._leave(claim.claim_id)
        return [RejectClaim(claim.claim_id, self._retry_after_s(1, self.now_s), reason)]

    def _bury(self, slot: Slot, cause: Cause) -> None:
        """Forget a slot whose actor is dead; remember its sandbox; let its claim look for another."""
        if slot.claim_id is not None:
            claim_id = slot.claim_id
            self._release(claim_id, slot.key)
            self._wait_again(claim_id)
        if slot.description is not None and slot.description.info is not None:
            self.tombstones[slot.description.info.sandbox_id] = cause
            while len(self.tombstones) > self.tombstones_kept:
                self.tombstones.popitem(last=False)
        del self.slots[slot.key]
        self._index(slot, gone=True)
        if slot.placement:
            self.placements[slot.placement] -= 1
            gang = self.gangs.get(slot.placement)
            if gang is not None and slot.key in gang.expected:  # a member has to look elsewhere
                gang.expected.remove(slot.key)
                claim_id, _ = gang.growing.popitem()
                self._wait_again(claim_id)


# The events differ from row to row; a test asserts that each row takes the event of its key.
Handler: TypeAlias = Callable[[PoolState, Any, float], list[Instruction]]

HANDLERS: Final[dict[type[ev.Event], Handler]] = {
    ev.NodeSeen: PoolState._node_seen,
    ev.NodeGone: PoolState._node_gone,
    ev.NodeAgentReady: PoolState._agent_ready,
    ev.NodeAgentFailed: PoolState._agent_failed,
    ev.NodeAgentFound: PoolState._agent_found,
    ev.NodeAgentStopped: PoolState._agent_stopped,
    ev.SlotFound: PoolState._slot_found,
    ev.SlotDescribed: PoolState._slot_described,
    ev.SlotLost: PoolState._slot_lost,
    ev.SlotUnplaced: PoolState._slot_unplaced,
    ev.SlotStopped: PoolState._slot_stopped,
    ev.StopRefused: PoolState._stop_refused,
    ev.PrepareEnded: PoolState._prepare_ended,
    ev.ClaimAsked: PoolState._claim_asked,
    ev.ClaimDeadlinePassed: PoolState._claim_deadline_passed,
    ev.ClaimWon: PoolState._claim_won,
    ev.ClaimRefused: PoolState._claim_refused,
    ev.ClaimBroke: PoolState._claim_broke,
    ev.ClaimDropped: PoolState._claim_dropped,
    ev.ClaimedDirectly: PoolState._claimed_directly,
    ev.ClaimAbandoned: PoolState._claim_abandoned,
    ev.GangAsked: PoolState._gang_asked,
    ev.GangDeadlinePassed: PoolState._gang_deadline_passed,
    ev.GangDropped: PoolState._gang_dropped,
    ev.GangConfirmed: PoolState._gang_confirmed,
    ev.GangBroke: PoolState._gang_broke,
    ev.PlacementReady: PoolState._placement_ready,
    ev.PlacementFailed: PoolState._placement_failed,
    ev.PlacementsFound: PoolState._placements_found,
    ev.Ticked: PoolState._ticked,
}
