"""Which lease has which sandbox: a table of records, each a small state machine. Pure: no I/O, no clock.

All of it is soft, as PoolState's is: the sandboxes themselves know the leases that they were made for. A manager that
starts finds them (`found`), before the first call asks.

States of a record, and of a lease that has none (`absent`):
- creating: this manager makes the sandbox. What is found meanwhile may be an attempt that failed.
- starting: a former manager had it made, and it is not ready yet.
- held: its sandbox lives.
- freeing: its sandbox is being ended.
- lost: its sandbox died, and nobody has been told yet.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from raybox_actors.errors import Cause
from raybox_actors.values import Lease, LeaseOwner, SandboxInfo

State = Literal["absent", "creating", "starting", "held", "freeing", "lost"]
Event = Literal["asked", "made", "not made", "found", "ended", "to be freed"]
#: What a caller of a lease is to do: make a sandbox, renew the one that there is, tell of its loss, or ask again soon.
Answer = Literal["create", "renew", "report", "wait"]
STATES: Final[tuple[State, ...]] = get_args(State)
EVENTS: Final[tuple[Event, ...]] = get_args(Event)
#: With a sandbox that may live.
LIVING: Final[tuple[State, ...]] = ("starting", "held", "freeing")

#: Ends that somebody meant; the next call begins anew. Any other end is told once.
MEANT: Final[frozenset[Cause]] = frozenset(("killed", "timeout", "owner_died"))


class LeaseId(NamedTuple):
    api_key: str  #: its name
    key: str


NO_LEASE: Final = Lease("", 0.0)


@dataclass(frozen=True, slots=True)
class Record:
    state: State
    sandbox_id: str = ""
    lease: Lease = NO_LEASE
    cause: Cause = "killed"  #: why it was lost, or is freed


ABSENT: Final = Record("absent")


@dataclass
class LeaseTable:
    lost_kept: int = 10_000
    gone_kept: int = 10_000
    records: dict[LeaseId, Record] = field(default_factory=dict, init=False)
    #: Those of `records` that are lost, the oldest first; beyond `lost_kept` they are forgotten, and nobody is told.
    lost: OrderedDict[LeaseId, None] = field(default_factory=OrderedDict, init=False)
    #: Sandboxes that have ended: a word of theirs that comes late is none.
    gone: OrderedDict[str, None] = field(default_factory=OrderedDict, init=False)

    def get(self, lease_id: LeaseId) -> Record:
        return self.records.get(lease_id, ABSENT)

    def ask(self, lease_id: LeaseId) -> tuple[Answer, Record]:
        """What to do for a caller, and the record as it was. After `create`, say `made` or `not_made`."""
        before = self.get(lease_id)
        self._step(lease_id, "asked", Record("creating"))
        answers: dict[State, Answer] = {"absent": "create", "held": "renew", "lost": "report"}
        return answers.get(before.state, "wait"), before

    def made(self, lease_id: LeaseId, info: SandboxInfo) -> None:
        """The caller was given this sandbox, new or renewed."""
        assert info.lease is not None
        self._step(lease_id, "made", Record("held", info.sandbox_id, info.lease))

    def not_made(self, lease_id: LeaseId) -> None:
        self._step(lease_id, "not made", ABSENT)

    def found(self, info: SandboxInfo, *, runs: bool) -> str | None:
        """A sandbox says that it is of a lease. Gives its id if it has to be ended: the lease has another."""
        assert info.lease is not None
        if info.sandbox_id in self.gone:
            return None
        lease_id = LeaseId(info.owner, info.lease.key)
        before = self.get(lease_id)
        self._step(lease_id, "found", Record("held" if runs else "starting", info.sandbox_id, info.lease))
        has_another = before.state in LIVING and before.sandbox_id != info.sandbox_id
        return info.sandbox_id if has_another else None

    def ended(self, lease_id: LeaseId, sandbox_id: str, cause: Cause) -> None:
        """This sandbox is gone. Nothing happens if it is not, or not any more, the lease's."""
        self.gone[sandbox_id] = None
        while len(self.gone) > self.gone_kept:
            self.gone.popitem(last=False)
        before = self.get(lease_id)
        if before.sandbox_id == sandbox_id:
            self._step(lease_id, "ended", replace(before, state="lost", cause=cause))

    def free(self, lease_id: LeaseId, cause: Cause) -> str | None:
        """End the lease. Gives the sandbox that has to be ended for it, also when that was begun already."""
        before = self.get(lease_id)
        self._step(lease_id, "to be freed", replace(before, state="freeing", cause=cause))
        return self.get(lease_id).sandbox_id or None

    # ---- what others want to know ----

    def living(self) -> Iterator[tuple[LeaseId, Record]]:
        """Leases that have a sandbox which may live."""
        return ((one, rec) for one, rec in self.records.items() if rec.state in LIVING)

    def owners(self) -> set[LeaseOwner]:
        return {owner for _, record in self.living() for owner in record.lease.owners}

    def orphans(self, dead: Callable[[LeaseOwner], bool]) -> list[LeaseId]:
        """Those that are to be ended."""
        return [one for one, _ in self.living() if self.is_orphan(one, dead)]

    def is_orphan(self, lease_id: LeaseId, dead: Callable[[LeaseOwner], bool]) -> bool:
        """It lives, and of its owners none does, or its end was begun and did not come about."""
        record = self.get(lease_id)
        return record.state in LIVING and (record.state == "freeing" or orphaned(record, dead))

    def check(self) -> None:
        """Assert every invariant."""
        for record in self.records.values():
            assert record.state != "absent"
            assert bool(record.sandbox_id) == (record.state != "creating"), record
        assert set(self.lost) == {one for one, record in self.records.items() if record.state == "lost"}
        assert len(self.lost) <= self.lost_kept
        assert len(self.gone) <= self.gone_kept
        sandboxes = [record.sandbox_id for _, record in self.living()]
        assert len(set(sandboxes)) == len(sandboxes), "a sandbox is of one lease"

    def _step(self, lease_id: LeaseId, event: Event, new: Record) -> None:
        before = self.get(lease_id)
        after = TRANSITIONS[before.state, event](before, new)
        if after.state == "absent":
            self.records.pop(lease_id, None)
        else:
            self.records[lease_id] = after
        self.lost.pop(lease_id, None)
        if after.state == "lost":
            self.lost[lease_id] = None
            while len(self.lost) > self.lost_kept:
                del self.records[self.lost.popitem(last=False)[0]]


def orphaned(record: Record, dead: Callable[[LeaseOwner], bool]) -> bool:
    owners = record.lease.owners
    return bool(owners) and all(map(dead, owners))


# ---- transitions: the record as it was, and as the event would have it -> as it is ----


def _take(_before: Record, new: Record) -> Record:
    return new


def _keep(before: Record, _new: Record) -> Record:
    return before


def _forget(_before: Record, _new: Record) -> Record:
    return ABSENT


def _find_again(before: Record, new: Record) -> Record:
    """The one that is known became ready; or it is another, which has to go."""
    return new if before.sandbox_id == new.sandbox_id else before


def _end(_before: Record, new: Record) -> Record:
    return ABSENT if new.cause in MEANT else new


Transition: TypeAlias = Callable[[Record, Record], Record]

TRANSITIONS: Final[dict[tuple[State, Event], Transition]] = {
    ("absent", "asked"): _take,
    ("absent", "made"): _take,  # it was renewed while it was thought gone
    ("absent", "not made"): _keep,
    ("absent", "found"): _take,
    ("absent", "ended"): _keep,
    ("absent", "to be freed"): _keep,
    #
    ("creating", "asked"): _keep,
    ("creating", "made"): _take,
    ("creating", "not made"): _forget,
    ("creating", "found"): _keep,  # `made` says which one it is
    ("creating", "ended"): _keep,
    ("creating", "to be freed"): _keep,  # who frees waits for the turn of who creates
    #
    ("starting", "asked"): _keep,
    ("starting", "made"): _take,
    ("starting", "not made"): _keep,
    ("starting", "found"): _find_again,
    ("starting", "ended"): _end,
    ("starting", "to be freed"): _take,
    #
    ("held", "asked"): _keep,
    ("held", "made"): _take,
    ("held", "not made"): _keep,
    ("held", "found"): _keep,  # what it says of its owners may be older than what is known
    ("held", "ended"): _end,
    ("held", "to be freed"): _take,
    #
    ("freeing", "asked"): _keep,
    ("freeing", "made"): _keep,  # renewed in the moment of its end
    ("freeing", "not made"): _keep,
    ("freeing", "found"): _keep,
    ("freeing", "ended"): _forget,
    ("freeing", "to be freed"): _keep,
    #
    ("lost", "asked"): _forget,  # told once
    ("lost", "made"): _take,
    ("lost", "not made"): _keep,
    ("lost", "found"): _keep,  # what was lost is told first
    ("lost", "ended"): _keep,
    ("lost", "to be freed"): _forget,
}
