"""Who is served next: fairness has bounds, and nobody is lost or served twice, in any order of things."""

from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybox_actors.values import Quota
from raybox_cluster.pool.forecast import WINDOW_S, free_in_s
from raybox_cluster.pool.policy import Policy
from raybox_cluster.pool.quotas import NOTHING, Charge, Ledger, Use, room
from raybox_cluster.pool.waiting import WaitingLine

WEIGHTS = {"a": 1.0, "b": 2.0, "c": 0.5, "d": 1.0}
owners = st.sampled_from(tuple(WEIGHTS))


def a_line(*owners: str) -> WaitingLine:
    """One claim after the other, each of this owner, called by its number."""
    line = WaitingLine()
    for number, owner in enumerate(owners):
        line.add(str(number), owner, WEIGHTS[owner])
    return line


def nothing(_owner: str) -> int:
    return 0


def test_an_owner_is_served_in_order_and_those_who_hold_nothing_take_turns() -> None:
    line = a_line("a", "a", "a", "d", "d")
    assert [line.take(nothing) for _ in range(6)] == ["0", "3", "1", "4", "2", None]


def test_who_holds_less_for_its_weight_goes_first() -> None:
    held = {"a": 3, "b": 4, "c": 2}
    line = a_line("a", "b", "c")
    assert [line.take(held.__getitem__) for _ in range(3)] == ["1", "0", "2"]


def test_what_was_taken_in_vain_goes_before_all_others() -> None:
    line = a_line("a", "d")
    first = line.take(nothing)
    assert first == "0"
    line.put_back(first, "a")
    assert line.count("a") == 1
    assert [line.take(nothing) for _ in range(2)] == ["0", "1"]


def test_a_claim_that_may_not_be_served_holds_up_its_own_line_only() -> None:
    line = a_line("a", "a", "d")
    assert line.take(nothing, lambda claim_id: claim_id != "0") == "2"
    assert line.take(nothing, lambda claim_id: claim_id != "0") is None
    assert line.take(nothing) == "0"


def test_whose_line_is_longest_for_its_weight() -> None:
    line = a_line("a", "a", "a", "b", "b", "b", "b")
    assert line.longest("d", 1.0) == "a"
    assert line.last("a") == "2"
    assert line.longest("a", 1.0) is None
    assert line.longest("d", 0.1) is None


@given(st.lists(st.one_of(owners, st.none(), st.integers(0, 9)), max_size=60))
def test_no_claim_is_lost_or_served_twice_and_none_overtakes_one_of_its_owner(
    steps: list[str | int | None],
) -> None:
    line = WaitingLine()
    expected: dict[str, deque[str]] = {owner: deque() for owner in WEIGHTS}
    for number, step in enumerate(steps):
        if isinstance(step, str):
            line.add(str(number), step, WEIGHTS[step])
            expected[step].append(str(number))
        elif step is None:
            claim_id = line.take(nothing)
            queues = [queue for queue in expected.values() if queue and queue[0] == claim_id]
            assert bool(queues) == any(expected.values())
            for queue in queues:
                queue.popleft()
        elif len(line):
            claim_id = sorted(line)[step % len(line)]
            line.remove(claim_id)
            next(queue for queue in expected.values() if claim_id in queue).remove(claim_id)
        line.check()
        assert {owner: line.count(owner) for owner in WEIGHTS} == {o: len(q) for o, q in expected.items()}


@given(st.lists(owners, min_size=1, max_size=40), st.integers(1, 60))
def test_of_those_who_hold_nothing_each_gets_its_weights_share_of_the_turns(early: list[str], turns: int) -> None:
    """Start-time fair queueing: two who wait all the time are never further apart than one claim of each."""
    line = WaitingLine()
    waiting = Counter[str]()
    for number, owner in enumerate([*early, *(owner for owner in WEIGHTS for _ in range(turns + 1))]):
        line.add(f"{owner} {number}", owner, WEIGHTS[owner])
        waiting[owner] += 1
    served = Counter[str]()
    for _ in range(turns):
        claim_id = line.take(nothing)
        assert claim_id is not None
        served[claim_id.split()[0]] += 1
        for one in WEIGHTS:
            for other in WEIGHTS:
                apart = served[one] / WEIGHTS[one] - served[other] / WEIGHTS[other]
                assert abs(apart) <= 1 / WEIGHTS[one] + 1 / WEIGHTS[other] + 1e-9


@settings(max_examples=60)
@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.sampled_from(("ask", "ask", "end")), owners, st.integers(0, 9)), min_size=20, max_size=120),
)
def test_slots_go_to_who_holds_the_fewest_for_its_weight(slots: int, steps: list[tuple[str, str, int]]) -> None:
    """A pool of so many slots, whose sandboxes end in any order: nobody who waits is passed over by one who has more,
    and one who has none waits at most for a turn of each of the others who have none."""
    line, live = WaitingLine(), list[str]()
    passed = Counter[str]()

    def held(owner: str) -> int:
        return live.count(owner)

    for number, (what, owner, at) in enumerate(steps):
        if what == "ask":
            line.add(f"{owner} {number}", owner, WEIGHTS[owner])
        elif live:
            live.pop(at % len(live))
        while len(live) < slots and len(line):
            waiting = {claim_id.split()[0] for claim_id in line}
            claim_id = line.take(held)
            assert claim_id is not None
            chosen = claim_id.split()[0]
            for other in waiting - {chosen}:
                assert held(chosen) / WEIGHTS[chosen] <= held(other) / WEIGHTS[other]
                passed[other] += held(other) == 0
                assert passed[other] <= sum(WEIGHTS[one] / WEIGHTS[other] + 1 for one in WEIGHTS if one != other)
            passed[chosen] = 0
            live.append(chosen)


# ---- when to come back ----


def test_what_is_coming_free_anyway_costs_no_wait() -> None:
    assert free_in_s(2, coming=2, freed_at_s=(), ends_at_s=(), now_s=0) == 0


def test_without_anything_known_there_is_no_forecast() -> None:
    assert free_in_s(1, coming=0, freed_at_s=(1.0,), ends_at_s=(), now_s=2.0) is None
    assert free_in_s(2, coming=0, freed_at_s=(), ends_at_s=(9.0,), now_s=0) is None
    assert Policy().retry_after_s(None) == Policy().retry_late_s


def test_the_rate_of_late_and_the_deadlines_whichever_is_sooner() -> None:
    assert free_in_s(3, coming=1, freed_at_s=(0.0, 5.0, 10.0), ends_at_s=(60.0, 70.0), now_s=10.0) == 10.0
    assert free_in_s(2, coming=0, freed_at_s=(0.0, 50.0), ends_at_s=(54.0, 56.0), now_s=50.0) == 6.0
    assert free_in_s(1, coming=0, freed_at_s=(0.0, 1.0), ends_at_s=(99.0,), now_s=WINDOW_S + 9) == 30.0


@given(
    st.integers(1, 99),
    st.integers(0, 9),
    st.lists(st.floats(0, 1e4)),
    st.lists(st.floats(-1e3, 1e6)),
    st.floats(0, 1e4),
)
def test_a_forecast_is_never_negative_and_more_never_comes_sooner(
    wanted: int, coming: int, freed: list[float], ends: list[float], later: float
) -> None:
    now_s = max(freed, default=0.0) + later
    known = {"coming": coming, "freed_at_s": sorted(freed), "ends_at_s": sorted(ends), "now_s": now_s}
    one = free_in_s(wanted, **known)  # type: ignore[arg-type]
    more = free_in_s(wanted + 1, **known)  # type: ignore[arg-type]
    assert one is None or one >= 0
    assert one is None or more is None or more >= one
    policy = Policy()
    assert policy.retry_soon_s <= policy.retry_after_s(one) <= policy.retry_most_s


@pytest.mark.parametrize("quota", [Quota(), Quota(3), Quota(cpu=5.0), Quota(9, 4, 1000), Quota(sandboxes=0)])
def test_the_room_of_a_quota_is_what_it_does_not_refuse(quota: Quota) -> None:
    each, ledger = Use(1, 2, 300), Ledger()
    places = room(quota, NOTHING, each)
    for _ in range(20 if places is None else places):
        assert ledger.refusal("a", quota, each) is None
        ledger.move(None, Charge("a", each))
    assert places is None or ledger.refusal("a", quota, each) is not None
