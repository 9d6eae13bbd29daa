"""DNS messages from and to anybody, and the bounds of the resolver that reads them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybox_actors.network import dns, resolver
from raybox_actors.network.resolver import MAX_PENDING, MAX_STREAMS, Resolver, node_servers
from raybox_actors.network.rules import ADDRESS_HOLD_S, MAX_TTL_S, NEVER, NetworkPolicy, parse_request, policy_of
from tests.actors.driving import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def encoded(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def query(name: str, kind: int = dns.A, number: int = 7, room: int | None = None) -> bytes:
    option = b"\0" + struct.pack("!HHIH", dns.OPT, room, 0, 0) if room is not None else b""
    header = struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, bool(option))
    return header + encoded(name) + struct.pack("!HH", kind, 1) + option


def answer(to: bytes, addresses: Sequence[str], ttl_s: int = 86_400, flags: int = 0x8180) -> bytes:
    """As a server would: names as pointers to the question, and an alias first."""
    asked = dns.parse_query(to)
    records = b"\xc0\x0c" + struct.pack("!HHIH", dns.CNAME, 1, ttl_s, 2) + b"\xc0\x0c"
    for address in addresses:
        records += b"\xc0\x0c" + struct.pack("!HHIH", dns.A, 1, ttl_s, 4) + IPv4Address(address).packed
    return to[:2] + struct.pack("!HHHHH", flags, 1, len(addresses) + 1, 0, 0) + asked.question + records


# ---- messages ----


def test_a_question_is_read() -> None:
    asked = dns.parse_query(query("WWW.Example.org", room=1232))
    assert (asked.number, asked.name, asked.kind, asked.room) == (7, "www.example.org", dns.A, 1232)
    assert dns.parse_query(query("a.example")).room == 512


def test_times_to_live_are_cut_and_addresses_found() -> None:
    asked = dns.parse_query(query("a.example"))
    upstream = dns.upstream_query(asked, 99)
    found = dns.parse_answer(answer(upstream, ["1.1.1.1", "8.8.4.4"]), asked, 99, 240)
    assert found.addresses == (IPv4Address("1.1.1.1"), IPv4Address("8.8.4.4"))
    assert not found.truncated
    said = dns.fitted(found, asked, 512)
    assert said[:2] == (7).to_bytes(2, "big")
    assert said.count(struct.pack("!I", 240)) == 3
    assert dns.fitted(found, asked, 40)[2] & 0x02  # too long: ask again over TCP
    assert not dns.fitted(found, asked, None)[2] & 0x02


@pytest.mark.parametrize(
    "forged",
    [
        answer(query("a.example", number=98), ["1.1.1.1"]),
        answer(query("b.example", number=99), ["1.1.1.1"]),
        answer(query("a.example", dns.AAAA, number=99), []),
        answer(query("a.example", number=99), ["1.1.1.1"], flags=0x0100),
        answer(query("a.example", number=99), ["1.1.1.1"])[:-1],
        answer(query("a.example", number=99), ["1.1.1.1"] * (dns.MAX_RECORDS + 1)),
    ],
    ids=["number", "name", "kind", "no answer", "cut", "too many records"],
)
def test_what_is_no_answer_to_the_question_is_malformed(forged: bytes) -> None:
    with pytest.raises(dns.Malformed):
        dns.parse_answer(forged, dns.parse_query(query("a.example")), 99, 240)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        query("a.example")[:-1],
        query("a.example")[:12] + b"\xc0\x0c" + b"\0\1\0\1",  # a name that points to itself
        query("a.example")[:12] + b"\xc0\xff" + b"\0\1\0\1",
        query("a.example")[:12] + b"\x80a" + b"\0\1\0\1",
        query(".".join(["a" * 63] * 4)),
        query("a.example")[:2] + b"\x80" + query("a.example")[3:],  # an answer
        b"\0" * 12,
        query("a.example") + b"\0" * dns.MAX_MESSAGE_BYTES,
        query("a.example").replace(b"\1a", b"\1."),
    ],
)
def test_what_is_no_question_is_malformed(message: bytes) -> None:
    with pytest.raises(dns.Malformed):
        dns.parse_query(message)


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: query("a.example", room=600)[:-8] + tail))
def test_parsing_questions_raises_nothing_else(message: bytes) -> None:
    with contextlib.suppress(dns.Malformed):
        asked = dns.parse_query(message)
        assert 512 <= asked.room <= dns.MAX_MESSAGE_BYTES
        dns.reply(asked, dns.NXDOMAIN)


@given(st.binary(max_size=200), st.integers(0, 60), st.binary(max_size=8))
def test_parsing_answers_raises_nothing_else(tail: bytes, at: int, patch: bytes) -> None:
    whole = bytearray(answer(query("a.example", number=99), ["1.1.1.1", "8.8.4.4"]) + tail)
    whole[at : at + len(patch)] = patch
    with contextlib.suppress(dns.Malformed):
        dns.parse_answer(bytes(whole), dns.parse_query(query("a.example")), 99, 240)


def test_name_servers_of_a_node_are_read(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("# x\nsearch a\nnameserver 10.0.0.2\nnameserver fd00::1\nnameserver\nnameserver 8.8.8.8 # y\n")
    assert node_servers(file) == ("10.0.0.2", "8.8.8.8")
    assert node_servers(file.with_name("none")) == ()


# ---- the resolver ----


def test_answers_are_forgotten_before_the_rules_close() -> None:
    assert MAX_TTL_S < ADDRESS_HOLD_S


class Upstream:
    """A server on loopback that answers when it is let to."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.asked: list[bytes] = []
        self.addresses = ["93.184.216.34", "10.0.0.1"]
        self.held = False
        asyncio.get_running_loop().add_reader(self.sock.fileno(), self.read)

    def read(self) -> None:
        message, peer = self.sock.recvfrom(4096)
        self.asked.append(message)
        if not self.held:
            self.sock.sendto(b"rubbish", peer)
            self.sock.sendto(answer(message, self.addresses), peer)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.sock.fileno())
        self.sock.close()


class Setup:
    def __init__(self, policy: NetworkPolicy) -> None:
        self.upstream = Upstream()
        self.granted: list[tuple[str, tuple[str, ...]]] = []
        udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
        for sock in (udp, tcp):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        tcp.listen()
        self.udp, self.tcp = udp.getsockname(), tcp.getsockname()
        self.resolver = Resolver((udp, tcp), ["127.0.0.1"], policy, self.open_socket, self.grant)

    async def open_socket(self) -> socket.socket:
        """One that takes every address for the upstream server's."""
        port = self.upstream.sock.getsockname()[1]

        class Socket(socket.socket):
            def connect(self, address: object) -> None:
                super().connect(("127.0.0.1", port))

        return Socket(socket.AF_INET, socket.SOCK_DGRAM)

    async def grant(self, name: str, addresses: Sequence[IPv4Address]) -> None:
        self.granted.append((name, tuple(map(str, addresses))))

    async def ask(self, message: bytes) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(self.udp)
            sock.send(message)
            return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 4096), 5)


NEVER_HERE = (*NEVER, IPv4Network("10.0.0.0/8"))
RULED = policy_of(parse_request({"allowOut": ["a.example"]}, False), NEVER_HERE)


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    made = Setup(RULED)
    yield made
    await made.resolver.close()
    made.upstream.close()


def code(message: bytes) -> int:
    return message[3] & 0x0F


async def test_an_allowed_name_is_opened_before_it_is_answered(setup: Setup) -> None:
    for _ in range(2):  # the second time it is open already
        said = await setup.ask(query("A.example"))
        assert code(said) == dns.NOERROR
        assert IPv4Address("93.184.216.34").packed in said
        assert setup.granted == [("a.example", ("93.184.216.34",))]
    assert setup.resolver.remembered(RULED) == [IPv4Address("93.184.216.34")]
    assert setup.resolver.remembered(policy_of(parse_request({}, False), NEVER)) == []


async def test_what_is_not_allowed_is_not_even_asked_for(setup: Setup) -> None:
    assert code(await setup.ask(query("b.example"))) == dns.NXDOMAIN
    assert code(await setup.ask(query("secret.data.b.example", 16))) == dns.NXDOMAIN
    assert code(await setup.ask(query("a.example", dns.ANY))) == dns.NOTIMP
    for kind in (dns.AAAA, dns.HTTPS, dns.SVCB):
        assert await setup.ask(query("a.example", kind)) == dns.reply(dns.parse_query(query("a.example", kind)), 0)
    assert setup.upstream.asked == []
    setup.resolver.policy = NetworkPolicy()
    assert code(await setup.ask(query("b.example"))) == dns.NOERROR
    assert setup.granted == []  # where all is open, names need not be


async def test_a_server_that_does_not_answer_is_given_up(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "UPSTREAM_LIMIT_S", 0.05)
    setup.upstream.held = True
    assert code(await setup.ask(query("a.example"))) == dns.SERVFAIL


async def test_questions_beyond_the_bound_are_dropped(setup: Setup) -> None:
    setup.upstream.held = True
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(setup.udp)
        for number in range(MAX_PENDING + 20):
            sock.send(query("a.example", number=number))
        await eventually(lambda: len(setup.upstream.asked) == MAX_PENDING, 5.0, lambda: len(setup.upstream.asked))
        assert len(setup.resolver._pending) == MAX_PENDING
    await setup.resolver.close()  # with all of them under way
    assert not setup.resolver._pending


async def test_answers_come_over_tcp_too_from_a_bounded_number_of_connections(setup: Setup) -> None:
    idle = [await asyncio.open_connection(*setup.tcp) for _ in range(MAX_STREAMS - 1)]
    await eventually(lambda: setup.resolver._open_streams == MAX_STREAMS - 1)
    reader, writer = await asyncio.open_connection(*setup.tcp)
    asked = query("a.example")
    writer.write(len(asked).to_bytes(2, "big") + asked)
    size = int.from_bytes(await reader.readexactly(2), "big")
    assert IPv4Address("93.184.216.34").packed in await reader.readexactly(size)
    assert await reader.read() == b""  # one question each
    idle += [await asyncio.open_connection(*setup.tcp) for _ in range(2)]
    assert await asyncio.wait_for(idle[-1][0].read(), 5) == b""  # one too many
    for _, one in [*idle, (reader, writer)]:
        one.close()
        with contextlib.suppress(ConnectionError):
            await one.wait_closed()
