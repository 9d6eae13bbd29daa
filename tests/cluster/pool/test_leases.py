"""The table of leases and the watch over their owners: every state with every event, and random histories."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybox_actors.errors import Cause
from raybox_actors.values import Lease, LeaseOwner, SandboxInfo
from raybox_cluster.pool.leases import EVENTS, MEANT, STATES, TRANSITIONS, LeaseId, LeaseTable, Record, orphaned
from raybox_cluster.pool.owners import HEARTBEAT_LAPSE_S, MISSES_BORNE, OWNER_CHECK_S, OwnerWatch

K = LeaseId("alice", "k")
BEATING = LeaseOwner("heartbeat", "alice/p")
JOB, ACTOR, PROCESS = LeaseOwner("job", "01"), LeaseOwner("actor", "02"), LeaseOwner("process", "03")
NOBODY = LeaseOwner("none")


def sandbox(sandbox_id: str, *owners: LeaseOwner, lease_id: LeaseId = K) -> SandboxInfo:
    lease = Lease(lease_id.key, 60.0, owners)
    return SandboxInfo(sandbox_id, "t", "running", 0, 60, {}, 1, 1, 1, lease_id.api_key, lease=lease)


def held(sandbox_id: str = "a", *owners: LeaseOwner) -> LeaseTable:
    table = LeaseTable()
    assert table.ask(K)[0] == "create"
    table.made(K, sandbox(sandbox_id, *owners))
    return table


def test_every_state_and_event_has_its_transition() -> None:
    assert set(TRANSITIONS) == {(state, event) for state in STATES for event in EVENTS}


def test_the_same_key_is_the_same_sandbox_until_it_is_freed() -> None:
    table = held("a")
    answer, record = table.ask(K)
    assert (answer, record.sandbox_id) == ("renew", "a")
    assert table.ask(LeaseId("bob", "k"))[0] == "create", "another API key has keys of its own"
    assert table.free(K, "killed") == "a"
    assert table.ask(K)[0] == "wait"
    table.ended(K, "a", "killed")
    assert table.ask(K)[0] == "create"


@pytest.mark.parametrize("cause", ["killed", "timeout", "owner_died", "oom", "node_lost", "internal"])
def test_a_loss_is_told_once_and_an_end_that_was_meant_never(cause: Cause) -> None:
    table = held("a")
    table.ended(K, "a", cause)
    if cause not in MEANT:
        answer, record = table.ask(K)
        assert (answer, record.sandbox_id, record.cause) == ("report", "a", cause)
    assert table.found(sandbox("a"), runs=True) is None
    assert table.ask(K)[0] == "create", "a late word of the dead one changes nothing"


def test_losses_that_nobody_asks_about_are_bounded() -> None:
    table = LeaseTable(lost_kept=2, gone_kept=2)
    for number in range(4):
        lease_id = LeaseId("alice", str(number))
        table.ask(lease_id)
        table.made(lease_id, sandbox(str(number), lease_id=lease_id))
        table.ended(lease_id, str(number), "oom")
        table.check()
    assert [table.ask(LeaseId("alice", str(number)))[0] for number in range(4)] == ["create"] * 2 + ["report"] * 2


def test_a_failed_creation_leaves_nothing() -> None:
    table = LeaseTable()
    table.ask(K)
    assert table.found(sandbox("attempt"), runs=False) is None
    table.not_made(K)
    assert table.ask(K)[0] == "create"


def test_a_new_manager_finds_what_there_is_and_of_two_keeps_one() -> None:
    table = LeaseTable()
    assert table.found(sandbox("a"), runs=False) is None
    assert table.ask(K)[0] == "wait"
    assert table.found(sandbox("b"), runs=True) == "b"
    assert table.found(sandbox("a"), runs=True) is None
    answer, record = table.ask(K)
    assert (answer, record.sandbox_id) == ("renew", "a")


def test_what_was_given_to_the_caller_stays_and_what_an_attempt_left_goes() -> None:
    table = LeaseTable()
    table.ask(K)
    table.found(sandbox("attempt"), runs=False)
    table.made(K, sandbox("given"))
    assert table.found(sandbox("attempt"), runs=True) == "attempt"
    assert table.get(K).sandbox_id == "given"


def test_what_is_being_ended_stays_so_whatever_is_said_of_it() -> None:
    for runs in (True, False):
        table = LeaseTable()
        table.found(sandbox("a"), runs=runs)
        assert table.free(K, "killed") == "a"
        table.found(sandbox("a"), runs=True)
        table.made(K, sandbox("a"))
        assert (table.ask(K)[0], table.get(K).state) == ("wait", "freeing")
        table.ended(K, "a", "oom")
        assert table.ask(K)[0] == "create", "nobody misses it"


def test_a_sandbox_that_a_former_manager_had_in_the_making_may_be_lost() -> None:
    table = LeaseTable()
    table.found(sandbox("a"), runs=False)
    table.ended(K, "a", "node_lost")
    assert table.ask(K)[0] == "report"


def test_who_renews_becomes_an_owner() -> None:
    table = held("a", JOB)
    table.found(sandbox("a", JOB), runs=True)
    table.made(K, sandbox("a", JOB, ACTOR))
    table.found(sandbox("a", JOB), runs=True)
    assert table.owners() == {JOB, ACTOR}, "an older word of it changes nothing"


# --- owners ----------------------------------------------------------------------------------------------------------


def test_a_lease_is_orphaned_when_its_last_owner_is_dead() -> None:
    def dead(owner: LeaseOwner) -> bool:
        return owner == JOB

    for owners, expected in (((JOB,), True), ((JOB, ACTOR), False), ((JOB, NOBODY), False), ((), False)):
        assert orphaned(Record("held", "a", Lease("k", 1, owners)), dead) == expected
        table = held("a", *owners)
        assert table.orphans(dead) == ([K] if expected else [])
        assert table.owners() == set(owners)


def test_a_lease_whose_end_did_not_come_about_is_ended_again() -> None:
    table = held("a", NOBODY)
    table.free(K, "owner_died")
    assert table.orphans(lambda _: False) == [K]
    assert table.free(K, "killed") == "a"
    assert table.get(K).cause == "owner_died"


def test_heartbeats_lapse_and_a_new_manager_waits_for_them() -> None:
    watch = OwnerWatch()
    watch.look([BEATING], {}, 100.0)
    assert not watch.is_dead(BEATING, 100.0 + HEARTBEAT_LAPSE_S)
    assert watch.is_dead(BEATING, 100.1 + HEARTBEAT_LAPSE_S)
    watch.hear(BEATING, 105.0)
    watch.look([BEATING], {}, 106.0)
    assert not watch.is_dead(BEATING, 105.0 + HEARTBEAT_LAPSE_S)
    watch.look([], {}, 106.0)
    assert not watch.heard_s
    assert HEARTBEAT_LAPSE_S + OWNER_CHECK_S < 10


@pytest.mark.parametrize("owner", [JOB, ACTOR, PROCESS])
def test_an_owner_in_ray_is_dead_when_its_tables_say_so_or_miss_it_for_long(owner: LeaseOwner) -> None:
    watch = OwnerWatch()
    assert not watch.is_dead(owner, 0)
    watch.look([owner], {owner: True}, 0)
    assert not watch.is_dead(owner, 1e9), "no heartbeat is expected of it"
    for _ in range(MISSES_BORNE - 1):
        watch.look([owner], {owner: None}, 0)
        assert not watch.is_dead(owner, 0)
    watch.look([owner], {owner: True}, 0)
    watch.look([owner], {}, 0)  # the tables could not be read
    assert not watch.is_dead(owner, 0)
    watch.look([owner], {owner: False}, 0)
    assert watch.is_dead(owner, 0)
    watch.look([], {}, 0)
    assert not watch.misses


def test_nobody_never_dies() -> None:
    assert not OwnerWatch().is_dead(NOBODY, 1e9)


# --- random histories ------------------------------------------------------------------------------------------------


@dataclass
class World:
    """Sandboxes as they really are, and a manager's table, which may be replaced by an empty one at any time."""

    table: LeaseTable = field(default_factory=LeaseTable)
    live: dict[str, tuple[LeaseId, bool]] = field(default_factory=dict)  #: by id: of which lease, and whether it runs
    given: dict[LeaseId, str] = field(default_factory=dict)  #: what callers of each lease have, until told otherwise
    births: int = 0

    def born(self, lease_id: LeaseId, *, runs: bool) -> str:
        self.births += 1
        self.live[str(self.births)] = (lease_id, runs)
        return str(self.births)

    def end(self, sandbox_id: str | None, cause: Cause) -> None:
        if sandbox_id is not None and sandbox_id in self.live:
            lease_id, _ = self.live.pop(sandbox_id)
            self.table.ended(lease_id, sandbox_id, cause)

    def lease(self, lease_id: LeaseId, fails: bool) -> None:
        answer, record = self.table.ask(lease_id)
        if answer == "create":
            leftover = self.born(lease_id, runs=False) if fails else None
            if fails:
                assert leftover is not None
                self.table.found(sandbox(leftover, lease_id=lease_id), runs=False)
                self.table.not_made(lease_id)
                return
            new = self.born(lease_id, runs=True)
            self.table.made(lease_id, sandbox(new, lease_id=lease_id))
            self.given[lease_id] = new
        elif answer == "renew":
            if record.sandbox_id in self.live:
                known = self.given.get(lease_id)
                assert known in (None, record.sandbox_id) or known not in self.live, "another one than a moment ago"
                self.table.made(lease_id, sandbox(record.sandbox_id, lease_id=lease_id))
                self.given[lease_id] = record.sandbox_id
            else:
                self.table.ended(lease_id, record.sandbox_id, "internal")

    def reconcile(self) -> None:
        for sandbox_id, (lease_id, runs) in list(self.live.items()):
            surplus = self.table.found(sandbox(sandbox_id, lease_id=lease_id), runs=runs)
            if surplus is not None:
                assert self.given.get(self.live[surplus][0]) != surplus, "what a caller has is not ended as surplus"
                self.end(surplus, "internal")
        for lease_id, record in list(self.table.living()):
            if record.sandbox_id not in self.live:
                self.table.ended(lease_id, record.sandbox_id, "internal")


KEYS = [LeaseId("alice", "1"), LeaseId("alice", "2"), LeaseId("bob", "1")]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["lease", "failing", "release", "dies", "expires", "restart", "ready", "reconcile"]),
        st.integers(0, 2),
        st.integers(0, 20),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=300)
def test_a_lease_never_has_two_sandboxes_for_long_and_callers_keep_theirs(steps: list[tuple[str, int, int]]) -> None:
    world = World()
    for what, which, number in steps:
        lease_id = KEYS[which]
        chosen: Any = sorted(world.live)[number % len(world.live)] if world.live else None
        match what:
            case "lease" | "failing":
                world.lease(lease_id, what == "failing")
            case "release":
                world.end(world.table.free(lease_id, "killed"), "killed")
                world.given.pop(lease_id, None)
            case "dies":
                world.end(chosen, "oom")
            case "expires":
                world.end(chosen, "timeout")
            case "ready" if chosen is not None:
                world.live[chosen] = (world.live[chosen][0], True)
            case "restart":
                world.reconcile()  # what was surplus then is not any more
                world.table = LeaseTable()
                world.reconcile()
            case "reconcile":
                world.reconcile()
        world.table.check()
    world.reconcile()
    world.reconcile()
    leases = [lease_id for lease_id, _ in world.live.values()]
    assert len(leases) == len(set(leases)), "one sandbox for each lease"
    for lease_id in KEYS:
        world.end(world.table.free(lease_id, "killed"), "killed")
    world.reconcile()
    assert not world.live, "what is released is gone"
    assert not list(world.table.living())
