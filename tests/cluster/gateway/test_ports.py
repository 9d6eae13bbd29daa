"""Ports of servers inside, through the gateway, over HTTP/1.1: the well-behaved and the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from raybox_actors.agent.errors import AgentError
from raybox_cluster.gateway import ports
from tests.cluster.gateway.conftest import Gateway, QuietServer
from tests.cluster.gateway.servers import raw_server, saying
from tests.support.wait import async_wait_until

pytestmark = pytest.mark.anyio


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
