"""Servers inside real sandboxes, reached through the gateway."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import e2b_code_interpreter
import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.support.pool import RunningPool
from tests.support.wait import wait_until

pytestmark = [pytest.mark.pool, pytest.mark.anyio]

#: A WebSocket server of the standard library alone: it echoes whole, short frames, and closes when told to.
WEBSOCKET_SERVER = """
import base64, hashlib, socket, struct
server = socket.create_server(("127.0.0.1", 8765))
print("up", flush=True)

def take(file):
    first, second = file.read(2)
    length = second & 127
    if length == 126: (length,) = struct.unpack(">H", file.read(2))
    elif length == 127: (length,) = struct.unpack(">Q", file.read(8))
    mask = file.read(4)
    data = file.read(length)
    return first & 15, bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))

def give(connection, opcode, data):
    head = bytes([128 | opcode])
    if len(data) < 126: head += bytes([len(data)])
    elif len(data) < 65536: head += struct.pack(">BH", 126, len(data))
    else: head += struct.pack(">BQ", 127, len(data))
    connection.sendall(head + data)

while True:
    connection, _ = server.accept()
    file = connection.makefile("rb")
    key = b""
    while (line := file.readline().strip()):
        name, _, value = line.partition(b":")
        if name.lower() == b"sec-websocket-key": key = value.strip()
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
                       b"Sec-WebSocket-Accept: " + accept + b"\\r\\n\\r\\n")
    while True:
        opcode, data = take(file)
        if data == b"close": give(connection, 8, struct.pack(">H", 4000) + b"bye"); break
        if opcode == 8: break
        give(connection, opcode, data)
    connection.close()
"""


@pytest.fixture
def client() -> Any:
    return e2b_code_interpreter.Sandbox


@pytest.fixture
def inside(sandbox: Any, running_pool: RunningPool) -> Iterator[Any]:
    """Requests to a port of the sandbox."""
    with httpx.Client(base_url=running_pool.url, timeout=60) as raw:

        def ask(port: int, method: str, path: str, **more: Any) -> httpx.Response:
            routing = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}
            return raw.request(method, path, headers=routing | more.pop("headers", {}), **more)

        yield ask


def test_an_http_server(sandbox: Any, inside: Any) -> None:
    closed = inside(8000, "GET", "/")
    assert (closed.status_code, closed.json()["message"]) == (502, "The sandbox is running but port is not open")
    content = os.urandom(5_000_000)
    sandbox.files.write("site/index.html", "<h1>hi</h1>")
    sandbox.files.write("site/big", content)
    server = sandbox.commands.run("python3 -m http.server 8000 --directory site", background=True)
    wait_until(lambda: inside(8000, "GET", "/").status_code == 200, 30)
    page = inside(8000, "GET", "/")
    assert (page.text, page.headers["content-type"]) == ("<h1>hi</h1>", "text/html")
    assert page.headers["server"].startswith("SimpleHTTP")
    assert len(page.headers.get_list("server")) == len(page.headers.get_list("date")) == 1
    assert hashlib.sha256(inside(8000, "GET", "/big").content).digest() == hashlib.sha256(content).digest()
    assert inside(8000, "HEAD", "/big").headers["content-length"] == "5000000"
    assert inside(8000, "GET", "/nope").status_code == 404
    host = {"Host": sandbox.get_host(8000)}
    assert inside(8000, "GET", "/", headers=host).status_code == 200
    server.kill()
    wait_until(lambda: inside(8000, "GET", "/").status_code == 502, 30)
    sandbox.kill()
    gone = inside(8000, "GET", "/")
    assert (gone.status_code, gone.json()["message"]) == (502, "The sandbox was not found")


def test_a_server_of_the_kernel(sandbox: Any, inside: Any) -> None:
    """Cells and commands of one sandbox share its network."""
    code = """
    import http.server, threading
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(201); self.end_headers(); self.wfile.write(body[::-1])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 8001), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    """
    assert sandbox.run_code(code).error is None
    answer = inside(8001, "POST", "/", content=b"abc" * 100_000)
    assert (answer.status_code, answer.content) == (201, b"cba" * 100_000)


async def test_a_websocket_server(sandbox: Any, running_pool: RunningPool) -> None:
    await asyncio.to_thread(sandbox.files.write, "server.py", WEBSOCKET_SERVER)
    up = asyncio.Event()
    loop = asyncio.get_running_loop()
    handle = await asyncio.to_thread(sandbox.commands.run, "python3 server.py", background=True)

    def wait() -> None:
        for _, _, _ in handle:
            loop.call_soon_threadsafe(up.set)
            return

    await asyncio.to_thread(wait)
    routing = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8765"}
    async with connect(running_pool.url.replace("http", "ws") + "/path", additional_headers=routing) as socket:
        for message in ("text é", b"\0\1\2", "x" * 100_000):
            await socket.send(message)
            assert await socket.recv() == message
        await socket.send("close")
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4000, "bye")
    async with connect(running_pool.url.replace("http", "ws"), additional_headers=routing) as socket:
        await socket.send("again")
        await socket.recv()
        await asyncio.to_thread(sandbox.kill)
        with pytest.raises(ConnectionClosed):
            await socket.recv()
