"""The Connect protocol with its JSON codec, without I/O: messages <-> bytes, and errors of calls.

A unary call is JSON both ways. A stream is a sequence of envelopes: one byte of flags, the length of the message in
four bytes (big-endian), the message. The last one, marked by its flags, says how the call ended.
Source: https://connectrpc.com/docs/protocol.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ._errors import (
    FileNotFoundException,
    NotFoundException,
    RateLimitException,
    RayboxError,
    SandboxException,
    SandboxNotRunningException,
    SandboxUnreachableException,
    TimeoutException,
)
from ._requests import Request
from ._responses import NOT_FOUND_TEXT, STREAMS, Reply, broken_reply, details_of, error_of, parsed

Message = dict[str, Any]

UNARY_TYPE = "application/json"
STREAM_TYPE = "application/connect+json"

HEAD_BYTES = 5
COMPRESSED = 0x01
END_OF_STREAM = 0x02

#: One message may be at most this long: far beyond what a server should send in one, and well below what hurts.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024

#: The HTTP status that means the same as a code of the protocol.
STATUS_OF_CODE: Mapping[str, int] = {
    "canceled": 499,
    "unknown": 500,
    "invalid_argument": 400,
    "deadline_exceeded": 504,
    "not_found": 404,
    "already_exists": 409,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "failed_precondition": 400,
    "aborted": 409,
    "out_of_range": 400,
    "unimplemented": 501,
    "internal": 500,
    "unavailable": 503,
    "data_loss": 500,
    "unauthenticated": 401,
}

#: What a path that does not exist is called when files are spoken of.
FILE_OPERATIONS = frozenset(
    {
        "create_watcher",
        "file_info",
        "list_files",
        "make_dir",
        "read_file",
        "remove_file",
        "rename_file",
        "watch_dir",
        "write_file",
    }
)


class End(NamedTuple):
    """The end of a stream. error: what it says of a failure; None when all went well."""

    error: Message | None


def encode(message: Mapping[str, Any]) -> bytes:
    """One message as an envelope."""
    data = json.dumps(message, allow_nan=False).encode()
    return b"\0" + len(data).to_bytes(4, "big") + data


def bytes_of(text: object) -> bytes:
    """A protobuf `bytes` value out of its JSON form: base64 of either alphabet, padded or not.

    Raises SandboxException (internal).
    """
    if isinstance(text, str):
        with contextlib.suppress(ValueError):
            return binascii.a2b_base64(text, strict_mode=True)  # as nearly all of it is written
        plain = text.rstrip("=").replace("-", "+").replace("_", "/")
        with contextlib.suppress(ValueError):
            return binascii.a2b_base64(plain + "=" * (-len(plain) % 4), strict_mode=True)
    raise SandboxException("the server sent bytes that are no base64")


def text_of(data: bytes) -> str:
    """Bytes as the JSON form of a protobuf `bytes` value."""
    return base64.b64encode(data).decode("ascii")


class EnvelopeParser:
    """Feed it bytes; it gives the messages that are complete, and at last an End.

    After it raised it must not be fed again; after the End it gives nothing more.
    """

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max = max_message_bytes
        self._pending = bytearray()
        self.ended = False

    def feed(self, data: bytes) -> list[Message | End]:
        """Messages that `data` completes, in order. Raises SandboxException (internal) on what is no envelope."""
        self._pending += data
        found: list[Message | End] = []
        at = 0
        while not self.ended and len(self._pending) - at >= HEAD_BYTES:
            flags = self._pending[at]
            length = int.from_bytes(self._pending[at + 1 : at + HEAD_BYTES], "big")
            if flags not in (0, END_OF_STREAM):
                raise SandboxException(f"the server sent an envelope with flags {flags:#x}, which were not agreed on")
            if length > self._max:
                raise SandboxException(f"the server sent a message of {length} bytes; the limit is {self._max}")
            if len(self._pending) - at < HEAD_BYTES + length:
                break
            message = _parsed(bytes(self._pending[at + HEAD_BYTES : at + HEAD_BYTES + length]))
            at += HEAD_BYTES + length
            if flags == END_OF_STREAM:
                self.ended = True
                error = message.get("error")
                found.append(End(error if isinstance(error, dict) else None))
            else:
                found.append(message)
        del self._pending[:at]
        return found


def _parsed(data: bytes) -> Message:
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SandboxException(f"the server sent a message that is not JSON: {data[:80]!r}") from error
    if not isinstance(message, dict):
        raise SandboxException(f"the server sent a message that is no object: {data[:80]!r}")
    return message


def read_message(request: Request, reply: Reply) -> Message:
    """The message of a unary answer. Raises SandboxException (internal) when there is none."""
    message = parsed(request, reply)
    if not isinstance(message, dict):
        raise broken_reply(request, reply, "expected an object")
    return message


# --- errors ----------------------------------------------------------------------------------------------------------


def error_of_reply(request: Request, reply: Reply) -> RayboxError:
    """The error that an unwelcome HTTP answer to a call means: a code of the protocol, or the gateway's own."""
    details = details_of(reply.body)
    return _error(request, details, reply.status, reply.headers)


def code_of_reply(reply: Reply) -> str | None:
    """The protocol's code in an unwelcome answer; None where it is the gateway that answers, or something else."""
    code = details_of(reply.body).get("code")
    return code if isinstance(code, str) else None


def error_of_end(request: Request, error: Mapping[str, Any]) -> RayboxError:
    """The error that the end of a stream tells of."""
    return _error(request, error, STATUS_OF_CODE["unknown"], {})


def _error(request: Request, details: Mapping[str, Any], status: int, headers: Mapping[str, str]) -> RayboxError:
    code = details.get("code")
    if isinstance(code, str):
        status = STATUS_OF_CODE.get(code, STATUS_OF_CODE["unknown"])
    elif isinstance(code, int) and 400 <= code < 600:
        status = code  # the gateway's own answer
    told = error_of(request, Reply(status, headers, json.dumps(dict(details)).encode()))
    chosen: type[RayboxError] | None = None
    if status == 404 and type(told) is NotFoundException and request.operation in FILE_OPERATIONS:
        chosen = FileNotFoundException
    elif "kind" in details:
        return told
    elif status in (499, 504):
        chosen = TimeoutException
    elif status == 429:
        chosen = RateLimitException
    elif status == 503:
        chosen = SandboxNotRunningException if NOT_FOUND_TEXT in told.message else SandboxUnreachableException
    if chosen is None:
        return told
    own = status == 504 and request.operation in STREAMS  # what ran there took longer than it was given
    mask = details.get("should_mask_sample")
    return chosen(
        told.message,
        told.status_code,
        should_mask_sample=mask if isinstance(mask, bool) else False if own else None,
        sandbox_id=told.sandbox_id,
        cause=told.cause,
        retry_after_s=told.retry_after_s,
    )
