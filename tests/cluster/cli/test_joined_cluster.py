"""A pool inside a Ray cluster that somebody else started: up, use, down, and the cluster as it was before."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybox import ApiParams, AuthenticationException, Sandbox
from raybox_cluster import cli_processes, cli_state
from tests.support.pool import raybox
from tests.support.wait import wait_until

pytestmark = [pytest.mark.pool, pytest.mark.slow]

#: A cluster of one node, until its standard input is closed.
CLUSTER = """
import logging, ray, sys
ray.init(address="local", num_cpus=8, include_dashboard=False, object_store_memory=80 * 2**20,
         log_to_driver=False, logging_level=logging.ERROR, _temp_dir=sys.argv[1])
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray.shutdown()
"""
QUIET = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of its GCS."""
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=inherited | QUIET,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address, "the cluster did not start"
            yield address
        finally:
            tree = cli_processes.descendants(process.pid)
            process.stdin.close()
            process.wait(60)
            process.stdout.close()
            wait_until(lambda: not cli_processes.alive(tree), 90, lambda: cli_processes.alive(tree))


def titles(name: str) -> list[str]:
    """Command lines of this machine that name the pool's application or its node files."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if f"{name}-gateway" in line or f"/{name}/" in line or f" {name}:" in line:
                found.append(line[:120])
    return found


def killed_when_ready(name: str, address: str, *options: str) -> cli_state.PoolRecord:
    """`raybox up` in the foreground, killed as soon as its pool is up; what it had recorded."""
    inherited = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "raybox_cluster.cli", "up", "--name", name, "--address", address, *options],
        stdout=subprocess.PIPE,
        env=inherited | QUIET,
    )
    assert process.stdout is not None
    with process, process.stdout:
        printed = process.stdout.readline()
        record = cli_state.read(name)
        process.kill()
    assert printed, "it ended by itself"
    assert record is not None
    assert record.pid == process.pid
    return record


def test_strict_refuses_a_cluster_that_asks_for_no_token(cluster: str) -> None:
    name = f"strict-{os.getpid()}"
    up = raybox("up", "--name", name, "--address", cluster, "--require", "strict", timeout_s=60, **QUIET)
    assert up.returncode == 2, up.stderr
    assert up.stdout == ""
    *progress, said = up.stderr.splitlines()
    assert said == (
        "raybox: this machine cannot isolate sandboxes as strictly as required: ray token: this Ray cluster answers"
        " anybody who reaches it; see `raybox doctor`"
    )
    assert len(progress) == 1, progress
    assert cli_state.read(name) is None
    assert not titles(name)


def up(name: str, address: str, *options: str) -> subprocess.CompletedProcess[str]:
    return raybox("up", "--detach", "--name", name, "--address", address, *options, timeout_s=170, **QUIET)


def test_up_use_kill_adopt_change_and_down(cluster: str) -> None:
    name = f"joined-{os.getpid()}"
    size = ("--sandboxes", "2", "--warm", "1", "--gateways", "2")
    try:
        first = killed_when_ready(name, cluster, *size)
        assert (first.own_ray, first.ray_address) == (False, cluster)
        assert not first.held
        where: ApiParams = {"api_url": first.url, "api_key": first.api_key}
        sandbox = Sandbox.create(timeout=300, **where)
        sandbox.run_code("state = 'kept'")

        same = up(name, cluster, *size)
        assert same.returncode == 0, same.stderr
        assert "warning: ray token: this Ray cluster answers anybody who reaches it" in same.stderr
        assert f"a pool {name} is running there, and is adopted with its sandboxes" in same.stderr
        record = cli_state.read(name)
        assert record is not None
        assert (record.url, record.api_key, record.started_serve) == (first.url, first.api_key, True)
        assert record.api_key in same.stdout
        assert sandbox.run_code("state").text == "kept"

        ran = raybox("run", "--name", name, "-c", "print('in a cluster'); 6 * 7", timeout_s=60, **QUIET)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.split("\n")[:2] == ["in a cluster", "42"]

        other = up(name, cluster, *size, "--memory-mib", "512", "--kernel", "ipykernel")
        assert other.returncode == 2
        assert other.stderr.splitlines()[-1].startswith(
            f"raybox: the pool {name} runs with other settings: memory-mib is 1024, not 512; kernel is raybox, not"
            " ipykernel; give the same"
        ), other.stderr
        assert cli_state.read(name) == record

        new_key = "e2b_" + "5" * 40
        changed = up(name, cluster, "--sandboxes", "3", "--warm", "1", "--api-key", new_key)
        assert changed.returncode == 0, changed.stderr
        with pytest.raises(AuthenticationException):
            Sandbox.list(**where).next_items()
        where["api_key"] = new_key
        assert [one.sandbox_id for one in Sandbox.list(**where).next_items()] == [sandbox.sandbox_id]
        assert sandbox.run_code("state").text == "kept"
        status = raybox("status", "--name", name, timeout_s=60, **QUIET)
        assert "capacity   3" in status.stdout, status

        again = up(f"{name}-b", cluster)
        assert again.returncode == 2
        *_, said = again.stderr.splitlines()
        assert said.startswith("raybox: the Serve of this cluster already has an application at /"), again.stderr
    finally:
        down = raybox("down", "--name", name, timeout_s=120, **QUIET)
    assert down.returncode == 0, down.stderr
    assert cli_state.read(name) is None
    wait_until(lambda: not titles(name), 30, lambda: titles(name))
    assert not Path(f"/run/raybox/{name}").exists()
