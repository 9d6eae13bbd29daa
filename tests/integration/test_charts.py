"""Charts on the real pool, through both clients: the programs of E2B's documentation, as each SDK reads them."""

from __future__ import annotations

import base64
from typing import Any

import pytest

pytestmark = pytest.mark.pool

LINE = """
import numpy as np
import matplotlib.pyplot as plt
x = np.linspace(0, 2 * np.pi, 100)
plt.figure(figsize=(10, 6))
plt.plot(x, np.sin(x), label='sin(x)')
plt.plot(x, np.cos(x), label='cos(x)')
plt.xlabel("Time (s)"); plt.ylabel("Amplitude (Hz)"); plt.title('Plot of sin(x) and cos(x)')
plt.show()
"""
BAR = """
import matplotlib.pyplot as plt
plt.bar(['Author A', 'Author B'], [100, 200], label='Books Sold', color='blue')
plt.xlabel('Authors'); plt.ylabel('Number of Books Sold'); plt.title('Book Sales by Authors')
plt.tight_layout(); plt.show()
"""
PIE = """
import matplotlib.pyplot as plt
fig, ax = plt.subplots(figsize=(8, 8))
ax.pie([90, 10], labels=['No', 'No, in blue'], autopct='%1.1f%%', startangle=90)
ax.axis('equal'); plt.title('Will I wake up early tomorrow?'); plt.show()
"""
SCATTER = """
import matplotlib.pyplot as plt
plt.scatter([1, 2], [3, 4], c='blue', label='Dataset 1'); plt.scatter([5], [6], c='red', label='Dataset 2')
plt.xlabel('A'); plt.ylabel('B'); plt.xscale('log'); plt.show()
"""
BOX = """
import matplotlib.pyplot as plt
data = {'Class A': [85, 90, 78, 92, 88], 'Class B': [95, 89, 76, 91, 84, 87], 'Class C': [75, 82, 88, 79, 86]}
fig, ax = plt.subplots(figsize=(10, 6))
ax.boxplot(data.values(), labels=data.keys())
ax.set_title('Exam Scores Distribution'); ax.set_xlabel('Class'); ax.set_ylabel('Score')
ax.boxplot(data.values(), labels=data.keys(), patch_artist=True)
plt.tight_layout(); plt.show()
"""
SUPER = """
import matplotlib.pyplot as plt
fig, axs = plt.subplots(1, 2)
fig.suptitle('Multiple Charts Example')
axs[0].plot([1, 2, 3]); axs[0].set_title('Sine Wave'); axs[0].grid(True)
axs[1].scatter([1], [2]); axs[1].set_xlabel('X'); axs[1].set_title('Scatter Plot')
plt.show()
"""


def drawn(sandbox: Any, code: str) -> Any:
    """The chart of a cell that shows one figure; its picture is beside it."""
    execution = sandbox.run_code(code)
    assert execution.error is None, execution.error
    (result,) = execution.results
    assert base64.b64decode(result.png).startswith(b"\x89PNG")
    assert {"text", "png", "chart"} <= set(result.formats())
    chart = result.chart
    assert chart is not None
    assert chart.to_dict()["type"] == chart.type.value
    return chart


def test_charts_of_every_kind(sandbox: Any) -> None:
    line = drawn(sandbox, LINE)
    assert (type(line).__name__, line.title) == ("LineChart", "Plot of sin(x) and cos(x)")
    assert (line.x_label, line.x_unit, line.y_label, line.y_unit) == ("Time (s)", "s", "Amplitude (Hz)", "Hz")
    assert (line.x_scale.value, line.y_scale.value) == ("linear", "linear")
    assert [(element.label, len(element.points)) for element in line.elements] == [("sin(x)", 100), ("cos(x)", 100)]
    assert all(isinstance(part, float) for point in line.elements[0].points for part in point)
    assert all(isinstance(tick, float) for tick in line.x_ticks + line.y_ticks)
    assert all(isinstance(label, str) for label in line.x_tick_labels + line.y_tick_labels)

    bar = drawn(sandbox, BAR)
    assert (type(bar).__name__, bar.x_label, bar.y_unit) == ("BarChart", "Authors", None)
    assert [(one.label, one.value, one.group) for one in bar.elements] == [
        ("Author A", 100, "Books Sold"),
        ("Author B", 200, "Books Sold"),
    ]

    pie = drawn(sandbox, PIE)
    assert (type(pie).__name__, pie.title) == ("PieChart", "Will I wake up early tomorrow?")
    assert [(one.label, one.angle, one.radius) for one in pie.elements] == [("No", 324, 1), ("No, in blue", 36, 1)]

    scatter = drawn(sandbox, SCATTER)
    assert (type(scatter).__name__, scatter.title, scatter.x_scale.value) == ("ScatterChart", None, "log")
    assert [(one.label, one.points) for one in scatter.elements] == [
        ("Dataset 1", [(1, 3), (2, 4)]),
        ("Dataset 2", [(5, 6)]),
    ]

    box = drawn(sandbox, BOX)
    assert (type(box).__name__, box.title, box.x_label) == ("BoxAndWhiskerChart", "Exam Scores Distribution", "Class")
    assert [(one.label, one.min, one.median, one.max) for one in box.elements] == [
        ("Class A", 78.0, 88.0, 92.0),
        ("Class B", 84.0, 88.0, 95.0),
        ("Class C", 75.0, 82.0, 88.0),
    ]
    assert [one.outliers for one in box.elements] == [[], [76.0], []]

    both = drawn(sandbox, SUPER)
    assert (type(both).__name__, both.title) == ("SuperChart", "Multiple Charts Example")
    assert [(type(one).__name__, one.title) for one in both.elements] == [
        ("LineChart", "Sine Wave"),
        ("ScatterChart", "Scatter Plot"),
    ]


def test_dates_categories_and_a_figure_that_is_returned(sandbox: Any) -> None:
    code = "import datetime as d, matplotlib.pyplot as plt\nplt.plot({}, [1, 2])\nplt.show()"
    dates = drawn(sandbox, code.format("[d.date(2023, 9, 1), d.date(2023, 9, 2)]"))
    assert (dates.x_scale.value, dates.elements[0].points[0]) == ("datetime", ("2023-09-01", 1.0))
    names = drawn(sandbox, code.format("['A', 'B']"))
    assert (names.x_scale.value, names.elements[0].points) == ("categorical", [("A", 1.0), ("B", 2.0)])
    returned = sandbox.run_code("fig, ax = plt.subplots(); ax.plot([1, 2]); plt.close(); fig").results[0]
    assert (returned.is_main_result, returned.chart.type.value) == (True, "line")


def test_other_libraries(sandbox: Any) -> None:
    plotly = sandbox.run_code("import plotly.express as px; px.bar(x=['a', 'b'], y=[1, 2], title='T')").results[0]
    assert "application/vnd.plotly.v1+json" in plotly.extra
    assert (plotly.chart.title, [one.value for one in plotly.chart.elements]) == ("T", [1, 2])
    polars = sandbox.run_code("import polars as pl; pl.DataFrame({'a': [1, None], 'b': ['x', 'y']})").results[0]
    assert polars.data == {"a": [1, None], "b": ["x", "y"]}


def test_a_blank_figure_is_a_picture_without_a_chart(sandbox: Any) -> None:
    (result,) = sandbox.run_code("import matplotlib.pyplot as plt; plt.subplots(); plt.show()").results
    assert (result.chart, bool(result.png)) == (None, True)
