"""Python objects to plain JSON values: lists, dicts with string keys, text, finite numbers, booleans and None.

numpy is looked at only when something else has imported it.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
import sys
from typing import Any

from raybox_extractor import _limits

#: Beyond these, readers of JSON disagree about what a number is.
INT_MIN, INT_MAX = -(2**63), 2**64 - 1


class NotPlain(Exception):
    """The object has no faithful form as JSON, or one that is too large."""


def to_plain(obj: object) -> Any:
    """The object as JSON values. Raises NotPlain; also passes on what the object's own methods raise.

    Tuples become lists, dates and times ISO 8601 text, NaN and infinities None, enum members their values, dataclass
    instances dicts, numpy scalars and arrays numbers and nested lists. Keys become text: 1 -> "1", True -> "true",
    None -> "null". Refused: everything else, cycles, integers of more than 64 bits, keys that collide as text, and
    what crosses a bound of `_limits`.
    """
    return Converter().convert(obj, 0)


def plain_or_none(obj: object) -> Any:
    """As `to_plain`, with None for whatever has no form as JSON. Never raises an Exception."""
    try:
        return to_plain(obj)
    except Exception:  # the user's own __iter__, __str__ and so on may raise anything, RecursionError included
        return None


class Converter:
    """Conversions that share their bounds: what is left of them."""

    def __init__(self) -> None:
        self.items_left = _limits.JSON_ITEMS_MAX
        self.chars_left = _limits.JSON_CHARS_MAX

    def convert(self, obj: Any, depth: int) -> Any:
        kind = type(obj)
        if kind is str:
            return self.text(obj)
        if kind is bool or obj is None:
            return obj
        if kind is int:
            return _integer(obj)
        if kind is float:
            return obj if math.isfinite(obj) else None
        if kind is list or kind is tuple:
            return self.sequence(obj, depth)
        if kind is dict:
            return self.mapping(obj, depth)
        return self.other(obj, depth)

    def other(self, obj: Any, depth: int) -> Any:
        if isinstance(obj, enum.Enum):
            return self.convert(obj.value, self.deeper(depth))
        if isinstance(obj, str):
            return self.text(str.__str__(obj))
        if isinstance(obj, int):
            return _integer(int(obj))
        if isinstance(obj, (list, tuple)):
            return self.sequence(obj, depth)
        if isinstance(obj, dict):
            return self.mapping(obj, depth)
        if isinstance(obj, (datetime.date, datetime.time)):
            # pandas.NaT is a datetime that is not equal to itself.
            return self.text(obj.isoformat()) if equals_itself(obj) else None
        if is_numpy(obj, "generic"):  # before float, which numpy.float64 is too
            return self.convert(_numpy_scalar(obj), self.deeper(depth))
        if isinstance(obj, float):
            return float(obj) if math.isfinite(obj) else None
        if is_numpy(obj, "ndarray"):
            return self.array(obj, depth)
        if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
            names = [field.name for field in dataclasses.fields(obj)]
            return self.mapping({name: getattr(obj, name) for name in names}, depth)
        uuid = sys.modules.get("uuid")
        if uuid is not None and isinstance(obj, uuid.UUID):
            return self.text(str(obj))
        raise NotPlain(f"{type(obj).__name__} has no form as JSON")

    def sequence(self, obj: Any, depth: int) -> list[Any]:
        self.spend_items(len(obj))
        depth = self.deeper(depth)
        convert = self.convert
        return [convert(item, depth) for item in obj]

    def mapping(self, obj: dict[Any, Any], depth: int) -> dict[str, Any]:
        self.spend_items(2 * len(obj))
        depth = self.deeper(depth)
        plain = {self.key(key): self.convert(value, depth) for key, value in obj.items()}
        if len(plain) != len(obj):
            raise NotPlain("keys that are different in Python are the same as text")
        return plain

    def array(self, obj: Any, depth: int) -> Any:
        self.spend_items(int(obj.size))
        # Before tolist(), which would make a recursion of as many levels as there are dimensions.
        if depth + obj.ndim > _limits.JSON_DEPTH_MAX:
            raise NotPlain("too deep")
        if obj.dtype.kind == "M":
            return self.convert(_datetimes(obj).tolist(), self.deeper(depth))
        if obj.dtype.kind not in "biufUO":
            raise NotPlain(f"an array of {obj.dtype} has no form as JSON")
        return self.convert(obj.tolist(), self.deeper(depth))

    def key(self, key: Any) -> str:
        if type(key) is str:
            return self.text(key)
        if isinstance(key, (list, tuple, dict)):
            raise NotPlain("a container is no key")
        plain = self.convert(key, 0)
        if isinstance(plain, bool) or plain is None:
            return {True: "true", False: "false", None: "null"}[plain]
        if isinstance(plain, (str, int, float)):
            return str(plain)
        raise NotPlain(f"{type(key).__name__} is no key")

    def text(self, text: str) -> str:
        self.chars_left -= len(text)
        if self.chars_left < 0:
            raise NotPlain("too much text")
        return text

    def spend_items(self, count: int) -> None:
        self.items_left -= count
        if self.items_left < 0:
            raise NotPlain("too many items")

    def deeper(self, depth: int) -> int:
        if depth >= _limits.JSON_DEPTH_MAX:
            raise NotPlain("too deep")
        return depth + 1


def is_numpy(obj: object, name: str) -> bool:
    """Whether `obj` is an instance of numpy's class of that name; False while numpy is not imported."""
    numpy = sys.modules.get("numpy")
    kind = getattr(numpy, name, None) if numpy else None
    return isinstance(kind, type) and isinstance(obj, kind)


def _numpy_scalar(obj: Any) -> Any:
    if obj.dtype.kind == "M":
        return _datetimes(obj).item()
    if obj.dtype.kind not in "biufU":
        raise NotPlain(f"{obj.dtype} has no form as JSON")
    value = obj.item()
    # longdouble.item() is a longdouble again.
    return value if isinstance(value, (bool, int, float, str)) else float(value)


def _datetimes(obj: Any) -> Any:
    """datetime64 values as an object array of ISO text and None."""
    numpy = sys.modules["numpy"]
    return numpy.where(numpy.isnat(obj), None, numpy.datetime_as_string(obj).astype(object))


def _integer(value: int) -> int:
    if INT_MIN <= value <= INT_MAX:
        return value
    raise NotPlain("an integer of more than 64 bits")


def equals_itself(obj: object) -> bool:
    """False for what stands for "missing": NaN and pandas.NaT."""
    return bool(obj == obj)
