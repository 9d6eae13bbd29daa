"""What a chaos run writes down while it goes on, from all of its threads: decisions, outcomes and violations."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.plan import Fault, Operation, line


@dataclass
class Journal:
    """decisions: by lane, None for the faults. violations: what must never be; none, if all is well."""

    path: Path | None = None
    decisions: dict[int | None, list[str]] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    _began_s: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def decided(self, lane: int | None, decision: Operation | Fault) -> None:
        with self._lock:
            self.decisions.setdefault(lane, []).append(line(lane, decision))
            self._write("decision", line(lane, decision))

    def outcome(self, what: str, detail: str = "", took_s: float = 0.0) -> None:
        with self._lock:
            self.outcomes[what] += 1
            self.slowest_s = max(self.slowest_s, took_s)
            self._write("outcome", f"{what} {took_s:.2f} s {detail}")

    def violation(self, what: str) -> None:
        with self._lock:
            self.violations.append(what)
            self._write("VIOLATION", what)

    def _write(self, kind: str, text: str) -> None:
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(f"{time.monotonic() - self._began_s:8.3f} {kind} {text}\n")

    def summary(self) -> str:
        return json.dumps({"outcomes": dict(sorted(self.outcomes.items())), "slowest_s": round(self.slowest_s, 2)})
