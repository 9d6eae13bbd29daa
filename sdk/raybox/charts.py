"""Typed views of the chart data that a plot leaves behind (`Result.chart`). Same names as in the E2B SDK.

Reading is tolerant: an unknown kind of chart is a `Chart` of type UNKNOWN, an unknown scale is UNKNOWN, keys that a
newer server may send are kept, and `to_dict()` always gives back exactly what the server sent.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, TypeVar

Number = str | float
_E = TypeVar("_E", bound=enum.Enum)


class ChartType(enum.StrEnum):
    """What kind of chart it is."""

    LINE = "line"
    SCATTER = "scatter"
    BAR = "bar"
    PIE = "pie"
    BOX_AND_WHISKER = "box_and_whisker"
    SUPERCHART = "superchart"
    UNKNOWN = "unknown"


class ScaleType(enum.StrEnum):
    """How an axis maps values to positions."""

    LINEAR = "linear"
    DATETIME = "datetime"
    CATEGORICAL = "categorical"
    LOG = "log"
    SYMLOG = "symlog"
    LOGIT = "logit"
    FUNCTION = "function"
    FUNCTIONLOG = "functionlog"
    ASINH = "asinh"
    UNKNOWN = "unknown"


class _Plain:
    """Compares and prints by its attributes."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # mutable values have no hash; mypy wants a method here

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({shown})"


class Chart(_Plain):
    """One set of axes: its type, its title, and its elements (raw ones when the type is unknown)."""

    type: ChartType
    title: str | None
    elements: list[Any]

    def __init__(self, **raw: Any) -> None:
        self._raw = raw
        self.type = _member(ChartType, raw["type"])
        self.title = raw["title"]
        self.elements = raw["elements"]

    def to_dict(self) -> dict[str, Any]:
        """The data as the server sent it."""
        return self._raw

    def _repr_json_(self) -> dict[str, Any]:
        """What a notebook shows of a chart on its own."""
        return self._raw


class Chart2D(Chart):
    """A chart with two labelled axes."""

    def __init__(self, **raw: Any) -> None:
        super().__init__(**raw)
        self.x_label: str | None = raw["x_label"]
        self.y_label: str | None = raw["y_label"]
        self.x_unit: str | None = raw["x_unit"]
        self.y_unit: str | None = raw["y_unit"]


class PointData(_Plain):
    """One series: its label and its (x, y) pairs."""

    def __init__(self, **raw: Any) -> None:
        self.label: str = raw["label"]
        self.points: list[tuple[Number, Number]] = [(x, y) for x, y in raw["points"]]


class PointChart(Chart2D):
    """Series of points, with the ticks and scales of both axes."""

    elements: list[PointData]

    def __init__(self, **raw: Any) -> None:
        super().__init__(**raw)
        self.x_ticks: list[Number] = raw["x_ticks"]
        self.x_tick_labels: list[str] = raw["x_tick_labels"]
        self.x_scale: ScaleType = _member(ScaleType, raw.get("x_scale"))
        self.y_ticks: list[Number] = raw["y_ticks"]
        self.y_tick_labels: list[str] = raw["y_tick_labels"]
        self.y_scale: ScaleType = _member(ScaleType, raw.get("y_scale"))
        self.elements = [PointData(**element) for element in raw["elements"]]


class LineChart(PointChart):
    """Points joined by lines."""

    type = ChartType.LINE


class ScatterChart(PointChart):
    """Points alone."""

    type = ChartType.SCATTER


class BarData(_Plain):
    """One bar."""

    def __init__(self, **raw: Any) -> None:
        self.label: str = raw["label"]
        self.value: str | float = raw["value"]
        self.group: str = raw["group"]


class BarChart(Chart2D):
    """Bars, in groups."""

    type = ChartType.BAR
    elements: list[BarData]

    def __init__(self, **raw: Any) -> None:
        super().__init__(**raw)
        self.elements = [BarData(**element) for element in raw["elements"]]


class PieData(_Plain):
    """One wedge; `angle` in degrees."""

    def __init__(self, **raw: Any) -> None:
        self.label: str = raw["label"]
        self.angle: float = raw["angle"]
        self.radius: float = raw["radius"]


class PieChart(Chart):
    """Wedges of a whole."""

    type = ChartType.PIE
    elements: list[PieData]

    def __init__(self, **raw: Any) -> None:
        super().__init__(**raw)
        self.elements = [PieData(**element) for element in raw["elements"]]


class BoxAndWhiskerData(_Plain):
    """One box."""

    def __init__(self, **raw: Any) -> None:
        self.label: str = raw["label"]
        self.min: float = raw["min"]
        self.first_quartile: float = raw["first_quartile"]
        self.median: float = raw["median"]
        self.third_quartile: float = raw["third_quartile"]
        self.max: float = raw["max"]
        self.outliers: list[float] = raw.get("outliers") or []


class BoxAndWhiskerChart(Chart2D):
    """Boxes with whiskers."""

    type = ChartType.BOX_AND_WHISKER
    elements: list[BoxAndWhiskerData]

    def __init__(self, **raw: Any) -> None:
        super().__init__(**raw)
        self.elements = [BoxAndWhiskerData(**element) for element in raw["elements"]]


class SuperChart(Chart):
    """A figure of several axes; each element is a chart."""

    type = ChartType.SUPERCHART
    elements: list[Chart]

    def __init__(self, **raw: Any) -> None:
        super().__init__(**raw)
        self.elements = [chart_from_dict(element) for element in raw["elements"] if element]


ChartTypes = Chart | LineChart | ScatterChart | BarChart | PieChart | BoxAndWhiskerChart | SuperChart

CLASSES: Mapping[ChartType, type[Chart]] = {
    ChartType.LINE: LineChart,
    ChartType.SCATTER: ScatterChart,
    ChartType.BAR: BarChart,
    ChartType.PIE: PieChart,
    ChartType.BOX_AND_WHISKER: BoxAndWhiskerChart,
    ChartType.SUPERCHART: SuperChart,
    ChartType.UNKNOWN: Chart,
}


def chart_from_dict(data: Mapping[str, Any]) -> Chart:
    """The view that fits `data["type"]`. Raises KeyError, TypeError or ValueError when required data is missing."""
    return CLASSES[_member(ChartType, data["type"])](**data)


def _deserialize_chart(data: Mapping[str, Any] | None) -> Chart | None:
    """The E2B SDK's name of `chart_from_dict`; None for no data."""
    return chart_from_dict(data) if data else None


def _member(kind: type[_E], value: Any) -> _E:
    try:
        return kind(value)
    except ValueError:
        return kind("unknown")
