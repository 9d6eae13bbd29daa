"""PIL images and matplotlib figures."""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from raybox_extractor import _limits

if TYPE_CHECKING:
    from tests.extractor.conftest import Shell


def png_size(bundle: dict[str, Any]) -> tuple[int, int]:
    content = base64.b64decode(bundle["image/png"])
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_an_image_of_any_mode_is_a_png(shell: Shell, mode: str) -> None:
    assert png_size(shell.run(f"Image.new({mode!r}, (3, 2))").only) == (3, 2)


@pytest.mark.parametrize("arguments", ["", "'title'", "title='title'"])
def test_show_displays_inline(shell: Shell, arguments: str) -> None:
    assert png_size(shell.run(f"Image.new('RGB', (3, 2)).show({arguments})").only) == (3, 2)


def test_show_gives_none_and_keeps_its_documentation(shell: Shell) -> None:
    cell = shell.run("print(Image.new('RGB', (3, 2)).show(), Image.Image.save.__name__, Image.Image.show.__doc__[:9])")
    assert cell.stdout.split()[:2] == ["None", "save"]


def test_save_to_a_text_path_saves_and_displays(shell: Shell) -> None:
    assert png_size(shell.run("Image.new('RGB', (3, 2)).save('saved.png')").only) == (3, 2)
    assert shell.value("Image.open('saved.png').size") == [3, 2]


@pytest.mark.parametrize(
    "target", ["__import__('io').BytesIO()", "__import__('pathlib').Path('p.png')", "open('o.png', 'wb')"]
)
def test_save_to_anything_else_only_saves(shell: Shell, target: str) -> None:
    cell = shell.run(
        f"target = {target}\nImage.new('RGB', (3, 2)).save(target, 'PNG')\nif hasattr(target, 'close'): target.close()"
    )
    assert (cell.error, cell.outputs) == (None, [])


def test_save_that_fails_fails_as_it_would(shell: Shell) -> None:
    cell = shell.run("Image.new('RGB', (3, 2)).save('x.unknown')")
    assert cell.error == "ValueError: unknown file extension: .unknown"
    assert cell.outputs == []


def test_an_image_that_was_closed_does_not_break_the_cell(shell: Shell) -> None:
    cell = shell.run("image = Image.new('RGB', (3, 2)); image.close(); image.show(); 'after'")
    assert cell.error is None
    assert cell.outputs[-1] == {"text/plain": "'after'"}


def test_only_the_first_saved_images_of_a_cell_are_displayed(shell: Shell) -> None:
    limit = _limits.SAVED_IMAGES_SHOWN_MAX
    for _ in range(2):  # the count starts again with each cell
        outputs = shell.run(f"for at in range({limit + 3}): Image.new('L', (1, 1)).save('many.png')").outputs
        assert len(outputs) == limit + 1
        assert outputs[-1] == {"text/plain": f"[images saved after the first {limit} of a cell are not shown]"}


def test_a_huge_saved_image_is_only_saved(shell: Shell) -> None:
    side = int(_limits.SAVED_IMAGE_PIXELS_MAX**0.5) + 1
    cell = shell.run(f"Image.new('1', ({side}, {side})).save('huge.png')")
    assert cell.only == {"text/plain": f"[huge.png: not shown, {side} x {side} pixels]"}
    assert shell.value("Image.open('huge.png').size") == [side, side]


def test_images_saved_by_worker_processes_are_not_displayed(fresh_shell: Shell, tmp_path: Path) -> None:
    cell = fresh_shell.run(
        "import multiprocessing\nfrom PIL import Image\n"
        "outputs = get_ipython().display_pub.publish.__globals__['outputs']\n"
        "def work(name):\n    Image.new('L', (1, 1)).save(name)\n    return len(outputs)\n"
        "with multiprocessing.get_context('fork').Pool(1) as pool:\n    print(pool.map(work, ['a.png', 'b.png']))\n"
        "shown = work('c.png')"
    )
    assert cell.error is None
    assert cell.stdout == "[0, 0]\n"
    assert png_size(cell.only) == (1, 1)
    assert {path.name for path in tmp_path.glob("*.png")} == {"a.png", "b.png", "c.png"}


def test_a_figure_is_drawn_inline_at_a_hundred_dots_per_inch(shell: Shell) -> None:
    bundle = shell.run("plt.figure(figsize=(4, 3)); plt.plot([1, 2]); plt.show()").only
    assert bundle.keys() == {"text/plain", "image/png", "e2b/chart"}
    assert bundle["text/plain"] == "<Figure size 400x300 with 1 Axes>"
    assert 300 < png_size(bundle)[0] < 450  # cut to what is drawn


def test_a_figure_that_is_not_shown_is_drawn_when_the_cell_ends(shell: Shell) -> None:
    outputs = shell.run("figure, axes = plt.subplots(); lines = axes.plot([1, 2])").outputs
    assert ["image/png" in bundle for bundle in outputs] == [True]


def test_the_first_cell_may_choose_the_resolution(fresh_shell: Shell) -> None:
    code = "import matplotlib; matplotlib.rcParams['figure.dpi'] = 50\n"
    cell = fresh_shell.run(f"{code}import matplotlib.pyplot as plt; plt.figure().dpi")
    assert cell.outputs[0]["text/plain"] == "50.0"


def test_a_figure_that_is_saved_is_shown_once(shell: Shell) -> None:
    outputs = shell.run("lines = plt.plot([1, 2]); plt.savefig('figure.png'); plt.savefig('figure.jpg')").outputs
    assert ["image/png" in bundle for bundle in outputs] == [True]
