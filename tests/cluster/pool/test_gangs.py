"""Gangs in the pool machine: all or none, one collector at a time, and nothing left of those that fail."""

from __future__ import annotations

import dataclasses

from raybox_actors.values import Quota, SandboxInfo
from raybox_cluster.pool import events as ev
from raybox_cluster.pool.events import SlotKey
from raybox_cluster.pool.instructions import (
    AnswerGang,
    AssignClaim,
    ConfirmGang,
    DescribeSlot,
    EnsureNodeAgent,
    FailGang,
    Instruction,
    KillSandbox,
    RemovePlacement,
    ReservePlacement,
    StartSlot,
    StopSlot,
)
from raybox_cluster.pool.policy import Policy
from raybox_cluster.pool.state import PoolState
from tests.cluster.pool.test_state import NODE, USE, a_pool, an_info, described, feed, key


def gang(name: str, count: int, owner: str = "alice", quota: Quota | None = None) -> ev.GangAsked:
    claims = (ev.ClaimAsked(f"{name}/{n}", owner, quota, USE, f"key {name}/{n}") for n in range(count))
    return ev.GangAsked(name, tuple(claims))


def member(name: str, index: int, at: SlotKey, owner: str = "alice", epoch: int = 0) -> SandboxInfo:
    info = an_info(at, epoch, f"{name}/{index}", f"key {name}/{index}", owner)
    return dataclasses.replace(info, gang=name, pending=True)


def won(name: str, index: int, slot: int, owner: str = "alice") -> ev.ClaimWon:
    return ev.ClaimWon(f"{name}/{index}", key(slot), member(name, index, key(slot), owner))


def freed(slot: int) -> ev.SlotDescribed:
    return described(key(slot), "idle", 50, epoch=1)


def failed(orders: list[Instruction]) -> FailGang:
    (order,) = (order for order in orders if isinstance(order, FailGang))
    return order


def test_a_gang_is_answered_when_every_sandbox_is_there_and_confirmed() -> None:
    pool = a_pool("warm", "idle", "idle")
    assert feed(pool, gang("g", 2)) == [AssignClaim("g/0", key(0)), AssignClaim("g/1", key(1))]
    assert feed(pool, won("g", 1, 1)) == []
    assert list(pool.live()) == []
    expected = (("g/0", key(0), won("g", 0, 0).info), ("g/1", key(1), won("g", 1, 1).info))
    assert feed(pool, won("g", 0, 0)) == [ConfirmGang("g", expected)]
    for slot in (0, 1):
        info = dataclasses.replace(won("g", slot, slot).info, pending=False)
        feed(pool, described(key(slot), "running", 9, info=info))
    assert feed(pool, ev.GangConfirmed("g")) == [AnswerGang("g")]
    assert len(list(pool.live())) == 2
    assert not pool.gangs
    assert feed(pool, ev.GangDropped("g"), ev.GangDeadlinePassed("g")) == []


def test_a_gang_that_waits_asks_no_actor_for_anything() -> None:
    pool = a_pool("warm", "running", "running")
    assert feed(pool, gang("g", 3)) == []
    assert feed(pool, freed(1)) == []
    assert [type(order) for order in feed(pool, freed(2))] == [AssignClaim] * 3


def test_two_gangs_do_not_wait_for_each_other() -> None:
    pool = a_pool("warm", "warm", "running", "running")
    feed(pool, gang("g", 3), gang("h", 3, "bob"))
    assert pool.collecting == "g"
    assert feed(pool, freed(2)) == [AssignClaim(f"g/{n}", key(n)) for n in range(3)]
    assert feed(pool, freed(3)) == []
    assert pool.collecting == "h"


def test_others_get_their_share_while_a_gang_collects() -> None:
    pool = a_pool("warm", "running", "running")
    feed(pool, gang("g", 3), ev.ClaimAsked("c", "bob", use=USE))
    assert feed(pool, freed(1)) == [AssignClaim("c", key(1))]


def test_a_deadline_gives_back_what_was_kept_and_says_what_was_missing() -> None:
    pool = a_pool("warm", "running")
    feed(pool, gang("g", 2))
    said = failed(feed(pool, ev.GangDeadlinePassed("g")))
    assert (said.cause, said.failed) == ("capacity", None)
    assert [(one.state, one.reason) for one in said.report] == [
        ("not_started", "its slot was kept until all had one"),
        ("not_started", "no slot came free"),
    ]
    assert pool.free_slots(9) == [key(0)]
    assert "alice" not in pool.ledger.uses


def test_a_deadline_ends_what_was_made_and_what_is_being_made() -> None:
    pool = a_pool("warm", "warm")
    quota = Quota(sandboxes=2)
    feed(pool, gang("g", 2, quota=quota), won("g", 0, 0))
    orders = feed(pool, ev.GangDeadlinePassed("g"))
    assert [one.state for one in failed(orders).report] == ["ready", "not_started"]
    assert KillSandbox(key(0), won("g", 0, 0).info.sandbox_id) in orders
    # What may still be born counts until it is known.
    assert pool.ledger.of("alice").sandboxes == 2
    assert feed(pool, won("g", 1, 1)) == [KillSandbox(key(1), won("g", 1, 1).info.sandbox_id)]
    assert list(pool.live()) == []
    assert feed(pool, freed(0), freed(1)) == []
    assert (pool.claims, pool.ledger.uses) == ({}, {})


def test_a_member_that_asks_for_what_cannot_be_fails_the_gang() -> None:
    pool = a_pool("warm", "warm")
    feed(pool, gang("g", 2))
    said = failed(feed(pool, ev.ClaimDropped("g/1", key(1), "no network here")))
    assert (said.cause, said.failed) == ("member", "g/1")
    assert [(one.state, one.reason) for one in said.report][1] == ("failed", "no network here")
    assert feed(pool, ev.ClaimRefused("g/0", key(0))) == [DescribeSlot(key(0))]
    assert not pool.claims


def test_a_member_that_breaks_everywhere_fails_the_gang() -> None:
    pool = a_pool("warm", "warm", policy=Policy(claim_attempts=1))
    feed(pool, gang("g", 2))
    said = failed(feed(pool, ev.ClaimBroke("g/0", key(0))))
    assert (said.cause, said.report[0].state) == ("capacity", "failed")


def test_a_member_lost_before_it_was_confirmed_fails_the_gang() -> None:
    pool = a_pool("warm", "warm")
    feed(pool, gang("g", 2), won("g", 0, 0), won("g", 1, 1))
    assert feed(pool, ev.GangDeadlinePassed("g")) == []  # it is whole
    orders = feed(pool, ev.GangBroke("g", "g/1", "lost"))
    assert [one.state for one in failed(orders).report] == ["ready", "failed"]
    assert sum(isinstance(order, KillSandbox) for order in orders) == 2


def test_a_refused_member_looks_elsewhere_before_all_others() -> None:
    pool = a_pool("warm", "warm", "running")
    feed(pool, gang("g", 2), ev.ClaimAsked("c", "bob", use=USE), ev.ClaimRefused("g/1", key(1)))
    assert feed(pool, freed(2)) == [AssignClaim("g/1", key(2))]


def test_quotas_count_a_gang_once_and_as_a_whole() -> None:
    pool = a_pool("warm", "warm", "warm", "warm")
    quota = Quota(sandboxes=3)
    said = failed(feed(pool, gang("g", 4, quota=quota)))
    assert (said.cause, said.reason) == ("limit", "the quota of API key alice is 3 sandboxes, and 4 sandboxes need 4")
    feed(pool, gang("h", 2, quota=quota))
    assert pool.ledger.of("alice").sandboxes == 2
    for n in (0, 1):
        feed(pool, described(key(n), "running", 5, info=won("h", n, n).info), won("h", n, n))
        assert pool.ledger.of("alice").sandboxes == 2
    assert feed(pool, gang("i", 2, quota=quota)) == [DescribeSlot(key(0)), DescribeSlot(key(1))]
    assert feed(pool, ev.GangDeadlinePassed("x")) == []
    said = failed(feed(pool, ev.Ticked(), now_s=Policy().over_quota_wait_s))
    assert said.reason == "the quota of API key alice is used up: its sandboxes have 2 of 3 sandboxes"


def test_more_than_the_pool_can_ever_have_is_refused_at_once() -> None:
    said = failed(feed(a_pool("warm"), gang("g", 2)))
    assert (said.cause, said.reason) == ("limit", "the pool has at most 1 sandboxes")


def test_a_gang_takes_no_more_places_in_the_line_than_a_key_may() -> None:
    pool = a_pool("running", "running", policy=Policy(claims_waiting_per_key_most=2))
    feed(pool, gang("g", 2))
    assert failed(feed(pool, gang("h", 1))).reason == "too many claims are waiting"
    assert not [order for order in feed(pool, gang("i", 2, "bob")) if isinstance(order, FailGang)]


# ---- placement groups ----


def grown() -> PoolState:
    """A pool of one slot that may have three, with a gang of three that waits for the two that are missing."""
    pool = PoolState(3, 0, Policy(starts_per_node=1))
    feed(pool, ev.NodeSeen(NODE), ev.NodeAgentReady(NODE), ev.SlotLost(key(0)))
    pool.now_s = 0.0
    orders = feed(pool, ev.Ticked(), now_s=9.0)
    assert orders == [StartSlot(key(1))]
    orders = feed(pool, gang("g", 3), now_s=9.0)
    assert orders == [ReservePlacement("g", 2)]
    return pool


def test_what_does_not_exist_yet_is_reserved_at_once_and_ends_with_its_sandboxes() -> None:
    pool = grown()
    other = "b" * 56
    assert feed(pool, described(key(1), "idle", 1), now_s=9.0) == []  # kept; and no slot is started beside the gang's
    assert feed(pool, ev.PlacementReady("g", (NODE, other)), now_s=9.0) == [
        StartSlot(key(2), "g", 0),
        EnsureNodeAgent(other),
    ]
    born = key(0, other)
    assert feed(pool, ev.NodeAgentReady(other), now_s=9.0) == [StartSlot(born, "g", 1)]
    assert feed(pool, described(key(2), "idle", 1), now_s=9.0) == []
    assert pool.free_slots(9) == []
    assert feed(pool, described(born, "idle", 1), now_s=9.0) == [
        AssignClaim("g/0", key(1)),
        AssignClaim("g/1", key(2)),
        AssignClaim("g/2", born),
    ]
    for index, at in enumerate((key(1), key(2), born)):
        feed(pool, ev.ClaimWon(f"g/{index}", at, member("g", index, at)), now_s=9.0)
    assert feed(pool, ev.GangConfirmed("g"), now_s=9.0) == [AnswerGang("g")]
    assert feed(pool, described(key(2), "idle", 9, epoch=1), now_s=9.0) == [StopSlot(key(2)), StartSlot(key(3))]
    assert feed(pool, ev.SlotStopped(key(2)), now_s=9.0) == []
    assert StopSlot(born) in feed(pool, described(born, "idle", 9, epoch=1), now_s=9.0)
    assert RemovePlacement("g") in feed(pool, ev.SlotStopped(born), now_s=9.0)
    assert not pool.placements


def test_a_gang_that_fails_before_its_room_was_found_gives_it_back() -> None:
    pool = grown()
    orders = feed(pool, ev.GangDropped("g"), now_s=9.0)
    assert RemovePlacement("g") in orders
    assert feed(pool, ev.PlacementReady("g", (NODE, NODE)), now_s=9.0) == []


def test_a_gang_that_fails_while_its_actors_start_ends_them() -> None:
    pool = grown()
    feed(pool, described(key(1), "idle", 1), ev.PlacementReady("g", (NODE, NODE)), now_s=9.0)
    orders = feed(pool, ev.GangDeadlinePassed("g"), now_s=9.0)
    assert [one.reason for one in failed(orders).report][1:] == ["the cluster had no room for it yet"] * 2
    assert StopSlot(key(2)) in feed(pool, described(key(2), "idle", 1), now_s=9.0)
    assert RemovePlacement("g") in feed(pool, ev.SlotStopped(key(2)), now_s=9.0)


def test_a_member_whose_actor_in_the_group_dies_takes_another_slot() -> None:
    pool = grown()
    feed(pool, described(key(1), "idle", 1), ev.PlacementReady("g", (NODE, NODE)), now_s=9.0)
    feed(pool, ev.SlotLost(key(2)), now_s=9.0)
    assert len(pool.gangs["g"].in_line) == 1
    assert feed(pool, ev.Ticked(), now_s=99.0)[0] == StartSlot(key(3), "g", 1)


def test_an_actor_of_the_group_that_comes_free_again_serves_nobody_else() -> None:
    pool = grown()
    feed(pool, described(key(1), "idle", 1), ev.PlacementReady("g", (NODE, NODE)), now_s=9.0)
    feed(pool, described(key(2), "running", 1), now_s=9.0)  # somebody else was first
    feed(pool, described(key(2), "idle", 2, epoch=1), now_s=9.0)
    assert not pool.gangs["g"].expected - {key(3)}
    feed(pool, described(key(3), "idle", 1), ev.ClaimRefused("g/1", key(2)), now_s=9.0)
    assert StopSlot(key(2)) in feed(pool, described(key(2), "idle", 9, epoch=2), now_s=9.0)


def test_groups_of_a_former_manager_are_removed_unless_somebody_lives_there() -> None:
    pool = PoolState(2, 0)
    feed(pool, ev.NodeSeen(NODE), ev.SlotFound(key(0)), ev.SlotFound(key(1)))
    assert feed(pool, ev.PlacementsFound(frozenset({"old", "used"}))) == []  # nobody knows yet where the slots live
    word = described(key(0), "running", 3).description
    feed(pool, ev.SlotDescribed(dataclasses.replace(word, placement="used")), described(key(1), "running", 3))
    assert feed(pool, ev.PlacementsFound(frozenset({"old", "used"}))) == [RemovePlacement("old")]
    free = dataclasses.replace(described(key(0), "idle", 4, epoch=1).description, placement="used")
    assert feed(pool, ev.SlotDescribed(free)) == [StopSlot(key(0))]


# ---- the death of the manager in the middle ----


def test_a_half_made_gang_of_a_dead_manager_is_ended_and_a_whole_one_is_not() -> None:
    pool = PoolState(4, 0)
    feed(pool, ev.NodeSeen(NODE), *(ev.SlotFound(key(n)) for n in range(4)))
    confirmed = dataclasses.replace(member("half", 0, key(0)), pending=False)
    assert feed(pool, described(key(0), "running", 5, info=confirmed)) == []
    pending = member("half", 1, key(1))
    orders = feed(pool, described(key(1), "running", 5, info=pending))
    assert orders == [KillSandbox(key(0), confirmed.sandbox_id), KillSandbox(key(1), pending.sandbox_id)]
    late = member("half", 2, key(2))
    assert KillSandbox(key(2), late.sandbox_id) in feed(pool, described(key(2), "running", 5, info=late))
    whole = dataclasses.replace(member("whole", 0, key(3)), pending=False)
    assert feed(pool, described(key(3), "running", 5, info=whole)) == []
    assert whole in list(pool.live())


def test_an_old_word_of_a_member_that_was_confirmed_does_not_end_it() -> None:
    pool = a_pool("warm")
    feed(pool, gang("g", 1), won("g", 0, 0))
    confirmed = dataclasses.replace(won("g", 0, 0).info, pending=False)
    feed(pool, described(key(0), "running", 9, info=confirmed), ev.GangConfirmed("g"))
    assert feed(pool, described(key(0), "running", 8, info=won("g", 0, 0).info)) == []
    assert list(pool.live()) == [confirmed]
