"""What the sandboxes' resolver must understand of DNS messages (RFC 1035). Pure; the bytes are untrusted."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

A, NS, CNAME, AAAA, OPT, SVCB, HTTPS, ANY = 1, 2, 5, 28, 41, 64, 65, 255
NOERROR, SERVFAIL, NXDOMAIN, NOTIMP = 0, 2, 3, 4
CLASS_IN = 1
MAX_MESSAGE_BYTES = 4096
MAX_NAME_BYTES = 255
#: What a client can take over UDP that says nothing, and what we ask upstream for (the size that is not fragmented).
PLAIN_BYTES, ASKED_BYTES = 512, 1232
#: Of one answer that is looked at; more than any name has.
MAX_RECORDS = 128

_HEADER = struct.Struct("!HHHHHH")
_QR, _OPCODE, _TC, _RD, _RA = 0x8000, 0x7800, 0x0200, 0x0100, 0x0080


class Malformed(ValueError):
    """No DNS message that we would have to answer."""


@dataclass(frozen=True, slots=True)
class Query:
    """One question of a client. `name` is lower case, without a dot at the end; `question` is its bytes on the wire."""

    number: int
    name: str
    kind: int
    question: bytes
    room: int  #: bytes of the answer that the client can take over UDP


@dataclass(frozen=True, slots=True)
class Answer:
    """What an upstream server said. `message` has every time to live cut to `max_ttl_s` and an id of 0."""

    message: bytes
    addresses: tuple[IPv4Address, ...]
    truncated: bool


def parse_query(message: bytes) -> Query:
    """Raises Malformed."""
    number, flags, questions, answers, authorities, additional = _header(message)
    if flags & (_QR | _OPCODE) or questions != 1 or answers or authorities or additional > 4:
        raise Malformed("not a plain query")
    name, offset = _name(message, _HEADER.size)
    kind, of_class = _shorts(message, offset)
    if of_class != CLASS_IN:
        raise Malformed("not of the internet")
    end = offset + 4
    return Query(number, name, kind, message[_HEADER.size : end], _room(message, end, additional))


def _room(message: bytes, offset: int, records: int) -> int:
    for _ in range(records):
        _, offset = _name(message, offset)
        kind, size = _shorts(message, offset)
        if kind == OPT:
            return max(PLAIN_BYTES, min(size, MAX_MESSAGE_BYTES))
        offset += 10 + _shorts(message, offset + 6)[1]
    return PLAIN_BYTES


def upstream_query(query: Query, number: int) -> bytes:
    """The same question under another id, saying how much we can take."""
    option = b"\0" + struct.pack("!HHIH", OPT, ASKED_BYTES, 0, 0)
    return _HEADER.pack(number, _RD, 1, 0, 0, 1) + query.question + option


def reply(query: Query, code: int) -> bytes:
    """An answer without records."""
    return _HEADER.pack(query.number, _QR | _RD | _RA | code, 1, 0, 0, 0) + query.question


def parse_answer(message: bytes, query: Query, number: int, max_ttl_s: int) -> Answer:
    """Raises Malformed, also if it is no answer to this question."""
    got, flags, questions, answers, authorities, additional = _header(message)
    if got != number or not flags & _QR or questions != 1:
        raise Malformed("not the answer to our question")
    name, offset = _name(message, _HEADER.size)
    if name != query.name or _shorts(message, offset) != (query.kind, CLASS_IN):
        raise Malformed("the answer to another question")
    offset += 4
    kept = bytearray(message)
    kept[0:2] = b"\0\0"
    addresses: list[IPv4Address] = []
    if answers + authorities + additional > MAX_RECORDS:
        raise Malformed("too many records")
    for index in range(answers + authorities + additional):
        _, offset = _name(message, offset)
        kind, of_class = _shorts(message, offset)
        ttl_s, size = struct.unpack_from("!IH", _need(message, offset + 4, 6), offset + 4)
        start = offset + 10
        _need(message, start, size)
        if kind != OPT and ttl_s > max_ttl_s:
            struct.pack_into("!I", kept, offset + 4, max_ttl_s)
        if index < answers and (kind, of_class, size) == (A, CLASS_IN, 4):
            addresses.append(IPv4Address(message[start : start + 4]))
        offset = start + size
    return Answer(bytes(kept[:offset]), tuple(addresses), bool(flags & _TC))


def fitted(answer: Answer, query: Query, room: int | None) -> bytes:
    """The answer for the client that asked. room: its bytes over UDP; None over TCP."""
    message = bytearray(answer.message)
    struct.pack_into("!H", message, 0, query.number)
    if room is None:
        message[2] &= ~(_TC >> 8) & 0xFF
    elif len(message) > room:
        return _HEADER.pack(query.number, _QR | _TC | _RD | _RA, 1, 0, 0, 0) + query.question
    return bytes(message)


def _header(message: bytes) -> tuple[int, int, int, int, int, int]:
    if not _HEADER.size <= len(message) <= MAX_MESSAGE_BYTES:
        raise Malformed("too short or too long")
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(message)
    return number, flags, questions, answers, authorities, additional


def _need(message: bytes, offset: int, size: int) -> bytes:
    if offset + size > len(message):
        raise Malformed("cut short")
    return message


def _shorts(message: bytes, offset: int) -> tuple[int, int]:
    first, second = struct.unpack_from("!HH", _need(message, offset, 4), offset)
    return first, second


def _name(message: bytes, offset: int) -> tuple[str, int]:
    """The name at `offset`, and where what follows it begins. Pointers may only point back, so that it ends."""
    labels: list[str] = []
    length, end, bound = 0, -1, offset
    while True:
        size = _need(message, offset, 1)[offset]
        if size >= 0xC0:
            target = (size & 0x3F) << 8 | _need(message, offset, 2)[offset + 1]
            if target >= bound:
                raise Malformed("a pointer that leads nowhere")
            end = offset + 2 if end < 0 else end
            offset = bound = target
            continue
        if size > 63:
            raise Malformed("a label of an unknown kind")
        if not size:
            return ".".join(labels), offset + 1 if end < 0 else end
        length += size + 1
        if length > MAX_NAME_BYTES:
            raise Malformed("a name that is too long")
        label = _need(message, offset + 1, size)[offset + 1 : offset + 1 + size]
        if b"." in label or not label.isascii():
            raise Malformed("a label that cannot be written")
        labels.append(label.decode("ascii").lower())
        offset += size + 1
