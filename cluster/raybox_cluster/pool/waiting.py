"""Who is served next when claims wait for slots. Pure.

Each owner (API key) has a line of its own, first come, first served. A free slot goes to the owner who holds the
fewest for its weight, so that slots are shared max-min fairly, however many claims anybody makes and however long its
sandboxes live; what is held can be counted anew by a new manager. Owners who hold equally much take turns by their
weights (start-time fair queueing), which is what keeps a pool of a few, quickly changing slots fair.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain


@dataclass(slots=True)
class Line:
    """One owner's, never empty."""

    weight: float
    start: float  #: virtual time at which its first claim may be served
    claims: OrderedDict[str, None] = field(default_factory=OrderedDict)


@dataclass
class WaitingLine:
    """Claims by id. A claim is in it at most once."""

    lines: dict[str, Line] = field(default_factory=dict)
    #: Were served once, in vain, and go before all others: they have had their turn.
    again: OrderedDict[str, str] = field(default_factory=OrderedDict)
    owners: dict[str, str] = field(default_factory=dict)
    #: Virtual time: the start of the claim that was served last.
    now: float = 0.0
    #: Where an owner with an empty line would go on, if that is not the past.
    finished: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.owners)

    def __contains__(self, claim_id: object) -> bool:
        return claim_id in self.owners

    def __iter__(self) -> Iterator[str]:
        """Every claim, those of an owner in their order."""
        return chain(self.again, *(line.claims for line in self.lines.values()))

    def count(self, owner: str) -> int:
        return sum(one == owner for one in self.again.values()) + len(self._claims(owner))

    def add(self, claim_id: str, owner: str, weight: float = 1.0) -> None:
        """At the end of its owner's line. weight: over 0; the latest word of it counts."""
        assert claim_id not in self.owners
        self.owners[claim_id] = owner
        line = self.lines.get(owner)
        if line is None:
            start = max(self.now, self.finished.pop(owner, 0.0))
            line = self.lines[owner] = Line(weight, start)
        line.weight = weight
        line.claims[claim_id] = None

    def put_back(self, claim_id: str, owner: str) -> None:
        """Of a claim that was taken and got nothing."""
        assert claim_id not in self.owners
        self.owners[claim_id] = owner
        self.again[claim_id] = owner

    def remove(self, claim_id: str) -> None:
        owner = self.owners.pop(claim_id)
        if self.again.pop(claim_id, None) is None:
            self._shorten(owner, claim_id, served=False)

    def take(self, held: Callable[[str], int], may: Callable[[str], bool] = lambda _claim_id: True) -> str | None:
        """`first`, which waits no more."""
        claim_id = self.first(held, may)
        if claim_id is not None:
            owner = self.owners.pop(claim_id)
            if self.again.pop(claim_id, None) is None:
                self._shorten(owner, claim_id, served=True)
        return claim_id

    def first(self, held: Callable[[str], int], may: Callable[[str], bool] = lambda _claim_id: True) -> str | None:
        """The claim to be served now; None if there is none.

        held: how many slots an owner has. may: whether a claim may be served; one that may not holds up its own line.
        Claims that were put back always may.
        """
        if self.again:
            return next(iter(self.again))
        best: tuple[float, float] | None = None
        chosen: str | None = None
        for owner, line in self.lines.items():
            if may(claim_id := next(iter(line.claims))):
                rank = (held(owner) / line.weight, max(line.start, self.now))  # no credit for having held more
                if best is None or rank < best:
                    best, chosen = rank, claim_id
        return chosen

    def longest(self, owner: str, weight: float) -> str | None:
        """Who has most claims in line for its weight; None if that is `owner` of this weight, had it one more."""
        worst, most = None, (len(self._claims(owner)) + 1) / weight
        for other, line in self.lines.items():
            if other != owner and len(line.claims) / line.weight > most:
                worst, most = other, len(line.claims) / line.weight
        return worst

    def last(self, owner: str) -> str:
        """The claim at the end of this owner's line, which must not be empty."""
        return next(reversed(self.lines[owner].claims))

    def check(self) -> None:
        """Assert every invariant."""
        assert sorted(self) == sorted(self.owners)
        assert all(line.claims and line.weight > 0 for line in self.lines.values())
        assert not self.lines.keys() & self.finished.keys()
        assert all(start > self.now for start in self.finished.values())

    def _claims(self, owner: str) -> OrderedDict[str, None]:
        line = self.lines.get(owner)
        return line.claims if line is not None else OrderedDict()

    def _shorten(self, owner: str, claim_id: str, *, served: bool) -> None:
        line = self.lines[owner]
        del line.claims[claim_id]
        if served:
            self.now = max(self.now, line.start)
            line.start = self.now + 1 / line.weight
            self.finished = {one: at for one, at in self.finished.items() if at > self.now}
        if not line.claims:
            del self.lines[owner]
            if line.start > self.now:
                self.finished[owner] = line.start
