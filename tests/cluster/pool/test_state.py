"""The pool machine: the ordinary course, the races one by one, and any order of everything."""

from __future__ import annotations

import dataclasses
import inspect
import random
import typing
from collections.abc import Callable, Set
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raybox_actors import sandbox_id as ids
from raybox_actors.config import Placement
from raybox_actors.values import Quota, SandboxInfo, SlotDescription, SlotState
from raybox_cluster.pool import events as ev
from raybox_cluster.pool.events import SlotKey
from raybox_cluster.pool.instructions import (
    AnswerClaim,
    AnswerGang,
    AssignClaim,
    ConfirmGang,
    DescribeSlot,
    EnsureNodeAgent,
    FailGang,
    Instruction,
    KillSandbox,
    PrepareSlot,
    RefuseClaim,
    RejectClaim,
    RemovePlacement,
    ReservePlacement,
    StartSlot,
    StopNodeAgent,
    StopSlot,
)
from raybox_cluster.pool.policy import Policy
from raybox_cluster.pool.quotas import Use
from raybox_cluster.pool.state import HANDLERS, PoolState

NODE = "a" * 56
#: A node that hosts nothing.
HEAD = "h" * 56
SECRET = b"s"


def key(slot: int, node_id: str = NODE) -> SlotKey:
    return SlotKey(node_id, slot)


#: Of the keys in the test of any order; others have none.
QUOTAS = {"alice": Quota(sandboxes=1), "bob": Quota(cpu=4), "carol": Quota(memory_mib=100)}
USE = Use(1, 1, 1)


def an_info(
    at: SlotKey, epoch: int, word: str = "", idempotency_key: str | None = None, owner: str = ""
) -> SandboxInfo:
    entropy = random.Random(f"{at}{epoch}{word}").randbytes(ids.ENTROPY_BYTES)
    sandbox_id = ids.mint(SECRET, at.node_id, at.slot, epoch, entropy)
    return SandboxInfo(
        sandbox_id,
        "t",
        "running",
        0.0,
        300.0,
        {},
        1,
        1,
        1,
        owner=owner,
        node_id=at.node_id,
        idempotency_key=idempotency_key,
    )


def described(
    at: SlotKey,
    state: SlotState,
    sequence: int,
    *,
    epoch: int = 0,
    executions: int = 0,
    info: SandboxInfo | None = None,
) -> ev.SlotDescribed:
    if state in ("starting", "running", "paused") and info is None:
        info = an_info(at, epoch)
    return ev.SlotDescribed(
        SlotDescription(f"x-{at.slot}", at.node_id, at.slot, epoch, state, info, executions, sequence)
    )


def feed(pool: PoolState, *events: ev.Event, now_s: float = 0.0) -> list[Instruction]:
    """What the last of the events ordered."""
    orders: list[Instruction] = []
    for event in events:
        orders = pool.handle(event, now_s)
        pool.check()
    return orders


def a_pool(*states: SlotState, warm: int = 0, sandboxes: int | None = None, policy: Policy | None = None) -> PoolState:
    """A pool on one node whose slots have said to be in these states, in order."""
    pool = PoolState(len(states) if sandboxes is None else sandboxes, warm, policy or Policy(starts_per_node=99))
    feed(pool, ev.NodeSeen(NODE), ev.NodeAgentReady(NODE))
    for number, state in enumerate(states):
        feed(pool, described(key(number), state, 1))
    return pool


def test_every_event_has_a_handler_that_takes_it() -> None:
    assert set(HANDLERS) == set(get_args(ev.Event))
    for kind, handler in HANDLERS.items():
        parameters = list(inspect.signature(handler).parameters.values())
        assert typing.get_type_hints(handler)[parameters[1].name] is kind


# ---- starting ----


def test_a_node_gets_an_agent_and_then_its_slots() -> None:
    pool = PoolState(3, 1, Policy(starts_per_node=2))
    assert feed(pool, ev.NodeSeen(NODE)) == [EnsureNodeAgent(NODE)]
    assert feed(pool, ev.NodeAgentReady(NODE)) == [StartSlot(key(0)), StartSlot(key(1))]
    orders = feed(pool, described(key(0), "idle", 1))
    assert orders == [StartSlot(key(2)), PrepareSlot(key(0))]


def test_slots_are_spread_over_nodes() -> None:
    pool = PoolState(4, 0)
    feed(pool, ev.NodeSeen("a" * 56), ev.NodeSeen("b" * 56), ev.NodeAgentReady("a" * 56))
    assert [node.slots for node in pool.nodes.values()] == [2, 0]
    assert feed(pool, ev.NodeAgentReady("b" * 56)) == [StartSlot(key(0, "b" * 56)), StartSlot(key(1, "b" * 56))]


def test_a_failing_agent_is_tried_again_later_and_later() -> None:
    pool = PoolState(1, 0, Policy(backoff_first_s=1.0))
    feed(pool, ev.NodeSeen(NODE))
    assert feed(pool, ev.NodeAgentFailed(NODE, "no bubblewrap")) == []
    assert [node.problem for node in pool.status().nodes] == ["no bubblewrap"]
    assert pool.wake_at_s == 1.0
    assert feed(pool, ev.Ticked(), now_s=0.9) == []
    assert feed(pool, ev.Ticked(), now_s=1.0) == [EnsureNodeAgent(NODE)]
    feed(pool, ev.NodeAgentFailed(NODE), now_s=1.0)  # it was just being started again
    assert [node.problem for node in pool.status().nodes] == ["no bubblewrap"]
    assert pool.wake_at_s == 3.0
    feed(pool, ev.NodeAgentReady(NODE), now_s=1.0)
    assert [node.problem for node in pool.status().nodes] == [""]


def test_a_slot_that_does_not_start_is_replaced_by_a_new_number_after_a_pause() -> None:
    pool = PoolState(1, 0, Policy(backoff_first_s=1.0))
    feed(pool, ev.NodeSeen(NODE), ev.NodeAgentReady(NODE))
    assert feed(pool, ev.SlotLost(key(0))) == []
    assert feed(pool, ev.Ticked(), now_s=1.0) == [StartSlot(key(1))]


# ---- claims ----


def test_a_claim_takes_the_slot_that_is_ready_soonest() -> None:
    pool = a_pool("idle", "preparing", "warm")
    assert [feed(pool, ev.ClaimAsked(str(n)))[0] for n in range(3)] == [
        AssignClaim("0", key(2)),
        AssignClaim("1", key(1)),
        AssignClaim("2", key(0)),
    ]


def test_a_won_claim_is_answered_and_listed_at_once() -> None:
    pool = a_pool("warm")
    feed(pool, ev.ClaimAsked("c"))
    info = an_info(key(0), 0)
    assert feed(pool, ev.ClaimWon("c", key(0), info)) == [AnswerClaim("c", info)]
    assert list(pool.live()) == [info]


def test_late_words_of_before_the_claim_do_not_make_the_slot_free() -> None:
    pool = a_pool("idle")
    feed(pool, ev.ClaimAsked("c"), ev.ClaimWon("c", key(0), an_info(key(0), 0)))
    feed(pool, ev.ClaimAsked("d"))
    assert feed(pool, described(key(0), "preparing", 2), described(key(0), "warm", 3)) == []
    assert feed(pool, described(key(0), "idle", 9, epoch=1)) == [AssignClaim("d", key(0))]


def test_claims_wait_in_order() -> None:
    pool = a_pool("running", "running")
    assert feed(pool, ev.ClaimAsked("c"), ev.ClaimAsked("d")) == []
    assert feed(pool, described(key(1), "idle", 5, epoch=1)) == [AssignClaim("c", key(1))]
    assert feed(pool, described(key(0), "idle", 5, epoch=1)) == [AssignClaim("d", key(0))]


def test_a_claim_that_waited_too_long_is_rejected() -> None:
    pool = a_pool("running")
    feed(pool, ev.ClaimAsked("c"))
    (order,) = feed(pool, ev.ClaimDeadlinePassed("c"))
    assert isinstance(order, RejectClaim)
    assert order.retry_after_s == Policy().retry_most_s  # the sandbox has 300 s left
    assert feed(pool, described(key(0), "idle", 5, epoch=1)) == []


def test_when_a_slot_is_about_to_come_free_the_caller_is_told_to_come_back_soon() -> None:
    pool = a_pool("destroying")
    feed(pool, ev.ClaimAsked("c"))
    (order,) = feed(pool, ev.ClaimDeadlinePassed("c"))
    assert isinstance(order, RejectClaim)
    assert order.retry_after_s == Policy().retry_soon_s


def test_too_many_claims() -> None:
    pool = a_pool("running", policy=Policy(claims_waiting_most=2))
    feed(pool, ev.ClaimAsked("c", "alice"), ev.ClaimAsked("d", "alice"))
    (order,) = feed(pool, ev.ClaimAsked("e", "alice"))
    assert (type(order), order.claim_id) == (RejectClaim, "e")  # type: ignore[union-attr]
    (order,) = feed(pool, ev.ClaimAsked("f", "bob"))  # who has most in line makes room
    assert (type(order), order.claim_id) == (RejectClaim, "d")  # type: ignore[union-attr]
    assert list(pool.claims) == ["c", "f"]


def test_too_many_claims_of_one_key() -> None:
    pool = a_pool("running", policy=Policy(claims_waiting_per_key_most=1))
    feed(pool, ev.ClaimAsked("c", "alice"))
    (order,) = feed(pool, ev.ClaimAsked("d", "alice"))
    assert isinstance(order, RejectClaim)
    assert order.reason == "too many claims of API key alice are waiting"
    assert feed(pool, ev.ClaimAsked("e", "bob")) == []


def test_a_key_that_floods_the_pool_does_not_keep_others_out() -> None:
    pool = a_pool("warm", "warm", "warm", "warm")
    feed(pool, *(ev.ClaimAsked(f"flood {n}", "alice", use=USE, idempotency_key=f"{n}") for n in range(50)))
    for slot in range(4):
        info = an_info(key(slot), 0, owner="alice", idempotency_key=f"{slot}")
        feed(pool, ev.ClaimWon(f"flood {slot}", key(slot), info))
    feed(pool, ev.ClaimAsked("late", "bob", use=USE))
    assert feed(pool, described(key(0), "idle", 5, epoch=1)) == [AssignClaim("late", key(0))]
    assert feed(pool, described(key(1), "idle", 5, epoch=1)) == [AssignClaim("flood 4", key(1))]


def test_a_rejected_claim_is_told_of_the_rate_at_which_slots_come_free() -> None:
    pool = a_pool("running", "running", "running", "running")
    for slot in range(3):  # every four seconds, one
        feed(pool, described(key(slot), "idle", 5, epoch=1), now_s=4.0 * slot)
        feed(pool, described(key(slot), "running", 6, epoch=1), now_s=4.0 * slot)
    feed(pool, ev.ClaimAsked("a"), ev.ClaimAsked("b"), now_s=8.0)
    (order,) = feed(pool, ev.ClaimDeadlinePassed("b"), now_s=8.0)
    assert isinstance(order, RejectClaim)
    assert order.retry_after_s == 8.0  # one for the claim that waits, one for whoever comes back


def test_a_storm_of_rejections_looks_at_the_deadlines_once() -> None:
    pool = a_pool("running", policy=Policy(outlook_kept_s=5.0))
    feed(pool, ev.ClaimAsked("a"), ev.ClaimDeadlinePassed("a"))
    looked = pool._ends_at_s
    feed(pool, ev.ClaimAsked("b"), ev.ClaimDeadlinePassed("b"), now_s=4.9)
    assert pool._ends_at_s is looked
    (order,) = feed(pool, ev.ClaimAsked("c"), ev.ClaimDeadlinePassed("c"), now_s=290.0)
    assert pool._ends_at_s is not looked
    assert isinstance(order, RejectClaim)
    assert order.retry_after_s == 10.0


def test_capacity_is_what_is_free_within_the_quota() -> None:
    pool = a_pool("warm", "idle", "idle", "running")
    nobody = pool.capacity("bob", None, USE, 0.0)
    assert (nobody.available, nobody.warm, nobody.live, nobody.limit) == (3, 1, 0, None)
    assert (nobody.pool_live, nobody.pool_limit, nobody.waiting, nobody.retry_after_s) == (1, 4, 0, 0.0)
    quota = Quota(sandboxes=2)
    feed(pool, asked("c", quota=quota), won("c", 0))
    alice = pool.capacity("alice", quota, USE, 0.0)
    assert (alice.available, alice.warm, alice.live, alice.limit) == (1, 0, 1, 2)
    feed(pool, ev.ClaimAsked("d"), ev.ClaimAsked("e"), ev.ClaimAsked("f"))
    full = pool.capacity("bob", None, USE, 0.0)
    assert (full.available, full.waiting, full.retry_after_s) == (0, 1, Policy().retry_most_s)


def test_a_claim_lost_to_another_manager_goes_elsewhere() -> None:
    pool = a_pool("warm", "idle")
    feed(pool, ev.ClaimAsked("c"))
    orders = feed(pool, ev.ClaimRefused("c", key(0)))
    assert orders == [DescribeSlot(key(0)), AssignClaim("c", key(1))]
    # The slot stays out of reach until it has said something new.
    assert feed(pool, ev.ClaimAsked("d")) == []
    assert feed(pool, described(key(0), "warm", 1)) == []
    assert feed(pool, described(key(0), "idle", 4, epoch=1)) == [AssignClaim("d", key(0))]


def test_a_refused_claim_keeps_its_place_in_the_queue() -> None:
    pool = a_pool("warm")
    feed(pool, ev.ClaimAsked("c"), ev.ClaimAsked("d"), ev.ClaimRefused("c", key(0)))
    assert list(pool.waiting) == ["c", "d"]


def test_a_claim_whose_wait_ended_while_it_was_assigned_does_not_wait_again() -> None:
    pool = a_pool("warm")
    feed(pool, ev.ClaimAsked("c"))
    assert feed(pool, ev.ClaimDeadlinePassed("c")) == []
    orders = feed(pool, ev.ClaimRefused("c", key(0)))
    assert [type(order) for order in orders] == [DescribeSlot, RejectClaim]


def test_a_slot_lost_while_its_claim_is_under_way() -> None:
    pool = a_pool("warm", "idle")
    feed(pool, ev.ClaimAsked("c"))
    assert AssignClaim("c", key(1)) in feed(pool, ev.SlotLost(key(0)))


def test_a_sandbox_won_on_a_slot_thought_lost_is_killed() -> None:
    pool = a_pool("warm", "idle")
    feed(pool, ev.ClaimAsked("c"), ev.SlotLost(key(0)))
    info = an_info(key(0), 0)
    assert KillSandbox(key(0), info.sandbox_id) in feed(pool, ev.ClaimWon("c", key(0), info))
    assert AnswerClaim("c", an_info(key(1), 0)) in feed(pool, ev.ClaimWon("c", key(1), an_info(key(1), 0)))


def test_a_claim_that_breaks_everywhere_is_given_up() -> None:
    pool = a_pool("idle", "idle", "idle", policy=Policy(claim_attempts=2))
    feed(pool, ev.ClaimAsked("c"))
    assert feed(pool, ev.ClaimBroke("c", key(0))) == [DescribeSlot(key(0)), AssignClaim("c", key(1))]
    assert [type(order) for order in feed(pool, ev.ClaimBroke("c", key(1)))] == [DescribeSlot, RejectClaim]
    assert not pool.claims


def test_a_dropped_claim_frees_nothing_until_the_slot_speaks() -> None:
    pool = a_pool("idle")
    feed(pool, ev.ClaimAsked("c"))
    assert feed(pool, ev.ClaimDropped("c", key(0))) == [DescribeSlot(key(0))]
    assert not pool.claims


# ---- quotas ----


def asked(claim_id: str, owner: str = "alice", quota: Quota | None = None, use: Use = USE) -> ev.ClaimAsked:
    return ev.ClaimAsked(claim_id, owner, quota or Quota(sandboxes=1), use, f"key {claim_id}")


def won(claim_id: str, slot: int, owner: str = "alice", epoch: int = 0) -> ev.ClaimWon:
    return ev.ClaimWon(claim_id, key(slot), an_info(key(slot), epoch, claim_id, f"key {claim_id}", owner))


def test_claims_that_race_for_the_last_place_of_a_quota() -> None:
    pool = a_pool("warm", "warm", "warm")
    assert feed(pool, asked("c")) == [AssignClaim("c", key(0))]
    assert feed(pool, asked("d")) == []  # `c` is not won yet, but counts
    assert feed(pool, asked("e", "bob")) == [AssignClaim("e", key(1))]
    assert pool.wake_at_s == Policy().over_quota_wait_s
    feed(pool, won("c", 0))
    (order,) = feed(pool, ev.Ticked(), now_s=Policy().over_quota_wait_s)
    assert order == RefuseClaim("d", "the quota of API key alice is used up: its sandboxes have 1 of 1 sandboxes")
    assert not pool.over_quota


def test_a_claim_whose_place_comes_free_a_moment_later_is_served() -> None:
    pool = a_pool("warm", "warm")
    feed(pool, asked("c"), won("c", 0))
    assert feed(pool, asked("d")) == [DescribeSlot(key(0))]
    assert feed(pool, described(key(0), "destroying", 2)) == [AssignClaim("d", key(1))]


def test_a_sandbox_that_speaks_before_its_claim_is_answered_counts_once() -> None:
    pool = a_pool("warm", "warm")
    two = Quota(sandboxes=2)
    feed(pool, asked("c", quota=two))
    feed(pool, described(key(0), "running", 2, info=won("c", 0).info))
    assert feed(pool, asked("d", quota=two)) == [AssignClaim("d", key(1))]


@pytest.mark.parametrize(
    ("quota", "use", "says"),
    [
        (Quota(cpu=3), Use(1, 2, 1), "its sandboxes have 2 of 3 CPUs"),
        (Quota(memory_mib=3000), Use(1, 1, 2000), "its sandboxes have 2000 of 3000 MiB of memory"),
    ],
)
def test_quotas_of_cpu_and_memory(quota: Quota, use: Use, says: str) -> None:
    pool = a_pool("warm", "warm")
    feed(pool, asked("c", quota=quota, use=use), asked("d", quota=quota, use=use))
    (order,) = feed(pool, ev.Ticked(), now_s=60.0)
    assert isinstance(order, RefuseClaim)
    assert order.reason.endswith(says)


def test_what_no_quota_of_the_key_can_hold_is_refused_at_once() -> None:
    pool = a_pool("warm")
    (order,) = feed(pool, asked("c", quota=Quota(memory_mib=512), use=Use(1, 1, 1024)))
    assert order == RefuseClaim("c", "the quota of API key alice is 512 MiB of memory, and a sandbox needs 1024")
    (order,) = feed(pool, asked("d", quota=Quota(sandboxes=0)))
    assert isinstance(order, RefuseClaim)


def test_only_so_many_claims_of_a_key_wait_for_room_in_its_quota() -> None:
    pool = a_pool("warm", policy=Policy(over_quota_waiting_most=2))
    feed(pool, asked("c"), won("c", 0), asked("d"), asked("e"))
    assert [type(order) for order in feed(pool, asked("f"))] == [RefuseClaim]
    assert list(pool.over_quota) == ["d", "e"]


def test_a_new_manager_counts_what_the_former_made() -> None:
    pool = PoolState(2, 0)
    feed(pool, ev.NodeSeen(NODE), ev.SlotFound(key(0)))
    feed(pool, described(key(0), "running", 7, info=an_info(key(0), 0, owner="alice")))
    assert feed(pool, asked("c")) == [DescribeSlot(key(0))]
    assert feed(pool, ev.SlotLost(key(0))) == []
    assert list(pool.claims) == ["c"]


def test_a_claim_that_is_given_up_no_longer_counts() -> None:
    pool = a_pool("warm")
    feed(pool, asked("c"), ev.ClaimDropped("c", key(0)))
    feed(pool, asked("d"), ev.ClaimDeadlinePassed("d"))
    assert pool.ledger.uses == {}


# ---- claims that gateways make directly ----


def test_hints_are_the_free_slots_the_warm_ones_first_and_none_while_claims_wait() -> None:
    pool = a_pool("idle", "warm", "running", "warm", "warm")
    assert pool.free_slots(2) == [key(1), key(3)]
    feed(pool, ev.ClaimAsked("c"))
    assert pool.free_slots(9) == [key(3), key(4), key(0)]
    full = a_pool("running")
    feed(full, ev.ClaimAsked("c"))
    assert full.free_slots(9) == []
    assert feed(full, described(key(0), "warm", 5, epoch=1)) == [AssignClaim("c", key(0))]
    assert full.free_slots(9) == []


def test_a_direct_claim_is_listed_at_once_and_its_replacement_waits_a_little() -> None:
    pool = a_pool("warm", "idle", warm=1, policy=Policy(starts_per_node=9, claim_pause_s=0.5))
    info = an_info(key(0), 0)
    assert feed(pool, ev.ClaimedDirectly(key(0), info)) == []
    assert list(pool.live()) == [info]
    assert pool.status().slots_by_state == {"running": 1, "idle": 1}
    assert pool.wake_at_s == 0.5
    assert feed(pool, ev.Ticked(), now_s=0.5) == [PrepareSlot(key(1))]


def test_words_of_before_a_direct_claim_do_not_take_it_off_the_list() -> None:
    pool = a_pool("running")  # of epoch 0; that it ended is not known yet
    info = an_info(key(0), 1)
    feed(pool, ev.ClaimedDirectly(key(0), info))
    feed(pool, described(key(0), "destroying", 2), described(key(0), "warm", 4, epoch=1))
    assert list(pool.live()) == [info]
    feed(pool, described(key(0), "destroying", 6, epoch=1))
    assert list(pool.live()) == []


def test_a_direct_claim_that_is_heard_of_after_its_end_changes_nothing() -> None:
    pool = a_pool("warm")
    feed(pool, described(key(0), "warm", 5, epoch=1))
    feed(pool, ev.ClaimedDirectly(key(0), an_info(key(0), 0)))
    assert list(pool.live()) == []
    assert pool.free_slots(9) == [key(0)]
    ending = a_pool("warm")
    feed(ending, described(key(0), "destroying", 3), ev.ClaimedDirectly(key(0), an_info(key(0), 0)))
    assert list(ending.live()) == []


def test_a_claim_that_raced_with_a_direct_one_goes_elsewhere() -> None:
    pool = a_pool("warm", "idle")
    feed(pool, ev.ClaimAsked("c"))
    info = an_info(key(0), 0)
    assert feed(pool, ev.ClaimedDirectly(key(0), info)) == []
    assert feed(pool, ev.ClaimRefused("c", key(0))) == [DescribeSlot(key(0)), AssignClaim("c", key(1))]
    assert list(pool.live()) == [info]


def test_direct_claims_of_slots_that_are_unknown_or_have_not_spoken() -> None:
    pool = PoolState(1, 0)
    assert feed(pool, ev.ClaimedDirectly(key(0), an_info(key(0), 0))) == []
    feed(pool, ev.NodeSeen(NODE), ev.SlotFound(key(0)), ev.ClaimedDirectly(key(0), an_info(key(0), 0)))
    feed(pool, ev.ClaimAsked("c"))
    assert feed(pool, described(key(0), "warm", 3)) == []  # asked before the claim
    assert list(pool.live()) == []
    feed(pool, described(key(0), "running", 4))
    assert list(pool.live()) == [an_info(key(0), 0)]


def test_a_sandbox_of_an_abandoned_direct_claim_is_killed_and_no_other() -> None:
    stray = an_info(key(0), 0, idempotency_key="stray")
    kill = KillSandbox(key(0), stray.sandbox_id)
    pool = a_pool("warm")
    assert feed(pool, ev.ClaimAbandoned(key(0), "stray")) == [DescribeSlot(key(0))]
    assert feed(pool, described(key(0), "running", 2, info=stray)) == [kill]
    assert feed(pool, described(key(0), "running", 2, info=stray)) == [kill]  # it may have failed
    pool = a_pool("warm")
    feed(pool, described(key(0), "running", 2, info=stray))
    assert feed(pool, ev.ClaimAbandoned(key(0), "stray")) == [DescribeSlot(key(0)), kill]
    pool = a_pool("running")
    assert feed(pool, ev.ClaimAbandoned(key(0), "stray")) == [DescribeSlot(key(0))]
    assert feed(pool, described(key(0), "running", 2)) == []
    assert feed(pool, ev.ClaimAbandoned(None, "another")) == []


def test_a_surplus_slot_that_was_claimed_directly_stays() -> None:
    pool = PoolState(0, 0)
    feed(pool, ev.NodeSeen(NODE), ev.SlotFound(key(0)))
    assert feed(pool, described(key(0), "warm", 1)) == [StopSlot(key(0))]
    info = an_info(key(0), 0)
    feed(pool, ev.ClaimedDirectly(key(0), info))
    assert feed(pool, ev.StopRefused(key(0))) == [DescribeSlot(key(0))]
    assert list(pool.live()) == [info]
    assert feed(pool, described(key(0), "idle", 5, epoch=1)) == [StopSlot(key(0))]


# ---- loss ----


def test_lost_sandboxes_have_tombstones_and_their_slots_new_numbers() -> None:
    pool = a_pool("running", "running")
    sandbox = an_info(key(0), 0).sandbox_id
    feed(pool, ev.SlotLost(key(0)))
    assert pool.tombstones == {sandbox: "internal"}
    assert feed(pool, ev.Ticked(), now_s=10.0) == [StartSlot(key(2))]
    feed(pool, described(key(0), "running", 99))  # a last word that came late
    assert key(0) not in pool.slots
    feed(pool, ev.NodeGone(NODE))
    assert pool.tombstones[an_info(key(1), 0).sandbox_id] == "node_lost"
    assert not pool.slots


def test_a_new_manager_learns_what_there_is_and_stops_what_is_too_much() -> None:
    pool = PoolState(2, 0)
    feed(pool, ev.NodeSeen(NODE))
    for number in (5, 3, 4):
        assert DescribeSlot(key(number)) in feed(pool, ev.SlotFound(key(number)))
    feed(pool, described(key(5), "running", 7), described(key(4), "idle", 2))
    assert not pool.slots[key(3)].stopping
    assert list(pool.live()) == [an_info(key(5), 0)]
    assert feed(pool, ev.NodeAgentReady(NODE)) == []
    assert key(4) in pool.buckets["stopping"]
    assert feed(pool, ev.SlotStopped(key(4))) == []
    feed(pool, ev.SlotLost(key(3)))
    assert feed(pool, ev.Ticked(), now_s=10.0) == [StartSlot(key(6))]


def test_a_slot_that_stopped_by_itself_is_replaced() -> None:
    pool = a_pool("running")
    assert feed(pool, described(key(0), "stopped", 2)) == [StartSlot(key(1))]


# ---- refill ----


def test_warm_slots_are_kept_but_not_all_prepared_at_once() -> None:
    pool = a_pool("idle", "idle", "idle", "idle", warm=3, policy=Policy(starts_per_node=9, prepares_per_node=2))
    assert {key for key, slot in pool.slots.items() if slot.prepare_ordered} == {key(0), key(1)}
    assert feed(pool, described(key(0), "warm", 2)) == []
    assert feed(pool, ev.PrepareEnded(key(0), ok=True)) == [PrepareSlot(key(2))]


def test_refill_slows_down_while_executions_run() -> None:
    policy = Policy(starts_per_node=9, prepares_per_node=2, prepares_per_busy_node=1, busy_pause_s=0.5)
    pool = a_pool("running", sandboxes=4, warm=3, policy=policy)
    feed(pool, described(key(0), "running", 2, executions=1))
    feed(pool, *(described(key(number), "idle", 1) for number in (1, 2, 3)))
    assert pool.nodes[NODE].preparing == 1
    orders = feed(pool, described(key(1), "warm", 2), ev.PrepareEnded(key(1), ok=True))
    assert orders == []
    assert pool.wake_at_s == 0.5
    assert feed(pool, ev.Ticked(), now_s=0.5) == [PrepareSlot(key(2))]
    # Quiet again: full speed.
    assert feed(pool, described(key(0), "running", 3), now_s=0.5) == [PrepareSlot(key(3))]


def test_a_failing_preparation_is_repeated_after_a_pause() -> None:
    pool = a_pool("idle", warm=1, policy=Policy(backoff_first_s=1.0))
    feed(pool, described(key(0), "idle", 4, epoch=1))
    assert feed(pool, ev.PrepareEnded(key(0), ok=False)) == []
    assert pool.wake_at_s == 1.0
    assert feed(pool, ev.Ticked(), now_s=1.0) == [PrepareSlot(key(0))]


def test_a_preparation_that_changes_nothing_is_not_repeated_without_a_pause() -> None:
    """The last word of another actor of this name came late, and what this one says looks old."""
    pool = a_pool("idle", warm=1, policy=Policy(backoff_first_s=1.0))
    assert feed(pool, ev.PrepareEnded(key(0), ok=True)) == []
    assert feed(pool, ev.Ticked(), now_s=1.0) == [PrepareSlot(key(0))]


def test_claims_come_before_refill() -> None:
    pool = a_pool("running", warm=1)
    feed(pool, ev.ClaimAsked("c"))
    assert feed(pool, described(key(0), "idle", 2, epoch=1)) == [AssignClaim("c", key(0))]


def test_status() -> None:
    pool = a_pool("running", "warm", "idle", warm=1)
    feed(pool, described(key(0), "running", 2, executions=2), ev.ClaimAsked("c"))
    status = pool.status()
    assert status.slots_by_state == {"running": 1, "warm": 1, "idle": 1}
    assert (status.capacity, status.warm, status.busy, status.claims_waiting) == (3, 0, 1, 0)
    assert [(node.zygote_ready, node.slots) for node in status.nodes] == [(True, 3)]


# ---- any order ----


@dataclasses.dataclass
class SimActor:
    at: SlotKey
    state: SlotState = "idle"
    epoch: int = 0
    sequence: int = 1
    info: SandboxInfo | None = None
    placement: str = ""

    def described(self) -> ev.SlotDescribed:
        word = described(self.at, self.state, self.sequence, epoch=self.epoch, info=self.info)
        return ev.SlotDescribed(replace(word.description, placement=self.placement))

    def become(self, state: SlotState) -> None:
        self.state = state
        self.sequence += 1


class AnyOrder(RuleBasedStateMachine):
    """A world of nodes and actors that fail; a manager that carries orders out late, in any order, and may be replaced;
    gateways that claim directly, on hints of any age.

    Messages to the manager may be reordered or lost, and those under way die with it; answers to its own calls are not
    lost.
    """

    @initialize(
        sandboxes=st.integers(0, 4),
        warm=st.integers(0, 3),
        placement=st.sampled_from(get_args(Placement)),
        least=st.one_of(st.none(), st.integers(0, 4)),
        room=st.integers(1, 4),
        no_network=st.sets(st.sampled_from("abc")),
    )
    def begin(
        self,
        sandboxes: int,
        warm: int,
        placement: Placement = "spread",
        least: int | None = None,
        room: int = 99,
        no_network: Set[str] = frozenset(),
    ) -> None:
        self.now = 0.0
        self.sandboxes, self.warm, self.placement = sandboxes, warm, placement
        self.least = None if least is None else min(least, sandboxes)
        #: Actors that a node holds; nodes that give no network.
        self.room, self.no_network = room, {name * 56 for name in no_network}
        self.alive: set[str] = set()
        self.agents: set[str] = set()
        #: When the sandboxes of nodes end that go away.
        self.draining: dict[str, float] = {}
        self.actors: dict[SlotKey, SimActor] = {}
        self.used: set[SlotKey] = set()
        self.orders: list[Instruction] = []
        #: What the manager will hear of effects, with the node they were on.
        self.replies: list[tuple[str, Callable[[], ev.Event]]] = []
        self.mail: list[tuple[str, ev.Event]] = []
        self.hints: list[SlotKey] = []
        self.direct = 0
        #: Keys of abandoned claims that this manager heard of.
        self.abandoned: set[str] = set()
        self.claims = 0
        self.open: set[str] = set()
        #: Who asked, by claim.
        self.asked_by: dict[str, str] = {}
        self.won: dict[str, SandboxInfo] = {}
        self.gangs = 0
        self.open_gangs: set[str] = set()
        #: Of those whose sandboxes are confirmed, and of no others.
        self.whole: dict[str, list[SandboxInfo]] = {}
        #: Gangs with a placement group in the cluster, and the nodes of its bundles.
        self.groups: dict[str, tuple[str, ...]] = {}
        self.pool = self.a_manager()

    def a_manager(self) -> PoolState:
        return PoolState(
            self.sandboxes,
            self.warm,
            Policy(claims_waiting_most=5),
            placement=self.placement,
            min_sandboxes=self.least,
            idle_s=30.0,
            tombstones_kept=3,
        )

    def seen(self, node_id: str) -> ev.NodeSeen:
        return ev.NodeSeen(node_id, node_id != HEAD, self.room_on(node_id), self.draining.get(node_id))

    def room_on(self, node_id: str) -> int:
        """What placement groups have reserved is not free, whether or not somebody lives there."""
        outside = sum(actor.at.node_id == node_id and not actor.placement for actor in self.actors.values())
        return self.room - outside - sum(nodes.count(node_id) for nodes in self.groups.values())

    def usable(self) -> set[str]:
        """Where sandboxes may be."""
        hosting = self.alive - self.draining.keys() - {HEAD}
        return hosting - self.no_network or hosting

    def tell(self, event: ev.Event) -> None:
        for order in self.pool.handle(event, self.now):
            match order:
                case AnswerClaim(claim_id, info):
                    self.open.remove(claim_id)  # KeyError: answered twice
                    self.won[claim_id] = info
                case RejectClaim(claim_id):
                    self.open.remove(claim_id)
                case RefuseClaim(claim_id):
                    self.open.remove(claim_id)
                    assert self.asked_by[claim_id] in QUOTAS
                case AnswerGang(gang_id):
                    self.open_gangs.remove(gang_id)  # KeyError: answered twice
                    self.won |= {f"{gang_id} {number}": info for number, info in enumerate(self.whole[gang_id])}
                case FailGang(gang_id):
                    self.open_gangs.remove(gang_id)
                case _:
                    self.orders.append(order)

    def change(self, actor: SimActor, state: SlotState) -> None:
        actor.become(state)
        self.mail.append((actor.at.node_id, actor.described()))

    def carry_out(self, order: Instruction) -> None:
        """The effect happens now; the manager hears of it later."""
        match order:
            case EnsureNodeAgent(node_id):
                if node_id in self.alive:
                    self.agents.add(node_id)
                    self.tell(ev.NodeAgentReady(node_id, "no tun" if node_id in self.no_network else ""))
                else:
                    self.tell(ev.NodeAgentFailed(node_id))
            case StopNodeAgent(node_id):
                self.agents.discard(node_id)
                self.replies.append((node_id, lambda: ev.NodeAgentStopped(node_id)))
            case StartSlot(at, placement):
                assert at not in self.used, "the number of a dead actor was used again"
                assert at.node_id != HEAD
                self.used.add(at)
                full = self.room_on(at.node_id) <= 0 and not placement
                if placement and placement not in self.groups:
                    self.replies.append((at.node_id, lambda: ev.SlotLost(at)))
                elif at.node_id in self.alive and (full or at.node_id in self.draining):
                    self.replies.append((at.node_id, lambda: ev.SlotUnplaced(at)))
                elif at.node_id in self.alive:
                    actor = self.actors[at] = SimActor(at, placement=placement)
                    self.replies.append((at.node_id, actor.described))
                else:
                    self.replies.append((at.node_id, lambda: ev.SlotLost(at)))
            case ReservePlacement(gang_id, bundles):
                places = [node_id for node_id in sorted(self.usable()) for _ in range(self.room_on(node_id))]
                if gang_id in self.pool.placements and len(places) >= bundles:  # or it goes on waiting for room
                    found = self.groups[gang_id] = tuple(places[:bundles])
                    self.replies.append(("", lambda: ev.PlacementReady(gang_id, found)))
            case RemovePlacement(gang_id):
                assert not any(actor.placement == gang_id for actor in self.actors.values())
                self.groups.pop(gang_id, None)
            case ConfirmGang(gang_id, members):
                self.confirm(gang_id, members)
            case PrepareSlot(at) | DescribeSlot(at) | StopSlot(at) | KillSandbox(at) | AssignClaim(_, at):
                if (actor_or_none := self.actors.get(at)) is None:
                    self.replies.append(
                        (at.node_id, lambda: ev.SlotStopped(at) if isinstance(order, StopSlot) else ev.SlotLost(at))
                    )
                else:
                    self.call(order, actor_or_none)
            case _:
                raise AssertionError(order)

    def confirm(self, gang_id: str, members: tuple[tuple[str, SlotKey, SandboxInfo], ...]) -> None:
        words: list[ev.SlotDescribed] = []
        broken: ev.Event | None = None
        for claim_id, at, info in members:
            actor = self.actors.get(at)
            if actor is None or actor.info != info:
                broken = ev.GangBroke(gang_id, claim_id, "lost")
                continue
            actor.info = replace(info, pending=False)
            self.change(actor, "running")
            words.append(actor.described())
        self.whole[gang_id] = [word.description.info for word in words if word.description.info is not None]

        def ended() -> ev.Event:
            if broken is not None:
                return broken
            for word in words:
                self.tell(word)
            return ev.GangConfirmed(gang_id)

        self.replies.append(("", ended))

    def call(self, order: Instruction, actor: SimActor) -> None:
        match order:
            case PrepareSlot(at):
                if actor.state == "idle":
                    actor.become("warm")
                word = actor.described()

                def ended() -> ev.Event:
                    self.tell(word)
                    return ev.PrepareEnded(at, ok=True)

                self.replies.append((at.node_id, ended))
            case DescribeSlot():
                answer = actor.described()
                self.replies.append((actor.at.node_id, lambda: answer))
            case StopSlot(at):
                if actor.info is None:
                    del self.actors[at]
                    self.replies.append((at.node_id, lambda: ev.SlotStopped(at)))
                else:
                    self.replies.append((at.node_id, lambda: ev.StopRefused(at)))
            case KillSandbox(at, sandbox_id, cause):
                if actor.info is not None and actor.info.sandbox_id == sandbox_id:
                    over = self.draining.get(at.node_id, self.now + 1) <= self.now
                    assert cause == ("node_lost" if over else "killed") or not over
                    assert over or actor.info not in self.won.values(), "a sandbox that somebody has was killed"
                    self.end(actor)
            case AssignClaim(claim_id, at):
                if actor.state in ("idle", "warm"):
                    info = an_info(at, actor.epoch, claim_id, f"key {claim_id}", self.asked_by[claim_id])
                    if "/" in claim_id:
                        info = replace(info, gang=claim_id.partition("/")[0], pending=True)
                    actor.info = info
                    self.change(actor, "running")
                    self.replies.append((at.node_id, lambda: ev.ClaimWon(claim_id, at, info)))
                else:
                    self.replies.append((at.node_id, lambda: ev.ClaimRefused(claim_id, at)))

    def end(self, actor: SimActor) -> None:
        actor.info = None
        actor.epoch += 1
        self.change(actor, "idle")

    def take(self, at: int) -> None:
        self.carry_out(self.orders.pop(at % len(self.orders)))

    def hear(self, at: int) -> None:
        event = self.replies.pop(at % len(self.replies))[1]()
        if isinstance(event, ev.SlotLost):  # the call had failed; the manager's sweep agrees
            self.actors.pop(event.key, None)
        self.tell(event)

    @rule(name=st.sampled_from("abch"))
    def a_node_comes(self, name: str) -> None:
        self.alive.add(name * 56)
        self.tell(self.seen(name * 56))

    @precondition(lambda self: self.alive)
    @rule(at=st.integers(0, 9), grace_s=st.floats(0, 20))
    def a_node_is_going_away(self, at: int, grace_s: float) -> None:
        node_id = sorted(self.alive)[at % len(self.alive)]
        self.draining.setdefault(node_id, self.now + grace_s)
        self.tell(self.seen(node_id))

    @precondition(lambda self: self.alive)
    @rule(noticed=st.booleans(), at=st.integers(0, 9))
    def a_node_dies(self, noticed: bool, at: int) -> None:
        node_id = sorted(self.alive)[at % len(self.alive)]
        self.alive.remove(node_id)
        self.draining.pop(node_id, None)
        self.agents.discard(node_id)
        for at_key in [at_key for at_key in self.actors if at_key.node_id == node_id]:
            del self.actors[at_key]
        if noticed:
            self.forget(node_id)

    def forget(self, node_id: str) -> None:
        self.tell(ev.NodeGone(node_id))
        # A node that returns has a new id in Ray; here it returns with the old, so its numbers may begin anew.
        self.used = {at_key for at_key in self.used if at_key.node_id != node_id}
        self.orders = [order for order in self.orders if getattr(order, "key", key(0, "")).node_id != node_id]
        self.mail = [mail for mail in self.mail if mail[0] != node_id]
        self.replies = [reply for reply in self.replies if reply[0] != node_id]

    @precondition(lambda self: self.actors)
    @rule(at=st.integers(0, 9))
    def an_actor_dies(self, at: int) -> None:
        del self.actors[sorted(self.actors)[at % len(self.actors)]]

    @rule(owner=st.sampled_from(("", "dave", *QUOTAS)))
    def somebody_asks(self, owner: str) -> None:
        self.claims += 1
        claim_id = str(self.claims)
        self.open.add(claim_id)
        self.asked_by[claim_id] = owner
        self.tell(ev.ClaimAsked(claim_id, owner, QUOTAS.get(owner), USE, f"key {claim_id}"))

    @rule(owner=st.sampled_from(("", "dave", *QUOTAS)), count=st.integers(1, 4))
    def somebody_asks_for_several(self, owner: str, count: int) -> None:
        self.gangs += 1
        gang_id = f"gang {self.gangs}"
        self.open_gangs.add(gang_id)
        names = [f"{gang_id}/{number}" for number in range(count)]
        self.asked_by |= dict.fromkeys(names, owner)
        claims = (ev.ClaimAsked(name, owner, QUOTAS.get(owner), USE, f"key {name}") for name in names)
        self.tell(ev.GangAsked(gang_id, tuple(claims)))

    @precondition(lambda self: self.open_gangs)
    @rule(at=st.integers(0, 9), gone=st.booleans())
    def a_gang_is_given_up(self, at: int, gone: bool) -> None:
        gang_id = sorted(self.open_gangs)[at % len(self.open_gangs)]
        self.tell(ev.GangDropped(gang_id) if gone else ev.GangDeadlinePassed(gang_id))

    @precondition(lambda self: self.open)
    @rule(at=st.integers(0, 9))
    def a_wait_ends(self, at: int) -> None:
        self.tell(ev.ClaimDeadlinePassed(sorted(self.open)[at % len(self.open)]))

    @precondition(lambda self: self.orders)
    @rule(at=st.integers(0, 9))
    def an_order_is_carried_out(self, at: int) -> None:
        self.take(at)

    @precondition(lambda self: self.replies)
    @rule(at=st.integers(0, 9))
    def an_answer_arrives(self, at: int) -> None:
        self.hear(at)

    @precondition(lambda self: self.mail)
    @rule(at=st.integers(0, 9), lost=st.booleans())
    def a_message_arrives_or_not(self, at: int, lost: bool) -> None:
        mail = self.mail.pop(at % len(self.mail))
        if not lost:
            self.read(mail[1])

    def read(self, event: ev.Event) -> None:
        if isinstance(event, ev.ClaimAbandoned):
            self.abandoned.add(event.idempotency_key)
        self.tell(event)

    @precondition(lambda self: any(actor.info for actor in self.actors.values()))
    @rule(at=st.integers(0, 9))
    def a_sandbox_ends(self, at: int) -> None:
        live = [actor for actor in self.actors.values() if actor.info]
        self.end(live[at % len(live)])

    @precondition(lambda self: any(actor.info is None for actor in self.actors.values()))
    @rule(at=st.integers(0, 9))
    def a_rival_claims(self, at: int) -> None:
        free = [actor for actor in self.actors.values() if actor.info is None]
        actor = free[at % len(free)]
        actor.info = an_info(actor.at, actor.epoch, "rival")
        self.change(actor, "running")

    @rule(limit=st.integers(0, 4))
    def a_gateway_looks(self, limit: int) -> None:
        self.hints = self.pool.free_slots(limit)
        assert len(self.hints) <= limit
        assert not (self.hints and self.pool.waiting), "who comes later goes before those who wait"
        assert all(self.pool.slots[at].claim_id is None for at in self.hints)

    @precondition(lambda self: self.hints)
    @rule(at=st.integers(0, 9), answered=st.booleans())
    def a_gateway_claims(self, at: int, answered: bool) -> None:
        hint = self.hints[at % len(self.hints)]  # kept: it gets older
        self.direct += 1
        name = f"direct {self.direct}"
        actor = self.actors.get(hint)
        info = None
        if actor is not None and actor.info is None:
            info = actor.info = an_info(hint, actor.epoch, name, name)
            self.change(actor, "running")
        if not answered:
            self.mail.append((hint.node_id, ev.ClaimAbandoned(hint, name)))
        elif info is not None:
            self.won[name] = info
            self.mail.append((hint.node_id, ev.ClaimedDirectly(hint, info)))

    @rule(passed_s=st.floats(0, 40))
    def time_passes(self, passed_s: float) -> None:
        self.now += passed_s
        self.tell(ev.Ticked())

    @rule()
    def the_manager_is_replaced(self) -> None:
        self.pool = self.a_manager()
        self.orders, self.replies, self.mail = [], [], []
        self.abandoned = set()
        self.open, self.open_gangs = set(), set()  # their callers ask again, as new claims
        self.sweep()
        # The numbers of actors that died before it came may be used again.
        self.used = set(self.actors)

    def sweep(self) -> None:
        for node_id in list(self.pool.nodes):
            if node_id not in self.alive:
                self.forget(node_id)
        for node_id in sorted(self.alive):
            self.tell(self.seen(node_id))
        for at in sorted(self.actors):
            self.tell(ev.SlotFound(at))
            self.tell(self.actors[at].described())
        for node_id in sorted(self.agents):
            self.tell(ev.NodeAgentFound(node_id))
        # Those that should be there are asked whether they are, and started if not.
        self.agents |= {node.node_id for node in self.pool.nodes.values() if node.agent == "ready"} & self.alive
        for at in self.pool.silent_since(float("inf")):
            if at not in self.actors:
                self.tell(ev.SlotLost(at))
        self.tell(ev.PlacementsFound(frozenset(self.groups)))

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "pool"):
            self.pool.check()
            claims = {claim.claim_id for claim in self.pool.claims.values() if not claim.gang}
            assert claims | self.pool.over_quota.keys() == self.open
            assert self.pool.gangs.keys() == self.open_gangs
            for owner, quota in QUOTAS.items():
                live = sum(actor.info is not None and actor.info.owner == owner for actor in self.actors.values())
                assert live <= min(quota.sandboxes or 99, quota.cpu or 99, quota.memory_mib or 99), owner

    def teardown(self) -> None:
        """Let everything come to rest: then the pool believes what is true and wants nothing more."""
        if not hasattr(self, "pool"):
            return
        for _ in range(12):
            for gang_id in sorted(self.open_gangs):
                self.tell(ev.GangDropped(gang_id))
            self.now += 60.0
            self.sweep()
            self.tell(ev.Ticked())
            while self.orders or self.replies:
                while self.orders:
                    self.take(0)
                while self.replies:
                    self.hear(0)
            while self.mail:
                self.read(self.mail.pop(0)[1])
            self.pool.check()
        assert not any(actor.info.pending for actor in self.actors.values() if actor.info)
        if not self.alive:
            return
        assert self.groups.keys() == {actor.placement for actor in self.actors.values() if actor.placement}
        assert set(self.pool.slots) == set(self.actors)
        claimed = [actor for actor in self.actors.values() if actor.info]
        usable = self.usable()
        elsewhere = sum(actor.at.node_id not in usable for actor in claimed)
        room = self.room * len(usable)
        least = self.sandboxes if self.least is None else self.least
        waiting = len(self.pool.waiting)
        wanted = max(len(claimed), least, min(self.sandboxes, len(claimed) + waiting + self.warm))
        assert len(self.actors) == elsewhere + min(room, wanted - elsewhere)
        assert self.pool.unmet() == max(0, wanted - elsewhere - room)
        assert {actor.at.node_id for actor in self.actors.values()} <= usable | {a.at.node_id for a in claimed}
        assert not any(actor.at.node_id in self.draining for actor in claimed)
        inhabited = {actor.at.node_id for actor in self.actors.values()}
        assert inhabited <= self.agents <= inhabited | (usable if self.pool.unmet() else set())
        assert {info.sandbox_id for info in self.pool.live()} == {a.info.sandbox_id for a in claimed if a.info}
        assert not any(a.info.idempotency_key in self.abandoned for a in claimed if a.info)
        warm = sum(actor.state == "warm" for actor in self.actors.values())
        assert warm >= min(self.warm, len(self.actors) - len(claimed))
        assert not self.pool.over_quota
        if self.open:
            assert len(claimed) == len(self.actors)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


_steps = st.lists(
    st.tuples(
        st.sampled_from(
            ("ask", "ask", "ask for two", "carry out", "carry out", "hear", "mail", "end", "die", "replace", "wait")
        ),
        st.sampled_from(tuple(QUOTAS)),
        st.integers(0, 9),
    ),
    min_size=30,
    max_size=80,
)


@settings(max_examples=80)
@given(_steps)
def test_no_order_of_things_takes_a_key_over_its_quota(steps: list[tuple[str, str, int]]) -> None:
    """The world of AnyOrder with fewer troubles and more callers, so that quotas are what is scarce."""
    world = AnyOrder()
    world.begin(6, 1)
    world.a_node_comes("a")
    while world.orders or world.replies:
        world.take(0) if world.orders else world.hear(0)
    assert len(world.actors) == 6
    for what, owner, at in steps:
        live = [actor for actor in world.actors.values() if actor.info]
        match what:
            case "ask":
                world.somebody_asks(owner)
            case "ask for two":
                world.somebody_asks_for_several(owner, 2)
            case "carry out" if world.orders:
                world.take(at)
            case "hear" if world.replies:
                world.hear(at)
            case "mail" if world.mail:
                world.a_message_arrives_or_not(at, lost=at == 9)
            case "end" if live:
                world.end(live[at % len(live)])
            case "die" if world.actors and at == 0:
                world.an_actor_dies(at)
            case "replace" if at == 0:
                world.the_manager_is_replaced()
            case "wait":
                world.time_passes(at / 10)
        world.holds()
    world.teardown()


@pytest.mark.parametrize("failures", range(1, 200, 7))
def test_backoff_is_bounded(failures: int) -> None:
    policy = Policy()
    assert policy.backoff_first_s <= policy.backoff_s(failures) <= policy.backoff_most_s


def test_descriptions_of_the_same_sequence_change_nothing() -> None:
    pool = a_pool("idle")
    before = pool.slots[key(0)].description
    assert before is not None
    feed(pool, ev.SlotDescribed(replace(before, state="warm")))
    assert pool.slots[key(0)].description == before
