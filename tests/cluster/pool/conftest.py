"""A pool of fake sandboxes on the one real Ray of the test session."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from raybox_actors.config import PoolConfig
from raybox_cluster.pool.actors import ActorClasses

FAKES = "tests.cluster.pool.fake_actors"
CLASSES = ActorClasses(f"{FAKES}:FakeSandboxActor", f"{FAKES}:FakeNodeAgent")


@pytest.fixture
def config() -> PoolConfig:
    return PoolConfig(name=f"t{secrets.token_hex(3)}", secret=b"of the test", sandboxes=2, warm=1, admission_wait_s=0.5)


@pytest.fixture
def pool(ray_cluster: str, config: PoolConfig) -> Iterator[PoolConfig]:
    """A running pool of two fake slots, one of them warm."""
    from raybox_cluster.pool.up_down import ensure_pool, teardown_pool

    ensure_pool(config, timeout_s=60.0, classes=CLASSES)
    yield config
    teardown_pool(config)
