"""`--require strict` on nodes that lack something: this machine, with one mechanism hidden from the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raybox_actors.config import PoolConfig
from raybox_cluster import cli_processes
from raybox_cluster.ray_access import judge_serve
from tests.support.pool import raybox

#: In a mount namespace of its own, so that limits cannot be set.
HIDE = 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"'


def without_cgroups(home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Python where there are none. `home`: its own RAYBOX_HOME."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYBOX_"))}
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", HIDE, "sh", sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment | {"RAYBOX_HOME": str(home)},
    )


@pytest.mark.parametrize("detach", [(), ("--detach",)], ids=["foreground", "detached"])
def test_up_refuses_with_one_line_and_starts_nothing(detach: tuple[str, ...], tmp_path: Path) -> None:
    command = ("-m", "raybox_cluster.cli", "up", "--require", "strict", "--port", "0", *detach)
    try:
        done = without_cgroups(tmp_path, *command)
    finally:
        raybox("down", RAYBOX_HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "raybox: this machine cannot isolate sandboxes as strictly as required: cgroups: not mounted"
    )
    assert line.endswith("; see `raybox doctor`")
    left = [one for one in cli_processes.everything() if _home_of(one.pid) == str(tmp_path)]
    assert not left, left
    assert not list((tmp_path / "run").glob("*.json"))
    assert not list((tmp_path / "run").glob("*.token"))


def _home_of(pid: int) -> str | None:
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((e.removeprefix(b"RAYBOX_HOME=").decode() for e in entries if e.startswith(b"RAYBOX_HOME=")), None)


def test_the_doctor_agrees(tmp_path: Path) -> None:
    done = without_cgroups(tmp_path, "-m", "raybox_cluster.cli", "doctor", "--require", "strict", "--json")
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    assert [one["name"] for one in said["findings"] if one["strict"] and one["level"] != "on"] == ["cgroups"]


def test_the_doctor_sees_a_token_that_others_can_read(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")
    for mode, code in ((0o644, 1), (0o600, 0)):
        (tmp_path / ".ray" / "auth_token").chmod(mode)
        done = raybox("doctor", "--require", "strict", HOME=str(tmp_path), RAY_AUTH_TOKEN="", RAY_AUTH_TOKEN_PATH="")
        assert done.returncode == code, done.stdout
        assert ("auth_token can be read by others (mode 0644)" in done.stdout) == bool(code)


@pytest.mark.parametrize(("require", "says"), [("strict", "cgroups: not mounted"), ("standard", "")])
def test_a_node_agent_refuses_its_own_node(require: str, says: str, tmp_path: Path) -> None:
    program = f"""if True:
        import asyncio, os
        from raybox_actors.config import PoolConfig
        from raybox_actors.errors import InternalError
        from raybox_actors.node_agent import require_node
        os.environ["RAY_AUTH_MODE"] = "token"
        try:
            require_node(PoolConfig(require={require!r}))
        except InternalError as error:
            print(error)
    """
    done = without_cgroups(tmp_path, "-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("this node falls short of what the pool requires (strict): " if says else "")
    assert says in done.stdout
    assert bool(done.stdout) == bool(says)


def test_a_pool_that_says_nothing_requires_the_standard() -> None:
    assert PoolConfig().require == "standard"


@pytest.mark.parametrize(
    ("host", "levels"),
    [
        (None, []),
        ("127.0.0.1", ["on"]),
        ("::1", ["on"]),
        ("localhost", ["on"]),
        ("0.0.0.0", ["degraded"]),
        ("::", ["degraded"]),
        ("10.0.0.5", ["degraded"]),
        ("head.example", ["degraded"]),
    ],
)
def test_a_serve_that_is_open_to_everybody(host: str | None, levels: list[str]) -> None:
    assert [one.level for one in judge_serve(host)] == levels
    assert all(one.strict for one in judge_serve(host))
