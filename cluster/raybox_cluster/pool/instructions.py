"""What the pool wants done: orders of PoolState.

The manager carries them out and tells what came of them as events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from raybox_actors.errors import Cause
from raybox_actors.values import MemberReport, SandboxInfo
from raybox_cluster.pool.events import SlotKey


@dataclass(frozen=True, slots=True)
class EnsureNodeAgent:
    """Start the node's agent if there is none and wait for its zygote; NodeAgentReady or NodeAgentFailed."""

    node_id: str


@dataclass(frozen=True, slots=True)
class StopNodeAgent:
    """Nothing of the pool is left on the node: away with the agent, which would keep Ray from releasing the node;
    NodeAgentStopped."""

    node_id: str


@dataclass(frozen=True, slots=True)
class StartSlot:
    """Start a sandbox actor, in a bundle of the placement group of this gang if one is named; SlotDescribed,
    SlotUnplaced or SlotLost."""

    key: SlotKey
    placement: str = ""
    bundle: int = 0


@dataclass(frozen=True, slots=True)
class PrepareSlot:
    """Ask a slot to become warm; SlotDescribed, then PrepareEnded; or SlotLost."""

    key: SlotKey


@dataclass(frozen=True, slots=True)
class DescribeSlot:
    """Ask a slot for its description; SlotDescribed or SlotLost."""

    key: SlotKey


@dataclass(frozen=True, slots=True)
class StopSlot:
    """End a slot unless somebody uses it; SlotStopped or StopRefused."""

    key: SlotKey


@dataclass(frozen=True, slots=True)
class AssignClaim:
    """Claim this slot for this claim; ClaimWon, ClaimRefused, ClaimBroke, ClaimDropped or SlotLost."""

    claim_id: str
    key: SlotKey


@dataclass(frozen=True, slots=True)
class AnswerClaim:
    """Hand the sandbox to the caller. The pool has forgotten the claim."""

    claim_id: str
    info: SandboxInfo


@dataclass(frozen=True, slots=True)
class KillSandbox:
    """Nobody has this sandbox: its claim was served elsewhere while its actor was thought dead or gave no answer. Or,
    with the cause `node_lost`, its node is going away and its grace is over."""

    key: SlotKey
    sandbox_id: str
    cause: Cause = "killed"


@dataclass(frozen=True, slots=True)
class RejectClaim:
    """Tell the caller that there is no capacity. The pool has forgotten the claim."""

    claim_id: str
    retry_after_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class RefuseClaim:
    """Tell the caller that its API key's quota is used up. The pool has forgotten the claim."""

    claim_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReservePlacement:
    """Reserve room for so many sandboxes at once as a placement group; PlacementReady or PlacementFailed."""

    gang_id: str
    bundles: int


@dataclass(frozen=True, slots=True)
class RemovePlacement:
    """Give back what ReservePlacement reserved, if anything. No actor lives there any more."""

    gang_id: str


@dataclass(frozen=True, slots=True)
class ConfirmGang:
    """Tell each sandbox of the gang that it is somebody's; their descriptions and GangConfirmed, or GangBroke."""

    gang_id: str
    #: Claim, where it is and the sandbox, of every member in order.
    members: tuple[tuple[str, SlotKey, SandboxInfo], ...]


@dataclass(frozen=True, slots=True)
class AnswerGang:
    """Hand the sandboxes to the caller. The pool has forgotten the gang."""

    gang_id: str


@dataclass(frozen=True, slots=True)
class FailGang:
    """Tell the caller; what was made is being ended. The pool has forgotten the gang.

    cause: its quota, no capacity, or what was said of claim `failed`.
    """

    gang_id: str
    cause: Literal["limit", "capacity", "member"]
    reason: str
    retry_after_s: float
    report: tuple[MemberReport, ...]
    failed: str | None = None


Instruction: TypeAlias = (
    EnsureNodeAgent
    | StopNodeAgent
    | StartSlot
    | PrepareSlot
    | DescribeSlot
    | StopSlot
    | AssignClaim
    | AnswerClaim
    | KillSandbox
    | RejectClaim
    | RefuseClaim
    | ReservePlacement
    | RemovePlacement
    | ConfirmGang
    | AnswerGang
    | FailGang
)
