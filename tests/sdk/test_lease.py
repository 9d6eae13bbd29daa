"""Leases through both colours of the client: what is asked, what is made of the answers, and who sends heartbeats."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import raybox
from raybox import AsyncLease, Lease, Sandbox, _heartbeats, _lease
from raybox._config import ConnectionConfig
from tests.sdk.player import CREATED, KEY, SANDBOX_ID, Player, reply
from tests.support.wait import wait_until

pytestmark = pytest.mark.anyio

Done = Callable[[Any], Awaitable[Any]]
PATH = "/raybox/leases/step%3A1"
HEARTBEAT = "/raybox/leases/heartbeat"
LEASED = {
    "sandbox": CREATED,
    "created": True,
    "key": "step:1",
    "sandboxID": SANDBOX_ID,
    "ttl_s": 60.0,
    "expiresAt": "2030-01-02T03:04:05.000000Z",
    "owners": [],
}


@pytest.fixture
def heartbeats(monkeypatch: pytest.MonkeyPatch) -> Iterator[_heartbeats.Heartbeats]:
    """Quick ones, of a process of their own; at the end they have stopped."""
    monkeypatch.setattr(_heartbeats, "INTERVAL_S", 0.02)
    mine = _heartbeats.Heartbeats()
    monkeypatch.setattr(_lease, "HEARTBEATS", mine)
    yield mine
    wait_until(lambda: not mine._runs, 10)


@pytest.fixture
def pool(colour: Any, player: Player, heartbeats: _heartbeats.Heartbeats) -> Any:
    player.on("PUT", PATH, reply(201, LEASED), reply(200, LEASED | {"created": False}))
    player.on("POST", HEARTBEAT, reply(200, {"leases": 0}))
    connect = raybox.connect if colour is Sandbox else raybox.connect_async
    return connect(player.url, api_key=KEY)


async def test_a_lease(colour: Any, pool: Any, player: Player, done: Done, heartbeats: Any) -> None:
    lease = await done(pool.lease("step:1", ttl_s=60, metadata={"a": "b"}, envs={"C": "d"}))
    assert type(lease) is (Lease if colour is Sandbox else AsyncLease)
    assert type(lease.sandbox) is colour
    assert (lease.key, lease.sandbox.sandbox_id, lease.created) == ("step:1", SANDBOX_ID, True)
    assert lease.expires_at == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    asked = player.seen[0]
    assert asked.headers["x-api-key"] == KEY
    assert asked.json == {
        "ttl_s": 60.0,
        "owner": {"kind": "heartbeat", "id": heartbeats.process_id},
        "recreate": False,
        "create": {"templateID": "code-interpreter-v1", "metadata": {"a": "b"}, "envVars": {"C": "d"}},
    }
    again = await done(pool.lease("step:1", owner="none", recreate=True))
    assert not again.created
    asked = next(one for one in reversed(player.seen) if one.method == "PUT")
    assert (asked.json["owner"], asked.json["recreate"], asked.json["ttl_s"]) == ({"kind": "none"}, True, 600.0)


async def test_renew_and_release(pool: Any, player: Player, done: Done) -> None:
    player.on("POST", f"/sandboxes/{SANDBOX_ID}/timeout", reply(204))
    player.on("DELETE", PATH, reply(204), reply(404, {"code": 404, "message": "lease step:1 not found"}))
    lease = await done(pool.lease("step:1", ttl_s=60, owner="none"))
    await done(lease.renew())
    await done(lease.renew(5.5))
    await done(lease.renew())
    timeouts = [one.json["timeout"] for one in player.seen if one.path.endswith("/timeout")]
    assert timeouts == [60, 6, 6]
    assert timedelta(0) < lease.expires_at - datetime.now(UTC) <= timedelta(seconds=6)
    assert await done(lease.release()) is True
    assert await done(lease.release()) is False
    assert player.seen[-1].query == f"sandbox_id={SANDBOX_ID}"


async def test_a_lease_is_released_at_the_end_of_its_block(colour: Any, pool: Any, player: Player, done: Done) -> None:
    player.on("DELETE", PATH, reply(204))
    lease = await done(pool.lease("step:1", owner="none"))
    if colour is Sandbox:
        with lease as same:
            assert same is lease
    else:
        async with lease as same:
            assert same is lease
    assert player.seen[-1].method == "DELETE"


async def test_a_lease_can_be_sent_to_another_process(pool: Any, done: Done) -> None:
    lease = pickle.loads(pickle.dumps(await done(pool.lease("step:1", owner="none"))))
    assert (lease.key, lease.sandbox.sandbox_id) == ("step:1", SANDBOX_ID)


async def test_heartbeats_are_sent_until_the_pool_has_no_lease_of_ours(
    pool: Any, player: Player, done: Done, heartbeats: Any
) -> None:
    player.on(
        "POST",
        HEARTBEAT,
        reply(200, {"leases": 1}),
        reply(503, b"restarting"),
        reply(200, {"leases": 2}),
        reply(200, {"leases": 0}),
    )
    await done(pool.lease("step:1"))
    await done(pool.lease("step:1"))
    wait_until(lambda: not heartbeats._runs, 10)
    beats = [one.json for one in player.seen if one.path == HEARTBEAT]
    assert beats == [{"owner": heartbeats.process_id}] * 4
    assert not heartbeats._pools


def test_heartbeats_stop_when_nobody_answers_for_longer_than_the_lease_lasts(
    player: Player, heartbeats: _heartbeats.Heartbeats
) -> None:
    player.on("POST", HEARTBEAT, reply(500, {"code": 500, "message": "hm"}))
    heartbeats.add(ConnectionConfig.resolve({"api_key": KEY, "api_url": player.url}), ttl_s=0.2)
    wait_until(lambda: not heartbeats._runs, 10)
    assert len(player.seen) > 1


def test_a_lease_that_comes_during_a_heartbeat_is_not_forgotten(
    player: Player, heartbeats: _heartbeats.Heartbeats
) -> None:
    under_way = threading.Event()
    answer = reply(200, {"leases": 0})
    answer.steps = (under_way, *answer.steps)
    player.on("POST", HEARTBEAT, answer, reply(200, {"leases": 1}), reply(200, {"leases": 0}))
    config = ConnectionConfig.resolve({"api_key": KEY, "api_url": player.url})
    heartbeats.add(config, 60)
    wait_until(lambda: player.seen, 10)
    heartbeats.add(config, 60)
    under_way.set()
    wait_until(lambda: not heartbeats._runs, 10)
    assert len(player.seen) == 3


async def test_a_lost_sandbox_is_an_error_that_masks_the_sample(pool: Any, player: Player, done: Done) -> None:
    lost = {
        "code": 404,
        "message": "sandbox x is gone: oom",
        "kind": "sandbox_lost",
        "cause": "oom",
        "retryable": False,
        "should_mask_sample": True,
        "sandboxId": "x",
    }
    player.on("PUT", PATH, reply(404, lost))
    with pytest.raises(raybox.SandboxNotRunningException) as caught:
        await done(pool.lease("step:1", owner="none"))
    assert (caught.value.cause, caught.value.should_mask_sample, caught.value.sandbox_id) == ("oom", True, "x")


@pytest.mark.parametrize(
    "wanted",
    [
        {"key": ""},
        {"key": "a/b"},
        {"key": ".."},
        {"key": "x" * 256},
        {"ttl_s": 0},
        {"ttl_s": float("inf")},
        {"ttl_s": True},
        {"owner": "job"},
        {"owner": "actor"},
        {"owner": "cat"},
        {"timeout": 5},
        {"idempotency_key": "k"},
    ],
)
async def test_what_no_lease_can_be(pool: Any, player: Player, done: Done, wanted: dict[str, Any]) -> None:
    with pytest.raises(raybox.InvalidArgumentException):
        await done(pool.lease(**({"key": "step:1"} | wanted)))
    assert not player.seen


async def test_an_answer_that_is_none(pool: Any, player: Player, done: Done) -> None:
    for broken in ({"created": True}, LEASED | {"expiresAt": "soon"}, LEASED | {"sandbox": {}}):
        player.on("PUT", PATH, reply(200, broken))
        with pytest.raises(raybox.SandboxException, match="cannot be used"):
            await done(pool.lease("step:1", owner="none"))
