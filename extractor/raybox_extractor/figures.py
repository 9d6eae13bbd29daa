"""Figures to charts, whichever library drew them. Imports none of them: a figure brings its own."""

from __future__ import annotations

from typing import Any

from raybox_extractor.charts import Chart


def extract_figure(figure: Any) -> Chart | None:
    """The data of a figure as a chart of plain JSON values, or None if it has none. Never raises an Exception.

    figure: a matplotlib Figure, or Axes, or what pandas and seaborn return (anything with a `figure`); a plotly Figure,
    or the dict of one; an altair chart. The keys are those of E2B's charts, as the README lists them; numbers are
    floats, missing ones None, dates ISO 8601 text. Draws nothing, and leaves the figure as it is.
    """
    try:
        return _extract(figure)
    except Exception:  # a library of another version, or an artist, locator or method of the user
        return None


def _extract(figure: Any) -> Chart | None:
    libraries = {base.__module__.partition(".")[0] for base in type(figure).__mro__}
    if "altair" in libraries:
        from raybox_extractor.altair_charts import altair_to_chart

        return altair_to_chart(figure)
    if "plotly" in libraries or (isinstance(figure, dict) and "data" in figure):
        from raybox_extractor.plotly_figures import plotly_to_chart

        return plotly_to_chart(figure if isinstance(figure, dict) else figure.to_dict())
    if not ("matplotlib" in libraries and hasattr(figure, "axes") and hasattr(figure, "get_suptitle")):
        # Axes, a grid of seaborn, an array of axes.
        figure = getattr(figure, "figure", None) or getattr(getattr(figure, "flat", [figure])[0], "figure", None)
        if figure is None:
            return None
    from raybox_extractor.matplotlib_figures import figure_to_chart

    return figure_to_chart(figure)
