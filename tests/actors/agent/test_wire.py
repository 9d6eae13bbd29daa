"""The two ends of the wire agree, and neither believes what it is told."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybox_actors.agent import answers, wire
from raybox_actors.agent.client import AgentClient
from raybox_actors.agent.errors import AgentError
from raybox_actors.agent.values import ProcessSelector, ProcessSpec
from raybox_actors.agent.wire import AgentConnection
from raybox_actors.errors import SandboxLost

pytestmark = pytest.mark.anyio

KINDS = [wire.OK, wire.FAILED, wire.END, wire.DATA, wire.ENTRIES, wire.EVENTS, wire.STARTED, wire.STDOUT, wire.STDERR,
         wire.TERMINAL, wire.ENDED, wire.HEADER, b"?", b"\0"]  # fmt: skip
ENTRY: dict[str, Any] = {
    "name": "n", "path": "/n", "file_type": "file", "size_bytes": 1, "mode": 0o644, "permissions": "-", "owner": "o",
    "group": "g", "modified_at_s": 1.5, "symlink_target": None, "metadata": {},
}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*ENTRY, "pid", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def test_both_ends_name_the_frames_alike() -> None:
    guest = Path(wire.__file__).parents[1] / "guest" / "agent_wire.py"
    found: dict[str, object] = {}
    for node in ast.parse(guest.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            found |= dict(zip((t.id for t in node.targets[0].elts), ast.literal_eval(node.value), strict=True))  # type: ignore[attr-defined]
    assert len(found) == 13
    assert {name: getattr(wire, name) for name in found} == found
    assert len(set(found.values())) == len(found)
    text = guest.read_text()
    assert "MAX_DATA_BYTES = 256 * 1024" in text
    assert "MAX_HEADER_BYTES = 4 * 1024 * 1024" in text
    codes = {
        word for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Dict) for word in map(_text, node.values)
    }
    assert {code for code in codes if code} <= wire.CODES


def _text(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


async def nothing() -> None: ...


@contextlib.asynccontextmanager
async def played(said: bytes, *, end: bool = True, piece: int = 1 << 20) -> AsyncIterator[AgentClient]:
    """A client whose agent says these bytes to everything, in pieces, then hangs up."""
    others: list[asyncio.Task[None]] = []

    async def play(sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError), sock:
            await loop.sock_recv(sock, 65536)
            for start in range(0, len(said), piece):
                await loop.sock_sendall(sock, said[start : start + piece])
            while not end and await loop.sock_recv(sock, 65536):
                pass

    async def connect() -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        others.append(asyncio.create_task(play(theirs)))
        return ours

    yield AgentClient(connect, nothing)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def drained(opened: Any) -> None:
    async with opened as found:
        async for _ in found:
            pass


async def written(agent: AgentClient) -> None:
    async with agent.open_write("x", "user") as writer:
        await writer.write(b"x" * 300_000)
        await writer.commit()


CALLS: dict[str, Callable[[AgentClient], Awaitable[Any]]] = {
    "stat": lambda agent: agent.stat("x", "user"),
    "list_dir": lambda agent: agent.list_dir("x", 1, "user"),
    "remove": lambda agent: agent.remove("x", "user"),
    "read": lambda agent: drained(agent.open_read("x", "user")),
    "write": written,
    "watch": lambda agent: drained(agent.watch("x", "user", recursive=True, include_entry=True)),
    "create_watcher": lambda agent: agent.create_watcher("x", "user", recursive=True, include_entry=True),
    "watcher_events": lambda agent: agent.watcher_events("x"),
    "start": lambda agent: drained(agent.start_process(ProcessSpec("x"))),
    "connect": lambda agent: drained(agent.connect_process(ProcessSelector(pid=1))),
    "list": lambda agent: agent.list_processes(),
    "input": lambda agent: agent.send_input(ProcessSelector(pid=1), b"x", pty=False),
    "dial": lambda agent: agent.dial(80),
}

frames = st.lists(
    st.builds(
        wire.frame,
        st.sampled_from(KINDS),
        st.binary(max_size=40) | st.builds(lambda value: json.dumps(value).encode(), JSON | st.just(ENTRY)),
    ),
    max_size=5,
).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(CALLS)), said=frames | st.binary(max_size=60), piece=st.sampled_from([1, 3, 1 << 20])
)
def test_whatever_an_agent_says_is_an_answer_or_an_agent_error(name: str, said: bytes, piece: int) -> None:
    async def ask() -> None:
        async with asyncio.timeout(20), played(said, piece=piece) as agent:
            with contextlib.suppress(AgentError):
                found = await CALLS[name](agent)
                if name == "dial":
                    found.abort()

    asyncio.run(ask())


@settings(max_examples=300, deadline=None)
@given(JSON, st.sampled_from([answers.entry, answers.entries, answers.watch_events, answers.processes, answers.pid,
                              answers.ended, answers.spec]))  # fmt: skip
def test_answers_are_values_or_agent_errors(said: Any, make: Callable[[Any], object]) -> None:
    with contextlib.suppress(AgentError):
        answers.checked(make, said)


@pytest.mark.parametrize(
    "changes",
    [{"file_type": "device"}, {"size_bytes": -1}, {"size_bytes": True}, {"size_bytes": 1 << 63}, {"mode": 0o10000},
     {"name": 1}, {"modified_at_s": "now"}, {"modified_at_s": float("inf")}, {"modified_at_s": float("nan")},
     {"metadata": {"a": 1}}, {"metadata": 3}, {"symlink_target": 4}],
)  # fmt: skip
def test_entries_are_checked(changes: dict[str, Any]) -> None:
    assert answers.checked(answers.entry, ENTRY).name == "n"
    with pytest.raises(AgentError, match="makes no sense"):
        answers.checked(answers.entry, {**ENTRY, **changes})


def test_names_that_are_no_text_become_fit_for_the_wire() -> None:
    assert answers.entry({**ENTRY, "name": "a\udcff"}).name.encode() == b"a?"


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (b"O\xff\xff\xff\xff", "a frame of 4294967295 bytes"),
        (b"D\x00\x04\x00\x01", "a frame of 262145 bytes"),
        (b"O\x00\x80\x00\x01", "a frame of 8388609 bytes"),
        (wire.frame(wire.OK, b"[" * 100_000), "no JSON"),
        (wire.frame(wire.OK, b"[" + b"[]," * 600_000 + b"[]]"), "too many values"),
        (wire.frame(wire.FAILED, b'{"code": "made_up"}'), "an error that is none"),
        (wire.frame(wire.FAILED, b"[]"), "an error that is none"),
        (wire.frame(wire.END), "in place of"),
    ],
)
async def test_bounds_and_forgeries(said: bytes, what: str) -> None:
    async with played(said) as agent:
        with pytest.raises(AgentError, match=what) as caught:
            await agent.stat("x", "user")
    assert caught.value.code == "internal"


async def test_an_endless_list_is_given_up() -> None:
    batch = wire.json_frame(wire.ENTRIES, [ENTRY] * 2000)
    async with played(batch * 60) as agent:
        with pytest.raises(AgentError, match="more than a list"):
            await agent.list_dir("x", 1, "user")


async def test_an_answer_before_the_end_of_a_file_is_an_error() -> None:
    early = wire.json_frame(wire.OK, {}) + wire.json_frame(wire.OK, ENTRY)
    async with played(early, end=False) as agent:
        with pytest.raises(AgentError, match="before the end"):
            await dripped(agent)


async def dripped(agent: AgentClient) -> None:
    async with agent.open_write("x", "user") as writer:
        for _ in range(100):
            await writer.write(b"x")
            await asyncio.sleep(0)


async def test_a_long_message_is_cut() -> None:
    async with played(wire.json_frame(wire.FAILED, {"code": "not_found", "message": "x" * 100_000})) as agent:
        with pytest.raises(AgentError) as caught:
            await agent.stat("x", "user")
    assert len(str(caught.value)) == wire.MAX_MESSAGE_CHARS


async def test_the_reason_of_a_cut_is_asked_for() -> None:
    async def explain() -> None:
        raise SandboxLost("s", "timeout")

    ours, theirs = socket.socketpair()
    connection = AgentConnection(ours, explain)
    theirs.close()
    for call in (connection.receive(), connection.send(b"x")):
        with pytest.raises(SandboxLost):
            await call
    connection.close()
    connection.close()
    with pytest.raises(SandboxLost):
        await connection.read(1)
    await asyncio.sleep(0)


async def test_closing_wakes_who_waits() -> None:
    ours, theirs = socket.socketpair()
    connection = AgentConnection(ours, nothing)
    waiting = asyncio.create_task(connection.receive())
    await asyncio.sleep(0)
    connection.close()
    with pytest.raises(AgentError) as caught:
        await waiting
    assert caught.value.code == "unavailable"
    theirs.close()
