"""The client inside a Ray job: one driver for all checks of `ray_program.py`, as its start costs seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.ray_program import CHECKS
from tests.support.pool import RunningPool

pytestmark = [pytest.mark.pool, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def failures(running_pool: RunningPool) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.ray_program"],
        cwd=ROOT,
        env={**os.environ, **running_pool.environment, "POOL": running_pool.name},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["check"]: line["failure"] for line in lines}


@pytest.mark.parametrize("name", CHECKS)
def test_over_ray(failures: dict[str, str], name: str) -> None:
    assert failures[name] == ""
