"""Requests and options: what the official client sends for the same call, ours sends too."""

from __future__ import annotations

import importlib
import socket
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import e2b
import httpx
import pytest

import raybox
from raybox import AsyncSandbox, Sandbox, _http, _requests
from raybox._config import DEFAULT_URL, ApiParams, ConnectionConfig
from tests.sdk.player import CREATED, INFO, KEY, SANDBOX_ID, Player, Seen, reply

# It has no type hints that a checker could read.
official = importlib.import_module("e2b_code_interpreter")

CREATES: list[dict[str, Any]] = [
    {},
    {"template": "t:1", "timeout": 7, "metadata": {"a": "b"}, "envs": {"X": "é"}, "secure": False},
    {"allow_internet_access": False, "idempotency_key": "a-1"},
    {"lifecycle": {"on_timeout": "pause", "auto_resume": True}},
    {"lifecycle": {"on_timeout": "kill"}},
    {"lifecycle": {"on_timeout": {"action": "pause", "mode": "filesystem"}, "auto_resume": False}},
    {"lifecycle": {"on_timeout": {"action": "pause", "keep_memory": True}}},
    {"lifecycle": {"auto_resume": False}},
    {"volume_mounts": {"/data": "v"}},
    {"network": {"allow_out": ["1.1.1.1"], "deny_out": lambda ctx: [ctx.all_traffic], "dns_servers": []}},
    {"network": {"allow_public_traffic": False, "mask_request_host": "${PORT}-x", "https_ports": [3000]}},
    {
        "network": {
            "egress_proxy": {
                "address": "p:1",
                "username": "u",
                "password": "s",
                "tls": {"server_name": "n", "ca_cert": "c"},
            }
        }
    },
    {"network": {"egress_proxy": {"address": "p:1", "tls": True}}},
    {
        "iam": {"tokens": {"aws": {"audience": "sts", "token_type": "JWT-SVID"}}},
        "network": {
            "rules": {
                "h": [{"transform": lambda ctx: {"headers": {"A": ctx.iam.tokens["aws"]}}}, {"transform": {}}, {}]
            },
            "allow_out": lambda ctx: list(ctx.rules),
        },
    },
]


def asked_by(module: Any, player: Player, call: Any) -> Seen:
    player.seen.clear()
    call(module.Sandbox)
    (seen,) = player.seen
    return seen


def differential(player: Player, call: Any) -> None:
    ours = asked_by(raybox, player, call)
    theirs = asked_by(official, player, call)
    assert (ours.method, ours.path, ours.query) == (theirs.method, theirs.path, theirs.query)
    assert bool(ours.body) == bool(theirs.body)
    if ours.body:
        assert ours.json == theirs.json
    for name in ("x-api-key", "idempotency-key", "e2b-sandbox-id", "x-access-token", "x-more"):
        assert ours.headers.get(name) == theirs.headers.get(name)


@pytest.fixture
def options(player: Player) -> dict[str, Any]:
    return player.options | {"sandbox_url": player.url, "api_headers": {"X-More": "1"}}


@pytest.mark.parametrize("arguments", CREATES)
def test_create_sends_what_the_official_client_sends(
    player: Player, options: dict[str, Any], arguments: dict[str, Any]
) -> None:
    differential(player, lambda sandbox_class: sandbox_class.create(**arguments, **options))


class _JoinedRay:
    """What there is in `sys.modules` when this process has joined a cluster."""

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def get_runtime_context() -> Any:
        return SimpleNamespace(get_node_id=lambda: "c0ffee")


def test_the_caller_s_node_is_named_only_where_it_is_wanted_and_there_is_one(
    player: Player, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options |= {"transport": "http"}
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    outside = asked_by(raybox, player, lambda one: one.create(locality="caller", **options))
    assert "raybox" not in outside.json
    monkeypatch.setitem(sys.modules, "ray", _JoinedRay)  # stands for the module
    near = asked_by(raybox, player, lambda one: one.create(locality="caller", **options))
    assert near.json["raybox"] == {"near_node_id": "c0ffee"}
    assert "raybox" not in asked_by(raybox, player, lambda one: one.create(**options)).json


@pytest.mark.parametrize("arguments", [{}, {"timeout": 5}, {"on_resume": "reboot"}])
def test_connect_sends_what_the_official_client_sends(
    player: Player, options: dict[str, Any], arguments: dict[str, Any]
) -> None:
    player.on("POST", f"/v2/sandboxes/{SANDBOX_ID}/connect", reply(200, CREATED))
    differential(player, lambda sandbox_class: sandbox_class.connect(SANDBOX_ID, **arguments, **options))


QUERIES: list[dict[str, Any]] = [
    {},
    {"limit": 3, "order": "desc", "next_token": "a/b="},
    {"query": {"metadata": {"a b": "c/d&e", "é": "%"}}},
    {"query": {"state": ["running", "paused"], "template": "x y"}},
    {"query": {"started_after": datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)}},
]


@pytest.mark.parametrize("arguments", QUERIES)
def test_list_sends_what_the_official_client_sends(
    player: Player, options: dict[str, Any], arguments: dict[str, Any]
) -> None:
    player.on("GET", "/v2/sandboxes", reply(200, [INFO], x_next_token="n"))

    def parsed(module: Any, values: Any) -> tuple[dict[str, str], Any]:
        words = dict(arguments)
        if "query" in words:
            given = dict(words["query"])
            if "state" in given:
                given["state"] = [values.SandboxState(state) for state in given["state"]]
            words["query"] = values.SandboxQuery(**given)
        player.seen.clear()
        paginator = module.Sandbox.list(**words, **options)
        (info,) = paginator.next_items()
        query = dict(part.split("=", 1) for part in player.seen[0].query.split("&")) if player.seen[0].query else {}
        return query, (paginator.has_next, paginator.next_token, info.sandbox_id, info.started_at, info.end_at)

    ours, theirs = parsed(raybox, raybox), parsed(official, e2b)
    assert ours[0] == theirs[0]
    assert ours[1] == theirs[1]


@pytest.mark.parametrize("name", ["kill", "get_info", "set_timeout"])
def test_other_calls_send_what_the_official_client_sends(player: Player, options: dict[str, Any], name: str) -> None:
    player.on("GET", f"/sandboxes/{SANDBOX_ID}", reply(200, INFO))
    player.on("POST", f"/sandboxes/{SANDBOX_ID}/timeout", reply(204))
    arguments = [9] if name == "set_timeout" else []
    differential(player, lambda sandbox_class: getattr(sandbox_class, name)(SANDBOX_ID, *arguments, **options))


@pytest.mark.parametrize("arguments", [{}, {"language": "r", "envs": {"A": "b"}}, {"code": "'é \u2028'"}])
def test_run_code_sends_what_the_official_client_sends(
    player: Player, options: dict[str, Any], arguments: dict[str, Any]
) -> None:
    sandboxes = {sandbox_class: sandbox_class.create(**options) for sandbox_class in (raybox.Sandbox, official.Sandbox)}
    differential(player, lambda sandbox_class: sandboxes[sandbox_class].run_code(**{"code": "1+1", **arguments}))


def test_info_is_that_of_the_official_client(player: Player, options: dict[str, Any]) -> None:
    player.on("GET", f"/sandboxes/{SANDBOX_ID}", reply(200, INFO))
    ours = raybox.Sandbox.get_info(SANDBOX_ID, **options)
    theirs = official.Sandbox.get_info(SANDBOX_ID, **options)
    assert vars(ours) == vars(theirs)


@pytest.mark.parametrize(
    "arguments",
    [
        {"mcp": {"x": {}}},
        {"idempotency_key": "Ä"},
        {"idempotency_key": ""},
        {"locality": "there"},
        {"lifecycle": {"on_timeout": "explode"}},
        {"lifecycle": {"on_timeout": "kill", "auto_resume": True}},
        {"lifecycle": {"on_timeout": {"action": "kill", "mode": "full"}}},
        {"lifecycle": {"on_timeout": {"action": "pause", "mode": "half"}}},
        {"lifecycle": {"on_timeout": {"action": "pause", "mode": "full", "keep_memory": True}}},
        {"lifecycle": {"on_timeout": {"action": "pause", "mode": "filesystem"}, "auto_resume": True}},
        {"network": {"egress_proxy": {}}},
        {"network": {"rules": {"h": [{"transform": lambda ctx: {"headers": {"A": ctx.iam.tokens["no"]}}}]}}},
        {"network": {"rules": {"h": [{"transform": lambda ctx: None}]}}},
        {"iam": {"tokens": {"a}": {"audience": "a", "token_type": "t"}}}},
        {"iam": {"tokens": {"a": {"audience": "a"}}}},
        {"metadata": {"a": object()}},
        {"timeout": float("nan")},
        {"debug": True},
        {"http_version": "3"},
        {"retries": -1},
        {"retries": True},
        {"request_timeout": float("nan")},
        {"api_url": "ftp://x"},
        {"api_url": "http://"},
        {"api_url": "http://a:b"},
        {"proxy": "nonsense"},
        {"api_key": "a\nb"},
        {"api_key": "ключ"},
    ],
)
def test_arguments_that_mean_nothing_are_refused_before_any_request(player: Player, arguments: dict[str, Any]) -> None:
    with pytest.raises(raybox.InvalidArgumentException):
        Sandbox.create(**{**player.options, **arguments})
    assert player.seen == []


def test_started_after_without_a_zone_is_local_time() -> None:
    def sent(moment: datetime) -> datetime:
        query = raybox.SandboxQuery(started_after=moment)
        request = _requests.list_sandboxes(ConnectionConfig(api_key="k"), query, None, None, None)
        assert request.payload is not None
        return datetime.fromisoformat(request.payload["startedAfter"])

    local = datetime(2025, 1, 2, 3, 4, 5)
    assert sent(local) == local.astimezone()
    elsewhere = local.replace(tzinfo=timezone(timedelta(hours=5)))
    assert sent(elsewhere) == elsewhere


# --- where the pool is -----------------------------------------------------------------------------------------------

R, A, S = "http://raybox", "http://api", "http://sandboxes"


@pytest.mark.parametrize(
    ("options", "environment", "api_url", "sandbox_url"),
    [
        ({}, {}, DEFAULT_URL, DEFAULT_URL),
        ({}, {"RAYBOX_URL": R + "/"}, R, R),
        ({}, {"RAYBOX_URL": R, "E2B_API_URL": A, "E2B_SANDBOX_URL": S}, R, R),
        ({}, {"E2B_API_URL": A, "E2B_SANDBOX_URL": S}, A, S),
        ({}, {"E2B_API_URL": A}, A, A),
        ({"api_url": "http://x"}, {"RAYBOX_URL": R}, "http://x", "http://x"),
        ({"api_url": "http://x"}, {"E2B_SANDBOX_URL": S}, "http://x", S),
        ({"sandbox_url": "http://x"}, {"RAYBOX_URL": R}, R, "http://x"),
        ({"domain": "d.e"}, {}, "https://api.d.e", "https://49999-i1.d.e"),
        ({"domain": "d.e"}, {"RAYBOX_URL": R}, R, R),
        ({}, {"E2B_DOMAIN": "d.e"}, "https://api.d.e", "https://49999-i1.d.e"),
    ],
)
def test_where_the_pool_is(
    options: ApiParams,
    environment: dict[str, str],
    api_url: str,
    sandbox_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = ConnectionConfig.resolve(options)
    assert (config.api_url, config.sandbox_base_url("i1", 49999, None)) == (api_url, sandbox_url)


def test_whose_key_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ConnectionConfig.resolve({}).api_key is None
    monkeypatch.setenv("E2B_API_KEY", "e")
    assert ConnectionConfig.resolve({}).api_key == "e"
    monkeypatch.setenv("RAYBOX_API_KEY", "r")
    assert ConnectionConfig.resolve({}).api_key == "r"
    assert ConnectionConfig.resolve({"api_key": "o"}).api_key == "o"
    assert "'o'" not in repr(ConnectionConfig.resolve({"api_key": "o"}))


def test_options_of_one_call_change_only_what_they_say() -> None:
    config = ConnectionConfig.resolve({"api_key": "k", "api_url": A, "request_timeout": 0, "headers": {"A": "1"}})
    assert config.request_timeout is None
    assert config.with_options({}) is config
    changed = config.with_options({"request_timeout": 3, "retries": 0, "api_headers": {"B": "2"}})
    assert (changed.request_timeout, changed.retries) == (3.0, 0)
    assert changed.headers == {"A": "1", "B": "2"}
    assert (changed.api_key, changed.api_url) == ("k", A)


def test_how_often_to_connect_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ConnectionConfig.resolve({}).connect_retries == 3
    monkeypatch.setenv("E2B_CONNECTION_RETRIES", "0")
    assert ConnectionConfig.resolve({}).connect_retries == 0
    for nonsense in ("x", "-1"):
        monkeypatch.setenv("E2B_CONNECTION_RETRIES", nonsense)
        with pytest.raises(raybox.InvalidArgumentException):
            ConnectionConfig.resolve({})


@pytest.mark.parametrize("colour", [Sandbox, AsyncSandbox])
def test_host_of_a_port(colour: Any) -> None:
    def host(options: ApiParams, sandbox_domain: str | None = None) -> str:
        sandbox = colour(
            sandbox_id="i1",
            sandbox_domain=sandbox_domain,
            envd_version="0.6.13",
            envd_access_token=None,
            traffic_access_token=None,
            connection_config=ConnectionConfig.resolve(options),
        )
        name: str = sandbox.get_host(3000)
        return name

    assert host({"domain": "d.e", "sandbox_url": S}) == "3000-i1.d.e"
    assert host({"domain": "d.e"}, "own.domain") == "3000-i1.own.domain"
    with pytest.raises(raybox.InvalidArgumentException):
        host({"api_url": A})


PROXIES = {"HTTP_PROXY": "p:1", "https_proxy": "http://s:2", "NO_PROXY": "inner.net, 10.0.0.1"}


@pytest.mark.parametrize(
    ("environment", "scheme", "host", "proxy"),
    [
        ({}, "http", "h.org", None),
        (PROXIES, "http", "h.org", "http://p:1"),
        (PROXIES, "https", "h.org", "http://s:2"),
        (PROXIES, "http", "a.inner.net", None),
        (PROXIES, "http", "10.0.0.1", None),
        (PROXIES, "http", "10.0.0.2", "http://p:1"),
        ({"ALL_PROXY": "http://a:3"}, "https", "h.org", "http://a:3"),
        (PROXIES | {"NO_PROXY": "*"}, "http", "h.org", None),
        *((PROXIES, "http", host, None) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "x.localhost")),
    ],
)
def test_proxy_of_the_environment(
    environment: dict[str, str], scheme: str, host: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _http.environment_proxy.__wrapped__(scheme, host) == proxy


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1"
    extension = "subjectAltName=IP:127.0.0.1"
    try:
        subprocess.run(
            [*command.split(), "-addext", extension, "-keyout", path.with_suffix(".key"), "-out", path],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("needs openssl to make a certificate")
    return path


@pytest.mark.anyio
@pytest.mark.parametrize("colour", [Sandbox, AsyncSandbox])
async def test_chatty_execution_over_tls_meets_its_timeout(
    certificate: Path, colour: Any, done: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """httpx alone would wait for ever: each keepalive starts its read timeout anew."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr("raybox._http._tls", httpx.create_ssl_context)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    left = threading.Event()

    def serve(listener: Any) -> None:
        plain, _ = listener.accept()
        try:
            with context.wrap_socket(plain, server_side=True) as connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                connection.settimeout(0.02)
                while True:
                    connection.sendall(b'16\r\n{"type": "keepalive"}\n\r\n')
                    try:
                        if not connection.recv(1):
                            break
                    except TimeoutError:
                        continue
        except OSError:
            pass
        finally:
            left.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        sandbox = colour(
            sandbox_id="i1",
            sandbox_domain=None,
            envd_version="0.6.13",
            envd_access_token=None,
            traffic_access_token=None,
            connection_config=ConnectionConfig.resolve(
                {"api_key": KEY, "api_url": f"https://127.0.0.1:{listener.getsockname()[1]}"}
            ),
        )
        try:
            with pytest.raises(raybox.TimeoutException) as caught:
                await done(sandbox.run_code("while True: pass", timeout=0.4))
            assert caught.value.kind == "timeout"
        finally:
            assert left.wait(30)
            thread.join()
