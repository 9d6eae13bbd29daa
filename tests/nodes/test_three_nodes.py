"""A pool on three real nodes: where sandboxes go, and what becomes of those of a node that leaves or dies."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest
import ray

from raybox_actors.config import PoolConfig
from raybox_actors.errors import NoCapacity, SandboxLost
from raybox_actors.isolation.orphans import wall_marks
from raybox_actors.values import CreateRequest, ExecuteRequest, PoolStatus, SandboxInfo
from raybox_cluster.pool import placement_groups
from raybox_cluster.pool.backend_ray import RayBackend
from raybox_cluster.pool.calls import names
from raybox_cluster.pool.up_down import ensure_pool, teardown_pool
from tests.cluster.pool.conftest import CLASSES
from tests.cluster.pool.test_manager import until
from tests.support.multi_node import MultiNode, wait_until_dead

pytestmark = [
    pytest.mark.pool,
    pytest.mark.anyio,
    # Ray itself: sockets and logs of the nodes that it starts from this process.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

#: DrainNodeReason of Ray's protocol, whose generated module has no types.
PREEMPTION: Final = 2


def a_pool(**settings: object) -> PoolConfig:
    return PoolConfig(name=f"n{secrets.token_hex(3)}", secret=b"of the test", admission_wait_s=2.0, **settings)  # type: ignore[arg-type]


@contextlib.contextmanager
def pool_of_fakes(config: PoolConfig) -> Iterator[RayBackend]:
    ensure_pool(config, timeout_s=60.0, classes=CLASSES)
    try:
        yield RayBackend(config)
    finally:
        teardown_pool(config)


async def create(backend: RayBackend, count: int, **fields: object) -> list[SandboxInfo]:
    return [await backend.create(CreateRequest(**fields)) for _ in range(count)]  # type: ignore[arg-type]


async def until_slots(backend: RayBackend, expected: dict[str, int]) -> None:
    """Until so many slots of each node have spoken."""

    async def settled() -> bool:
        status = await backend.status()
        slots = {node.node_id: node.slots for node in status.nodes if node.slots}
        return slots == expected and sum(status.slots_by_state.values()) == sum(expected.values())

    await until(settled, 60.0)


async def printed(backend: RayBackend, info: SandboxInfo, code: str) -> str:
    batch = await backend.execute(info.sandbox_id, ExecuteRequest(secrets.token_hex(8), code))
    events = [json.loads(line) for line in batch.lines.splitlines()]
    while not batch.done:
        batch = await backend.poll(info.sandbox_id, batch.execution_id, batch.first_seq + batch.count, 10.0)
        events += [json.loads(line) for line in batch.lines.splitlines()]
    return "".join(event["text"] for event in events if event["type"] == "stdout")


async def test_pack_on_labelled_nodes_as_far_as_they_have_room(three_nodes: MultiNode) -> None:
    a, _, c = three_nodes.node_ids
    config = a_pool(
        sandboxes=5, warm=0, placement="pack", node_labels=(("zone", "in(a,c)"),), cpu_request=0.5, memory_request_mib=0
    )
    with pool_of_fakes(config) as backend:
        await until_slots(backend, {a: 2, c: 2})
        went = [info.node_id for info in await create(backend, 4)]
        assert sorted(Counter(went).values()) == [2, 2]
        assert went[0] == went[1]
        with pytest.raises(NoCapacity):
            await backend.create(CreateRequest())
        assert {node.node_id for node in (await backend.status()).nodes if node.hosts} == {a, c}


async def test_a_node_that_others_fill_gets_nothing_and_nothing_waits_for_it(three_nodes: MultiNode) -> None:
    a, b, _ = three_nodes.node_ids

    @ray.remote(num_cpus=0.9)
    class Other:
        def ping(self) -> None:
            pass

    other = Other.options(label_selector={"zone": "a"}).remote()  # type: ignore[attr-defined]  # made by Ray
    ray.get(other.ping.remote())
    config = a_pool(sandboxes=4, warm=0, node_labels=(("zone", "!c"),), cpu_request=0.3, memory_request_mib=0)
    with pool_of_fakes(config) as backend:
        await until_slots(backend, {b: 3})
        ray.kill(other)
        await create(backend, 3)
        await until_slots(backend, {b: 3, a: 1})


async def test_a_gang_gets_the_room_of_a_node_that_comes_while_it_waits(three_nodes: MultiNode) -> None:
    a = three_nodes.node_ids[0]
    config = a_pool(sandboxes=4, warm=0, node_labels=(("zone", "in(a,d)"),), cpu_request=0.5, memory_request_mib=0)
    with pool_of_fakes(config) as backend:
        await until_slots(backend, {a: 2})
        gang = asyncio.create_task(backend.create_many(CreateRequest(), 4, 60.0))
        await until(lambda: asyncio.to_thread(placement_groups.existing, config))
        assert await backend.sandboxes() == []
        d = three_nodes.add(labels={"zone": "d"})
        infos = await gang
        assert Counter(info.node_id for info in infos) == {a: 2, d: 2}
        for info in infos:
            await backend.kill(info.sandbox_id)

        async def given_back() -> bool:
            return not await asyncio.to_thread(placement_groups.existing, config)

        await until(given_back)
        await until_slots(backend, {a: 2, d: 2})
    three_nodes.kill(d)
    wait_until_dead(d)


@pytest.fixture
async def spread(three_nodes: MultiNode, run_folder: str) -> AsyncIterator[RayBackend]:
    """A real pool: two slots on each node."""
    config = a_pool(sandboxes=6, warm=3, memory_mib=256, memory_request_mib=128, run_dir=run_folder)
    ensure_pool(config, timeout_s=120.0)
    backend = RayBackend(config)
    try:
        yield backend
        status = await backend.status()
        assert not any(count for node in status.nodes for count in node.leaks.values()), status
    finally:
        teardown_pool(config)
        assert names(config) == []
        assert not [mark for mark in wall_marks().values() if mark.startswith(f"{config.name}:")]


async def test_spread_locality_drain_and_death(three_nodes: MultiNode, spread: RayBackend) -> None:
    a, b, c = three_nodes.node_ids
    await until_slots(spread, {a: 2, b: 2, c: 2})
    first = await create(spread, 3)
    by_node = {info.node_id: info for info in first}
    assert set(by_node) == {a, b, c}
    near = await spread.create(CreateRequest(near_node_id=c))
    assert near.node_id == c
    beside = await spread.create(CreateRequest(near_node_id=c))  # full: soft
    assert beside.node_id in (a, b)
    for number, info in enumerate([*first, near]):
        assert await printed(spread, info, f"x = {number}; print(x)") == f"{number}\n"

    drain(three_nodes, b, deadline_s=time.time() + 9)

    async def draining() -> PoolStatus | None:
        status = await spread.status()
        return status if any(node.draining for node in status.nodes) else None

    await until(draining)
    assert await printed(spread, by_node[b], "print(x + 1)") == f"{first.index(by_node[b]) + 1}\n"
    later = await spread.create(CreateRequest())
    assert later.node_id != b
    await until_lost(spread, by_node[b])
    wait_until_dead(b)  # nothing of the pool kept Ray from ending it

    three_nodes.kill(c)
    wait_until_dead(c)
    await until_lost(spread, by_node[c])
    await until_lost(spread, near)
    assert await printed(spread, by_node[a], "print(x)") == f"{first.index(by_node[a])}\n"

    async def forgotten() -> bool:
        return {node.node_id for node in (await spread.status()).nodes} == {a, three_nodes.head_id}

    await until(forgotten)


def drain(cluster: MultiNode, node_id: str, deadline_s: float) -> None:
    """As `ray drain-node` does."""
    client = importlib.import_module("ray._raylet").GcsClient(address=cluster.address)
    accepted, why = client.drain_node(node_id, PREEMPTION, "test", int(deadline_s * 1000))
    assert accepted, why


async def until_lost(backend: RayBackend, info: SandboxInfo) -> None:
    async def lost() -> str | None:
        try:
            await backend.info(info.sandbox_id)
        except SandboxLost as error:
            return error.cause
        return None

    assert await until(lost) == "node_lost"
