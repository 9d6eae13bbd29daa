"""The life of a slot: totality of the table, the ordinary ways through it, and any order of events."""

from __future__ import annotations

import pickle
from itertools import product

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raybox_actors import lifecycle as lc
from raybox_actors.errors import Cause
from raybox_actors.lifecycle import (
    AnswerClaim,
    ArmDeadline,
    BuildWalls,
    Claimed,
    DeadlineMoved,
    DeadlinePassed,
    Destroyed,
    DestroyWalls,
    DisarmDeadline,
    Event,
    Exit,
    Instruction,
    InvalidTransition,
    KillAsked,
    Lifecycle,
    NotifyPool,
    PauseAsked,
    PrepareAsked,
    Prepared,
    PrepareFailed,
    RecordTombstone,
    Resumed,
    StopAsked,
    WallsDied,
)

EXAMPLES: dict[lc.EventKind, Event] = {
    PrepareAsked: PrepareAsked(),
    Prepared: Prepared(),
    PrepareFailed: PrepareFailed("no room"),
    Claimed: Claimed("i2", 100.0, 50.0),
    DeadlinePassed: DeadlinePassed(60.0),
    DeadlineMoved: DeadlineMoved(70.0),
    KillAsked: KillAsked(),
    WallsDied: WallsDied("oom"),
    Destroyed: Destroyed(),
    StopAsked: StopAsked(),
    PauseAsked: PauseAsked(),
    Resumed: Resumed(),
}

#: How to get to each state that can be reached.
PATHS: dict[str, list[Event]] = {
    "idle": [],
    "preparing": [PrepareAsked()],
    "warm": [PrepareAsked(), Prepared()],
    "starting": [Claimed("i1", 60.0, 0.0)],
    "running": [Claimed("i1", 60.0, 0.0), Prepared()],
    "destroying": [Claimed("i1", 60.0, 0.0), Prepared(), KillAsked()],
    "stopped": [StopAsked()],
}


def walk(*events: Event) -> tuple[Lifecycle, list[Instruction]]:
    """A machine after `events`, and what the last of them ordered."""
    machine = Lifecycle()
    instructions: list[Instruction] = []
    for event in events:
        instructions = machine.handle(event)
        machine.check()
    return machine, instructions


def test_every_state_and_event_is_decided() -> None:
    assert lc.TRANSITIONS.keys().isdisjoint(lc.IMPOSSIBLE)
    assert lc.TRANSITIONS.keys() | lc.IMPOSSIBLE.keys() == set(product(lc.STATES, lc.EVENT_KINDS))


@pytest.mark.parametrize(("state", "kind"), sorted(product(PATHS, EXAMPLES), key=str))
def test_the_table_means_what_it_says(state: str, kind: lc.EventKind) -> None:
    machine, _ = walk(*PATHS[state])
    assert machine.state == state
    if (machine.state, kind) in lc.TRANSITIONS:
        machine.handle(EXAMPLES[kind])
        machine.check()
    else:
        with pytest.raises(InvalidTransition):
            machine.handle(EXAMPLES[kind])
        assert machine.state == state


def test_warm_claim() -> None:
    machine, ordered = walk(PrepareAsked(), Prepared(), Claimed("i1", 60.0, 0.0))
    assert ordered == [ArmDeadline(60.0), AnswerClaim("i1", "ready"), NotifyPool()]
    assert (machine.state, machine.sandbox_id, machine.deadline_s) == ("running", "i1", 60.0)


def test_claim_of_an_idle_slot_builds_and_answers_when_ready() -> None:
    machine, ordered = walk(Claimed("i1", 60.0, 0.0))
    assert ordered == [BuildWalls(), ArmDeadline(60.0), NotifyPool()]
    assert machine.handle(Prepared()) == [AnswerClaim("i1", "ready"), NotifyPool()]


def test_claim_while_preparing_does_not_build_twice() -> None:
    machine, ordered = walk(PrepareAsked(), Claimed("i1", 60.0, 0.0))
    assert ordered == [ArmDeadline(60.0), NotifyPool()]
    assert machine.state == "starting"


def test_first_claim_wins() -> None:
    machine, ordered = walk(PrepareAsked(), Prepared(), Claimed("i1", 60.0, 0.0), Claimed("i2", 90.0, 0.0))
    assert [type(order) for order in ordered] == [AnswerClaim]
    assert isinstance(ordered[0], AnswerClaim)
    assert (ordered[0].sandbox_id, ordered[0].outcome) == ("i2", "taken")
    assert (machine.sandbox_id, machine.deadline_s) == ("i1", 60.0)


def test_kill_and_recycling() -> None:
    machine, ordered = walk(Claimed("i1", 60.0, 0.0), Prepared(), KillAsked())
    assert ordered == [DisarmDeadline(), RecordTombstone("i1", "killed", 0), DestroyWalls("killed"), NotifyPool()]
    assert machine.cause_of("i1") == "killed"
    assert machine.handle(Destroyed()) == [NotifyPool()]
    assert (machine.state, machine.epoch) == ("idle", 1)


def test_build_failure_under_a_claim() -> None:
    _, ordered = walk(Claimed("i1", 60.0, 0.0), PrepareFailed("no room"))
    assert AnswerClaim("i1", "failed", "no room") in ordered
    assert DestroyWalls("internal") in ordered


def test_a_stale_timer_does_not_end_a_sandbox() -> None:
    machine, ordered = walk(Claimed("i1", 60.0, 0.0), Prepared(), DeadlineMoved(90.0), DeadlinePassed(60.0))
    assert ordered == [ArmDeadline(90.0)]
    assert DestroyWalls("timeout") in machine.handle(DeadlinePassed(90.0))
    assert machine.cause_of("i1") == "timeout"


def test_a_sandbox_is_never_born_expired() -> None:
    machine, _ = walk(Claimed("i1", 10.0, 50.0))
    assert machine.deadline_s == 50.0


def test_stop_while_running_destroys_first() -> None:
    machine, ordered = walk(Claimed("i1", 60.0, 0.0), Prepared(), StopAsked("internal"))
    assert DestroyWalls("internal") in ordered
    assert Exit() not in ordered
    assert machine.handle(Destroyed()) == [NotifyPool(), Exit()]
    assert machine.state == "stopped"


def test_the_ring_of_tombstones_is_bounded() -> None:
    machine = Lifecycle(tombstones_kept=3)
    for number in range(5):
        machine.handle(Claimed(f"i{number}", 60.0, 0.0))
        machine.handle(KillAsked())
        machine.handle(Destroyed())
        machine.check()
    assert [machine.cause_of(f"i{number}") for number in range(5)] == [None, None, "killed", "killed", "killed"]


def test_an_invalid_transition_tells_its_story_and_survives_pickling() -> None:
    machine, _ = walk(PrepareAsked(), Prepared())
    with pytest.raises(InvalidTransition) as caught:
        machine.handle(Destroyed())
    back = pickle.loads(pickle.dumps(caught.value))
    assert str(back) == str(caught.value)
    assert "Destroyed() in warm" in str(back)
    assert "idle + PrepareAsked() -> preparing" in str(back)


class AnyOrder(RuleBasedStateMachine):
    """Events in any order the executor may report them, with an executor that does what it is told."""

    @initialize()
    def begin(self) -> None:
        self.machine = Lifecycle(tombstones_kept=4)
        self.now = 0.0
        self.claims = 0
        self.building = False
        self.destroying = False
        self.timer: float | None = None
        self.waiting: set[str] = set()
        self.ended: dict[str, Cause] = {}
        self.epochs_of_claims: dict[int, str] = {}
        self.exited = False

    def feed(self, event: Event) -> None:
        for order in self.machine.handle(event):
            match order:
                case BuildWalls():
                    assert not self.building
                    assert not self.destroying
                    self.building = True
                case DestroyWalls():
                    assert not self.destroying
                    self.building = False
                    self.destroying = True
                case ArmDeadline(deadline_s):
                    self.timer = deadline_s
                case DisarmDeadline():
                    self.timer = None
                case RecordTombstone(sandbox_id, cause, epoch):
                    assert sandbox_id not in self.ended, "two ends of one sandbox"
                    assert self.epochs_of_claims[epoch] == sandbox_id
                    self.ended[sandbox_id] = cause
                case AnswerClaim(sandbox_id):
                    self.waiting.remove(sandbox_id)  # KeyError: answered twice
                case Exit():
                    assert not self.destroying
                    self.exited = True
                case NotifyPool():
                    pass

    @rule(timeout_s=st.floats(-5, 50))
    def claim(self, timeout_s: float) -> None:
        self.claims += 1
        sandbox_id = f"i{self.claims}"
        self.waiting.add(sandbox_id)
        self.feed(Claimed(sandbox_id, self.now + timeout_s, self.now))
        if self.machine.sandbox_id == sandbox_id:
            assert self.machine.epoch not in self.epochs_of_claims, "one epoch, two sandboxes"
            self.epochs_of_claims[self.machine.epoch] = sandbox_id

    @rule()
    def ask_to_prepare(self) -> None:
        self.feed(PrepareAsked())

    @precondition(lambda self: self.building)
    @rule(works=st.booleans())
    def build_ends(self, works: bool) -> None:
        self.building = False
        self.feed(Prepared() if works else PrepareFailed("chance"))

    @precondition(lambda self: self.destroying)
    @rule()
    def destruction_ends(self) -> None:
        self.destroying = False
        self.feed(Destroyed())

    @precondition(lambda self: self.machine.state not in ("idle", "stopped"))
    @rule(cause=st.sampled_from(["oom", "internal"]))
    def walls_die(self, cause: Cause) -> None:
        if self.machine.state != "starting" or not self.building:
            self.building = False
        self.feed(WallsDied(cause))

    @rule(passed_s=st.floats(0, 60))
    def time_passes(self, passed_s: float) -> None:
        self.now += passed_s
        if self.timer is not None and self.timer <= self.now:
            self.timer = None
            self.feed(DeadlinePassed(self.now))

    @rule(early_s=st.floats(0, 60))
    def a_stale_timer_fires(self, early_s: float) -> None:
        before = self.machine.sandbox_id
        deadline_s = self.machine.deadline_s
        if deadline_s is None or self.now < deadline_s:
            self.feed(DeadlinePassed(self.now - early_s))
            assert self.machine.sandbox_id == before

    @precondition(lambda self: self.machine.sandbox_id is not None)
    @rule(timeout_s=st.floats(0, 50))
    def move_deadline(self, timeout_s: float) -> None:
        self.feed(DeadlineMoved(self.now + timeout_s))

    @precondition(lambda self: self.machine.sandbox_id is not None or self.machine.state == "destroying")
    @rule()
    def kill(self) -> None:
        self.feed(KillAsked())

    @rule()
    def stop(self) -> None:
        self.feed(StopAsked())

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "machine"):
            return
        self.machine.check()
        live = self.machine.sandbox_id
        assert live not in self.ended
        assert (self.timer is not None) == (live is not None), "a live sandbox always has a deadline armed"
        assert self.destroying == (self.machine.state == "destroying")
        assert self.exited == (self.machine.state == "stopped")
        assert self.waiting == ({live} if self.machine.state == "starting" else set())


TestAnyOrder = AnyOrder.TestCase
