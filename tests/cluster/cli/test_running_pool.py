"""A real pool, from `up` to `down`, as its user sees it."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from raybox_cluster import cli_processes, cli_state
from tests.support.components import command_line
from tests.support.pool import RunningPool, raybox
from tests.support.ray_cluster import LEAN
from tests.support.wait import wait_until

pytestmark = [pytest.mark.pool, pytest.mark.slow]


def test_what_up_leaves_is_private(running_pool: RunningPool) -> None:
    path = cli_state.record_path(running_pool.name)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Path(running_pool.token_path).stat().st_mode & 0o777 == 0o600
    record = cli_state.read(running_pool.name)
    assert record is not None
    assert Path(record.folder).stat().st_mode & 0o777 == 0o700
    assert record.held
    assert len(running_pool.api_key) == 44


def test_status(running_pool: RunningPool) -> None:
    done = raybox("status", "--name", running_pool.name)
    assert done.returncode == 0, done.stderr
    assert running_pool.url in done.stdout
    assert "capacity   6" in done.stdout
    said = json.loads(raybox("status", "--name", running_pool.name, "--json").stdout)
    assert said["capacity"] == 6


def test_environment_alone_is_enough(running_pool: RunningPool) -> None:
    done = raybox("status", RAYBOX_URL=running_pool.url, RAYBOX_API_KEY=running_pool.api_key)
    assert done.returncode == 0, done.stderr


def test_a_second_pool_of_the_name_is_refused(running_pool: RunningPool) -> None:
    for detach in ((), ("--detach",)):
        done = raybox("up", "--name", running_pool.name, "--port", "0", *detach)
        assert done.returncode == 2
        assert f"the pool {running_pool.name} is already up at {running_pool.url}" in done.stderr
    assert raybox("status", "--name", running_pool.name).returncode == 0


def test_a_wrong_key(running_pool: RunningPool) -> None:
    done = raybox("status", "--url", running_pool.url, "--api-key", "e2b_" + "0" * 40)
    assert done.returncode == 2
    assert done.stderr == f"raybox: the pool at {running_pool.url} does not accept this API key\n"


def test_run_prints_and_saves(running_pool: RunningPool, tmp_path: Path) -> None:
    png = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
    code = (
        "import sys\nprint('out')\nprint('err', file=sys.stderr)\n"
        f"from IPython.display import display\ndisplay({{'image/png': {png!r}}}, raw=True)\n6 * 7\n"
    )
    (tmp_path / "cell.py").write_text(code)
    done = raybox("run", str(tmp_path / "cell.py"), "--name", running_pool.name, "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["out", "42"]
    assert "err" in done.stderr
    assert (tmp_path / "out" / "result-1.png").read_bytes() == b"\x89PNG\r\n\x1a\n"
    assert str(tmp_path / "out" / "result-1.png") in done.stderr


def test_run_of_code_that_raises(running_pool: RunningPool) -> None:
    done = raybox("run", "-c", "1 / 0", "--name", running_pool.name)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert done.stdout == ""


def test_run_leaves_no_sandbox(running_pool: RunningPool) -> None:
    raybox("run", "-c", "1", "--name", running_pool.name)
    headers = {"X-API-KEY": running_pool.api_key}
    answer = httpx.get(f"{running_pool.url}/v2/sandboxes", headers=headers, trust_env=False)
    ours = [one for one in answer.json() if one.get("metadata", {}).get("created-by") == "raybox run"]
    assert ours == []


def test_the_gateway_is_back_at_the_same_url_after_its_replica_was_killed(running_pool: RunningPool) -> None:
    replica = next(
        one
        for one in cli_processes.marked(running_pool.marker)
        if b"ServeReplica" in Path(f"/proc/{one.pid}/cmdline").read_bytes()
    )
    with httpx.Client(base_url=running_pool.url, trust_env=False) as client:
        assert client.get("/health").status_code == 200  # this connection outlives the replica in TIME_WAIT
        cli_processes.send(replica, signal.SIGKILL)
        wait_until(lambda: not cli_processes.is_alive(replica.pid, replica.started), 5)

        def answers() -> bool:
            try:
                return client.get("/health", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers, 20)  # 1.4-1.9 s on an idle machine; this one may be busy


#: A user's program: joins the pool's Ray, uses a sandbox, leaves, and goes on.
DRIVER = """
import sys, ray, raybox
ray.init(address=sys.argv[1], logging_level="error", log_to_driver=False)
sandbox = raybox.connect(f"ray://{sys.argv[2]}").create()
print(sandbox.run_code("1 + 1").text, flush=True)
sandbox.kill()
ray.shutdown()
print("left", flush=True)
sys.stdin.read()
print("still here", flush=True)
"""


@pytest.mark.parametrize("killed", ["up", "raylet"])
def test_killing_what_all_hangs_on_leaves_nothing(killed: str) -> None:
    from tests.support.pool import processes_of, start_pool, stop_pool

    name = f"killed-{os.getpid()}-{killed}"
    pool = driver = None
    try:
        pool = start_pool(name, "--sandboxes", "1", "--warm", "1")
        record = cli_state.read(name)
        assert record is not None
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, record.ray_address, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | LEAN | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": record.token_path},
        )
        assert driver.stdout is not None
        assert [driver.stdout.readline() for _ in range(2)] == ["2\n", "left\n"]
        before = processes_of(pool)
        assert len(before) > 5
        if killed == "up":
            os.kill(pool.pid, signal.SIGKILL)
        else:
            (raylet,) = (one.pid for one in before if command_line(one.pid).split(" ")[0].endswith("/raylet"))
            os.kill(raylet, signal.SIGKILL)
        wait_until(lambda: not cli_processes.alive(before), 30, lambda: cli_processes.alive(before))
        wait_until(lambda: not Path(record.folder).exists(), 5)
        assert driver.communicate("", timeout=10)[0] == "still here\n"
    finally:
        if driver is not None:
            driver.kill()
            driver.communicate()
        if pool is None:
            raybox("down", "--name", name)
        else:
            stop_pool(pool)
