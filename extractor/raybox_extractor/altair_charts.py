"""altair charts to charts, where the specification itself has the numbers that are drawn. Imports nothing of altair.

Left to altair's own JSON, because the browser computes what is drawn: aggregates, bins, time units, transforms, data by
URL, facets, and every mark but lines, points, bars and arcs. Ticks are known only where the specification lists them.
"""

from __future__ import annotations

from typing import Any

from raybox_extractor import charts
from raybox_extractor.charts import Budget, Chart

_KINDS = {"line": "line", "point": "scatter", "circle": "scatter", "square": "scatter", "bar": "bar", "arc": "pie"}
_SCALES = {"log": "log", "symlog": "symlog", "linear": "linear"}
_TYPES = {"temporal": "datetime", "nominal": "categorical", "ordinal": "categorical"}
_COMPUTED = ("aggregate", "bin", "timeUnit", "impute")
_PLACES = ("x", "y", "theta", "color", "detail", "shape")


def altair_to_chart(figure: Any) -> Chart | None:
    """The chart of an altair chart; of layers and concatenations a superchart; None if not exact."""
    specification = figure.to_dict()
    made = _charts(specification, specification, Budget())
    return charts.combined(_title(specification.get("title")), made) if made else None


def _charts(view: dict[str, Any], root: dict[str, Any], budget: Budget) -> list[Chart] | None:
    """The charts of a view and of those in it; None if one is not exact."""
    if any(name in view for name in ("transform", "facet", "repeat", "spec")):
        return None
    for name in ("layer", "hconcat", "vconcat", "concat"):
        if name in view:
            inherited = {key: view[key] for key in ("data", "encoding") if key in view}
            found: list[Chart] = []
            for part in view[name]:
                part = {**inherited, **part, "encoding": {**inherited.get("encoding", {}), **part.get("encoding", {})}}
                inner = _charts(part, root, budget)
                if inner is None:
                    return None
                found += inner
            return found
    made = _chart(view, _rows(view, root), budget)
    return None if made is None else [made]


def _rows(view: dict[str, Any], root: dict[str, Any]) -> list[dict[str, Any]] | None:
    data = view.get("data") or root.get("data") or {}
    if not isinstance(data, dict):
        return None
    rows = data.get("values") or (root.get("datasets") or {}).get(data.get("name") or "")
    return rows if isinstance(rows, list) and all(isinstance(row, dict) for row in rows) else None


def _chart(view: dict[str, Any], rows: list[dict[str, Any]] | None, budget: Budget) -> Chart | None:
    mark = view.get("mark")
    kind = _KINDS.get(mark.get("type", "") if isinstance(mark, dict) else str(mark))
    encoding = view.get("encoding") or {}
    channels = {name: encoding[name] for name in _PLACES if isinstance(encoding.get(name), dict)}
    fields = {name: channel["field"] for name, channel in channels.items() if "field" in channel}
    if kind is None or rows is None or any(key in channel for channel in channels.values() for key in _COMPUTED):
        return None
    if any(name in encoding for name in ("row", "column", "facet", "x2", "y2", "xOffset", "yOffset")):
        return None
    if not set(fields) >= ({"theta"} if kind == "pie" else {"x", "y"}):
        return None
    title = _title(view.get("title"))
    group_field = fields.get("color") or fields.get("detail") or fields.get("shape")
    if kind == "pie":
        elements = _wedges(rows, fields["theta"], group_field)
        room, title = budget.take_elements(title, len(elements))
        return charts.chart(kind, title, elements[:room])
    x, y = (_axis(channels[name], fields[name]) for name in ("x", "y"))
    if kind == "bar":
        # Names lie on the axis that is not of quantities.
        horizontal = channels["x"].get("type") == "quantitative" != channels["y"].get("type")
        if not horizontal and channels["y"].get("type") != "quantitative":
            return None
        names, values = (fields["y"], fields["x"]) if horizontal else (fields["x"], fields["y"])
        room, title = budget.take_elements(title, len(rows))
        elements = [
            {
                "label": charts.text(row.get(names)),
                "value": charts.number(row.get(values)),
                "group": charts.text(row.get(group_field) if group_field else values),
            }
            for row in rows[:room]
        ]
        return charts.chart(kind, title, elements, *((y, x) if horizontal else (x, y)))
    series: dict[str, list[list[Any]]] = {}
    for row in rows:
        name = charts.text(row.get(group_field) if group_field else fields["y"])
        series.setdefault(name, []).append([_plain(row.get(fields["x"])), _plain(row.get(fields["y"]))])
    if kind == "line" and "order" not in encoding:  # as the browser joins them: along x
        series = {name: sorted(points, key=lambda point: _order(point[0])) for name, points in series.items()}
    room, title = budget.take_elements(title, len(series))
    elements = []
    for name, points in list(series.items())[:room]:
        count, label = budget.take_points(name, len(points))
        elements.append({"label": label, "points": points[:count]})
    return charts.chart(kind, title, elements, x, y)


def _wedges(rows: list[dict[str, Any]], value_field: str, name_field: str | None) -> list[dict[str, Any]]:
    values = [charts.number(row.get(value_field)) or 0.0 for row in rows]
    total = sum(values) or 1.0
    names = [charts.text(row.get(name_field)) if name_field else "" for row in rows]
    wedges = zip(names, values, strict=True)
    return [{"label": name, "angle": 360 * value / total, "radius": 1.0} for name, value in wedges]


def _axis(channel: dict[str, Any], field: str) -> Chart:
    described, scale = channel.get("axis") or {}, channel.get("scale") or {}
    title = channel["title"] if "title" in channel else described.get("title", field)
    positions = [_plain(at) for at in described.get("values") or () if not isinstance(at, dict)]
    kind = _TYPES.get(channel.get("type", ""), "linear")
    if kind == "linear":
        kind = _SCALES.get(scale.get("type", "linear"), str(scale.get("type")))
    return charts.axis(_title(title), positions, [str(at) for at in positions], kind)


def _title(title: Any) -> str | None:
    if isinstance(title, dict):
        title = title.get("text")
    return charts.text_or_none(" ".join(map(str, title)) if isinstance(title, list) else title)


def _plain(value: Any) -> Any:
    return charts.text(value) if isinstance(value, str) else charts.number(value)


def _order(value: Any) -> tuple[int, Any]:
    return (0, value) if isinstance(value, float) else (1, value) if isinstance(value, str) else (2, "")
