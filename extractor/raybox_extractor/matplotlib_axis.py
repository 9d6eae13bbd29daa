"""One axis of a matplotlib plot: its label, ticks and scale, and its positions as the values that the user plotted."""

from __future__ import annotations

import bisect
import datetime
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import matplotlib.category
import matplotlib.dates
import matplotlib.ticker
import numpy

from raybox_extractor import charts

_DATE_CONVERTERS = tuple(
    getattr(matplotlib.dates, name)
    for name in ("DateConverter", "_SwitchableDateConverter")
    if hasattr(matplotlib.dates, name)
)
_DATE_FORMATTERS = (
    matplotlib.dates.DateFormatter,
    matplotlib.dates.AutoDateFormatter,
    matplotlib.dates.ConciseDateFormatter,
)
_MICROSECONDS_A_DAY = 86_400_000_000
#: So many days from 1970 a float still tells one microsecond from the next.
_EXACT_DAYS = 16_384
#: What a datetime64 of microseconds can hold is far more; beyond these it is no date of a person's calendar.
_DAYS_MAX = 3_700_000.0


class AxisReader:
    """Reads an `XAxis` or `YAxis`. Draws nothing; ticks are placed as drawing would place them."""

    def __init__(self, axis: Any) -> None:
        self.axis = axis
        self.locator, self.formatter = axis.get_major_locator(), axis.get_major_formatter()
        converter = axis.get_converter() if hasattr(axis, "get_converter") else axis.converter  # matplotlib < 3.10
        self.units = axis.get_units()
        mapping = getattr(self.units, "_mapping", None)
        is_categorical = isinstance(converter, matplotlib.category.StrCategoryConverter) and isinstance(mapping, dict)
        #: Position -> name of the category.
        self.categories: dict[float, str] = (
            {float(at): charts.text(name) for name, at in mapping.items()} if is_categorical and mapping else {}
        )
        #: Of pandas, which counts periods (days, months) on the axes of regular time series.
        self.freq = getattr(axis, "freq", None) if type(converter).__name__ == "PeriodConverter" else None
        self.has_dates = isinstance(converter, _DATE_CONVERTERS) or (
            converter is None and isinstance(self.formatter, _DATE_FORMATTERS)
        )
        self.is_categorical = is_categorical
        self._ticks: tuple[list[Any], list[str]] | None = None

    def describe(self, with_ticks: bool) -> charts.Chart:
        """As `charts.axis`."""
        label = self.axis.get_label().get_text()
        if not with_ticks:
            return charts.axis(label)
        positions, labels = self.ticks
        return charts.axis(label, self.tick_values(positions), labels, self.scale)

    @property
    def ticks(self) -> tuple[list[float], list[str]]:
        """Positions and labels of the major ticks, of one length; none if the locator fails."""
        if self._ticks is None:
            try:
                positions = [float(at) for at in numpy.atleast_1d(self.axis.get_majorticklocs())]
                # What drawing asks of the formatter, without making the artists of the ticks: that is most of its cost.
                labels = [charts.text(label) for label in self.formatter.format_ticks(positions)]
                self._ticks = positions, (labels + [""] * len(positions))[: len(positions)]
            except Exception:  # a locator that finds too many ticks, or one of the user's
                self._ticks = [], []
        return self._ticks

    def tick_values(self, positions: list[float]) -> list[Any]:
        return self.values(positions, None) if self.has_dates else [charts.number(at) for at in positions]

    @property
    def scale(self) -> str:
        if self.has_dates:
            return "datetime"
        if self.is_categorical:
            return "categorical"
        scale = str(self.axis.get_scale())
        return "categorical" if scale == "linear" and self._names_are_counted() else scale

    def _names_are_counted(self) -> bool:
        """Whether the ticks stand at 0, 1, 2 ... and each has a name that is not just its number."""
        if not self.has_own_labels:
            return False
        positions, labels = self.ticks
        numbers = [str(at) for at in range(len(positions))]
        return bool(positions) and positions == list(range(len(positions))) and labels != numbers

    @property
    def has_own_labels(self) -> bool:
        """Whether somebody named the places of the ticks, other than by numbers that follow from them."""
        if self.is_categorical:
            return True
        plain = isinstance(self.formatter, (matplotlib.ticker.ScalarFormatter, *_DATE_FORMATTERS))
        return isinstance(self.locator, matplotlib.ticker.FixedLocator) and not plain and self.freq is None

    def values(self, positions: Sequence[float], originals: Any) -> list[Any]:
        """What was plotted at these positions: numbers, names of categories, or dates as ISO 8601 text.

        originals: what the user gave, of the same length, or None. It is what dates are read from where it has any:
        a position is a float of days and knows neither nanoseconds nor whether the user meant a date or a midnight.
        """
        if self.has_dates:
            given = _dates_in(originals, len(positions))
            return [given[at] or self.date(position) for at, position in enumerate(positions)]
        if self.categories:
            return [self.categories.get(at, charts.number(at)) for at in map(float, positions)]
        return [charts.number(at) for at in positions]

    def date(self, position: float) -> str | None:
        """A position on a time axis as ISO 8601 text, with an offset only if the axis has a time zone."""
        if not math.isfinite(position):
            return None
        if self.freq is not None:
            return _period_text(self.freq, position)
        if abs(position) > _DAYS_MAX:
            return None
        epoch = numpy.datetime64(matplotlib.dates.get_epoch(), "us")
        step = 1 if abs(position) < _EXACT_DAYS else 20
        count = round(float(position) * _MICROSECONDS_A_DAY / step) * step
        moment = (epoch + numpy.timedelta64(count, "us")).item()
        if not isinstance(moment, datetime.datetime):  # years that Python does not have
            return None
        if isinstance(self.units, datetime.tzinfo):
            moment = moment.replace(tzinfo=datetime.UTC).astimezone(self.units)
        return moment.isoformat()

    def name_at(self, position: float, half_width: float = 0.0) -> str:
        """How the place of a bar or box is called: by its tick, its date, or its number."""
        if self.has_dates:
            return self.date(position) or ""
        if self.has_own_labels:
            name = self._nearest_label(position, half_width)
            if name:
                return name
        return f"{float(position):.12g}"

    def _nearest_label(self, position: float, half_width: float) -> str | None:
        if not math.isfinite(position):
            return None
        if self.categories:
            return self.categories.get(float(round(position)))
        positions, labels, gap = self._named_places
        if not positions:
            return None
        after = bisect.bisect_left(positions, position)
        near = min(
            (at for at in (after - 1, after) if 0 <= at < len(positions)), key=lambda at: abs(positions[at] - position)
        )
        return labels[near] if abs(positions[near] - position) <= max(gap / 2, half_width) else None

    @functools.cached_property
    def _named_places(self) -> tuple[list[float], list[str], float]:
        """Ticks in ascending order, their labels, and the least distance between two; infinite for one alone."""
        pairs = sorted(zip(*self.ticks, strict=True))
        positions = [at for at, _ in pairs]
        gaps = [b - a for a, b in itertools.pairwise(positions) if b > a]
        return positions, [label for _, label in pairs], min(gaps, default=math.inf)


def _period_text(freq: Any, position: float) -> str | None:
    import pandas  # is imported: it made the axis

    return str(pandas.Period(ordinal=round(position), freq=freq).to_timestamp().isoformat())


def _dates_in(originals: Any, count: int) -> list[str | None]:
    """ISO 8601 text for every original that is a date, None for the rest; all None if they are not one per position."""
    nothing: list[str | None] = [None] * count
    if originals is None:
        return nothing
    if getattr(getattr(originals, "dtype", None), "kind", "") == "M" and hasattr(originals, "tolist"):
        array = numpy.asarray(originals)
        return datetime64_texts(array[:count]) if array.ndim == 1 and len(array) >= count else nothing
    try:
        values = list(itertools.islice(originals, count))
    except TypeError:
        return nothing
    return [_date_text(value) for value in values] if len(values) == count else nothing


def datetime64_texts(array: Any) -> list[str | None]:
    """With the fewest digits that lose nothing, the same for all of them; a day is a date."""
    if numpy.datetime_data(array.dtype)[0] not in ("Y", "M", "W", "D"):
        known = array[~numpy.isnat(array)]
        for unit in ("s", "ms", "us"):
            if bool((known.astype(f"datetime64[{unit}]") == known).all()):
                array = array.astype(f"datetime64[{unit}]")
                break
    else:
        array = array.astype("datetime64[D]")
    return [None if numpy.isnat(value) else str(value) for value in array]


def _date_text(value: Any) -> str | None:
    if isinstance(value, numpy.datetime64):
        return datetime64_texts(numpy.array([value]))[0]
    if hasattr(value, "to_timestamp"):  # pandas.Period
        value = value.to_timestamp()
    if isinstance(value, datetime.date):  # pandas.NaT is one, and not equal to itself
        return value.isoformat() if value == value else None
    return None
