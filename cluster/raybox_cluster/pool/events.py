"""What happened to the pool: facts, told to PoolState.

Slots are named by node and number; node ids are Ray's, whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from raybox_actors.values import Quota, SandboxInfo, SlotDescription
from raybox_cluster.pool.placement import UNBOUNDED
from raybox_cluster.pool.quotas import NOTHING, Use


class SlotKey(NamedTuple):
    """One sandbox actor. The number of a dead one is never given to another while the manager lives."""

    node_id: str
    slot: int


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """It lives. hosts: it may have sandboxes. room: so many more sandbox actors fit, as Ray counts. drain_at_s: it is
    going away, and its sandboxes end then."""

    node_id: str
    hosts: bool = True
    room: int = UNBOUNDED
    drain_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class NodeGone:
    node_id: str


@dataclass(frozen=True, slots=True)
class NodeAgentReady:
    """The node's zygote answers. no_network: why its sandboxes cannot have the network that the pool gives."""

    node_id: str
    no_network: str = ""


@dataclass(frozen=True, slots=True)
class NodeAgentFailed:
    """reason: one line for the operator, as the agent gave it; empty if it did not answer."""

    node_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NodeAgentFound:
    """There is one, of an earlier manager or of an order that was given up."""

    node_id: str


@dataclass(frozen=True, slots=True)
class NodeAgentStopped:
    """What StopNodeAgent ordered is done."""

    node_id: str


@dataclass(frozen=True, slots=True)
class SlotFound:
    """An actor of this pool that an earlier manager started; nothing else is known of it yet."""

    key: SlotKey


@dataclass(frozen=True, slots=True)
class SlotDescribed:
    """An actor spoke, asked or unasked, in any order."""

    description: SlotDescription


@dataclass(frozen=True, slots=True)
class SlotLost:
    """The actor is dead, or never came to life. Its node lives; otherwise it is NodeGone."""

    key: SlotKey


@dataclass(frozen=True, slots=True)
class SlotUnplaced:
    """Ray had no room for the actor on its node: others were faster, or the node is draining."""

    key: SlotKey


@dataclass(frozen=True, slots=True)
class SlotStopped:
    """The actor ended because StopSlot ordered it."""

    key: SlotKey


@dataclass(frozen=True, slots=True)
class StopRefused:
    """StopSlot found somebody's sandbox there: claimed since. The actor lives."""

    key: SlotKey


@dataclass(frozen=True, slots=True)
class PrepareEnded:
    """The call that PrepareSlot ordered returned; what came of it is in a description told before."""

    key: SlotKey
    ok: bool


@dataclass(frozen=True, slots=True)
class ClaimAsked:
    """owner, quota, weight: of the API key that asks. use: what the sandbox will add to its owner's.

    idempotency_key: its sandbox will carry it, so that it is not counted beside its own claim. near_node_id: a free
    slot there is preferred.
    """

    claim_id: str
    owner: str = ""
    quota: Quota | None = None
    use: Use = NOTHING
    idempotency_key: str | None = None
    near_node_id: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ClaimDeadlinePassed:
    """The admission wait of a claim is over. May be told late, even after the claim's end."""

    claim_id: str


@dataclass(frozen=True, slots=True)
class ClaimWon:
    claim_id: str
    key: SlotKey
    info: SandboxInfo


@dataclass(frozen=True, slots=True)
class ClaimRefused:
    """The actor says that its slot is taken: what the pool knew of it was old."""

    claim_id: str
    key: SlotKey


@dataclass(frozen=True, slots=True)
class ClaimBroke:
    """The actor took the claim, could not build the sandbox and cleaned up."""

    claim_id: str
    key: SlotKey


@dataclass(frozen=True, slots=True)
class ClaimDropped:
    """The claim ended without a sandbox for a reason of its own: it asked for what cannot be."""

    claim_id: str
    key: SlotKey
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GangAsked:
    """Claims to be served all or none. Same owner, quota and use; each has an idempotency key of its own."""

    gang_id: str
    claims: tuple[ClaimAsked, ...]


@dataclass(frozen=True, slots=True)
class GangDeadlinePassed:
    """May be told late, even after the gang's end."""

    gang_id: str


@dataclass(frozen=True, slots=True)
class GangDropped:
    """Whoever asked for it has gone. Any time."""

    gang_id: str


@dataclass(frozen=True, slots=True)
class GangConfirmed:
    """What ConfirmGang ordered is done; told after the new descriptions of its slots."""

    gang_id: str


@dataclass(frozen=True, slots=True)
class GangBroke:
    """A member was lost before it was confirmed."""

    gang_id: str
    claim_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class PlacementReady:
    """The placement group of a gang stands; node_ids: of its bundles, in order."""

    gang_id: str
    node_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlacementFailed:
    gang_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class PlacementsFound:
    """Every gang that has a placement group in the cluster, whoever made it."""

    gang_ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class ClaimedDirectly:
    """A gateway claimed this slot without asking here. Told in any order with the actor's own words."""

    key: SlotKey
    info: SandboxInfo


@dataclass(frozen=True, slots=True)
class ClaimAbandoned:
    """A gateway does not know what came of its direct claim, made under this key of its own, and went elsewhere.

    key: None if the pool knows no such slot (yet).
    """

    key: SlotKey | None
    idempotency_key: str


@dataclass(frozen=True, slots=True)
class Ticked:
    """Nothing but time passed."""


Event: TypeAlias = (
    NodeSeen
    | NodeGone
    | NodeAgentReady
    | NodeAgentFailed
    | NodeAgentFound
    | NodeAgentStopped
    | SlotFound
    | SlotDescribed
    | SlotLost
    | SlotUnplaced
    | SlotStopped
    | StopRefused
    | PrepareEnded
    | ClaimAsked
    | ClaimDeadlinePassed
    | ClaimWon
    | ClaimRefused
    | ClaimBroke
    | ClaimDropped
    | GangAsked
    | GangDeadlinePassed
    | GangDropped
    | GangConfirmed
    | GangBroke
    | PlacementReady
    | PlacementFailed
    | PlacementsFound
    | ClaimedDirectly
    | ClaimAbandoned
    | Ticked
)
