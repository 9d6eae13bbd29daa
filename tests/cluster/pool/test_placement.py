"""Where sandboxes may be, how many fit and where the next one goes: every decision by itself, and on any cluster."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybox_cluster.pool.demand import Peak, Request, request
from raybox_cluster.pool.placement import (
    UNBOUNDED,
    Candidate,
    RayNode,
    allot,
    fitting,
    in_turn,
    matches,
    may_host,
    parse_selector,
    sandbox_bundle,
)
from raybox_cluster.pool.policy import Policy

MIB = 2**20


@pytest.mark.parametrize(
    ("text", "labels", "holds"),
    [
        ("", {}, True),
        ("pool=sandbox", {"pool": "sandbox"}, True),
        ("pool=sandbox", {"pool": "gateway"}, False),
        ("pool=sandbox", {}, False),
        ("pool=!gateway", {}, True),
        ("pool=!gateway", {"pool": "gateway"}, False),
        ("zone = in(a, b)", {"zone": "b"}, True),
        ("zone=in(a,b)", {"zone": "c"}, False),
        ("zone=!in(a,b)", {"zone": "b"}, False),
        ("zone=!in(a,b),pool=sandbox", {"pool": "sandbox"}, True),
        ("ray.io/accelerator-type=in(A100)", {"ray.io/accelerator-type": "A100"}, True),
    ],
)
def test_selectors(text: str, labels: dict[str, str], holds: bool) -> None:
    assert matches(parse_selector(text), labels) is holds


@pytest.mark.parametrize("text", ["pool", "=x", "pool=", "pool=in()", "pool=in(a", "pool=a b!", "a=1,a=2", "-a=1"])
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be|has two"):
        parse_selector(text)


def test_a_node_without_cpus_hosts_nothing() -> None:
    assert not may_host((), RayNode("head", total={"memory": 1e12}))
    assert may_host((), RayNode("worker", total={"CPU": 1.0}))


def test_what_fits_is_what_all_resources_have_room_for() -> None:
    bundle = sandbox_bundle(0.1, 256)
    assert fitting(bundle, {"CPU": 1.0, "memory": 10_000.0 * MIB}) == 10
    assert fitting(bundle, {"CPU": 0.3, "memory": 10_000.0 * MIB}) == 3  # 0.3 / 0.1 is less than 3 in floats
    assert fitting(bundle, {"CPU": 1.0, "memory": 1000.0 * MIB}) == 3
    assert fitting(bundle, {"memory": 1000.0 * MIB}) == 0
    assert sandbox_bundle(0, 0) == {}
    assert fitting({}, {}) == UNBOUNDED


def test_pack_fills_one_node_after_the_other() -> None:
    nodes = [Candidate("a", 0, 4), Candidate("b", 1, 2), Candidate("c", 0, 4)]
    assert allot("pack", nodes, 5) == {"b": 2, "a": 3}
    assert allot("pack", nodes, 99) == {"b": 2, "a": 4, "c": 4}


def test_spread_levels() -> None:
    nodes = [Candidate("a", 0, 4), Candidate("b", 3, 9), Candidate("c", 0, 1)]
    assert allot("spread", nodes, 1) == {"a": 1}
    assert allot("spread", nodes, 4) == {"a": 3, "c": 1}
    assert allot("spread", nodes, 6) == {"a": 4, "b": 1, "c": 1}


_candidates = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=5).map(
    lambda pairs: [Candidate(str(number), slots, room) for number, (slots, room) in enumerate(pairs)]
)


@given(st.sampled_from(("spread", "pack")), _candidates, st.integers(0, 40))
def test_as_many_as_fit_and_never_more(placement: object, nodes: list[Candidate], missing: int) -> None:
    given_ = allot(placement, nodes, missing)  # type: ignore[arg-type]  # drawn from its values
    assert sum(given_.values()) == min(missing, sum(node.room for node in nodes))
    assert all(0 < given_.get(node.node_id, 1) <= node.room or node.node_id not in given_ for node in nodes)
    if placement == "spread":  # no node that got one is above another that could have had it
        after = {node.node_id: node.slots + given_.get(node.node_id, 0) for node in nodes}
        for high in nodes:
            for low in nodes:
                if given_.get(high.node_id) and given_.get(low.node_id, 0) < low.room:
                    assert after[high.node_id] <= after[low.node_id] + 1


def test_the_order_of_claims() -> None:
    nodes = [(2, ["a0", "a1"]), (0, ["b0", "b1", "b2"]), (1, ["c0"])]
    assert in_turn("spread", nodes, 9) == ["b0", "b1", "c0", "a0", "b2", "a1"]
    assert in_turn("pack", nodes, 9) == ["a0", "a1", "c0", "b0", "b1", "b2"]
    assert in_turn("spread", nodes, 2) == ["b0", "b1"]


def test_a_peak_is_remembered_for_a_while() -> None:
    peak = Peak(10.0)
    assert [peak.note(1, 0.0), peak.note(5, 1.0), peak.note(2, 50.0)] == [1, 5, 5]
    assert peak.falls_at_s == 60.0
    assert peak.note(3, 55.0) == 5
    assert peak.note(0, 58.0) == 5
    assert peak.note(0, 60.0) == 3
    assert peak.note(0, 68.0) == 0
    assert peak.falls_at_s == float("inf")


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 5)), min_size=1))
def test_a_peak_is_the_most_of_what_held_lately(steps: list[tuple[int, float]]) -> None:
    peak, now, history = Peak(6.0), 0.0, list[tuple[float, int]]()
    for value, passed in steps:
        now += passed
        history.append((now, value))
        until = [at for at, _ in history[1:]] + [now]
        lately = [held for (_, held), end in zip(history, until, strict=True) if end + 6.0 > now]
        assert peak.note(value, now) == max(lately)


def test_what_the_autoscaler_is_asked_for() -> None:
    nodes = [
        RayNode("a", total={"CPU": 4.0, "memory": 8.0, "x": 1.0}, available={"CPU": 1.0, "memory": 8.0}),
        RayNode("b", total={"CPU": 4.0}, available={"CPU": 4.0}),
        RayNode("c", total={"CPU": 4.0}, available={}, drain_deadline_s=0.0),
    ]
    asked = request({"CPU": 0.5}, (("pool", "sandbox"),), 2, nodes)
    assert asked.bundles == [{"CPU": 3.0}, {"CPU": 0.5}, {"CPU": 0.5}]
    assert asked.selectors == [{}, {"pool": "sandbox"}, {"pool": "sandbox"}]
    assert request({"CPU": 0.5}, (), 0, nodes) == request({}, (), 2, nodes) == Request()


def test_when_the_sandboxes_of_a_draining_node_end() -> None:
    policy = Policy(drain_margin_s=5.0)
    assert policy.drain_at_s(1030.0, 60.0, now_s=7.0, now_unix_s=1000.0) == 32.0
    assert policy.drain_at_s(1003.0, 60.0, now_s=7.0, now_unix_s=1000.0) == 7.0
    assert policy.drain_at_s(0.0, 60.0, now_s=7.0, now_unix_s=1000.0) == 67.0
