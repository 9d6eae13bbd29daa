"""The gallery's programs, run in a sandbox, leave behind what docs/gallery.md shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import raybox
from examples.draw_gallery import PAGE, PICTURES, PROGRAMS, run
from tests.support.pool import RunningPool

pytestmark = pytest.mark.pool

PICTURE_BYTES_MAX = 30_000
FILES = sorted(PROGRAMS.glob("*.py"))


@pytest.fixture(scope="module")
def gallery(running_pool: RunningPool) -> Iterator[raybox.Sandbox]:
    """One sandbox for all programs."""
    with raybox.Sandbox.create(api_url=running_pool.url, api_key=running_pool.api_key) as sandbox:
        yield sandbox


@pytest.mark.parametrize("program", FILES, ids=lambda path: path.stem)
def test_a_program_leaves_behind_what_the_page_shows(gallery: raybox.Sandbox, program: Path) -> None:
    drawn = run(gallery, program)
    assert drawn.section(program.stem) in PAGE.read_text(), "run examples/draw_gallery.py again"
    assert drawn.png.startswith(b"\x89PNG")


def test_the_page_has_every_program_and_small_pictures() -> None:
    assert {path.stem for path in PICTURES.glob("*.png")} == {path.stem for path in FILES}
    for picture in PICTURES.glob("*.png"):
        assert picture.stat().st_size <= PICTURE_BYTES_MAX, picture.name
