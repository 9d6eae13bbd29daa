"""What PoolState keeps of each slot, node and claim. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Literal, get_args

from raybox_actors.values import Quota, SandboxInfo, SlotDescription
from raybox_cluster.pool.events import SlotKey
from raybox_cluster.pool.placement import UNBOUNDED
from raybox_cluster.pool.quotas import NOTHING, Charge, Use
from raybox_cluster.pool.warmth import Warmth

#: Where a slot stands as the pool sees it. `silent`: has not spoken yet. `idle`, `preparing` and `warm` are free.
#: `placed`: free for the gang alone in whose placement group it was born. `taken`: claimed, being claimed, being
#: destroyed, or refused a claim and has not spoken since.
Bucket = Literal["silent", "idle", "preparing", "warm", "placed", "taken", "stopping"]
BUCKETS: Final[tuple[Bucket, ...]] = get_args(Bucket)
#: A claim takes the slot that is ready soonest.
FREE: Final[tuple[Bucket, ...]] = ("warm", "preparing", "idle")


@dataclass(slots=True, eq=False)
class Slot:
    key: SlotKey
    #: The newest by `sequence`; None until the actor first spoke.
    description: SlotDescription | None = None
    #: The claim that the actor was asked for and has not answered.
    claim_id: str | None = None
    #: The last epoch in which a claim was won here. A description of that epoch that shows it free is old.
    claimed_epoch: int = -1
    #: The description on whose word a claim was refused: only a newer one makes the slot free again.
    refused_sequence: int = -1
    #: PrepareSlot was ordered and has not ended.
    prepare_ordered: bool = False
    #: StopSlot was ordered; never free again.
    stopping: bool = False
    described_at_s: float = 0.0
    #: The gang in whose placement group it was born.
    placement: str = ""
    #: The sandbox that was ordered to end because the node is going away.
    drained_id: str = ""
    #: As entered into the indexes: bucket, being prepared, executions.
    indexed: tuple[Bucket, bool, int] | None = None
    #: As entered into the ledger: the sandbox that is here, unless a claim that is counted is to have it.
    charged: Charge | None = None

    def bucket(self) -> Bucket:
        if self.stopping:
            return "stopping"
        known = self.description
        if known is None:
            return "silent"
        if self.claim_id or known.epoch <= self.claimed_epoch or known.sequence <= self.refused_sequence:
            return "taken"
        match known.state:
            case "idle" | "preparing" | "warm":
                return "placed" if self.placement else known.state
            case "starting" | "running" | "paused" | "destroying" | "stopped":
                return "taken"

    def standing(self) -> tuple[Bucket, bool, int]:
        bucket = self.bucket()
        executions = self.description.executions_running if self.description else 0
        return bucket, self.prepare_ordered or bucket == "preparing", executions


@dataclass(slots=True, eq=False)
class Node:
    node_id: str
    hosts: bool = True  #: may have sandboxes
    room: int = UNBOUNDED  #: so many more slots fit, by Ray's count when it last looked and what was started since
    drain_at_s: float | None = None  #: it is going away, and its sandboxes end then
    no_network: str = ""  #: why its sandboxes cannot have the pool's network
    agent: Literal["absent", "ordered", "ready", "leaving"] = "absent"
    agent_failures: int = 0
    agent_problem: str = ""
    agent_after_s: float = 0.0  #: no EnsureNodeAgent before
    start_failures: int = 0
    start_after_s: float = 0.0  #: no StartSlot before
    prepare_failures: int = 0
    prepare_after_s: float = 0.0  #: no PrepareSlot before
    next_slot: int = 0  #: above the number of every slot ever seen here
    # Counts over the slots of this node, kept by PoolState._index.
    slots: int = 0  #: without those that are stopping
    silent: int = 0
    preparing: int = 0
    executions: int = 0
    ordered: int = 0  #: idle ones that PrepareSlot was ordered for
    #: Its slots, as in PoolState.buckets.
    buckets: dict[Bucket, dict[SlotKey, Slot]] = field(default_factory=lambda: {bucket: {} for bucket in BUCKETS})

    @property
    def taken(self) -> int:
        return len(self.buckets["taken"])

    @property
    def warmth(self) -> Warmth:
        ready = len(self.buckets["warm"]) + len(self.buckets["preparing"]) + self.ordered
        return Warmth(self.node_id, self.slots, self.taken, ready, len(self.buckets["idle"]) - self.ordered)

    def unprepared(self, limit: int) -> list[Slot]:
        """Idle slots, without those that were ordered to prepare; at most so many."""
        return list(islice((slot for slot in self.buckets["idle"].values() if not slot.prepare_ordered), limit))

    def claimable(self, limit: int) -> list[SlotKey]:
        """Slots that nothing is being done to, the warm ones first; at most so many."""
        free = (slot for bucket in ("warm", "idle") for slot in self.buckets[bucket].values())
        return list(islice((slot.key for slot in free if not slot.prepare_ordered), limit))

    @property
    def empty(self) -> bool:
        return not any(self.buckets.values())


@dataclass(slots=True)
class Claim:
    claim_id: str
    key: SlotKey | None = None  #: assigned there; None: waiting
    broken: int = 0
    expired: bool = False  #: its admission wait is over; it may end where it is assigned, but waits no more
    owner: str = ""
    weight: float = 1.0
    quota: Quota | None = None
    use: Use = NOTHING
    idempotency_key: str | None = None
    near_node_id: str = ""
    refuse_at_s: float = 0.0  #: of one that is over its quota
    gang: str = ""  #: that it is a member of
    doomed: bool = False  #: its gang has failed; whatever it still gets is ended

    @property
    def charge(self) -> Charge:
        return Charge(self.owner, self.use)

    def made(self, info: SandboxInfo) -> bool:
        """Whether this sandbox is what this claim was for."""
        return self.idempotency_key is not None and (self.owner, self.idempotency_key) == (
            info.owner,
            info.idempotency_key,
        )
