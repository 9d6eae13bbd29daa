"""`connect`, the pools it gives, and how the way to a pool is chosen."""

from __future__ import annotations

import inspect
import pickle
from typing import Any, Unpack

import pytest

import raybox
from raybox import _requests
from raybox._config import ApiParams, ConnectionConfig, choose_transport
from tests.sdk.player import CREATED, INFO, SANDBOX_ID, Player, reply

pytestmark = pytest.mark.anyio

RAY, HTTP = "ray://p", "http://h"


async def done(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


@pytest.fixture(params=[raybox.connect, raybox.connect_async], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_calls_have_the_options_of_the_pool(connect: Any, player: Player) -> None:
    player.on("POST", "/v2/sandboxes", reply(201, CREATED))
    player.on("POST", f"/v2/sandboxes/{SANDBOX_ID}/connect", reply(200, CREATED))
    player.on("GET", "/v2/sandboxes", reply(200, [INFO]))
    player.on("DELETE", f"/sandboxes/{SANDBOX_ID}", reply(204, None), reply(404, {"code": 404, "message": "gone"}))
    options = dict(player.options)
    pool = pickle.loads(pickle.dumps(connect(options.pop("api_url"), **options, headers={"X-Trace": "t"})))

    made = await done(pool.create("base", timeout=60, envs={"A": "1"}, secure=True, api_headers={"X-More": "m"}))
    found = await done(pool.connect(SANDBOX_ID, timeout=30))
    listed = pool.list(limit=7)
    page = await done(listed.next_items())
    assert [await done(pool.kill(SANDBOX_ID)) for _ in range(2)] == [True, False]

    assert made.sandbox_id == found.sandbox_id == page[0].sandbox_id == SANDBOX_ID
    assert type(made) is (raybox.AsyncSandbox if connect is raybox.connect_async else raybox.Sandbox)
    created = player.seen[0]
    assert (created.json["templateID"], created.json["timeout"], created.json["envVars"]) == ("base", 60, {"A": "1"})
    assert [asked.headers["x-trace"] for asked in player.seen] == ["t"] * 5
    assert [asked.headers.get("x-more") for asked in player.seen] == ["m", None, None, None, None]
    assert made.connection_config.headers == {"X-Trace": "t", "X-More": "m"}
    assert not listed.has_next


async def test_several_are_created_together(connect: Any, player: Player) -> None:
    player.on("POST", "/raybox/sandboxes", reply(201, {"sandboxes": [CREATED, CREATED]}))
    made = await done(
        connect(**player.options).create_many(2, deadline_s=9, template="base", envs={"A": "1"}, idempotency_key="g")
    )
    assert [sandbox.sandbox_id for sandbox in made] == [SANDBOX_ID] * 2
    (asked,) = player.seen
    assert (asked.json["count"], asked.json["deadline_s"]) == (2, 9)
    assert (asked.json["create"]["templateID"], asked.json["create"]["envVars"]) == ("base", {"A": "1"})
    assert asked.headers["idempotency-key"] == "g"


async def test_several_that_could_not_be_had_raise_with_a_report(connect: Any, player: Player) -> None:
    report = [{"index": 0, "state": "ready", "reason": ""}, {"index": 1, "state": "failed", "reason": "its walls"}]
    body = {"code": 503, "message": "no", "kind": "capacity", "retryable": True, "retry_after_s": 7, "report": report}
    player.on("POST", "/raybox/sandboxes", reply(503, body), reply(429, {**body, "kind": "limit", "report": [1]}))
    pool = connect(**{**player.options, "retries": 3})
    with pytest.raises(raybox.GangException) as caught:
        await done(pool.create_many(2))
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.kind, error.retryable, error.retry_after_s) == ("capacity", True, 7)
    assert error.report == (raybox.MemberReport(0, "ready"), raybox.MemberReport(1, "failed", "its walls"))
    with pytest.raises(raybox.GangException) as caught:
        await done(pool.create_many(2))
    assert (caught.value.kind, caught.value.report) == ("limit", ())
    for wrong in (0, -1, 1.5, "2", True):
        with pytest.raises(raybox.InvalidArgumentException, match="n must be a whole number"):
            await done(pool.create_many(wrong))
    assert len(player.seen) == 2


async def test_a_create_may_wait_longer_than_a_request(connect: Any, player: Player) -> None:
    config = ConnectionConfig(api_key="k", request_timeout=3.0)
    request = _requests.create(config, "base", wait_s=40)
    assert (request.connect_s, request.total_s) == (43.0, 43.0)
    assert _requests.create(ConnectionConfig(api_key="k", request_timeout=None), "base", wait_s=40).total_s is None
    player.on("POST", "/v2/sandboxes", reply(201, CREATED), reply(201, CREATED))
    pool = connect(**player.options)
    await done(pool.create(wait_s=0))
    await done(pool.create())
    assert [asked.json.get("raybox") for asked in player.seen] == [{"wait_s": 0.0}, None]
    with pytest.raises(raybox.InvalidArgumentException, match="wait_s"):
        await done(pool.create(wait_s=-1))


async def test_capacity(connect: Any, player: Player) -> None:
    said = {
        "available": 3, "warm": 1, "live": 2, "limit": None, "waiting": 0, "retry_after_s": 0.0,
        "pool_live": 5, "pool_limit": 8, "later": "more",
    }  # fmt: skip
    player.on("GET", "/raybox/capacity", reply(200, said), reply(200, {"available": 1}))
    pool = connect(**player.options)
    assert await done(pool.capacity()) == raybox.PoolCapacity(3, 1, 2, None, 0, 0.0, 5, 8)
    with pytest.raises(raybox.SandboxException, match="cannot be used"):
        await done(pool.capacity())


async def test_unknown_parameter_is_a_type_error(connect: Any, player: Player) -> None:
    with pytest.raises(TypeError, match="'time_out'"):
        await done(connect(**player.options).create(time_out=1))
    assert player.seen == []


@pytest.mark.parametrize(
    ("options", "environment", "in_ray", "chosen"),
    [
        ({}, {}, False, "http"),
        ({}, {}, True, "ray"),
        ({}, {"RAYBOX_URL": HTTP}, True, "http"),
        ({}, {"RAYBOX_URL": RAY}, False, "ray"),
        ({}, {"E2B_API_URL": HTTP}, True, "http"),
        ({}, {"E2B_DOMAIN": "d"}, True, "http"),
        ({}, {"E2B_API_KEY": "k", "RAYBOX_API_KEY": "k", "RAYBOX_POOL": "p"}, True, "ray"),
        ({"domain": "d"}, {}, True, "http"),
        ({"sandbox_url": HTTP}, {}, True, "http"),
        ({"api_url": HTTP}, {"RAYBOX_TRANSPORT": "ray"}, True, "http"),
        ({"api_url": RAY}, {"RAYBOX_TRANSPORT": "http"}, False, "ray"),
        ({"api_url": RAY, "transport": "auto"}, {}, False, "ray"),
        ({"transport": "ray"}, {"RAYBOX_URL": HTTP}, False, "ray"),
        ({"transport": "http"}, {"RAYBOX_URL": RAY}, True, "http"),
        ({"transport": "auto"}, {"RAYBOX_TRANSPORT": "http"}, True, "ray"),
        ({"pool": "p"}, {"RAYBOX_URL": HTTP}, False, "ray"),
        ({"pool": "p", "transport": "http"}, {}, True, "http"),
        ({}, {"RAYBOX_TRANSPORT": "http"}, True, "http"),
        ({}, {"RAYBOX_TRANSPORT": "ray", "RAYBOX_URL": HTTP}, False, "ray"),
        ({}, {"RAYBOX_TRANSPORT": "auto"}, True, "ray"),
    ],
)
def test_transport(options: ApiParams, environment: dict[str, str], in_ray: bool, chosen: str) -> None:
    assert choose_transport(options, environment, in_ray) == chosen


@pytest.mark.parametrize(
    "options",
    [
        {"transport": "grpc"},
        {"transport": "ray", "api_url": HTTP},
        {"transport": "http", "api_url": RAY},
        {"pool": "p", "api_url": HTTP},
        {"pool": "p/q"},
        {"api_url": "ray://host:10001"},
    ],
)
def test_what_contradicts_itself_is_refused(options: Any) -> None:
    with pytest.raises(raybox.InvalidArgumentException):
        ConnectionConfig.resolve(options)


def test_what_names_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(**options: Unpack[ApiParams]) -> str:
        config = ConnectionConfig.resolve({"transport": "ray", **options})
        assert config.over_ray
        assert config.sandbox_url == config.api_url
        return config.api_url

    assert named() == "ray://"
    monkeypatch.setenv("RAYBOX_POOL", "c")
    assert named() == "ray://c"
    monkeypatch.setenv("RAYBOX_URL", "ray://b")
    assert (named(), named(pool="a"), named(api_url="ray://d")) == ("ray://b", "ray://a", "ray://d")


def test_a_key_for_another_service_is_not_sent_over_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_API_KEY", "theirs")
    assert ConnectionConfig.resolve({"transport": "ray"}).api_key is None
    monkeypatch.setenv("RAYBOX_API_KEY", "ours")
    assert ConnectionConfig.resolve({"transport": "ray"}).api_key == "ours"


def test_one_call_can_go_another_way() -> None:
    config = ConnectionConfig.resolve({"api_url": HTTP, "api_key": "k"})
    assert config.with_options({"transport": "ray", "pool": "p"}).api_url == RAY
    other = config.with_options({"api_url": "http://o/"})
    assert (other.api_url, other.sandbox_url) == ("http://o", "http://o")
    assert config.with_options({"api_url": "http://o", "sandbox_url": HTTP}).sandbox_url == HTTP
    over_ray = ConnectionConfig.resolve({"api_url": RAY})
    assert over_ray.with_options({"api_url": "ray://", "pool": "q"}).api_url == "ray://q"
    assert over_ray.with_options({"api_url": HTTP}).sandbox_url == HTTP
    assert over_ray.with_options({"pool": "q"}).api_url == over_ray.with_options({"pool": "q"}).sandbox_url == "ray://q"
    assert over_ray.with_options({"transport": "auto"}).api_url == RAY
    with pytest.raises(raybox.InvalidArgumentException, match="api_url"):
        over_ray.with_options({"transport": "http"})
