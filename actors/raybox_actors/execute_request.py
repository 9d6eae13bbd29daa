"""What asks for an execution, over HTTP or Ray: a JSON body and headers (docs/protocol.md) -> ExecuteRequest. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from raybox_actors import fields as f
from raybox_actors.errors import BadRequest
from raybox_actors.values import ExecuteRequest

MAX_EXECUTE_BODY_BYTES = 16 * 1024 * 1024
MAX_NAME_CHARS = 256
MAX_EXECUTION_TIMEOUT_S = 86_400.0

_EXECUTION_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")


def parse_execute(body: bytes, headers: Mapping[bytes, bytes], new_execution_id: str) -> ExecuteRequest:
    """`new_execution_id` is used unless the caller chose one (`X-Raybox-Execution-Id`)."""
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
    return ExecuteRequest(
        execution_id=new_execution_id if chosen is None else chosen.decode("ascii"),
        code=code,
        language=language,
        context_id=context_id,
        env_vars=f.environment(fields, "env_vars"),
        timeout_s=_execution_timeout(headers.get(b"x-raybox-timeout-seconds")),
    )


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
