"""Malformed requests as bytes on real connections to the gateway of a running pool: each gets the contract's error.

Seeded: the same requests in every run. A request that says that more is to come, and then ends, may be hung up on; any
other is answered within a bounded time, and never by a 500.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.security.conftest import Attacker, Others
from tests.support.pool import RunningPool

pytestmark = pytest.mark.pool

REQUESTS = 300
#: An answer takes milliseconds; this one hangs.
HANG_S = 20.0
INTERPRETER, ENVD, CLOSED_PORT = 49999, 49983, 4711
JSON, UNARY, STREAM = "application/json", "application/json", "application/connect+json"


@dataclass(frozen=True)
class Route:
    """A request that is well-formed, to begin with. port 0: control plane. `{id}` is the sandbox's."""

    method: str
    path: str
    body: Any = None
    port: int = 0
    kind: str = JSON


def rpc(service: str, name: str, body: Any, kind: str = UNARY) -> Route:
    return Route("POST", f"/{service}/{name}", body, ENVD, kind)


FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nc\r\n--b--\r\n'
FILES, PROCESS = "filesystem.Filesystem", "process.Process"
SELECTOR = {"process": {"pid": 1 << 30}}
ROUTES = {
    "control": [
        Route("POST", "/sandboxes", {"templateID": "code-interpreter-v1", "timeout": 1, "metadata": {"a": "b"}}),
        Route("POST", "/v2/sandboxes", {"templateID": "code-interpreter-v1", "timeout": 1, "envVars": {"A": "b"}}),
        Route("GET", "/v2/sandboxes?limit=3&state=running&metadata=a%3Db"),
        Route("GET", "/sandboxes/{id}"),
        Route("DELETE", "/sandboxes/i0000000000000000"),
        Route("POST", "/sandboxes/{id}/timeout", {"timeout": 600}),
        Route("POST", "/sandboxes/{id}/refreshes", {"duration": 600}),
        Route("POST", "/sandboxes/{id}/connect", {"timeout": 600}),
        Route("GET", "/sandboxes/{id}/metrics?start=1&end=2"),
        Route("GET", "/sandboxes/{id}/logs?limit=3"),
        Route("PUT", "/sandboxes/{id}/network", {"allowOut": [], "denyOut": ["0.0.0.0/0"]}),
        Route("GET", "/raybox/status"),
        Route("GET", "/raybox/capacity"),
        Route("GET", "/templates/x"),
        Route("GET", "/health"),
    ],
    "interpreter": [
        Route("POST", "/execute", {"code": "1", "language": "python", "env_vars": {"A": "b"}}, INTERPRETER),
        Route("POST", "/contexts", {"cwd": "/tmp", "language": "python"}, INTERPRETER),
        Route("GET", "/contexts", None, INTERPRETER),
        Route("POST", "/contexts/0000/restart", None, INTERPRETER),
        Route("DELETE", "/contexts/0000", None, INTERPRETER),
        Route("GET", "/health", None, INTERPRETER),
        Route("GET", "/", None, CLOSED_PORT),
    ],
    "files": [
        Route("GET", "/files?path=a&username=user", None, ENVD),
        Route("POST", "/files?path=a", b"content", ENVD, "application/octet-stream"),
        Route("POST", "/files", FORM, ENVD, "multipart/form-data; boundary=b"),
        rpc(FILES, "Stat", {"path": "a"}),
        rpc(FILES, "ListDir", {"path": ".", "depth": 1}),
        rpc(FILES, "MakeDir", {"path": "d"}),
        rpc(FILES, "Move", {"source": "a", "destination": "b"}),
        rpc(FILES, "Remove", {"path": "c"}),
        rpc(FILES, "CreateWatcher", {"path": ".", "recursive": True}),
        rpc(FILES, "GetWatcherEvents", {"watcherId": "x"}),
        rpc(FILES, "RemoveWatcher", {"watcherId": "x"}),
        rpc(FILES, "WatchDir", {"path": ".", "recursive": True}, STREAM),
    ],
    "processes": [
        rpc(PROCESS, "List", {}),
        rpc(PROCESS, "Start", {"process": {"cmd": "/bin/true", "args": [], "envs": {}}, "stdin": False}, STREAM),
        rpc(PROCESS, "Connect", SELECTOR, STREAM),
        rpc(PROCESS, "SendInput", {**SELECTOR, "input": {"stdin": "YQ=="}}),
        rpc(PROCESS, "StreamInput", {"start": SELECTOR}, STREAM),
        rpc(PROCESS, "SendSignal", {**SELECTOR, "signal": "SIGNAL_SIGKILL"}),
        rpc(PROCESS, "CloseStdin", SELECTOR),
        rpc(PROCESS, "Update", {**SELECTOR, "pty": {"size": {"cols": 80, "rows": 24}}}),
        rpc(PROCESS, "Nothing", {}),
    ],
}  # fmt: skip
NASTY: list[Any] = [
    None, True, 0, -1, 1 << 63, 10**30, 1.5, 1e308, "", "\0", "a\0b", "\ud800", "../../..", "~", "%00", "a" * 70_000,
    [], [[]], {}, {"": {}}, ["x"] * 3000, {"pid": []}, {"pid": -1, "tag": "x"}, "SIGNAL_NONE", "\u202e",
]  # fmt: skip


@dataclass
class Sent:
    """One request, as it will be written. `complete`: its framing is sound."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    complete: bool = True
    version: str = "HTTP/1.1"
    raw_headers: bytes = b""
    length: str | None = field(default="")  #: Content-Length; empty: the true one; None: not told

    @property
    def waited_for(self) -> bool:
        """Whether its reader may wait for more of it."""
        promised = self.length if self.length and self.length.isdecimal() else "0"
        return not self.complete or int(promised) > len(self.body)

    def wire(self) -> bytes:
        lines = [f"{self.method} {self.target} {self.version}", "Host: gateway", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.length is not None and (self.length or self.body):
            lines.append(f"Content-Length: {self.length or len(self.body)}")
        head = "\r\n".join(lines).encode("latin-1", "replace")
        return head + b"\r\n" + self.raw_headers + b"\r\n" + self.body


def envelope(payload: bytes, flags: int = 0, length: int | None = None) -> bytes:
    return bytes([flags]) + (len(payload) if length is None else length).to_bytes(4, "big") + payload


def plain(route: Route, routing: Callable[[Route], list[tuple[str, str]]], sandbox_id: str) -> Sent:
    headers = [*routing(route), ("Content-Type", route.kind)]
    body = route.body if isinstance(route.body, bytes) else b""
    if route.body is not None and not body:
        body = json.dumps(route.body).encode()
        body = envelope(body) if route.kind == STREAM else body
    return Sent(route.method, route.path.replace("{id}", sandbox_id), headers, body)


# ---- ways to spoil it: each takes a well-formed request and the dice ----


def other_values(sent: Sent, dice: random.Random) -> None:
    """Of one or two fields of the JSON body, at any depth."""
    start = sent.body.find(b"{")
    if start < 0:
        return
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(sent.body[start:])
        for _ in range(dice.randrange(1, 3)):
            into = value
            while isinstance(into, dict) and into:
                key = dice.choice(list(into))
                if isinstance(into[key], dict) and dice.random() < 0.6:
                    into = into[key]
                    continue
                into[key] = dice.choice(NASTY)
                break
        payload = json.dumps(value).encode()
        sent.body = envelope(payload) if start else payload


def flipped_bits(sent: Sent, dice: random.Random) -> None:
    body = bytearray(sent.body or b"{}")
    for _ in range(dice.randrange(1, 6)):
        body[dice.randrange(len(body))] ^= 1 << dice.randrange(8)
    sent.body = bytes(body)


def cut(sent: Sent, dice: random.Random) -> None:
    sent.body = sent.body[: dice.randrange(len(sent.body) + 1)]


def noise(sent: Sent, dice: random.Random) -> None:
    sent.body = dice.choice(
        [dice.randbytes(200), b"\0" * 500, b"[" * 100_000, b'{"a":' * 20_000, b"\xff\xfe{}", b"null"]
    )


def lying_envelopes(sent: Sent, dice: random.Random) -> None:
    sent.body = dice.choice(
        [
            envelope(b"{}", length=1 << 31),
            envelope(b"{}", length=(1 << 32) - 1),
            envelope(b"{}", length=1),
            envelope(b"{}", flags=1),
            envelope(b"{}", flags=2),
            envelope(b"{}", flags=0xFF),
            envelope(b"") * 1000,
            envelope(b"{}") * 3,
            b"\0\0",
        ]
    )


def too_short(sent: Sent, dice: random.Random) -> None:
    """The length promises more than comes."""
    sent.length = str(len(sent.body) + dice.choice([1, 1000, 1 << 40]))


def too_long(sent: Sent, _dice: random.Random) -> None:
    """What follows the length is no request."""
    sent.length = str(len(sent.body) // 2)
    sent.body = sent.body or b"{}"


def strange_length(sent: Sent, dice: random.Random) -> None:
    sent.length = dice.choice(["-1", "+5", "0x10", "1e3", "9" * 50, "5, 5", "\xb2", "1\0"])
    sent.complete = False


def chunked(sent: Sent, dice: random.Random) -> None:
    sent.length = None
    sent.headers.append(
        ("Transfer-Encoding", dice.choice(["chunked", "chunked, chunked", "gzip", "xchunked", "identity"]))
    )
    sent.body = dice.choice(
        [
            b"zz\r\n",
            b"-1\r\n",
            b"f" * 40 + b"\r\n",
            b"5\r\nabc",
            b"2\r\n{}0\r\n\r\n",
            b"0\r\n" + b"a: b\r\n" * 5000,
            b"",
        ]
    )
    sent.complete = False


def both_lengths(sent: Sent, _dice: random.Random) -> None:
    sent.headers.append(("Transfer-Encoding", "chunked"))
    sent.body, sent.length, sent.complete = b"0\r\n\r\n", "3", False


def false_compression(sent: Sent, dice: random.Random) -> None:
    name = dice.choice(["Content-Encoding", "Connect-Content-Encoding"])
    sent.headers.append((name, dice.choice(["gzip", "br", "deflate", "identity, gzip", "\xff", ""])))
    if dice.random() < 0.5:
        sent.body = gzip.compress(bytes(1 << 20))[: dice.choice([20, 500, 1 << 20])]


def other_type(sent: Sent, dice: random.Random) -> None:
    sent.headers = [one for one in sent.headers if one[0] != "Content-Type"]
    kinds = ["", "text/plain", STREAM, UNARY, "application/proto", "multipart/form-data", "a" * 5000]
    kinds += [
        "multipart/form-data; boundary=" + "b" * 300,
        'multipart/form-data; boundary="',
        "application/json; charset=\xff",
    ]
    sent.headers.append(("Content-Type", dice.choice(kinds)))


def strange_headers(sent: Sent, dice: random.Random) -> None:
    names = ["X-API-KEY", "E2b-Sandbox-Id", "E2b-Sandbox-Port", "X-Access-Token", "Authorization", "Idempotency-Key",
             "Connect-Timeout-Ms", "Connect-Protocol-Version", "X-Raybox-Execution-Id", "X-Raybox-Timeout-Seconds",
             "Expect", "Upgrade", "Range", "If-Range", "Origin", "Keepalive-Ping-Interval", "Cookie"]  # fmt: skip
    things = ["", "\xff", "a" * 300, "0", "-1", "1e9", "nan", "100-continue", "websocket", "bytes=5-1", "bytes=-0", "*",
              "Basic !!!", "Basic YTpi", "Bearer", ",,,"]  # fmt: skip
    for _ in range(dice.randrange(1, 4)):
        sent.headers.append((dice.choice(names), dice.choice(things)))


def broken_headers(sent: Sent, dice: random.Random) -> None:
    sent.raw_headers = dice.choice(
        [b"no colon\r\n", b": no name\r\n", b"a b: c\r\n", b"A: b\0c\r\n", b" folded\r\n", b"A: b\nB: c\r\n",
         b"A: \r \r\n", b"X: y\r\n" * 5000, b"X: " + b"y" * 100_000 + b"\r\n"]
    )  # fmt: skip
    sent.complete = False


def strange_target(sent: Sent, dice: random.Random) -> None:
    path, _, query = sent.target.partition("?")
    nasty = ["%00", "%ff", "%", "%zz", "..", "//", "a" * 300, "a" * 20_000, "%ed%a0%80", ";", "[", "\xe9"]
    if query and dice.random() < 0.5:
        sent.target = f"{path}?{query}&{dice.choice(nasty)}={dice.choice(nasty)}" + "&path" * dice.choice([0, 1, 3000])
    else:
        parts = path.split("/")
        parts[dice.randrange(1, len(parts))] = dice.choice(nasty)
        sent.target = "/".join(parts)


def strange_method(sent: Sent, dice: random.Random) -> None:
    sent.method = dice.choice(["PATCH", "TRACE", "CONNECT", "OPTIONS", "HEAD", "get", "X" * 500, "PRI", "\0", "P OST"])
    sent.complete = False


def strange_version(sent: Sent, dice: random.Random) -> None:
    sent.version = dice.choice(["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9.9", "HTCPCP/1.0", "HTTP/1.1 ", ""])
    sent.complete = False


SPOILED_BY = [
    other_values, other_values, other_values, flipped_bits, cut, noise, lying_envelopes, too_short, too_long,
    strange_length, chunked, both_lengths, false_compression, other_type, strange_headers, broken_headers,
    strange_target, strange_method, strange_version,
]  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """status 0: hung up without one."""

    status: int
    kind: str
    body: bytes


def ask(pool: RunningPool, sent: Sent) -> Answer:
    """The first answer; of one that is no error, the head alone: it may be a stream without end."""
    where = httpx.URL(pool.url)
    with socket.create_connection((where.host, where.port or 80), timeout=HANG_S) as connection:
        with contextlib.suppress(ConnectionError):  # it may hang up before it has read everything
            connection.sendall(sent.wire())
            if sent.waited_for:
                connection.shutdown(socket.SHUT_WR)
        said = b""
        with contextlib.suppress(ConnectionError):
            while b"\r\n\r\n" not in said and (piece := connection.recv(65_536)):
                said += piece
            head, _, body = said.partition(b"\r\n\r\n")
            if not head:
                return Answer(0, "", b"")
            status = int(head.split(b" ", 2)[1])
            headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
            length = int(headers.get(b"content-length", b"0"))
            while status >= 400 and len(body) < length and (piece := connection.recv(65_536)):
                body += piece
            return Answer(status, headers.get(b"content-type", b"").decode(), body[:length])
    return Answer(0, "", b"")


def judge(sent: Sent, answer: Answer) -> None:
    told = (sent.wire()[:600], answer)
    if not answer.status:
        assert sent.waited_for, told
        return
    full = answer.status == 503 and json.loads(answer.body)["kind"] == "capacity"  # some requests create sandboxes
    assert 100 <= answer.status < 500 or answer.status in (501, 502) or full, told
    assert b"Traceback" not in answer.body, told
    if answer.status >= 400 and answer.kind.startswith("application/json") and answer.body:
        said = json.loads(answer.body)
        assert isinstance(said["code"], int | str), told
        assert isinstance(said["message"], str), told
    elif answer.status >= 400 and answer.body:
        # Of the server's own parser, or of the interpreter's port.
        assert answer.kind.startswith("text/plain"), told


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("routes", ROUTES)
def test_spoiled_requests(
    attacker: Attacker, running_pool: RunningPool, others: Others, routes: str, seed: int
) -> None:
    dice = random.Random(f"{routes} {seed}")
    sandbox = attacker.sandbox

    def routing(route: Route) -> list[tuple[str, str]]:
        if not route.port:
            return [("X-API-KEY", running_pool.api_key)]
        told = [("E2b-Sandbox-Id", sandbox.sandbox_id), ("E2b-Sandbox-Port", str(route.port))]
        return [*told, ("X-Access-Token", sandbox._envd_access_token or "")]

    for _ in range(REQUESTS):
        sent = plain(dice.choice(ROUTES[routes]), routing, sandbox.sandbox_id)
        for spoil in dice.sample(SPOILED_BY, dice.choice([1, 1, 2])):
            spoil(sent, dice)
        judge(sent, ask(running_pool, sent))
    others.go_on()


@pytest.mark.parametrize("routes", ROUTES)
def test_they_were_well_formed_before(attacker: Attacker, running_pool: RunningPool, routes: str) -> None:
    """Or the requests above would all fail for the same reason."""
    sandbox = attacker.sandbox
    assert sandbox.files.write("a", "content")
    for route in ROUTES[routes]:
        token = ("X-Access-Token", sandbox._envd_access_token or "")
        told = [("E2b-Sandbox-Id", sandbox.sandbox_id), ("E2b-Sandbox-Port", str(route.port)), token]
        headers = told if route.port else [("X-API-KEY", running_pool.api_key)]
        answer = ask(running_pool, plain(route, lambda _, headers=headers: headers, sandbox.sandbox_id))  # type: ignore[misc]
        assert answer.status < 400 or answer.status in (404, 501, 502), (route, answer)
