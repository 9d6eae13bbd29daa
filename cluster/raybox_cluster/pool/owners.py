"""Which owners of leases are dead, by what was heard and seen of them. Pure: told the time, in seconds of one clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from raybox_actors.values import LeaseOwner

#: An owner that has not sent a heartbeat for so long is dead. Clients send one every two seconds (docs/protocol.md).
HEARTBEAT_LAPSE_S: Final = 8.0
#: How often owners are looked at. Together they bound how late a death is noticed: ten seconds.
OWNER_CHECK_S: Final = 1.0
#: An owner that Ray's tables do not have is dead when so many looks in a row missed it: it may have just been born.
MISSES_BORNE: Final = 2


@dataclass
class OwnerWatch:
    lapse_s: float = HEARTBEAT_LAPSE_S
    #: When those with heartbeats were last heard of, or first of all.
    heard_s: dict[LeaseOwner, float] = field(default_factory=dict, init=False)
    #: Those that Ray's tables say are dead, or did not have at the last looks: how many.
    misses: dict[LeaseOwner, int] = field(default_factory=dict, init=False)

    def hear(self, owner: LeaseOwner, now_s: float) -> None:
        """It gave a sign of life."""
        if owner.kind == "heartbeat":
            self.heard_s[owner] = now_s

    def look(self, owners: Iterable[LeaseOwner], tables: Mapping[LeaseOwner, bool | None], now_s: float) -> None:
        """`owners` are all that matter. Of those in `tables`, whether Ray says that they live; None: it has no record.

        A heartbeat of an owner that was not known before is counted from now on.
        """
        mattering = set(owners)
        for owner in mattering:
            if owner.kind == "heartbeat":
                self.heard_s.setdefault(owner, now_s)
        self.heard_s = {owner: at_s for owner, at_s in self.heard_s.items() if owner in mattering}
        for owner, lives in tables.items():
            if lives is None:
                self.misses[owner] = self.misses.get(owner, 0) + 1
            else:
                self.misses[owner] = 0 if lives else MISSES_BORNE
        self.misses = {owner: count for owner, count in self.misses.items() if owner in mattering}

    def is_dead(self, owner: LeaseOwner, now_s: float) -> bool:
        match owner.kind:
            case "none":
                return False
            case "heartbeat":
                return now_s - self.heard_s.get(owner, now_s) > self.lapse_s
            case "job" | "actor" | "process":
                return self.misses.get(owner, 0) >= MISSES_BORNE
