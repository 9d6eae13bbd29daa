"""How long a batch has its sandboxes: they outlive what it has to do, and not the batch itself by much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybox_cluster.batch.holding import IDLE_S, LEASE_S, RENEW_S, Hold
from raybox_cluster.config import OptionError, resolve


def looked_at(hold: Hold, moments_s: list[float], *, reachable: bool = True) -> list[float]:
    """At these moments; when it was renewed."""
    renewed = []
    for now_s in moments_s:
        if hold.is_due(now_s) and reachable:
            hold.renewed_at_s = now_s
            renewed.append(now_s)
    return renewed


@given(st.lists(st.floats(0.1, LEASE_S - RENEW_S), min_size=1, max_size=100))
def test_what_is_in_use_never_ends_and_is_not_renewed_too_often(gaps_s: list[float]) -> None:
    """However irregularly it is looked at, as long as it is in time."""
    hold = Hold("a", 0.0)
    hold.idle_since_s = None
    now_s = 0.0
    for gap_s in gaps_s:
        now_s += gap_s
        assert now_s - hold.renewed_at_s < LEASE_S
        before_s = hold.renewed_at_s
        if looked_at(hold, [now_s]):
            assert now_s - before_s >= RENEW_S
    assert hold.is_usable(now_s)


def test_one_that_nothing_is_to_do_for_is_let_go_and_not_used_again() -> None:
    hold = Hold("a", 0.0)
    renewed = looked_at(hold, [float(moment) for moment in range(200)])
    assert renewed[-1] < IDLE_S <= renewed[-1] + RENEW_S
    assert hold.is_usable(renewed[-1] + LEASE_S - RENEW_S - 0.1)
    assert not hold.is_usable(renewed[-1] + LEASE_S - RENEW_S)


def test_every_pool_grants_so_much_time() -> None:
    with pytest.raises(OptionError):
        resolve({"max_timeout_s": LEASE_S - 1}, environment={})


def test_one_that_cannot_be_renewed_is_given_up_before_it_ends() -> None:
    hold = Hold("a", 0.0)
    hold.idle_since_s = None
    looked_at(hold, [RENEW_S, 2 * RENEW_S], reachable=False)
    assert hold.is_due(LEASE_S - 0.1)
    assert not hold.is_usable(LEASE_S - 0.1)
    assert not hold.is_due(LEASE_S), "it has ended"
