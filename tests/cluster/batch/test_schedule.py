"""The pure part of batches: whatever happens, in whatever order, every item that came in goes out exactly once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raybox_cluster.batch.schedule import (
    MASKED,
    TOGETHER_MOST,
    TOGETHER_S,
    Emit,
    EndWorker,
    Instruction,
    Rules,
    Run,
    Schedule,
    StartWorker,
)


class Batches(RuleBasedStateMachine):
    """A schedule with the world played by hypothesis."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.limits = Rules(max_in_flight=3, max_attempts=2, starved_s=5.0)
        self.schedule = Schedule(self.limits)
        self.taken = 0
        self.attempts: dict[int, int] = {}
        self.out: dict[int, Emit] = {}
        self.starting: list[int] = []
        self.idle: set[int] = set()
        self.busy: dict[int, tuple[int, ...]] = {}
        self.ended: set[int] = set()
        self.closed = False

    def carry_out(self, instructions: list[Instruction]) -> None:
        for one in instructions:
            match one:
                case StartWorker(worker):
                    assert worker not in self.ended
                    self.starting.append(worker)
                case Run(worker, indices, attempt):
                    assert worker in self.idle, "only a sandbox that is free is given an item"
                    self.idle.remove(worker)
                    self.busy[worker] = indices
                    assert 1 <= len(indices) <= TOGETHER_MOST
                    assert attempt == 1 or len(indices) == 1, "what is tried again is tried alone"
                    for index in indices:
                        self.attempts[index] = self.attempts.get(index, 0) + 1
                        assert attempt == self.attempts[index] <= self.limits.max_attempts
                        assert index not in self.out
                case EndWorker(worker):
                    self.ended.add(worker)
                    self.idle.discard(worker)
                    self.busy.pop(worker, None)
                    if worker in self.starting:
                        self.starting.remove(worker)
                case Emit(index, attempts, verdict):
                    assert index not in self.out, "given out twice"
                    assert attempts == self.attempts.get(index, 0)
                    assert verdict is None or verdict in MASKED
                    self.out[index] = one

    @precondition(lambda self: self.schedule.wants_item and not self.closed)
    @rule()
    def take(self) -> None:
        self.carry_out(self.schedule.took(self.taken, self.now_s))
        self.taken += 1

    @precondition(lambda self: not self.closed)
    @rule()
    def end_input(self) -> None:
        self.closed = True
        self.carry_out(self.schedule.input_ended())

    @precondition(lambda self: self.starting)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.starting))
        self.starting.remove(worker)
        self.idle.add(worker)
        self.carry_out(self.schedule.worker_started(worker, self.now_s))

    @precondition(lambda self: self.starting)
    @rule(data=st.data(), full=st.booleans())
    def refuse(self, data: st.DataObject, full: bool) -> None:
        worker = data.draw(st.sampled_from(self.starting))
        self.starting.remove(worker)
        self.carry_out(self.schedule.worker_refused(worker, 1.0, full, self.now_s))

    @precondition(lambda self: self.busy)
    @rule(data=st.data(), fault=st.booleans(), reusable=st.booleans())
    def end_item(self, data: st.DataObject, fault: bool, reusable: bool) -> None:
        worker = data.draw(st.sampled_from(sorted(self.busy)))
        del self.busy[worker]
        if not fault:
            self.idle.add(worker)
        say = self.schedule.faulted(worker, self.now_s) if fault else None
        self.carry_out(say if say is not None else self.schedule.finished(worker, reusable, self.now_s))

    @precondition(lambda self: any(len(indices) > 1 for indices in self.busy.values()))
    @rule(data=st.data())
    def end_some(self, data: st.DataObject) -> None:
        """Of items that were given together."""
        worker = data.draw(st.sampled_from(sorted(one for one, indices in self.busy.items() if len(indices) > 1)))
        indices = self.busy[worker]
        begun = data.draw(st.integers(1, len(indices)))
        ended = data.draw(st.sampled_from((begun - 1, begun)))
        self.busy[worker] = indices[ended:begun]
        for index in indices[begun:]:
            self.attempts[index] -= 1
        self.carry_out(self.schedule.advanced(worker, ended, begun, self.now_s))
        assert set(indices[:ended]) <= self.out.keys()

    @rule(seconds=st.floats(0.001, 10.0))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.carry_out(self.schedule.look(self.now_s))

    @rule()
    def deadline(self) -> None:
        self.closed = True
        self.carry_out(self.schedule.time_is_up())
        assert len(self.out) == self.taken
        assert not self.busy, "nothing runs beyond the deadline"

    @invariant()
    def bounded(self) -> None:
        assert len(self.starting) + len(self.idle) + len(self.busy) <= self.limits.max_in_flight
        assert len(self.starting) <= self.limits.starts_at_once
        most = 2 * self.limits.max_in_flight * TOGETHER_MOST
        assert self.taken - len(self.out) <= most, "what is in hand is bounded"

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert self.schedule.over == (self.closed and len(self.out) == self.taken)
        waiting = self.taken - len(self.out) - sum(map(len, self.busy.values()))
        assert not (waiting and self.idle), "an item waits beside a sandbox that is free"
        if waiting and not (self.starting or self.busy):
            assert self.schedule.wakes_at_s is not None, "nobody would ever come back to it"

    def teardown(self) -> None:
        """From wherever it is, a world that works brings it to its end."""
        if not self.closed:
            self.end_input()
        while not self.schedule.over:
            self.now_s += 1.0
            self.carry_out(self.schedule.look(self.now_s))
            for worker in list(self.starting):
                if worker in self.starting:
                    self.starting.remove(worker)
                    self.idle.add(worker)
                    self.carry_out(self.schedule.worker_started(worker, self.now_s))
            for worker in list(self.busy):
                if worker in self.busy:
                    del self.busy[worker]
                    self.idle.add(worker)
                    self.carry_out(self.schedule.finished(worker, True, self.now_s))
        assert len(self.out) == self.taken
        assert not self.idle, "sandboxes that nobody needs are ended"
        assert not self.busy


Batches.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBatches = Batches.TestCase


@given(st.integers(1, 5))
def test_an_item_that_loses_its_sandbox_is_tried_so_often_and_no_more(most: int) -> None:
    schedule = Schedule(Rules(1, max_attempts=most))
    said = schedule.took(0, 0.0)
    for attempt in range(1, most + 1):
        (start,) = [one for one in said if isinstance(one, StartWorker)]
        said = schedule.worker_started(start.worker, 0.0)
        assert said == [Run(start.worker, (0,), attempt)]
        said = schedule.faulted(start.worker, 0.0)
    assert Emit(0, most, "infrastructure") in said


def test_items_wait_for_the_first_sandbox_but_not_for_ever() -> None:
    schedule = Schedule(Rules(1, starved_s=10.0))
    schedule.took(0, 0.0)
    assert schedule.worker_refused(0, 2.0, True, 0.0) == []
    assert schedule.look(1.9) == [], "not before the pool said so"
    (start,) = schedule.look(2.0)
    assert isinstance(start, StartWorker)
    assert schedule.worker_refused(start.worker, 2.0, True, 12.0) == [Emit(0, 0, "infrastructure")]


def test_a_fresh_sandbox_for_each_item() -> None:
    schedule = Schedule(Rules(1, fresh=True))
    schedule.took(0, 0.0)
    schedule.worker_started(0, 0.0)
    assert schedule.took(1, 0.0) == []
    assert schedule.finished(0, True, 0.0) == [Emit(0, 1, None), EndWorker(0), StartWorker(1)]


def paced(item_s: float, rules: Rules) -> Schedule:
    """A schedule with one sandbox, busy with item 9, whose items took so long so far; items 10 to 19 wait."""
    schedule = Schedule(rules)
    schedule.took(0, 0.0)
    schedule.worker_started(0, 0.0)
    for index in range(1, 10):
        schedule.took(index, index * item_s)
        assert Run(0, (index,), 1) in schedule.finished(0, True, index * item_s)
    for index in range(10, 20):
        schedule.took(index, 9 * item_s)
    return schedule


@given(st.floats(0.001, 1.0))
def test_items_that_take_little_are_given_together(item_s: float) -> None:
    many = max(1, min(TOGETHER_MOST, int(TOGETHER_S / item_s)))
    schedule = paced(item_s, Rules(1))
    (run,) = [one for one in schedule.finished(0, True, 10 * item_s) if isinstance(one, Run)]
    assert abs(len(run.indices) - many) <= (item_s * TOGETHER_MOST >= TOGETHER_S), "but for rounding"
    assert run.indices == tuple(range(10, 10 + len(run.indices)))


def test_fresh_ones_and_those_with_one_attempt_are_alone() -> None:
    for rules in (Rules(1, max_attempts=1), Rules(1, fresh=True)):
        schedule = Schedule(rules)
        schedule.took(0, 0.0)
        for worker in range(5):
            (run,) = [one for one in schedule.worker_started(worker, 0.0) if isinstance(one, Run)]
            assert len(run.indices) == 1
            schedule.took(2 * worker + 1, 0.0)
            schedule.took(2 * worker + 2, 0.0)
            schedule.finished(worker, False, 0.0)


def test_one_that_takes_long_does_not_hold_up_those_behind_it() -> None:
    schedule = paced(0.01, Rules(2))
    (run,) = [one for one in schedule.finished(0, True, 0.1) if isinstance(one, Run)]
    assert run.indices == (10, 11, 12, 13)
    (other,) = [one for one in schedule.worker_started(1, 0.2) if isinstance(one, Run)]
    assert other.indices == (14, 15, 16)
    schedule.finished(1, True, 0.21)
    said = schedule.advanced(0, 1, 2, 0.7)
    assert said[0] == Emit(10, 1, None)
    (after,) = [one for one in schedule.finished(1, True, 0.8) if isinstance(one, Run)]
    assert after.indices[0] == 12, "in their order"
    assert Emit(11, 1, None) in schedule.finished(0, True, 60.0)
