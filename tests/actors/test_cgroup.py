"""Cgroups: where they are, decided purely; and real ones, with processes of our own, in the version that is here."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybox_actors.isolation.cgroup import (
    Cgroup,
    CgroupLimits,
    Hierarchy,
    counter,
    create_cgroup,
    existing,
    find_hierarchy,
    limit_files,
    owner_of,
    remove_pool,
    this_machine,
    weight_file,
)
from raybox_actors.isolation.leaks import LeakSweeper
from raybox_actors.isolation.policy import SKELETONS
from tests.support.wait import wait_until

V1 = """proc /proc proc rw 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
"""
V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n"
LIMITS = CgroupLimits(64 << 20, 0.5, 20)
POOL = f"cgtest{os.getpid()}"


def test_version_1_is_found_and_a_shared_mount_counts_once() -> None:
    found = find_hierarchy(V1, "")
    assert found is not None
    assert found.version == 1
    assert found.roots == tuple(Path("/sys/fs/cgroup") / name for name in ("cpu,cpuacct", "memory", "pids"))


def test_version_2_is_preferred_where_it_has_the_controllers() -> None:
    found = find_hierarchy(V1 + V2, "cpuset cpu io memory pids")
    assert found == Hierarchy(2, dict.fromkeys(("memory", "cpu", "pids"), Path("/sys/fs/cgroup")))


@pytest.mark.parametrize(
    ("mounts", "controllers"),
    [("", ""), (V2, "cpu memory"), (V1.replace("rw,pids", "ro,pids"), ""), (V1.replace("rw,memory", "rw"), "")],
)
def test_without_all_controllers_there_are_no_groups(mounts: str, controllers: str) -> None:
    assert find_hierarchy(mounts, controllers) is None


def test_limits_as_each_version_writes_them() -> None:
    assert limit_files(2, LIMITS)["cpu"] == [("cpu.max", "50000 100000"), ("cpu.weight", "50")]
    assert ("memory.swap.max", "0") in limit_files(2, LIMITS)["memory"]
    assert limit_files(1, LIMITS)["memory"][0] == ("memory.limit_in_bytes", str(64 << 20))
    assert limit_files(1, CgroupLimits(1, 0.000001, 1))["cpu"][1:] == [
        ("cpu.cfs_quota_us", "1000"),
        ("cpu.shares", "2"),
    ]
    assert weight_file(2, 1e6) == ("cpu.weight", "10000")


def test_counters_are_read_by_name() -> None:
    assert counter("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill") == 3
    assert counter("low 0\noom 1\n", "oom_kill") == 0
    assert counter("oom_kill x\n", "oom_kill") == 0


def test_a_group_s_name_tells_its_owner() -> None:
    assert owner_of("3-17-4711") == 4711
    assert owner_of("nonsense") == 0


@pytest.fixture
def hierarchy() -> Iterator[Hierarchy]:
    found = this_machine()
    if found is None:
        pytest.skip("no cgroup of our own can be made here")
    yield found
    for group in existing(found, POOL):
        group.kill()
        wait_until(group.remove, 5)
    remove_pool(found, POOL)


def start(group: Cgroup, *command: str) -> subprocess.Popen[bytes]:
    """A process that joins the group as a sandbox's does: by itself, through descriptors that it was given."""
    joining = "; ".join(f"echo 0 >&{fd}" for fd in group.joins)
    return subprocess.Popen(["bash", "-c", f'{joining}; exec "$@"', "x", *command], pass_fds=group.joins)


def test_a_process_joins_is_bounded_and_counted(hierarchy: Hierarchy) -> None:
    group = create_cgroup(hierarchy, POOL, "1-1-1", LIMITS)
    with start(group, "python3", "-c", "x = bytearray(b'x' * (1 << 28))") as bomb:
        assert bomb.wait(20) == -signal.SIGKILL
    assert group.oom_kills() == 1
    with start(
        group,
        "bash",
        "-c",
        "for n in {1..40}; do sleep 100 & done; wait",
    ) as forks:
        wait_until(lambda: group.usage().processes >= 15, 10, group.processes)
        assert group.usage().processes <= LIMITS.pids_max
        assert group.kill() >= 15
        forks.wait(10)
    assert group.usage().cpu_s > 0
    wait_until(group.remove, 5)
    assert existing(hierarchy, POOL) == []


def test_a_group_in_use_is_not_removed(hierarchy: Hierarchy) -> None:
    group = create_cgroup(hierarchy, POOL, "1-2-1", LIMITS)
    with start(group, "sleep", "100") as sleeper:
        wait_until(lambda: sleeper.pid in group.processes(), 5)
        assert group.remove() is False
        assert group.joins == []
        group.kill()
    wait_until(group.remove, 5)


def test_what_a_dead_actor_left_is_swept_and_what_a_living_one_has_is_not(hierarchy: Hierarchy, tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    left = create_cgroup(hierarchy, POOL, f"1-3-{dead.pid}", LIMITS)
    kept = create_cgroup(hierarchy, POOL, f"1-4-{os.getpid()}", LIMITS)
    sweeper = LeakSweeper(POOL, tmp_path / "absent", hierarchy)
    with start(left, "sleep", "100") as sleeper:
        wait_until(lambda: sleeper.pid in left.processes(), 5)
        assert [leak.what for leak in sweeper.sweep("/nowhere", None)] == [left.name]
        assert sleeper.wait(5) == -signal.SIGKILL
    assert kept.folders["memory"].exists()
    # No walls stand for it, and its actor lives: by the second look it is no longer one that is just being made.
    assert [leak.what for leak in sweeper.sweep("/nowhere", None) if leak.what == kept.name] == [kept.name]
    assert sweeper.counts["cgroups"] >= 2
    kept.remove()
    left.remove()


def test_strange_files_in_the_pool_s_folder_are_swept_at_the_second_look(tmp_path: Path) -> None:
    import socket

    (tmp_path / "etc.x1").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "old.sock"))
    for name in SKELETONS.values():  # what sandboxes of either kind have as /etc is in use
        (tmp_path / name).mkdir()
    sweeper = LeakSweeper(POOL, tmp_path, None)
    assert sweeper.sweep("/nowhere", None) == []
    assert {(leak.kind, Path(leak.what).name) for leak in sweeper.sweep("/nowhere", None)} == {
        ("folders", "etc.x1"),
        ("sockets", "old.sock"),
    }
    assert {path.name for path in tmp_path.iterdir()} == set(SKELETONS.values())
    assert sweeper.sweep("/nowhere", None) == []
    assert (sweeper.counts["folders"], sweeper.counts["sockets"]) == (1, 1)


def test_nothing_is_lost_when_a_group_goes_under_us(hierarchy: Hierarchy) -> None:
    group = create_cgroup(hierarchy, POOL, "1-5-1", LIMITS)
    assert group.remove()
    assert group.remove()
    assert (group.oom_kills(), group.kill(), group.usage().memory_bytes) == (0, 0, 0)
