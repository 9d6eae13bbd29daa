"""What `raybox doctor` concludes from what it finds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raybox_actors.isolation.capabilities import RUNTIMES, Facts, Level, judge, probe
from raybox_cluster.cli_doctor import render
from tests.support.pool import raybox

GOOD = Facts(
    system="Linux",
    kernel=(6, 1),
    root=True,
    bwrap="/usr/bin/bwrap",
    bwrap_version="0.11.0",
    bwrap_failure="",
    user_namespaces=True,
    overlayfs=True,
    seccomp=True,
    pidfd=True,
    setns_pidfd=True,
    cgroup=2,
    cgroup_controllers=frozenset({"memory", "cpu", "pids", "io"}),
    cgroup_writable=True,
    run_dir_writable=True,
    template_python="/templates/python",
    runtimes=dict.fromkeys(RUNTIMES, "/usr/bin/it"),
)


def test_a_machine_with_everything() -> None:
    findings = judge(GOOD)
    assert {one.level for one in findings} == {"on"}
    assert not any(one.remedy or one.blocks for one in findings)
    assert render(findings).endswith("\na pool can start here")


@pytest.mark.parametrize(
    ("change", "name", "level", "blocks"),
    [
        ({"system": "Darwin"}, "walls", "missing", True),
        ({"bwrap": None}, "walls", "missing", True),
        ({"bwrap_failure": "No permissions"}, "walls", "missing", True),
        ({"root": False}, "root", "missing", True),
        ({"user_namespaces": False}, "user namespaces", "missing", True),
        ({"pidfd": False}, "setns by pidfd", "missing", True),
        ({"setns_pidfd": False, "kernel": (5, 4)}, "setns by pidfd", "missing", True),
        ({"seccomp": False}, "seccomp", "missing", False),
        ({"overlayfs": False}, "overlayfs", "degraded", False),
        ({"cgroup": 0}, "cgroups", "missing", False),
        ({"cgroup_controllers": frozenset({"memory", "cpu"})}, "cgroups", "degraded", False),
        ({"cgroup_writable": False}, "cgroups", "degraded", False),
        ({"run_dir_writable": False}, "run folder", "missing", True),
        ({"template_python": None}, "template", "missing", False),
        ({"runtimes": {**GOOD.runtimes, "r": None}}, "language r", "missing", False),
    ],
)
def test_one_thing_missing(change: dict[str, object], name: str, level: Level, blocks: bool) -> None:
    changed = replace(GOOD, **change)  # type: ignore[arg-type]  # the table names fields of several types
    (found,) = [one for one in judge(changed) if one.level != "on"]
    assert (found.name, found.level, found.blocks) == (name, level, blocks)
    assert found.remedy
    assert found.remedy in render([found])
    assert ("cannot start here: " + name in render([found])) == blocks


def test_every_fact_matters() -> None:
    """A fact that no judgement looks at would be a promise that nobody checks."""
    neutral = {"bwrap_version", "kernel"}  # only shown
    worse: dict[str, object] = {
        "system": "Plan9", "root": False, "bwrap": None, "bwrap_failure": "x", "user_namespaces": False,
        "overlayfs": False, "seccomp": False, "pidfd": False, "setns_pidfd": False, "cgroup": 0,
        "cgroup_controllers": frozenset[str](), "cgroup_writable": False, "run_dir_writable": False,
        "template_python": None, "runtimes": {},
    }  # fmt: skip
    assert worse.keys() | neutral == set(Facts.__slots__)
    for name, value in worse.items():
        assert judge(replace(GOOD, **{name: value})) != judge(GOOD), name  # type: ignore[arg-type]  # as above


def test_the_probe_agrees_with_this_machine() -> None:
    facts = probe()
    assert facts.system == "Linux"
    assert facts.kernel > (2, 6)
    assert facts.pidfd
    assert facts.runtimes.keys() == RUNTIMES.keys()


def test_doctor_says_whether_a_pool_can_start() -> None:
    done = raybox("doctor")
    assert done.returncode == (0 if done.stdout.endswith("\na pool can start here\n") else 1)
    assert {"walls", "cgroups", "seccomp", "template"} <= {
        word for line in done.stdout.splitlines() for word in line.split()[1:2]
    }
