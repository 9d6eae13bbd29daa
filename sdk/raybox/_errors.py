"""Everything that raybox raises, under one root.

RayboxError                              root: `except RayboxError` catches all of it
 +-- SandboxException                    internal      the call failed; `kind` and `retryable` say more
 |    +-- TimeoutException               timeout       a time limit of ours ran out (also a builtin TimeoutError)
 |    |    +-- SandboxNotRunningException    sandbox_lost  killed, expired, or its node or process died
 |    |    +-- SandboxUnreachableException   internal      it may still run, but nobody answers for it
 |    +-- NotFoundException              not_found     no such context, template or other thing
 |    |    +-- SandboxNotFoundException  not_found     the pool knows no such sandbox
 |    |    +-- FileNotFoundException     not_found     no such file or folder in the sandbox
 |    +-- InvalidArgumentException       bad_request   the call cannot mean anything; say it differently
 |    +-- RateLimitException             capacity      too many requests or sandboxes for this key (429)
 |    +-- LimitException                 limit         a named bound of the sandbox was crossed
 |    |    +-- OutOfMemoryException      oom           its memory limit
 |    |    +-- NotEnoughSpaceException   limit         its disk quota
 |    +-- GangException                  capacity      `create_many`: one could not be had, so none was kept
 |    +-- TemplateException              bad_request   the template cannot serve this client
 |    +-- GitUpstreamException           bad_request   the branch has nothing to be pushed to or pulled from
 |    +-- CommandExitException           user_code     a command ended with another exit code than zero
 +-- AuthenticationException             auth          the key is missing or wrong
 |    +-- GitAuthException               auth          a git server refused the credentials, or was given none
 +-- ServiceBusyException                capacity      the pool is full right now (503)

Names and the subclass relations between them are those of the E2B SDK, so that `except` clauses can be kept; there too,
what is about the key and the pool is no SandboxException. What code raises in a sandbox is never one of these: it is
data, in `Execution.error`.
"""

from __future__ import annotations

import builtins
from typing import Literal, get_args

from ._pool_models import MemberReport

Kind = Literal[
    "auth",
    "bad_request",
    "capacity",
    "internal",
    "limit",
    "not_found",
    "oom",
    "sandbox_lost",
    "timeout",
    "user_code",
]

KINDS: frozenset[str] = frozenset(get_args(Kind))

#: Ends of a sandbox that its owner asked for or let happen: no fault of the infrastructure.
OWNED_CAUSES = frozenset({"killed", "timeout"})


class RayboxError(Exception):
    """Root of every error of this package. Any argument left None takes the value of the class.

    kind: what happened, machine-readable; see the tree.
    retryable: whether the same call may succeed later, and repeating it does no harm.
    should_mask_sample: whether an RL trainer must leave the sample out, because the fault was not the policy's.
    sandbox_id, cause, status_code: the sandbox concerned, why it ended, the HTTP status; None when there is none.
    retry_after_s: seconds to wait before asking again; None when the server did not say.
    """

    kind: Kind = "internal"
    retryable: bool = False
    should_mask_sample: bool = True

    def __init__(
        self,
        message: str = "",
        status_code: int | None = None,
        kind: Kind | None = None,
        retryable: bool | None = None,
        should_mask_sample: bool | None = None,
        sandbox_id: str | None = None,
        cause: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        # Pickling replays these arguments, and then sets the attributes.
        super().__init__(message, status_code, kind, retryable, should_mask_sample, sandbox_id, cause, retry_after_s)
        self.message = message
        self.status_code = status_code
        self.sandbox_id = sandbox_id
        self.cause = cause
        self.retry_after_s = retry_after_s
        if kind is not None:
            self.kind = kind
        if retryable is not None:
            self.retryable = retryable
        if should_mask_sample is not None:
            self.should_mask_sample = should_mask_sample
        elif self.kind == "sandbox_lost":
            self.should_mask_sample = cause not in OWNED_CAUSES

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, kind={self.kind!r})"


class SandboxException(RayboxError):
    """A call on a sandbox failed; the subclasses say how, this class itself that the fault is ours."""


class TimeoutException(SandboxException, builtins.TimeoutError):
    """A limit given in seconds ran out: `timeout` of an execution, or `request_timeout` of a request.

    An execution that ran too long is the code's own doing (`should_mask_sample` false); a request that nobody answered
    in time is not. SandboxNotRunningException and SandboxUnreachableException are subclasses, as in the E2B SDK: test
    `kind` to tell them apart.
    """

    kind: Kind = "timeout"


class SandboxNotRunningException(TimeoutException):
    """The sandbox is gone, and its memory with it; `cause` says why where the server knows.

    Not retryable on the same id: create a new one. Masks the sample unless it was killed or had expired.
    """

    kind: Kind = "sandbox_lost"


class SandboxUnreachableException(TimeoutException):
    """Nobody answered for the sandbox, and it is not known to have ended."""

    kind: Kind = "internal"
    retryable = True


class NotFoundException(SandboxException):
    """The thing named by an id or a name does not exist."""

    kind: Kind = "not_found"


class SandboxNotFoundException(NotFoundException):
    """The pool knows no such sandbox: it never was, or it has ended (then `kind` may be sandbox_lost)."""


class FileNotFoundException(NotFoundException):
    """There is no file or folder of this path in the sandbox: whoever should have made it ran in there."""

    should_mask_sample = False


class InvalidArgumentException(SandboxException):
    """The arguments contradict each other, or the server refused them."""

    kind: Kind = "bad_request"
    should_mask_sample = False


class RateLimitException(SandboxException):
    """Too many requests, or too many sandboxes at once, for this key."""

    kind: Kind = "capacity"
    retryable = True


class LimitException(SandboxException):
    """A bound of the sandbox was crossed by what runs in it."""

    kind: Kind = "limit"
    should_mask_sample = False


class OutOfMemoryException(LimitException):
    """What runs in the sandbox crossed its memory limit."""

    kind: Kind = "oom"


class NotEnoughSpaceException(LimitException):
    """What runs in the sandbox crossed its disk quota."""


class GangException(SandboxException):
    """Of several sandboxes that were to be created together, one could not be had in time, and none was kept.

    kind, retryable and so on are those of what went wrong: `capacity`, `limit` (the quota), `internal` and others.
    report: what had become of each, in order; empty if the server did not say.
    """

    kind: Kind = "capacity"
    retryable = True
    report: tuple[MemberReport, ...] = ()


class TemplateException(SandboxException):
    """The template is too old for this client, or is not usable."""

    kind: Kind = "bad_request"
    should_mask_sample = False


class GitUpstreamException(SandboxException):
    """The branch has no upstream: name remote and branch, or push once with `set_upstream`."""

    kind: Kind = "bad_request"
    should_mask_sample = False


class AuthenticationException(RayboxError):
    """The API key is missing, or the server does not accept it."""

    kind: Kind = "auth"


class GitAuthException(AuthenticationException):
    """A git server refused the credentials, or wanted some and was given none."""


class ServiceBusyException(RayboxError):
    """The pool has no room at this moment; nothing was changed, so the call can be repeated."""

    kind: Kind = "capacity"
    retryable = True
