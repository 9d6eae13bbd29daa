"""What happened in the lives of a slot's sandboxes, for people to read: bounded, the oldest forgotten first. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, Literal

from raybox_actors.values import LogEntry

#: Entries of one sandbox, sandboxes of one slot (the current one and those before), and characters of one field.
MAX_ENTRIES: Final = 1000
MAX_SANDBOXES: Final = 8
MAX_FIELD_CHARS: Final = 256

Level = Literal["debug", "info", "warn", "error"]


class LifeLog:
    """Kept by the sandbox's actor, so that it outlives the sandbox, for a while. The time is passed in."""

    def __init__(self) -> None:
        self._lives: OrderedDict[str, deque[LogEntry]] = OrderedDict()

    def begin(self, sandbox_id: str) -> None:
        self._lives[sandbox_id] = deque(maxlen=MAX_ENTRIES)
        while len(self._lives) > MAX_SANDBOXES:
            self._lives.popitem(last=False)

    def add(self, sandbox_id: str, at_s: float, message: str, fields: dict[str, str], level: Level = "info") -> None:
        """Nothing happens for a sandbox that has not begun."""
        if (life := self._lives.get(sandbox_id)) is not None:
            life.append(LogEntry(at_s, level, message, {name: text[:MAX_FIELD_CHARS] for name, text in fields.items()}))

    def entries(self, sandbox_id: str) -> list[LogEntry] | None:
        """Oldest first; None for a sandbox that is not, or no longer, known here."""
        life = self._lives.get(sandbox_id)
        return None if life is None else list(life)
