"""The extractor is tested where it lives: in the default template's environment, in a real IPython shell."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import raybox_template
from raybox_template import BuiltTemplate

SERVER = Path(__file__).with_name("shell_server.py")


@dataclass(frozen=True)
class Cell:
    """What one cell gave. outputs: MIME bundles in order, results and displays alike."""

    outputs: list[dict[str, Any]]
    stdout: str
    stderr: str
    error: str | None

    @property
    def only(self) -> dict[str, Any]:
        """The one output of a cell that did not fail."""
        assert self.error is None, self.error
        assert len(self.outputs) == 1, self
        return self.outputs[0]


class Shell:
    """An IPython shell in another process. Its state stays from cell to cell."""

    def __init__(self, template: BuiltTemplate, folder: Path) -> None:
        self.process = subprocess.Popen(
            [template.python, "-I", "-W", "error:::raybox_extractor", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, **raybox_template.default_spec().env_vars, "IPYTHONDIR": str(folder / "ipython")},
        )

    def run(self, code: str, *, fork: bool = False) -> Cell:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"code": code, "fork": fork}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"the shell ended with status {self.process.wait()} in:\n{code}"
        return Cell(**json.loads(answer))

    def value(self, expression: str) -> Any:
        """The JSON value of a Python expression."""
        cell = self.run(f"import json as _json; print(_json.dumps({expression}))")
        assert cell.error is None, cell.error
        return json.loads(cell.stdout)

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture(scope="session")
def template() -> BuiltTemplate:
    return raybox_template.ensure("default")


@pytest.fixture(scope="session")
def shell(template: BuiltTemplate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """One shell for all tests, with pandas, numpy, matplotlib and PIL imported. Costs about a second, once."""
    shell = Shell(template, tmp_path_factory.mktemp("shell"))
    cell = shell.run(
        "import json, math, datetime, decimal, enum, uuid, dataclasses, collections\n"
        "import numpy as np, pandas as pd\nfrom PIL import Image\nimport matplotlib.pyplot as plt"
    )
    assert cell.error is None, cell.error
    yield shell
    shell.close()


@pytest.fixture
def fresh_shell(template: BuiltTemplate, tmp_path: Path) -> Iterator[Shell]:
    """A shell of the test's own, in which nothing was imported yet. Costs half a second."""
    shell = Shell(template, tmp_path)
    yield shell
    shell.close()
