"""Attackers: code in sandboxes of the running pool, as `user` and as root; and all who share the node with them.

What needs a bound, a clock or a node of its own that no pool can be asked for runs in sandboxes without Ray, by the
fixtures of tests/actors.
"""

from __future__ import annotations

import ast
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

import raybox
from raybox_actors import sandbox_id as ids
from raybox_actors.isolation.cgroup import Cgroup, existing, this_machine
from raybox_actors.isolation.orphans import wall_marks
from raybox_cluster import cli_processes
from raybox_cluster.cli_processes import Process
from tests.actors.conftest import base_options, no_leaks, run_folder, session, template, zygote
from tests.actors.driving import Driver
from tests.support.components import first_inside, host_slot_of, processes_inside, walls_of
from tests.support.pool import RunningPool
from tests.support.wait import wait_until

__all__ = ["base_options", "no_leaks", "run_folder", "session", "template", "zygote"]

OpenSession = Callable[..., Awaitable[Driver]]
OpenAttacker = Callable[..., "Attacker"]
#: Small, so that a bomb goes off soon.
TIGHT = {"memory_mib": 128, "disk_mib": 64, "pids_max": 64}
#: Ending a sandbox kills what is inside and removes its cgroup; one that is full of processes takes its time.
GONE_WITHIN_S = 20.0


@dataclass
class Attacker:
    """Code in a sandbox of the pool, and the host's view of that sandbox."""

    pool: RunningPool
    sandbox: raybox.Sandbox
    seen: list[Process] = field(default_factory=list)  #: host processes of the sandbox at the last `note`

    def run(self, code: str, *, timeout: float = 60) -> raybox.Execution:
        return self.sandbox.run_code(code, timeout=timeout)

    def said(self, code: str) -> str:
        """What it printed, without the last line's end. What raises is no attack that failed, but a broken test."""
        execution = self.run(code)
        assert execution.error is None, execution.error
        return "".join(execution.logs.stdout).strip()

    def value(self, code: str) -> Any:
        """Of the last expression."""
        execution = self.run(code)
        assert execution.text is not None, (execution.error, execution.logs)
        try:
            return ast.literal_eval(execution.text)
        except (SyntaxError, ValueError):
            return execution.text

    def error(self, code: str, *, timeout: float = 60) -> str:
        """Name and text of what it raised."""
        execution = self.run(code, timeout=timeout)
        assert execution.error is not None, execution
        return f"{execution.error.name}: {execution.error.value}"

    def as_root(self, code: str) -> tuple[int, str]:
        """Run Python as the sandbox's root: exit status, and what it wrote."""
        try:
            done = self.sandbox.commands.run(f"exec python -c {shlex.quote(code)} 2>&1", user="root")
        except raybox.CommandExitException as error:
            return error.exit_code, error.stdout
        return done.exit_code, done.stdout

    @cached_property
    def slot(self) -> int:
        """By which the host knows the sandbox."""
        return host_slot_of(self.sandbox.sandbox_id)

    @cached_property
    def epoch(self) -> int:
        address = ids.parse(self.sandbox.sandbox_id)
        assert address is not None
        return address.epoch

    @cached_property
    def walls(self) -> int:
        """The host's number of the outermost process of the sandbox's walls."""
        return walls_of(self.pool, self.sandbox.sandbox_id)

    @property
    def first_pid(self) -> int:
        """The host's number of the sandbox's first process."""
        return first_inside(self.walls)

    @cached_property
    def group(self) -> Cgroup:
        """Of the sandbox; asked for where the machine has cgroups only."""
        hierarchy = this_machine()
        assert hierarchy is not None
        of_the_pool = existing(hierarchy, self.pool.name)
        (found,) = (group for group in of_the_pool if group.name.startswith(f"{self.slot}-{self.epoch}-"))
        return found

    def note(self) -> None:
        """Remember what of it the host sees now."""
        if cli_processes.look(self.walls) is not None:
            self.seen = [one for pid in processes_inside(self.walls) if (one := cli_processes.look(pid)) is not None]

    def left(self) -> list[object]:
        """What was noted and is still there."""
        mark = f"{self.pool.name}:{self.slot}:{self.epoch}"
        found: list[object] = [pid for pid, of in wall_marks().items() if of == mark]
        if this_machine() is not None:
            found += [folder for folder in self.group.folders.values() if folder.exists()]
        return found + cli_processes.alive(self.seen)


class Others:
    """Those who share the node with attackers: a sandbox that was there before, and whoever wants one afterwards."""

    def __init__(self, pool: RunningPool) -> None:
        self._pool, self._asked = pool, 0
        self._bystander = self._create()
        self._bystander.run_code("asked = 0")
        self._next: raybox.Sandbox | None = None

    def _create(self, **options: Any) -> raybox.Sandbox:
        return raybox.Sandbox.create(api_url=self._pool.url, api_key=self._pool.api_key, timeout=600, **options)

    def go_on(self) -> None:
        """The bystander answers, and has its state."""
        self._asked += 1
        assert self._bystander.run_code("asked += 1; asked").text == str(self._asked)

    def are_served(self) -> None:
        """The bystander goes on; a new sandbox is had, and computes what it should."""
        self.go_on()
        if self._next is None:
            self._next = self._create()
        assert self._next.run_code("20 + 2").text == "22"

    def sandbox(self, wishes: dict[str, Any]) -> raybox.Sandbox:
        """For an attacker: the one that was the proof that one can be had, unless there are wishes."""
        found, self._next = (None, self._next) if wishes else (self._next, None)
        return found or self._create(metadata={f"raybox.{name}": str(value) for name, value in wishes.items()})

    def close(self) -> None:
        for sandbox in filter(None, (self._bystander, self._next)):
            sandbox.kill()


@pytest.fixture(scope="module")
def others(running_pool: RunningPool) -> Iterator[Others]:
    made = Others(running_pool)
    yield made
    made.close()


@pytest.fixture
def attackers(running_pool: RunningPool, others: Others) -> Iterator[OpenAttacker]:
    """Opens attackers. Wishes are resources below the pool's (`memory_mib=128`). Afterwards the others are served as
    before, and nothing is left of the attackers and their sandboxes."""
    made: list[Attacker] = []

    def make(**wishes: float) -> Attacker:
        made.append(Attacker(running_pool, others.sandbox(wishes)))
        made[-1].note()
        if this_machine() is not None:
            assert made[-1].group
        return made[-1]

    mounts = Path("/proc/self/mountinfo").read_text()
    yield make
    others.are_served()
    for attacker in made:
        attacker.note()
        attacker.sandbox.kill()
    wait_until(lambda: not any(one.left() for one in made), GONE_WITHIN_S, lambda: [one.left() for one in made])
    assert Path("/proc/self/mountinfo").read_text() == mounts


@pytest.fixture
def attacker(attackers: OpenAttacker) -> Attacker:
    return attackers()


@pytest.fixture(scope="module")
def _prober(running_pool: RunningPool, others: Others) -> Iterator[Attacker]:
    made = Attacker(running_pool, others.sandbox({}))
    yield made
    made.sandbox.kill()


@pytest.fixture
def prober(_prober: Attacker, others: Others) -> Iterator[Attacker]:
    """An attacker of the whole module, for attempts that change nothing."""
    yield _prober
    others.go_on()


@pytest.fixture
def tight(attackers: OpenAttacker) -> Attacker:
    """With small limits."""
    return attackers(**TIGHT)


@pytest.fixture
async def others_served(session: OpenSession) -> AsyncIterator[None]:
    """For attacks in sandboxes without Ray: afterwards, one that was there before and a new one run their cells."""
    bystander = await session()
    await bystander.run("before = 40")
    yield
    for driver, code, expected in ((bystander, "before + 2", "42"), (await session(), "20 + 2", "22")):
        cell = await driver.run(code)
        assert cell.result == expected, cell.events
