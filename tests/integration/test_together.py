"""Several sandboxes at once, and what could be had, on the real pool."""

from __future__ import annotations

import pytest

import raybox
from tests.support.pool import RunningPool
from tests.support.wait import wait_until

pytestmark = pytest.mark.pool


@pytest.fixture
def pool(running_pool: RunningPool) -> raybox.Pool:
    return raybox.connect(running_pool.url, api_key=running_pool.api_key)


def test_several_are_there_together_or_not_at_all(pool: raybox.Pool) -> None:
    wait_until(lambda: pool.capacity().available >= 3, 60, pool.capacity)
    before = pool.capacity()
    assert (before.limit, before.pool_limit, before.retry_after_s) == (None, 6, 0)
    gang = pool.create_many(3, deadline_s=60, metadata={"gang": "whole"}, envs={"A": "b"})
    try:
        assert pool.capacity().live == before.live + 3
        assert [sandbox.run_code("import os; os.environ['A']").text for sandbox in gang] == ["b"] * 3
        assert all(sandbox.get_info().metadata["gang"] == "whole" for sandbox in gang)
        left_s = (gang[0].get_info().end_at - gang[0].get_info().started_at).total_seconds()
        assert left_s > 200  # its own timeout, not the one until it was confirmed

        with pytest.raises(raybox.GangException) as caught:
            pool.create_many(6, deadline_s=0.5, metadata={"gang": "not had"})
        assert (caught.value.kind, caught.value.retryable, len(caught.value.report)) == ("capacity", True, 6)
        assert all(member.state == "not_started" for member in caught.value.report)
        assert (caught.value.retry_after_s or 0) >= 1
        listed = pool.list(query=raybox.SandboxQuery(metadata={"gang": "not had"})).next_items()
        assert listed == []
        with pytest.raises(raybox.GangException, match="the pool has at most 6 sandboxes") as caught:
            pool.create_many(7)
        assert caught.value.kind == "limit"
    finally:
        for sandbox in gang:
            sandbox.kill()
    wait_until(lambda: pool.capacity().live == before.live, 60, pool.capacity)
