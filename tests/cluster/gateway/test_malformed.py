"""Malformed requests of every kind get an answer of the contract: never a 500, never a hang."""

from __future__ import annotations

import asyncio
import json

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raybox_actors.values import CreateRequest
from raybox_cluster.gateway import connect
from raybox_cluster.gateway.app import create_app
from raybox_cluster.gateway.auth import ApiKeys, new_key
from raybox_cluster.gateway.routes_envd import SERVICES
from tests.cluster.gateway.memory import MemoryBackend

METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")
_calls = [f"/{service}/{name}" for service, methods in SERVICES.items() for name in methods]
paths = st.sampled_from((*_calls, "/files", "/health", "/envs", "/metrics", "/init", "/process.Process/No", "/", "/x"))
_words = st.sampled_from(
    (
        "path",
        "source",
        "destination",
        "depth",
        "process",
        "pid",
        "tag",
        "signal",
        "input",
        "stdin",
        "watcherId",
        "start",
    )
)
_leaf = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(("SIGNAL_SIGKILL", "/home/user", "..", "~", "a\0b", "\ud800"))
)
messages = st.recursive(
    _leaf, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_words, inner, max_size=3), max_leaves=8
)
_json = st.dictionaries(_words, messages, max_size=4).map(lambda value: json.dumps(value).encode())
_form = st.binary(max_size=60).map(
    lambda rest: b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nx\r\n--b' + rest
)
bodies = (
    st.binary(max_size=40)
    | _json
    | _json.map(lambda body: connect._HEADER.pack(0, len(body)) + body)
    | st.binary(max_size=20).map(lambda body: b"\0\0\0\0\x02{}" + body)
    | _form
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": st.sampled_from(
            (
                "application/json",
                "application/connect+json",
                "application/octet-stream",
                "multipart/form-data; boundary=b",
                "multipart/form-data",
                "",
            )
        ),
        "Content-Encoding": st.sampled_from(("gzip", "identity", "br", "")),
        "Connect-Timeout-Ms": st.sampled_from(("0", "50", "-1", "x", "99999999999")),
        "Connect-Content-Encoding": st.sampled_from(("gzip", "identity")),
        "Keepalive-Ping-Interval": st.sampled_from(("1", "x", "-5")),
        "Authorization": st.sampled_from(("Basic cm9vdDo=", "Basic !", "Bearer x", "Basic bm9ib2R5Og==")),
        "Range": st.sampled_from(("bytes=0-", "bytes=9-", "x")),
        "Accept-Encoding": st.sampled_from(("gzip", "identity;q=0", "")),
        "X-Access-Token": st.sampled_from(("wrong", "")),
        "X-Metadata-Key": st.sampled_from(("value", "x" * 5000)),
        "Access-Control-Request-Method": st.just("POST"),
    },
)
queries = st.dictionaries(
    st.sampled_from(("path", "username", "signature", "signature_expiration", "other")),
    st.sampled_from(("f", "", "/home", "..", "a\0", "root", "nobody", "1", "x" * 5000)),
    max_size=3,
)
requests = st.tuples(st.sampled_from(METHODS) | st.just("POST"), paths, queries, headers, bodies)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(requests, min_size=1, max_size=5), st.booleans())
def test_no_request_to_the_agent_makes_the_gateway_fail(
    many: list[tuple[str, str, dict[str, str], dict[str, str], bytes]], named: bool
) -> None:
    asyncio.run(_send_all(many, named))


async def _send_all(many: list[tuple[str, str, dict[str, str], dict[str, str], bytes]], named: bool) -> None:
    backend = MemoryBackend()
    app = create_app(backend, ApiKeys.of(tester=new_key()), keepalive_s=0.05)
    info = await backend.create(CreateRequest())
    routing = {"X-Access-Token": info.envd_access_token or ""}
    if named:
        routing |= {"E2b-Sandbox-Id": info.sandbox_id, "E2b-Sandbox-Port": "49983"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://gateway") as client:
        for method, path, query, sent, body in many:
            if path.endswith("/WatchDir"):  # which would go on for ever
                sent = {**sent, "Connect-Timeout-Ms": "50"}
            async with asyncio.timeout(20):
                answer = await client.request(method, path, params=query, headers=routing | sent, content=body)
            assert answer.status_code not in (500, 503), (method, path, query, sent, body, answer.text)
            if answer.status_code >= 400 and method != "HEAD":
                code = answer.json()["code"]
                assert code == answer.status_code or connect.HTTP_STATUS[code] == answer.status_code
    await backend.close()
