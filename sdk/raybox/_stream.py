"""The event stream of an execution: bytes in, events out, no I/O.

One JSON object per line (`\\n`), however the bytes were cut on their way. Blank lines are skipped.
"""

from __future__ import annotations

import json
from typing import Any

from ._errors import SandboxException

Event = dict[str, Any]

#: One event may be at most this long. It is far beyond what a server should send in one, and well below what hurts.
MAX_LINE_BYTES = 64 * 1024 * 1024


class EventParser:
    """Feed it bytes; it gives the events of the lines that are complete.

    After it raised it must not be fed again.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_line_bytes
        self._partial: list[bytes] = []  # pieces of the line that is not complete yet; joined only once
        self._partial_bytes = 0

    @property
    def has_partial_line(self) -> bool:
        """Whether the bytes so far end in the middle of a line."""
        return self._partial_bytes > 0

    def feed(self, data: bytes) -> list[Event]:
        """Events that `data` completes, in order. Raises SandboxException (internal) on a line that is no event."""
        head, newline, rest = data.partition(b"\n")
        if not newline:
            self._keep(head)
            return []
        if self._partial:
            self._keep(head)
            head = b"".join(self._partial)
            self._partial, self._partial_bytes = [], 0
        lines = [head, *rest.split(b"\n")]
        self._keep(lines.pop())
        return [self._event(line) for line in lines if line and not line.isspace()]

    def _keep(self, piece: bytes) -> None:
        self._partial_bytes += len(piece)
        if self._partial_bytes > self._max:
            raise self._too_long()
        if piece:
            self._partial.append(piece)

    def _event(self, line: bytes) -> Event:
        if len(line) > self._max:
            raise self._too_long()
        try:
            event = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SandboxException(f"the server sent a line that is not JSON: {line[:80]!r}") from error
        if not isinstance(event, dict) or not isinstance(event.get("type"), str):
            raise SandboxException(f"the server sent a line that is not an event: {line[:80]!r}")
        return event

    def _too_long(self) -> SandboxException:
        return SandboxException(f"the server sent an event of more than {self._max} bytes")
