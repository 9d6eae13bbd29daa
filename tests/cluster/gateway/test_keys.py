"""Several keys: who sees and reaches what, and what a quota says over HTTP."""

from __future__ import annotations

import re

import pytest
from starlette.routing import Route

from raybox_actors.errors import LimitReached
from raybox_actors.values import Quota
from raybox_cluster.gateway.app import Gateway as App
from raybox_cluster.gateway.app import create_app
from raybox_cluster.gateway.auth import ApiKey, ApiKeys, hash_key, new_key
from tests.cluster.gateway.conftest import Gateway
from tests.cluster.gateway.memory import MemoryBackend

pytestmark = pytest.mark.anyio

CREATE = {"templateID": "code-interpreter-v1"}
ALICE, BOB = new_key(), new_key()
QUOTA = Quota(sandboxes=2)


@pytest.fixture(autouse=True)
def _keys(gateway: Gateway) -> None:
    gateway.with_keys(ApiKey("alice", hash_key(ALICE), quota=QUOTA), ApiKey("bob", hash_key(BOB), weight=2.0))


def every_path() -> set[str]:
    routers = [one.original_router for one in create_app(MemoryBackend(), ApiKeys.of()).routes]  # type: ignore[attr-defined]
    return {route.path for router in routers for route in router.routes}


def as_(key: str) -> dict[str, str]:
    return {"X-API-KEY": key}


async def test_each_key_lists_its_own_and_an_admin_everything(gateway: Gateway) -> None:
    for key in (ALICE, BOB, BOB):
        assert (await gateway.client.post("/v2/sandboxes", json=CREATE, headers=as_(key))).status_code == 201
    for key, expected in ((ALICE, ["alice"]), (BOB, ["bob"] * 2), (gateway.key, ["alice", "bob", "bob"])):
        for path in ("/sandboxes", "/v2/sandboxes"):
            answer = await gateway.client.get(path, headers=as_(key))
            owners = [gateway.backend.live[one["sandboxID"]].owner for one in answer.json()]
            assert sorted(owners) == expected
            assert answer.headers["x-total-running"] == str(len(expected))


def sandbox_routes(app: object) -> list[tuple[str, str]]:
    """Every method and path of the control plane that has a sandbox in it."""
    assert isinstance(app, App)
    found = set()
    todo: list[object] = list(app.routes)
    while todo:
        route = todo.pop()
        todo += getattr(getattr(route, "original_router", None), "routes", ())  # FastAPI keeps routers as they are
        if isinstance(route, Route) and "{sandbox_id}" in route.path:
            found |= {(method, route.path) for method in route.methods or ()}
    return sorted(found)


async def test_no_route_reaches_a_sandbox_of_another_key(gateway: Gateway) -> None:
    routes = sandbox_routes(gateway.switch.app)
    assert len(routes) > 10
    info = await gateway.sandbox(owner="alice")
    for method, path in routes:
        answer = await gateway.client.request(
            method, path.replace("{sandbox_id}", info.sandbox_id), json={"timeout": 9}, headers=as_(BOB)
        )
        assert answer.status_code == 404, (method, path, answer.text)
        if method != "HEAD":  # the answer about a sandbox that never was is the same
            unknown = "z" * len(info.sandbox_id)
            other = await gateway.client.request(
                method, path.replace("{sandbox_id}", unknown), json={"timeout": 9}, headers=as_(BOB)
            )
            assert answer.text.replace(info.sandbox_id, unknown) == other.text
    assert gateway.backend.live[info.sandbox_id] == info
    assert set(gateway.backend.calls) <= {"create", "info"}


async def test_a_key_reaches_its_own_sandbox_and_an_admin_every_one(gateway: Gateway) -> None:
    info = await gateway.sandbox(owner="alice")
    for key in (ALICE, gateway.key):
        path = f"/sandboxes/{info.sandbox_id}"
        assert (await gateway.client.get(path, headers=as_(key))).json()["raybox"]["owner"] == "alice"
        assert (await gateway.client.post(f"{path}/timeout", json={"timeout": 9}, headers=as_(key))).status_code == 204
        assert (await gateway.client.post(f"/v2{path}/connect", json={}, headers=as_(key))).status_code == 200
    assert (await gateway.client.delete(path, headers=as_(ALICE))).status_code == 204


async def test_whose_a_sandbox_is_is_asked_once(gateway: Gateway) -> None:
    info = await gateway.sandbox(owner="alice")
    for _ in range(3):
        answer = await gateway.client.post(
            f"/sandboxes/{info.sandbox_id}/timeout", json={"timeout": 9}, headers=as_(ALICE)
        )
        assert answer.status_code == 204
    assert gateway.backend.calls.count("info") == 1
    await gateway.client.get(f"/sandboxes/{info.sandbox_id}", headers=as_(gateway.key))
    assert gateway.backend.calls.count("info") == 2  # the answer itself


async def test_a_quota_goes_with_every_create_of_its_key(gateway: Gateway) -> None:
    for key, name, quota in ((ALICE, "alice", QUOTA), (BOB, "bob", None), (gateway.key, "tester", None)):
        await gateway.client.post("/sandboxes", json=CREATE, headers=as_(key))
        assert (gateway.backend.created[-1].owner, gateway.backend.created[-1].quota) == (name, quota)
        assert gateway.backend.created[-1].weight == (2.0 if name == "bob" else 1.0)


async def test_over_quota_is_429_and_clients_do_not_ask_again_by_themselves(gateway: Gateway) -> None:
    gateway.backend.fail_with = LimitReached("the quota of API key alice is used up")
    answer = await gateway.client.post("/v2/sandboxes", json=CREATE, headers=as_(ALICE))
    assert (answer.status_code, answer.headers["should-retry"]) == (429, "false")
    assert answer.json()["kind"] == "limit"
    assert answer.json()["message"] == "the quota of API key alice is used up"


async def test_what_a_key_may_start_is_for_every_key(gateway: Gateway) -> None:
    await gateway.sandbox(owner="alice")
    for key, live, limit in ((ALICE, 1, 2), (BOB, 0, None)):
        said = (await gateway.client.get("/raybox/capacity", headers=as_(key))).json()
        assert (said["live"], said["limit"], said["available"], said["pool_limit"]) == (live, limit, 2, 8)
    assert (await gateway.client.get("/raybox/capacity", headers=as_("wrong"))).status_code == 401


async def test_the_state_of_the_pool_is_for_admins(gateway: Gateway) -> None:
    answer = await gateway.client.get("/raybox/status", headers=as_(ALICE))
    assert (answer.status_code, answer.json()["code"], answer.json()["kind"]) == (403, 403, "auth")


def test_words_in_the_place_of_an_id_are_no_ids() -> None:
    """Or a route of theirs would be refused as somebody else's sandbox."""
    from raybox_cluster.gateway.resolver import sandbox_in_path

    words = {path for path in every_path() if re.fullmatch(r"(/v[0-9]+)?/sandboxes/[a-z0-9]+", path)}
    assert words == {"/sandboxes/metrics"}
    assert all(sandbox_in_path(path) is None for path in words)
    assert sandbox_in_path("/v2/sandboxes/abc/connect") == "abc"
    assert sandbox_in_path("/sandboxes/a%62c") is None
    assert sandbox_in_path("/templates/sandboxes/abc") is None
