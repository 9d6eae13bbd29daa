"""The resolver of one sandbox: it listens inside, asks outside, and opens the addresses of allowed names.

It runs on the loop of the sandbox's actor. How many questions reach it is bounded by the sandbox's rules, how many are
being answered by MAX_PENDING; everything that comes in is untrusted (dns.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from raybox_actors.errors import RayboxError
from raybox_actors.network import dns
from raybox_actors.network.rules import ADDRESS_HOLD_S, MAX_RESOLVED, MAX_TTL_S, RESOLVER_ADDRESS, NetworkPolicy

logger = logging.getLogger(__name__)

#: Questions that are being answered at once; further ones are dropped, and clients ask again.
MAX_PENDING = 64
MAX_STREAMS = 16
STREAM_LIMIT_S = 10.0
#: How long one upstream server may take, and how many are tried.
UPSTREAM_LIMIT_S = 2.0
MAX_UPSTREAMS = 3
#: Addresses of allowed names are remembered for so long, so that a change of the rules does not close them.
REMEMBERED_S = 3600.0

Grant = Callable[[str, Sequence[IPv4Address]], Awaitable[None]]
OpenSocket = Callable[[], Awaitable[socket.socket]]


def listening_sockets() -> tuple[socket.socket, socket.socket]:
    """UDP and TCP at the resolver's address of the calling thread's namespace, whose loopback may not be up yet."""
    made = []
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            sock = socket.socket(socket.AF_INET, kind)
            made.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND, which Python has no name for
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((str(RESOLVER_ADDRESS), 53))
        made[1].listen(MAX_STREAMS)
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return made[0], made[1]


def node_servers(resolv_conf: Path = Path("/etc/resolv.conf")) -> tuple[str, ...]:
    """The IPv4 name servers that the node itself uses."""
    found = []
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in resolv_conf.read_text().splitlines():
            words = line.split()
            if words[:1] == ["nameserver"]:
                with contextlib.suppress(ValueError, IndexError):
                    found.append(str(IPv4Address(words[1])))
    return tuple(found)


class Resolver:
    """Started by its construction, on the running loop; ended by `close`."""

    def __init__(
        self,
        sockets: tuple[socket.socket, socket.socket],
        servers: Sequence[str],
        policy: NetworkPolicy,
        open_socket: OpenSocket,
        grant: Grant,
    ) -> None:
        """sockets: of `listening_sockets`, ours from now on. servers: asked in this order. open_socket: a fresh UDP
        socket in the namespace from which the servers are reached. grant: opens addresses of a name in the sandbox's
        rules, if these allow the name by then."""
        self.policy = policy
        self._datagrams, self._streams = sockets
        self._servers = tuple(servers)[:MAX_UPSTREAMS]
        self._open_socket, self._grant = open_socket, grant
        #: Open addresses of allowed names: the name, and when it was last granted; the oldest first.
        self._granted: OrderedDict[IPv4Address, tuple[str, float]] = OrderedDict()
        self._pending: set[asyncio.Task[None]] = set()
        self._open_streams = 0
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._datagrams.fileno(), self._read)
        self._loop.add_reader(self._streams.fileno(), self._accept)

    def remembered(self, policy: NetworkPolicy) -> list[IPv4Address]:
        """Addresses that names which `policy` allows had lately."""
        oldest = time.monotonic() - REMEMBERED_S
        return [address for address, (name, at) in self._granted.items() if at > oldest and policy.permits_name(name)]

    async def close(self) -> None:
        """End what is being answered, release every descriptor. Idempotent."""
        if self._datagrams.fileno() >= 0:
            self._loop.remove_reader(self._datagrams.fileno())
            self._loop.remove_reader(self._streams.fileno())
        while self._pending:
            for task in self._pending:
                task.cancel()
            await asyncio.wait(self._pending)
        self._datagrams.close()
        self._streams.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    # ---- clients ----

    def _read(self) -> None:
        try:
            message, client = self._datagrams.recvfrom(dns.MAX_MESSAGE_BYTES)
        except OSError:
            return
        if len(self._pending) < MAX_PENDING:
            self._spawn(self._answer_datagram(message, client))

    async def _answer_datagram(self, message: bytes, client: tuple[str, int]) -> None:
        with contextlib.suppress(dns.Malformed, OSError):
            query = dns.parse_query(message)
            self._datagrams.sendto(await self._answer(query, query.room), client)

    def _accept(self) -> None:
        try:
            stream, _ = self._streams.accept()
        except OSError:
            return
        if self._open_streams >= MAX_STREAMS:
            stream.close()
            return
        stream.setblocking(False)
        self._open_streams += 1
        self._spawn(self._answer_stream(stream))

    async def _answer_stream(self, stream: socket.socket) -> None:
        """One question, as clients do that were told that an answer does not fit into a datagram."""
        try:
            async with asyncio.timeout(STREAM_LIMIT_S):
                size = int.from_bytes(await self._exactly(stream, 2), "big")
                query = dns.parse_query(await self._exactly(stream, min(size, dns.MAX_MESSAGE_BYTES)))
                said = await self._answer(query, None)
                await self._loop.sock_sendall(stream, len(said).to_bytes(2, "big") + said)
        except (dns.Malformed, OSError, TimeoutError):
            pass
        finally:
            self._open_streams -= 1
            stream.close()

    async def _exactly(self, stream: socket.socket, size: int) -> bytes:
        got = b""
        while len(got) < size:
            piece = await self._loop.sock_recv(stream, size - len(got))
            if not piece:
                raise dns.Malformed("the client hung up")
            got += piece
        return got

    # ---- answers ----

    async def _answer(self, query: dns.Query, room: int | None) -> bytes:
        policy = self.policy
        if not policy.permits_name(query.name):
            return dns.reply(query, dns.NXDOMAIN)
        if query.kind == dns.ANY:
            return dns.reply(query, dns.NOTIMP)
        # There is no IPv6 inside, and the others may carry addresses that would not be opened.
        if query.kind in (dns.AAAA, dns.HTTPS, dns.SVCB):
            return dns.reply(query, dns.NOERROR)
        answer = await self._ask_upstream(query)
        if answer is None:
            return dns.reply(query, dns.SERVFAIL)
        if policy.domains and query.kind == dns.A and self.policy is policy:
            try:
                await self._open(query.name, [one for one in answer.addresses if not _is_never(policy, one)])
            except RayboxError as error:
                logger.warning("an allowed name could not be opened: %s", error)
                return dns.reply(query, dns.SERVFAIL)
        return dns.fitted(answer, query, room)

    async def _open(self, name: str, addresses: list[IPv4Address]) -> None:
        now = time.monotonic()
        # As long as the client may use the answer, and then some, unless that is so already.
        fresh = now - (ADDRESS_HOLD_S - MAX_TTL_S)
        new = [one for one in addresses if one not in self._granted or self._granted[one][1] < fresh]
        if new:
            await self._grant(name, new)
        for address in new:
            self._granted[address] = name, now
            self._granted.move_to_end(address)
        while len(self._granted) > MAX_RESOLVED:
            self._granted.popitem(last=False)

    async def _ask_upstream(self, query: dns.Query) -> dns.Answer | None:
        for server in self._servers:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(UPSTREAM_LIMIT_S):
                    return await self._ask_server(query, server)
        return None

    async def _ask_server(self, query: dns.Query, server: str) -> dns.Answer:
        """From a port of its own, so that nobody can guess where a forged answer would have to go."""
        upstream = await self._open_socket()
        try:
            upstream.setblocking(False)
            upstream.connect((server, 53))
            number = secrets.randbelow(1 << 16)
            await self._loop.sock_sendall(upstream, dns.upstream_query(query, number))
            while True:
                message = await self._loop.sock_recv(upstream, dns.MAX_MESSAGE_BYTES)
                with contextlib.suppress(dns.Malformed):
                    return dns.parse_answer(message, query, number, MAX_TTL_S)
        finally:
            upstream.close()


def _is_never(policy: NetworkPolicy, address: IPv4Address) -> bool:
    return any(address in network for network in policy.never)
