"""Leases on a real Ray: its jobs, actors and processes as owners, managers that die, sandboxes that are lost."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import ray

from raybox_actors.config import PoolConfig, manager_name
from raybox_actors.errors import LimitReached, SandboxLost
from raybox_actors.values import CreateRequest, Lease, LeaseOwner
from raybox_cluster.pool.backend_ray import RayBackend
from raybox_cluster.pool.lease_keeper import OWNERS_MOST
from raybox_cluster.pool.ray_owners import look_up
from raybox_cluster.pool.up_down import ensure_pool, teardown_pool
from tests.cluster.pool.conftest import CLASSES
from tests.cluster.pool.test_manager import pid_of, slot_name, until

pytestmark = [pytest.mark.pool, pytest.mark.anyio]

NOBODY = LeaseOwner("none")


def wanted(key: str, *owners: LeaseOwner, api_key: str = "alice") -> CreateRequest:
    return CreateRequest(timeout_s=60, owner=api_key, lease=Lease(key, 60.0, owners or (NOBODY,)))


@pytest.fixture
def config(config: PoolConfig) -> PoolConfig:
    return PoolConfig(name=config.name, secret=config.secret, sandboxes=3, warm=1, admission_wait_s=5)


@pytest.fixture
def backend(ray_cluster: str, config: PoolConfig) -> Iterator[RayBackend]:
    ensure_pool(config, timeout_s=60.0, classes=CLASSES)
    yield RayBackend(config)
    teardown_pool(config)


async def counts(backend: RayBackend) -> tuple[int, int]:
    status = await backend.status()
    return status.leases, status.orphaned_leases


async def test_one_key_is_one_sandbox_also_for_those_who_come_at_once_and_after_a_new_manager(
    backend: RayBackend, config: PoolConfig
) -> None:
    answers = await asyncio.gather(*(backend.lease(wanted("k"), recreate=False) for _ in range(5)))
    (sandbox_id,) = {info.sandbox_id for info, _ in answers}
    assert sorted(created for _, created in answers) == [False] * 4 + [True]
    other, _ = await backend.lease(wanted("k", api_key="bob"), recreate=False)
    assert other.sandbox_id != sandbox_id
    assert await counts(backend) == (2, 0)

    os.kill(pid_of(manager_name(config)), signal.SIGKILL)
    again, created = await backend.lease(wanted("k"), recreate=False)
    assert (again.sandbox_id, created) == (sandbox_id, False)
    assert await counts(backend) == (2, 0)

    assert not await backend.release_lease("alice", "k", other.sandbox_id), "that is another lease's"
    assert await backend.release_lease("alice", "k", sandbox_id)
    assert not await backend.release_lease("alice", "k", None)
    with pytest.raises(SandboxLost, match="killed"):
        await backend.info(sandbox_id)
    fresh, created = await backend.lease(wanted("k"), recreate=False)
    assert created
    assert fresh.sandbox_id not in (sandbox_id, other.sandbox_id)


async def test_a_lost_sandbox_is_told_once_and_replaced_where_that_is_wanted(
    backend: RayBackend, config: PoolConfig
) -> None:
    for recreate in (False, True):
        info, created = await backend.lease(wanted("k"), recreate=False)
        assert created
        os.kill(pid_of(slot_name(config, info)), signal.SIGKILL)
        if not recreate:
            with pytest.raises(SandboxLost) as lost:
                await backend.lease(wanted("k"), recreate=False)
            assert (lost.value.sandbox_id, lost.value.cause) == (info.sandbox_id, "internal")
            assert lost.value.should_mask_sample
        fresh, created = await backend.lease(wanted("k"), recreate=recreate)
        assert created
        await backend.release_lease("alice", "k", fresh.sandbox_id)
    assert await counts(backend) == (0, 0)


DRIVER = """
import ray, sys
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")

@ray.remote(num_cpus=0)
class Owner:
    def ids(self):
        return ray.get_runtime_context().get_actor_id(), ray.get_runtime_context().get_worker_id()

actors = [Owner.remote(), Owner.remote()]
(actor, _), (_, process) = ray.get([one.ids.remote() for one in actors])
context = ray.get_runtime_context()
print(context.get_job_id(), actor, process, context.get_worker_id(), flush=True)
for one in actors:
    sys.stdin.readline()
    ray.kill(one)
sys.stdin.readline()
"""


@pytest.fixture
def driver(ray_cluster: str) -> Iterator[subprocess.Popen[str]]:
    """Another job of the cluster; it says its ids, and ends one actor for each line that it reads."""
    command = [sys.executable, "-c", DRIVER, ray.get_runtime_context().gcs_address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        yield driver
        driver.kill()


async def test_a_lease_ends_with_the_last_of_its_owners(backend: RayBackend, driver: subprocess.Popen[str]) -> None:
    assert driver.stdin is not None
    assert driver.stdout is not None
    job, actor, process, own = await asyncio.to_thread(lambda: driver.stdout.readline().split())  # type: ignore[union-attr]  # checked above
    of_job, of_actor = LeaseOwner("job", job), LeaseOwner("actor", actor)
    of_process, of_driver = LeaseOwner("process", process), LeaseOwner("process", own)
    unknown = LeaseOwner("actor", "0" * 32)
    everybody = [of_job, of_actor, of_process, of_driver, unknown]
    assert look_up(everybody) == dict.fromkeys(everybody[:-1], True) | {unknown: None}

    by_actor, _ = await backend.lease(wanted("actor", of_actor), recreate=False)
    by_process, _ = await backend.lease(wanted("process", of_process), recreate=False)
    shared, _ = await backend.lease(wanted("shared", of_actor), recreate=False)
    assert (await backend.lease(wanted("shared", of_job), recreate=False))[0].sandbox_id == shared.sandbox_id
    for ended in (by_actor, by_process):
        driver.stdin.write("\n")
        driver.stdin.flush()
        await until(lambda ended=ended: is_gone(backend, ended.sandbox_id))  # type: ignore[misc]  # of this turn
        with pytest.raises(SandboxLost, match="owner_died"):
            await backend.info(ended.sandbox_id)
    assert (await backend.info(shared.sandbox_id)).lease is not None
    assert await counts(backend) == (1, 0)
    driver.kill()
    await until(lambda: is_gone(backend, shared.sandbox_id))
    assert await counts(backend) == (0, 0)
    assert set(look_up(everybody[:-1]).values()) == {False}


async def is_gone(backend: RayBackend, sandbox_id: str) -> bool:
    return sandbox_id not in {info.sandbox_id for info in await backend.sandboxes()}


async def test_heartbeats(backend: RayBackend, config: PoolConfig) -> None:
    beating, silent = LeaseOwner("heartbeat", "alice/1"), LeaseOwner("heartbeat", "alice/2")
    kept, _ = await backend.lease(wanted("kept", beating), recreate=False)
    left, _ = await backend.lease(wanted("left", silent), recreate=False)
    assert await backend.heartbeat(LeaseOwner("heartbeat", "alice/3")) == 0
    assert await backend.heartbeat_lease("alice", "left")
    assert not await backend.heartbeat_lease("alice", "other")
    os.kill(pid_of(manager_name(config)), signal.SIGKILL)

    async def left_is_gone() -> bool:
        assert await backend.heartbeat(beating) == 1
        return await is_gone(backend, left.sandbox_id)

    await until(left_is_gone)
    with pytest.raises(SandboxLost, match="owner_died"):
        await backend.info(left.sandbox_id)
    assert await backend.info(kept.sandbox_id)


async def test_owners_of_one_lease_are_bounded(backend: RayBackend) -> None:
    for number in range(OWNERS_MOST):
        await backend.lease(wanted("k", LeaseOwner("heartbeat", f"alice/{number}")), recreate=False)
    with pytest.raises(LimitReached, match=f"{OWNERS_MOST} living owners"):
        await backend.lease(wanted("k", LeaseOwner("heartbeat", "alice/one more")), recreate=False)
    await backend.lease(wanted("k", LeaseOwner("heartbeat", "alice/0")), recreate=False)
