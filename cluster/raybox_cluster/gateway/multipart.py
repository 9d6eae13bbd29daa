"""multipart/form-data, read as it arrives (RFC 7578; contract 4.3). Pure: bytes in, parts out.

Written for uploads: a file's name is a path and may hold slashes and raw UTF-8, or be missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

from raybox_actors.errors import BadRequest

MAX_BOUNDARY_BYTES: Final = 200
MAX_PART_HEADER_BYTES: Final = 16 * 1024
MAX_PARTS: Final = 10_000
MAX_PREAMBLE_BYTES: Final = 4096

_PARAMETER = re.compile(rb';[ \t]*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\\r\n]|\\.)*)"|([^";\r\n\s]*))[ \t]*')


@dataclass(frozen=True, slots=True)
class PartStarted:
    """`name` of the form's field; `filename` None if the part says none."""

    name: str
    filename: str | None


@dataclass(frozen=True, slots=True)
class PartData:
    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnded:
    pass


Event = PartStarted | PartData | PartEnded


def boundary_of(content_type: bytes) -> bytes:
    """Raises BadRequest if there is none, or one that nobody may use."""
    boundary = _parameters(content_type).get(b"boundary", b"")
    if not 0 < len(boundary) <= MAX_BOUNDARY_BYTES:
        raise BadRequest("multipart/form-data needs a boundary of 1 to 200 characters")
    return boundary


class MultipartReader:
    """Feed it the body; it yields what is in it. Holds no more than a delimiter's length of a part, or its headers."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._held = bytearray(b"\r\n")  # the first delimiter may stand at the very beginning
        self._state: Literal["preamble", "delimited", "headers", "data", "epilogue"] = "preamble"
        self._parts = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """Events in order; the caller takes them all before it feeds again. Raises BadRequest."""
        if self._state == "epilogue":
            return
        self._held += data
        while True:
            before = self._state
            match before:
                case "preamble":
                    self._preamble()
                case "delimited":
                    self._delimited()
                case "headers":
                    if (part := self._headers()) is not None:
                        yield part
                case "data":
                    yield from self._data()
                case "epilogue":
                    self._held.clear()
            if self._state == before:
                return

    def finish(self) -> None:
        """To be called at the end of the body. Raises BadRequest if the last delimiter did not come."""
        if self._state != "epilogue":
            raise BadRequest("the multipart body ended before its last boundary")

    def _preamble(self) -> None:
        at = self._held.find(self._delimiter)
        if at >= 0:
            del self._held[: at + len(self._delimiter)]
            self._state = "delimited"
        elif len(self._held) > MAX_PREAMBLE_BYTES:
            raise BadRequest("the multipart body does not begin with its boundary")

    def _delimited(self) -> None:
        """After a delimiter: the end of its line, or `--` for the last one."""
        if self._held.startswith(b"--"):
            self._state = "epilogue"
            return
        at = self._held.find(b"\r\n")
        if at < 0:
            if len(self._held) > MAX_PREAMBLE_BYTES:
                raise BadRequest("a multipart boundary is followed by something else")
            return
        if self._held[:at].strip(b" \t"):
            raise BadRequest("a multipart boundary is followed by something else")
        del self._held[:at]  # the line break stays: a part may have no headers at all
        self._state = "headers"

    def _headers(self) -> PartStarted | None:
        at = self._held.find(b"\r\n\r\n")
        if at > MAX_PART_HEADER_BYTES or (at < 0 and len(self._held) > MAX_PART_HEADER_BYTES):
            raise BadRequest(f"the headers of a part are longer than {MAX_PART_HEADER_BYTES} bytes")
        if at < 0:
            return None
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BadRequest(f"the body has more than {MAX_PARTS} parts")
        part = _part(bytes(self._held[:at]))
        del self._held[: at + 4]
        self._state = "data"
        return part

    def _data(self) -> Iterator[Event]:
        at = self._held.find(self._delimiter)
        if at >= 0:
            if at:
                yield PartData(bytes(self._held[:at]))
            yield PartEnded()
            del self._held[: at + len(self._delimiter)]
            self._state = "delimited"
            return
        keep = len(self._delimiter) - 1
        if len(self._held) > keep:
            yield PartData(bytes(self._held[:-keep]))
            del self._held[:-keep]


def _part(headers: bytes) -> PartStarted:
    for line in headers.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            parameters = _parameters(value)
            filename = parameters.get(b"filename")
            if (extended := parameters.get(b"filename*")) is not None:
                filename = _extended(extended)
            return PartStarted(_text(parameters.get(b"name", b"")), None if filename is None else _text(filename))
    raise BadRequest("a part has no Content-Disposition")


def _parameters(value: bytes) -> dict[bytes, bytes]:
    """By lower-case name. What is no parameter ends them."""
    found: dict[bytes, bytes] = {}
    at = value.find(b";")
    while at >= 0 and (match := _PARAMETER.match(value, at)):
        name, quoted, bare = match.groups()
        # Browsers and HTTP libraries escape quotes as %22 or with a backslash; a backslash before anything else is one.
        text = bare if quoted is None else quoted.replace(b'\\"', b'"').replace(b"\\\\", b"\\")
        found.setdefault(name.lower(), text)
        at = match.end()
    return found


def _extended(value: bytes) -> bytes:
    charset, _, rest = value.partition(b"'")
    if charset.lower() not in (b"utf-8", b"us-ascii"):
        raise BadRequest("filename* must be UTF-8")
    return unquote_to_bytes(rest.partition(b"'")[2])


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadRequest("the name of a part is not UTF-8") from None
