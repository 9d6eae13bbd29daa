"""Every command and every program in the documents is run, or named here with the test that runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pool import RunningPool, raybox

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "deploy/README.md",
    ROOT / "examples/job/README.md",
]
#: Commands that other tests run as they stand.
ELSEWHERE = {
    "make demo": "tests/repo/test_make.py::test_demo",
    "make test": ".ci/run",
    "make bench": "tests/repo/test_make.py::test_every_target_is_known",
    ".venv/bin/raybox up": "tests/cluster/cli/test_running_pool.py",
}


def commands(text: str) -> list[str]:
    """Indented lines that call something of ours."""
    return [line.strip() for line in text.splitlines() if re.match(r"    (make|\.venv/bin/|python) ?", line)]


def programs(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


ALL_COMMANDS = sorted({command for document in DOCUMENTS for command in commands(document.read_text())})


def test_documents_have_what_the_tests_look_for() -> None:
    assert "make test" in ALL_COMMANDS
    assert programs((ROOT / "README.md").read_text())


@pytest.mark.pool
@pytest.mark.parametrize("command", [command for command in ALL_COMMANDS if command not in ELSEWHERE])
def test_command(command: str, running_pool: RunningPool) -> None:
    program, name, *arguments = re.findall(r"'[^']*'|\S+", command)
    assert program == ".venv/bin/raybox", f"not known how to run this: {command}"
    words = [argument.strip("'") for argument in arguments]
    if name in ("up", "down"):
        # A second pool would take a minute: the words must be options; tests/cluster/cli runs the cycle itself.
        done = raybox(name, *words, "--help")
    else:
        done = raybox(name, *words, *([] if name in ("doctor", "key") else ["--name", running_pool.name]))
    assert done.returncode == 0, done.stderr


@pytest.mark.pool
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_programs(document: Path, running_pool: RunningPool) -> None:
    for program in programs(document.read_text()):
        where = {"RAYBOX_URL": running_pool.url, "RAYBOX_API_KEY": running_pool.api_key}
        if "ray.init()" in program:  # it has joined the cluster, and knows of no URL
            joins = {name: value for name, value in running_pool.environment.items() if name.startswith("RAY_")}
            where = {
                name: value for name, value in os.environ.items() if not name.startswith(("RAYBOX_", "E2B_"))
            } | joins
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, env=where
        )
        assert done.returncode == 0, f"{program}\n{done.stderr}"


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"
