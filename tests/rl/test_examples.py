"""The programs of examples/rl as users run them, on fewer samples."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pool import RunningPool

pytestmark = [pytest.mark.pool, pytest.mark.slow]

EXAMPLES = Path(__file__).parents[2] / "examples/rl"


def run(name: str, *options: str, **environment: str) -> str:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RAY", "E2B"))}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=inherited | {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"} | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_trajectories_of_many_turns(running_pool: RunningPool) -> None:
    environment = {key: value for key, value in running_pool.environment.items() if key.startswith("RAY_")}
    printed = run("multi_turn.py", "--trajectories", "12", "--turns", "3", **environment)
    assert re.search(r"12 trajectories of 3 turns, \d+ at once, .*: 12 as expected, 0 not, 0 masked", printed), printed


def test_rewards_of_written_programs(running_pool: RunningPool) -> None:
    where = {"RAYBOX_URL": running_pool.url, "RAYBOX_API_KEY": running_pool.api_key}
    printed = run("code_reward.py", "--candidates", "8", "--cases", "4", **where)
    assert re.match(r"32 test cases of 8 candidates in .*: 8 rewards as deserved, 0 of them masked", printed), printed
