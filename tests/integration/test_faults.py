"""Every part of the pool killed with SIGKILL while cells run: what lives on, what is lost, and what is said of it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raybox import RayboxError, Sandbox
from raybox_actors.isolation.orphans import wall_marks
from raybox_cluster import cli_processes
from tests.integration.conftest import at_rest
from tests.support import components
from tests.support.pool import RunningPool
from tests.support.wait import wait_until

pytestmark = [pytest.mark.pool, pytest.mark.slow]

#: A sandbox must answer again within this, with its state.
ANSWER_LIMIT_S = 5.0


@pytest.fixture
def sandboxes() -> Iterator[list[Sandbox]]:
    made = [Sandbox.create(timeout=300) for _ in range(2)]
    for number, sandbox in enumerate(made):
        sandbox.run_code(f"state = {number}")
    yield made
    for sandbox in made:
        with contextlib.suppress(RayboxError):
            sandbox.kill()


class Cell(threading.Thread):
    """A cell that runs while something is killed; it says so before, and ends by itself soon after."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__()
        self.sandbox, self.started, self.outcome = sandbox, threading.Event(), None
        self.start()
        assert self.started.wait(30)

    outcome: Any

    def run(self) -> None:
        try:
            self.outcome = self.sandbox.run_code(
                "print('on'); import time; time.sleep(1.5); 'done'", on_stdout=lambda _: self.started.set()
            )
        except RayboxError as error:
            self.outcome = error


def answer_again(sandboxes: list[Sandbox], killed_at_s: float) -> None:
    """All answer, with their state, within the limit. The cells that ran are over by then, or cost their own time."""
    for number, sandbox in enumerate(sandboxes):

        def answers(sandbox: Sandbox = sandbox, number: int = number) -> bool:
            with contextlib.suppress(RayboxError):
                return sandbox.run_code("state").text == str(number)
            return False

        wait_until(answers, ANSWER_LIMIT_S, f"{time.monotonic() - killed_at_s:.1f} s after the kill")


@pytest.mark.parametrize(
    ("part", "find", "streams_survive"),
    [
        ("pool manager", lambda pool: components.pid_of(pool, components.MANAGER), True),
        ("node agent", lambda pool: components.pid_of(pool, components.NODE_AGENT), True),
        ("zygote", components.zygote_pid, True),
        ("gateway", lambda pool: components.pid_of(pool, components.GATEWAY), False),
    ],
)
def test_running_sandboxes_survive(
    part: str,
    find: Callable[[RunningPool], int],
    streams_survive: bool,
    sandboxes: list[Sandbox],
    running_pool: RunningPool,
) -> None:
    before = find(running_pool)
    cells = [Cell(sandbox) for sandbox in sandboxes]
    components.kill(before)
    killed_at_s = time.monotonic()
    for cell in cells:
        cell.join(30)
        if streams_survive:
            assert not isinstance(cell.outcome, Exception), cell.outcome
            assert cell.outcome.text == "done"
        elif isinstance(cell.outcome, RayboxError):
            assert cell.outcome.should_mask_sample
    answer_again(sandboxes, killed_at_s)

    def replaced() -> bool:
        with contextlib.suppress(AssertionError, OSError):
            return find(running_pool) != before
        return False

    wait_until(replaced, 30, part)
    # And the pool goes on: a new sandbox, a new context.
    with Sandbox.create(timeout=60) as fresh:
        assert fresh.run_code("1 + 1").text == "2"
    context = sandboxes[0].create_code_context()
    assert sandboxes[0].run_code("2 + 2", context=context).text == "4"


def test_a_killed_actor_loses_its_sandbox_alone(sandboxes: list[Sandbox], running_pool: RunningPool) -> None:
    victim, other = sandboxes
    walls = components.walls_of(running_pool, victim.sandbox_id)
    actor = components.actor_pid(running_pool, victim.sandbox_id)
    cell, other_cell = Cell(victim), Cell(other)
    inside = components.processes_inside(walls)
    assert len(inside) >= 2
    components.kill(actor)
    killed_at_s = time.monotonic()
    cell.join(30)
    other_cell.join(30)
    assert isinstance(cell.outcome, RayboxError)
    assert cell.outcome.kind == "sandbox_lost"
    assert cell.outcome.should_mask_sample
    assert other_cell.outcome.text == "done"
    answer_again([], killed_at_s)
    assert other.run_code("state").text == "1"
    with pytest.raises(RayboxError) as raised:
        victim.run_code("state")
    assert (raised.value.kind, raised.value.cause) == ("sandbox_lost", "internal")
    assert not victim.is_running()
    wait_until(lambda: cli_processes.look(walls) is None, 2.0)
    assert not [pid for pid in inside if cli_processes.look(pid) is not None]


def test_walls_that_die_are_told_as_lost(sandboxes: list[Sandbox], running_pool: RunningPool) -> None:
    victim = sandboxes[0]
    cell = Cell(victim)
    components.kill(components.walls_of(running_pool, victim.sandbox_id))
    cell.join(30)
    assert isinstance(cell.outcome, RayboxError)
    assert (cell.outcome.kind, cell.outcome.cause) == ("sandbox_lost", "internal")


def test_after_all_that_the_pool_is_at_rest_and_whole(running_pool: RunningPool) -> None:
    at_rest(running_pool)
    marks = [mark for mark in wall_marks().values() if mark.startswith(f"{running_pool.name}:")]
    assert len(set(marks)) == 2, marks  # the two warm ones
