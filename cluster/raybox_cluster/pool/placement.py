"""Which nodes host sandboxes, how many fit there, and which of them the next one goes to. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar

from raybox_actors.config import Placement

#: Label keys with conditions in Ray's words: `v`, `!v`, `in(a,b)`, `!in(a,b)`. All must hold.
Selector: TypeAlias = tuple[tuple[str, str], ...]
#: Amounts by the name of the resource, as Ray has them; memory in bytes.
Resources: TypeAlias = Mapping[str, float]

#: Of a node whose room nobody has counted.
UNBOUNDED: Final = 1 << 30
_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"(?:[A-Za-z0-9.-]{{1,253}}/)?{_WORD}")
_CONDITION = re.compile(rf"!?{_WORD}|!?in\({_WORD}(?:,{_WORD})*\)")


@dataclass(frozen=True, slots=True)
class RayNode:
    """A living node as Ray describes it. drain_deadline_s: unix time at which it is going to be ended; 0: some time;
    None: it is to stay."""

    node_id: str
    labels: Mapping[str, str] = field(default_factory=dict)
    total: Resources = field(default_factory=dict)
    available: Resources = field(default_factory=dict)
    drain_deadline_s: float | None = None

    @property
    def used(self) -> dict[str, float]:
        """CPUs and memory that somebody's tasks and actors hold."""
        held = {name: self.total.get(name, 0) - self.available.get(name, 0) for name in ("CPU", "memory")}
        return {name: amount for name, amount in held.items() if amount > 0}


def parse_selector(text: str) -> Selector:
    """`pool=sandbox,zone=in(a,b)` as the conditions that it means; empty: any node. ValueError for anything else."""
    conditions = {}
    for part in re.split(r",(?![^(]*\))", re.sub(r"\s+", "", text)):
        key, equals, condition = part.partition("=")
        if not part:
            continue
        if not equals or not _KEY.fullmatch(key) or not _CONDITION.fullmatch(condition):
            raise ValueError("must be KEY=VALUE, KEY=!VALUE, KEY=in(A,B) or KEY=!in(A,B), with commas between them")
        if key in conditions:
            raise ValueError(f"has two conditions for {key}")
        conditions[key] = condition
    return tuple(conditions.items())


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """As Ray decides it: what a node has no label for is equal to nothing."""
    return all(_holds(condition, labels.get(key)) for key, condition in selector)


def _holds(condition: str, value: str | None) -> bool:
    wanted = condition.removeprefix("!")
    words = wanted[3:-1].split(",") if wanted.startswith("in(") else [wanted]
    return (value in words) != condition.startswith("!")


def sandbox_bundle(cpus: float, memory_mib: int) -> dict[str, float]:
    """What one sandbox asks Ray for; nothing of what is 0."""
    asked = {"CPU": cpus, "memory": float(memory_mib * 2**20)}
    return {name: amount for name, amount in asked.items() if amount > 0}


def fitting(bundle: Resources, free: Resources) -> int:
    """How many such bundles fit into what is free. Ray counts in ten-thousandths."""
    counts = [int((free.get(name, 0) + 1e-9) / amount + 1e-6) for name, amount in bundle.items()]
    return min(counts, default=UNBOUNDED)


def may_host(selector: Selector, node: RayNode) -> bool:
    """A node without CPUs, as heads of clusters often are, is not for work."""
    return node.total.get("CPU", 0) > 0 and matches(selector, node.labels)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that may be given new sandbox actors: so many it has, so many more fit."""

    node_id: str
    slots: int
    room: int


def allot(placement: Placement, candidates: Sequence[Candidate], missing: int) -> dict[str, int]:
    """How many of the missing slots each node is to have; as many as fit. Earlier candidates go first among equals.

    `pack` fills the fullest node, then the next; `spread` levels.
    """
    if placement == "pack":
        given = {}
        for one in sorted(candidates, key=lambda one: -one.slots):
            given[one.node_id] = min(one.room, missing)
            missing -= given[one.node_id]
        return {node_id: count for node_id, count in given.items() if count}

    def up_to(level: int) -> dict[str, int]:
        return {one.node_id: min(one.room, max(0, level - one.slots)) for one in candidates}

    low, high = 0, max((one.slots for one in candidates), default=0) + missing
    while low < high:  # the highest level for which there are enough
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(up_to(middle).values()) <= missing else (low, middle - 1)
    given = up_to(low)
    missing -= sum(given.values())
    for one in candidates:
        if missing and one.slots <= low and given[one.node_id] < one.room:
            given[one.node_id] += 1
            missing -= 1
    return {node_id: count for node_id, count in given.items() if count}


Some = TypeVar("Some")


def in_turn(placement: Placement, nodes: Iterable[tuple[int, Sequence[Some]]], limit: int) -> list[Some]:
    """Free slots in the order in which they should be taken. nodes: how many of each are taken, and its free ones."""
    ranked: list[tuple[tuple[int, int, int], Some]] = []
    for number, (taken, free) in enumerate(nodes):
        for more, slot in enumerate(free[:limit]):
            ranked.append(((taken + more, number, 0) if placement == "spread" else (-taken, number, more), slot))
    ranked.sort(key=lambda pair: pair[0])
    return [slot for _, slot in ranked[:limit]]
