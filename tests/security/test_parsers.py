"""Whatever comes in over HTTP gets an answer in the contract's shape: never a 500, never a hang.

Requests are given to the application as bytes, below any HTTP library, so that everything can be in every place.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp

from raybox_actors import fields
from raybox_actors.errors import BadRequest
from raybox_actors.execute_request import MAX_EXECUTE_BODY_BYTES
from raybox_actors.values import CreateRequest
from raybox_cluster.gateway.app import create_app
from raybox_cluster.gateway.auth import MAX_KEY_BYTES, ApiKey, ApiKeys, hash_key
from raybox_cluster.gateway.resolver import MAX_SANDBOX_ID_CHARS, resolve
from raybox_cluster.gateway.wire import (
    MAX_CONTROL_BODY_BYTES,
    MAX_QUERY_BYTES,
    MAX_QUERY_FIELDS,
    parse_list,
    parse_metadata_filter,
)
from tests.cluster.gateway.memory import MemoryBackend
from tests.support.pool import RunningPool

KEY = "e2b_" + "a" * 40
KEYS = [ApiKey("admin", hash_key("the admin's"), admin=True), ApiKey("tester", hash_key(KEY))]
#: A request of these tests takes milliseconds; this one hangs.
HANG_S = 20.0
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

#: Where a parser may stumble: limits, other alphabets, what JSON and URLs can say and nothing else can.
NASTY = [
    "", "\0", "a\0b", "\ud800", "\udfff\ud800", "é\u2028", "\u202e", "../..", "%", "%zz", "%00", "%ed%a0%80", "+",
    "&", "=", "-1", "0", "1e999", "NaN", "Infinity", "9" * 400, "1" * 5000, "٣", "true", "null", "a" * 65, "a" * 256,
    "a" * 70_000, "2024-01-01T00:00:00Z", "9999-12-31T23:59:59.999999-23:59", "0001-01-01T00:00:00+23:59", "metrics",
    "running,paused",
]  # fmt: skip
nasty_text = st.sampled_from(NASTY) | st.text(max_size=20)
nasty_bytes = nasty_text.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=40)
numbers = st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, 10**400, -(10**400), 1.5, 1e308, float("nan"), float("inf")])
values = st.recursive(
    st.none() | st.booleans() | numbers | nasty_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(nasty_text, inner, max_size=4),
    max_leaves=8,
)
FIELDS = [
    "templateID", "timeout", "autoPause", "autoPauseMemory", "autoResume", "allow_internet_access", "network",
    "metadata", "envVars", "mcp", "iam", "volumeMounts", "secure", "memory", "duration", "code", "language",
    "context_id", "env_vars", "cwd",
]  # fmt: skip
#: Deeper than any parser's stack, longer than any number is read.
DEEP = [
    b"[" * 200_000,
    b'{"a":' * 100_000,
    b'{"metadata":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"timeout":' + b"9" * 10_000 + b"}",
    b'{"timeout":1' + b"0" * 400 + b'.5e-400,"templateID":"base"}',
]
bodies = (
    st.dictionaries(st.sampled_from(FIELDS), values, max_size=6).map(json.dumps).map(str.encode)
    | nasty_bytes
    | st.sampled_from([*DEEP, b"null", b"[]", b'""', b'{"a":1,"a":2}', b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}"])
    | st.builds(lambda cut: b'{"templateID":"base","timeout":60}'[:cut], st.integers(0, 34))
)
queries = (
    st.lists(
        st.tuples(
            st.sampled_from(["state", "metadata", "order", "startedAfter", "template", "limit", "nextToken", "x"]),
            nasty_text.map(lambda text: quote(text.encode("utf-8", "surrogatepass"), safe=",&=%+")),
        ),
        max_size=5,
    ).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs).encode())
    | nasty_bytes
    | st.sampled_from([b"a=1&" * 5000, b"metadata=" + b"a%3D1%26" * 5000, b"&" * 70_000])
)
header_names = st.sampled_from(
    [
        b"x-api-key", b"content-length", b"content-type", b"content-encoding", b"idempotency-key", b"host", b"origin",
        b"e2b-sandbox-id", b"e2b-sandbox-port", b"e2b-traffic-access-token", b"x-access-token",
        b"x-raybox-execution-id", b"x-raybox-timeout-seconds", b"access-control-request-method", b"x-forwarded-for",
        b"authorization", b"cookie",
    ]
)  # fmt: skip
headers = st.lists(st.tuples(header_names, nasty_bytes), max_size=5)
methods = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "X" * 300])
ROUTES = [
    "/sandboxes", "/v2/sandboxes", "/sandboxes/{id}", "/sandboxes/{id}/timeout", "/sandboxes/{id}/refreshes",
    "/sandboxes/{id}/connect", "/v2/sandboxes/{id}/connect", "/sandboxes/{id}/metrics", "/sandboxes/metrics", "/health",
    "/raybox/status", "/execute", "/contexts", "/contexts/{id}", "/contexts/{id}/restart", "/files", "/templates/{id}",
]  # fmt: skip


class Answer:
    """What the application sent."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            assert not self.status, "answered twice"
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.body += message.get("body", b"")

    def json(self) -> Any:
        return json.loads(self.body)


async def send(
    app: ASGIApp, method: str, raw_path: bytes, query: bytes, sent: Iterable[tuple[bytes, bytes]], body: bytes
) -> Answer:
    """One request, as a server would hand it over; the body comes in two pieces, then the client stays connected."""
    pieces = [body[: len(body) // 2], body[len(body) // 2 :]]
    never = asyncio.Event()

    async def receive() -> Any:
        if pieces:
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}
        await never.wait()
        return None

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": unquote_to_bytes(raw_path).decode("utf-8", "replace"), "raw_path": raw_path, "query_string": query,
        "root_path": "", "headers": list(sent), "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    answer = Answer()
    await asyncio.wait_for(app(scope, receive, answer.send), HANG_S)
    return answer


def judge(answer: Answer, *, interpreter: bool = False) -> None:
    """The contract's shape (2.1, 3.1, 4.1)."""
    said = (answer.status, answer.body[:500])
    assert 200 <= answer.status < 600, said
    assert answer.status not in (500, 503), said
    if answer.status >= 400 and not interpreter and answer.body:
        body = answer.json()
        assert body["code"] == answer.status, said
        assert isinstance(body["message"], str), said
        assert len(answer.body) < 8_192, "an error must not send back whatever was sent"
        assert b"Traceback" not in answer.body
    if answer.status < 400 and answer.headers.get(b"content-type") == b"application/json":
        answer.json()


async def with_gateway(requests: list[tuple[str, str, bytes, list[tuple[bytes, bytes]], bytes, int]]) -> None:
    backend = MemoryBackend()
    app = create_app(backend, ApiKeys(KEYS), keepalive_s=0.02)
    try:
        for method, path, query, extra, body, port in requests:
            info = await backend.create(CreateRequest(owner="tester"))
            routing = [(b"x-api-key", KEY.encode())]
            if port:
                routing = [(b"e2b-sandbox-id", info.sandbox_id.encode()), (b"e2b-sandbox-port", str(port).encode())]
            raw = path.replace("{id}", info.sandbox_id).encode("utf-8", "surrogatepass")
            answer = await send(app, method, raw, query, [*routing, *extra], body)
            # Headers drawn may have led the request to the data plane, whose interpreter speaks plain text.
            plain = answer.headers.get(b"content-type", b"").startswith(b"text/plain")
            judge(answer, interpreter=plain)
    finally:
        await backend.close()


def one(
    method: str = "POST",
    path: str = "/v2/sandboxes",
    query: bytes = b"",
    extra: list[tuple[bytes, bytes]] | None = None,
    body: bytes = b"",
    port: int = 0,
) -> Any:
    return method, path, query, extra or [], body, port


# ---- the whole gateway ----


@FUZZ
@given(
    st.lists(st.builds(one, st.just("POST"), st.sampled_from(ROUTES), body=bodies, port=st.sampled_from((0, 49999))))
)
def test_bodies(requests: list[Any]) -> None:
    asyncio.run(with_gateway(requests))


@FUZZ
@given(
    st.lists(
        st.builds(
            one,
            methods,
            st.sampled_from(ROUTES),
            queries,
            headers,
            bodies,
            st.sampled_from((0, 0, 1, 49983, 49999, 65535)),
        ),
        max_size=4,
    )
)
def test_everything_at_once(requests: list[Any]) -> None:
    asyncio.run(with_gateway(requests))


paths = st.lists(nasty_text.map(lambda text: quote(text.encode("utf-8", "surrogatepass"))), min_size=1, max_size=4)


@FUZZ
@given(methods, st.sampled_from(["/sandboxes/", "/v2/sandboxes/", "/contexts/", "/templates/", "/"]), paths)
@example("DELETE", "/contexts/", ["%00"])
@example("GET", "/sandboxes/", ["abc%0a"])
@example("GET", "/sandboxes/", ["%2F%2F"])
def test_paths(method: str, prefix: str, parts: list[str]) -> None:
    path = prefix + "/".join(parts)
    asyncio.run(with_gateway([one(method, path, body=b"{}"), one(method, path, body=b"{}", port=49999)]))


@FUZZ
@given(queries)
def test_list_queries(query: bytes) -> None:
    asyncio.run(with_gateway([one("GET", "/v2/sandboxes", query), one("GET", "/sandboxes", query)]))


@FUZZ
@given(headers, bodies)
def test_headers_of_an_execution(extra: list[tuple[bytes, bytes]], body: bytes) -> None:
    asyncio.run(with_gateway([one("POST", "/execute", extra=extra, body=body, port=49999)]))


# ---- bounds, each crossed by one ----


async def refused(*, interpreter: bool = False, **request: Any) -> Answer:
    backend = MemoryBackend()
    app = create_app(backend, ApiKeys(KEYS))
    info = await backend.create(CreateRequest(owner="tester"))
    method, path, query, extra, body, port = one(**request)
    routing = [(b"x-api-key", KEY.encode())]
    if port:
        routing = [(b"e2b-sandbox-id", info.sandbox_id.encode()), (b"e2b-sandbox-port", str(port).encode())]
    answer = await send(app, method, path.replace("{id}", info.sandbox_id).encode(), query, [*routing, *extra], body)
    judge(answer, interpreter=interpreter)
    assert backend.calls == ["create"] or "info" in backend.calls, "what cannot be read must do nothing"
    await backend.close()
    return answer


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        (one(body=b" " * (MAX_CONTROL_BODY_BYTES + 1)), 400, b"longer than"),
        (one(extra=[(b"content-length", b"9" * 30)]), 400, b"longer than"),
        (one(path="/execute", body=b" " * (MAX_EXECUTE_BODY_BYTES + 1), port=49999), 400, b"longer than"),
        (one("GET", query=b"a" * (MAX_QUERY_BYTES + 1)), 400, b"the query is longer"),
        (one("GET", query=b"a=1&" * MAX_QUERY_FIELDS + b"a=1"), 400, b"cannot be read"),
        (one("GET", query=b"limit=101"), 400, b"limit must be"),
        (one("GET", query=b"startedAfter=2024-01-01"), 400, b"RFC 3339"),
        (one("GET", path="/sandboxes/" + "a" * (MAX_SANDBOX_ID_CHARS + 1)), 404, b"not found"),
        (one(extra=[(b"x-api-key", b"k" * (MAX_KEY_BYTES + 1))]), 401, b"not valid"),
        (one(extra=[(b"x-api-key", b"\xff\x00")]), 401, b"not valid"),
        (one(extra=[(b"idempotency-key", b"a" * 256)], body=b'{"templateID":"base"}'), 400, b"Idempotency-Key must"),
        (one(extra=[(b"e2b-sandbox-id", b"a" * 65), (b"e2b-sandbox-port", b"1")]), 400, b"sandbox id must"),
        (one(extra=[(b"e2b-sandbox-id", b"a\0b"), (b"e2b-sandbox-port", b"1")]), 400, b"sandbox id must"),
        (one(extra=[(b"e2b-sandbox-id", b"abc"), (b"e2b-sandbox-port", b"65536")]), 400, b"sandbox port must"),
        (one(extra=[(b"e2b-sandbox-id", b"abc")]), 400, b"go together"),
        (one(body=b'{"templateID":"base","envVars":{"A":"a\\u0000b"}}'), 400, b"cannot be an environment variable"),
        (one(body=b'{"templateID":"base","metadata":{"a":"\\ud800"}}'), 400, b"not valid Unicode"),
        (one(body=b'{"templateID":"base","timeout":1e999}'), 400, b"timeout must be a whole number"),
        (one(body=b'{"templateID":"base","timeout":' + b"9" * 400 + b"}"), 400, b"timeout must be between"),
        *[(one(body=deep), 400, b"") for deep in DEEP],
        (one(path="/contexts", body=b'{"cwd":"a\\u0000"}', port=49999), 400, b"NUL"),
        (one("DELETE", path="/contexts/%00", port=49999), 404, b"not found"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, bytes | int) else "",
)
@pytest.mark.anyio
async def test_a_bound_crossed_by_one(request_: Any, status: int, says: bytes) -> None:
    method, path, query, extra, body, port = request_
    answer = await refused(
        method=method, path=path, query=query, extra=extra, body=body, port=port, interpreter=port == 49999
    )
    assert answer.status == status, answer.body[:500]
    assert says in answer.body


# ---- below the application: bytes on a real connection ----


@pytest.mark.pool
@pytest.mark.parametrize(
    "sent",
    [
        b"\0" * 1000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\0b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nX-API-KEY: " + b"k" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b"POST /v2/sandboxes HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /v2/sandboxes HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /v2/sandboxes HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v2/sandboxes HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 64 + b"\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ],
    ids=range(11),
)
def test_what_is_hardly_http(sent: bytes, running_pool: RunningPool) -> None:
    """The server's own parser: it says what is wrong, or hangs up, and goes on with the next."""
    where = httpx.URL(running_pool.url)
    with socket.create_connection((where.host, where.port or 80), timeout=HANG_S) as connection:
        answer = b""
        with contextlib.suppress(ConnectionError):  # it may hang up before it has read everything
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65_536):
                answer += part
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 2")), answer[:300]
    assert b"Traceback" not in answer
    assert httpx.get(f"{running_pool.url}/health", trust_env=False, timeout=HANG_S).status_code == 200


# ---- single parsers: nothing but BadRequest ----


@given(st.dictionaries(st.sampled_from([b"host", b"e2b-sandbox-id", b"e2b-sandbox-port"]), nasty_bytes))
def test_whose_request_it_is(sent: dict[bytes, bytes]) -> None:
    try:
        target = resolve(sent)
    except BadRequest:
        return
    if target is not None:
        assert len(target.sandbox_id) <= MAX_SANDBOX_ID_CHARS
        assert 1 <= target.port <= 65_535


@given(queries)
def test_lists(query: bytes) -> None:
    for version in (1, 2):
        try:
            parsed = parse_list(query, version=version)
        except BadRequest:
            continue
        assert parsed.limit is None or 1 <= parsed.limit <= 100


@given(nasty_text)
def test_metadata_filters(text: str) -> None:
    with contextlib.suppress(BadRequest):
        assert all(isinstance(key, str) and isinstance(value, str) for key, value in parse_metadata_filter(text))


@given(bodies)
def test_json_objects(body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert isinstance(fields.json_object(body), dict)
