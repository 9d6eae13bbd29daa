"""What is drawn in a matplotlib Axes, told apart, and read as the elements of charts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.container import BarContainer, ErrorbarContainer, StemContainer
from matplotlib.patches import Wedge

from raybox_extractor import _limits, charts
from raybox_extractor.charts import Budget
from raybox_extractor.matplotlib_axis import AxisReader
from raybox_extractor.matplotlib_boxes import Box, find_boxes

Elements = list[dict[str, Any]]
#: matplotlib rounds the angles of wedges to 24 bits, and adds them up.
_ANGLE_DIGITS = 3


@dataclass
class Marks:
    """The artists of one Axes that carry data, by kind. other: what is drawn but has no form as a chart."""

    lines: list[tuple[Any, str]] = field(default_factory=list)
    scatters: list[Any] = field(default_factory=list)
    bars: list[Any] = field(default_factory=list)
    wedges: list[Any] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    other: list[Any] = field(default_factory=list)
    names: LegendNames | None = None

    def __bool__(self) -> bool:
        return bool(self.lines or self.scatters or self.bars or self.wedges or self.boxes)

    def elements(self, x: AxisReader, y: AxisReader, budget: Budget) -> Iterator[tuple[str, bool, int, Elements]]:
        """For each kind of chart: its type, whether it lies on its side, how many elements it has, and those that
        there is room for.
        """
        for horizontal in (False, True):
            boxes = [box for box in self.boxes if box.horizontal is horizontal]
            if boxes:
                axis, room = y if horizontal else x, budget.elements
                yield "box_and_whisker", horizontal, len(boxes), _boxes(boxes[:room], axis, budget)
        for horizontal in (False, True):
            bars = [one for one in self.bars if _is_horizontal(one) is horizontal]
            if bars:
                elements = itertools.islice(self._bars(bars, y if horizontal else x, horizontal), budget.elements)
                yield "bar", horizontal, sum(map(len, bars)), list(elements)
        if self.scatters:
            scatters = self._scatters(x, y, budget)
            yield "scatter", False, len(scatters), scatters
        if self.lines:
            yield "line", False, len(self.lines), _lines(self.lines[: budget.elements], x, y, budget)
        if self.wedges:
            yield "pie", False, len(self.wedges), self._wedges(budget.elements)

    def _bars(self, containers: list[Any], axis: AxisReader, horizontal: bool) -> Iterator[dict[str, Any]]:
        for number, container in enumerate(containers):
            own = str(container.get_label())
            for bar in container:
                group = own if _is_shown(own) else str(bar.get_label())
                if not _is_shown(group):
                    group = (self.names.of(bar.get_facecolor()) if self.names else None) or f"Group {number}"
                start, size = _extent(bar, horizontal)
                name = axis.name_at(start + size / 2, abs(size) / 2)
                value = _bar_value(*_extent(bar, not horizontal))
                yield {"label": name, "value": value, "group": charts.text(group)}

    def _scatters(self, x: AxisReader, y: AxisReader, budget: Budget) -> Elements:
        elements = []
        for number, scatter in enumerate(self.scatters[: budget.elements]):
            offsets = numpy.ma.filled(numpy.ma.asarray(scatter.get_offsets(), dtype=float), numpy.nan)
            label = str(scatter.get_label())
            label = charts.text(label if _is_shown(label) else f"Scatter {number}")
            series = self.names.split(scatter, len(offsets)) if self.names else None
            for name, rows in (series or {label: slice(None)}).items():
                chosen = offsets[rows]
                count, shown = budget.take_points(name, len(chosen))
                xs, ys = (axis.values(chosen[:count, at].tolist(), None) for at, axis in enumerate((x, y)))
                elements.append({"label": shown, "points": [list(pair) for pair in zip(xs, ys, strict=True)]})
        return elements

    def _wedges(self, room: int) -> Elements:
        labels = [str(wedge.get_label()) for wedge in self.wedges]
        labels = [label if _is_shown(label) else "" for label in labels]
        if not any(labels) and self.names and len(self.names.texts) == len(labels):
            labels = self.names.texts
        return [
            {
                "label": charts.text(label),
                "angle": round(abs(float(wedge.theta2) - float(wedge.theta1)), _ANGLE_DIGITS),
                "radius": charts.number(wedge.r),
            }
            for label, wedge in zip(labels[:room], self.wedges, strict=False)
        ]


class LegendNames:
    """Names that a legend gives to colours: seaborn says in no other place which series is which."""

    def __init__(self, legend: Any) -> None:
        handles = list(getattr(legend, "legend_handles", None) or getattr(legend, "legendHandles", []))
        self.texts = [str(text.get_text()) for text in legend.get_texts()]
        colours = [_colour_of(handle) for handle in handles]
        self.by_colour = {
            colour: charts.text(text)
            for colour, text in zip(colours, self.texts, strict=False)
            if colour is not None and colours.count(colour) == 1
        }

    def of(self, colour: Any) -> str | None:
        """The name of the series of this colour, None if it has none of its own."""
        try:
            return self.by_colour.get(_rounded(to_rgba(colour)))
        except ValueError:
            return None

    def split(self, scatter: Any, count: int) -> dict[str, Any] | None:
        """Rows of a scatter by the name of their colour; None unless each point has a colour with a name."""
        colours = scatter.get_facecolors()
        if len(colours) != count or count < 1:
            return None
        names = [self.of(colour) for colour in colours[: _limits.CHART_POINTS_MAX]]
        if None in names or len(names) < count:
            return None
        rows: dict[str, list[int]] = {text: [] for text in self.by_colour.values()}
        for row, name in enumerate(names):
            rows[str(name)].append(row)
        return {name: chosen for name, chosen in rows.items() if chosen}


def find_marks(axes: Any) -> Marks:
    """Tell an axes' artists apart. What only decorates (grids, reference lines, error bars, bands) is left out."""
    marks = Marks()
    legend = axes.get_legend()
    marks.names = LegendNames(legend) if legend is not None else None
    containers = [one for one in axes.containers if isinstance(one, tuple)]
    marks.bars = [one for one in containers if isinstance(one, BarContainer) and any(bar.get_visible() for bar in one)]
    line_labels, passed_over = _labels_of_containers(containers)

    all_lines = [line for line in axes.lines if line.get_visible() and id(line) not in passed_over]
    marks.boxes, in_boxes = find_boxes(all_lines, axes.patches)
    lines = [line for line in all_lines if id(line) not in in_boxes and _is_in_data_coordinates(line, axes)]
    lines = _without_error_bars(lines, marks.bars)
    drawn = [line for line in lines if len(line.get_xdata(orig=False))]
    scatters = [one for one in axes.collections if isinstance(one, PathCollection) and one.get_visible()]
    marks.scatters = [one for one in scatters if len(one.get_offsets()) and _offsets_are_data(one, axes)]
    marks.wedges = [patch for patch in axes.patches if isinstance(patch, Wedge) and patch.get_visible()]
    if not (drawn or marks):  # an empty series is a series where there is no other; beside others it is for the legend
        drawn = lines
    for number, line in enumerate(drawn):
        label = str(line.get_label())
        label = line_labels.get(id(line), label)
        if not _is_shown(label):
            name = marks.names.of(line.get_color()) if marks.names else None
            label = name or f"Line {label[6:] if label[6:].isdigit() else number}"  # of "_child3"
        marks.lines.append((line, charts.text(label)))
    marks.other = [*axes.images, *axes.collections, *axes.patches, *axes.tables, *axes.artists]
    return marks


def _lines(lines: list[tuple[Any, str]], x: AxisReader, y: AxisReader, budget: Budget) -> Elements:
    elements = []
    for line, label in lines:
        originals = line.get_data(orig=True)
        positions = [numpy.asarray(values, dtype=float) for values in line.get_data(orig=False)]
        count, shown = budget.take_points(label, len(positions[0]))
        xs, ys = (
            axis.values(values[:count].tolist(), original if _length(original) == len(values) else None)
            for axis, values, original in zip((x, y), positions, originals, strict=True)
        )
        elements.append({"label": shown, "points": [list(pair) for pair in zip(xs, ys, strict=True)]})
    return elements


def _boxes(boxes: list[Box], axis: AxisReader, budget: Budget) -> Elements:
    elements = []
    for box in boxes:
        count, label = budget.take_points(axis.name_at(box.position, box.half_width), len(box.outliers))
        elements.append(
            {
                "label": label,
                "min": charts.number(box.low),
                "first_quartile": charts.number(box.first_quartile),
                "median": charts.number(box.median),
                "third_quartile": charts.number(box.third_quartile),
                "max": charts.number(box.high),
                "outliers": box.outliers[:count],
            }
        )
    return elements


def _labels_of_containers(containers: list[Any]) -> tuple[dict[int, str], set[int]]:
    """Labels of lines whose container has it, and the ids of lines that are only parts of error bars and stems."""
    labels: dict[int, str] = {}
    passed_over: set[int] = set()
    for container in containers:
        if isinstance(container, ErrorbarContainer):
            line, caps = container[0], container[1]
            passed_over |= {id(cap) for cap in caps}
        elif isinstance(container, StemContainer):
            line = container.markerline
            passed_over.add(id(container.baseline))
        else:
            continue
        if line is not None:
            labels[id(line)] = str(container.get_label())
    return labels, passed_over


def _is_in_data_coordinates(line: Any, axes: Any) -> bool:
    """Not so `axhline` and the like, which reach from border to border whatever the data."""
    if type(line).__name__ in ("AxLine", "_AxLine"):
        return False
    return all(line.get_transform().contains_branch_seperately(axes.transData))


def _offsets_are_data(scatter: Any, axes: Any) -> bool:
    return bool(scatter.get_offset_transform() == axes.transData)


def _without_error_bars(lines: list[Any], containers: list[Any]) -> list[Any]:
    """Without the lines that stay within the width of one bar: how seaborn draws the errors of bars."""
    kept = lines
    for horizontal in (False, True) if lines else ():
        extents = [_extent(bar, horizontal) for one in containers if _is_horizontal(one) is horizontal for bar in one]
        if not extents:
            continue
        starts = numpy.array([min(start, start + size) for start, size in extents])
        ends = numpy.array([max(start, start + size) for start, size in extents])
        lines, kept = kept, []
        for line in lines:
            values = numpy.asarray(line.get_data(orig=False)[int(horizontal)], dtype=float)
            values = values[numpy.isfinite(values)]
            if len(values) < 2 or not ((starts <= values.min()) & (values.max() <= ends)).any():
                kept.append(line)
    return kept


def _bar_value(start: float, size: float) -> float | None:
    """The length of a bar, without the last digits if it stands on others: it is the difference of two sums."""
    largest = max(abs(start), abs(start + size))
    if not start or not math.isfinite(largest):
        return charts.number(size)
    return charts.number(round(size, 14 - math.ceil(math.log10(largest))))


def _is_horizontal(container: Any) -> bool:
    return getattr(container, "orientation", None) == "horizontal"


def _extent(bar: Any, horizontal: bool) -> tuple[float, float]:
    """Where a bar begins, and its size: on the x axis, or on the y axis if horizontal."""
    start, size = (bar.get_y(), bar.get_height()) if horizontal else (bar.get_x(), bar.get_width())
    return float(start), float(size)


def _is_shown(label: str) -> bool:
    """matplotlib's own rule for legends."""
    return bool(label) and not label.startswith("_")


def _length(values: Any) -> int:
    try:
        return len(values)
    except TypeError:
        return -1


def _colour_of(handle: Any) -> tuple[float, ...] | None:
    try:
        colour = handle.get_color() if hasattr(handle, "get_color") else handle.get_facecolor()
        array = numpy.asarray(to_rgba(colour) if isinstance(colour, str) else colour, dtype=float)
        return _rounded(to_rgba(array[0] if array.ndim == 2 else array))
    except Exception:  # a handle of another kind
        return None


def _rounded(colour: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(float(part), 4) for part in colour)
