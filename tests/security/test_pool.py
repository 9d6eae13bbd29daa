"""Attacks on a real pool, through the SDK: what the caller is told, and that the node is left as it was."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

import raybox
from raybox_actors.isolation.cgroup import existing, owner_of, this_machine
from raybox_actors.isolation.orphans import wall_marks
from tests.integration.conftest import at_rest
from tests.support.attacks import ATTACKS
from tests.support.components import actor_pid, kill, walls_of
from tests.support.pool import RunningPool
from tests.support.wait import wait_until

pytestmark = [pytest.mark.pool]

CYCLES = 12
#: So that memory and disk are soon full.
SMALL = {"raybox.cpus": "0.5", "raybox.memory_mib": "128", "raybox.disk_mib": "64", "raybox.pids_max": "40"}


@pytest.fixture(autouse=True)
def _where(running_pool: RunningPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBOX_URL", running_pool.url)
    monkeypatch.setenv("RAYBOX_API_KEY", running_pool.api_key)


def groups(pool: RunningPool) -> set[str]:
    hierarchy = this_machine()
    return {group.name for group in existing(hierarchy, pool.name)} if hierarchy is not None else set()


def serves(pool: RunningPool) -> None:
    """A new sandbox on the same node works."""
    with raybox.Sandbox.create(timeout=60) as other:
        assert other.run_code("20 + 2").text == "22"


def test_out_of_memory_reaches_the_caller(running_pool: RunningPool) -> None:
    with raybox.Sandbox.create(timeout=120, metadata=SMALL) as sandbox:
        sandbox.run_code("x = 1")
        error = sandbox.run_code(ATTACKS["memory bomb"]).error
        assert error is not None
        assert error.name == "OutOfMemory"
        assert "state of the context is gone" in error.value
        assert sandbox.run_code("1 + 1").text == "2"
    serves(running_pool)


def test_a_creator_may_ask_for_less_and_not_for_more(running_pool: RunningPool) -> None:
    with raybox.Sandbox.create(timeout=60, metadata=SMALL) as small:
        info = small.get_info()
        assert (info.cpu_count, info.memory_mb) == (1, 128)
        assert small.run_code("import os; os.statvfs('/').f_blocks * os.statvfs('/').f_frsize >> 20").text == "64"
        error = small.run_code("held = bytearray(b'x' * (400 << 20))").error
        assert error is not None
        assert error.name == "OutOfMemory"
    for more in ({"raybox.memory_mib": "1000000"}, {"raybox.cpus": "1000"}):
        with pytest.raises(raybox.LimitException):
            raybox.Sandbox.create(timeout=60, metadata=more)
    with pytest.raises(raybox.InvalidArgumentException):
        raybox.Sandbox.create(timeout=60, metadata={"raybox.memory_mib": "1"})
    serves(running_pool)


def test_a_sandbox_s_group_is_its_own_and_goes_with_it(running_pool: RunningPool) -> None:
    if this_machine() is None:
        pytest.skip("no cgroup of our own can be made here")
    sandbox = raybox.Sandbox.create(timeout=60)
    actor = actor_pid(running_pool, sandbox.sandbox_id)
    mine = {name for name in groups(running_pool) if owner_of(name) == actor}
    assert len(mine) == 1
    sandbox.kill()
    wait_until(lambda: not mine & groups(running_pool), 10, lambda: groups(running_pool))


def test_what_a_killed_actor_leaves_is_swept(running_pool: RunningPool) -> None:
    """Its walls die with it; its cgroup cannot, and is removed by the node agent."""
    sandbox = raybox.Sandbox.create(timeout=60)
    walls, actor = walls_of(running_pool, sandbox.sandbox_id), actor_pid(running_pool, sandbox.sandbox_id)
    kill(actor)
    wait_until(lambda: walls not in wall_marks(), 10, wall_marks)

    def left() -> list[str]:
        return [name for name in groups(running_pool) if owner_of(name) == actor]

    wait_until(lambda: not left(), 30, left)
    at_rest(running_pool)
    serves(running_pool)


def test_cycles_of_attacks_leave_the_node_as_it_was(running_pool: RunningPool) -> None:
    at_rest(running_pool)
    chosen = random.Random(7)

    def look() -> dict[str, int]:
        run_dir = Path("/run/raybox") / running_pool.name
        return {
            "walls": sum(mark.startswith(f"{running_pool.name}:") for mark in wall_marks().values()),
            "groups": len(groups(running_pool)),
            "files": sum(1 for _ in run_dir.rglob("*")),
            "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        }

    before = look()
    for _ in range(CYCLES):
        name = chosen.choice(sorted(ATTACKS))
        sandbox = raybox.Sandbox.create(timeout=60, metadata=SMALL)
        with contextlib.suppress(raybox.TimeoutException):  # the cell may outlive the call, and the sandbox ends it
            sandbox.run_code(ATTACKS[name], timeout=2)
        sandbox.kill()
    at_rest(running_pool)
    wait_until(lambda: look() == before, 30, lambda: (before, look()))
    serves(running_pool)
