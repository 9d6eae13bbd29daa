"""Errors that cross processes: picklable, each with a machine-readable kind.

RayboxError
 +-- BadRequest        bad_request    the call cannot mean anything; say it differently
 |    +-- Conflict                    what was given this name is something else
 +-- Unauthenticated   auth           the key or token is missing or wrong
 +-- NotFound          not_found      no such sandbox, context or execution, now or ever
 |    +-- ExecutionForgotten          it ran; what came of it is no longer held
 +-- SandboxLost       sandbox_lost   it existed and is gone; `cause` says why
 +-- NoCapacity        capacity       the pool is full; `retry_after_s` says when to ask again
 +-- GangFailed        its cause's    one of several that were to be created together could not be; `report` says more
 +-- LimitReached      limit          a named bound of the sandbox was crossed
 +-- InternalError     internal       ours; please report
      +-- NodeFallsShort              between node agent and manager: the node lacks what the pool requires

What user code raises is data (`error` events), never one of these. `should_mask_sample` is true where a rollout must
not be scored because the fault was not the policy's.
"""

from __future__ import annotations

from typing import Literal

from raybox_actors.values import MemberReport

Cause = Literal["killed", "timeout", "owner_died", "oom", "node_lost", "internal"]
Kind = Literal["auth", "bad_request", "capacity", "internal", "limit", "not_found", "sandbox_lost"]


class RayboxError(Exception):
    """Root of every error that the pool raises towards a caller."""

    kind: Kind = "internal"
    retryable: bool = False
    should_mask_sample: bool = True

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadRequest(RayboxError):
    kind = "bad_request"
    should_mask_sample = False


class Conflict(BadRequest):
    """The caller gave a name that it had given to something else before."""


class Unauthenticated(RayboxError):
    kind = "auth"


class NotFound(RayboxError):
    """`what` is "sandbox", "context" or "execution"; the message is fit for the wire."""

    kind = "not_found"

    def __init__(self, what: str, name: str) -> None:
        super().__init__(f"{what} {name} not found")
        Exception.__init__(self, what, name)  # pickling replays the arguments of this class
        self.what, self.name = what, name

    def __str__(self) -> str:
        return self.message


class ExecutionForgotten(NotFound):
    """The execution was started once, so it is never run again; its events are no longer held."""

    def __init__(self, execution_id: str) -> None:
        super().__init__("execution", execution_id)
        Exception.__init__(self, execution_id)
        self.message = f"execution {execution_id} is no longer remembered: it was run, and its events were dropped"


class SandboxLost(RayboxError):
    """The sandbox is gone, and its memory with it. Not retryable on the same id: create a new one."""

    kind = "sandbox_lost"

    def __init__(self, sandbox_id: str, cause: Cause) -> None:
        super().__init__(f"sandbox {sandbox_id} is gone: {cause}")
        Exception.__init__(self, sandbox_id, cause)
        self.sandbox_id, self.cause = sandbox_id, cause
        # A sandbox that its user killed or let expire is no fault of the infrastructure.
        self.should_mask_sample = cause not in ("killed", "timeout")

    def __str__(self) -> str:
        return self.message


class NoCapacity(RayboxError):
    kind = "capacity"
    retryable = True

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        Exception.__init__(self, message, retry_after_s)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message


class GangFailed(RayboxError):
    """Nothing is left of the gang. Kind, retryable and so on are those of the cause."""

    def __init__(self, cause: RayboxError, report: tuple[MemberReport, ...]) -> None:
        ready = sum(one.state == "ready" for one in report)
        super().__init__(f"{cause} ({ready} of {len(report)} sandboxes were ready, and were given back)")
        Exception.__init__(self, cause, report)
        self.cause, self.report = cause, report
        self.kind, self.retryable, self.should_mask_sample = cause.kind, cause.retryable, cause.should_mask_sample

    def __str__(self) -> str:
        return self.message


class LimitReached(RayboxError):
    kind = "limit"
    should_mask_sample = False


class InternalError(RayboxError):
    kind = "internal"
    retryable = True


class SlotTaken(RayboxError):
    """Between pool manager and actor: the slot was claimed by somebody else, or is not free. Try another."""

    kind = "capacity"
    retryable = True


class NodeFallsShort(InternalError):
    """Between node agent and pool manager: the node must not host sandboxes of a pool that requires so much."""

    retryable = False
