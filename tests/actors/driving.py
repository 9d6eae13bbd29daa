"""Driving a session from a test: run a cell, read its events, wait for something to become true."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from raybox_actors.session import Session
from raybox_actors.values import EventBatch, ExecuteRequest

Found = TypeVar("Found")
_numbers = itertools.count(1)


async def eventually(
    predicate: Callable[[], Found], timeout_s: float = 5.0, describe: Callable[[], object] = str
) -> Found:
    """As tests.support.wait.wait_until, without holding the loop."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not (found := predicate()):
        assert loop.time() < deadline, f"not within {timeout_s:g} s; last: {found!r}; {describe()}"
        await asyncio.sleep(0.005)
    return found


def parse(lines: bytes) -> list[dict[str, Any]]:
    assert lines.isascii()
    return [json.loads(line) for line in lines.splitlines()]


@dataclass
class Cell:
    """What an observer has of one execution."""

    execution_id: str
    next_seq: int = 0
    done: bool = False
    lines: bytearray = field(default_factory=bytearray)
    missed: int = 0  #: events that were dropped before we asked

    def take(self, batch: EventBatch) -> None:
        lines = batch.lines
        if lost := batch.first_seq - self.next_seq:
            marker, _, lines = lines.partition(b"\n")
            assert json.loads(marker) == {"type": "events_lost", "first": self.next_seq, "count": lost}
            self.missed += lost
        assert len(lines.splitlines()) == batch.count
        self.next_seq = batch.first_seq + batch.count
        self.lines += lines
        self.done = batch.done

    @property
    def events(self) -> list[dict[str, Any]]:
        return parse(bytes(self.lines))

    def text(self, name: str = "stdout") -> str:
        return "".join(event["text"] for event in self.events if event["type"] == name)

    @property
    def result(self) -> str | None:
        return next((event.get("text") for event in self.events if event["type"] == "result"), None)

    @property
    def error(self) -> tuple[str, str] | None:
        return next(((event["name"], event["value"]) for event in self.events if event["type"] == "error"), None)


class Driver:
    """A session with the conveniences of a test."""

    def __init__(self, session: Session) -> None:
        self.session = session

    async def start(self, code: str, **fields: Any) -> Cell:
        """Returns with the first events, which may be none."""
        cell = Cell(fields.pop("execution_id", f"e{next(_numbers)}"))
        cell.take(await self.session.execute(ExecuteRequest(cell.execution_id, code, **fields)))
        return cell

    async def running(self, code: str, **fields: Any) -> Cell:
        """Returns when the cell has printed "up", which is put before `code`."""
        cell = await self.start(f"print('up', flush=True)\n{code}", **fields)
        while "up" not in cell.text():
            assert not cell.done, cell.events
            await self.poll(cell)
        return cell

    async def poll(self, cell: Cell, wait_s: float = 20.0) -> None:
        cell.take(await self.session.poll(cell.execution_id, cell.next_seq, wait_s))

    async def finish(self, cell: Cell) -> Cell:
        while not cell.done:
            await self.poll(cell)
        assert cell.events[-1] == {"type": "end_of_execution"}
        return cell

    async def run(self, code: str, **fields: Any) -> Cell:
        return await self.finish(await self.start(code, **fields))


def children_of(pid: int) -> set[int]:
    """Direct children that are not zombies. A thread may end while it is looked at."""
    found = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found |= {int(word) for word in (thread / "children").read_text().split()}
    return {child for child in found if state_of(child) not in ("Z", "X", "")}


def state_of(pid: int) -> str:
    """One letter as in ps; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def inside(namespace: int) -> set[int]:
    """Live processes whose pid namespace has this inode number."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "ns/pid").stat().st_ino == namespace and state_of(int(entry.name)) not in ("Z", "X", ""):
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


def namespace_of(pid: int, kind: str = "pid") -> int:
    return Path(f"/proc/{pid}/ns/{kind}").stat().st_ino


def open_descriptors() -> set[str]:
    """What each descriptor of this process is, with its number."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except OSError:  # the one of the listing itself
            continue
    return found
