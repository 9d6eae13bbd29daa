"""Reading protobuf messages in their JSON form (contract 4.4). Pure. Raises BadRequest, with the field's name, only.

Senders leave out what has its default value, may write names in either case, 64-bit numbers as text and enumerations as
numbers; fields that nobody knows are ignored.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping

from raybox_actors.errors import BadRequest
from raybox_actors.fields import Json, check_text, json_object

_INTEGER = re.compile(r"-?\d{1,20}")
_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


class Message:
    """A message by its lowerCamelCase names. Absent, null and default are the same, except where a default is given."""

    __slots__ = ("_fields", "_where")

    def __init__(self, fields: Mapping[str, object], where: str = "") -> None:
        self._fields, self._where = fields, where

    @staticmethod
    def parse(body: bytes) -> Message:
        """An empty body is an empty message."""
        return Message(json_object(body, empty_ok=True))

    def has(self, name: str) -> bool:
        return self._value(name) is not None

    def text(self, name: str, max_chars: int = 1024 * 1024) -> str:
        value = self._value(name)
        return "" if value is None else _clean(self._where + name, check_text(self._where + name, value, max_chars))

    def flag(self, name: str, default: bool = False) -> bool:
        value = self._value(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise BadRequest(f"{self._where}{name} must be true or false")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        """0 if absent."""
        value = self._value(name)
        if value is None:
            return 0
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            value = int(value)
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise BadRequest(f"{self._where}{name} must be a whole number")
        if not low <= value <= high:
            raise BadRequest(f"{self._where}{name} must be between {low} and {high}")
        return value

    def data(self, name: str) -> bytes:
        """Base64 of either alphabet, padded or not."""
        value = self._value(name)
        if value is None:
            return b""
        if not isinstance(value, str):
            raise BadRequest(f"{self._where}{name} must be base64")
        try:
            plain = value.encode("ascii").translate(_URL_SAFE).rstrip(b"=")
            return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
        except (ValueError, binascii.Error):
            raise BadRequest(f"{self._where}{name} must be base64") from None

    def message(self, name: str) -> Message | None:
        value = self._value(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise BadRequest(f"{self._where}{name} must be an object")
        return Message(value, f"{self._where}{name}.")

    def texts(self, name: str, max_count: int = 65536) -> tuple[str, ...]:
        value = self._value(name)
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > max_count:
            raise BadRequest(f"{self._where}{name} must be a list of at most {max_count} strings")
        where = self._where + name
        return tuple(_clean(where, check_text(where, item, 1024 * 1024)) for item in value)

    def text_map(self, name: str, max_count: int = 65536) -> dict[str, str]:
        value = self._value(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or len(value) > max_count:
            raise BadRequest(f"{self._where}{name} must map at most {max_count} strings to strings")
        where = self._where + name
        return {
            _clean(where, check_text(where, key, 1024 * 1024)): _clean(where, check_text(where, item, 1024 * 1024))
            for key, item in value.items()
        }

    def enum(self, name: str, numbers: Mapping[str, int]) -> int:
        """The number of a value given as name or number. A number may be one that is not in `numbers`."""
        value = self._value(name)
        if isinstance(value, str) and not _INTEGER.fullmatch(value):
            try:
                return numbers[value]
            except KeyError:
                raise BadRequest(f"{self._where}{name} has no value {value[:64]!r}") from None
        return self.integer(name, -(2**31), 2**31 - 1)

    def _value(self, name: str) -> object:
        value = self._fields.get(name)
        return self._fields.get(_CAPITAL.sub("_", name).lower()) if value is None else value


def _clean(where: str, text: str) -> str:
    """No name, path, argument or variable of an operating system can hold a NUL."""
    if "\0" in text:
        raise BadRequest(f"{where} must not contain NUL")
    return text


def dump(message: Json) -> bytes:
    """ASCII: what is not is escaped, lone surrogates too."""
    return json.dumps(message, separators=(",", ":")).encode("ascii")
