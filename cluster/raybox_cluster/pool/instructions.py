"""What the pool wants done: orders of PoolState.

The manager carries them out and tells what came of them as events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from raybox_actors.errors import Cause
from raybox_actors.values import SandboxInfo
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
    """Start a sandbox actor; SlotDescribed, SlotUnplaced or SlotLost."""

    key: SlotKey


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
)
