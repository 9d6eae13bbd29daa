"""From no node at all to as many as are needed, and back to none: Ray's autoscaler, real raylets."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from raybox_actors.config import PoolConfig, manager_name
from raybox_actors.values import CreateRequest
from raybox_cluster.pool.backend_ray import RayBackend
from raybox_cluster.pool.calls import names
from raybox_cluster.pool.up_down import ensure_pool, teardown_pool
from tests.cluster.pool.conftest import CLASSES
from tests.support.autoscaling import autoscaling_cluster
from tests.support.ray_cluster import LEAN
from tests.support.wait import async_wait_until

pytestmark = [
    pytest.mark.pool,
    pytest.mark.anyio,
    # Ray itself: sockets of its driver that are collected rather than closed.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def elastic(tmp_path: Path) -> Iterator[PoolConfig]:
    """A pool of which each sandbox takes a node, and none is kept."""
    config = PoolConfig(
        name=f"e{secrets.token_hex(3)}",
        secret=b"of the test",
        sandboxes=2,
        warm=0,
        min_sandboxes=0,
        idle_s=1.0,
        node_labels=(("pool", "sandbox"),),
        cpu_request=1.0,
        memory_request_mib=0,
        admission_wait_s=90.0,
    )
    with pytest.MonkeyPatch.context() as patch, autoscaling_cluster(tmp_path) as address:
        for name, value in LEAN.items():
            patch.setenv(name, value)
        ray.init(address=address, namespace="raybox", log_to_driver=False, logging_level=logging.ERROR)
        try:
            ensure_pool(config, timeout_s=60.0, classes=CLASSES)
            yield config
            teardown_pool(config)
        finally:
            ray.shutdown()


def workers() -> list[str]:
    return [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


async def test_up_from_zero_on_demand_and_down_again_when_idle(elastic: PoolConfig) -> None:
    backend = RayBackend(elastic)
    assert workers() == []
    made = await asyncio.gather(*(backend.create(CreateRequest()) for _ in range(2)))
    assert {info.node_id for info in made} == set(workers())
    assert len(workers()) == 2
    for info in made:
        await backend.kill(info.sandbox_id)
    await async_wait_until(lambda: not workers(), 90.0, ray.nodes)
    assert names(elastic) == [manager_name(elastic)]
    assert (await backend.status()).slots_by_state == {}
