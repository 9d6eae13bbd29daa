"""The Connect protocol: envelopes, ends of streams, errors, headers (contract 4.4). Pure.

Only the JSON codec, without compression: that is what the clients speak.
"""

from __future__ import annotations

import base64
import binascii
import struct

from raybox_actors.agent.errors import AgentError
from raybox_actors.errors import BadRequest, RayboxError, SandboxLost
from raybox_actors.fields import Json

from .asgi import Headers
from .protojson import dump

UNARY_TYPE = b"application/json"
STREAM_TYPE = b"application/connect+json"

#: One message. Input for a process comes in such messages, so it bounds a single `send_stdin` too.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
#: Between two keepalive messages, if the client does not ask for less.
DEFAULT_KEEPALIVE_S = 90.0
MAX_TIMEOUT_DIGITS = 10
DEFAULT_USER = "user"
MAX_USER_CHARS = 256

_HEADER = struct.Struct(">BI")
_COMPRESSED, _END = 0x01, 0x02

#: Connect's codes -> HTTP status of a unary answer.
HTTP_STATUS: dict[str, int] = {
    "invalid_argument": 400,
    "failed_precondition": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "already_exists": 409,
    "resource_exhausted": 429,
    "canceled": 499,
    "internal": 500,
    "unknown": 500,
    "unimplemented": 501,
    "unavailable": 503,
    "deadline_exceeded": 504,
}

#: The agent's own codes, and the kinds of the pool's errors, as Connect's.
_OF_AGENT = {"is_directory": "invalid_argument", "no_space": "resource_exhausted", "port_closed": "unavailable"}
_OF_KIND = {
    "auth": "unauthenticated",
    "bad_request": "invalid_argument",
    "capacity": "resource_exhausted",
    "limit": "resource_exhausted",
    "not_found": "not_found",
    "internal": "internal",
}


def code_of(error: RayboxError) -> str:
    """Connect's word for an error. A sandbox that is gone has none: it is answered or aborted by other means."""
    if isinstance(error, AgentError):
        return _OF_AGENT.get(error.code, error.code)
    return "unavailable" if isinstance(error, SandboxLost) else _OF_KIND[error.kind]


def error_body(error: RayboxError) -> Json:
    return {"code": code_of(error), "message": str(error)}


def envelope(message: Json, flags: int = 0) -> bytes:
    body = dump(message)
    return _HEADER.pack(flags, len(body)) + body


def end_of_stream(error: RayboxError | None = None) -> bytes:
    return envelope({} if error is None else {"error": error_body(error)}, _END)


class EnvelopeReader:
    """Cuts a request body, however it arrives, into its messages. Holds at most one of them and what came with it."""

    def __init__(self, limit_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._limit = limit_bytes
        self._held = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete now. Raises BadRequest; afterwards the reader is of no use."""
        self._held += data
        found = []
        while len(self._held) >= _HEADER.size:
            flags, length = _HEADER.unpack_from(self._held)
            if flags & _COMPRESSED:
                raise BadRequest("compressed messages are not supported")
            if flags:
                raise BadRequest(f"a request cannot have an envelope with flags {flags:#04x}")
            if length > self._limit:
                raise BadRequest(f"a message of {length} bytes is longer than {self._limit} bytes")
            end = _HEADER.size + length
            if len(self._held) < end:
                break
            found.append(bytes(self._held[_HEADER.size : end]))
            del self._held[:end]
        return found

    def finish(self) -> None:
        """To be called at the end of the body. Raises BadRequest if it ended within a message."""
        if self._held:
            raise BadRequest("the request ended in the middle of a message")


def media_type(headers: Headers) -> bytes:
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def timeout_s(headers: Headers) -> float | None:
    """Connect-Timeout-Ms; None if there is no limit. Raises BadRequest."""
    value = headers.get(b"connect-timeout-ms")
    if value is None:
        return None
    if not value.isdigit() or len(value) > MAX_TIMEOUT_DIGITS:
        raise BadRequest(f"Connect-Timeout-Ms must be a number of at most {MAX_TIMEOUT_DIGITS} digits")
    return int(value) / 1000


def keepalive_s(headers: Headers) -> float:
    """What the client asks for, from a second to the default; what is no number counts as nothing."""
    value = headers.get(b"keepalive-ping-interval", b"")
    if not value.isdigit() or len(value) > 6:
        return DEFAULT_KEEPALIVE_S
    return min(max(float(value), 1.0), DEFAULT_KEEPALIVE_S)


def user_of(headers: Headers) -> str:
    """Basic authentication names the user inside the sandbox; it authenticates nobody. Other schemes say nothing.

    Raises AgentError `unauthenticated` for what cannot be read.
    """
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"basic":
        return DEFAULT_USER
    try:
        user = base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[0]
    except (ValueError, binascii.Error):
        raise AgentError("unauthenticated", "the header Authorization cannot be read") from None
    return check_user(user)


def check_user(user: str) -> str:
    """The default for nobody. Raises AgentError `unauthenticated` for what no user can be called."""
    if len(user) > MAX_USER_CHARS or not user.isprintable():
        raise AgentError("unauthenticated", f"invalid username: {user[:64]!r}")
    return user or DEFAULT_USER
