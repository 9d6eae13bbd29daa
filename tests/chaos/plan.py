"""What a chaos run does, as a pure function of its seed: an endless list of operations per lane, and one of faults.

A lane is one client; its operations follow each other, whatever comes of them. Nothing here looks at a clock or at
what happened, so the decisions of a run are a beginning of what the same seed decides always.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, Literal

Way = Literal["http", "ray"]
#: How a trajectory holds its sandbox: by its handle, or by a lease, which it asks for again for every turn.
Hold = Literal["handle", "lease"]
Component = Literal["gateway", "manager", "node_agent", "zygote", "sandbox_actor", "walls", "front", "raylet", "node"]

#: How often each is killed against the others. A node takes all of its sandboxes with it, and needs seconds to return.
WEIGHTS: Final[dict[Component, int]] = {
    "gateway": 3,
    "manager": 3,
    "node_agent": 2,
    "zygote": 2,
    "sandbox_actor": 4,
    "walls": 3,
    "front": 2,
    "raylet": 1,
    "node": 1,
}
FAULT_INTERVAL_S: Final = (2.0, 5.0)
FIRST_FAULT_S: Final = 2.0
TURNS: Final = (2, 6)
NAP_S: Final = (0.0, 0.4)
ITEMS: Final = (4, 16)
GANG: Final = (2, 3)


@dataclass(frozen=True, slots=True)
class Turn:
    """One cell of a trajectory. `nap_s`: it takes so long."""

    execution_id: str
    nap_s: float


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One sandbox from its creation to its end, with a secret of its own."""

    nonce: str
    way: Way
    hold: Hold
    turns: tuple[Turn, ...]
    kind: Literal["trajectory"] = "trajectory"


@dataclass(frozen=True, slots=True)
class Batch:
    """Items of code that know nothing of each other."""

    nonce: str
    way: Way
    naps_s: tuple[float, ...]
    kind: Literal["batch"] = "batch"


@dataclass(frozen=True, slots=True)
class Gang:
    """So many sandboxes at once, or none."""

    nonce: str
    way: Way
    count: int
    kind: Literal["gang"] = "gang"


Operation = Trajectory | Batch | Gang


@dataclass(frozen=True, slots=True)
class Fault:
    """`pick` chooses among the processes that are the component when the time has come: number `pick` modulo all."""

    at_s: float
    component: Component
    pick: int
    kind: Literal["fault"] = field(default="fault")


def operations(
    seed: int, lane: int, ways: Sequence[Way] = ("http",), kinds: Sequence[str] = ("trajectory",)
) -> Iterator[Operation]:
    """What one lane does, without end. kinds: of `trajectory`, `lease`, `batch`, `gang`; often those named first."""
    chance = random.Random(f"{seed} lane {lane}")
    weights = range(2 * len(kinds), 0, -2)
    while True:
        nonce, way = f"{chance.getrandbits(64):016x}", chance.choice(ways)
        match chance.choices(kinds, weights)[0]:
            case "batch":
                naps = tuple(_nap(chance) / 2 for _ in range(chance.randint(*ITEMS)))
                yield Batch(nonce, way, naps)
            case "gang":
                yield Gang(nonce, way, chance.randint(*GANG))
            case hold:
                turns = tuple(Turn(f"{nonce}-{n}", _nap(chance)) for n in range(chance.randint(*TURNS)))
                yield Trajectory(nonce, way, "lease" if hold == "lease" else "handle", turns)


def faults(seed: int, components: Sequence[Component]) -> Iterator[Fault]:
    """What is killed when, in seconds after the load began, without end."""
    chance = random.Random(f"{seed} faults")
    at_s = FIRST_FAULT_S
    while True:
        component = chance.choices(components, [WEIGHTS[one] for one in components])[0]
        yield Fault(round(at_s, 3), component, chance.getrandbits(16))
        at_s += chance.uniform(*FAULT_INTERVAL_S)


def _nap(chance: random.Random) -> float:
    return round(chance.uniform(*NAP_S), 3)


def line(lane: int | None, decision: Operation | Fault) -> str:
    """One line of the log of decisions; the same for the same decision."""
    return json.dumps({"lane": lane, **asdict(decision)}, sort_keys=True)
