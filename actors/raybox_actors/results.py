"""Kernel events as lines of the contract's NDJSON stream (E2B wire contract 3.2 and 3.3). Pure."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

from raybox_actors.kernels.base import CodeError, Display, InputAccepted

#: MIME type -> key of a result; what is not here goes into `extra`.
KEYS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}


def encode(event: dict[str, Any]) -> bytes:
    """One line: ASCII only, no NaN or Infinity (they become null), one newline at the end."""
    try:
        text = json.dumps(event, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(without_nan(event), allow_nan=False, separators=(",", ":"))
    return text.encode("ascii") + b"\n"


def without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def input_line(event: InputAccepted) -> bytes:
    return encode({"type": "number_of_executions", "execution_count": event.execution_count})


def lost_line(first: int, count: int) -> bytes:
    """In the place of `count` events from number `first` on that are no longer held; it has no number itself."""
    return encode({"type": "events_lost", "first": first, "count": count})


def text_line(name: str, text: str, at: datetime | None = None) -> bytes:
    timestamp = (at or datetime.now(UTC)).isoformat()
    return encode({"type": name, "text": text, "timestamp": timestamp})


def error_line(event: CodeError) -> bytes:
    traceback = "".join(event.traceback)
    line = {"type": "error", "name": event.name, "value": event.value, "traceback": traceback}
    return encode(line | {"kind": event.kind} if event.kind else line)


def result_line(event: Display) -> bytes:
    """One result; a text that is in quotes loses exactly that pair."""
    result: dict[str, Any] = {"type": "result", "is_main_result": event.main}
    extra = {}
    for mime, value in event.data.items():
        if value is None:
            continue
        if key := KEYS.get(mime):
            result[key] = "".join(value) if isinstance(value, list) and key not in ("json", "data", "chart") else value
        else:
            extra[mime] = value
    text = result.get("text")
    if isinstance(text, str) and len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        result["text"] = text[1:-1]
    result["extra"] = extra
    return encode(result)


END_LINE = encode({"type": "end_of_execution"})
