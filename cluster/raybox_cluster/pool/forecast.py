"""When slots will come free, as far as can be told. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: What happened longer ago says nothing of the rate at which slots come free.
WINDOW_S: Final = 60.0
#: Some that came free at once are no rate yet.
SPAN_LEAST_S: Final = 1.0


def free_in_s(
    wanted: int, *, coming: int, freed_at_s: Sequence[float], ends_at_s: Sequence[float], now_s: float
) -> float | None:
    """In how many seconds `wanted` slots will have come free; None if nothing is known that could tell.

    coming: how many are about to. freed_at_s: when slots came free lately, oldest first. ends_at_s: deadlines of the
    sandboxes that live, the next first. They end by then unless somebody extends them, and at the recent rate before.
    """
    wanted -= coming
    if wanted <= 0:
        return 0.0
    guesses: list[float] = []
    recent = [at_s for at_s in freed_at_s if at_s > now_s - WINDOW_S]
    if len(recent) > 1:
        guesses.append(wanted * max(SPAN_LEAST_S, now_s - recent[0]) / (len(recent) - 1))
    if len(ends_at_s) >= wanted:
        guesses.append(max(0.0, ends_at_s[wanted - 1] - now_s))
    return min(guesses, default=None)
