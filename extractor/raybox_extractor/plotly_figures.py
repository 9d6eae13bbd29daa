"""plotly figures to charts, where plotly's own description has the numbers that are drawn. Imports nothing of plotly.

Left to plotly's own JSON, because the browser computes what is drawn: histograms, boxes of raw values, and every other
type of trace but lines, points, bars and pies. Ticks are known only where the figure lists them.
"""

from __future__ import annotations

import base64
import datetime
import math
import struct
from collections.abc import Iterable
from typing import Any

from raybox_extractor import charts
from raybox_extractor.charts import Budget, Chart

#: plotly's names of element types; those that a platform's C types would add are not written by plotly.
_FORMATS = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "f4": "f", "f8": "d"}
_SCALES = {"linear": "linear", "log": "log", "date": "datetime", "category": "categorical"}
_POINT_TYPES = ("scatter", "scattergl")


def plotly_to_chart(figure: dict[str, Any]) -> Chart | None:
    """The chart of a figure's dict; of several pairs of axes, or kinds of traces, a superchart; None if not exact."""
    traces = [trace for trace in figure.get("data") or () if trace.get("visible", True) is True]
    layout = figure.get("layout") or {}
    budget = Budget()
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for number, trace in enumerate(traces):
        kind = _kind(trace)
        if kind is None or (kind == "bar" and layout.get("barnorm")):
            return None
        place = (str(number), "") if kind == "pie" else (trace.get("xaxis") or "x", trace.get("yaxis") or "y")
        groups.setdefault((kind, *place), []).append(trace)
    made = [_chart(kind, x, y, group, layout, budget) for (kind, x, y), group in groups.items()]
    return charts.combined(_title(layout), made)


def _kind(trace: dict[str, Any]) -> str | None:
    """The type of chart for a trace, None for those that have none."""
    kind = trace.get("type") or "scatter"
    if kind in _POINT_TYPES and not trace.get("stackgroup"):
        modes = (trace.get("mode") or "lines").split("+")
        return "line" if "lines" in modes else "scatter" if "markers" in modes else None
    if kind == "pie":
        return "pie" if trace.get("values") is not None else None
    return "bar" if kind == "bar" else None


def _chart(kind: str, x: str, y: str, traces: list[dict[str, Any]], layout: dict[str, Any], budget: Budget) -> Chart:
    if kind == "pie":
        wedges = _wedges(traces[0])
        room, title = budget.take_elements(_title(traces[0]), len(wedges))
        return charts.chart(kind, title, wedges[:room])
    xs, ys = (
        _axis(layout, x, [_values(trace, "x") for trace in traces]),
        _axis(layout, y, [_values(trace, "y") for trace in traces]),
    )
    if kind == "bar":
        bars = [bar for number, trace in enumerate(traces) for bar in _bars(trace, number)]
        room, title = budget.take_elements(None, len(bars))
        if traces[0].get("orientation") == "h":
            xs, ys = ys, xs
        return charts.chart(kind, title, bars[:room], xs, ys)
    room, title = budget.take_elements(None, len(traces))
    return charts.chart(kind, title, [_series(trace, at, budget) for at, trace in enumerate(traces[:room])], xs, ys)


def _series(trace: dict[str, Any], number: int, budget: Budget) -> dict[str, Any]:
    pairs = list(zip(_values(trace, "x"), _values(trace, "y"), strict=False))
    name = charts.text(trace.get("name") or f"{'Line' if _kind(trace) == 'line' else 'Scatter'} {number}")
    count, label = budget.take_points(name, len(pairs))
    return {"label": label, "points": [[_plain(a), _plain(b)] for a, b in pairs[:count]]}


def _bars(trace: dict[str, Any], number: int) -> Iterable[dict[str, Any]]:
    names, values = _values(trace, "x"), _values(trace, "y")
    if trace.get("orientation") == "h":
        names, values = values, names
    group = charts.text(trace.get("name") or f"Group {number}")
    for name, value in zip(names, values, strict=False):
        label = _plain(name)
        shown = f"{label:.12g}" if isinstance(label, float) else charts.text(label or "")
        yield {"label": shown, "value": charts.number(value), "group": group}


def _wedges(trace: dict[str, Any]) -> list[dict[str, Any]]:
    values = [charts.number(value) or 0.0 for value in _decoded(trace["values"])]
    labels = _decoded(trace.get("labels")) or range(len(values))
    merged: dict[str, float] = {}  # plotly adds up what has the same label
    for label, value in zip(labels, values, strict=False):
        merged[charts.text(label)] = merged.get(charts.text(label), 0.0) + value
    total = sum(merged.values()) or 1.0
    return [{"label": label, "angle": 360 * value / total, "radius": 1.0} for label, value in merged.items()]


def _axis(layout: dict[str, Any], name: str, columns: list[list[Any]]) -> Chart:
    described = layout.get(f"{name[0]}axis{name[1:]}") or {}
    positions = [_plain(at) for at in _decoded(described.get("tickvals"))]
    labels = [charts.text(text) for text in _decoded(described.get("ticktext"))] or [str(at) for at in positions]
    scale = _SCALES.get(described.get("type") or "", "") or _guessed_scale(columns)
    return charts.axis(_title(described), positions, labels[: len(positions)], scale)


def _guessed_scale(columns: list[list[Any]]) -> str:
    """What plotly makes of values when the figure does not say."""
    values = [_plain(value) for column in columns for value in column[:100] if value is not None]
    if not values or not all(isinstance(value, str) for value in values):
        return "linear"
    return "datetime" if all(map(_is_date, values)) else "categorical"


def _is_date(text: str) -> bool:
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return not text.isdigit()


def _title(owner: dict[str, Any]) -> str | None:
    title = owner.get("title")
    return charts.text_or_none(title.get("text") if isinstance(title, dict) else title)


def _values(trace: dict[str, Any], name: str) -> list[Any]:
    """A column; if it is left out, positions count from `x0` in steps of `dx`."""
    found = trace.get(name)
    if found is not None:
        return _decoded(found)
    other = _decoded(trace.get("y" if name == "x" else "x"))
    start, step = trace.get(f"{name}0", 0), trace.get(f"d{name}", 1)
    return [start + step * at for at in range(len(other))]


def _decoded(column: Any) -> list[Any]:
    """A column as a list: plotly writes arrays of numbers as base64."""
    if column is None:
        return []
    if isinstance(column, dict):
        data = base64.b64decode(column["bdata"])
        layout = struct.Struct(f"<{_FORMATS[column['dtype']]}")
        return [value for (value,) in layout.iter_unpack(data)]
    if getattr(getattr(column, "dtype", None), "kind", "") == "M":
        from raybox_extractor.matplotlib_axis import datetime64_texts  # what has such arrays has numpy

        return list(datetime64_texts(column))
    return list(column)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return charts.text(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    number = charts.number(value)
    return number if number is not None or value is None or _is_missing(value) else charts.text(value)


def _is_missing(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
