"""Results and their like behave as the E2B SDK's on the same payloads."""

from __future__ import annotations

import copy
import importlib
import logging
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import raybox
import raybox.charts
from raybox._models import FORMATS, serialize_results

# It has no type hints that a checker could read.
official = importlib.import_module("e2b_code_interpreter.models")
official_charts = importlib.import_module("e2b_code_interpreter.charts")

AXES = {"x_label": "x", "y_label": None, "x_unit": None, "y_unit": "s"}
TICKS = {
    "x_ticks": [0, 1],
    "x_tick_labels": ["0", "1"],
    "x_scale": "linear",
    "y_ticks": [0.5],
    "y_tick_labels": ["a"],
    "y_scale": "mercator",
}
BOX = {"label": "b", "min": 0, "first_quartile": 1, "median": 2, "third_quartile": 3, "max": 4, "outliers": [9.5]}
BAR = {"type": "bar", "title": "t", **AXES, "elements": [{"label": "l", "value": "3", "group": "g"}]}
PIE = {"type": "pie", "title": None, "elements": [{"label": "l", "angle": 90.0, "radius": 1.0}]}
CHARTS: list[dict[str, Any]] = [
    {"type": kind, "title": "t", **AXES, **TICKS, "elements": [{"label": "l", "points": [[0, 1], ["a", 2.5]]}]}
    for kind in ("line", "scatter")
]
CHARTS += [
    BAR,
    PIE,
    {"type": "box_and_whisker", "title": "t", **AXES, "elements": [BOX]},
    {"type": "superchart", "title": "t", "elements": [BAR, PIE]},
    {"type": "unknown", "title": "t", "elements": []},
    {"type": None, "title": "t", "elements": []},
    {},
]

TEXT = st.none() | st.text(max_size=5)
JSON = st.none() | st.recursive(st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=2))
PAYLOADS = st.fixed_dictionaries(
    {"is_main_result": st.booleans()},
    optional={
        **{name: TEXT for name in FORMATS if name not in ("json", "data", "chart")},
        "json": JSON | st.dictionaries(st.text(max_size=3), JSON, max_size=2),
        "data": st.none() | st.dictionaries(st.text(max_size=3), JSON, max_size=2),
        "chart": st.none() | st.sampled_from(CHARTS),
        "extra": st.none() | st.dictionaries(st.sampled_from(["application/x", "image/gif"]), JSON),
        "later": st.integers(),
    },
)


def plain(value: Any) -> Any:
    """Charts of either package as data that compares."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if type(value).__module__.endswith("charts") and not isinstance(value, str):
        attributes = {name: plain(item) for name, item in vars(value).items() if not name.startswith("_")}
        return (type(value).__name__, attributes, value.to_dict() if hasattr(value, "to_dict") else None)
    return value


@given(PAYLOADS)
def test_result_equals_that_of_the_e2b_sdk(payload: dict[str, Any]) -> None:
    ours = raybox.Result(**copy.deepcopy(payload))
    theirs = official.Result(**copy.deepcopy(payload))
    assert ours.formats() == list(theirs.formats())
    assert (str(ours), repr(ours)) == (str(theirs), repr(theirs))
    for name in (*FORMATS, "is_main_result", "extra"):
        assert plain(ours[name]) == plain(theirs[name])
        assert plain(getattr(ours, name)) == plain(getattr(theirs, name))
    hooks = [name for name in dir(theirs) if name.startswith("_repr_")]
    assert hooks
    for name in hooks:
        assert getattr(ours, name)() == getattr(theirs, name)()
    assert ours.raw["is_main_result"] == payload["is_main_result"]
    assert {name: value for name, value in payload.items() if value is not None}.items() <= ours.raw.items()
    assert pickle.loads(pickle.dumps(ours)) == ours
    assert copy.deepcopy(ours) == ours


@given(st.lists(PAYLOADS, max_size=3), st.booleans())
def test_execution_equals_that_of_the_e2b_sdk(payloads: list[dict[str, Any]], failed: bool) -> None:
    def built(models: Any) -> Any:
        return models.Execution(
            # A representation of another MIME type breaks the E2B SDK's to_json; see the next test.
            results=[models.Result(**(copy.deepcopy(payload) | {"extra": None})) for payload in payloads],
            logs=models.Logs(["a"], ["b", "c"]),
            error=models.ExecutionError("n", "v", "t") if failed else None,
            execution_count=3,
        )

    ours, theirs = built(raybox), built(official)
    assert (ours.text, ours.to_json(), repr(ours)) == (theirs.text, theirs.to_json(), repr(theirs))


def test_extra_representations_are_reached_by_their_name_and_serialized() -> None:
    result = raybox.Result(extra={"application/x": [1]})
    assert result["application/x"] == [1]
    assert serialize_results([result]) == [{"application/x": [1], "text": None}]
    for missing in ("image/gif", "formats", "__class__"):
        with pytest.raises(KeyError):
            result[missing]


def test_unknown_kind_of_chart_is_shown_as_unknown() -> None:
    raw = {"type": "sankey", "title": "t", "elements": [1]}
    chart = raybox.Result(chart=raw).chart
    assert chart is not None
    assert (chart.type, chart.elements, chart.to_dict()) == (raybox.charts.ChartType.UNKNOWN, [1], raw)


@pytest.mark.parametrize("raw", [{"type": "pie"}, {"type": "line", "title": "", "elements": 3}, {"title": 1}])
def test_unreadable_chart_leaves_the_result_usable(raw: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "raybox"):
        result = raybox.Result(text="<Figure>", chart=raw)
    assert (result.chart, result.formats(), result.raw["chart"]) == (None, ["text"], raw)
    assert "chart" in caplog.text


def test_chart_types_are_those_of_the_e2b_sdk() -> None:
    for name in ("ChartType", "ScaleType"):
        theirs = getattr(official_charts, name)
        assert [(m.name, m.value) for m in getattr(raybox.charts, name)] == [(m.name, m.value) for m in theirs]
    names = {name for name in vars(official_charts) if name.startswith(("Chart", "Line", "Bar", "Pie"))}
    assert names <= set(vars(raybox.charts))


def test_values_do_not_share_their_defaults() -> None:
    one, other = raybox.Execution(), raybox.Execution()
    one.results.append(raybox.Result())
    one.logs.stdout.append("x")
    one.timings_ms["done"] = 1
    assert other == raybox.Execution()
    assert other.timings_ms == {}
