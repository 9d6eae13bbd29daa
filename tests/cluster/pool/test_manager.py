"""Manager and backend against a real Ray, with sandbox actors that have no walls."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import ray

from raybox_actors.config import PoolConfig, manager_name, sandbox_actor_name
from raybox_actors.errors import BadRequest, InternalError, LimitReached, NoCapacity, NotFound, SandboxLost
from raybox_actors.sandbox_id import ENTROPY_BYTES, mint
from raybox_actors.values import CreateRequest, ExecuteRequest, Quota, SandboxInfo
from raybox_cluster.pool.actors import ActorClasses, ensure_manager
from raybox_cluster.pool.backend_ray import RayBackend
from raybox_cluster.pool.calls import find, names
from raybox_cluster.pool.up_down import ensure_pool, teardown_pool
from tests.cluster.pool.conftest import CLASSES, FAKES

Found = TypeVar("Found")
pytestmark = [pytest.mark.pool, pytest.mark.anyio]


async def until(true: Callable[[], Awaitable[Found]], timeout_s: float = 30.0) -> Found:
    """The first true answer of `true`; it is asked again after every other."""
    deadline_s = time.monotonic() + timeout_s
    while not (last := await true()):
        assert time.monotonic() < deadline_s, last
        await asyncio.sleep(0.02)
    return last


def pid_of(name: str) -> int:
    pid: int = ray.get(find(name).__ray_call__.remote(lambda _self: os.getpid()))
    return pid


def slot_name(config: PoolConfig, info: SandboxInfo) -> str:
    from raybox_actors.sandbox_id import parse

    parts = parse(info.sandbox_id)
    assert parts is not None
    return sandbox_actor_name(config, parts.node, parts.slot)


async def test_create_use_kill_recycle(pool: PoolConfig) -> None:
    backend = RayBackend(pool)
    info = await backend.create(CreateRequest(metadata={"a": "b"}, owner="me"))
    assert set(info.timings_ms) == {"queued", "claimed", "ready"}
    assert (await backend.info(info.sandbox_id)).metadata == {"a": "b"}
    assert [one.sandbox_id for one in await backend.sandboxes()] == [info.sandbox_id]
    batch = await backend.execute(info.sandbox_id, ExecuteRequest("e", "1"))
    assert batch.done
    await backend.kill(info.sandbox_id)
    with pytest.raises(SandboxLost, match="killed"):
        await backend.info(info.sandbox_id)

    async def warm_again() -> bool:
        status = await backend.status()
        return status.warm >= 1 and not status.slots_by_state.get("running")

    await until(warm_again)


async def test_full_pool_then_room(pool: PoolConfig) -> None:
    backend = RayBackend(pool)

    async def both_there() -> bool:
        return sum((await backend.status()).slots_by_state.values()) == 2

    await until(both_there)
    first, _second = await asyncio.gather(backend.create(CreateRequest()), backend.create(CreateRequest()))
    with pytest.raises(NoCapacity) as caught:
        await backend.create(CreateRequest())
    assert caught.value.retry_after_s > 0
    third = asyncio.create_task(backend.create(CreateRequest()))
    await backend.kill(first.sandbox_id)
    assert (await third).sandbox_id != first.sandbox_id


async def test_errors_arrive_as_they_were(pool: PoolConfig) -> None:
    backend = RayBackend(pool)
    with pytest.raises(BadRequest, match="too long"):
        await backend.create(CreateRequest(timeout_s=1e9))
    info = await backend.create(CreateRequest())
    with pytest.raises(InternalError, match="RuntimeError: a bug"):
        await backend.contexts(info.sandbox_id)
    with pytest.raises(NotFound):
        await backend.info("i" + "0" * 40)
    with pytest.raises(NotFound):
        await backend.info(info.sandbox_id[:-1] + ("0" if info.sandbox_id[-1] != "0" else "1"))
    gone = mint(pool.secret, "f" * 12, 7, 0, bytes(ENTROPY_BYTES))
    with pytest.raises(SandboxLost, match="node_lost"):
        await backend.info(gone)


async def test_the_same_idempotency_key_yields_the_same_sandbox(pool: PoolConfig) -> None:
    backend = RayBackend(pool)
    request = CreateRequest(idempotency_key="k", owner="me")
    first, second = await asyncio.gather(backend.create(request), backend.create(request))
    assert first == second == await backend.create(request)
    other = await backend.create(CreateRequest(idempotency_key="k", owner="somebody else"))
    assert other.sandbox_id != first.sandbox_id


@pytest.fixture
def wide_pool(ray_cluster: str) -> Iterator[PoolConfig]:
    """More slots than any quota of the tests."""
    config = PoolConfig(name=f"w{secrets.token_hex(3)}", secret=b"x", sandboxes=6, warm=2, admission_wait_s=5.0)
    ensure_pool(config, timeout_s=60.0, classes=CLASSES)
    yield config
    teardown_pool(config)


async def test_a_quota_holds_when_creates_race_through_several_gateways(wide_pool: PoolConfig) -> None:
    gateways = [RayBackend(wide_pool) for _ in range(3)]

    async def all_there() -> bool:
        return sum((await gateways[0].status()).slots_by_state.values()) == 6

    await until(all_there)
    mine = CreateRequest(owner="alice", quota=Quota(sandboxes=3))
    answers = await asyncio.gather(
        *(gateways[n % 3].create(mine) for n in range(9)),
        gateways[0].create(CreateRequest(owner="bob")),
        return_exceptions=True,
    )
    infos = [one for one in answers if isinstance(one, SandboxInfo)]
    refused = [one for one in answers if isinstance(one, LimitReached)]
    assert sorted(info.owner for info in infos) == ["alice"] * 3 + ["bob"], answers
    assert len(refused) == 6, answers
    assert "its sandboxes have 3 of 3" in str(refused[0])

    # What a new manager does not know yet it asks for before it decides.
    os.kill(pid_of(manager_name(wide_pool)), signal.SIGKILL)
    with pytest.raises(LimitReached):
        await gateways[1].create(mine)
    # A place that has just come free is free, however late the manager hears of it.
    last = next(info for info in infos if info.owner == "alice")
    for _ in range(5):
        await gateways[2].kill(last.sandbox_id)
        last = await gateways[1].create(mine)
    owners = [info.owner for info in await gateways[0].sandboxes()]
    assert owners.count("alice") == 3


async def test_a_key_that_floods_the_pool_leaves_the_next_slot_to_another(pool: PoolConfig) -> None:
    floods, other = RayBackend(pool), RayBackend(pool)

    async def waiting(count: int) -> bool:
        return (await other.status()).claims_waiting == count

    async def full() -> bool:
        return (await other.capacity("alice", None)).live == 2

    flood = [asyncio.create_task(floods.create(CreateRequest(owner="alice", wait_s=60.0))) for _ in range(9)]
    await until(full)
    await until(lambda: waiting(7))
    late = asyncio.create_task(other.create(CreateRequest(owner="bob", wait_s=60.0)))
    await until(lambda: waiting(8))
    said = await other.capacity("bob", None)
    assert (said.available, said.waiting, said.live, said.pool_live, said.pool_limit) == (0, 8, 0, 2, 2)
    assert said.retry_after_s > 0
    done, _ = await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
    await floods.kill(done.pop().result().sandbox_id)
    assert (await late).owner == "bob"
    assert sum(one.done() for one in flood) <= 2
    with pytest.raises(NoCapacity):
        await other.create(CreateRequest(owner="bob", wait_s=0.0))
    for one in flood:
        one.cancel()


async def test_a_dead_actor_is_reported_and_replaced_by_another_number(pool: PoolConfig) -> None:
    backend = RayBackend(pool)
    info = await backend.create(CreateRequest())
    with pytest.raises(SandboxLost, match="internal"):
        await backend.execute(info.sandbox_id, ExecuteRequest("e", "die"))
    with pytest.raises(SandboxLost, match="internal"):
        await backend.info(info.sandbox_id)

    async def replaced() -> bool:
        status = await backend.status()
        return sum(status.slots_by_state.values()) == 2 and not status.slots_by_state.get("running")

    await until(replaced)
    assert slot_name(pool, info) not in names(pool)


async def test_a_killed_manager_rebuilds_what_it_knew(pool: PoolConfig) -> None:
    backend = RayBackend(pool)
    info = await backend.create(CreateRequest(metadata={"keep": "me"}))
    before = set(names(pool))
    os.kill(pid_of(manager_name(pool)), signal.SIGKILL)
    assert (await backend.info(info.sandbox_id)).sandbox_id == info.sandbox_id  # nobody needs the manager for this
    listed = await backend.sandboxes()
    assert [(one.sandbox_id, one.metadata) for one in listed] == [(info.sandbox_id, {"keep": "me"})]
    another = await backend.create(CreateRequest())
    assert another.sandbox_id != info.sandbox_id
    assert {one.sandbox_id for one in await backend.sandboxes()} == {info.sandbox_id, another.sandbox_id}
    assert before <= set(names(pool))


async def test_a_create_survives_the_death_of_the_manager(pool: PoolConfig) -> None:
    backend = RayBackend(pool)
    await backend.status()
    pid = pid_of(manager_name(pool))
    create = asyncio.create_task(backend.create(CreateRequest()))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    info = await create
    assert (await backend.info(info.sandbox_id)).sandbox_id == info.sandbox_id


# ---- direct claims ----


def in_actor(name: str, work: Callable[[Any], Any]) -> Any:
    """Do `work` with the instance in the actor's process."""
    return ray.get(find(name).__ray_call__.remote(lambda shell: work(shell.actor)))


def claims_at_manager(config: PoolConfig) -> int:
    asked: int = in_actor(manager_name(config), lambda manager: manager._claims_begun)
    return asked


async def hinted(backend: RayBackend) -> str:
    """Look, if need be again, until there is a hint; which."""
    await backend.start()

    async def there() -> bool:
        return bool(backend._hints._names)

    await until(there)
    return backend._hints._names[0]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the backends of this test asked the manager for hints."""
    asked: list[float] = []
    look = RayBackend._look

    async def counted(self: RayBackend, limit: int) -> list[str] | None:
        asked.append(time.monotonic())
        return await look(self, limit)

    monkeypatch.setattr(RayBackend, "_look", counted)
    return asked


async def test_a_warm_slot_is_claimed_without_the_manager_and_listed_at_once(pool: PoolConfig) -> None:
    backend = RayBackend(pool)
    name = await hinted(backend)
    info = await backend.create(CreateRequest(metadata={"a": "b"}))
    assert [one.sandbox_id for one in await backend.sandboxes()] == [info.sandbox_id]
    assert (await backend.status()).slots_by_state.get("running") == 1
    assert slot_name(pool, info) == name
    assert set(info.timings_ms) == {"queued", "claimed", "ready"}
    assert claims_at_manager(pool) == 0
    second = slot_name(pool, info)  # the other slot gets warm, and is hinted at without a further create
    assert await hinted(backend) != second


async def test_a_create_with_a_key_of_the_client_asks_the_manager(pool: PoolConfig) -> None:
    backend = RayBackend(pool)
    await hinted(backend)
    await backend.create(CreateRequest(idempotency_key="k"))
    assert claims_at_manager(pool) == 1


async def test_a_taken_slot_leads_to_the_manager(pool: PoolConfig) -> None:
    backend, rival = RayBackend(pool), RayBackend(pool)
    name = await hinted(backend)
    assert await hinted(rival) == name
    while len(backend._hints._names) > 1:  # or the next hint, an idle slot, would do without the manager
        backend._hints._names.pop()
    theirs = await rival.create(CreateRequest())
    mine = await backend.create(CreateRequest())
    assert {theirs.sandbox_id, mine.sandbox_id} == {one.sandbox_id for one in await backend.sandboxes()}
    assert in_actor(name, lambda actor: actor.claims) == 2
    assert claims_at_manager(pool) == 1


async def test_a_dead_slot_leads_to_the_manager(pool: PoolConfig) -> None:
    backend = RayBackend(pool)
    name = await hinted(backend)
    os.kill(pid_of(name), signal.SIGKILL)
    info = await backend.create(CreateRequest())
    assert slot_name(pool, info) != name
    backend._hints._names.append(sandbox_actor_name(pool, "f" * 56, 77))  # and one of an actor that nobody knows
    await backend.kill(info.sandbox_id)
    await backend.create(CreateRequest())


async def test_a_claim_without_an_answer_leaves_no_sandbox(pool: PoolConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raybox_cluster.pool.backend_ray.CLAIM_TIMEOUT_S", 0.3)
    backend = RayBackend(pool)
    name = await hinted(backend)

    async def both_there() -> bool:
        return sum((await backend.status()).slots_by_state.values()) == 2

    await until(both_there)
    in_actor(name, lambda actor: setattr(actor, "silent_claims", True))
    info = await backend.create(CreateRequest())
    assert slot_name(pool, info) != name

    async def gone() -> bool:
        return [one.sandbox_id for one in await backend.sandboxes()] == [info.sandbox_id]

    await until(gone)
    assert in_actor(name, lambda actor: actor.info_now) is None
    # A create whose caller goes away meanwhile leaves none either.
    backend._hints._names.clear()  # of the slot that was idle before
    backend._hints.refresh(0.0)
    assert await hinted(backend) == name
    leaving = asyncio.create_task(backend.create(CreateRequest()))
    await asyncio.sleep(0.1)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert in_actor(name, lambda actor: actor.claims) == 2
    await until(gone)


async def test_an_abandoned_claim_ends_nobody_elses_sandbox(pool: PoolConfig) -> None:
    backend = RayBackend(pool)
    info = await backend.create(CreateRequest())
    await find(manager_name(pool)).abandoned.remote(slot_name(pool, info), "not the key of this one")
    await asyncio.sleep(0.2)
    assert (await backend.info(info.sandbox_id)).sandbox_id == info.sandbox_id


async def test_who_waits_at_the_manager_goes_before_who_has_a_hint(pool: PoolConfig) -> None:
    backend = RayBackend(pool)

    async def both_there() -> bool:
        return sum((await backend.status()).slots_by_state.values()) == 2

    await until(both_there)
    first, _ = await asyncio.gather(backend.create(CreateRequest()), backend.create(CreateRequest()))
    early = asyncio.create_task(backend.create(CreateRequest()))
    await asyncio.sleep(0.05)
    assert await find(manager_name(pool)).free_slots.remote(8) == []
    backend._hints._names.append(slot_name(pool, first))  # old, and about to be right
    late = asyncio.create_task(backend.create(CreateRequest()))
    await backend.kill(first.sandbox_id)
    assert (await early).sandbox_id
    with pytest.raises(NoCapacity):
        await late


async def test_nobody_looks_while_nothing_is_created(
    pool: PoolConfig, looks: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = RayBackend(pool)
    await backend.status()
    await asyncio.sleep(0.4)
    assert looks == []
    await hinted(backend)
    await asyncio.sleep(0.6)
    seen = len(looks)
    assert seen <= 2
    # While the pool is full, for a while only.
    monkeypatch.setattr("raybox_cluster.pool.hints.LOOK_FOR_S", 0.5)
    await asyncio.gather(*(backend.create(CreateRequest()) for _ in range(2)))
    await asyncio.sleep(1.5)
    assert 2 <= len(looks) - seen <= 5
    seen = len(looks)
    await asyncio.sleep(0.6)
    assert len(looks) == seen


async def test_a_surplus_slot_is_stopped_unless_it_was_claimed(pool: PoolConfig) -> None:
    backend = RayBackend(pool)
    name = await hinted(backend)

    def stop(manager: Any) -> None:
        key = next(key for key in manager._state.slots if name.endswith(f"-{key.slot}"))
        loop = next(iter(manager._tasks)).get_loop()  # this runs in another thread
        loop.call_soon_threadsafe(lambda: manager._spawn(manager._stop_slot(key)))

    info = await backend.create(CreateRequest())
    assert slot_name(pool, info) == name
    in_actor(manager_name(pool), stop)
    await asyncio.sleep(0.3)
    assert (await backend.info(info.sandbox_id)).sandbox_id == info.sandbox_id
    await backend.kill(info.sandbox_id)
    in_actor(manager_name(pool), stop)

    async def stopped() -> bool:
        return name not in await asyncio.to_thread(names, pool)

    await until(stopped)


async def test_a_pool_that_cannot_start_says_why(ray_cluster: None, config: PoolConfig) -> None:
    broken = ActorClasses(CLASSES.sandbox, f"{FAKES}:BrokenNodeAgent")
    try:
        with pytest.raises(InternalError, match="no bubblewrap on this node"):
            await asyncio.to_thread(ensure_pool, config, timeout_s=60.0, classes=broken)
        (node,) = (await RayBackend(config).status()).nodes
        assert (node.problem, node.zygote_ready, node.slots) == ("no bubblewrap on this node", False, 0)
    finally:
        teardown_pool(config)


async def test_joining_a_running_pool(pool: PoolConfig) -> None:
    assert (await asyncio.to_thread(ensure_pool, pool, classes=CLASSES)).capacity == 2
    with pytest.raises(BadRequest, match="other settings"):
        await asyncio.to_thread(ensure_pool, replace(pool, sandboxes=3), classes=CLASSES)


async def test_an_actor_of_a_dead_manager_that_was_never_started_is_adopted(
    ray_cluster: None, config: PoolConfig
) -> None:
    from raybox_cluster.pool.actors import start_sandbox_actor
    from raybox_cluster.pool.events import SlotKey

    node_id = ray.get_runtime_context().get_node_id()
    start_sandbox_actor(config, CLASSES, SlotKey(node_id, 5))
    try:
        manager = ensure_manager(config, CLASSES)
        await manager.start.remote(config)
        status = await asyncio.to_thread(ensure_pool, config, classes=CLASSES)
        assert status.warm >= 1
        assert sandbox_actor_name(config, node_id, 5) in names(config)
    finally:
        teardown_pool(config)
    assert names(config) == []
