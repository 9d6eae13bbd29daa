"""Connections to servers inside the sandbox: after OK, raw bytes both ways."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from typing import Any

from agent_wire import OK, Connection, Failure, wait_readable

PIECE_BYTES = 256 * 1024
CONNECT_LIMIT_S = LAST_BYTES_LIMIT_S = 10.0
ADDRESSES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


async def dial(asked: dict[str, Any], connection: Connection) -> None:
    port = asked.get("port")
    if not isinstance(port, int) or not 0 < port < 65_536:
        raise Failure("invalid_argument", "a port is a number from 1 to 65535")
    server = await _connect(port)
    with server:
        await connection.send_json(OK, {})
        loop = connection.loop
        early = bytes(connection.buffer)
        connection.buffer.clear()
        there = loop.create_task(_copy(loop, connection.sock, server, early))
        back = loop.create_task(_copy(loop, server, connection.sock))
        gone = loop.create_task(_closed(connection.sock))
        tasks = {there, back, gone}
        try:
            # One direction may end long before the other. One that fails takes the other with it.
            both = asyncio.gather(there, back)
            first: set[asyncio.Future[Any]] = {both, gone}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not there.done():  # what it sent before it went is still the server's
                await asyncio.wait({there}, timeout=LAST_BYTES_LIMIT_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(both, *tasks, return_exceptions=True)


async def _connect(port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    for family, address in ADDRESSES:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError:  # no IPv6 here
            continue
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(CONNECT_LIMIT_S):
                await loop.sock_connect(sock, (address, port))
            return sock
        except (OSError, TimeoutError):
            sock.close()
        except BaseException:
            sock.close()
            raise
    raise Failure("port_closed", f"nothing listens on port {port}")


async def _closed(sock: socket.socket) -> None:
    """Return when the other end is closed, and not only for what it would send."""
    with select.epoll() as poll:
        poll.register(sock, 0)  # EPOLLHUP is told without asking
        await wait_readable(poll.fileno())


async def _copy(
    loop: asyncio.AbstractEventLoop, source: socket.socket, sink: socket.socket, early: bytes = b""
) -> None:
    """Until the end, which is passed on."""
    data = early or await loop.sock_recv(source, PIECE_BYTES)
    while data:
        await loop.sock_sendall(sink, data)
        data = await loop.sock_recv(source, PIECE_BYTES)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
