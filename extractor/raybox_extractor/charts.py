"""The form of a chart: which keys each type has, how its texts and units read, and what happens at the bounds. Pure.

The keys are those of E2B's charts. Every key is there, None where there is nothing to say.
"""

from __future__ import annotations

import math
import re
from typing import Any

from raybox_extractor import _limits

#: The MIME type of what `extract_figure` returns.
MIME = "e2b/chart"

Chart = dict[str, Any]

_AXIS_KEYS = ("label", "unit")
_POINT_AXIS_KEYS = ("ticks", "tick_labels", "scale")
#: A unit stands in parentheses after a space, or in brackets. One pair of parentheses inside the first is part of it.
_UNIT = re.compile(r"\s\(((?:[^()]|\([^()]*\))*)\)|\[([^\[\]]*)\]")


def chart(kind: str, title: str | None, elements: list[Any], x: Chart | None = None, y: Chart | None = None) -> Chart:
    """A chart of this type with exactly the keys that the type has.

    title: as `text_or_none` returns it. x, y: as `axis` returns them, for types with axes.
    """
    made: Chart = {"type": kind, "title": title or None, "elements": elements}
    if kind in ("line", "scatter", "bar", "box_and_whisker"):
        keys = _AXIS_KEYS + (_POINT_AXIS_KEYS if kind in ("line", "scatter") else ())
        for name, values in (("x", x or axis()), ("y", y or axis())):
            made |= {f"{name}_{key}": values[key] for key in keys}
    return made


def axis(
    label: str | None = None,
    ticks: list[Any] | None = None,
    tick_labels: list[str] | None = None,
    scale: str = "linear",
) -> Chart:
    """What is known of one axis. The label keeps its unit; at most CHART_TICKS_MAX ticks, the last then says so."""
    ticks, tick_labels = list(ticks or []), list(tick_labels or [])
    limit = _limits.CHART_TICKS_MAX
    if len(ticks) > limit:
        left = len(ticks) - limit
        ticks, tick_labels = ticks[:limit], [*tick_labels[: limit - 1], f"... [{left} ticks more]"]
    label = text_or_none(label)
    return {"label": label, "unit": unit_of(label), "ticks": ticks, "tick_labels": tick_labels, "scale": scale}


def unit_of(label: str | None) -> str | None:
    """The unit in an axis label: "Time (s)" and "Time [s]" have the unit "s", "f(x)" has none."""
    found = _UNIT.search(label or "")
    return (found.group(1) or found.group(2) or "").strip() or None if found else None


def text(value: Any) -> str:
    """As text of bounded length."""
    shown, limit = str(value), _limits.CHART_TEXT_CHARS_MAX
    return shown if len(shown) <= limit else f"{shown[:limit]}... [{len(shown) - limit} characters more]"


def text_or_none(value: Any) -> str | None:
    return text(value) if value is not None and str(value).strip() else None


def number(value: Any) -> float | None:
    """As a finite float, None for what is missing, infinite or masked."""
    try:
        plain = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return plain if math.isfinite(plain) else None


def combined(title: str | None, charts: list[Chart]) -> Chart | None:
    """The chart of a figure: of several the superchart, of one itself, with the figure's title if it has none."""
    if len(charts) == 1:
        return charts[0] | {"title": charts[0]["title"] or title}
    return chart("superchart", title, charts) if charts else None


class Budget:
    """What one figure may still hold. Taking from it says how much may be had."""

    def __init__(self) -> None:
        self.points = _limits.CHART_POINTS_MAX
        self.elements = _limits.CHART_ELEMENTS_MAX

    def take_points(self, label: str, wanted: int) -> tuple[int, str]:
        """How many of the points there is room for, and the label, which says so if that is not all."""
        given = min(wanted, self.points)
        self.points -= given
        return given, label if given == wanted else f"{label} [{given} of {wanted} points]"

    def take_elements(self, title: str | None, wanted: int) -> tuple[int, str | None]:
        """The same for elements and the chart's title."""
        given = min(wanted, self.elements)
        self.elements -= given
        if given == wanted:
            return given, title
        return given, f"{title or ''} [{given} of {wanted} elements]".strip()
