"""Data frames of pandas and polars to plain data: a dict from column to list of values."""

from __future__ import annotations

import datetime
import json
import math
import sys
from collections.abc import Sized
from typing import Any

from raybox_extractor import _limits
from raybox_extractor.plain import INT_MAX, INT_MIN, Converter, NotPlain, equals_itself, to_plain

#: The MIME type of what `extract_frame` returns.
MIME = "e2b/data"
#: The column that is added, last, when something was cut. Its first value says what.
TRUNCATED = "__truncated__"


def extract_frame(frame: Any, index: bool = False) -> dict[str, list[Any]]:
    """A pandas or polars DataFrame as a dict from column name to the list of its values, all lists of one length.

    Dates and times become ISO 8601 text; NaN, NaT, NA and infinities None; what JSON does not know becomes text. Of
    columns with the same name the second is called `name.1`; the levels of a MultiIndex are joined with " / ". A frame
    that crosses a bound of `_limits` loses rows or columns from its end, and a column `__truncated__` says so.
    index: whether the levels of a pandas index come first, as columns; a level without a name is called `index`.
    """
    levels = (
        [frame.index.get_level_values(at) for at in range(frame.index.nlevels)]
        if index and hasattr(frame, "index")
        else []
    )
    rows_total, columns_total = int(frame.shape[0]), int(frame.shape[1]) + len(levels)
    columns = min(columns_total, _limits.FRAME_COLUMNS_MAX)
    rows = min(rows_total, _limits.FRAME_ROWS_MAX, _limits.FRAME_CELLS_MAX // max(columns, 1))

    keys, lists = _head(frame, levels, rows, columns)
    names = _unique_names(keys)
    plain = _Cells().plain
    data = {name: [plain(value) for value in values] for name, values in zip(names, lists, strict=True)}

    kept = _rows_that_fit(data, rows)
    if kept < rows:
        data = {name: values[:kept] for name, values in data.items()}
    if kept < rows_total or columns < columns_total:
        note = f"{kept} of {rows_total} rows, {columns} of {columns_total} columns"
        data[_free_name(TRUNCATED, data)] = [note, *[None] * (kept - 1)][:kept]
    return data


def _head(frame: Any, levels: list[Any], rows: int, columns: int) -> tuple[list[Any], list[list[Any]]]:
    """Names and values of the first columns, those of the index before all others."""
    if hasattr(frame, "iloc"):
        levels = levels[:columns]
        head = frame.iloc[:rows, : columns - len(levels)]
        keys = ["index" if level.name is None else level.name for level in levels] + head.columns.tolist()
        lists = [level[:rows].tolist() for level in levels]
        return keys, lists + [head.iloc[:, at].tolist() for at in range(head.shape[1])]
    return list(frame.columns)[:columns], [frame.to_series(at).head(rows).to_list() for at in range(columns)]


class _Cells:
    """The values of one frame; the containers among them share the bounds of one plain list."""

    def __init__(self) -> None:
        self.converter = Converter()

    def plain(self, value: Any) -> Any:
        kind = type(value)
        if kind is float:
            return value if math.isfinite(value) else None
        if kind is str:
            return _cut(value, _limits.FRAME_CELL_CHARS_MAX)
        if kind is bool or value is None:
            return value
        if kind is int and INT_MIN <= value <= INT_MAX:
            return value
        if isinstance(value, datetime.datetime):  # by far the most frequent of the rest; NaT is one too
            return value.isoformat() if equals_itself(value) else None
        if isinstance(value, datetime.timedelta):
            return _text(value)
        if _is_missing(value):
            return None
        if isinstance(value, Sized) and not isinstance(value, (str, bytes)):
            return self.container(value)
        try:
            plain = to_plain(value)
        except Exception:  # not plain, or the user's own methods fail
            plain = _text(value)
        return _cut(plain, _limits.FRAME_CELL_CHARS_MAX) if isinstance(plain, str) else plain

    def container(self, value: Any) -> Any:
        try:
            count = len(value)
            if count <= _limits.FRAME_CELL_ITEMS_MAX:
                return self.converter.convert(value, 0)
        except NotPlain:
            if self.converter.items_left > 0 and self.converter.chars_left > 0:
                return _cut(_text(value), _limits.FRAME_CELL_CHARS_MAX)
        except Exception:  # the user's own methods
            return f"<{type(value).__name__}>"
        return f"<{type(value).__name__} of {count} items>"


def _is_missing(value: Any) -> bool:
    pandas = sys.modules.get("pandas")
    if pandas is None:
        return False
    try:
        return pandas.isna(value) is True  # an array for containers
    except Exception:  # a container whose own methods fail
        return False


def _text(value: Any) -> str:
    try:
        return str(value[: _limits.FRAME_CELL_CHARS_MAX] if isinstance(value, bytes) else value)
    except Exception:  # the user's __str__
        return f"<{type(value).__name__}>"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... [{len(text) - limit} characters more]"


def _unique_names(keys: list[Any]) -> list[str]:
    names: dict[str, None] = {}
    for key in keys:
        names[_free_name(_name(key), names)] = None
    return list(names)


def _name(key: Any) -> str:
    if isinstance(key, tuple):
        key = " / ".join(_name(level) for level in key if level != "")
    elif hasattr(key, "isoformat"):
        key = key.isoformat()
    return _cut(_text(key), _limits.FRAME_KEY_CHARS_MAX)


def _free_name(name: str, taken: dict[str, Any]) -> str:
    if name not in taken:
        return name
    number = 1
    while f"{name}.{number}" in taken:
        number += 1
    return f"{name}.{number}"


def _rows_that_fit(data: dict[str, list[Any]], rows: int) -> int:
    """A number of rows that stays within the bound on bytes, and close to it if rows are of one size."""
    allowed = _limits.FRAME_BYTES_MAX - len(json.dumps(list(data)))
    while rows:
        size = sum(len(json.dumps(values[:rows])) for values in data.values())
        if size <= allowed:
            break
        rows = min(rows - 1, max(0, rows * allowed // size))
    return rows
