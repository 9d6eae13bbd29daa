"""A thousand sandboxes created, used and killed, then a hundred that are attacked from inside: what is left, what grew.

Growth is of private memory, against what the same process held when the pool had reached its steady state.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from benchmarks.pool import BenchPool, Process, descendants, footprint, memory_mib, pool
from benchmarks.report import Report, main, progress
from raybox import Sandbox, TimeoutException
from raybox_actors.isolation.cgroup import existing, this_machine
from tests.support.attacks import ATTACKS

CYCLES, ATTACKED, WARM_UP = 1_000, 100, 200
#: Which attacks come in which order; the same in every run.
SEED = 7
#: A cell that goes on after this is left to the sandbox's end.
ATTACK_LIMIT_S = 2
SANDBOXES, WARM = 4, 2
#: Name of a figure -> what the title of the process begins with.
GROWING = {"actor": "ray::SandboxActor", "node_agent": "ray::NodeAgent", "gateway": "ray::ServeReplica"}


@dataclass(frozen=True, slots=True)
class Held:
    """What a pool at rest holds on the machine."""

    processes: int
    mounts: int
    folders: int
    cgroups: int
    sockets: int
    threads: int


def measure(report: Report) -> None:
    with pool(sandboxes=SANDBOXES, warm=WARM) as running:
        progress(f"{WARM_UP} cycles, until the pool is in its steady state")
        for number in range(WARM_UP):
            cycle(number)
        for name, count, work in (
            ("plain", CYCLES, cycle),
            ("attacked", ATTACKED, attacks()),
        ):
            running.wait_for_warm(WARM)
            before, memory = held(running), private_mib(running)
            progress(f"{count} cycles, {name}")
            for number in range(count):
                work(number)
            running.wait_for_warm(WARM)
            after = at_rest(lambda: held(running), before)
            report.add(f"{name}_cycles", count, f"cycles, {name}")
            for one in fields(Held):
                left = getattr(after, one.name) - getattr(before, one.name)
                report.add(f"{name}_leaked_{one.name}", max(0, left), f"leaked {one.name}, {name}")
            for part, now_mib in private_mib(running).items():
                growth = 100 * (now_mib / memory[part] - 1)
                report.add(f"{name}_{part}_growth_pct", growth, f"growth of the {part.replace('_', ' ')}, {name}, %")


def cycle(number: int) -> None:
    sandbox = Sandbox.create()
    assert sandbox.run_code(f"{number} + 1").text == str(number + 1)
    sandbox.kill()


def attacks() -> Callable[[int], None]:
    chosen = random.Random(SEED)

    def attack(number: int) -> None:
        sandbox = Sandbox.create()
        with contextlib.suppress(TimeoutException):
            sandbox.run_code(ATTACKS[chosen.choice(sorted(ATTACKS))], timeout=ATTACK_LIMIT_S)
        sandbox.kill()
        cycle(number)  # and the node still serves others

    return attack


def held(running: BenchPool) -> Held:
    at, tree = footprint(running), descendants(running.pid)
    hierarchy = this_machine()
    parts = [one for title in GROWING.values() for one in of(tree, title)]
    return Held(
        processes=at.processes,
        mounts=at.mount_namespaces + len(Path("/proc/self/mountinfo").read_text().splitlines()),
        folders=at.folders,
        cgroups=0 if hierarchy is None else len(list(existing(hierarchy, running.name))),
        sockets=sum(link.startswith("socket:") for one in parts for link in links(one)),
        threads=sum(len(list(Path(f"/proc/{one.pid}/task").iterdir())) for one in parts),
    )


def links(process: Process) -> list[str]:
    """What its descriptors are."""
    found = []
    for entry in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(entry.readlink()))
    return found


def of(tree: list[Process], title: str) -> list[Process]:
    return [one for one in tree if one.command.startswith(title)]


def private_mib(running: BenchPool) -> dict[str, float]:
    """Of all processes of each kind together."""
    tree = descendants(running.pid)
    return {part: sum(memory_mib(one.pid)[0] for one in of(tree, title)) for part, title in GROWING.items()}


def at_rest(take: Callable[[], Held], expected: Held) -> Held:
    """What stays after a moment: connections of Ray's own come and go."""
    deadline = time.monotonic() + 20
    while (now := take()) != expected and time.monotonic() < deadline:
        time.sleep(0.2)
    return now


if __name__ == "__main__":
    main("endurance", measure, "a thousand sandboxes, and a hundred under attack")
