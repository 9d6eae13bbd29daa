"""What each API key uses of the pool, and whether it may use more. Pure.

Counted are live sandboxes and claims that are to become one. A sandbox of a key with a quota is only ever made through
the pool manager, so what it counts is all there is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from raybox_actors.values import Quota, SandboxInfo


class Use(NamedTuple):
    """A sum over sandboxes."""

    sandboxes: int = 0
    cpu: float = 0
    memory_mib: int = 0


NOTHING: Final = Use()


class Charge(NamedTuple):
    owner: str
    use: Use


def charge_of(info: SandboxInfo) -> Charge:
    return Charge(info.owner, Use(1, info.cpu_count, info.memory_mib))


@dataclass
class Ledger:
    """Sums by owner; owners that use nothing are not kept."""

    uses: dict[str, Use] = field(default_factory=dict)

    def move(self, before: Charge | None, after: Charge | None) -> None:
        """Something that was charged as `before` is now charged as `after`."""
        if before == after:
            return
        for sign, charge in ((-1, before), (1, after)):
            if charge is not None:
                old, more = self.of(charge.owner), charge.use
                new = Use(
                    old.sandboxes + sign * more.sandboxes,
                    old.cpu + sign * more.cpu,
                    old.memory_mib + sign * more.memory_mib,
                )
                if new.sandboxes:
                    self.uses[charge.owner] = new
                else:
                    self.uses.pop(charge.owner, None)

    def of(self, owner: str) -> Use:
        return self.uses.get(owner, NOTHING)

    def refusal(self, owner: str, quota: Quota, wanted: Use) -> str | None:
        """Why `owner` may not use so much more, for its eyes; None: it may."""
        used = self.of(owner)
        for limit, has, more, unit in (
            (quota.sandboxes, used.sandboxes, wanted.sandboxes, "sandboxes"),
            (quota.cpu, used.cpu, wanted.cpu, "CPUs"),
            (quota.memory_mib, used.memory_mib, wanted.memory_mib, "MiB of memory"),
        ):
            if limit is not None and has + more > limit:
                if more > limit:
                    who = "a sandbox needs" if wanted.sandboxes == 1 else f"{wanted.sandboxes} sandboxes need"
                    return f"the quota of API key {owner} is {limit:g} {unit}, and {who} {more:g}"
                return f"the quota of API key {owner} is used up: its sandboxes have {has:g} of {limit:g} {unit}"
        return None


def can_ever(quota: Quota, wanted: Use) -> bool:
    """Whether a key that uses nothing could have so much."""
    return Ledger().refusal("", quota, wanted) is None


def room(quota: Quota, used: Use, each: Use) -> int | None:
    """How many more sandboxes of this use a key may start that uses so much; None: the quota says nothing of that."""
    places = [
        int((limit - has) / one)
        for limit, has, one in (
            (quota.sandboxes, used.sandboxes, each.sandboxes),
            (quota.cpu, used.cpu, each.cpu),
            (quota.memory_mib, used.memory_mib, each.memory_mib),
        )
        if limit is not None and one > 0
    ]
    return max(0, min(places)) if places else None
