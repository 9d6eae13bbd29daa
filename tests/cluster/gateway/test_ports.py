"""Ports of servers inside, through the gateway: HTTP/1.1 and WebSocket, the well-behaved and the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import httpx
import pytest
import uvicorn
import websockets
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from raybox_actors.agent.errors import AgentError
from raybox_cluster.gateway import ports, ports_websocket
from tests.cluster.gateway.conftest import Gateway, QuietServer
from tests.support.wait import async_wait_until

pytestmark = pytest.mark.anyio

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Tells what it was asked."""
    request = Request(scope, receive)
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async for piece in request.stream():
            await send({"type": "http.response.body", "body": piece.upper(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    body = await request.body()
    told = {
        "x-method": request.method,
        "x-path": scope["raw_path"].decode(),
        "x-query": scope["query_string"].decode(),
        "x-names": ",".join(sorted(request.headers)),
        "x-host": request.headers["host"],
        "x-forwarded": request.headers.get("x-forwarded-host", ""),
        "set-cookie": "a=1",
        "connection": "x-secret",
        "x-secret": "of this connection",
        "keep-alive": "timeout=5",
    }
    await Response(body, 207, told)(scope, receive, send)


@pytest.fixture(scope="module")
async def port(anyio_backend: str) -> AsyncIterator[int]:
    """The port of a server that answers with what it was asked."""
    server = QuietServer(uvicorn.Config(echo, port=0, lifespan="off", log_config=None, access_log=False))
    task = asyncio.create_task(server.serve())
    await async_wait_until(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = server.force_exit = True
    await task


@contextlib.asynccontextmanager
async def raw_server(handle: Handler) -> AsyncIterator[int]:
    """A server that says what `handle` says, HTTP or not."""

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(closing, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def saying(answer: bytes) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    return handle


@pytest.fixture
async def inside(gateway: Gateway) -> AsyncIterator[Callable[[int], httpx.AsyncClient]]:
    """A client of one port of a sandbox."""
    info = await gateway.sandbox()
    async with contextlib.AsyncExitStack() as stack:

        def client(port: int) -> httpx.AsyncClient:
            routing = {"E2b-Sandbox-Id": info.sandbox_id, "E2b-Sandbox-Port": str(port)}
            made = httpx.AsyncClient(base_url=gateway.url, headers=routing, timeout=30)
            stack.push_async_callback(made.aclose)
            return made

        yield client
        agent = gateway.backend.agent_of(info.sandbox_id)
        await async_wait_until(lambda: agent.dialled == 0)  # no connection is left open


Inside = Callable[[int], httpx.AsyncClient]


async def test_a_request_arrives_as_it_was_sent(inside: Inside, port: int) -> None:
    answer = await inside(port).request(
        "REPORT",
        "/a%2Fb/c%20d?x=1&y=%26",
        content=b"body",
        headers={
            "Host": "8080-abc.example.org",
            "Connection": "keep-alive, x-mine",
            "X-Mine": "of this connection",
            "TE": "trailers",
            "E2B-Traffic-Access-Token": "secret",
            "Accept-Encoding": "identity",
            "X-Kept": "1",
        },
    )
    assert (answer.status_code, answer.content) == (207, b"body")
    told = answer.headers
    assert (told["x-method"], told["x-path"], told["x-query"]) == ("REPORT", "/a%2Fb/c%20d", "x=1&y=%26")
    assert (told["x-host"], told["x-forwarded"]) == ("8080-abc.example.org", "8080-abc.example.org")
    names = set(told["x-names"].split(","))
    assert "x-kept" in names
    assert not names & {"x-mine", "te", "e2b-sandbox-id", "e2b-sandbox-port", "e2b-traffic-access-token"}
    assert told["set-cookie"] == "a=1"
    assert not {"x-secret", "keep-alive"} & set(told)
    assert "access-control-allow-origin" not in told
    assert len(told.get_list("date")) <= 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
async def test_requests_without_a_body(inside: Inside, port: int, method: str) -> None:
    answer = await inside(port).request(method, "/")
    assert (answer.status_code, answer.headers["x-method"], answer.content) == (207, method, b"")


async def test_a_preflight_is_the_servers_business(inside: Inside, port: int) -> None:
    answer = await inside(port).options("/", headers={"Access-Control-Request-Method": "PUT", "Origin": "http://x"})
    assert (answer.status_code, answer.headers["x-method"]) == (207, "OPTIONS")


async def test_bodies_stream_both_ways_at_once(inside: Inside, port: int) -> None:
    """Every piece comes back before the next one is sent."""
    back: asyncio.Queue[bytes] = asyncio.Queue()

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"one", b"two", b"three"):
            yield piece
            assert await back.get() == piece.upper()

    async def exchange() -> None:
        # httpx sends the whole request first, so this is spoken by hand.
        base = inside(port)
        url = base.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        lines = [f"{name}: {value}" for name, value in base.headers.items() if name.startswith("e2b")]
        head = ["POST /stream HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", *lines, "", ""]
        writer.write("\r\n".join(head).encode())
        answered = False
        async for piece in pieces():
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if not answered:
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                answered = True
            size = int((await reader.readline()).strip(), 16)
            back.put_nowait(await reader.readexactly(size))
            await reader.readline()
        writer.write(b"0\r\n\r\n")
        assert await reader.readuntil(b"0\r\n\r\n") == b"0\r\n\r\n"
        writer.close()

    async with asyncio.timeout(30):
        await exchange()


async def test_a_large_body(inside: Inside, port: int) -> None:
    content = bytes(range(256)) * 40_000
    answer = await inside(port).post("/", content=content)
    assert answer.content == content


async def test_a_closed_port_and_other_sandboxes(gateway: Gateway, inside: Inside) -> None:
    async with raw_server(saying(b"")) as port:
        pass
    answer = await inside(port).get("/")
    assert answer.status_code == 502
    body = answer.json()
    assert (body["message"], body["port"], body["code"]) == ("The sandbox is running but port is not open", port, 502)
    info = await gateway.sandbox()
    gateway.backend.end(info.sandbox_id, "killed")
    answer = await gateway.on_port(port, info.sandbox_id, "GET", "/")
    assert (answer.status_code, answer.json()["message"]) == (502, "The sandbox was not found")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"\0" * 100,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 2 * ports.MAX_RESPONSE_HEADER_BYTES + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
)
async def test_a_server_that_does_not_speak_http(inside: Inside, answer: bytes) -> None:
    async with raw_server(saying(answer)) as port:
        got = await inside(port).get("/")
        assert (got.status_code, got.json()["code"]) == (502, 502)
        assert got.json()["message"] == "The server at this port does not answer in HTTP"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_an_answer_that_breaks_off_is_cut(inside: Inside, answer: bytes) -> None:
    async with raw_server(saying(answer)) as port:
        with pytest.raises(httpx.RemoteProtocolError):
            await inside(port).get("/")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nd\r\nuntil the end\r\n0\r\nTrailer: x\r\n\r\n",
    ],
)
async def test_older_and_chunked_answers(inside: Inside, answer: bytes) -> None:
    async with raw_server(saying(answer)) as port:
        got = await inside(port).get("/")
        assert (got.status_code, got.content) == (200, b"until the end")


async def test_an_answer_before_the_body_was_read(inside: Inside) -> None:
    async with raw_server(saying(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")) as port:
        answer = await inside(port).post("/", content=bytes(8_000_000))
        assert answer.status_code == 413


async def test_a_client_who_leaves_closes_the_connection_inside(inside: Inside) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        with contextlib.suppress(OSError):
            while await reader.read(100):
                pass
        ended.set()

    async with raw_server(handle) as port:
        call = asyncio.create_task(inside(port).get("/"))
        await begun.wait()
        call.cancel()
        async with asyncio.timeout(10):
            await ended.wait()


async def test_an_answer_is_cut_when_the_sandbox_goes(gateway: Gateway, inside: Inside) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await writer.drain()
        await reader.read()

    async with raw_server(handle) as port:
        client = inside(port)
        async with client.stream("GET", "/") as answer:
            pieces = answer.aiter_raw()
            assert await anext(pieces) == b"abc"
            gateway.backend.end(client.headers["e2b-sandbox-id"], "killed")
            with pytest.raises(httpx.RemoteProtocolError):
                await anext(pieces)


async def test_an_agent_that_goes_away_before_the_answer(gateway: Gateway, inside: Inside) -> None:
    begun = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.set()
        await reader.read()

    for gone, message in ((False, "does not answer in HTTP"), (True, "was not found")):
        async with raw_server(handle) as port:
            client = inside(port)
            call = asyncio.create_task(client.get("/"))
            await begun.wait()
            begun.clear()
            sandbox_id = client.headers["e2b-sandbox-id"]
            gateway.backend.agent_of(sandbox_id).end(AgentError("unavailable", "broke"))
            if gone:
                gateway.backend.end(sandbox_id, "killed")
            answer = await call
            assert answer.status_code == 502
            assert message in answer.json()["message"]
            gateway.backend.agent_of(sandbox_id).fault = None
            gateway.backend.agent_of(sandbox_id).broken.clear()


async def test_by_host_name_and_with_a_traffic_token(gateway: Gateway, port: int) -> None:
    info = await gateway.sandbox(allow_public_traffic=False)
    host = {"Host": f"{port}-{info.sandbox_id}.example.org"}
    assert (await gateway.client.get("/", headers=host)).status_code == 403
    token = {"E2B-Traffic-Access-Token": "traffic-token"}
    answer = await gateway.client.get("/", headers=host | token)
    assert (answer.status_code, answer.headers["x-host"]) == (207, host["Host"])
    assert "e2b-traffic-access-token" not in answer.headers["x-names"]


# --- WebSockets ------------------------------------------------------------------------------------------------------


async def talk(connection: ServerConnection) -> None:
    """Echoes; some messages ask for something else."""
    async for message in connection:
        if message == "path":
            assert connection.request is not None
            await connection.send(f"{connection.request.path} {connection.request.headers.get('X-Kept')}")
        elif isinstance(message, str) and message.startswith("close "):
            await connection.close(int(message[6:]), "as asked")
        elif message == "abort":
            connection.transport.abort()
        else:
            await connection.send(message)


def choose(_: ServerConnection, offered: Sequence[websockets.Subprotocol]) -> websockets.Subprotocol | None:
    return next((name for name in offered if name == "chat.v2"), None)


@pytest.fixture(scope="module")
async def ws_port(anyio_backend: str) -> AsyncIterator[int]:
    async with serve(talk, "127.0.0.1", 0, select_subprotocol=choose, max_size=2**25) as server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def dialled(gateway: Gateway, port: int, path: str = "/", **options: object) -> AsyncIterator[ClientConnection]:
    info = await gateway.sandbox()
    routing = {"E2b-Sandbox-Id": info.sandbox_id, "E2b-Sandbox-Port": str(port), "X-Kept": "yes"}
    url = gateway.url.replace("http", "ws") + path
    async with connect(url, additional_headers=routing, max_size=2**25, **options) as connection:  # type: ignore[arg-type]
        yield connection
    agent = gateway.backend.agent_of(info.sandbox_id)
    await async_wait_until(lambda: agent.dialled == 0)


async def test_messages_keep_their_kind(gateway: Gateway, ws_port: int) -> None:
    async with dialled(gateway, ws_port, "/a%20b?c=d") as socket:
        for message in ("text é", b"binary \xff", "", b"", "x" * 3_000_000, bytes(5_000_000)):
            await socket.send(message)
            assert await socket.recv() == message
        await socket.send(["in ", "pieces"])
        assert await socket.recv() == "in pieces"
        await socket.send("path")
        assert await socket.recv() == "/a%20b?c=d yes"
        await (await socket.ping())


async def test_subprotocols(gateway: Gateway, ws_port: int) -> None:
    names = [websockets.Subprotocol("chat.v1"), websockets.Subprotocol("chat.v2")]
    async with dialled(gateway, ws_port, subprotocols=names) as socket:
        assert socket.subprotocol == "chat.v2"


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
async def test_close_codes_of_the_server_arrive(gateway: Gateway, ws_port: int, code: int) -> None:
    async with dialled(gateway, ws_port) as socket:
        await socket.send(f"close {code}")
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, "as asked")


async def test_close_codes_of_the_client_arrive(gateway: Gateway) -> None:
    closed: asyncio.Queue[tuple[int | None, str | None]] = asyncio.Queue()

    async def listen(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await connection.recv()
        closed.put_nowait((connection.close_code, connection.close_reason))

    async with serve(listen, "127.0.0.1", 0) as server, asyncio.timeout(30):
        port = server.sockets[0].getsockname()[1]
        async with dialled(gateway, port) as socket:
            await socket.close(4321, "enough")
        assert await closed.get() == (4321, "enough")
        async with dialled(gateway, port) as socket:
            socket.transport.abort()
        code, _ = await closed.get()
        assert code in (1001, 1006)


async def test_a_server_that_breaks_off(gateway: Gateway, ws_port: int) -> None:
    async with dialled(gateway, ws_port) as socket:
        await socket.send("abort")
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1011


async def test_a_message_that_is_too_long(gateway: Gateway) -> None:
    async def shout(connection: ServerConnection) -> None:
        await connection.send(bytes(ports_websocket.MAX_MESSAGE_BYTES))
        await connection.send(bytes(ports_websocket.MAX_MESSAGE_BYTES + 1))
        await connection.wait_closed()

    async with (
        serve(shout, "127.0.0.1", 0, compression=None) as server,
        dialled(gateway, server.sockets[0].getsockname()[1]) as socket,
    ):
        assert len(await socket.recv()) == ports_websocket.MAX_MESSAGE_BYTES
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nX-Why: no\r\nContent-Length: 5\r\n\r\nnever", 403, b"never"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 502, b"does not speak WebSocket"),
        (b"SSH-2.0\r\n\r\n", 502, b"does not speak WebSocket"),
        (b"", 502, b"does not speak WebSocket"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: wrong\r\n\r\n",
            502,
            b"does not speak WebSocket",
        ),
    ],
)
async def test_servers_that_do_not_shake_hands(gateway: Gateway, answer: bytes, status: int, words: bytes) -> None:
    async with raw_server(saying(answer)) as port:
        with pytest.raises(InvalidStatus) as caught:
            async with dialled(gateway, port):
                pass
    assert caught.value.response.status_code == status
    assert words in bytes(caught.value.response.body or b"")


async def test_sockets_that_are_refused(gateway: Gateway, ws_port: int) -> None:
    info = await gateway.sandbox(allow_public_traffic=False)
    url = gateway.url.replace("http", "ws")

    async def status(**headers: str) -> tuple[int, bytes]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        with pytest.raises(InvalidStatus) as caught:
            async with connect(url, additional_headers=sent):
                pass
        return caught.value.response.status_code, bytes(caught.value.response.body or b"")

    async def of(port: int, sandbox_id: str = info.sandbox_id, **headers: str) -> tuple[int, bytes]:
        return await status(E2b_Sandbox_Id=sandbox_id, E2b_Sandbox_Port=str(port), **headers)

    assert (await of(ws_port))[0] == 403
    code, body = await of(ws_port, "nobody")
    assert (code, b"was not found" in body) == (502, True)
    token = {"E2B_Traffic_Access_Token": "traffic-token"}
    async with raw_server(saying(b"")) as closed:
        pass
    code, body = await of(closed, **token)
    assert (code, b"port is not open" in body) == (502, True)
    assert (await of(49983))[0] == 400
    assert (await of(49999, **token))[0] == 400
    assert (await status())[0] == 404
    assert (await status(E2b_Sandbox_Id="x"))[0] == 400


async def test_a_socket_ends_with_its_sandbox(gateway: Gateway, ws_port: int) -> None:
    async with dialled(gateway, ws_port) as socket:
        await socket.send("x")
        await socket.recv()
        (sandbox_id,) = gateway.backend.live
        gateway.backend.end(sandbox_id, "killed")
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001
