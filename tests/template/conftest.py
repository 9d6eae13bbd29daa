"""Real builds of small templates: an empty lock takes uv a quarter of a second."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from raybox_template import Store, TemplateSpec
from raybox_template.build import find_uv


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def extractor(tmp_path: Path) -> Path:
    """The sources of a package that stands in for the extractor."""
    folder = tmp_path / "raybox_extractor"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("answer = 42\n")
    (folder / "inner" / "__init__.py").touch()
    return folder


@pytest.fixture
def small() -> TemplateSpec:
    return TemplateSpec(name="small", kernel_startup={"ipython_config.py": "c = get_config()\n"}, env_vars={"A": "b"})


@dataclass(frozen=True)
class Gate:
    """A real uv that, at its first call, tells that it was called and waits until it is let through."""

    uv: Path
    _entered: Path
    _open: Path

    def wait_until_entered(self) -> None:
        self._entered.read_text()  # a FIFO: blocks until the other side opens it

    def let_through(self) -> None:
        self._open.write_text("go\n")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    entered, opened, passed = (tmp_path / name for name in ("entered", "open", "passed"))
    os.mkfifo(entered)
    os.mkfifo(opened)
    script = tmp_path / "uv-with-gate"
    script.write_text(
        f"#!/bin/sh\nif mkdir '{passed}' 2>/dev/null; then echo here > '{entered}'; read line < '{opened}'; fi\n"
        f"exec '{find_uv()}' \"$@\"\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return Gate(script, entered, opened)


@pytest.fixture
def modes() -> Callable[[Path], dict[str, int]]:
    """Relative path -> permission bits of everything below a folder, links left out."""

    def read(folder: Path) -> dict[str, int]:
        paths = [path for path in folder.rglob("*") if not path.is_symlink()]
        return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in paths}

    return read
