"""Nothing is left undecided: every error has an answer, and no JSON at all makes the gateway fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.responses import Response

import raybox_actors.errors
from raybox_actors.agent.errors import AgentError
from raybox_actors.errors import ExecutionForgotten, GangFailed, NoCapacity, NotFound, RayboxError, SandboxLost
from raybox_actors.values import CreateRequest, MemberReport
from raybox_cluster.gateway.app import create_app
from raybox_cluster.gateway.auth import ApiKey, ApiKeys, hash_key, new_key
from raybox_cluster.gateway.errors import (
    STATUS,
    TemplateNotFound,
    control_response,
    gateway_response,
    interpreter_response,
    status_of,
)
from tests.cluster.gateway.memory import MemoryBackend


def subclasses(cls: type[RayboxError]) -> Iterator[type[RayboxError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from subclasses(child)


def one(cls: type[RayboxError]) -> RayboxError:
    if issubclass(cls, TemplateNotFound | ExecutionForgotten):
        return cls("x")
    if issubclass(cls, NotFound):
        return cls("sandbox", "abc")
    if issubclass(cls, SandboxLost):
        return cls("abc", "oom")
    if issubclass(cls, AgentError):
        return cls("invalid_argument", "something")
    if issubclass(cls, NoCapacity):
        return cls("full", 1.5)
    if issubclass(cls, GangFailed):
        return cls(NoCapacity("full", 1.5), (MemberReport(0, "ready"), MemberReport(1, "not_started", "no slot")))
    return cls("something")


#: Those that the gateway may meet, whichever tests ran before.
ERRORS = [cls for cls in subclasses(RayboxError) if cls.__module__.startswith(("raybox_actors.", "raybox_cluster."))]


def test_the_list_is_not_empty() -> None:
    public = {
        cls for cls in vars(raybox_actors.errors).values() if isinstance(cls, type) and issubclass(cls, RayboxError)
    }
    assert public <= set(ERRORS)


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_every_error_has_a_status_of_its_own_and_three_shapes(cls: type[RayboxError]) -> None:
    assert cls in STATUS, f"decide which status {cls.__name__} has"
    error = one(cls)
    for response in (control_response(error), gateway_response("abc", error)):
        body = json.loads(bytes(response.body))
        assert body["code"] == response.status_code >= 400
        assert isinstance(body["message"], str)
        assert (body["kind"], body["retryable"]) == (error.kind, error.retryable)
        assert body["should_mask_sample"] == error.should_mask_sample
    assert control_response(error).status_code == status_of(error)
    assert gateway_response("abc", error).status_code != 404 or cls is TemplateNotFound
    text = interpreter_response("abc", error)
    assert text.status_code >= 400
    if error.kind == "capacity":
        for response in (control_response(error), text):
            assert (response.headers["should-retry"], response.headers["retry-after"].isdigit()) == ("false", True)


def test_an_error_made_later_answers_like_its_parent() -> None:
    later = type("Later", (SandboxLost,), {})
    assert status_of(later("abc", "oom")) == 404


def test_a_context_that_is_not_there_keeps_the_sandbox_alive() -> None:
    response = interpreter_response("abc", NotFound("context", "c1"))
    assert (response.status_code, bytes(response.body)) == (404, b"Context c1 not found")


# --- any JSON --------------------------------------------------------------------------------------------------------

_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_json = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
_FIELDS = [
    "templateID",
    "timeout",
    "autoPause",
    "autoPauseMemory",
    "autoResume",
    "allow_internet_access",
    "network",
    "allowOut",
    "denyOut",
    "dnsServers",
    "metadata",
    "envVars",
    "mcp",
    "iam",
    "volumeMounts",
    "secure",
    "memory",
    "duration",
    "code",
    "language",
    "context_id",
    "env_vars",
    "cwd",
]
_plausible = (
    _json
    | st.sampled_from(("base", "code-interpreter-v1", "py"))
    | st.dictionaries(st.sampled_from(("enabled", "tokens", "allowPublicTraffic", "allowOut", "A")), _json, max_size=3)
)
bodies = st.dictionaries(st.sampled_from(_FIELDS), _plausible, max_size=6).map(json.dumps).map(str.encode)
ROUTES = (
    ("POST", "/v2/sandboxes", 0),
    ("POST", "/sandboxes", 0),
    ("POST", "/v2/sandboxes/{id}/connect", 0),
    ("POST", "/sandboxes/{id}/connect", 0),
    ("POST", "/sandboxes/{id}/timeout", 0),
    ("POST", "/sandboxes/{id}/refreshes", 0),
    ("PUT", "/sandboxes/{id}/network", 0),
    ("POST", "/execute", 49999),
    ("POST", "/contexts", 49999),
    ("POST", "/files", 49983),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from(ROUTES), bodies | st.binary(max_size=20) | _json.map(json.dumps).map(str.encode)),
        max_size=12,
    )
)
def test_no_body_makes_the_gateway_fail(requests: list[tuple[tuple[str, str, int], bytes]]) -> None:
    asyncio.run(_send_all(requests))


async def _send_all(requests: list[tuple[tuple[str, str, int], bytes]]) -> None:
    backend, key = MemoryBackend(), new_key()
    app = create_app(backend, ApiKeys.of(tester=key), keepalive_s=0.05)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", verify=False) as client:
        for (method, path, port), body in requests:
            info = await backend.create(CreateRequest())
            headers = {"X-API-KEY": key}
            if port:
                headers = {
                    "E2b-Sandbox-Id": info.sandbox_id,
                    "E2b-Sandbox-Port": str(port),
                    "X-Access-Token": info.envd_access_token or "",
                }
            response = await client.request(
                method, path.replace("{id}", info.sandbox_id), content=body, headers=headers
            )
            assert response.status_code in (200, 201, 204, 400, 404, 501), (path, body, response.text)
            if response.status_code >= 400 and port != 49999:
                assert response.json()["code"] == response.status_code
    await backend.close()


# --- keys ------------------------------------------------------------------------------------------------------------


def test_keys_are_held_as_hashes_and_tell_whose_they_are() -> None:
    alice, bob = new_key(), new_key()
    keys = ApiKeys([ApiKey("alice", hash_key(alice)), ApiKey("bob", hash_key(bob), admin=True)])
    assert [keys.identify(key.encode()).name for key in (alice, bob)] == ["alice", "bob"]
    assert alice not in repr(vars(keys))
    assert repr(keys) == "ApiKeys(alice, bob)"
    for wrong in (None, b"", b"\xff", alice.encode() + b"x", b"x" * 1000):
        with pytest.raises(raybox_actors.errors.Unauthenticated):
            keys.identify(wrong)
    with pytest.raises(raybox_actors.errors.Unauthenticated):
        ApiKeys([]).identify(alice.encode())
    with pytest.raises(ValueError, match="not the hex form"):
        ApiKey("alice", alice)


def test_responses_are_ascii_whatever_is_in_them() -> None:
    response: Response = control_response(TemplateNotFound("\ud800é"))
    assert bytes(response.body).isascii()
