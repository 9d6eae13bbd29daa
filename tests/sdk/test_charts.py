"""Charts of every kind read as the E2B SDK's do, and what that SDK would refuse is still a chart."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import raybox
from raybox import charts

# It has no type hints that a checker could read.
official = importlib.import_module("e2b_code_interpreter.charts")

texts = st.none() | st.text(max_size=5)
numbers = st.none() | st.floats(allow_nan=False) | st.integers()
values = numbers | st.text(max_size=5)


def of(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(fields)


AXES = {"x_label": texts, "y_label": texts, "x_unit": texts, "y_unit": texts}
TICKS: dict[str, st.SearchStrategy[Any]] = {
    **{f"{axis}_ticks": st.lists(values, max_size=3) for axis in "xy"},
    **{f"{axis}_tick_labels": st.lists(st.text(max_size=3), max_size=3) for axis in "xy"},
    **{f"{axis}_scale": st.sampled_from([*charts.ScaleType]).map(str) | st.just("mercator") for axis in "xy"},
}
POINTS = of(label=st.text(max_size=3), points=st.lists(st.lists(values, min_size=2, max_size=2), max_size=3))
BARS = of(label=st.text(max_size=3), value=values, group=st.text(max_size=3))
WEDGES = of(label=st.text(max_size=3), angle=numbers, radius=numbers)
QUARTILES = dict.fromkeys(("min", "first_quartile", "median", "third_quartile", "max"), numbers)
BOXES = of(label=st.text(max_size=3), outliers=st.lists(numbers, max_size=2), **QUARTILES)


def chart(kind: str, element: st.SearchStrategy[Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return of(type=st.just(kind), title=texts, elements=st.lists(element, max_size=3), **fields)


SINGLE = st.one_of(
    chart("line", POINTS, **AXES, **TICKS),
    chart("scatter", POINTS, **AXES, **TICKS),
    chart("bar", BARS, **AXES),
    chart("pie", WEDGES),
    chart("box_and_whisker", BOXES, **AXES),
    chart("unknown", st.integers()),
)
ANY = SINGLE | chart("superchart", SINGLE)


def plain(value: Any) -> Any:
    """A chart of either package as data that compares: names of classes, and their public attributes."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if type(value).__module__.endswith("charts") and not isinstance(value, str):
        return type(value).__name__, {k: plain(v) for k, v in vars(value).items() if not k.startswith("_")}
    return value


@given(ANY)
def test_a_chart_reads_as_that_of_the_e2b_sdk(raw: dict[str, Any]) -> None:
    ours, theirs = charts.chart_from_dict(copy.deepcopy(raw)), official._deserialize_chart(copy.deepcopy(raw))
    assert plain(ours) == plain(theirs)
    assert ours.to_dict() == theirs.to_dict() == raw
    assert pickle.loads(pickle.dumps(ours)) == ours == copy.deepcopy(ours)
    assert repr(ours).startswith(f"{type(ours).__name__}(type=")


@given(ANY, st.dictionaries(st.sampled_from(["z_label", "interactive"]), st.integers()))
def test_keys_of_a_newer_server_are_kept(raw: dict[str, Any], later: dict[str, Any]) -> None:
    assert charts.chart_from_dict(raw | later).to_dict() == raw | later


def test_the_classes_are_those_of_the_e2b_sdk() -> None:
    for name, theirs in vars(official).items():
        if isinstance(theirs, type) and theirs.__module__ == official.__name__:
            ours = getattr(charts, name)
            assert [base.__name__ for base in theirs.__mro__ if base.__module__ == official.__name__] == [
                base.__name__
                for base in ours.__mro__
                if base.__module__ == charts.__name__ and not base.__name__.startswith("_")
            ]
            assert getattr(ours, "type", None) == getattr(theirs, "type", None)
            assert set(inspect.get_annotations(theirs)) <= set(dir(ours)) | attributes_of(ours)


def attributes_of(kind: Any) -> set[str]:
    """Attributes that the class declares, or that its `__init__` and those above it set."""
    found: set[str] = set()
    for base in kind.__mro__:
        found |= set(inspect.get_annotations(base))
        init = vars(base).get("__init__")
        found |= set(getattr(getattr(init, "__code__", None), "co_names", ()))
    return found


@pytest.mark.parametrize("kind", ["sankey", "", None, 3])
def test_a_chart_of_a_kind_that_is_not_known_is_one_all_the_same(kind: Any) -> None:
    raw = {"type": kind, "title": "t", "elements": [{"from": 1}]}
    for found in (
        charts.chart_from_dict(raw),
        charts.chart_from_dict({"type": "superchart", "title": None, "elements": [raw]}).elements[0],
    ):
        assert (type(found), found.type, found.elements) == (charts.Chart, charts.ChartType.UNKNOWN, raw["elements"])
        assert found.to_dict() == raw


@pytest.mark.parametrize("missing", ["type", "title", "elements", "x_label", "y_ticks"])
def test_a_chart_without_a_key_that_it_needs_is_none_and_the_result_stays(missing: str) -> None:
    axes = {f"{axis}_{key}": None for axis in "xy" for key in ("label", "unit", "ticks", "tick_labels", "scale")}
    raw: dict[str, Any] = {"type": "line", "title": None, "elements": [], **axes}
    assert raybox.Result(text="x", chart=raw).chart is not None
    del raw[missing]
    with pytest.raises(KeyError):
        charts.chart_from_dict(raw)
    assert raybox.Result(text="x", chart=raw).chart is None


def test_no_data_is_no_chart() -> None:
    assert charts._deserialize_chart(None) is None
    assert charts._deserialize_chart({}) is None


def test_what_a_notebook_shows() -> None:
    raw = {"type": "pie", "title": "t", "elements": [{"label": "a", "angle": 360.0, "radius": 1.0}]}
    result = raybox.Result(text="f", png="iVBO", html="<b>", chart=raw, extra={"application/vnd.plotly.v1+json": {}})
    assert result._repr_png_() == "iVBO"
    assert result._repr_html_() == "<b>"
    assert result._repr_mimebundle_() == {"application/vnd.plotly.v1+json": {}}
    assert raybox.Result(text="f")._repr_mimebundle_() == {}
    assert result.chart is not None
    assert result.chart._repr_json_() == raw
