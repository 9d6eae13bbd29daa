"""Finding, killing and reaping what dead pool processes left; real processes, of our own making only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from raybox_actors.isolation.orphans import find_orphans, has_children_besides, reap_sandboxed, sweep, wall_marks
from raybox_actors.isolation.walls import MARK, Walls, build_walls, bwrap_arguments
from raybox_actors.session import SessionOptions
from raybox_actors.zygote_process import ZygoteProcess
from tests.actors.driving import children_of, state_of
from tests.support.wait import wait_until

PREFIX = f"orphans{os.getpid()}:"
PRETENDER = "import time; time.sleep(1000)"


@pytest.fixture
def walls(base_options: SessionOptions) -> Iterator[Walls]:
    from dataclasses import replace

    policy = replace(base_options.policy, mark=f"{PREFIX}3:7")
    built = build_walls(bwrap_arguments(policy, base_options.skeleton))
    yield built
    built.close()


def pretend(*words: str) -> int:
    """A sleeping process with these words on its command line, whose parent has ended. Its pid."""
    start = "import subprocess as s, sys; print(s.Popen(sys.argv[1:], stdout=s.DEVNULL, stderr=s.DEVNULL).pid)"
    command = [sys.executable, "-c", start, sys.executable, "-I", "-c", PRETENDER, *words]
    pid = int(subprocess.run(command, capture_output=True, check=True).stdout)
    wait_until(lambda: state_of(pid) == "S", 5)
    return pid


def test_marks_tell_whose_walls_they_are(walls: Walls) -> None:
    assert wall_marks()[walls.process.pid] == f"{PREFIX}3:7"


def test_walls_with_a_living_builder_are_no_orphans(walls: Walls) -> None:
    assert sweep(PREFIX, "/nowhere", None) == []
    assert state_of(walls.first_pid) in ("R", "S")


def test_walls_and_zygotes_without_a_parent_are_swept_and_nothing_else() -> None:
    address = f"/run/{PREFIX}/z.sock"
    orphans = {pretend("--setenv", MARK, f"{PREFIX}1:1"), pretend(address)}
    others = {pretend("--setenv", MARK, "another-pool:1:1"), pretend(f"{address}.other")}
    own = pretend(address)
    try:
        found = find_orphans(PREFIX, address, own)
        assert {orphan.pid for orphan in found} == orphans
        assert sorted(orphan.what for orphan in found) == [f"walls {PREFIX}1:1", "zygote"]
        assert {orphan.pid for orphan in sweep(PREFIX, address, own)} == orphans
        wait_until(lambda: all(state_of(pid) in ("", "Z") for pid in orphans), 5)
        assert [state_of(pid) for pid in (*others, own)] == ["S"] * 3
        assert sweep(PREFIX, address, own) == []
    finally:
        for pid in (*others, own, *(pid for pid in orphans if state_of(pid) == "S")):
            os.kill(pid, signal.SIGKILL)


def test_the_zygote_beside_a_zygote_is_no_orphan(zygote: ZygoteProcess) -> None:
    """It has the same command line; swept, it would take the other one and all programs that run with it."""
    (beside,) = children_of(zygote.pid)
    assert find_orphans(PREFIX, zygote.address, zygote.pid) == []
    assert {orphan.pid for orphan in find_orphans(PREFIX, zygote.address, None)} == {zygote.pid, beside}


def test_only_dead_processes_of_sandboxes_are_reaped() -> None:
    with subprocess.Popen(["true"]) as ours:
        wait_until(lambda: state_of(ours.pid) == "Z", 5)
        assert has_children_besides(0)
        assert has_children_besides(ours.pid) in (True, False)
        assert reap_sandboxed() == 0
        assert state_of(ours.pid) == "Z"
    assert ours.returncode == 0
