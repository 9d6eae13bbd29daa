"""The control plane as raw HTTP: exact statuses, exact bodies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raybox_actors.errors import InternalError, LimitReached, NoCapacity
from raybox_cluster.gateway.app import create_app
from raybox_cluster.gateway.auth import ApiKeys
from raybox_cluster.gateway.routes_unavailable import METHODS, UNAVAILABLE
from raybox_cluster.gateway.wire import MAX_CONTROL_BODY_BYTES
from tests.cluster.gateway.conftest import KEEPALIVE_S, Gateway

pytestmark = pytest.mark.anyio

CREATE = {"templateID": "code-interpreter-v1", "metadata": {}, "envVars": {}}


async def test_create_answers_201_with_the_fields_of_the_contract_and_what_it_took(gateway: Gateway) -> None:
    response = await gateway.client.post("/v2/sandboxes", json=CREATE)
    info = next(iter(gateway.backend.live.values()))
    assert response.status_code == 201
    assert response.json() == {
        "templateID": "code-interpreter-v1",
        "sandboxID": info.sandbox_id,
        "clientID": "raybox",
        "alias": "code-interpreter-v1",
        "envdVersion": "0.6.13",
        "envdAccessToken": info.envd_access_token,
        "raybox": {"timings_ms": {"queued": 0.5, "ready": 2.5}, "node_id": "node-1"},
    }
    wanted = gateway.backend.created[0]
    assert (wanted.owner, wanted.timeout_s, wanted.secure, wanted.network) == ("tester", 300.0, True, None)


async def test_the_first_version_of_create_has_its_own_defaults(gateway: Gateway) -> None:
    response = await gateway.client.post("/sandboxes", json=CREATE | {"secure": False})
    assert response.status_code == 201
    assert "envdAccessToken" not in response.json()
    assert (gateway.backend.created[0].timeout_s, gateway.backend.created[0].secure) == (15.0, False)


async def test_create_passes_on_everything_the_pool_can_do(gateway: Gateway) -> None:
    body = CREATE | {
        "templateID": "base",
        "timeout": 77,
        "metadata": {"user": "é\u2028"},
        "envVars": {"A": "1"},
        "allow_internet_access": False,
        "network": {"allowPublicTraffic": False, "allowOut": ["a.example.org"], "denyOut": ["0.0.0.0/0"], "rules": {}},
        "autoPause": False,
        "autoResume": {"enabled": False},
        "volumeMounts": [],
        "of_a_later_client": 1,
    }
    response = await gateway.client.post("/v2/sandboxes", json=body, headers={"Idempotency-Key": "once-1"})
    assert response.json()["trafficAccessToken"] == "traffic-token"
    wanted = gateway.backend.created[0]
    assert wanted.template == "code-interpreter-v1"
    assert wanted.timeout_s == 77.0
    assert wanted.metadata == {"user": "é\u2028"}
    assert wanted.env_vars == {"A": "1"}
    assert wanted.allow_internet_access is False
    assert wanted.allow_public_traffic is False
    rules = {"allowOut": ["a.example.org"], "denyOut": ["0.0.0.0/0"]}
    assert wanted.network == {"allowPublicTraffic": False, **rules}
    assert wanted.idempotency_key == "once-1"


@pytest.mark.parametrize(
    "field",
    [
        {"autoPause": True},
        {"autoPauseMemory": False},
        {"autoResume": {"enabled": True}},
        {"mcp": {"github": {}}},
        {"templateID": "mcp-gateway", "mcp": {"github": {}}},
        {"volumeMounts": [{"name": "a", "path": "/a"}]},
        {"iam": {"tokens": {"a": {}}}},
        {"network": {"egressProxy": {"address": "proxy.example.org:1080"}}},
        {"network": {"httpsPorts": [3000]}},
        {"network": {"rules": {"example.org": []}, "allowPublicTraffic": True}},
        {"network": {"maskRequestHost": "localhost:${PORT}"}},
    ],
    ids=lambda field: next(iter(field)),
)
async def test_create_refuses_loudly_what_the_pool_cannot_do_yet(gateway: Gateway, field: dict[str, object]) -> None:
    response = await gateway.client.post("/v2/sandboxes", json=CREATE | field)
    assert response.status_code == response.json()["code"] == 400
    assert "not supported yet" in response.json()["message"]
    assert gateway.backend.created == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"templateID": 1}',
        b'{"templateID": ""}',
        b"{}",
        b'{"templateID": "base", "timeout": 0}',
        b'{"templateID": "base", "timeout": -1}',
        b'{"templateID": "base", "timeout": 1.5}',
        b'{"templateID": "base", "timeout": true}',
        b'{"templateID": "base", "timeout": NaN}',
        b'{"templateID": "base", "timeout": 86401}',
        b'{"templateID": "base", "metadata": {"a": 1}}',
        b'{"templateID": "base", "metadata": {"a": "\\ud800"}}',
        b'{"templateID": "base", "metadata": []}',
        b'{"templateID": "base", "envVars": {"A=B": ""}}',
        b'{"templateID": "base", "envVars": {"A": "\\u0000"}}',
        b'{"templateID": "base", "allow_internet_access": "no"}',
        b'{"templateID": "base", "network": true}',
        b'{"templateID": "base", "autoResume": true}',
        b'{"templateID": "base", "metadata": {"a": "' + b"x" * 300_000 + b'"}}',
        b" " * (MAX_CONTROL_BODY_BYTES + 1),
    ],
    ids=lambda body: repr(body[:60]),
)
async def test_create_refuses_what_cannot_be_read(gateway: Gateway, body: bytes) -> None:
    response = await gateway.client.post("/v2/sandboxes", content=body)
    assert response.status_code == 400
    assert response.json() == {
        "code": 400,
        "message": response.json()["message"],
        "kind": "bad_request",
        "retryable": False,
        "should_mask_sample": False,
    }


async def test_a_chunked_body_is_bounded_too(gateway: Gateway) -> None:
    async def endless() -> Any:
        for _ in range(MAX_CONTROL_BODY_BYTES // 65536 + 1):
            yield b" " * 65536

    response = await gateway.client.post("/v2/sandboxes", content=endless())
    assert response.status_code == 400
    assert "longer than" in response.json()["message"]


async def test_an_unknown_template_is_not_found_in_the_words_of_the_reference(gateway: Gateway) -> None:
    response = await gateway.client.post("/v2/sandboxes", json={"templateID": "nope:1"})
    assert response.status_code == response.json()["code"] == 404
    assert response.json()["message"] == "template 'nope:1' not found"


async def test_a_full_pool_is_503_and_stops_the_clients_from_retrying_by_themselves(gateway: Gateway) -> None:
    gateway.backend.fail_with = NoCapacity("all 8 sandboxes are taken", retry_after_s=2.2)
    response = await gateway.client.post("/v2/sandboxes", json=CREATE)
    assert response.status_code == 503
    assert (response.headers["retry-after"], response.headers["should-retry"]) == ("3", "false")
    assert response.json() == {
        "code": 503,
        "message": "all 8 sandboxes are taken",
        "kind": "capacity",
        "retryable": True,
        "should_mask_sample": True,
        "retry_after_s": 2.2,
    }


async def test_a_limit_is_429(gateway: Gateway) -> None:
    gateway.backend.fail_with = LimitReached("too many")
    response = await gateway.client.post("/v2/sandboxes", json=CREATE)
    assert (response.status_code, response.json()["kind"]) == (429, "limit")


async def test_connect_only_extends_and_tells_running_from_resumed(gateway: Gateway) -> None:
    info = await gateway.sandbox(timeout_s=100.0)
    first = await gateway.client.post(f"/v2/sandboxes/{info.sandbox_id}/connect", json={"timeout": 10})
    assert (first.status_code, first.json()["envdAccessToken"]) == (
        200,
        info.envd_access_token,
    )
    assert gateway.backend.live[info.sandbox_id].end_at_s == info.end_at_s
    second = await gateway.client.post(f"/v2/sandboxes/{info.sandbox_id}/connect", content=b"")
    assert second.status_code == 200
    assert gateway.backend.live[info.sandbox_id].end_at_s == gateway.backend.now_s + 300
    without = await gateway.client.post(f"/sandboxes/{info.sandbox_id}/connect", json={})
    assert (without.status_code, without.json()["message"]) == (400, "timeout is required")
    missing = await gateway.client.post("/v2/sandboxes/nope/connect", json={})
    assert (missing.status_code, missing.json()["code"], missing.json()["sandboxId"]) == (404, 404, "nope")


async def test_info_has_every_field_and_no_null_that_crashes_a_client(gateway: Gateway) -> None:
    info = await gateway.sandbox(metadata={"a": "b"}, timeout_s=60.0)
    response = await gateway.client.get(f"/sandboxes/{info.sandbox_id}")
    assert response.status_code == 200
    assert response.json() == {
        "templateID": "code-interpreter-v1",
        "sandboxID": info.sandbox_id,
        "clientID": "raybox",
        "alias": "code-interpreter-v1",
        "startedAt": "2023-11-14T22:13:21.000000Z",
        "endAt": "2023-11-14T22:14:21.000000Z",
        "cpuCount": 1,
        "memoryMB": 1024,
        "diskSizeMB": 2048,
        "metadata": {"a": "b"},
        "state": "running",
        "envdVersion": "0.6.13",
        "envdAccessToken": info.envd_access_token,
        "allowInternetAccess": True,
        "lifecycle": {"autoResume": False, "onTimeout": "kill"},
        "raybox": {"node_id": "node-1", "owner": ""},
    }


async def test_kill_is_204_once_and_404_with_the_cause_afterwards(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    first = await gateway.client.delete(f"/sandboxes/{info.sandbox_id}")
    assert (first.status_code, first.content) == (204, b"")
    again = await gateway.client.delete(f"/sandboxes/{info.sandbox_id}")
    assert again.status_code == 404
    assert again.json() == {
        "code": 404,
        "message": f"sandbox {info.sandbox_id} is gone: killed",
        "kind": "sandbox_lost",
        "retryable": False,
        "should_mask_sample": False,
        "cause": "killed",
        "sandboxId": info.sandbox_id,
    }


async def test_who_says_no_timeout_gets_no_more_than_the_pool_grants(gateway: Gateway) -> None:
    keys = ApiKeys.of(tester=gateway.key)
    gateway.switch.app = create_app(gateway.backend, keys, keepalive_s=KEEPALIVE_S, max_timeout_s=100.0)
    answer = await gateway.client.post("/v2/sandboxes", json={"templateID": "base"})
    assert answer.status_code == 201
    assert gateway.backend.created[-1].timeout_s == 100.0
    answer = await gateway.client.put("/raybox/leases/a", json={})
    assert (answer.status_code, answer.json()["ttl_s"]) == (201, 100.0)


async def test_timeout_and_refreshes(gateway: Gateway) -> None:
    info = await gateway.sandbox(timeout_s=100.0)
    path = f"/sandboxes/{info.sandbox_id}"
    assert (await gateway.client.post(f"{path}/timeout", json={"timeout": 5})).status_code == 204
    assert gateway.backend.live[info.sandbox_id].end_at_s == gateway.backend.now_s + 5
    assert (await gateway.client.post(f"{path}/refreshes", json={"duration": 60})).status_code == 204
    assert gateway.backend.live[info.sandbox_id].end_at_s == gateway.backend.now_s + 60
    assert (await gateway.client.post(f"{path}/refreshes", content=b"")).status_code == 204
    assert (await gateway.client.post(f"{path}/refreshes", json={"duration": 3601})).status_code == 400
    assert (await gateway.client.post(f"{path}/timeout", json={})).status_code == 400
    assert (await gateway.client.post(f"{path}/timeout", json={"timeout": -1})).status_code == 400
    assert (await gateway.client.post(f"{path}/timeout", json={"timeout": 0})).status_code == 204
    assert (await gateway.client.post(f"{path}/timeout", json={"timeout": 5})).json()["cause"] == "timeout"


async def test_the_network_is_replaced_as_a_whole(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    path = f"/sandboxes/{info.sandbox_id}/network"
    rules = {"allowOut": ["a.example"], "denyOut": ["0.0.0.0/0"], "dnsServers": ["9.9.9.9"]}
    assert (await gateway.client.put(path, json=rules | {"rules": {}, "egressProxy": None})).status_code == 204
    assert gateway.backend.live[info.sandbox_id].network == rules
    assert (await gateway.client.put(path, json={"allow_internet_access": False})).status_code == 204
    changed = gateway.backend.live[info.sandbox_id]
    assert (changed.network, changed.allow_internet_access) == ({}, False)
    body: object
    for body in ({"allowOut": ["a.example"]}, {"denyOut": ["a.example"]}, {"egressProxy": {"address": "p:1"}}, []):
        refused = await gateway.client.put(path, json=body)
        assert (refused.status_code, refused.json()["kind"]) == (400, "bad_request"), body
    assert gateway.backend.live[info.sandbox_id] is changed
    gone = await gateway.client.put("/sandboxes/unknown/network", json={})
    assert (gone.status_code, gone.json()["code"]) == (404, 404)


async def test_list_pages_to_the_end_and_filters(gateway: Gateway) -> None:
    infos = [await gateway.sandbox(metadata={"n": str(n % 2)}) for n in range(5)]
    first = await gateway.client.get("/v2/sandboxes", params={"limit": 2, "order": "asc"})
    assert first.headers["x-total-running"] == "5"
    assert [item["sandboxID"] for item in first.json()] == [info.sandbox_id for info in infos[:2]]
    seen = first.json()
    token = first.headers["x-next-token"]
    while token:
        page = await gateway.client.get("/v2/sandboxes", params={"limit": 2, "order": "asc", "nextToken": token})
        seen += page.json()
        token = page.headers.get("x-next-token", "")
    assert [item["sandboxID"] for item in seen] == [info.sandbox_id for info in infos]

    newest_first = await gateway.client.get("/v2/sandboxes", params={"state": "running,paused"})
    assert [item["sandboxID"] for item in newest_first.json()] == [info.sandbox_id for info in reversed(infos)]
    assert "x-next-token" not in newest_first.headers
    odd = await gateway.client.get("/v2/sandboxes?metadata=n%3D1")
    assert {item["metadata"]["n"] for item in odd.json()} == {"1"}
    later = await gateway.client.get("/v2/sandboxes", params={"startedAfter": seen[3]["startedAt"]})
    assert len(later.json()) == 2
    assert (await gateway.client.get("/v2/sandboxes", params={"state": "paused"})).json() == []
    assert (await gateway.client.get("/v2/sandboxes", params={"template": "nope"})).json() == []
    assert len((await gateway.client.get("/v2/sandboxes", params={"template": "base"})).json()) == 5
    assert len((await gateway.client.get("/sandboxes")).json()) == 5


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=x",
        "limit=",
        "order=up",
        "state=dead",
        "startedAfter=yesterday",
        "startedAfter=2024-01-01T00:00:00",
        "nextToken=!",
        "nextToken=MSBkZXNj",
        "nextToken=%C3%A9",
        "order=asc&nextToken=MSBkZXNjIDEgYQ",
        "&".join("a=b" for _ in range(300)),
        "metadata=" + "%26".join("a%3Db" for _ in range(300)),
    ],
)
async def test_list_refuses_what_it_does_not_understand(gateway: Gateway, query: str) -> None:
    response = await gateway.client.get(f"/v2/sandboxes?{query}")
    assert (response.status_code, response.json()["code"]) == (400, 400)


@pytest.mark.parametrize("key", [None, "", "wrong", "e2b_" + "0" * 40, "x" * 5000])
async def test_every_route_of_the_control_plane_needs_a_key_but_health(gateway: Gateway, key: str | None) -> None:
    headers = {"X-API-KEY": key} if key is not None else {}
    del gateway.client.headers["X-API-KEY"]
    routes = [("POST", "/v2/sandboxes"), ("GET", "/sandboxes/abc"), ("GET", "/raybox/status"), ("GET", "/nowhere")]
    for method, path in routes:
        response = await gateway.client.request(method, path, headers=headers)
        assert (response.status_code, response.json()["code"], response.json()["kind"]) == (401, 401, "auth")
    assert (await gateway.client.get("/health", headers=headers)).status_code == 200
    assert gateway.backend.calls == []


async def test_what_this_version_lacks_says_so(gateway: Gateway) -> None:
    for path, what in UNAVAILABLE.items():
        for method in METHODS:
            url = path.replace("{sandbox_id}", "abc").replace("{rest:path}", "a%2Fb%3Ac/d")
            response = await gateway.client.request(method, url)
            assert (response.status_code, response.json()["code"]) == (501, 501), (method, url)
            assert response.json()["message"] == f"not available in this version: {what}"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/", 404),
        ("GET", "/sandboxes/", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("PUT", "/v2/sandboxes", 405),
        ("OPTIONS", "/v2/sandboxes", 405),
        ("GET", "/sandboxes/NOT-an-id", 404),
        ("DELETE", "/sandboxes/a%2Fb", 404),
        ("GET", "/sandboxes/" + "a" * 65, 404),
    ],
)
async def test_the_framework_speaks_the_contract_too(gateway: Gateway, method: str, path: str, status: int) -> None:
    response = await gateway.client.request(method, path)
    assert response.status_code == response.json()["code"] == status
    assert isinstance(response.json()["message"], str)
    assert gateway.backend.calls == []


@pytest.mark.parametrize("error", [InternalError("the raylet left"), RuntimeError("secret detail")])
async def test_faults_are_500_without_a_traceback(gateway: Gateway, error: Exception) -> None:
    gateway.backend.fail_with = error
    response = await gateway.client.post("/v2/sandboxes", json=CREATE)
    assert response.status_code == response.json()["code"] == 500
    assert (response.json()["kind"], response.json()["should_mask_sample"]) == ("internal", True)
    assert "secret" not in response.text
    assert "Traceback" not in response.text


async def test_status_is_the_pools_own(gateway: Gateway) -> None:
    response = await gateway.client.get("/raybox/status")
    assert response.json() == {
        "nodes": [
            {
                "node_id": "node-1",
                "alive": True,
                "zygote_ready": True,
                "slots": 2,
                "problem": "",
                "draining": False,
                "hosts": True,
                "leaks": {},
            }
        ],
        "slots_by_state": {"warm": 1, "running": 1},
        "capacity": 2,
        "warm": 1,
        "busy": 0,
        "claims_waiting": 0,
        "leases": 0,
        "orphaned_leases": 0,
    }


async def test_browsers_may_come_from_anywhere(gateway: Gateway) -> None:
    asking = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    del gateway.client.headers["X-API-KEY"]
    for host in ({}, {"Host": "49999-abc.example.org"}):
        preflight = await gateway.client.options("/v2/sandboxes", headers=asking | host)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "*"
        assert preflight.headers["access-control-allow-methods"] == "*"
        assert preflight.headers["access-control-allow-headers"] == "*, Authorization"
    refused = await gateway.client.get("/v2/sandboxes", headers={"Origin": "https://example.org"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")


async def leave_while_creating(gateway: Gateway, headers: dict[str, str]) -> None:
    gateway.backend.hold_create = asyncio.Event()
    request = asyncio.create_task(gateway.client.post("/v2/sandboxes", json=CREATE, headers=headers))
    await asyncio.wait_for(gateway.backend.creating.wait(), 5)
    request.cancel()  # closes the connection
    await asyncio.gather(request, return_exceptions=True)
    # What the server has read so far it has also been told of: another request proves that it saw the connection close.
    assert (await gateway.client.get("/health")).status_code == 200
    gateway.backend.hold_create.set()


async def test_a_sandbox_whose_creator_has_gone_is_killed(gateway: Gateway) -> None:
    await leave_while_creating(gateway, {})
    killed = await asyncio.wait_for(gateway.backend.killed.get(), 5)
    assert gateway.backend.gone == {killed: "killed"}


async def test_a_creator_with_an_idempotency_key_may_come_back(gateway: Gateway) -> None:
    await leave_while_creating(gateway, {"Idempotency-Key": "mine"})
    gateway.backend.hold_create = None
    await gateway.client.get("/v2/sandboxes")
    assert len(gateway.backend.live) == 1
    assert gateway.backend.killed.empty()


async def test_resources_are_asked_for_in_the_metadata(gateway: Gateway) -> None:
    wishes = {"raybox.cpus": "0.5", "raybox.memory_mib": "256", "raybox.disk_mib": "64", "raybox.pids_max": "100"}
    created = await gateway.client.post("/v2/sandboxes", json={**CREATE, "metadata": {"a": "b", **wishes}})
    assert created.status_code == 201
    wanted = gateway.backend.created[-1]
    assert wanted.resources == {"cpus": 0.5, "memory_mib": 256, "disk_mib": 64, "pids_max": 100}
    assert wanted.metadata == {"a": "b", **wishes}
    for text in ("", "-1", "1e9", "much", "1" * 10, "\u0661"):
        refused = await gateway.client.post("/v2/sandboxes", json={**CREATE, "metadata": {"raybox.memory_mib": text}})
        assert (refused.status_code, refused.json()["kind"]) == (400, "bad_request"), text


async def test_a_create_may_say_how_long_it_waits(gateway: Gateway) -> None:
    for headers, metadata, ours, wait_s in (
        ({"X-Raybox-Wait-Seconds": "0"}, {"raybox.wait_s": "9"}, {}, 0.0),
        ({"X-Raybox-Wait-Seconds": "5"}, {}, {"wait_s": 7}, 7.0),
        ({}, {"raybox.wait_s": "2.5"}, {}, 2.5),
        ({}, {}, {}, None),
    ):
        body = {**CREATE, "metadata": metadata, "raybox": ours}
        assert (await gateway.client.post("/v2/sandboxes", json=body, headers=headers)).status_code == 201
        assert gateway.backend.created[-1].wait_s == wait_s
    for text in ("", "-1", "601", "soon", "nan", "1" * 10):
        refused = await gateway.client.post("/v2/sandboxes", json={**CREATE, "metadata": {"raybox.wait_s": text}})
        assert (refused.status_code, "from 0 to 600" in refused.json()["message"]) == (400, True), text
    refused = await gateway.client.post("/v2/sandboxes", json=CREATE, headers={"X-Raybox-Wait-Seconds": "601"})
    assert refused.json()["message"].startswith("X-Raybox-Wait-Seconds must be")
    refused = await gateway.client.post("/v2/sandboxes", json={**CREATE, "raybox": {"wait_s": 601}})
    assert refused.json()["message"] == "wait_s must be between 0 and 600"


@pytest.mark.parametrize(
    ("field", "status"),
    [
        ({}, 201),
        ({"near_node_id": "c0ffee" * 9}, 201),
        ({"near_node_id": "Somewhere"}, 400),
        ({"near_node_id": 7}, 400),
        ("near", 400),
    ],
)
async def test_a_create_may_name_the_node_of_its_caller(gateway: Gateway, field: object, status: int) -> None:
    response = await gateway.client.post("/v2/sandboxes", json=CREATE | {"raybox": field})
    assert response.status_code == status
    if status == 201:
        assert gateway.backend.created[-1].near_node_id == (isinstance(field, dict) and field.get("near_node_id", ""))
