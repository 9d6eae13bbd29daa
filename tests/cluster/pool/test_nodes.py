"""The pool machine on several nodes: where slots start and claims go, demand that rises and falls, nodes that leave."""

from __future__ import annotations

from raybox_cluster.pool import events as ev
from raybox_cluster.pool.instructions import (
    AssignClaim,
    EnsureNodeAgent,
    KillSandbox,
    PrepareSlot,
    StartSlot,
    StopNodeAgent,
    StopSlot,
)
from raybox_cluster.pool.placement import UNBOUNDED
from raybox_cluster.pool.policy import Policy
from raybox_cluster.pool.state import PoolState
from tests.cluster.pool.test_state import an_info, described, feed, key

A, B = "a" * 56, "b" * 56
MANY = Policy(starts_per_node=99)


def two_nodes(pool: PoolState, room: int = UNBOUNDED) -> PoolState:
    """With agents on both."""
    feed(pool, ev.NodeSeen(A, room=room), ev.NodeSeen(B, room=room), ev.NodeAgentReady(A), ev.NodeAgentReady(B))
    return pool


def idle(pool: PoolState) -> PoolState:
    """Every slot has spoken."""
    for at in list(pool.slots):
        feed(pool, described(at, "idle", 1))
    return pool


# ---- starting ----


def test_a_share_waits_for_its_node_unless_somebody_waits_for_a_sandbox() -> None:
    pool = PoolState(4, 0, MANY)
    feed(pool, ev.NodeSeen(A), ev.NodeSeen(B))
    assert feed(pool, ev.NodeAgentReady(A)) == [StartSlot(key(0, A)), StartSlot(key(1, A))]
    assert feed(pool, ev.ClaimAsked("c")) == [StartSlot(key(2, A)), StartSlot(key(3, A))]


def test_pack_starts_on_one_node_as_long_as_it_has_room() -> None:
    pool = PoolState(3, 0, MANY, placement="pack")
    assert feed(pool, ev.NodeSeen(A, room=2)) == [EnsureNodeAgent(A)]
    assert feed(pool, ev.NodeSeen(B, room=2)) == [EnsureNodeAgent(B)]
    feed(pool, ev.NodeAgentReady(B))
    feed(pool, ev.NodeAgentReady(A))
    assert sorted(pool.nodes[node].slots for node in (A, B)) == [1, 2]
    assert pool.unmet() == 0


def test_nodes_that_may_not_host_get_nothing() -> None:
    pool = PoolState(2, 0, MANY)
    assert feed(pool, ev.NodeSeen(A, hosts=False)) == []
    assert pool.unmet() == 2
    feed(pool, ev.NodeSeen(B))
    assert pool.unmet() == 0
    assert [node.hosts for node in pool.status().nodes] == [False, True]


def test_a_slot_that_found_no_room_is_started_elsewhere() -> None:
    pool = two_nodes(PoolState(3, 0, MANY), room=2)
    assert feed(pool, ev.SlotUnplaced(key(0, A))) == [StartSlot(key(1, B))]
    assert feed(pool, ev.SlotUnplaced(key(1, A))) == []
    assert pool.unmet() == 1
    assert feed(pool, ev.NodeSeen(A, room=1)) == [StartSlot(key(2, A))]


# ---- claims ----


def test_claims_spread_and_pack() -> None:
    for placement, expected in (("spread", [A, B, A, B]), ("pack", [A, A, B, B])):
        pool = idle(two_nodes(PoolState(4, 0, MANY, placement=placement)))  # type: ignore[arg-type]
        if placement == "pack":
            pool = PoolState(4, 0, MANY, placement="pack")
            idle(two_nodes(pool, room=2))
        went = []
        for number in range(4):
            (order,) = feed(pool, ev.ClaimAsked(str(number)))
            assert isinstance(order, AssignClaim)
            went.append(order.key.node_id)
        assert went == expected, placement


def test_a_claim_goes_to_the_caller_s_node_while_that_has_a_free_slot() -> None:
    pool = idle(two_nodes(PoolState(4, 0, MANY)))
    feed(pool, described(key(0, A), "warm", 2))
    went = []
    for number in range(3):
        (order,) = feed(pool, ev.ClaimAsked(str(number), near_node_id=B))
        assert isinstance(order, AssignClaim)
        went.append(order.key)
    assert went == [key(0, B), key(1, B), key(0, A)]
    assert isinstance(feed(pool, ev.ClaimAsked("x", near_node_id="unknown"))[0], AssignClaim)


def test_a_level_node_goes_before_a_warm_slot() -> None:
    pool = idle(two_nodes(PoolState(4, 0, MANY)))
    for number in (0, 1):
        feed(pool, described(key(number, B), "warm", 2))
    assert pool.free_slots(9) == [key(0, B), key(0, A), key(1, B), key(1, A)]
    went = [feed(pool, ev.ClaimAsked(str(number)))[0] for number in range(3)]
    assert went == [AssignClaim("0", key(0, B)), AssignClaim("1", key(0, A)), AssignClaim("2", key(1, B))]


def test_warm_ones_are_spread_too() -> None:
    pool = idle(two_nodes(PoolState(4, 0, MANY)))
    pool.warm = 2
    feed(pool, ev.Ticked())
    prepared = [slot.key.node_id for slot in pool.slots.values() if slot.prepare_ordered]
    assert sorted(prepared) == [A, B]


# ---- elasticity ----


def test_from_nothing_on_demand_and_back_when_idle() -> None:
    pool = PoolState(4, 0, MANY, min_sandboxes=0, idle_s=60.0)
    assert feed(pool, ev.NodeSeen(A)) == []
    assert feed(pool, ev.ClaimAsked("c")) == [EnsureNodeAgent(A)]
    assert feed(pool, ev.NodeAgentReady(A)) == [StartSlot(key(0, A))]
    assert feed(pool, described(key(0, A), "idle", 1)) == [AssignClaim("c", key(0, A))]
    info = an_info(key(0, A), 0)
    feed(pool, ev.ClaimWon("c", key(0, A), info), now_s=1.0)
    feed(pool, described(key(0, A), "idle", 5, epoch=1), now_s=100.0)
    assert pool.wake_at_s == 160.0
    assert feed(pool, ev.Ticked(), now_s=159.0) == []
    assert feed(pool, ev.Ticked(), now_s=160.0) == [StopSlot(key(0, A))]
    assert feed(pool, ev.SlotStopped(key(0, A)), now_s=160.0) == [StopNodeAgent(A)]
    assert feed(pool, ev.NodeAgentStopped(A), now_s=161.0) == []
    assert feed(pool, ev.ClaimAsked("d"), now_s=162.0) == [EnsureNodeAgent(A)]


def test_demand_that_nobody_can_meet_is_told_also_after_it_gave_up_for_a_while() -> None:
    pool = PoolState(4, 1, MANY, min_sandboxes=0, idle_s=60.0)
    feed(pool, ev.NodeSeen(A, room=0))
    assert pool.unmet() == 1  # the warm one
    feed(pool, ev.ClaimAsked("c"), ev.ClaimAsked("d"))
    assert pool.unmet() == 3
    feed(pool, ev.ClaimDeadlinePassed("c"), ev.ClaimDeadlinePassed("d"), now_s=5.0)
    feed(pool, ev.Ticked(), now_s=64.0)
    assert pool.unmet() == 3
    feed(pool, ev.Ticked(), now_s=65.0)
    assert pool.unmet() == 1


def test_where_least_is_taken_slots_stop_first_so_that_nodes_become_empty() -> None:
    pool = PoolState(4, 0, MANY, min_sandboxes=0, idle_s=10.0)
    feed(pool, *(ev.ClaimAsked(str(number)) for number in range(4)))
    idle(two_nodes(pool, room=2))
    for claim_id, claim in list(pool.claims.items()):
        assert claim.key is not None
        feed(pool, ev.ClaimWon(claim_id, claim.key, an_info(claim.key, 0, claim_id)))
    assert pool.nodes[A].taken == pool.nodes[B].taken == 2
    feed(pool, described(key(0, A), "idle", 9, epoch=1), now_s=1.0)
    for slot in (0, 1):
        feed(pool, described(key(slot, B), "idle", 9, epoch=1), now_s=1.0)
    assert feed(pool, ev.Ticked(), now_s=11.0) == [StopSlot(key(0, B)), StopSlot(key(1, B)), StopSlot(key(0, A))]


def test_an_agent_of_an_earlier_manager_leaves_if_it_is_of_no_use() -> None:
    pool = PoolState(4, 0, MANY, min_sandboxes=0)
    feed(pool, ev.NodeSeen(A))
    assert feed(pool, ev.NodeAgentFound(A)) == [StopNodeAgent(A)]
    assert feed(pool, ev.NodeAgentReady(A)) == []  # somebody had just asked it


def test_an_agent_that_died_beside_its_slots_is_replaced() -> None:
    pool = idle(two_nodes(PoolState(2, 0, MANY)))
    feed(pool, ev.NodeAgentFailed(A))
    assert feed(pool, ev.Ticked(), now_s=60.0) == [EnsureNodeAgent(A)]


# ---- draining ----


def test_a_node_that_goes_away() -> None:
    pool = idle(two_nodes(PoolState(4, 0, MANY), room=9))
    feed(pool, ev.ClaimAsked("c"))
    info = an_info(key(0, A), 0)
    feed(pool, ev.ClaimWon("c", key(0, A), info), described(key(0, A), "running", 2, info=info))
    orders = feed(pool, ev.NodeSeen(A, room=7, drain_at_s=30.0))
    assert orders == [StopSlot(key(1, A)), StartSlot(key(2, B))]
    assert pool.wake_at_s == 30.0
    assert [node.draining for node in pool.status().nodes] == [True, False]
    feed(pool, ev.SlotStopped(key(1, A)), ev.NodeSeen(A, drain_at_s=33.0), now_s=3.0)  # without a deadline: it is later
    assert feed(pool, ev.Ticked(), now_s=30.0) == [KillSandbox(key(0, A), info.sandbox_id, "node_lost")]
    assert feed(pool, ev.Ticked(), now_s=31.0) == []
    feed(pool, ev.ClaimAsked("d"), ev.ClaimAsked("e"))
    orders = feed(pool, described(key(0, A), "idle", 5, epoch=1), now_s=32.0)
    assert orders == [StopSlot(key(0, A)), StartSlot(key(3, B))]
    assert feed(pool, ev.SlotStopped(key(0, A)), now_s=33.0) == [StopNodeAgent(A)]


def test_who_waits_does_not_get_what_comes_free_on_a_node_that_goes_away() -> None:
    pool = PoolState(1, 0, MANY)
    feed(pool, ev.NodeSeen(A), ev.NodeAgentReady(A), described(key(0, A), "running", 1))
    feed(pool, ev.ClaimAsked("c"), ev.NodeSeen(A, drain_at_s=99.0))
    assert feed(pool, described(key(0, A), "idle", 2, epoch=1)) == [StopSlot(key(0, A))]


# ---- nodes without a network ----


def test_nodes_that_give_the_network_are_used_and_others_only_if_none_can() -> None:
    pool = PoolState(2, 1, MANY)
    feed(pool, ev.NodeSeen(A), ev.NodeSeen(B))
    assert feed(pool, ev.NodeAgentReady(A, "no tun")) == [StopNodeAgent(A)]  # the other may be better
    assert feed(pool, ev.NodeAgentReady(B)) == [StartSlot(key(0, B)), StartSlot(key(1, B))]
    assert feed(pool, described(key(0, B), "idle", 1)) == [PrepareSlot(key(0, B))]
    assert [node.problem for node in pool.status().nodes] == ["no tun", ""]


def test_where_no_node_gives_the_network_the_pool_is_without() -> None:
    pool = PoolState(2, 0, MANY)
    feed(pool, ev.NodeSeen(A))
    assert feed(pool, ev.NodeAgentReady(A, "no tun")) == [StartSlot(key(0, A)), StartSlot(key(1, A))]
    idle(pool)
    # One comes that can: what is free elsewhere makes room for it.
    assert feed(pool, ev.NodeSeen(B)) == [StopSlot(key(0, A)), StopSlot(key(1, A)), EnsureNodeAgent(B)]
