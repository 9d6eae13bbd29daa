"""Where warm sandboxes are kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raybox_actors.config import Placement
from raybox_cluster.pool import events as ev
from raybox_cluster.pool.instructions import PrepareSlot
from raybox_cluster.pool.policy import Policy
from raybox_cluster.pool.state import PoolState
from raybox_cluster.pool.warmth import WarmTarget, Warmth, lacking
from tests.cluster.pool.test_state import described, feed, key


def node(name: str, slots: int, *, taken: int = 0, ready: int = 0) -> Warmth:
    return Warmth(name, slots, taken, ready, slots - taken - ready)


def test_warm_ones_are_spread_in_proportion() -> None:
    nodes = [node("a", 12), node("b", 6), node("c", 6)]
    assert lacking(WarmTarget(8), "spread", nodes) == {"a": 4, "b": 2, "c": 2}
    assert lacking(WarmTarget(8), "spread", [node("a", 12, ready=4), node("b", 12)]) == {"b": 4}


def test_what_one_node_has_no_room_for_another_keeps() -> None:
    assert lacking(WarmTarget(4), "spread", [node("a", 4, taken=3), node("b", 4)]) == {"a": 1, "b": 3}


def test_packed_pools_keep_them_where_most_are_taken() -> None:
    assert lacking(WarmTarget(3), "pack", [node("a", 4, taken=1), node("b", 4, taken=2)]) == {"a": 1, "b": 2}


def test_every_node_has_its_least_whatever_the_total() -> None:
    nodes = [node("a", 4, ready=3), node("b", 4), node("c", 4, taken=4)]
    assert lacking(WarmTarget(0, per_node=2), "spread", nodes) == {"b": 2}
    assert lacking(WarmTarget(6, per_node=2), "spread", nodes) == {"b": 3}


_nodes = st.builds(
    lambda slots, taken, ready: (min(taken, slots), min(ready, slots - min(taken, slots)), slots),
    *(st.integers(0, 12) for _ in range(3)),
)


@given(st.lists(_nodes, max_size=6), st.integers(0, 30), st.integers(0, 5), st.sampled_from(("spread", "pack")))
def test_targets_are_met_as_far_as_can_be_and_not_exceeded(
    shapes: list[tuple[int, int, int]], total: int, per_node: int, placement: Placement
) -> None:
    nodes = [node(str(n), slots, taken=taken, ready=ready) for n, (taken, ready, slots) in enumerate(shapes)]
    given_ = lacking(WarmTarget(total, per_node), placement, nodes)
    after = {one.node_id: one.ready + given_.get(one.node_id, 0) for one in nodes}
    assert all(0 <= given_.get(one.node_id, 0) <= one.idle for one in nodes)
    assert all(after[one.node_id] >= min(per_node, one.ready + one.idle) for one in nodes)
    free = sum(one.ready + one.idle for one in nodes)
    assert sum(after.values()) >= min(total, free)
    least = sum(min(one.idle, max(0, per_node - one.ready)) for one in nodes)
    before = sum(one.ready for one in nodes)
    assert sum(after.values()) <= max(total, before + least)
    if placement == "spread":  # nobody is two steps ahead of one that could have been given the step
        for one in nodes:
            for other in nodes:
                if (
                    given_.get(one.node_id, 0)
                    and after[one.node_id] > per_node
                    and given_.get(other.node_id, 0) < other.idle
                ):
                    assert (after[one.node_id] - 1) / one.slots <= after[other.node_id] / other.slots


def test_the_pool_refills_by_node() -> None:
    a, b = "a" * 56, "b" * 56
    pool = PoolState(4, 1, Policy(starts_per_node=9), warm_per_node=1)
    feed(pool, *(ev.NodeSeen(one) for one in (a, b)), *(ev.NodeAgentReady(one) for one in (a, b)))
    feed(pool, *(described(key(slot, one), "idle", 1) for one in (a, b) for slot in (0, 1)))
    assert {at for at, slot in pool.slots.items() if slot.prepare_ordered} == {key(0, a), key(0, b)}
    feed(pool, ev.ClaimAsked("c"))
    warm = [order for order in feed(pool, ev.Ticked(), now_s=9.0) if isinstance(order, PrepareSlot)]
    assert warm == [PrepareSlot(key(1, a))]
