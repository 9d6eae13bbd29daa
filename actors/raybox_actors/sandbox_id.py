"""Sandbox ids: the address of the actor, a random part and a keyed tag, as one DNS-safe word.

    i  0123456789ab  000c    00002f  8f3k2q0z7x  p4m1w9ab
       node (hex)    slot    epoch   random      tag          numbers in base 36, every field of fixed width

Whoever knows the pool's secret can tell a genuine id from any other text without asking anybody, and finds the actor
by name from it. An id is no permission by itself, but it cannot be guessed: 51 random bits and a tag of 41.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_NODE, _SLOT, _EPOCH, _RANDOM, _TAG = 12, 4, 6, 10, 8

#: Every id has this length, which leaves room for a "65535-" before it in a DNS label of 63.
LENGTH: Final = 1 + _NODE + _SLOT + _EPOCH + _RANDOM + _TAG
MAX_SLOT: Final = 36**_SLOT - 1
MAX_EPOCH: Final = 36**_EPOCH - 1
#: Bytes of entropy that `mint` wants: more than the random part holds, so that the reduction has no visible bias.
ENTROPY_BYTES: Final = 10

_SHAPE: Final = re.compile(
    rf"i([0-9a-f]{{{_NODE}}})([0-9a-z]{{{_SLOT}}})([0-9a-z]{{{_EPOCH}}})([0-9a-z]{{{_RANDOM}}})([0-9a-z]{{{_TAG}}})"
)


@dataclass(frozen=True, slots=True)
class SandboxId:
    """An id taken apart. `node` is the first twelve hex digits of Ray's node id."""

    node: str
    slot: int
    epoch: int
    random: str
    tag: str

    def __str__(self) -> str:
        return f"i{self.node}{_base36(self.slot, _SLOT)}{_base36(self.epoch, _EPOCH)}{self.random}{self.tag}"


def mint(secret: bytes, node_id: str, slot: int, epoch: int, entropy: bytes) -> str:
    """A new id for the sandbox of `epoch` in `slot`.

    node_id: Ray's, in hex, at least twelve digits. entropy: at least ENTROPY_BYTES from the system's source.
    ValueError for what an id cannot hold.
    """
    node = node_id[:_NODE]
    if not re.fullmatch(rf"[0-9a-f]{{{_NODE}}}", node):
        raise ValueError(f"node_id is not lowercase hex of at least {_NODE} digits: {node_id[:80]!r}")
    if not (0 <= slot <= MAX_SLOT and 0 <= epoch <= MAX_EPOCH):
        raise ValueError(f"slot {slot} or epoch {epoch} out of range")
    if len(entropy) < ENTROPY_BYTES:
        raise ValueError(f"{len(entropy)} bytes of entropy; {ENTROPY_BYTES} needed")
    random = _base36(int.from_bytes(entropy, "big") % 36**_RANDOM, _RANDOM)
    body = f"i{node}{_base36(slot, _SLOT)}{_base36(epoch, _EPOCH)}{random}"
    return body + _tag(secret, body)


def parse(text: str) -> SandboxId | None:
    """The parts of `text` if it has the form of an id, genuine or not; None for any other text. Never raises."""
    if len(text) != LENGTH:
        return None
    match = _SHAPE.fullmatch(text)
    if match is None:
        return None
    node, slot, epoch, random, tag = match.groups()
    return SandboxId(node, int(slot, 36), int(epoch, 36), random, tag)


def verify(secret: bytes, text: str) -> SandboxId | None:
    """The parts of `text` if it is an id minted with `secret`; None otherwise. The tag is compared in constant time."""
    parts = parse(text)
    if parts is None or not hmac.compare_digest(_tag(secret, text[:-_TAG]), parts.tag):
        return None
    return parts


def _tag(secret: bytes, body: str) -> str:
    digest = hmac.digest(secret, body.encode("ascii"), hashlib.sha256)
    return _base36(int.from_bytes(digest, "big") % 36**_TAG, _TAG)


def _base36(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
