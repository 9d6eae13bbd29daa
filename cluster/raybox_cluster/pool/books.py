"""What PoolState knows, and how it is kept in order: indexes by bucket and node, the ledger, the lines. Pure.

Rules of what shall be done are in state.py and gang_rules.py.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import inf

from raybox_actors import sandbox_id as ids
from raybox_actors.config import Placement
from raybox_actors.errors import Cause
from raybox_actors.values import NodeStatus, PoolCapacity, PoolStatus, Quota, SandboxInfo
from raybox_cluster.pool.demand import Peak
from raybox_cluster.pool.events import SlotKey
from raybox_cluster.pool.forecast import free_in_s
from raybox_cluster.pool.gangs import Gang
from raybox_cluster.pool.instructions import (
    DescribeSlot,
    Instruction,
    KillSandbox,
    StopSlot,
)
from raybox_cluster.pool.members import BUCKETS, FREE, Bucket, Claim, Node, Slot
from raybox_cluster.pool.placement import in_turn
from raybox_cluster.pool.policy import Policy
from raybox_cluster.pool.quotas import NOTHING, Charge, Ledger, Use, charge_of, room
from raybox_cluster.pool.waiting import WaitingLine


@dataclass
class Books:
    sandboxes: int
    warm: int
    policy: Policy = field(default_factory=Policy)
    placement: Placement = "spread"
    warm_per_node: int = 0
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
    #: Whose wait is over and who may be among `waiting`: rejected unless they are served now.
    _late: list[str] = field(default_factory=list, init=False)
    #: By id, those that their owner's quota has no room for; not among `claims`, and charged to nobody.
    over_quota: dict[str, Claim] = field(default_factory=dict, init=False)
    #: Those that are neither whole nor given up.
    gangs: dict[str, Gang] = field(default_factory=dict, init=False)
    #: The one that collects slots which come free, while members of it wait; or empty.
    collecting: str = field(default="", init=False)
    #: Gangs that have placement groups, ended ones included, and how many slots live in each.
    placements: dict[str, int] = field(default_factory=dict, init=False)
    #: Live sandboxes and `claims`, by owner.
    ledger: Ledger = field(default_factory=Ledger, init=False)
    #: Slots by bucket, each in the order in which they came there.
    buckets: dict[Bucket, dict[SlotKey, Slot]] = field(default_factory=lambda: {b: {} for b in BUCKETS}, init=False)
    #: Sandboxes that died with their actor, and why; the others are in their actor's own ring.
    tombstones: OrderedDict[str, Cause] = field(default_factory=OrderedDict, init=False)
    #: Keys of direct claims whose outcome nobody knows, and gangs of former managers that never became whole: a sandbox
    #: born under one is nobody's.
    abandoned: OrderedDict[str, None] = field(default_factory=OrderedDict, init=False)
    #: The deadlines of sandboxes, sorted, and how many slots were about to come free, when that was last looked at:
    #: a storm of rejections does not look each time.
    _ends_at_s: list[float] = field(default_factory=list, init=False)
    _coming: int = field(default=0, init=False)
    _outlook_at_s: float = field(default=-inf, init=False)
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
            if known is None or known.info is None or known.info.pending:
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
            pool_live=sum(use.sandboxes for use in self.ledger.uses.values()) - len(self.waiting),
            pool_limit=self.sandboxes,
        )

    def free_slots(self, limit: int) -> list[SlotKey]:
        """Slots that a gateway may claim directly, in the order of the policy, on each node the warm ones first. None
        while claims wait: whoever comes later must not go before them."""
        if self.waiting:
            return []
        nodes = sorted(self.nodes.values(), key=lambda node: not node.buckets["warm"])
        return in_turn(self.placement, ((node.taken, node.claimable(limit)) for node in nodes), limit)

    def unmet(self) -> int:
        """So many of the wanted slots fit on no node that lives."""
        room = sum(node.room for node in self._usable() if not node.agent_failures)
        return max(0, self._missing - room)

    def silent_since(self, before_s: float) -> list[SlotKey]:
        """Slots that have spoken, but not since `before_s`."""
        return [key for key, slot in self.slots.items() if slot.description and slot.described_at_s < before_s]

    # ---- bookkeeping ----

    def _usable(self) -> list[Node]:
        """Nodes that may be given sandboxes. Those that cannot give the pool's network only if none can."""
        hosting = [node for node in self.nodes.values() if node.hosts and node.drain_at_s is None]
        able = [node for node in hosting if not node.no_network]
        return able if any(not node.agent_failures for node in able) else hosting

    def _may_take(self, claim_id: str) -> bool:
        return self.collecting in ("", self.claims[claim_id].gang) or not self.claims[claim_id].gang

    def _held(self, owner: str) -> int:
        """How many slots its sandboxes and those of its claims that have one take."""
        return self.ledger.of(owner).sandboxes - self.waiting.count(owner)

    @property
    def _missing(self) -> int:
        """Slots that are wanted and not there; below 0 if there are more than are wanted."""
        return self.target - self._there_or_coming

    @property
    def _there_or_coming(self) -> int:
        """Slots, without those that are stopping, and what gangs have reserved or try to and have not started yet."""
        reserved = sum(len(gang.bundles) for gang in self.gangs.values())
        return len(self.slots) - len(self.buckets["stopping"]) + reserved

    def _retry_after_s(self, wanted: int, now_s: float) -> float:
        """What a caller is told who needs so many slots, behind all who wait."""
        if not self._outlook_at_s <= now_s < self._outlook_at_s + self.policy.outlook_kept_s:
            unix_s = now_s + self.unix_ahead_s
            self._outlook_at_s = now_s
            self._ends_at_s = sorted(info.end_at_s - unix_s + now_s for info in self.live())
            self._coming = len(self.buckets["silent"]) + sum(
                slot.description is not None and slot.description.state == "destroying"
                for slot in self.buckets["taken"].values()
            )
        return self.policy.retry_after_s(
            free_in_s(
                wanted + len(self.waiting),
                coming=self._coming,
                freed_at_s=self.freed_at_s,
                ends_at_s=self._ends_at_s,
                now_s=now_s,
            )
        )

    def _refusal(self, claim: Claim) -> str | None:
        return None if claim.quota is None else self.ledger.refusal(claim.owner, claim.quota, claim.use)

    def _look_at(self, owner: str) -> list[Instruction]:
        """One of this owner's sandboxes may have ended a moment ago."""
        return [DescribeSlot(slot.key) for slot in self.slots.values() if slot.charged and slot.charged.owner == owner]

    def _due(self, at_s: float, now_s: float) -> bool:
        if at_s <= now_s:
            return True
        self.wake_at_s = at_s if self.wake_at_s is None else min(self.wake_at_s, at_s)
        return False

    def _enter(self, claim: Claim) -> None:
        self.claims[claim.claim_id] = claim
        if claim.expired:
            self._late.append(claim.claim_id)
        self.waiting.add(claim.claim_id, claim.owner, claim.weight)
        self.ledger.move(None, claim.charge)

    def _leave(self, claim_id: str) -> None:
        self.ledger.move(self.claims.pop(claim_id).charge, None)

    def _release(self, claim_id: str, key: SlotKey) -> Slot | None:
        """Undo the assignment of a claim to a slot; None if there is none: the slot was buried in between."""
        claim, slot = self.claims.get(claim_id), self.slots.get(key)
        if claim is None or slot is None or claim.key != key:
            return None
        claim.key = slot.claim_id = None
        self._index(slot)
        return slot

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

    def _place(self, slot: Slot, gang_id: str) -> None:
        """The slot lives in the placement group of this gang."""
        slot.placement = gang_id
        self.placements[gang_id] = self.placements.get(gang_id, 0) + 1

    def _add(self, key: SlotKey) -> Slot:
        node = self.nodes.setdefault(key.node_id, Node(key.node_id))
        node.next_slot = max(node.next_slot, key.slot + 1)
        self.slots[key] = slot = Slot(key)
        self._index(slot)
        return slot

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
                node.ordered += sign * (preparing and bucket == "idle")
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

    def _remember_abandoned(self, what: str) -> None:
        self.abandoned[what] = None
        while len(self.abandoned) > self.abandoned_kept:
            self.abandoned.popitem(last=False)

    def _kill_abandoned(self, key: SlotKey, info: SandboxInfo | None) -> list[Instruction]:
        if info is None or not (info.idempotency_key in self.abandoned or (info.gang and info.gang in self.abandoned)):
            return []
        return [KillSandbox(key, info.sandbox_id)]

    def check(self) -> None:
        """Assert every invariant; costs a walk over everything."""
        for node in self.nodes.values():
            here = [slot for slot in self.slots.values() if slot.key.node_id == node.node_id]
            assert all(slot.key.slot < node.next_slot for slot in here)
            assert node.slots == sum(slot.bucket() != "stopping" for slot in here)
            assert node.silent == sum(slot.bucket() == "silent" for slot in here)
            assert node.preparing == sum(slot.standing()[1] for slot in here)
            assert node.executions == sum(slot.standing()[2] for slot in here)
            assert node.ordered == sum(slot.prepare_ordered and slot.bucket() == "idle" for slot in here)
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
        growing = {claim_id for gang in self.gangs.values() for claim_id in gang.growing}
        assert set(self.waiting) | growing == {claim.claim_id for claim in self.claims.values() if claim.key is None}
        assert not growing & set(self.waiting)
        assert self.collecting == "" or self.gangs[self.collecting].in_line
        for gang in self.gangs.values():
            entered = [claim for claim in gang.claims if claim.claim_id in self.claims]
            assert len(entered) + len(gang.ready) == (0 if gang.phase == "over_quota" else len(gang.claims))
            assert gang.in_line.keys() == {claim.claim_id for claim in entered if claim.claim_id in self.waiting}
            assert len(gang.growing) == len(gang.bundles) + len(gang.expected)
        kept = {claim.gang for claim in self.claims.values() if claim.gang and not claim.doomed}
        assert kept <= self.gangs.keys()
        assert all(self.placements[slot.placement] for slot in self.slots.values() if slot.placement)
        assert sum(self.placements.values()) == sum(bool(slot.placement) for slot in self.slots.values())
        for claim in self.claims.values():
            if claim.key is not None:
                assert self.slots[claim.key].claim_id == claim.claim_id
        if any(self.buckets[bucket] for bucket in FREE):
            assert self.waiting.first(self._held, self._may_take) is None, "a claim waits beside a free slot"
        assert not self.buckets["placed"]
        assert not any(self.claims[claim_id].expired for claim_id in self.waiting)
        assert not self.over_quota.keys() & self.claims.keys()
        assert not any(self._refusal(claim) is None for claim in self.over_quota.values())
        ledger = Ledger()
        for charge in (*(claim.charge for claim in self.claims.values()), *map(self._charge, self.slots.values())):
            ledger.move(None, charge)
        assert ledger.uses == self.ledger.uses, (ledger.uses, self.ledger.uses)
        assert len(self.tombstones) <= self.tombstones_kept
        assert len(self.abandoned) <= self.abandoned_kept
