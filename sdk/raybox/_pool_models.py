"""What a pool says of itself, and of sandboxes that were to be created together: plain values, without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self


@dataclass(frozen=True)
class PoolCapacity:
    """What this key may start at this moment; the next may be different.

    available: sandboxes that it may start without waiting, `warm` of them ready before they are asked for. live: its
    own, those that are being made included. limit: how many its quota lets it have at once, None: as many as the pool.
    waiting: creates of all keys that wait. retry_after_s: with none available, when there may be; else 0. pool_live:
    sandboxes of all keys. pool_limit: how many the pool may grow to.
    """

    available: int
    warm: int
    live: int
    limit: int | None
    waiting: int
    retry_after_s: float
    pool_live: int
    pool_limit: int

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Raises KeyError. What a newer server says beyond it is ignored."""
        return cls(**{one.name: data[one.name] for one in fields(cls)})


@dataclass(frozen=True)
class MemberReport:
    """What had become of one of several sandboxes when creating them together failed; none of them is left.

    index: of the sandbox, from 0. state: `ready` (and given back), `failed` (the others were given back because of it),
    `not_started`. reason: one line, empty if there is nothing to say.
    """

    index: int
    state: Literal["ready", "failed", "not_started"]
    reason: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Raises KeyError."""
        return cls(data["index"], data["state"], data["reason"])
