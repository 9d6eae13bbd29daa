"""The data plane as raw HTTP: ports, contexts, tokens, and sandboxes that are not there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from raybox_actors.errors import BadRequest, InternalError, LimitReached, RayboxError
from tests.cluster.gateway.conftest import Gateway

pytestmark = pytest.mark.anyio

CODE, ENVD = 49999, 49983


async def test_a_live_sandbox_is_healthy_on_both_ports_without_any_key(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    code = await gateway.on_port(CODE, info.sandbox_id, "GET", "/health")
    assert (code.status_code, code.content, code.headers["access-control-allow-origin"]) == (200, b'"OK"', "*")
    envd = await gateway.on_port(ENVD, info.sandbox_id, "GET", "/health")
    assert (envd.status_code, envd.content) == (204, b"")


async def test_a_host_name_is_as_good_as_headers_and_headers_win(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    by_host = await gateway.client.get("/health", headers={"Host": f"49983-{info.sandbox_id}.example.org:8000"})
    assert by_host.status_code == 204
    both = await gateway.on_port(ENVD, info.sandbox_id, "GET", "/health", headers={"Host": "49983-nobody.example.org"})
    assert both.status_code == 204


async def test_control_plane_paths_mean_nothing_to_a_sandbox(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    response = await gateway.on_port(CODE, info.sandbox_id, "DELETE", f"/sandboxes/{info.sandbox_id}")
    assert (response.status_code, response.text) == (404, "Not Found")
    assert info.sandbox_id in gateway.backend.live


async def test_connect_of_older_clients_comes_with_the_headers_of_the_agent(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    path = f"/sandboxes/{info.sandbox_id}/connect"
    answer = await gateway.on_port(
        ENVD, info.sandbox_id, "POST", path, json={"timeout": 9}, headers={"X-API-KEY": gateway.key}
    )
    assert (answer.status_code, answer.json()["sandboxID"]) == (200, info.sandbox_id)
    unknown = await gateway.on_port(
        ENVD, "nobody", "POST", "/sandboxes/nobody/connect", json={"timeout": 9}, headers={"X-API-KEY": gateway.key}
    )
    assert (unknown.status_code, unknown.json()["code"]) == (404, 404)
    wrong = await gateway.on_port(ENVD, info.sandbox_id, "POST", path, json={}, headers={"X-API-KEY": "wrong"})
    assert (wrong.status_code, wrong.json()["code"]) == (401, 401)
    elsewhere = await gateway.on_port(CODE, info.sandbox_id, "POST", path, headers={"X-API-KEY": gateway.key})
    assert (elsewhere.status_code, elsewhere.text) == (404, "Not Found")


@pytest.mark.parametrize("port", [CODE, ENVD, 8080])
@pytest.mark.parametrize("path", ["/health", "/execute", "/contexts", "/contexts/py/restart", "/anything"])
async def test_an_unknown_sandbox_is_the_same_502_on_every_port(gateway: Gateway, port: int, path: str) -> None:
    for sandbox_id in ("nobody", "Not-an-id"):
        response = await gateway.on_port(port, sandbox_id, "POST", path, json={"code": "1"})
        assert response.status_code == 502
        assert response.content == (
            b'{"sandboxId":"%s","message":"The sandbox was not found","code":502,'
            b'"kind":"not_found","retryable":false,"should_mask_sample":true}' % sandbox_id.encode()
        )


@pytest.mark.parametrize("port", [CODE, ENVD, 8080])
async def test_an_ended_sandbox_says_why(gateway: Gateway, port: int) -> None:
    info = await gateway.sandbox()
    gateway.backend.end(info.sandbox_id, "oom")
    response = await gateway.on_port(port, info.sandbox_id, "GET", "/health")
    assert response.status_code == 502
    assert response.json() == {
        "sandboxId": info.sandbox_id,
        "message": "The sandbox was not found",
        "code": 502,
        "kind": "sandbox_lost",
        "retryable": False,
        "should_mask_sample": True,
        "cause": "oom",
    }


@pytest.mark.parametrize("port", [CODE, ENVD, 8080])
async def test_a_paused_sandbox_is_not_there(gateway: Gateway, port: int) -> None:
    info = await gateway.sandbox()
    gateway.backend.live[info.sandbox_id] = replace(info, state="paused")
    assert (await gateway.on_port(port, info.sandbox_id, "GET", "/health")).status_code == 502


async def test_any_other_port_is_closed(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    response = await gateway.on_port(8080, info.sandbox_id, "GET", "/")
    assert response.status_code == 502
    assert response.json()["message"] == "The sandbox is running but port is not open"
    assert (response.json()["port"], response.json()["code"]) == (8080, 502)


async def test_the_agents_own_paths_are_not_there(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    token = {"X-Access-Token": info.envd_access_token or ""}
    for path in ("/init", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw", "/upgrade", "/anything", "/"):
        response = await gateway.on_port(ENVD, info.sandbox_id, "POST", path, headers=token)
        assert (response.status_code, response.json()["code"]) == (404, 404), path


@pytest.mark.parametrize(
    "headers",
    [
        {"E2b-Sandbox-Id": "abc"},
        {"E2b-Sandbox-Port": "49999"},
        {"E2b-Sandbox-Id": "a" * 65, "E2b-Sandbox-Port": "49999"},
        {"E2b-Sandbox-Id": "", "E2b-Sandbox-Port": "49999"},
        {"E2b-Sandbox-Id": "abc", "E2b-Sandbox-Port": "0"},
        {"E2b-Sandbox-Id": "abc", "E2b-Sandbox-Port": "65536"},
        {"E2b-Sandbox-Id": "abc", "E2b-Sandbox-Port": "1e3"},
        {"Host": "99999-abc.example.org"},
    ],
)
async def test_half_a_target_is_a_bad_request(gateway: Gateway, headers: dict[str, str]) -> None:
    response = await gateway.client.get("/health", headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, 400)


async def test_private_traffic_needs_its_token(gateway: Gateway) -> None:
    info = await gateway.sandbox(allow_public_traffic=False)
    say = "Sandbox is secured with traffic access token. "
    for port in (CODE, 8080):
        missing = await gateway.on_port(port, info.sandbox_id, "GET", "/health")
        assert missing.status_code == missing.json()["code"] == 403
        assert missing.json()["message"] == say + "Token header 'e2b-traffic-access-token' is missing"
        assert missing.json()["sandboxId"] == info.sandbox_id
        wrong = await gateway.on_port(
            port, info.sandbox_id, "GET", "/health", headers={"E2B-Traffic-Access-Token": "no"}
        )
        assert wrong.status_code == 403
        assert wrong.json()["message"] == say + "Provided token in header 'e2b-traffic-access-token' is invalid"
    token = {"E2B-Traffic-Access-Token": "traffic-token"}
    assert (await gateway.on_port(CODE, info.sandbox_id, "GET", "/health", headers=token)).status_code == 200
    assert (await gateway.on_port(ENVD, info.sandbox_id, "GET", "/health")).status_code == 204


async def test_the_token_of_a_sandbox_is_asked_for_once(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    gateway.backend.calls.clear()
    for _ in range(3):
        await gateway.on_port(CODE, info.sandbox_id, "POST", "/execute", json={"code": "1+1"})
    assert gateway.backend.calls == ["info", "execute", "execute", "execute"]


async def test_contexts_are_created_listed_restarted_and_removed(gateway: Gateway) -> None:
    info = await gateway.sandbox()

    async def ask(method: str, path: str, json: object = None) -> tuple[int, object]:
        response = await gateway.on_port(CODE, info.sandbox_id, method, path, json=json)
        return response.status_code, response.json() if response.status_code == 200 else response.text

    status, made = await ask("POST", "/contexts", {"language": "r", "cwd": "/root"})
    assert isinstance(made, dict)
    assert (status, made) == (200, {"id": made["id"], "language": "r", "cwd": "/root"})
    assert (await ask("POST", "/contexts"))[0] == 200
    assert (await ask("POST", "/contexts", {"language": None, "cwd": None}))[0] == 200
    _, listed = await ask("GET", "/contexts")
    assert isinstance(listed, list)
    assert [context["language"] for context in listed] == ["python", "javascript", "r", "python", "python"]
    assert await ask("POST", f"/contexts/{made['id']}/restart") == (200, None)
    assert await ask("DELETE", f"/contexts/{made['id']}") == (200, None)
    assert await ask("DELETE", f"/contexts/{made['id']}") == (404, f"Context {made['id']} not found")
    assert await ask("POST", "/contexts/nope/restart") == (404, "Context nope not found")
    assert await ask("DELETE", "/contexts/no%20pe") == (404, "Context no pe not found")
    assert await ask("PUT", "/contexts") == (405, "Method Not Allowed")
    assert await ask("GET", "/contexts/py") == (405, "Method Not Allowed")
    assert await ask("POST", "/contexts", {"cwd": 1}) == (400, "cwd must be a string")
    assert (await ask("POST", "/contexts", ["x" * 70_000]))[0] == 400


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (lambda: BadRequest("no such language: cobol"), 400),
        (lambda: LimitReached("no more contexts"), 429),
        (lambda: InternalError("the kernel did not start"), 500),
    ],
)
async def test_errors_of_the_interpreter_are_plain_text_with_traits_as_headers(
    gateway: Gateway, error: Callable[[], RayboxError], status: int
) -> None:
    info = await gateway.sandbox()
    await gateway.on_port(CODE, info.sandbox_id, "GET", "/contexts")
    gateway.backend.fail_with = error()
    for path in ("/contexts", "/execute"):
        response = await gateway.on_port(CODE, info.sandbox_id, "POST", path, json={"code": "1"})
        assert (response.status_code, response.text) == (status, str(error()))
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert response.headers["x-raybox-kind"] == error().kind
        assert response.headers["x-raybox-should-mask-sample"] == str(error().should_mask_sample).lower()


async def test_an_unexpected_fault_is_500_in_the_shape_of_its_port(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    gateway.backend.fail_with = RuntimeError("secret detail")
    code = await gateway.on_port(CODE, info.sandbox_id, "GET", "/health")
    assert (code.status_code, code.text) == (500, "internal error; the gateway's log has the details")
    envd = await gateway.on_port(ENVD, info.sandbox_id, "GET", "/health")
    assert (envd.status_code, envd.json()["code"], envd.json()["kind"]) == (500, 500, "internal")
