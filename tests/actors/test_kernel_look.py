"""What a cell displays, as it leaves a real kernel behind real walls: contract sections 3.3 and 3.4."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.actors.conftest import OpenSession
from tests.actors.driving import Driver

pytestmark = pytest.mark.anyio


@pytest.fixture
async def kernel(session: OpenSession) -> Driver:
    return await session()


async def results(kernel: Driver, code: str) -> list[dict[str, Any]]:
    """The results of a cell that does not fail and writes nothing to stderr."""
    cell = await kernel.run(code)
    assert (cell.error, cell.text("stderr")) == (None, "")
    return [event for event in cell.events if event["type"] == "result"]


async def test_every_form_arrives_under_its_key(kernel: Driver) -> None:
    pdf = base64.b64encode(b"%PDF-1.4").decode()
    for code, key, value in (
        ("from IPython.display import *; HTML('<b>x</b>')", "html", "<b>x</b>"),
        ("Markdown('# x')", "markdown", "# x"),
        ("SVG('<svg/>')", "svg", "<svg/>"),
        ("Latex('$x$')", "latex", "$x$"),
        ("Math('x')", "latex", "$\\displaystyle x$"),
        ("JSON({'a': [1, None]})", "json", {"a": [1, None]}),
        ("Javascript('alert(1)')", "javascript", "alert(1)"),
        ("type('P', (), {'_repr_pdf_': lambda self: b'%PDF-1.4'})()", "pdf", pdf),
        ("{'a': [1, (2, 3)], 4: None}", "json", {"a": [1, [2, 3]], "4": None}),
        ("import numpy as np; [np.int8(1), np.float32(0.5), float('nan')]", "json", [1, 0.5, None]),
        ("import pandas as pd; pd.DataFrame({'a': [1, None]})", "data", {"a": [1.0, None]}),
        ("import polars as pl; pl.DataFrame({'a': [1, None]})", "data", {"a": [1, None]}),
        ("import sympy; sympy.Symbol('x') ** 2", "latex", "$\\displaystyle x^{2}$"),
        ("'quoted'", "text", "quoted"),
    ):
        (result,) = await results(kernel, code)
        assert result[key] == value, code
        assert (result["is_main_result"], result["extra"]) == (True, {})


async def test_raw_displays_have_only_what_they_say(kernel: Driver) -> None:
    code = "display({'text/latex': 'only'}, raw=True); display({'x/y': [1], 'text/plain': 't'}, raw=True)"
    latex, other = await results(kernel, code)
    assert latex == {"type": "result", "is_main_result": False, "latex": "only", "extra": {}}
    assert other == {"type": "result", "is_main_result": False, "text": "t", "extra": {"x/y": [1]}}


async def test_text_has_no_colours_and_sequences_no_dots(kernel: Driver) -> None:
    cell = await kernel.run("def f():\n    1 / 0\nf()")
    (error,) = (event for event in cell.events if event["type"] == "error")
    assert "\x1b[" not in error["traceback"]
    assert "1 / 0" in error["traceback"]
    (result,) = await results(kernel, "list(range(3000))")
    assert result["text"].rstrip("]").endswith("2999")
    assert "..." not in result["text"]


async def test_a_figure_is_a_picture_and_a_chart(kernel: Driver) -> None:
    draw = (
        "import matplotlib.pyplot as plt\nfig = plt.figure(figsize=(4, 3)); _ = plt.bar(['a', 'b'], [1, 2], label='g')"
    )
    (shown,) = await results(kernel, f"{draw}; plt.show()")
    assert shown["text"] == "<Figure size 400x300 with 1 Axes>"
    assert 300 < int.from_bytes(base64.b64decode(shown["png"])[16:20], "big") < 450  # a hundred dots per inch
    assert shown["chart"]["elements"] == [
        {"label": "a", "value": 1.0, "group": "g"},
        {"label": "b", "value": 2.0, "group": "g"},
    ]
    (last,) = await results(kernel, f"{draw}; plt.close(); fig")
    assert (last["is_main_result"], last["chart"]) == (True, shown["chart"])
    assert last["png"]


async def test_a_figure_whose_data_cannot_be_read_is_still_a_picture(kernel: Driver) -> None:
    broken = "plt.plot([1, 2])[0].get_label = lambda: 1 / 0"
    (shown,) = await results(kernel, f"import matplotlib.pyplot as plt; {broken}; plt.show()")
    assert shown["png"]
    assert "chart" not in shown


async def test_plotly_and_altair_bring_their_own_json(kernel: Driver) -> None:
    (shown,) = await results(kernel, "import plotly.express as px; px.line(x=[1, 2], y=[3, 4]).show()")
    assert shown["extra"]["application/vnd.plotly.v1+json"]["data"][0]["type"] == "scatter"
    assert (shown["chart"]["type"], "plotly" in shown["html"]) == ("line", True)
    chart = "alt.Chart(pd.DataFrame({'x': [1], 'y': [2]})).mark_point().encode(x='x', y='y')"
    (shown,) = await results(kernel, f"import altair as alt, pandas as pd; {chart}")
    assert shown["extra"]["application/vnd.vegalite.v6+json"]["mark"] == {"type": "point"}
    assert shown["chart"]["type"] == "scatter"


async def test_images_of_pil(kernel: Driver) -> None:
    image = "from PIL import Image; image = Image.new('RGB', (3, 2))"
    for code in (f"{image}; image.show()", f"{image}; image.save('saved.png')", f"{image}; image"):
        (result,) = await results(kernel, code)
        assert base64.b64decode(result["png"]).startswith(b"\x89PNG")
    assert await results(kernel, f"{image}; image.save(__import__('pathlib').Path('other.png'))") == []
