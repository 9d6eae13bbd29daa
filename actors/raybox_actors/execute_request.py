"""What asks for an execution, over HTTP or Ray: a JSON body and headers (docs/protocol.md) -> ExecuteRequest. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal, cast, get_args

from raybox_actors import fields as f
from raybox_actors.errors import BadRequest
from raybox_actors.executions import OWN_ID_PREFIX
from raybox_actors.values import ExecuteRequest

MAX_EXECUTE_BODY_BYTES = 16 * 1024 * 1024
MAX_NAME_CHARS = 256
MAX_EXECUTION_TIMEOUT_S = 86_400.0
MAX_EVENT_DIGITS = 15

#: Who leaves an execution interrupts it, or lets it be interrupted when nobody has observed it for a while, or neither.
OnDisconnect = Literal["interrupt", "wait", "continue"]

_EXECUTION_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")


def parse_execute(body: bytes, headers: Mapping[bytes, bytes], new_execution_id: str) -> ExecuteRequest:
    """`new_execution_id` is used unless the caller chose one (`X-Raybox-Execution-Id`)."""
    on_disconnect = parse_on_disconnect(headers)
    if len(body) > MAX_EXECUTE_BODY_BYTES:
        raise BadRequest(f"the request body is longer than {MAX_EXECUTE_BODY_BYTES} bytes")
    fields = f.json_object(body)
    code = f.text(fields, "code", MAX_EXECUTE_BODY_BYTES)
    if code is None:
        raise BadRequest("code is required")
    language = f.text(fields, "language", MAX_NAME_CHARS) or None
    context_id = f.text(fields, "context_id", MAX_NAME_CHARS) or None
    if language is not None and context_id is not None:
        raise BadRequest("Only one of context_id or language can be provided")
    chosen = headers.get(b"x-raybox-execution-id")
    if chosen is not None and not _EXECUTION_ID.fullmatch(chosen):
        raise BadRequest("X-Raybox-Execution-Id must match [A-Za-z0-9_-]{1,64}")
    if chosen is not None and chosen.startswith(OWN_ID_PREFIX.encode()):
        raise BadRequest(f"X-Raybox-Execution-Id: ids that begin with {OWN_ID_PREFIX} are the server's own")
    return ExecuteRequest(
        execution_id=new_execution_id if chosen is None else chosen.decode("ascii"),
        code=code,
        language=language,
        context_id=context_id,
        env_vars=f.environment(fields, "env_vars"),
        timeout_s=_execution_timeout(headers.get(b"x-raybox-timeout-seconds")),
        interrupt_if_unobserved=on_disconnect != "continue",
        from_event=event_number("X-Raybox-From-Event", headers.get(b"x-raybox-from-event", b"0").decode("latin-1")),
    )


def parse_on_disconnect(headers: Mapping[bytes, bytes]) -> OnDisconnect:
    """What becomes of the cell when its client leaves."""
    chosen = headers.get(b"x-raybox-on-disconnect", b"interrupt")
    for known in get_args(OnDisconnect):
        if chosen == known.encode():
            return cast(OnDisconnect, known)
    raise BadRequest(f"X-Raybox-On-Disconnect must be one of {', '.join(get_args(OnDisconnect))}")


def event_number(name: str, text: str) -> int:
    """The number of an event, which is what `name` gives."""
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_EVENT_DIGITS):
        raise BadRequest(f"{name} must be the number of an event: at most {MAX_EVENT_DIGITS} digits")
    return int(text)


def is_execution_id(text: str) -> bool:
    """Whether any execution could have this id."""
    return _EXECUTION_ID.fullmatch(text.encode("utf-8", "replace")) is not None


def _execution_timeout(header: bytes | None) -> float | None:
    if header is None:
        return None
    try:
        timeout_s = float(header)
    except ValueError:
        timeout_s = math.nan
    if not 0 < timeout_s <= MAX_EXECUTION_TIMEOUT_S:
        raise BadRequest(f"X-Raybox-Timeout-Seconds must be a number above 0 and up to {MAX_EXECUTION_TIMEOUT_S:.0f}")
    return timeout_s
