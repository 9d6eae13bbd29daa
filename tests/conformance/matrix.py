"""The page of compatibility: from what clients report to Markdown and back. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .capabilities import CAPABILITIES

#: What a cell says, the best first. `absent`: the client has no such call.
STATUSES = ("works", "absent", "differs", "refused", "fails")
SHOWN = {"absent": "–"}

HEAD = """\
# What the official clients can do here

Written by `make conformance`: programs that use the official E2B clients, unmodified, against a pool as `raybox up`
starts it. The names are those of Python; JavaScript's are the same in its own spelling.

- *works*: does what E2B's documents say;
- *differs*: works, with the difference in the note;
- *refused*: a typed error of the client that names what is missing, with what it says in the note;
- *fails*: a fault of ours, with what was seen in the note;
- –: this client has no such call.

Python stands for `Sandbox` and `AsyncSandbox`, which are both tried. The oldest version here is the first whose cells
follow `E2B_SANDBOX_URL`; those before it are not tried, as they need a domain with wildcard DNS and TLS that leads to
the pool. The newest is what `make lock` found on PyPI.
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    status: str
    detail: str = ""

    def __post_init__(self) -> None:
        assert self.status in STATUSES


ABSENT = Outcome("absent")
#: Name of a program -> how it went.
Column = Mapping[str, Outcome]


def of_both(blocking: Outcome, asynchronous: Outcome) -> Outcome:
    """One cell for the two classes of Python: the worse of them, which is named where they are not alike."""
    if "absent" in (blocking.status, asynchronous.status):
        return asynchronous if blocking.status == "absent" else blocking
    if blocking == asynchronous:
        return blocking
    worse, name = max(
        (blocking, "Sandbox"), (asynchronous, "AsyncSandbox"), key=lambda one: STATUSES.index(one[0].status)
    )
    return Outcome(worse.status, f"`{name}`: {worse.detail}")


def page(columns: Mapping[str, Column]) -> str:
    """Markdown. The same outcomes give the same text."""
    notes: dict[str, int] = {}

    def cell(outcome: Outcome) -> str:
        shown = SHOWN.get(outcome.status, outcome.status)
        if not outcome.detail or outcome.status == "absent":
            return shown
        return f"{shown} [{notes.setdefault(_line(outcome.detail), len(notes) + 1)}]"

    parts = [HEAD]
    for group, rows in CAPABILITIES.items():
        lines = [f"| {group} | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
        for name, title in rows.items():
            cells = (cell(column.get(name, ABSENT)) for column in columns.values())
            lines.append(f"| {title} | {' | '.join(cells)} |")
        parts.append(f"## {group}\n\n" + "\n".join(lines) + "\n")
    if notes:
        parts.append("## Notes\n\n" + "\n".join(f"{number}. {text}" for text, number in notes.items()) + "\n")
    return "\n".join(parts)


def read(text: str) -> dict[str, dict[str, Outcome]]:
    """The columns of a page, by their titles. What is on no page is not there."""
    notes = dict(re.findall(r"^(\d+)\. (.*)$", text.partition("\n## Notes\n")[2], re.MULTILINE))
    names = {title: name for rows in CAPABILITIES.values() for name, title in rows.items()}
    columns: dict[str, dict[str, Outcome]] = {}
    heads: list[str] = []
    for line in text.splitlines():
        first, *cells = [part.strip() for part in line.strip("|").split(" | ")] if line.startswith("| ") else [""]
        if first in CAPABILITIES:
            heads = cells
        elif first in names:
            for head, cell in zip(heads, cells, strict=True):
                found = re.fullmatch(r"(\S+)(?: \[(\d+)\])?", cell)
                assert found, f"not a cell: {cell}"
                status = next((status for status, shown in SHOWN.items() if shown == found[1]), found[1])
                columns.setdefault(head, {})[names[first]] = Outcome(status, notes.get(found[2], ""))
    return columns


def changes(before: Mapping[str, Column], now: Mapping[str, Column]) -> list[str]:
    """Lines that tell how cells of columns that are in both changed."""
    found = []
    for head, column in now.items():
        old = before.get(head, {})
        for name in [name for rows in CAPABILITIES.values() for name in rows] if old else []:
            was, is_ = old.get(name, ABSENT), column.get(name, ABSENT)
            was, is_ = (Outcome(one.status, _line(one.detail) if one.status != "absent" else "") for one in (was, is_))
            if was != is_:
                found.append(f"{head}: {name}: {was.status} ({was.detail}) -> {is_.status} ({is_.detail})")
    return found


def regressions(before: Mapping[str, Column], now: Mapping[str, Column]) -> list[str]:
    """Of the changes, those of what worked; a column that is of newer versions is measured by the one in its place."""
    by_place = dict(zip(now, before.values(), strict=False))
    found = []
    for head, column in now.items():
        for name, was in (before.get(head) or by_place.get(head, {})).items():
            is_ = column.get(name, ABSENT)
            if was.status == "works" and is_.status != "works":
                found.append(f"{head}: {name} worked, and now: {is_.status}: {is_.detail}")
    return found


def _line(text: str) -> str:
    """One line that no table and no list takes for its own."""
    return " ".join(text.replace("|", "/").split())[:300]
