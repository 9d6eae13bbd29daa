"""The pool as a pure state machine: what it knows of nodes, slots and claims, and what it wants done about it.

All of it is soft. The sandbox actors are the truth; a new manager starts empty and learns everything from
NodeSeen, SlotFound and SlotDescribed. What it believes of a slot may be old at any moment, so every AssignClaim is an
attempt that the actor may refuse.

No I/O and no clock: `handle` is given the time, in seconds of one monotonic clock. Where time alone will change
something, `wake_at_s` says when to tell Ticked.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Final, TypeAlias

from raybox_actors import sandbox_id as ids
from raybox_actors.config import Placement
from raybox_actors.errors import Cause
from raybox_actors.values import NodeStatus, PoolCapacity, PoolStatus, Quota, SandboxInfo
from raybox_cluster.pool import events as ev
from raybox_cluster.pool.demand import Peak
from raybox_cluster.pool.events import SlotKey
from raybox_cluster.pool.forecast import free_in_s
from raybox_cluster.pool.instructions import (
    AnswerClaim,
    AssignClaim,
    DescribeSlot,
    EnsureNodeAgent,
    Instruction,
    KillSandbox,
    PrepareSlot,
    RefuseClaim,
    RejectClaim,
    StartSlot,
    StopNodeAgent,
    StopSlot,
)
from raybox_cluster.pool.members import BUCKETS, FREE, Bucket, Claim, Node, Slot
from raybox_cluster.pool.placement import Candidate, allot, in_turn
from raybox_cluster.pool.policy import Policy
from raybox_cluster.pool.quotas import NOTHING, Charge, Ledger, Use, can_ever, charge_of, room
from raybox_cluster.pool.waiting import WaitingLine


@dataclass
class PoolState:
    sandboxes: int
    warm: int
    policy: Policy = field(default_factory=Policy)
    placement: Placement = "spread"
    min_sandboxes: int | None = None  #: slots kept without demand; None: all of them
    idle_s: float = 60.0  #: for which slots above that are kept after they were last needed
    tombstones_kept: int = 10_000
    abandoned_kept: int = 1_000
    #: Unix time less the clock of `handle`, for the deadlines of sandboxes.
    unix_ahead_s: float = 0.0
    nodes: dict[str, Node] = field(default_factory=dict, init=False)
    slots: dict[SlotKey, Slot] = field(default_factory=dict, init=False)
    #: Every claim that is neither won nor given up.
    claims: dict[str, Claim] = field(default_factory=dict, init=False)
    #: Those of `claims` without a slot.
    waiting: WaitingLine = field(default_factory=WaitingLine, init=False)
    #: By id, those that their owner's quota has no room for; not among `claims`, and charged to nobody.
    over_quota: dict[str, Claim] = field(default_factory=dict, init=False)
    #: Live sandboxes and `claims`, by owner.
    ledger: Ledger = field(default_factory=Ledger, init=False)
    #: Slots by bucket, each in the order in which they came there.
    buckets: dict[Bucket, dict[SlotKey, Slot]] = field(default_factory=lambda: {b: {} for b in BUCKETS}, init=False)
    #: Sandboxes that died with their actor, and why; the others are in their actor's own ring.
    tombstones: OrderedDict[str, Cause] = field(default_factory=OrderedDict, init=False)
    #: Keys of direct claims whose outcome nobody knows: a sandbox born under one is nobody's.
    abandoned: OrderedDict[str, None] = field(default_factory=OrderedDict, init=False)
    #: When slots came free, the latest last.
    freed_at_s: deque[float] = field(default_factory=deque, init=False)
    #: When Ticked may bring new instructions; None: not by time alone.
    wake_at_s: float | None = field(default=None, init=False)
    #: Of the event that is being handled.
    now_s: float = field(default=0.0, init=False)
    #: So many slots are wanted, by what was needed lately.
    target: int = field(default=0, init=False)
    _needed: Peak = field(init=False)

    def __post_init__(self) -> None:
        self.freed_at_s = deque(maxlen=self.policy.freed_remembered)
        self._needed = Peak(self.idle_s)

    def handle(self, event: ev.Event, now_s: float) -> list[Instruction]:
        """Take in a fact; what is to be done about it. Facts about forgotten slots and claims are ignored."""
        self.now_s = now_s
        orders = HANDLERS[type(event)](self, event, now_s)
        self.wake_at_s = None
        usable = self._usable()
        orders += self._leave_nodes(usable, now_s)
        while True:
            orders += self._admit(now_s)
            served = self._serve_claims(now_s)
            orders += served
            if not any(isinstance(order, RejectClaim) for order in served):
                break  # one that is rejected leaves room in its owner's quota
        self._aim(now_s)
        orders += self._stop_surplus(usable)
        orders += self._start(usable, now_s)
        orders += self._release_nodes(usable)
        return [*orders, *self._refill(now_s)]

    # ---- what others want to know ----

    def live(self) -> Iterator[SandboxInfo]:
        """Every sandbox that runs or pauses, as last described; one that its creator has been given runs, even where
        its actor's last word is that it starts."""
        return (info for info, runs in self.claimed() if runs)

    def claimed(self) -> Iterator[tuple[SandboxInfo, bool]]:
        """Every sandbox that is somebody's, as last described, and whether it is one of `live`."""
        for slot in self.slots.values():
            if slot.stopping:  # what is there is the claim that StopSlot itself made
                continue
            known = slot.description
            if known is None or known.info is None:
                continue
            given = known.state == "starting" and slot.claimed_epoch >= known.epoch
            yield known.info, given or known.state in ("running", "paused")

    def status(self) -> PoolStatus:
        by_state: dict[str, int] = {}
        busy = 0
        for slot in self.slots.values():
            if slot.description:
                by_state[slot.description.state] = by_state.get(slot.description.state, 0) + 1
                busy += slot.description.executions_running > 0
        return PoolStatus(
            nodes=[
                NodeStatus(
                    n.node_id,
                    True,
                    n.agent == "ready",
                    n.slots,
                    n.agent_problem or n.no_network,
                    draining=n.drain_at_s is not None,
                    hosts=n.hosts,
                )
                for n in self.nodes.values()
            ],
            slots_by_state=by_state,
            capacity=self.sandboxes,
            warm=len(self.buckets["warm"]),
            busy=busy,
            claims_waiting=len(self.waiting),
        )

    def capacity(self, owner: str, quota: Quota | None, use: Use, now_s: float) -> PoolCapacity:
        """What this owner may start now. use: what each of its sandboxes would add to what it has."""
        free = 0 if self.waiting else sum(len(self.buckets[bucket]) for bucket in FREE)
        has = self.ledger.of(owner)
        more, limit = (None, None) if quota is None else (room(quota, has, use), room(quota, NOTHING, use))
        available = free if more is None else min(free, more)
        blocked = 0.0 if available else self._retry_after_s(1, now_s)
        return PoolCapacity(
            available=available,
            warm=min(available, len(self.buckets["warm"])),
            live=has.sandboxes - self.waiting.count(owner),
            limit=limit,
            waiting=len(self.waiting),
            retry_after_s=blocked,
            pool_live=sum(1 for _ in self.live()),
            pool_limit=self.sandboxes,
        )

    def free_slots(self, limit: int) -> list[SlotKey]:
        """Slots that a gateway may claim directly, in the order of the policy, on each node the warm ones first. None
        while claims wait: whoever comes later must not go before them."""
        if self.waiting:
            return []
        nodes = sorted(self.nodes.values(), key=lambda node: not node.buckets["warm"])
        free = [
            (n.taken, [s.key for b in ("warm", "idle") for s in n.buckets[b].values() if not s.prepare_ordered])
            for n in nodes
        ]
        return in_turn(self.placement, free, limit)

    def unmet(self) -> int:
        """So many of the wanted slots fit on no node that lives."""
        room = sum(node.room for node in self._usable() if not node.agent_failures)
        return max(0, self._missing - room)

    def silent_since(self, before_s: float) -> list[SlotKey]:
        """Slots that have spoken, but not since `before_s`."""
        return [key for key, slot in self.slots.items() if slot.description and slot.described_at_s < before_s]

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
        self._index(slot)
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
        claim = Claim(
            event.claim_id,
            owner=event.owner,
            quota=event.quota,
            use=event.use,
            idempotency_key=event.idempotency_key,
            near_node_id=event.near_node_id,
            weight=event.weight,
        )
        refusal = self._refusal(claim)
        if refusal is not None:
            assert claim.quota is not None
            beside = sum(other.owner == claim.owner for other in self.over_quota.values())
            if beside >= self.policy.over_quota_waiting_most or not can_ever(claim.quota, claim.use):
                return [RefuseClaim(claim.claim_id, refusal)]
            claim.refuse_at_s = now_s + self.policy.over_quota_wait_s
            self.over_quota[claim.claim_id] = claim
            # One of its sandboxes may have ended a moment ago.
            return [DescribeSlot(s.key) for s in self.slots.values() if s.charged and s.charged.owner == claim.owner]
        if self.waiting.count(claim.owner) >= self.policy.claims_waiting_per_key_most:
            reason = f"too many claims of API key {claim.owner} are waiting"
            return [RejectClaim(event.claim_id, self._retry_after_s(1, self.now_s), reason)]
        orders: list[Instruction] = []
        if len(self.waiting) >= self.policy.claims_waiting_most:
            reason, longest = "too many claims are waiting", self.waiting.longest(claim.owner, claim.weight)
            if longest is None:
                return [RejectClaim(event.claim_id, self._retry_after_s(1, self.now_s), reason)]
            orders.append(self._reject(self.claims[self.waiting.last(longest)], reason))
        self._enter(claim)
        return orders

    def _claim_deadline_passed(self, event: ev.ClaimDeadlinePassed, _now_s: float) -> list[Instruction]:
        if claim := self.claims.get(event.claim_id) or self.over_quota.get(event.claim_id):
            claim.expired = True
        return []

    def _claim_won(self, event: ev.ClaimWon, _now_s: float) -> list[Instruction]:
        slot = self._release(event.claim_id, event.key)
        if slot is None:
            return [KillSandbox(event.key, event.info.sandbox_id)]
        self._leave(event.claim_id)
        self._taken(slot, event.info)
        return [AnswerClaim(event.claim_id, event.info)]

    def _claimed_directly(self, event: ev.ClaimedDirectly, now_s: float) -> list[Instruction]:
        """A claim that was assigned to the same slot stays so until the actor refuses it."""
        slot = self.slots.get(event.key)
        if slot is not None:  # otherwise it will be found, and say itself what it is
            self._taken(slot, event.info)
            self._pause_refill(slot, now_s)
        return []

    def _claim_abandoned(self, event: ev.ClaimAbandoned, _now_s: float) -> list[Instruction]:
        self.abandoned[event.idempotency_key] = None
        while len(self.abandoned) > self.abandoned_kept:
            self.abandoned.popitem(last=False)
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
                orders.append(self._reject(claim, f"building a sandbox failed {claim.broken} times"))
        return orders

    def _claim_dropped(self, event: ev.ClaimDropped, _now_s: float) -> list[Instruction]:
        orders = self._give_back(event.claim_id, event.key)
        if orders:
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
        return orders

    def _serve_claims(self, now_s: float) -> list[Instruction]:
        orders: list[Instruction] = []
        while self.waiting and any(self.buckets[bucket] for bucket in FREE):
            claim_id = self.waiting.take(self._held)
            assert claim_id is not None
            claim = self.claims[claim_id]
            slot = self._soonest(claim.near_node_id)
            claim.key, slot.claim_id = slot.key, claim.claim_id
            self._pause_refill(slot, now_s)
            self._index(slot)
            orders.append(AssignClaim(claim.claim_id, slot.key))
        expired = [claim for claim_id in self.waiting if (claim := self.claims[claim_id]).expired]
        orders += [self._reject(claim, "no sandbox came free in time") for claim in expired]
        return orders

    def _usable(self) -> list[Node]:
        """Nodes that may be given sandboxes. Those that cannot give the pool's network only if none can."""
        hosting = [node for node in self.nodes.values() if node.hosts and node.drain_at_s is None]
        able = [node for node in hosting if not node.no_network]
        return able if any(not node.agent_failures for node in able) else hosting

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
        needed = self._needed.note(len(self.buckets["taken"]) + len(self.waiting), now_s)
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
        ready = [n for n in usable if n.agent == "ready" and self._due(n.start_after_s, now_s)]
        # The share of a node whose agent is coming waits for it, unless somebody waits for a sandbox.
        coming = [] if self.waiting else [n for n in usable if n.agent == "ordered" and not n.agent_failures]
        for node_id, share in self._shares([n for n in usable if n in ready or n in coming]).items():
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
        orders: list[Instruction] = []
        for node in self.nodes.values():
            if node.agent == "ready" and node.empty and node.node_id not in wanted:
                node.agent = "leaving"
                orders.append(StopNodeAgent(node.node_id))
        return orders

    def _refill(self, now_s: float) -> list[Instruction]:
        orders: list[Instruction] = []
        missing = self.warm - len(self.buckets["warm"]) - len(self.buckets["preparing"])
        if missing <= 0:
            return orders
        # Slots that were ordered to prepare and were claimed meanwhile are not idle any more.
        missing -= sum(slot.prepare_ordered for slot in self.buckets["idle"].values())
        if missing <= 0:
            return orders
        idle = [
            (n.taken + n.preparing + len(n.buckets["warm"]), list(n.buckets["idle"].values()))
            for n in self.nodes.values()
        ]
        for slot in in_turn(self.placement, idle, len(self.buckets["idle"])):
            node = self.nodes[slot.key.node_id]
            if slot.prepare_ordered or node.agent != "ready":
                continue
            if node.preparing >= self.policy.prepares_allowed(node.executions):
                continue
            if not self._due(node.prepare_after_s, now_s):
                continue
            slot.prepare_ordered = True
            self._index(slot)
            orders.append(PrepareSlot(slot.key))
            missing -= 1
            if missing == 0:
                break
        return orders

    # ---- bookkeeping ----

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

    @property
    def _missing(self) -> int:
        """Slots that are wanted and not there; below 0 if there are more than are wanted."""
        return self.target - sum(node.slots for node in self.nodes.values())

    def _stop(self, slot: Slot) -> StopSlot:
        slot.stopping = True
        self._index(slot)
        return StopSlot(slot.key)

    def _taken(self, slot: Slot, info: SandboxInfo) -> None:
        """This sandbox was claimed in this slot."""
        known, parts = slot.description, ids.parse(info.sandbox_id)
        epoch = parts.epoch if parts else known.epoch if known else -1
        slot.claimed_epoch = max(slot.claimed_epoch, epoch)
        if known is not None and (known.epoch < epoch or (known.epoch == epoch and known.state in FREE)):
            # What the actor is about to say itself; so that the sandbox is listed as soon as its creator has it.
            slot.description = replace(known, epoch=epoch, state="running", info=info)
        self._index(slot)

    def _pause_refill(self, slot: Slot, now_s: float) -> None:
        """A new sandbox's first cell goes before its replacement; one pause, however many claims follow."""
        node = self.nodes[slot.key.node_id]
        if node.prepare_after_s <= now_s:
            node.prepare_after_s = now_s + self.policy.claim_pause_s

    def _kill_abandoned(self, key: SlotKey, info: SandboxInfo | None) -> list[Instruction]:
        if info is None or info.idempotency_key not in self.abandoned:
            return []
        return [KillSandbox(key, info.sandbox_id)]

    def _refusal(self, claim: Claim) -> str | None:
        return None if claim.quota is None else self.ledger.refusal(claim.owner, claim.quota, claim.use)

    def _held(self, owner: str) -> int:
        """How many slots its sandboxes and those of its claims that have one take."""
        return self.ledger.of(owner).sandboxes - self.waiting.count(owner)

    def _retry_after_s(self, wanted: int, now_s: float) -> float:
        """What a caller is told who needs so many slots, behind all who wait."""
        coming = len(self.buckets["silent"]) + sum(
            slot.description is not None and slot.description.state == "destroying"
            for slot in self.buckets["taken"].values()
        )
        unix_s = now_s + self.unix_ahead_s
        return self.policy.retry_after_s(
            free_in_s(
                wanted + len(self.waiting),
                coming=coming,
                freed_at_s=self.freed_at_s,
                ends_in_s=(info.end_at_s - unix_s for info in self.live()),
                now_s=now_s,
            )
        )

    def _enter(self, claim: Claim) -> None:
        self.claims[claim.claim_id] = claim
        self.waiting.add(claim.claim_id, claim.owner, claim.weight)
        self.ledger.move(None, claim.charge)

    def _leave(self, claim_id: str) -> None:
        self.ledger.move(self.claims.pop(claim_id).charge, None)

    def _due(self, at_s: float, now_s: float) -> bool:
        if at_s <= now_s:
            return True
        self.wake_at_s = at_s if self.wake_at_s is None else min(self.wake_at_s, at_s)
        return False

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

    def _release(self, claim_id: str, key: SlotKey) -> Slot | None:
        """Undo the assignment of a claim to a slot; None if there is none: the slot was buried in between."""
        claim, slot = self.claims.get(claim_id), self.slots.get(key)
        if claim is None or slot is None or claim.key != key:
            return None
        claim.key = slot.claim_id = None
        self._index(slot)
        return slot

    def _wait_again(self, claim_id: str) -> None:
        self.waiting.put_back(claim_id, self.claims[claim_id].owner)

    def _reject(self, claim: Claim, reason: str) -> RejectClaim:
        self.waiting.remove(claim.claim_id)
        self._leave(claim.claim_id)
        return RejectClaim(claim.claim_id, self._retry_after_s(1, self.now_s), reason)

    def _add(self, key: SlotKey) -> None:
        node = self.nodes.setdefault(key.node_id, Node(key.node_id))
        node.next_slot = max(node.next_slot, key.slot + 1)
        self.slots[key] = slot = Slot(key)
        self._index(slot)

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

    def _index(self, slot: Slot, *, gone: bool = False) -> None:
        """Bring buckets and the node's counts up to date with what `slot` has become."""
        node = self.nodes[slot.key.node_id]
        charge = None if gone else self._charge(slot)
        self.ledger.move(slot.charged, charge)
        slot.charged = charge
        before, after = slot.indexed, None if gone else slot.standing()
        if before == after:
            return
        for sign, standing in ((-1, before), (1, after)):
            if standing is not None:
                bucket, preparing, executions = standing
                node.slots += sign * (bucket != "stopping")
                node.silent += sign * (bucket == "silent")
                node.preparing += sign * preparing
                node.executions += sign * executions
        if before is not None and before[0] == "taken" and after is not None and after[0] in FREE:
            self.freed_at_s.append(self.now_s)
        for buckets in (self.buckets, node.buckets):
            if before is not None and (after is None or before[0] != after[0]):
                del buckets[before[0]][slot.key]
            if after is not None:
                buckets[after[0]].setdefault(slot.key, slot)
        slot.indexed = after

    def _charge(self, slot: Slot) -> Charge | None:
        info = slot.description.info if slot.description is not None else None
        if info is None:
            return None
        claim = self.claims.get(slot.claim_id) if slot.claim_id is not None else None
        return None if claim is not None and claim.made(info) else charge_of(info)

    def check(self) -> None:
        """Assert every invariant; costs a walk over everything."""
        for node in self.nodes.values():
            here = [slot for slot in self.slots.values() if slot.key.node_id == node.node_id]
            assert all(slot.key.slot < node.next_slot for slot in here)
            assert node.slots == sum(slot.bucket() != "stopping" for slot in here)
            assert node.silent == sum(slot.bucket() == "silent" for slot in here)
            assert node.preparing == sum(slot.standing()[1] for slot in here)
            assert node.executions == sum(slot.standing()[2] for slot in here)
            for bucket in BUCKETS:
                assert node.buckets[bucket].keys() == {slot.key for slot in here if slot.bucket() == bucket}
            if node.drain_at_s is not None or not node.hosts:
                assert not any(node.buckets[bucket] for bucket in FREE), "a free slot where none may be"
            if node.agent == "leaving":
                assert not node.slots or not node.hosts, "an agent leaves before its slots"
        assert sum(len(bucket) for bucket in self.buckets.values()) == len(self.slots)
        for key, slot in self.slots.items():
            assert slot.key == key
            assert key.node_id in self.nodes
            assert key in self.buckets[slot.bucket()]
            if slot.claim_id is not None:
                assert self.claims[slot.claim_id].key == key
        self.waiting.check()
        assert set(self.waiting) == {claim.claim_id for claim in self.claims.values() if claim.key is None}
        for claim in self.claims.values():
            if claim.key is not None:
                assert self.slots[claim.key].claim_id == claim.claim_id
        assert not (self.waiting and any(self.buckets[bucket] for bucket in FREE)), "a claim waits beside a free slot"
        assert not any(self.claims[claim_id].expired for claim_id in self.waiting)
        assert not self.over_quota.keys() & self.claims.keys()
        assert not any(self._refusal(claim) is None for claim in self.over_quota.values())
        ledger = Ledger()
        for charge in (*(claim.charge for claim in self.claims.values()), *map(self._charge, self.slots.values())):
            ledger.move(None, charge)
        assert ledger.uses == self.ledger.uses, (ledger.uses, self.ledger.uses)
        assert len(self.tombstones) <= self.tombstones_kept
        assert len(self.abandoned) <= self.abandoned_kept


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
    ev.Ticked: PoolState._ticked,
}
