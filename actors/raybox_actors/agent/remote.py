"""The gateway's end of the way to an agent: from an endpoint to a connected socket. No Ray."""

from __future__ import annotations

import array
import asyncio
import secrets
import socket
from typing import Final

from raybox_actors.agent import handshake
from raybox_actors.agent.handshake import ACCEPTED, GONE, NONCE_BYTES, VERDICT_BYTES, AgentEndpoint
from raybox_actors.agent.server import HANDSHAKE_LIMIT_S, read_exactly
from raybox_actors.errors import InternalError
from raybox_actors.kernels.zygote_client import wait_readable

MAX_DESCRIPTORS: Final = 4


class Stale(Exception):
    """The endpoint is not, or no longer, that of the sandbox. Ask its actor anew."""


async def open_connection(secret: bytes, sandbox_id: str, endpoint: AgentEndpoint, node_id: str) -> socket.socket:
    """A socket with the sandbox's agent at its other end, the caller's to close. `node_id`: ours.

    Raises Stale; InternalError when the actor cannot give a connection.
    """
    local = node_id == endpoint.node_id
    try:
        async with asyncio.timeout(HANDSHAKE_LIMIT_S):
            sock = await (_connect_unix(endpoint.unix_name) if local else _connect_tcp(endpoint.host, endpoint.port))
            try:
                agent = await _shake_hands(secret, sandbox_id, sock, local)
            except BaseException:
                sock.close()
                raise
    except (OSError, ValueError, TimeoutError) as error:
        raise Stale(f"{type(error).__name__}: {error}") from error
    if agent is not sock:
        sock.close()
    return agent


async def _connect_unix(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, f"\0{name}")
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_tcp(host: str, port: int) -> socket.socket:
    if not port:
        raise OSError("the endpoint is none for other nodes")
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except BaseException:
        sock.close()
        raise
    return sock


async def _shake_hands(secret: bytes, sandbox_id: str, sock: socket.socket, local: bool) -> socket.socket:
    server_nonce = await read_exactly(sock, NONCE_BYTES)
    nonce = secrets.token_bytes(NONCE_BYTES)
    words = handshake.client_words(secret, sandbox_id, server_nonce, nonce)
    await asyncio.get_running_loop().sock_sendall(sock, words)
    given = None
    if local:
        said, given = await _receive_with_socket(sock)
    else:
        said = await read_exactly(sock, VERDICT_BYTES)
    try:
        answer = handshake.answer_of(secret, said, sandbox_id, server_nonce, nonce)
        if answer == GONE:
            raise Stale("the sandbox is not in this actor")
        if answer != ACCEPTED or (local and given is None):
            raise InternalError("the sandbox's agent cannot be reached")
    except BaseException:
        if given is not None:
            given.close()
        raise
    return given if given is not None else sock


async def _receive_with_socket(sock: socket.socket) -> tuple[bytes, socket.socket | None]:
    """The verdict, and the socket that came with it."""
    said, given = b"", None
    while len(said) < VERDICT_BYTES:
        await wait_readable(sock.fileno())
        piece, ancillary, _, _ = sock.recvmsg(
            VERDICT_BYTES - len(said), socket.CMSG_SPACE(4 * MAX_DESCRIPTORS), socket.MSG_CMSG_CLOEXEC
        )
        for _, _, raw in ancillary:
            fds = array.array("i")
            fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
            for fd in fds:
                if given is not None:
                    given.close()
                given = socket.socket(fileno=fd)
        if not piece:
            raise ConnectionResetError("hung up in the middle of a handshake")
        said += piece
    return said, given
