"""Random figures with known data, drawn by matplotlib: the same data comes back."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.extractor.conftest import Shell

EXAMPLES = 500
drawn = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])

AXES = {f"{axis}_{key}" for axis in "xy" for key in ("label", "unit")}
POINT_AXES = {f"{axis}_{key}" for axis in "xy" for key in ("ticks", "tick_labels", "scale")}
KEYS = {
    "line": AXES | POINT_AXES,
    "scatter": AXES | POINT_AXES,
    "bar": AXES,
    "box_and_whisker": AXES,
    "pie": set[str](),
}

words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)
labels = words.filter(lambda word: not word.startswith("_"))
numbers = st.floats(-1e9, 1e9) | st.integers(-(10**6), 10**6)
positive = st.floats(1e-6, 1e9)
fractions = st.floats(0.001, 0.999)
moments = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1))
#: What a value of each kind of axis is.
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "linear": numbers,
    "log": positive,
    "symlog": numbers,
    "asinh": numbers,
    "logit": fractions,
    "date": moments.map(lambda moment: moment.date().isoformat()),
    "datetime": moments.map(lambda moment: moment.isoformat()),
    "category": words,
}
SCALES = {kind: kind for kind in VALUES} | {"date": "datetime", "category": "categorical"}
texts = st.fixed_dictionaries({"title": words, "x_label": words, "y_label": words, "decorated": st.booleans()})


@pytest.fixture(scope="session")
def drawing(shell: Shell) -> Shell:
    """The shared shell, in which `draw` is defined."""
    cell = shell.run(Path(__file__).with_name("drawing.py").read_text())
    assert cell.error is None, cell.error
    return shell


def draw(drawing: Shell, case: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The chart, with the keys that its kind must have, and what else the drawing told."""
    answer = drawing.value(f"draw(_json.loads({json.dumps(case)!r}))")
    chart: dict[str, Any] = answer["chart"]
    kind = "box_and_whisker" if case["kind"] == "box" else case["kind"]
    assert chart["type"] == kind
    assert set(chart) == {"type", "title", "elements"} | KEYS[kind]
    assert chart["title"] == case["title"]
    return chart, answer["extra"]


def check_axes(chart: dict[str, Any], case: dict[str, Any], horizontal: bool = False) -> None:
    x, y = ("y_label", "x_label") if horizontal else ("x_label", "y_label")
    assert (chart["x_label"], chart["y_label"]) == (case[x], case[y])
    for axis in "xy":
        if f"{axis}_scale" in chart:
            assert chart[f"{axis}_scale"] == SCALES[case[axis]]
            assert len(chart[f"{axis}_ticks"]) == len(chart[f"{axis}_tick_labels"])


@st.composite
def point_cases(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    kinds = sorted(VALUES) if kind == "line" else sorted(set(VALUES) - {"date"})
    x, y = draw(st.sampled_from(kinds)), draw(st.sampled_from(sorted(set(kinds) - {"date", "datetime", "category"})))
    rows = st.integers(1, 6).flatmap(
        lambda count: st.fixed_dictionaries(
            {
                "label": labels,
                "x": st.lists(VALUES[x], min_size=count, max_size=count),
                "y": st.lists(VALUES[y] | st.none(), min_size=count, max_size=count),
            }
        )
    )
    series = draw(st.lists(rows, min_size=1, max_size=3))
    style = draw(st.sampled_from(["-", "o", "o--"]))
    return draw(texts) | {"kind": kind, "x": x, "y": y, "series": series, "style": style}


@drawn
@given(point_cases("line"))
def test_lines(drawing: Shell, case: dict[str, Any]) -> None:
    chart, _ = draw(drawing, case)
    check_axes(chart, case)
    expected = [
        {"label": one["label"], "points": [list(pair) for pair in zip(one["x"], one["y"], strict=True)]}
        for one in case["series"]
    ]
    assert chart["elements"] == expected


@drawn
@given(point_cases("scatter"))
def test_scatters(drawing: Shell, case: dict[str, Any]) -> None:
    chart, _ = draw(drawing, case)
    check_axes(chart, case)
    assert [element["label"] for element in chart["elements"]] == [one["label"] for one in case["series"]]
    for element, one in zip(chart["elements"], case["series"], strict=True):
        # A point without a height has no place: matplotlib masks both of its coordinates.
        expected = [pair for pair in zip(one["x"], one["y"], strict=True) if pair[1] is not None]
        found = [tuple(point) for point in element["points"] if point[1] is not None]
        assert [y for _, y in found] == [y for _, y in expected]
        if case["x"] != "datetime":
            assert [x for x, _ in found] == [x for x, _ in expected]
            continue
        for (x, _), (moment, _) in zip(found, expected, strict=True):  # a float of days is what matplotlib keeps
            distance = datetime.datetime.fromisoformat(x) - datetime.datetime.fromisoformat(moment)
            assert abs(distance) <= datetime.timedelta(microseconds=20)


@st.composite
def bar_cases(draw: st.DrawFn) -> dict[str, Any]:
    layout = draw(st.sampled_from(["stacked", "grouped"]))
    x = draw(st.sampled_from(["category", "date", "linear"])) if layout == "stacked" else "category"
    values = draw(st.sampled_from(["linear", "log"]))
    places = st.integers(-1000, 1000) if x == "linear" else VALUES[x]
    names = draw(st.lists(places, min_size=1, max_size=5, unique=True))
    bars = st.fixed_dictionaries(
        {"label": labels, "values": st.lists(VALUES[values], min_size=len(names), max_size=len(names))}
    )
    case = {"kind": "bar", "x": x, "y": values, "layout": layout, "names": names, "horizontal": draw(st.booleans())}
    return draw(texts) | case | {"groups": draw(st.lists(bars, min_size=1, max_size=3))}


@drawn
@given(bar_cases())
def test_bars(drawing: Shell, case: dict[str, Any]) -> None:
    chart, _ = draw(drawing, case)
    check_axes(chart, case, case["horizontal"])
    midnight = "T00:00:00" if case["x"] == "date" else ""
    expected = [
        {"label": f"{name}{midnight}", "value": value, "group": group["label"]}
        for group in case["groups"]
        for name, value in zip(case["names"], group["values"], strict=True)
    ]
    if case["layout"] == "stacked":
        # matplotlib keeps where a bar begins and ends, and both are sums.
        total = sum(abs(value) for group in case["groups"] for value in group["values"])
        for wanted in expected:
            wanted["value"] = pytest.approx(wanted["value"], rel=1e-12, abs=total * 1e-13)
    assert chart["elements"] == expected


@st.composite
def pie_cases(draw: st.DrawFn) -> dict[str, Any]:
    values = draw(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=8))
    names = draw(st.lists(labels, min_size=len(values), max_size=len(values)))
    options = {"startangle": draw(st.integers(0, 360)), "counterclock": draw(st.booleans())}
    radius = draw(st.floats(0.5, 2))
    return draw(texts) | {"kind": "pie", "values": values, "names": names, "radius": radius} | options


@drawn
@given(pie_cases())
def test_pies(drawing: Shell, case: dict[str, Any]) -> None:
    chart, _ = draw(drawing, case)
    assert [wedge["label"] for wedge in chart["elements"]] == case["names"]
    assert {wedge["radius"] for wedge in chart["elements"]} == {case["radius"]}
    total = sum(case["values"])
    for wedge, value in zip(chart["elements"], case["values"], strict=True):
        assert wedge["angle"] == pytest.approx(360 * value / total, abs=0.002)


@st.composite
def box_cases(draw: st.DrawFn) -> dict[str, Any]:
    log = draw(st.booleans())
    value = positive if log else numbers
    values = draw(st.lists(st.lists(value, min_size=1, max_size=12), min_size=1, max_size=4))
    names = draw(st.lists(labels, min_size=len(values), max_size=len(values), unique=True))
    options: dict[str, Any] = {name: draw(st.booleans()) for name in ("notch", "patch_artist", "showmeans", "meanline")}
    options |= {name: draw(st.booleans()) for name in ("showfliers", "showcaps")}
    options["orientation"] = draw(st.sampled_from(["vertical", "horizontal"]))
    return draw(texts) | {"kind": "box", "log": log, "values": values, "names": names, "options": options}


@drawn
@given(box_cases())
def test_boxes(drawing: Shell, case: dict[str, Any]) -> None:
    chart, stats = draw(drawing, case)
    check_axes(chart, case, case["options"]["orientation"] == "horizontal")
    expected = [
        {
            "label": name,
            "min": one["whislo"],
            "first_quartile": one["q1"],
            "median": one["med"],
            "third_quartile": one["q3"],
            "max": one["whishi"],
            "outliers": one["fliers"] if case["options"]["showfliers"] else [],
        }
        for name, one in zip(case["names"], stats, strict=True)
    ]
    assert chart["elements"] == expected
