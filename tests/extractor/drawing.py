"""Draws figures from a description, and extracts their charts. Runs in the template's Python; not imported by tests."""

from __future__ import annotations

import datetime
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.cbook import boxplot_stats

from raybox_extractor import extract_figure

FIGURE = plt.figure()
plt.close(FIGURE)  # pyplot shall not show it; it stays usable


def draw(case: dict[str, Any]) -> Any:
    """The chart of the figure that `case` describes; for boxes also matplotlib's own numbers."""
    for axes in FIGURE.axes:  # at half the cost of `clf`, which clears them before
        axes.remove()
    axes = FIGURE.add_subplot()
    axes.set(title=case["title"], xlabel=case["x_label"], ylabel=case["y_label"])
    extra = globals()[f"draw_{case['kind']}"](axes, case)
    return {"chart": extract_figure(FIGURE), "extra": extra}


def values_of(kind: str, values: list[Any]) -> list[Any]:
    if kind == "date":
        return [datetime.date.fromisoformat(value) for value in values]
    if kind == "datetime":
        return [datetime.datetime.fromisoformat(value) for value in values]
    return [float("nan") if value is None else value for value in values]


def scale(axes: Any, case: dict[str, Any]) -> None:
    for name in ("x", "y"):
        if case[name] in ("log", "symlog", "asinh", "logit"):
            axes.set(**{f"{name}scale": case[name]})


def draw_line(axes: Any, case: dict[str, Any]) -> None:
    for one in case["series"]:
        axes.plot(values_of(case["x"], one["x"]), values_of(case["y"], one["y"]), case["style"], label=one["label"])
    scale(axes, case)
    if case["decorated"]:
        axes.grid(True)
        axes.axhline(1)


def draw_scatter(axes: Any, case: dict[str, Any]) -> None:
    for one in case["series"]:
        axes.scatter(values_of(case["x"], one["x"]), values_of(case["y"], one["y"]), label=one["label"])
    scale(axes, case)
    if case["decorated"]:
        axes.grid(True)
        axes.axvline(1)


def draw_bar(axes: Any, case: dict[str, Any]) -> None:
    names, groups, horizontal = values_of(case["x"], case["names"]), case["groups"], case["horizontal"]
    bar = axes.barh if horizontal else axes.bar
    if case["layout"] == "grouped":
        width = 0.8 / len(groups)
        for at, group in enumerate(groups):
            shift = (at - (len(groups) - 1) / 2) * width
            bar([place + shift for place in range(len(names))], group["values"], width, label=group["label"])
        axes.set(**{f"{'y' if horizontal else 'x'}ticks": range(len(names))})
        axes.set(**{f"{'y' if horizontal else 'x'}ticklabels": names})
    else:
        start = [0.0] * len(names)
        for group in groups:
            bar(names, group["values"], label=group["label"], **{"left" if horizontal else "bottom": start})
            start = [a + b for a, b in zip(start, group["values"], strict=True)]
    if case["y"] == "log":
        axes.set(**{f"{'x' if horizontal else 'y'}scale": "log"})
    if case["decorated"]:
        axes.grid(True)


def draw_pie(axes: Any, case: dict[str, Any]) -> None:
    options = {name: case[name] for name in ("startangle", "counterclock", "radius")}
    options |= {"autopct": "%d%%"} if case["decorated"] else {}
    axes.pie(case["values"], labels=case["names"], **options)


def draw_box(axes: Any, case: dict[str, Any]) -> list[dict[str, Any]]:
    axes.boxplot(case["values"], tick_labels=case["names"], **case["options"])
    if case["log"]:
        axes.set(**{"xscale" if case["options"]["orientation"] == "horizontal" else "yscale": "log"})
    keys = ("whislo", "q1", "med", "q3", "whishi")
    return [
        {key: float(stats[key]) for key in keys} | {"fliers": [float(value) for value in stats["fliers"]]}
        for stats in boxplot_stats(case["values"])
    ]
