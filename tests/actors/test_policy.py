"""Who may change which limit, as a pure function; and that limits become what each mechanism takes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybox_actors.errors import BadRequest, LimitReached
from raybox_actors.isolation.policy import ADJUSTABLE, FOLDERS, Limits, WallsPolicy, effective, layers_of, root_plan
from raybox_template.spec import Resources

POOL = Limits(cpus=2, memory_mib=1000, disk_mib=500, pids_max=300)
sizes = st.integers(64, 10_000)
wishes = st.fixed_dictionaries({}, optional={**dict.fromkeys(ADJUSTABLE, sizes), "cpus": st.integers(1, 10)})


def test_without_wishes_a_sandbox_gets_what_the_pool_gives() -> None:
    assert effective(POOL) == POOL


@given(template=wishes, asked=wishes)
def test_nobody_gets_more_than_the_pool_gives(template: dict[str, int], asked: dict[str, int]) -> None:
    over = [name for name, value in asked.items() if value > getattr(POOL, name)]
    if over:
        with pytest.raises(LimitReached, match=over[0]):
            effective(POOL, template, asked)
        return
    found = effective(POOL, template, asked)
    for name in ADJUSTABLE:
        wanted = asked.get(name, min(template.get(name, getattr(POOL, name)), getattr(POOL, name)))
        assert getattr(found, name) == wanted
    fixed = {field.name for field in dataclasses.fields(Limits)} - set(ADJUSTABLE)
    assert all(getattr(found, name) == getattr(POOL, name) for name in fixed)


def test_a_template_s_resources_are_understood() -> None:
    resources = dataclasses.asdict(Resources(cpus=0.5, memory_mib=64, disk_mib=2048, pids_max=32))
    assert set(resources) == set(ADJUSTABLE)
    assert effective(POOL, resources) == dataclasses.replace(POOL, cpus=0.5, memory_mib=64, pids_max=32)


@pytest.mark.parametrize(
    "asked",
    [{"memory": 1}, {"open_files": 1}, {"memory_mib": 0}, {"memory_mib": -1}, {"memory_mib": 1.5}, {"pids_max": True},
     {"cpus": "1"}, {"cpus": float("nan")}, {"disk_mib": None}, {"disk_mib": 2**40}],
)  # fmt: skip
def test_wishes_that_mean_nothing_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        effective(POOL, None, asked)


def test_memory_and_files_are_bounded_together() -> None:
    assert POOL.memory_bytes == 1500 << 20
    assert "RLIMIT_AS" not in POOL.rlimits()
    assert POOL.rlimits()["RLIMIT_FSIZE"] == 500 << 20


def test_folders_come_after_those_they_are_in() -> None:
    policy = WallsPolicy(read_only=("/root/.cache/t/env", "/opt/python"), layers=layers_of("/run/x/etc", ("/a", "/b")))
    plan = root_plan(policy)
    seen: set[str] = set()
    for path, _, _ in plan["folders"]:
        parent = path.rpartition("/")[0]
        assert parent in seen or not parent, path
        seen.add(path)
    assert {"/root/.cache", "/root/.cache/t"} <= seen
    assert plan["layers"] == [["/usr", "/usr"], ["/run/x/etc", "/etc"], ["/a", "/a"]]


def test_a_user_can_pass_through_roots_folder_only_where_the_template_lies_there() -> None:
    modes = {path: mode for path, mode, _ in root_plan(WallsPolicy(read_only=("/root/t",)))["folders"]}
    assert modes["/root"] == 0o711
    assert {path: mode for path, mode, _ in FOLDERS}["/root"] == 0o700


def test_too_little_is_refused_and_whole_cores_are_told() -> None:
    for name, least in ADJUSTABLE.items():
        assert getattr(effective(Limits(), None, {name: least}), name) == least
        with pytest.raises(BadRequest, match=name):
            effective(Limits(), None, {name: least * 0.9 if name == "cpus" else int(least) - 1})
    assert [Limits(cpus=cpus).cpu_count for cpus in (0.05, 1, 1.5, 2)] == [1, 1, 2, 2]
