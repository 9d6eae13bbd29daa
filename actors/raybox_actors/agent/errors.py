"""Errors of operations that the agent carries out. The codes are Connect's (contract 4.4), with three of our own."""

from __future__ import annotations

from typing import Final, Literal

from raybox_actors.errors import Kind, RayboxError

AgentCode = Literal[
    "invalid_argument",
    "is_directory",  #: of a file that was to be read; invalid_argument on the wire
    "unauthenticated",  #: no such user
    "permission_denied",
    "not_found",
    "already_exists",
    "failed_precondition",
    "resource_exhausted",
    "no_space",  #: the disk or inode quota of the sandbox; 507 on the wire
    "port_closed",
    "deadline_exceeded",
    "unavailable",  #: the agent, or the connection to it, went away in the middle
    "unimplemented",
    "internal",
]

KINDS: Final[dict[AgentCode, Kind]] = {
    "not_found": "not_found",
    "unauthenticated": "auth",
    "resource_exhausted": "limit",
    "no_space": "limit",
    "unavailable": "internal",
    "internal": "internal",
}


class AgentError(RayboxError):
    """`code` says what kind of failure, the message is fit for the wire. Picklable."""

    def __init__(self, code: AgentCode, message: str) -> None:
        super().__init__(message)
        Exception.__init__(self, code, message)
        self.code: AgentCode = code
        self.kind = KINDS.get(code, "bad_request")
        self.retryable = code == "unavailable"
        self.should_mask_sample = self.kind == "internal"

    def __str__(self) -> str:
        return self.message
