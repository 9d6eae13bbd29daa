"""Batches on the wire: lines of JSON in and out (docs/protocol.md). Pure. Parsers raise BadRequest only."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast, get_args
from uuid import uuid4

from raybox_actors import fields as f
from raybox_actors.errors import BadRequest
from raybox_actors.execute_request import MAX_EXECUTION_TIMEOUT_S, MAX_NAME_CHARS
from raybox_actors.items import check_names
from raybox_actors.values import ItemKind, ItemRequest

from .run import Entry, Result

MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_IN_FLIGHT = 4096
MAX_FILES = 1024
DEFAULT_ITEM_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """The first line. Each but the first three is what holds for items that do not say it themselves."""

    max_in_flight: int | None
    deadline_s: float | None
    fresh: bool
    kind: ItemKind
    language: str | None
    timeout_s: float
    env_vars: dict[str, str]
    create: f.Json  #: as the body of a create, its template aside


class Lines:
    """Bytes -> lines, however they were cut. A line that is too long is given as None, and costs no memory."""

    def __init__(self, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_bytes
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._keep(data[start:end])
            yield from self.rest()
            start = end + 1
        self._keep(data[start:])

    def rest(self) -> Iterator[bytes | None]:
        """The last line, if it has no end of its own. Blank lines are none."""
        size, parts = self._size, self._parts
        self._size, self._parts = 0, []
        if size > self._max:
            yield None
        elif line := b"".join(parts).strip():
            yield line

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._max:
            self._parts.clear()
        elif piece:
            self._parts.append(piece)


def parse_options(line: bytes | None) -> BatchOptions:
    fields = _object(line)
    return BatchOptions(
        max_in_flight=f.integer(fields, "max_in_flight", 1, MAX_IN_FLIGHT),
        deadline_s=f.seconds(fields, "deadline_s", MAX_EXECUTION_TIMEOUT_S),
        fresh=f.flag(fields, "fresh", False),
        kind=_kind(fields, "cell"),
        language=f.text(fields, "language", MAX_NAME_CHARS) or None,
        timeout_s=f.seconds(fields, "timeout_s", MAX_EXECUTION_TIMEOUT_S) or DEFAULT_ITEM_TIMEOUT_S,
        env_vars=f.environment(fields, "env_vars"),
        create=f.mapping(fields, "create"),
    )


def parse_item(line: bytes | None, options: BatchOptions) -> Entry:
    """Never raises: an item that cannot be read is one all the same, and its result says why."""
    name = None
    try:
        fields = _object(line)
        name = f.text(fields, "id", MAX_NAME_CHARS)
        return Entry(name, _item(fields, options))
    except BadRequest as error:
        return Entry(name, None, error)


def _item(fields: f.Json, options: BatchOptions) -> ItemRequest:
    code = f.text(fields, "code", MAX_LINE_BYTES)
    if code is None:
        raise BadRequest("code is required")
    files = {name: decode_base64(f"files[{name[:64]!r}]", text) for name, text in f.mapping(fields, "files").items()}
    if len(files) > MAX_FILES:
        raise BadRequest(f"files has more than {MAX_FILES} entries")
    fetch = fields.get("fetch") or []
    if not isinstance(fetch, list) or len(fetch) > MAX_FILES:
        raise BadRequest(f"fetch must be a list of at most {MAX_FILES} names")
    wanted = tuple(f.check_text("fetch", name, 4096) for name in fetch)
    check_names((*files, *wanted))
    return ItemRequest(
        execution_id=f"item-{uuid4().hex}",
        code=code,
        kind=_kind(fields, options.kind),
        language=f.text(fields, "language", MAX_NAME_CHARS) or options.language,
        stdin=_stdin(fields),
        files=files,
        env_vars={**options.env_vars, **f.environment(fields, "env_vars")},
        fetch=wanted,
        timeout_s=f.seconds(fields, "timeout_s", MAX_EXECUTION_TIMEOUT_S) or options.timeout_s,
    )


def _object(line: bytes | None) -> f.Json:
    if line is None:
        raise BadRequest(f"a line is longer than {MAX_LINE_BYTES} bytes")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise BadRequest("a line is not valid JSON") from None
    if not isinstance(value, dict):
        raise BadRequest("a line must be a JSON object")
    return value


def _kind(fields: f.Json, default: ItemKind) -> ItemKind:
    kind = f.text(fields, "kind", MAX_NAME_CHARS)
    if kind is not None and kind not in get_args(ItemKind):
        raise BadRequest(f"kind must be one of {', '.join(get_args(ItemKind))}")
    return cast(ItemKind, kind or default)


def _stdin(fields: f.Json) -> bytes:
    """Text, or bytes as `stdin_base64`."""
    if (encoded := fields.get("stdin_base64")) is not None:
        return decode_base64("stdin_base64", encoded)
    return (f.text(fields, "stdin", MAX_LINE_BYTES) or "").encode()


def decode_base64(name: str, value: object) -> bytes:
    """Of a field of this name. Raises BadRequest."""
    text = f.check_text(name, value, MAX_LINE_BYTES)
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise BadRequest(f"{name} is not valid base64") from None


def encode_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def started_line(max_in_flight: int) -> bytes:
    return _line({"type": "started", "max_in_flight": max_in_flight})


def result_line(result: Result) -> bytes:
    """`events` are those of an execution, as they are; nothing in them is parsed again."""
    outcome, error = result.outcome, result.error
    head: dict[str, object] = {
        "type": "result",
        "index": result.index,
        "id": result.name,
        "status": result.status,
        "attempts": result.attempts,
        "duration_s": round(outcome.duration_s, 6) if outcome is not None else 0.0,
        "should_mask_sample": result.should_mask_sample,
    }
    if error is not None:
        head["error"] = {"kind": error.kind, "message": str(error)}
    if outcome is None:
        return _line(head)
    if outcome.exit_code is not None:
        head["exit_code"] = outcome.exit_code
    if outcome.files:
        head["files"] = {name: encode_base64(data) for name, data in outcome.files.items()}
    events = b",".join(outcome.lines.splitlines())
    return b'%b,"events":[%b]}\n' % (_line(head)[:-2], events)


def end_line(results: int, *, timed_out: bool) -> bytes:
    """`deadline`: the time of the batch was up; items that were not read by then have no result."""
    return _line({"type": "end", "results": results, "deadline": timed_out})


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"
