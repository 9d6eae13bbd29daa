"""One real pool for the whole test session: real Ray, real Serve, real kernels.

Every test module has it from `tests/conftest.py`; one that imports it again would start a second pool.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from raybox_cluster import cli_processes, cli_state
from raybox_cluster.cli_processes import Process

UP_LIMIT_S = 170


@dataclass(frozen=True)
class RunningPool:
    """How to reach it: over HTTP, and as a Ray cluster (`environment` is what a program needs to join it)."""

    name: str
    url: str
    api_key: str
    ray_address: str
    token_path: str
    pid: int
    marker: str
    environment: dict[str, str] = field(default_factory=dict)


def raybox(*arguments: str, timeout_s: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as users do, in a process of its own, without what the surroundings say of pools."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("RAYBOX_URL", "RAYBOX_API_KEY", "RAY_ADDRESS")}
    return subprocess.run(
        [sys.executable, "-m", "raybox_cluster.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=inherited | environment,
    )


def start_pool(name: str, *options: str) -> RunningPool:
    """`raybox up --detach`. The caller stops it with `stop_pool`, whatever happens."""
    done = raybox("up", "--detach", "--name", name, "--port", "0", *options, timeout_s=UP_LIMIT_S)
    record = cli_state.read(name)
    log = cli_state.run_folder() / f"{name}.log"
    assert done.returncode == 0, f"{done.stderr}\n{log.read_text() if log.exists() else ''}"
    assert record is not None
    return RunningPool(
        name=name,
        url=record.url,
        api_key=record.api_key,
        ray_address=record.ray_address,
        token_path=record.token_path,
        pid=record.pid,
        marker=record.marker,
        environment={
            "RAYBOX_URL": record.url,
            "RAYBOX_API_KEY": record.api_key,
            "RAY_ADDRESS": record.ray_address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": record.token_path,
        },
    )


def processes_of(pool: RunningPool) -> list[Process]:
    """Every process of the pool: the tree below the one that holds it, and all that carry its marker."""
    tree = {one.pid: one for one in cli_processes.descendants(pool.pid)}
    tree |= {one.pid: one for one in cli_processes.marked(pool.marker)}
    return list(tree.values())


def stop_pool(pool: RunningPool) -> None:
    """`raybox down`, and a look whether any process of the pool is left."""
    before = processes_of(pool)
    done = raybox("down", "--name", pool.name)
    left = cli_processes.alive(before) + cli_processes.marked(pool.marker)
    (cli_state.run_folder() / f"{pool.name}.log").unlink(missing_ok=True)
    (cli_state.run_folder() / f"{pool.name}.lock").unlink(missing_ok=True)
    assert done.returncode == 0, done.stderr
    assert not left, f"left running: {left}"
    assert cli_state.read(pool.name) is None


@pytest.fixture(scope="session")
def running_pool() -> Iterator[RunningPool]:
    """A pool of six sandboxes, two of them warm. Leaves nothing running."""
    name = f"test-{os.getpid()}"
    try:
        pool = start_pool(name, "--sandboxes", "6", "--warm", "2")
    except BaseException:
        raybox("down", "--name", name)
        raise
    try:
        yield pool
    finally:
        stop_pool(pool)
