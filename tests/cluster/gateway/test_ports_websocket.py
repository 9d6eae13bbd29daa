"""Ports of servers inside, through the gateway, over WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from raybox_cluster.gateway import ports_websocket
from tests.cluster.gateway.conftest import Gateway
from tests.cluster.gateway.servers import raw_server, saying
from tests.support.wait import async_wait_until

pytestmark = pytest.mark.anyio


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
