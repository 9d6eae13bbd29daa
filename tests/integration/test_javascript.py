"""The official JavaScript clients on the real pool: the examples, as they stand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.pool import RunningPool

pytestmark = pytest.mark.pool

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/javascript"
PACKAGES = ROOT / ".tools/javascript/node_modules"

#: What each example prints.
EXPECTED = {
    "files-and-commands.js": [
        r"files: names\.txt numbers\.txt\n",
        r"sorted: 1 2 3 \n",
        r"exit code: 3\n",
        r"cat: hello\n",
        r"terminal: true\n",
        r"by URL: ü\n",
        r"watched: true\n",
    ],
    "run-code.js": [
        r"row 0 2\.5\nrow 1 3\.5\nrow 2 4\.5\n",
        r'data: \{"x":\[2,3\],"y":\[3\.5,4\.5\]\}\n',
        r"figure: figure\.png chart: (bar|none)\n",
        r"error: KeyError 'z'\n",
    ],
    "stream.js": [
        r"step 0\nstep 1\nstep 2\nstep 3\nstep 4\n",
        r"streamed: true\n",
        r"interrupted: true\n",
        r"kept: 42\n",
    ],
}


def run(program: Path, folder: Path, pool: RunningPool) -> subprocess.CompletedProcess[str]:
    """Run it in a folder of its own, where it finds the packages."""
    node = shutil.which("node")
    if node is None or not PACKAGES.exists():
        pytest.skip("needs node, and what `make test` installs with npm")
    shutil.copy(program, folder)
    shutil.copy(EXAMPLES / "package.json", folder)
    (folder / "node_modules").symlink_to(PACKAGES)
    return subprocess.run(
        [node, program.name],
        cwd=folder,
        env={"E2B_API_KEY": pool.api_key, "E2B_API_URL": pool.url, "E2B_SANDBOX_URL": pool.url},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_example(name: str, running_pool: RunningPool, tmp_path: Path) -> None:
    done = run(EXAMPLES / name, tmp_path, running_pool)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch("".join(EXPECTED[name]), done.stdout), done.stdout


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.js")} == set(EXPECTED)


@pytest.mark.parametrize("number", range(2))
def test_programs_of_the_document(number: int, running_pool: RunningPool, tmp_path: Path) -> None:
    programs = re.findall(r"```js\n(.*?)```", (ROOT / "docs/javascript.md").read_text(), re.DOTALL)
    assert len(programs) == 2
    program = tmp_path / "from" / "document.js"
    program.parent.mkdir()
    program.write_text(programs[number])
    done = run(program, tmp_path, running_pool)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pins_are_exact_and_name_no_place() -> None:
    pinned = json.loads((EXAMPLES / "package.json").read_text())["dependencies"]
    lock = json.loads((EXAMPLES / "package-lock.json").read_text())
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in pinned.values())
    assert lock["packages"][""]["dependencies"] == pinned
    locked = [one for name, one in lock["packages"].items() if name]
    assert all(one["integrity"].startswith("sha512-") and "resolved" not in one for one in locked)
    assert "http" not in (EXAMPLES / "package-lock.json").read_text()
