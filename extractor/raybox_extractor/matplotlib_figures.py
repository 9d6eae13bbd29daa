"""matplotlib figures to charts; pandas and seaborn draw with it. Imported when there is a figure to read."""

from __future__ import annotations

import warnings
from typing import Any

from raybox_extractor import charts
from raybox_extractor.charts import Budget, Chart
from raybox_extractor.matplotlib_axis import AxisReader
from raybox_extractor.matplotlib_marks import Marks, find_marks

#: The label that matplotlib gives to the axes of a colour bar, which are a legend and no chart.
_COLORBAR = "<colorbar>"


def figure_to_chart(figure: Any) -> Chart | None:
    """The chart of a Figure: None without axes, or with nothing drawn in them; of several axes a superchart.

    Axes in which marks of several kinds are drawn (bars and a line) have one chart for each kind. Colour bars and
    invisible axes are left out.
    """
    budget = Budget()
    found: list[Chart] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about ticks, fonts and masked values: drawing has said it, or will
        for axes in figure.axes:
            if axes.get_visible() and axes.get_label() != _COLORBAR:
                found += _axes_to_charts(axes, budget)
        room, title = budget.take_elements(_suptitle(figure), len(found) if len(found) > 1 else 0)
    return charts.combined(title, found[:room] if len(found) > 1 else found)


def _suptitle(figure: Any) -> str | None:
    return charts.text_or_none(figure.get_suptitle()) if hasattr(figure, "get_suptitle") else None


def _axes_to_charts(axes: Any, budget: Budget) -> list[Chart]:
    title = next((text for text in (axes.get_title(loc=side) for side in ("center", "left", "right")) if text), None)
    title = charts.text_or_none(title)
    # The lines of three dimensions pretend to have two, as they appear on the screen.
    marks = find_marks(axes) if axes.name != "3d" else Marks(other=[axes])
    if not marks:
        return [charts.chart("unknown", title, [])] if marks.other else []
    x, y = AxisReader(axes.xaxis), AxisReader(axes.yaxis)
    made = []
    for kind, horizontal, total, elements in marks.elements(x, y, budget):
        first, second = (y, x) if horizontal else (x, y)  # of bars and boxes, x is the axis of the categories
        room, cut_title = budget.take_elements(title, total)
        with_ticks = kind in ("line", "scatter")
        made.append(
            charts.chart(kind, cut_title, elements[:room], first.describe(with_ticks), second.describe(with_ticks))
        )
    return made
