"""The pinned official clients through every capability: as the page says. `make conformance` has the older ones."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.support.pool import RunningPool

from . import clients, matrix
from .__main__ import PAGE
from .capabilities import NAMES

pytestmark = [pytest.mark.pool, pytest.mark.timeout(2 * clients.LIMIT_S + 60)]


def as_the_page_says(title: str, column: matrix.Column) -> None:
    written = matrix.read(PAGE.read_text())
    assert title in written, "the page is of other versions: run `make conformance`"
    assert matrix.changes(written, {title: column}) == []


@pytest.mark.slow
def test_python(running_pool: RunningPool) -> None:
    environment = clients.where(running_pool.url, running_pool.api_key)
    as_the_page_says(*clients.python(Path(sys.executable), environment))


@pytest.mark.slow
def test_javascript(running_pool: RunningPool) -> None:
    column = clients.javascript(clients.where(running_pool.url, running_pool.api_key))
    if column is None:
        pytest.skip("needs node, and what `make test` installs with npm")
    as_the_page_says(*column)


def test_every_program_is_a_row_and_every_row_has_a_program() -> None:
    programs = [path.read_text() for path in (clients.HERE / "python_client").glob("*.py")]
    python = set(re.findall(r"@program\nasync def (\w+)", "".join(programs)))
    programs = [path.read_text() for path in (clients.HERE / "javascript_client").glob("*.mjs")]
    javascript = set(re.findall(r"^program\('(\w+)'", "".join(programs), re.MULTILINE))
    cells = set(re.findall(r'^  "(\w+)": \{', (clients.HERE / "cells.json").read_text(), re.MULTILINE))
    assert len(set(NAMES)) == len(NAMES)
    assert python | javascript | cells == set(NAMES)


def test_the_page_lists_nothing_that_fails() -> None:
    """What is a fault of ours is mended, or written down where it is looked for."""
    found = [
        (title, name)
        for title, column in matrix.read(PAGE.read_text()).items()
        for name, outcome in column.items()
        if outcome.status == "fails"
    ]
    assert found == []


def test_locks_are_exact_and_name_no_place() -> None:
    lock = (clients.HERE / "environments/oldest.lock").read_text()
    wanted = (clients.HERE / "environments/oldest.in").read_text().split()
    assert all(f"{pin} \\" in lock for pin in wanted)
    assert "http://" not in lock
    assert "https://" not in lock
    assert "--hash=sha256:" in lock
