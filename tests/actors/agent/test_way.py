"""From a gateway to an agent: unix socket on the same node, TCP from others, strangers, ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from raybox_actors.agent import handshake, server
from raybox_actors.agent.client import AgentClient
from raybox_actors.agent.errors import AgentError
from raybox_actors.agent.handshake import AgentEndpoint
from raybox_actors.agent.remote import Stale, open_connection
from raybox_actors.agent.server import AgentServer
from raybox_actors.agent.values import ProcessSpec
from raybox_actors.errors import NotFound, SandboxLost
from tests.actors.agent.driving import Sandbox, descriptors
from tests.actors.driving import eventually

pytestmark = pytest.mark.anyio

SECRET = b"secret"
HERE, ELSEWHERE = "here", "elsewhere"


@pytest.fixture
async def way(sandbox: Sandbox) -> AsyncIterator[tuple[AgentServer, AgentEndpoint]]:
    async def find(sandbox_id: str) -> socket.socket:
        if sandbox_id != "s1":
            raise NotFound("sandbox", sandbox_id)
        return await sandbox.session.agent_connection()

    listening = AgentServer(SECRET, find)
    name, port = listening.listen_unix(), listening.listen_tcp("127.0.0.1")
    assert (listening.listen_unix(), listening.listen_tcp("127.0.0.1")) == (name, port)
    yield listening, AgentEndpoint(HERE, name, "127.0.0.1", port)
    await listening.close()


Way = tuple[AgentServer, AgentEndpoint]


def through(way: Way, sandbox: Sandbox, node_id: str) -> Sandbox:
    """The same sandbox, driven as a gateway of that node does."""

    async def connect() -> socket.socket:
        return await open_connection(SECRET, "s1", way[1], node_id)

    far = Sandbox(sandbox.driver)
    far.agent = AgentClient(connect, sandbox.session._explain)
    return far


@pytest.mark.parametrize("node_id", [HERE, ELSEWHERE])
async def test_everything_goes_through(way: Way, sandbox: Sandbox, node_id: str) -> None:
    far = through(way, sandbox, node_id)
    data = bytes(range(256)) * 20_000
    await far.write("file", data)
    assert await far.read("file") == data
    assert await far.sh("echo hello; id -un") == "hello\nuser"
    with pytest.raises(AgentError) as caught:
        await far.write("/dev/shm/full", bytes(300 << 20))
    assert caught.value.code == "no_space"


@pytest.mark.parametrize("node_id", [HERE, ELSEWHERE])
async def test_a_slow_reader_gets_all_though_the_agent_is_done(way: Way, sandbox: Sandbox, node_id: str) -> None:
    far = through(way, sandbox, node_id)
    await far.write("file", bytes(400_000))
    async with far.agent.open_read("file", "user") as reader:
        await asyncio.sleep(0.2)  # the agent has closed its end by now
        assert sum([len(piece) async for piece in reader]) == 400_000


@pytest.mark.parametrize("node_id", [HERE, ELSEWHERE])
async def test_ports(way: Way, sandbox: Sandbox, node_id: str) -> None:
    far = through(way, sandbox, node_id)
    with pytest.raises(AgentError) as caught:
        await far.agent.dial(8765)
    assert caught.value.code == "port_closed"
    echo = (
        "import socket; s = socket.create_server(('127.0.0.1', 8765)); print('up', flush=True)\n"
        "while True:\n c, _ = s.accept(); f = c.makefile('rwb'); d = f.read(); f.write(d[::-1]); f.close(); c.close()"
    )
    async with far.agent.start_process(ProcessSpec("python", ("-c", echo))) as events:
        await anext(events)
        await anext(events)
        stream = await far.agent.dial(8765)
        data = bytes(range(256)) * 4000

        async def send() -> None:
            await stream.write(data)
            await stream.write_eof()

        sending = asyncio.create_task(send())
        seen = b""
        while piece := await stream.read():
            seen += piece
        await sending
        stream.abort()
        stream.abort()
        assert seen == data[::-1]


@pytest.mark.parametrize("node_id", [HERE, ELSEWHERE])
async def test_whoever_hangs_up_leaves_no_connection_behind(way: Way, sandbox: Sandbox, node_id: str) -> None:
    far = through(way, sandbox, node_id)
    hold = "import socket; s = socket.create_server(('127.0.0.1', 8765)); print('up', flush=True); held = []\n"
    hold += "while True: held.append(s.accept())"
    async with far.agent.start_process(ProcessSpec("python", ("-c", hold))) as events:
        await anext(events)
        await anext(events)

        pid = sandbox.session._agent.pid
        assert pid is not None
        before = descriptors(pid)
        for half_closed_before in (False, True):
            stream = await far.agent.dial(8765)
            await stream.write(b"x")
            if half_closed_before:
                await stream.write_eof()
            stream.abort()

            await eventually(lambda: descriptors(pid) == before, 5.0, lambda: (before, descriptors(pid)))


@pytest.mark.parametrize("node_id", [HERE, ELSEWHERE])
async def test_the_end_of_the_sandbox_cuts_what_runs(way: Way, sandbox: Sandbox, node_id: str) -> None:
    far = through(way, sandbox, node_id)
    async with far.agent.start_process(ProcessSpec("/bin/sleep", ("60",))) as events:
        await anext(events)
        closing = asyncio.create_task(sandbox.session.close(SandboxLost("s1", "killed")))
        with pytest.raises(SandboxLost):
            await anext(events)
        await closing
    with pytest.raises(Stale):
        await open_connection(SECRET, "s1", way[1], node_id)


@pytest.mark.parametrize("node_id", [HERE, ELSEWHERE])
@pytest.mark.parametrize(("secret", "sandbox_id"), [(b"other", "s1"), (b"", "s1"), (SECRET, "s2")])
async def test_strangers_get_nothing(way: Way, secret: bytes, sandbox_id: str, node_id: str) -> None:
    with pytest.raises(Stale):
        await open_connection(secret, sandbox_id, way[1], node_id)


async def test_nothing_listens_for_other_nodes_until_asked(way: Way) -> None:
    with pytest.raises(Stale):
        await open_connection(SECRET, "s1", AgentEndpoint(HERE, way[1].unix_name), ELSEWHERE)


@pytest.mark.parametrize(
    "words", [b"", b"\xff" * 320, b"\x02s1" + b"x" * 64, b"\x01\xff" + b"x" * 64, b"GET / HTTP/1.1\r\n"]
)
async def test_noise_is_hung_up_on(way: Way, words: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", way[1].port)
    await reader.readexactly(handshake.NONCE_BYTES)
    writer.write(words)
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_strangers_are_bounded(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_STRANGERS", 3)
    silent = [await asyncio.open_connection("127.0.0.1", way[1].port) for _ in range(3)]
    for reader, _ in silent:
        await reader.readexactly(handshake.NONCE_BYTES)
    reader, writer = await asyncio.open_connection("127.0.0.1", way[1].port)
    assert await reader.read() == b""
    for _, one in [*silent, (reader, writer)]:
        one.close()
        await one.wait_closed()


async def test_who_says_nothing_is_cut_off(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_LIMIT_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", way[1].port)
    assert len(await reader.read()) == handshake.NONCE_BYTES
    writer.close()
    await writer.wait_closed()


def test_a_digest_is_for_one_handshake_and_one_side() -> None:
    ours, theirs = b"a" * 32, b"b" * 32
    words = handshake.client_words(SECRET, "s1", theirs, ours)
    assert len(words) == 1 + handshake.rest_bytes(words[:1])
    claim = handshake.parse(words[:1], words[1:])
    assert claim.sandbox_id == "s1"
    assert handshake.is_of_pool(SECRET, claim, theirs)
    assert not handshake.is_of_pool(SECRET, claim, ours)
    assert not handshake.is_of_pool(b"other", claim, theirs)
    assert not handshake.is_of_pool(b"", claim, theirs)
    said = handshake.verdict(SECRET, handshake.GONE, claim, theirs)
    assert handshake.answer_of(SECRET, said, "s1", theirs, ours) == handshake.GONE
    for forged in (handshake.ACCEPTED + said[1:], handshake.ACCEPTED + claim.digest, b"x" + said[1:]):
        with pytest.raises(ValueError, match="not of this pool"):
            handshake.answer_of(SECRET, forged, "s1", theirs, ours)
    for name in ("", "x" * 256, "é"):
        with pytest.raises(ValueError):  # noqa: PT011
            handshake.client_words(SECRET, name, theirs, ours)
