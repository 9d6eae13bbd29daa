"""The commands of the Makefile, as a user types them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def make(*arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "RAY", "E2B"))}
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=environment,
    )


def test_every_target_is_known() -> None:
    listed = make("help")
    assert listed.returncode == 0, listed.stderr
    names = {line.split()[0] for line in listed.stdout.splitlines()}
    assert {"setup", "test", "conformance", "check", "demo", "bench", "lock"} <= names
    for name in names:
        assert make("--dry-run", name).returncode == 0, name


def test_setup_again_does_nothing() -> None:
    again = make("setup")
    assert again.returncode == 0, again.stderr
    assert "setup:" not in again.stdout


def test_ci_runs_what_the_readme_says() -> None:
    assert re.search(r"^make test$", (ROOT / ".ci/run").read_text(), re.MULTILINE)


@pytest.mark.pool
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_demo() -> None:
    done = make("demo", timeout_s=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().splitlines()[-1].startswith("demo: ok")
    for client in ("raybox", "e2b"):
        assert (ROOT / f"demo-output/seattle-{client}.png").read_bytes().startswith(b"\x89PNG")
