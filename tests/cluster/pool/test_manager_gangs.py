"""Gangs against a real Ray, its placement groups included, with sandbox actors that have no walls."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from raybox_actors.config import PoolConfig, manager_name
from raybox_actors.errors import BadRequest, GangFailed, NoCapacity
from raybox_actors.values import CreateRequest, Quota
from raybox_cluster.pool import placement_groups
from raybox_cluster.pool.backend_ray import RayBackend
from raybox_cluster.pool.calls import names
from raybox_cluster.pool.placement import sandbox_bundle
from raybox_cluster.pool.up_down import ensure_pool, teardown_pool
from tests.cluster.pool.conftest import CLASSES
from tests.cluster.pool.test_manager import in_actor, pid_of, until

pytestmark = [pytest.mark.pool, pytest.mark.anyio]


@pytest.fixture(scope="module")
def gang_pool(ray_cluster: str) -> Iterator[PoolConfig]:
    """Three slots, for all tests of this module; each gives back what it takes."""
    config = PoolConfig(name=f"g{secrets.token_hex(3)}", secret=b"x", sandboxes=3, warm=1, admission_wait_s=5.0)
    ensure_pool(config, timeout_s=60.0, classes=CLASSES)
    yield config
    teardown_pool(config)
    assert not placement_groups.existing(config)


async def free(backend: RayBackend, count: int) -> None:
    """Wait until so many could be started."""

    async def all_free() -> bool:
        return (await backend.capacity("", None)).available == count

    await until(all_free)


def is_actor(name: str) -> bool:
    return "-sandbox-" in name


async def test_a_gang_is_whole_or_fails_with_a_report_and_leaves_nothing(gang_pool: PoolConfig) -> None:
    backend = RayBackend(gang_pool)
    await free(backend, 3)
    request = CreateRequest(owner="alice", timeout_s=100.0, idempotency_key="g")
    infos = await backend.create_many(request, 2, 10.0)
    assert len({info.sandbox_id for info in infos}) == 2
    assert await backend.create_many(request, 2, 10.0) == infos
    assert {one.sandbox_id for one in await backend.sandboxes()} == {info.sandbox_id for info in infos}
    for info in infos:
        assert not info.pending
        assert 90 < info.end_at_s - info.started_at_s < 120
        assert set(info.timings_ms) == {"queued", "claimed", "ready"}

    with pytest.raises(GangFailed) as caught:
        await backend.create_many(CreateRequest(owner="bob"), 2, 0.2)
    assert isinstance(caught.value.cause, NoCapacity)
    assert [one.state for one in caught.value.report] == ["not_started"] * 2
    assert caught.value.cause.retry_after_s >= 1
    assert len(await backend.sandboxes()) == 2
    with pytest.raises(GangFailed, match="and 2 sandboxes need 2") as caught:
        await backend.create_many(CreateRequest(owner="bob", quota=Quota(sandboxes=1)), 2, 9.0)
    assert caught.value.kind == "limit"
    with pytest.raises(BadRequest, match="timeout must be"):
        await backend.create_many(CreateRequest(timeout_s=1e6), 1, 9.0)
    for info in infos:
        await backend.kill(info.sandbox_id)


async def test_a_caller_who_goes_leaves_nothing(gang_pool: PoolConfig) -> None:
    backend = RayBackend(gang_pool)
    await free(backend, 3)
    single = await backend.create(CreateRequest())
    gang = asyncio.create_task(backend.create_many(CreateRequest(owner="alice"), 3, 60.0))

    async def waits() -> bool:
        return (await backend.status()).claims_waiting > 0

    await until(waits)
    gang.cancel()
    await free(backend, 2)
    await backend.kill(single.sandbox_id)


async def test_a_half_made_gang_of_a_dead_manager_is_ended_and_asked_for_again(gang_pool: PoolConfig) -> None:
    backend = RayBackend(gang_pool)
    await free(backend, 3)
    slots = sorted(name for name in names(gang_pool) if is_actor(name))

    def silent(value: bool) -> Any:
        def work(actor: Any) -> None:
            actor.silent_claims = value

        return work

    in_actor(slots[0], silent(True))
    gang = asyncio.create_task(backend.create_many(CreateRequest(owner="alice"), 3, 60.0))

    async def made() -> list[str]:
        ids = [in_actor(name, lambda actor: actor.info_now and actor.info_now.sandbox_id) for name in slots]
        return ids if all(ids) else []

    await until(made)
    before = set(await made())
    assert await backend.sandboxes() == []
    in_actor(slots[0], silent(False))
    os.kill(pid_of(manager_name(gang_pool)), signal.SIGKILL)
    infos = await gang
    after = {info.sandbox_id for info in infos}
    assert not before & after
    assert {one.sandbox_id for one in await backend.sandboxes()} == after
    # And a whole one stays what it is, until its caller is known to have gone.
    os.kill(pid_of(manager_name(gang_pool)), signal.SIGKILL)
    assert {one.sandbox_id for one in await backend.sandboxes()} == after
    key = (infos[0].idempotency_key or "").rpartition("/")[0]
    await backend._ask_manager(lambda manager: manager.drop_many.remote("alice", key))
    await free(backend, 3)


@pytest.fixture
def elastic_pool(ray_cluster: str) -> Iterator[PoolConfig]:
    """Two slots without demand, four with."""
    config = PoolConfig(
        name=f"e{secrets.token_hex(3)}",
        secret=b"x",
        sandboxes=4,
        min_sandboxes=2,
        idle_s=0.5,
        warm=0,
        memory_request_mib=1,
    )
    ensure_pool(config, timeout_s=60.0, classes=CLASSES)
    yield config
    teardown_pool(config)
    assert not placement_groups.existing(config)


async def test_what_is_lacking_is_reserved_as_one_placement_group_that_ends_with_its_sandboxes(
    elastic_pool: PoolConfig,
) -> None:
    backend = RayBackend(elastic_pool)
    await free(backend, 2)
    infos = await backend.create_many(CreateRequest(owner="alice"), 4, 60.0)
    (group,) = placement_groups.existing(elastic_pool).values()
    assert group.bundle_specs == [sandbox_bundle(elastic_pool.cpu_request, elastic_pool.memory_request_mib)] * 2
    assert {one.sandbox_id for one in await backend.sandboxes()} == {info.sandbox_id for info in infos}
    for info in infos:
        await backend.kill(info.sandbox_id)

    async def removed() -> bool:
        return not placement_groups.existing(elastic_pool)

    await until(removed)

    async def shrunk() -> bool:
        return [node.slots for node in (await backend.status()).nodes] == [2]

    await until(shrunk)
    await free(backend, 2)

    # The same where the cluster has no room: nothing is left of it.
    def ask_for_too_much(_manager: Any) -> None:
        from raybox_cluster.pool import placement_groups

        vars(placement_groups)["sandbox_bundle"] = lambda *_: {"CPU": 1000.0}

    in_actor(manager_name(elastic_pool), ask_for_too_much)
    with pytest.raises(GangFailed) as caught:
        await backend.create_many(CreateRequest(owner="alice"), 4, 0.5)
    reasons = [one.reason for one in caught.value.report]
    assert reasons == ["its slot was kept until all had one"] * 2 + ["the cluster had no room for it yet"] * 2
    await until(removed)
    await free(backend, 2)
