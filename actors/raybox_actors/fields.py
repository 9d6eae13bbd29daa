"""Typed looks into decoded JSON. Pure. Every function raises BadRequest with the field's name, and nothing else.

`null` counts as absent everywhere, as with the official clients' servers.
"""

from __future__ import annotations

import json

from raybox_actors.errors import BadRequest

Json = dict[str, object]

#: Environment variables and metadata of one request, names and values together.
MAX_MAP_CHARS = 256 * 1024
MAX_MAP_ENTRIES = 1024


def json_object(body: bytes, *, empty_ok: bool = False) -> Json:
    """The request body as a JSON object; with `empty_ok`, nothing at all means `{}`."""
    if empty_ok and not body.strip():
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("the request body is not valid JSON") from None
    if not isinstance(value, dict):
        raise BadRequest("the request body must be a JSON object")
    return value


def check_text(name: str, value: object, max_chars: int) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{name} must be a string")
    if len(value) > max_chars:
        raise BadRequest(f"{name} is longer than {max_chars} characters")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # half a surrogate pair: JSON can say it, UTF-8 cannot
            raise BadRequest(f"{name} is not valid Unicode") from None
    return value


def text(fields: Json, name: str, max_chars: int) -> str | None:
    value = fields.get(name)
    return None if value is None else check_text(name, value, max_chars)


def flag(fields: Json, name: str, default: bool) -> bool:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequest(f"{name} must be true or false")
    return value


def integer(fields: Json, name: str, low: int, high: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRequest(f"{name} must be a whole number")
    if not low <= value <= high:
        raise BadRequest(f"{name} must be between {low} and {high}")
    return value


def number(fields: Json, name: str, low: float, high: float) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BadRequest(f"{name} must be a number")
    if not low <= value <= high:
        raise BadRequest(f"{name} must be between {low:g} and {high:g}")
    return float(value)


def seconds(fields: Json, name: str, most: float) -> float | None:
    """A time that is not nothing."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise BadRequest(f"{name} must be a number above 0 and up to {most:.0f}")
    return float(value)


def mapping(fields: Json, name: str) -> Json:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"{name} must be an object")
    return value


def text_map(fields: Json, name: str) -> dict[str, str]:
    """A map of strings to strings, bounded."""
    entries = mapping(fields, name)
    if len(entries) > MAX_MAP_ENTRIES:
        raise BadRequest(f"{name} has more than {MAX_MAP_ENTRIES} entries")
    room = MAX_MAP_CHARS
    checked: dict[str, str] = {}
    for key, value in entries.items():
        if not isinstance(value, str):
            raise BadRequest(f"{name} must map strings to strings")
        checked[check_text(name, key, room)] = check_text(name, value, room)
        room -= len(key) + len(value)
        if room < 0:
            raise BadRequest(f"{name} is longer than {MAX_MAP_CHARS} characters")
    return checked


def environment(fields: Json, name: str) -> dict[str, str]:
    """A text map whose entries can be environment variables."""
    variables = text_map(fields, name)
    for key, value in variables.items():
        if not key or "=" in key or "\0" in key or "\0" in value:
            raise BadRequest(f"{name}: {key[:64]!r} cannot be an environment variable")
    return variables


def refuse(fields: Json, *names: str) -> None:
    """Refuse what is not supported yet, unless it says nothing (null, false, empty)."""
    for name in names:
        if fields.get(name):
            raise BadRequest(f"{name} is not supported yet")
