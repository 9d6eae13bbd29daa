"""What a cell told, in a form that two runs of it share."""

from __future__ import annotations

import re
from typing import Any

from raybox_actors.kernels.base import CodeError, Display, Finished, InputAccepted, KernelEvent, Output

#: What is by chance, and what stands for it.
CHANCE = [
    (re.compile(r"0x[0-9a-fA-F]{6,}"), "0xADDRESS"),
    (re.compile(r"ipykernel_\d+"), "ipykernel_PID"),
    (re.compile(r"\bat 7[0-9a-f]{11}\b"), "at ADDRESS"),
    (re.compile(r"\b\d+(\.\d+)?(e[-+]\d+)? ?(ns|us|µs|μs|ms|s|min)\b"), "TIME"),
    (re.compile(r"\bTask-\d+\b"), "Task-N"),
    (re.compile(r"\bThread-\d+\b"), "Thread-N"),
    (re.compile(r"\b(ForkProcess|ForkPoolWorker|SpawnProcess|Process)-\d+"), r"\1-N"),
    (re.compile(r"(pid|PID)[= ]\d+"), "pid PID"),
    (re.compile(r"ipython_edit_\w{8}|tmp[a-z0-9_]{8}\b"), "TMP"),
]

Event = tuple[Any, ...]


def normal(events: list[KernelEvent], finished: Finished) -> list[Event]:
    """Addresses, numbers of processes and times become words; text between other events, one piece a stream.

    Stock buffers each stream by itself until a display, an error or the end: there it has no order of its own between
    stdout and stderr, and ours (which keeps the order of the writes) has a test for that.
    """
    told: list[Event] = []
    text = {"stdout": "", "stderr": ""}

    def flush() -> None:
        for name, held in text.items():
            if held:
                told.append((name, held))
                text[name] = ""

    for event in events:
        if isinstance(event, Output):
            text[event.name] += event.text
            continue
        flush()
        if isinstance(event, InputAccepted):
            told.append(("input", event.execution_count))
        elif isinstance(event, Display):
            kind = "update" if event.update else "result" if event.main else "display"
            told.append((kind, event.data, event.metadata))
        elif isinstance(event, CodeError):
            told.append(("error", event.name, event.value, list(event.traceback)))
    flush()
    told.append(("end", "ok" if finished.ok else "failed", finished.reason if finished.lost else ""))
    return [settle(event) for event in told]


def settle(value: Any) -> Any:
    """`value` with what is by chance replaced, at any depth."""
    if isinstance(value, str):
        for pattern, word in CHANCE:
            value = pattern.sub(word, value)
        return value
    if isinstance(value, dict):
        return {settle(key): settle(item) for key, item in value.items()}
    if isinstance(value, list):
        return [settle(item) for item in value]
    if isinstance(value, tuple):
        return tuple(settle(item) for item in value)
    return value


def by_kind(told: list[Event]) -> dict[str, list[Any]]:
    """Text of each stream in one piece, everything else in its order."""
    kinds: dict[str, list[Any]] = {"stdout": [""], "stderr": [""], "other": []}
    for event in told:
        if event[0] in ("stdout", "stderr"):
            kinds[event[0]][0] += event[1]
        else:
            kinds["other"].append(event)
    return kinds
