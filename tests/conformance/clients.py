"""Runs the programs in the interpreters of the clients, and reads what they report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .matrix import ABSENT, Outcome, of_both

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
NODE_MODULES = ROOT / ".tools/javascript/node_modules"
#: Names of sandboxes lead nowhere, so that nothing leaves this machine.
DOMAIN = "sandboxes.invalid"
LIMIT_S = 240

VERSIONS = "from importlib.metadata import version as v; print(v('e2b-code-interpreter'), v('e2b'))"


def where(url: str, api_key: str) -> dict[str, str]:
    """The whole environment of a client."""
    places = dict.fromkeys(("E2B_API_URL", "E2B_SANDBOX_URL", "E2B_VOLUME_API_URL"), url)
    return places | {"E2B_API_KEY": api_key, "E2B_DOMAIN": DOMAIN, "PYTHONPATH": str(ROOT), "PATH": os.defpath}


def _reports(command: list[str], folder: Path, environment: dict[str, str]) -> dict[str, Outcome]:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if any(line["status"] == "fails" for line in lines):
        print(done.stderr[-8000:], file=sys.stderr)
    return {line["name"]: Outcome(line["status"], line["detail"]) for line in lines}


def environment_of(name: str) -> Path:
    """The Python of an environment that `make conformance` makes."""
    return ROOT / ".tools/conformance" / name / "bin/python"


def python(interpreter: Path, environment: dict[str, str]) -> tuple[str, dict[str, Outcome]]:
    """Title of the column, and the column."""
    versions = subprocess.run([interpreter, "-c", VERSIONS], capture_output=True, text=True, check=True).stdout.split()
    command = [str(interpreter), "-m", "tests.conformance.python_client"]
    blocking, asynchronous = (_reports([*command, kind], ROOT, environment) for kind in ("sync", "async"))
    names = [*blocking, *(name for name in asynchronous if name not in blocking)]
    column = {name: of_both(blocking.get(name, ABSENT), asynchronous.get(name, ABSENT)) for name in names}
    return f"Python {versions[0]} (e2b {versions[1]})", column


def javascript(environment: dict[str, str]) -> tuple[str, dict[str, Outcome]] | None:
    """The same of the JavaScript clients; None where they or node are not installed."""
    node = shutil.which("node")
    if node is None or not NODE_MODULES.exists():
        return None
    versions = [
        json.loads((NODE_MODULES / name / "package.json").read_text())["version"]
        for name in ("@e2b/code-interpreter", "e2b")
    ]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)  # node looks for packages beside the program
        shutil.copytree(HERE / "javascript_client", folder, dirs_exist_ok=True)
        for name in ("cells.json", "websocket_server.py"):
            shutil.copy(HERE / name, folder)
        (folder / "node_modules").symlink_to(NODE_MODULES)
        column = _reports([node, "main.mjs"], folder, environment)
    return f"JavaScript {versions[0]} (e2b {versions[1]})", column
