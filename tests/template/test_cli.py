"""`python -m raybox_template`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import raybox_template


def command(*arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **({"RAYBOX_HOME": str(home)} if home else {})}
    words = [sys.executable, "-m", "raybox_template", *arguments]
    return subprocess.run(words, capture_output=True, text=True, env=environ, timeout=60)


def test_build_of_what_is_built_prints_one_line() -> None:
    built = raybox_template.ensure("default")
    done = command("build", "default")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{built.digest} {built.root}\n", "")


def test_path_prints_the_interpreter() -> None:
    built = raybox_template.ensure("default")
    done = command("path", "default")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{built.python}\n", "")
    assert command("path").stdout == done.stdout


def test_path_of_what_is_not_built_says_what_to_do(tmp_path: Path) -> None:
    done = command("path", "default", home=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "template 'default' is not built here; run `python -m raybox_template build default`\n"


def test_an_unknown_name_is_one_line_not_a_traceback(tmp_path: Path) -> None:
    for name in ("nosuch", "../x", "nosuch:v1"):
        for verb in ("path", "build"):
            done = command(verb, name, home=tmp_path)
            assert (done.returncode, done.stdout) == (1, "")
            assert len(done.stderr.splitlines()) == 1


def test_wrong_usage_prints_the_usage() -> None:
    for arguments in ((), ("destroy",), ("build", "a", "b")):
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("usage: ")
    assert command("--help").stdout.startswith("usage: ")


def test_looking_up_a_built_template_starts_no_process() -> None:
    raybox_template.ensure("default")
    code = "import sys, raybox_template; raybox_template.ensure('default'); print('subprocess' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
