"""The actor's end of the way to its agent: connections of gateways, checked and handed to the agent. No Ray.

On the same node a gateway is given a socket whose other end the agent has, and not a byte passes the actor. From
another node it comes over TCP, and the actor copies both ways, as fast as the slower side.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import secrets
import select
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final

from raybox_actors.agent import handshake
from raybox_actors.agent.handshake import ACCEPTED, FAILED, GONE, NONCE_BYTES
from raybox_actors.errors import NotFound, RayboxError, SandboxLost
from raybox_actors.kernels.zygote_client import wait_readable

logger = logging.getLogger(__name__)

#: Strangers that have not shown yet who they are; more are hung up on.
MAX_STRANGERS: Final = 256
HANDSHAKE_LIMIT_S: Final = 10.0
PIECE_BYTES: Final = 256 * 1024
BACKLOG: Final = 512

#: A fresh connection to the agent of this sandbox. Raises NotFound, SandboxLost, AgentError.
OpenConnection = Callable[[str], Awaitable[socket.socket]]


class AgentServer:
    """Of one actor. Used on one loop; `close` ends all connections that go through it."""

    def __init__(self, secret: bytes, open_connection: OpenConnection) -> None:
        self._secret, self._open = secret, open_connection
        self._listeners: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._strangers = 0
        self.unix_name = ""
        self.port = 0

    def listen_unix(self) -> str:
        """An abstract name that nobody can guess, and of which nothing is left on the disk. Idempotent."""
        if not self.unix_name:
            name = f"raybox-agent-{secrets.token_hex(16)}"
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.bind(f"\0{name}")
            self._listen(sock)
            self.unix_name = name
        return self.unix_name

    def listen_tcp(self, host: str) -> int:
        """At a free port of this address. Idempotent. Raises OSError."""
        if not self.port:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.bind((host, 0))
            except OSError:
                sock.close()
                raise
            self._listen(sock)
            self.port = sock.getsockname()[1]
        return self.port

    def _listen(self, sock: socket.socket) -> None:
        sock.listen(BACKLOG)
        sock.setblocking(False)
        self._listeners.append(sock)
        asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        if self._strangers >= MAX_STRANGERS:
            client.close()
            return
        client.setblocking(False)
        self._strangers += 1
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: socket.socket) -> None:
        """Never raises."""
        agent: socket.socket | None = None
        try:
            try:
                async with asyncio.timeout(HANDSHAKE_LIMIT_S):
                    agent, words = await self._check(client)
            finally:
                self._strangers -= 1
            if agent is None:
                await asyncio.get_running_loop().sock_sendall(client, words)
            elif client.family == socket.AF_UNIX:
                rights = array.array("i", [agent.fileno()])
                client.sendmsg([words], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            else:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await asyncio.get_running_loop().sock_sendall(client, words)
                await splice(client, agent)
        except (OSError, ValueError, TimeoutError):
            pass  # somebody who is not of the pool, or went away
        except Exception:
            logger.exception("a connection to the agent")
        finally:
            client.close()
            if agent is not None:
                agent.close()

    async def _check(self, client: socket.socket) -> tuple[socket.socket | None, bytes]:
        """A connection to the agent, and what to tell the client. Raises ValueError for one that is not of the pool."""
        loop = asyncio.get_running_loop()
        if client.family == socket.AF_UNIX and peer_user(client) != os.geteuid():
            raise ValueError("another user of this machine")
        server_nonce = secrets.token_bytes(NONCE_BYTES)
        await loop.sock_sendall(client, server_nonce)
        first = await read_exactly(client, 1)
        claim = handshake.parse(first, await read_exactly(client, handshake.rest_bytes(first)))
        if not handshake.is_of_pool(self._secret, claim, server_nonce):
            raise ValueError("a wrong digest")
        agent, answer = None, ACCEPTED
        try:
            agent = await self._open(claim.sandbox_id)
        except (NotFound, SandboxLost):
            answer = GONE
        except RayboxError as error:
            logger.warning("no connection to the agent: %s", error)
            answer = FAILED
        return agent, handshake.verdict(self._secret, answer, claim, server_nonce)

    async def close(self) -> None:
        """Idempotent."""
        loop = asyncio.get_running_loop()
        for sock in self._listeners:
            loop.remove_reader(sock)
            sock.close()
        self._listeners.clear()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


def peer_user(client: socket.socket) -> int:
    _, uid, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


async def read_exactly(sock: socket.socket, count: int) -> bytes:
    """Raises ConnectionError when it ends before that. Takes nothing of what follows."""
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < count:
        piece = await loop.sock_recv(sock, count - len(data))
        if not piece:
            raise ConnectionResetError("hung up in the middle of a handshake")
        data += piece
    return data


async def splice(one: socket.socket, other: socket.socket) -> None:
    """Copy both ways until both have ended, or one has failed. The sockets stay the caller's."""
    other.setblocking(False)
    loop = asyncio.get_running_loop()
    copies = [loop.create_task(_copy(one, other)), loop.create_task(_copy(other, one))]
    ends = [loop.create_task(_closed(one)), loop.create_task(_closed(other))]
    both = asyncio.gather(*copies)
    first: set[asyncio.Future[Any]] = {both, *ends}
    try:
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        for copy, gone, taker in zip(copies, ends, reversed(ends), strict=True):
            if gone.done() and not copy.done():  # what it sent before it went is still the other's, however slow
                await asyncio.wait({copy, taker}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in [*copies, *ends]:
            task.cancel()
        await asyncio.gather(both, *copies, *ends, return_exceptions=True)


async def _closed(sock: socket.socket) -> None:
    """Return when the other end is closed, and not only for what it would send."""
    with select.epoll() as poll:
        poll.register(sock, 0)  # EPOLLHUP is told without asking
        await wait_readable(poll.fileno())


async def _copy(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, PIECE_BYTES):
        await loop.sock_sendall(sink, data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
