"""A real HTTP server on 127.0.0.1 that plays recorded answers, abrupt ends included."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

KEY = "e2b_" + "0" * 40
SANDBOX_ID = "i0123456789abcdef"

#: Steps of an answer that are no bytes; a threading.Event is waited for.
ABORT = object()  # cut the connection, without the end that HTTP asks for
HANG = object()  # send nothing more until the client goes away
TICK = object()  # send keepalives, quickly, until the client goes away
KEEPALIVE = b'{"type": "keepalive"}\n'


class Aborted(Exception):
    """Raised in the application, so that the server drops the connection."""


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    status: int = 200
    steps: tuple[object, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)


def reply(status: int, body: object = None, **headers: str) -> Answer:
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, (data,), {"content-length": str(len(data)), **named})


def events(*steps: object) -> Answer:
    """A streamed answer of events (dicts), bytes, and the steps above."""
    return Answer(200, tuple(json.dumps(step).encode() + b"\n" if isinstance(step, dict) else step for step in steps))


def envelope(message: object, flags: int = 0) -> bytes:
    """One message of a stream of the agent."""
    data = json.dumps(message).encode()
    return bytes([flags]) + len(data).to_bytes(4, "big") + data


def messages(*steps: object) -> Answer:
    """A streamed answer of the agent: messages (dicts), bytes, and the steps above; it has no end of its own."""
    listed = tuple(envelope(step) if isinstance(step, dict) else step for step in steps)
    return Answer(200, listed, {"content-type": "application/connect+json"})


def ended(error: dict[str, str] | None = None) -> bytes:
    """The end of such a stream."""
    return envelope({} if error is None else {"error": error}, 2)


def rpc(message: object) -> Answer:
    """A call of the agent that went well."""
    return reply(200, message, content_type="application/json")


def rpc_error(status: int, code: str, message: str) -> Answer:
    """A failed call of the agent."""
    return reply(status, {"code": code, "message": message}, content_type="application/json")


COUNT = {"type": "number_of_executions", "execution_count": 1}
TWO = {"type": "result", "text": "2", "is_main_result": True, "extra": {}}
END = {"type": "end_of_execution"}
ONE_PLUS_ONE = events(COUNT, TWO, END)

CREATED = {
    "templateID": "code-interpreter-v1",
    "sandboxID": SANDBOX_ID,
    "clientID": "local",
    "envdVersion": "0.6.13",
    "envdAccessToken": "envd-token",
}
INFO = {
    **CREATED,
    "startedAt": "2025-01-02T03:04:05.123456789Z",
    "endAt": "2025-01-02T03:09:05+00:00",
    "cpuCount": 2,
    "memoryMB": 512,
    "diskSizeMB": 1024,
    "state": "running",
    "metadata": {"a": "b"},
    "lifecycle": {"onTimeout": "kill", "autoResume": False},
    "network": {"allowOut": ["1.1.1.1"], "egressProxy": {"address": "p:1", "tls": {"enabled": True}}},
    "raybox": {"unknown": True},
}
UNAUTHORIZED = reply(401, {"code": 401, "message": "unauthorized access"})
CLOSED = reply(
    502,
    {"sandboxId": SANDBOX_ID, "message": "The sandbox is running but port is not open", "port": 49983, "code": 502},
)
GONE = reply(502, {"sandboxId": SANDBOX_ID, "message": "The sandbox was not found", "code": 502})


class Player:
    """`on` says what a route answers, one answer after the other, the last one for ever; `seen` is what was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[Seen] = []
        self.connections: set[Any] = set()
        self.client_left = threading.Event()
        self.sink = False  # count bodies instead of keeping them
        self.sunk = 0
        self._answers: dict[tuple[str, str], list[Answer]] = {}

    def on(self, method: str, path: str, *answers: Answer) -> None:
        self._answers[method, path] = list(answers)

    def reset(self) -> None:
        self.seen.clear()
        self.connections.clear()
        self.client_left.clear()
        self.sink, self.sunk = False, 0
        self._answers.clear()
        self.on("POST", "/v2/sandboxes", reply(201, CREATED))
        self.on("DELETE", f"/sandboxes/{SANDBOX_ID}", reply(204))
        self.on("POST", "/execute", ONE_PLUS_ONE)
        self.on("GET", "/health", reply(204))

    @property
    def options(self) -> dict[str, Any]:
        return {"api_key": KEY, "api_url": self.url}

    async def __call__(self, scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        body = b""
        while True:
            message = await receive()
            if self.sink:
                self.sunk += len(message.get("body", b""))
            else:
                body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        path = scope["raw_path"].decode()
        self.seen.append(Seen(scope["method"], path, scope["query_string"].decode(), headers, body))
        self.connections.add(tuple(scope["client"]))
        waiting = self._answers.get((scope["method"], path), [])
        if not waiting:
            answer = reply(404, {"code": 404, "message": f"no route {scope['method']} {path}"})
        else:
            answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        listed = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": listed})
        for step in answer.steps:
            if step is ABORT:
                raise Aborted
            if step in (HANG, TICK):
                await self._until_client_leaves(receive, send if step is TICK else None)
                return
            if isinstance(step, threading.Event):
                await asyncio.to_thread(step.wait, 10)
                continue
            await send({"type": "http.response.body", "body": step, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _until_client_leaves(self, receive: Callable[[], Any], send: Callable[[Any], Any] | None) -> None:
        async def ticking() -> None:
            while send is not None:
                await send({"type": "http.response.body", "body": KEEPALIVE, "more_body": True})
                await asyncio.sleep(0.02)

        ticker = asyncio.ensure_future(ticking())
        while (await receive())["type"] != "http.disconnect":
            pass
        ticker.cancel()
        self.client_left.set()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def playing() -> Iterator[Player]:
    """A player that serves from a thread of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    player = Player(f"http://127.0.0.1:{listener.getsockname()[1]}")
    config = uvicorn.Config(player, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server = _Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="player")
    thread.start()
    try:
        assert server.ready.wait(30)
        yield player
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
