"""A pool inside a Ray cluster that somebody else started: up, use, down, and the cluster as it was before."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def test_up_use_and_down(cluster: str) -> None:
    name = f"joined-{os.getpid()}"
    up = raybox(
        "up", "--detach", "--name", name, "--address", cluster, "--sandboxes", "2", "--warm", "1",
        timeout_s=170, **QUIET,
    )  # fmt: skip
    try:
        assert up.returncode == 0, up.stderr
        assert "warning: ray token: this Ray cluster answers anybody who reaches it" in up.stderr
        record = cli_state.read(name)
        assert record is not None
        assert (record.own_ray, record.ray_address) == (False, cluster)
        assert record.url in up.stdout
        ran = raybox("run", "--name", name, "-c", "print('in a cluster'); 6 * 7", timeout_s=60, **QUIET)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.split("\n")[:2] == ["in a cluster", "42"]
        status = raybox("status", "--name", name, timeout_s=60, **QUIET)
        assert "capacity   2" in status.stdout, status
        again = raybox("up", "--detach", "--name", f"{name}-b", "--address", cluster, timeout_s=60, **QUIET)
        assert again.returncode == 2
        *_, said = again.stderr.splitlines()
        assert said.startswith("raybox: the Serve of this cluster already has an application at /"), again.stderr
    finally:
        down = raybox("down", "--name", name, timeout_s=120, **QUIET)
    assert down.returncode == 0, down.stderr
    assert cli_state.read(name) is None
    wait_until(lambda: not titles(name), 30, lambda: titles(name))
    assert not Path(f"/run/raybox/{name}").exists()
