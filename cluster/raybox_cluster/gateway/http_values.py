"""Headers of file transfers: ranges, encodings, names (RFC 9110, 6266; contract 4.3). Pure."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from raybox_actors.errors import BadRequest

from .asgi import Headers

MAX_METADATA_KEY_BYTES: Final = 246
MAX_METADATA_BYTES: Final = 4096
_METADATA_PREFIX: Final = b"x-metadata-"

_RANGE = re.compile(rb"bytes=(\d{0,18})-(\d{0,18})")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class RangeNotSatisfiable(Exception):
    """Nothing of the file is within the asked range. HTTP 416."""


def parse_range(value: bytes | None, size: int) -> tuple[int, int] | None:
    """Offset and length of a single range of a file of `size` bytes; None for all of it, also if the header asks for
    several ranges or says nothing that can be understood. Raises RangeNotSatisfiable."""
    match = _RANGE.fullmatch(value.strip()) if value else None
    if match is None:
        return None
    first, last = match.groups()
    if not first:
        if not last:
            return None
        length = min(int(last), size)
        if not length:
            raise RangeNotSatisfiable
        return size - length, length
    start, end = int(first), int(last) if last else size - 1
    if last and end < start:
        return None
    if start >= size:
        raise RangeNotSatisfiable
    return start, min(end, size - 1) - start + 1


def acceptable_encoding(value: bytes | None) -> str | None:
    """ "gzip" if the client takes it, else "identity"; None if it takes neither."""
    if value is None:
        return "identity"
    weights: dict[bytes, float] = {}
    for item in value.lower().split(b","):
        name, *parameters = (part.strip() for part in item.split(b";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith(b"q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        if name:
            weights[name] = weight
    if max(weights.get(b"gzip", 0.0), weights.get(b"x-gzip", 0.0)) > 0:
        return "gzip"
    if weights.get(b"*", 0.0) > 0 and b"gzip" not in weights:
        return "gzip"
    return "identity" if weights.get(b"identity", weights.get(b"*", 1.0)) > 0 else None


def inline_disposition(name: str) -> str:
    """Content-Disposition of a file to be shown under its own name."""
    if _TOKEN.fullmatch(name):
        return f"inline; filename={name}"
    if name.isascii() and name.isprintable():
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        return f'inline; filename="{escaped}"'
    return f"inline; filename*=utf-8''{quote(name, safe='', errors='surrogateescape')}"


def metadata_of(headers: Headers) -> dict[str, str]:
    """X-Metadata-* headers by lower-case key. Raises BadRequest for what cannot be kept."""
    found: dict[str, str] = {}
    room = MAX_METADATA_BYTES
    for name, value in headers.items():
        if not name.startswith(_METADATA_PREFIX):
            continue
        key = name[len(_METADATA_PREFIX) :]
        if not 0 < len(key) <= MAX_METADATA_KEY_BYTES:
            raise BadRequest(f"a metadata key must have 1 to {MAX_METADATA_KEY_BYTES} bytes")
        if not all(0x20 <= byte <= 0x7E for byte in key + value):
            raise BadRequest("metadata must be printable ASCII")
        room -= len(key) + len(value)
        if room < 0:
            raise BadRequest(f"metadata is longer than {MAX_METADATA_BYTES} bytes")
        found[key.decode("ascii")] = value.decode("ascii")
    return found
