"""What `raybox doctor` concludes from what it finds."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from raybox_actors.isolation import probes
from raybox_actors.isolation.capabilities import RUNTIMES, Facts, Level, TokenFacts, judge, shortfalls, warnings
from raybox_actors.isolation.probes import probe, token_of_ray
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
    overlay_failure="",
    idmap_failure="",
    seccomp_failure="",
    pidfd=True,
    setns_pidfd=True,
    cgroup=2,
    cgroup_controllers=frozenset({"memory", "cpu", "pids", "io"}),
    cgroup_failure="",
    run_dir_writable=True,
    template_python="/templates/python",
    user_network="/usr/bin/slirp4netns",
    tun_failure="",
    nft="/usr/sbin/nft",
    token=TokenFacts(True, True, True, False, "/run/token", 0o600),
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
        ({"seccomp_failure": "no"}, "seccomp", "missing", False),
        ({"overlay_failure": "no"}, "overlayfs", "degraded", False),
        ({"idmap_failure": "no"}, "idmapped mounts", "degraded", False),
        ({"cgroup": 0}, "cgroups", "missing", False),
        ({"cgroup_controllers": frozenset({"memory", "cpu"})}, "cgroups", "degraded", False),
        ({"cgroup_failure": "Permission denied"}, "cgroups", "degraded", False),
        ({"token": TokenFacts(True, False, False)}, "ray token", "missing", False),
        ({"token": TokenFacts(True, True, False)}, "ray token", "missing", False),
        ({"token": TokenFacts(True, True, True, True)}, "ray token", "degraded", False),
        ({"token": TokenFacts(True, True, True, False, "/t", 0o640)}, "ray token", "degraded", False),
        ({"token": TokenFacts(False, path="/t", mode=0o604)}, "ray token", "degraded", False),
        ({"user_network": None}, "egress", "missing", False),
        ({"tun_failure": "no"}, "egress", "missing", False),
        ({"nft": None}, "egress", "missing", False),
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
    assert bool(shortfalls([found], "standard")) == blocks
    # Strict wants what isolates and limits, and does not care for what is merely useful.
    isolates = name not in ("overlayfs", "idmapped mounts", "egress", "template", "language r")
    assert bool(shortfalls([found], "strict")) == isolates
    assert ("strict cannot start here: " + name in render([found], "strict")) == isolates
    assert bool(warnings([found])) == (isolates and not blocks)


def test_every_fact_matters() -> None:
    """A fact that no judgement looks at would be a promise that nobody checks."""
    neutral = {"bwrap_version", "kernel"}  # only shown
    worse: dict[str, object] = {
        "system": "Plan9", "root": False, "bwrap": None, "bwrap_failure": "x", "user_namespaces": False,
        "overlay_failure": "x", "idmap_failure": "x", "seccomp_failure": "x", "pidfd": False, "setns_pidfd": False,
        "cgroup": 0, "cgroup_controllers": frozenset[str](), "cgroup_failure": "x", "run_dir_writable": False,
        "template_python": None, "user_network": None, "tun_failure": "x", "nft": None,
        "token": TokenFacts(True, False, False), "runtimes": {},
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
    assert facts.token == TokenFacts()


def test_the_probe_leaves_nothing() -> None:
    def traces() -> set[str]:
        groups = {str(path) for path in Path("/sys/fs/cgroup").glob("**/raybox-probe-*")}
        return groups | {line for line in Path("/proc/mounts").read_text().splitlines() if "raybox-probe" in line}

    before = traces()
    probe()
    assert traces() <= before


def test_a_group_that_cannot_be_made_limited_or_filled_is_a_failure(tmp_path: Path) -> None:
    """An ordinary folder is no hierarchy; nothing is left in it."""
    assert "raybox-probe" in probes._try_limits(tmp_path / "nowhere", set())
    assert "No such file" in probes._try_limits(tmp_path, {("memory.max/x", "1")})
    assert not list(tmp_path.iterdir())


def test_the_child_says_what_it_could_not_do() -> None:
    """Without privileges it can load filters, as sandboxes do, and mount nothing."""
    script = Path(probes.__file__).with_name("probe_child.py")
    # Imports first: afterwards the interpreter's own folder may be out of reach.
    imports = "import __future__, collections.abc, ctypes, json, os, platform, struct, sys, tempfile"
    program = f"{imports}; os.setgid(65534); os.setuid(65534); exec(sys.stdin.read())"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        input=script.read_text(),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        cwd="/",
    )
    said = json.loads(done.stdout)
    assert said["seccomp"] == ""
    assert "Operation not permitted" in said["overlay"]
    assert said["idmap"]


def test_how_the_token_of_a_ray_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "token"
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    assert token_of_ray(environment=environment).mode is None
    path.write_text("x")
    path.chmod(0o640)
    facts = token_of_ray(environment=environment)
    assert facts == TokenFacts(True, True, True, False, str(path), 0o640)
    assert not token_of_ray(False, environment).required
    assert token_of_ray(environment={**environment, "RAY_AUTH_TOKEN": "x"}).in_environment
    assert not token_of_ray(environment={}).used
    assert token_of_ray(True, {}).required


def test_doctor_says_whether_a_pool_can_start() -> None:
    done = raybox("doctor", "--json")
    said = json.loads(done.stdout)
    assert said["can_start"] == (done.returncode == 0)
    assert {one["name"] for one in said["findings"]} >= {"walls", "ray token", "egress"}
    assert said["findings"][0].keys() == {"name", "level", "detail", "remedy", "blocks", "strict"}
    done = raybox("doctor")
    assert done.returncode == (0 if done.stdout.endswith("\na pool can start here\n") else 1)
    assert {"walls", "cgroups", "seccomp", "template"} <= {
        word for line in done.stdout.splitlines() for word in line.split()[1:2]
    }
