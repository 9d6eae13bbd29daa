"""Commands and terminals of both colours against a real server that plays recorded answers."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import raybox
from raybox import AsyncSandbox, CommandExitException, PtySize, Sandbox
from raybox._envd_requests import DEADLINE_GRACE_S
from tests.sdk.player import (
    ABORT,
    CLOSED,
    GONE,
    HANG,
    SANDBOX_ID,
    UNAUTHORIZED,
    Answer,
    Player,
    ended,
    envelope,
    messages,
    reply,
    rpc_error,
)
from tests.support.wait import wait_until

pytestmark = [
    pytest.mark.anyio,
    # Connections that are cut while somebody reads: asyncio may collect one before its loop has run once more.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

Done = Callable[[Any], Awaitable[Any]]
PATH = "/process.Process/"


def event(**event: Any) -> dict[str, Any]:
    return {"event": event}


def data(**pieces: bytes) -> dict[str, Any]:
    return event(data={kind: base64.b64encode(piece).decode() for kind, piece in pieces.items()})


START = event(start={"pid": 42})
OK = event(end={"exited": True, "status": "exit status 0"})
FAILED = event(end={"exited": True, "exitCode": 3, "status": "exit status 3", "error": "exit status 3"})
KILLED = event(end={"exitCode": -1, "status": "signal: killed", "error": "signal: killed"})
ECHO = messages(START, data(stdout=b"hi\n"), data(stderr=b"ho"), OK, ended())


def seen(player: Player, method: str) -> Any:
    """The last request to this method, and its message."""
    asked = [one for one in player.seen if one.path == PATH + method][-1]
    body = asked.body
    if asked.headers["content-type"] == "application/connect+json":
        assert int.from_bytes(body[1:5], "big") == len(body) - 5
        body = body[5:]
    return asked, json.loads(body)


@pytest.fixture
async def sandbox(colour: Any, options: dict[str, Any], player: Player, done: Done) -> Any:
    player.on("POST", PATH + "Start", ECHO)
    return await done(colour.create(**options))


async def finished(handle: Any, done: Done) -> Any:
    return await done(handle.wait())


# --- running ---------------------------------------------------------------------------------------------------------


async def test_run_sends_what_the_contract_says(sandbox: Any, player: Player, done: Done) -> None:
    result = await done(sandbox.commands.run("echo hi", envs={"A": "1"}, user="root", cwd="x", timeout=7))
    assert result == raybox.CommandResult(stderr="ho", stdout="hi\n", exit_code=0, error=None)
    asked, message = seen(player, "Start")
    assert message == {
        "process": {"cmd": "/bin/bash", "args": ["-l", "-c", "echo hi"], "envs": {"A": "1"}, "cwd": "x"},
        "stdin": False,
    }
    assert asked.body[0] == 0
    assert asked.headers["connect-protocol-version"] == "1"
    assert asked.headers["connect-timeout-ms"] == "7000"
    assert asked.headers["keepalive-ping-interval"] == "50"
    assert asked.headers["authorization"] == "Basic " + base64.b64encode(b"root:").decode()
    assert asked.headers["e2b-sandbox-id"] == SANDBOX_ID
    assert asked.headers["e2b-sandbox-port"] == "49983"
    assert asked.headers["x-access-token"] == "envd-token"
    assert "x-api-key" not in asked.headers


async def test_defaults_of_run(sandbox: Any, player: Player, done: Done) -> None:
    await done(sandbox.commands.run("true", stdin=True, timeout=0))
    asked, message = seen(player, "Start")
    assert message["stdin"] is True
    assert "cwd" not in message["process"]
    assert "authorization" not in asked.headers
    assert "connect-timeout-ms" not in asked.headers
    await done(sandbox.commands.run("true"))
    assert seen(player, "Start")[0].headers["connect-timeout-ms"] == "60000"


async def test_output_reaches_its_callbacks_in_order(sandbox: Any, player: Player, done: Done) -> None:
    whole = envelope(data(stdout="ä€😀".encode()))
    player.on(
        "POST",
        PATH + "Start",
        messages(
            {"event": {"keepalive": {}}},
            START,
            event(keepalive={}),
            whole[:3],
            whole[3:11],
            whole[11:],
            data(stderr=b"\xc3"),
            event(surprise={}),
            data(stderr=b"\xa4!"),
            data(stdout=b"a\xff\xe2\x82"),
            OK,
            ended(),
        ),
    )
    heard: list[str] = []
    result = await done(
        sandbox.commands.run(
            "x", on_stdout=lambda text: heard.append("o" + text), on_stderr=lambda text: heard.append("e" + text)
        )
    )
    assert heard == ["oä€😀", "eä!", "oa\ufffd", "o\ufffd"]
    assert (result.stdout, result.stderr) == ("ä€😀a\ufffd\ufffd", "ä!")


async def test_output_that_is_not_kept(sandbox: Any, player: Player, done: Done) -> None:
    heard: list[str] = []
    result = await done(sandbox.commands.run("x", on_stdout=heard.append, retain_output=False))
    assert (heard, result.stdout, result.stderr) == (["hi\n"], None, None)


@pytest.mark.parametrize(("end", "code", "error"), [(FAILED, 3, "exit status 3"), (KILLED, -1, "signal: killed")])
async def test_other_exit_codes_raise(
    sandbox: Any, player: Player, done: Done, end: object, code: int, error: str
) -> None:
    player.on("POST", PATH + "Start", messages(START, data(stderr=b"oops"), end, ended()))
    with pytest.raises(CommandExitException) as caught:
        await done(sandbox.commands.run("x"))
    assert (caught.value.exit_code, caught.value.error, caught.value.stderr) == (code, error, "oops")
    assert (caught.value.kind, caught.value.should_mask_sample) == ("user_code", False)


async def test_connections_are_used_again(colour: Any, player: Player, done: Done) -> None:
    player.on("POST", PATH + "Start", ECHO)
    sandbox = await done(colour.create(**player.options))
    player.connections.clear()
    for _ in range(5):
        await done(sandbox.commands.run("true"))
    assert len(player.connections) == 1


async def test_a_callback_that_raises_ends_the_call(sandbox: Any, player: Player, done: Done) -> None:
    player.on("POST", PATH + "Start", messages(START, data(stdout=b"x"), HANG))

    def fail(_: str) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await done(sandbox.commands.run("x", on_stdout=fail))
    assert await asyncio.to_thread(player.client_left.wait, 10)


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "text", "expected", "kind", "mask"),
    [
        ("invalid_argument", "cwd '/x' does not exist", raybox.InvalidArgumentException, "bad_request", False),
        ("unauthenticated", "invalid username: 'x'", raybox.AuthenticationException, "auth", True),
        ("deadline_exceeded", "too late", raybox.TimeoutException, "timeout", False),
        ("resource_exhausted", "many", raybox.RateLimitException, "capacity", True),
        ("unavailable", "The sandbox was not found", raybox.SandboxNotRunningException, "sandbox_lost", True),
        ("unavailable", "later", raybox.SandboxUnreachableException, "internal", True),
        ("internal", "oops", raybox.SandboxException, "internal", True),
        ("what_is_this", "oops", raybox.SandboxException, "internal", True),
    ],
)
async def test_error_at_the_end_of_the_stream(
    sandbox: Any,
    player: Player,
    done: Done,
    code: str,
    text: str,
    expected: type[raybox.RayboxError],
    kind: str,
    mask: bool,
) -> None:
    player.on("POST", PATH + "Start", messages(ended({"code": code, "message": text})))
    with pytest.raises(expected, match=text) as caught:
        await done(sandbox.commands.run("x"))
    assert type(caught.value) is expected
    assert (caught.value.kind, caught.value.should_mask_sample) == (kind, mask)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (GONE, raybox.SandboxNotRunningException),
        (CLOSED, raybox.SandboxUnreachableException),
        (UNAUTHORIZED, raybox.AuthenticationException),
        (reply(409, {"code": 409, "message": "still transitioning"}), raybox.SandboxException),
        (reply(500, b"<html>"), raybox.SandboxException),
    ],
    ids=["gone", "closed", "unauthorized", "transitioning", "html"],
)
async def test_gateways_answers(sandbox: Any, player: Player, done: Done, answer: Answer, expected: type) -> None:
    player.on("POST", PATH + "Start", answer)
    player.on("POST", PATH + "List", answer)
    calls: list[Callable[[], Any]] = [lambda: sandbox.commands.run("x"), lambda: sandbox.commands.list()]
    for call in calls:
        with pytest.raises(raybox.RayboxError) as caught:
            await done(call())
        assert type(caught.value) is expected


@pytest.mark.parametrize("cut", [0, 3, 30])
async def test_stream_that_is_cut_because_the_sandbox_ended(sandbox: Any, player: Player, done: Done, cut: int) -> None:
    player.on("POST", PATH + "Start", messages(START, data(stdout=b"half"), envelope(OK)[:cut], ABORT))
    player.on("GET", "/health", GONE)
    heard: list[str] = []
    with pytest.raises(raybox.SandboxNotRunningException, match="ended during the command"):
        await done(sandbox.commands.run("x", on_stdout=heard.append))
    assert heard == ["half"]


async def test_stream_that_is_cut_while_the_sandbox_runs(sandbox: Any, player: Player, done: Done) -> None:
    player.on("POST", PATH + "Start", messages(START, ABORT))
    with pytest.raises(raybox.SandboxException, match=r"stopped before its end.*sandbox is running") as caught:
        await done(sandbox.commands.run("x"))
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "answer",
    [
        messages(START, ended()),
        messages(START),
        messages(OK, ended()),
        messages(ended()),
        messages(START, {"event": {"data": {"stdout": "%"}}}, ended()),
        messages(START, {"event": 5}, ended()),
        messages(START, {}, ended()),
        messages(b"\x01\0\0\0\x02{}"),
        messages(b"\0\xff\xff\xff\xff"),
        messages(b"\0\0\0\0\x02[]"),
        messages(b"\0\0\0\0\x01{"),
        Answer(200, (b"<html>too short to be one, or not",)),
        Answer(200, (b"",)),
    ],
)
async def test_what_is_no_stream_of_a_command(sandbox: Any, player: Player, done: Done, answer: Answer) -> None:
    player.on("POST", PATH + "Start", answer)
    with pytest.raises(raybox.SandboxException) as caught:
        await done(sandbox.commands.run("x"))
    assert caught.value.kind == "internal"


async def test_silence_meets_the_timeout_of_the_command(
    sandbox: Any, player: Player, done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raybox._envd_requests.DEADLINE_GRACE_S", 0.1)
    player.on("POST", PATH + "Start", messages(START, HANG))
    with pytest.raises(raybox.TimeoutException, match="command took longer") as caught:
        await done(sandbox.commands.run("x", timeout=0.1))
    assert not caught.value.should_mask_sample
    assert await asyncio.to_thread(player.client_left.wait, 10)
    assert DEADLINE_GRACE_S < 5


@pytest.mark.parametrize(
    "call",
    [
        lambda commands: commands.run(5),
        lambda commands: commands.run("a\0b"),
        lambda commands: commands.run("x", cwd=b"/"),
        lambda commands: commands.run("x", user="a:b"),
        lambda commands: commands.run("x", timeout=-1),
        lambda commands: commands.run("x", envs={"A": object()}),
        lambda commands: commands.connect("5"),
        lambda commands: commands.kill(0),
        lambda commands: commands.send_stdin(5, 7),
    ],
)
async def test_what_cannot_be_meant_is_refused_here(sandbox: Any, player: Player, done: Done, call: Any) -> None:
    player.seen.clear()
    with pytest.raises(raybox.InvalidArgumentException):
        await done(call(sandbox.commands))
    assert player.seen == []


# --- in the background -----------------------------------------------------------------------------------------------


async def test_background(sandbox: Any, player: Player, done: Done) -> None:
    heard: list[str] = []
    handle = await done(sandbox.commands.run("x", background=True, on_stdout=heard.append))
    assert handle.pid == 42
    for _ in range(2):
        result = await done(handle.wait())
        assert (result.stdout, result.stderr, result.exit_code) == ("hi\n", "ho", 0)
    assert heard == ["hi\n"]
    assert (handle.stdout, handle.stderr, handle.exit_code, handle.error) == ("hi\n", "ho", 0, None)


async def test_iterating(sandbox: Any, colour: Any, player: Player) -> None:
    if colour is Sandbox:
        handle = sandbox.commands.run("x", background=True)
        assert handle.exit_code is None
        assert list(handle) == [("hi\n", None, None), (None, "ho", None)]
        assert list(handle) == []
        assert handle.exit_code == 0


async def test_what_is_done_with_a_handle(sandbox: Any, player: Player, done: Done) -> None:
    for method in ("SendInput", "CloseStdin", "SendSignal", "Update"):
        player.on("POST", PATH + method, reply(200, {}))
    player.on("POST", PATH + "Start", messages(START, HANG))
    handle = await done(sandbox.commands.run("cat", background=True, stdin=True, timeout=0))
    selector = {"process": {"pid": 42}}
    await done(handle.send_stdin("ä"))
    assert seen(player, "SendInput")[1] == selector | {"input": {"stdin": base64.b64encode("ä".encode()).decode()}}
    await done(sandbox.commands.send_stdin(42, b"\xff", request_timeout=3))
    asked, message = seen(player, "SendInput")
    assert message["input"] == {"stdin": "/w=="}
    assert asked.headers["connect-timeout-ms"] == "3000"
    await done(handle.close_stdin())
    assert seen(player, "CloseStdin")[1] == selector
    assert await done(handle.kill()) is True
    assert seen(player, "SendSignal")[1] == selector | {"signal": "SIGNAL_SIGKILL"}
    player.on("POST", PATH + "SendSignal", rpc_error(404, "not_found", "process with pid 42 not found"))
    assert await done(handle.kill()) is False
    assert await done(sandbox.commands.kill(42)) is False
    await done(handle.disconnect())
    await done(handle.disconnect())
    assert await asyncio.to_thread(player.client_left.wait, 10)
    with pytest.raises(raybox.SandboxException, match="disconnected"):
        await done(handle.wait())


async def test_disconnecting_while_somebody_waits(sandbox: Any, colour: Any, player: Player, done: Done) -> None:
    player.on("POST", PATH + "Start", messages(START, HANG))
    handle = await done(sandbox.commands.run("x", background=True))
    waiting = asyncio.ensure_future(asyncio.to_thread(handle.wait) if colour is Sandbox else handle.wait())
    if colour is Sandbox:
        await asyncio.to_thread(wait_until, handle._messages._reading.locked, 10)
    await done(asyncio.to_thread(handle.disconnect) if colour is Sandbox else handle.disconnect())
    with pytest.raises(raybox.SandboxException, match="disconnected"):
        await waiting


async def test_waiting_may_be_given_up_and_begun_again(player: Player) -> None:
    release = threading.Event()
    player.on("POST", PATH + "Start", messages(START, data(stdout=b"x"), release, OK, ended()))
    sandbox = await AsyncSandbox.create(**player.options)
    handle = await sandbox.commands.run("x", background=True)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(handle.wait(), 0.01)
    release.set()
    assert (await handle.wait()).stdout == "x"


async def test_coroutines_as_callbacks_are_awaited(player: Player) -> None:
    player.on("POST", PATH + "Start", ECHO)
    sandbox = await AsyncSandbox.create(**player.options)
    heard = []

    async def hear(text: str) -> None:
        await asyncio.sleep(0)
        heard.append(text)

    await sandbox.commands.run("x", on_stdout=hear, on_stderr=hear)
    assert heard == ["hi\n", "ho"]


async def test_connecting(sandbox: Any, player: Player, done: Done) -> None:
    player.on(
        "POST",
        PATH + "Connect",
        messages(START, data(stdout=b"later"), FAILED, ended()),
        messages(ended({"code": "not_found", "message": "process with pid 43 not found"})),
    )
    handle = await done(sandbox.commands.connect(42, timeout=9))
    asked, message = seen(player, "Connect")
    assert message == {"process": {"pid": 42}}
    assert asked.headers["connect-timeout-ms"] == "9000"
    with pytest.raises(CommandExitException) as caught:
        await done(handle.wait())
    assert caught.value.stdout == "later"
    with pytest.raises(raybox.NotFoundException, match="pid 43") as missing:
        await done(sandbox.commands.connect(43))
    assert type(missing.value) is raybox.NotFoundException


async def test_listing(sandbox: Any, player: Player, done: Done) -> None:
    listed = {"config": {"cmd": "/bin/bash", "args": ["-l"], "envs": {"A": "1"}, "cwd": "/x"}, "pid": 5, "tag": "t"}
    player.on("POST", PATH + "List", reply(200, {"processes": [listed, {"pid": 6}]}), reply(200, {}), reply(200, [5]))
    assert await done(sandbox.commands.list()) == [
        raybox.ProcessInfo(5, "t", "/bin/bash", ["-l"], {"A": "1"}, "/x"),
        raybox.ProcessInfo(6, None, "", [], {}, None),
    ]
    assert await done(sandbox.commands.list()) == []
    with pytest.raises(raybox.SandboxException, match="cannot be used"):
        await done(sandbox.commands.list())


async def test_stream_of_input(sandbox: Any, colour: Any, player: Player, done: Done) -> None:
    player.on("POST", PATH + "StreamInput", messages({}, ended()))
    pieces = ["a", b"\xff" * 40_000, ""]
    if colour is Sandbox:
        sandbox.commands.stream_input(42, iter(pieces))
    else:
        async with sandbox.commands.stream_input(42) as handle:
            for piece in pieces:
                await handle.send(piece)
        with pytest.raises(raybox.SandboxException, match="closed"):
            await handle.send("more")
    asked = player.seen[-1]
    assert asked.headers["transfer-encoding"] == "chunked"
    assert asked.headers["connect-timeout-ms"] == "60000"
    found, body = [], asked.body
    while body:
        length = int.from_bytes(body[1:5], "big")
        found.append(json.loads(body[5 : 5 + length]))
        body = body[5 + length :]
    assert found[0] == {"start": {"process": {"pid": 42}}}
    sent = [base64.b64decode(one["data"]["input"]["stdin"]) for one in found[1:]]
    assert b"".join(sent) == b"a" + b"\xff" * 40_000
    assert max(map(len, sent)) == 32 * 1024


async def test_stream_of_input_to_nobody(sandbox: Any, colour: Any, player: Player) -> None:
    error = ended({"code": "not_found", "message": "process with pid 42 not found"})
    player.on("POST", PATH + "StreamInput", messages(error))

    async def send_one() -> None:
        if colour is Sandbox:
            sandbox.pty.stream_input(42, ["a"])
        else:
            async with sandbox.pty.stream_input(42) as handle:
                await handle.send("a")

    with pytest.raises(raybox.NotFoundException):
        await send_one()
    if colour is Sandbox:
        with pytest.raises(raybox.InvalidArgumentException):
            sandbox.commands.stream_input(42, "text")


# --- terminals -------------------------------------------------------------------------------------------------------


async def test_pty(sandbox: Any, colour: Any, player: Player, done: Done) -> None:
    player.on("POST", PATH + "Start", messages(START, data(pty=b"$ \xff"), KILLED, ended()))
    for method in ("SendInput", "SendSignal", "Update"):
        player.on("POST", PATH + method, reply(200, {}))
    heard: list[bytes] = []
    on_data = () if colour is Sandbox else (heard.append,)
    handle = await done(sandbox.pty.create(PtySize(rows=5, cols=9), *on_data, cwd="/x", envs={"TERM": "dumb"}))
    assert seen(player, "Start")[1] == {
        "process": {
            "cmd": "/bin/bash",
            "args": ["-i", "-l"],
            "envs": {"TERM": "dumb", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"},
            "cwd": "/x",
        },
        "pty": {"size": {"rows": 5, "cols": 9}},
    }
    await done(handle.send_stdin(b"ls\n"))
    assert seen(player, "SendInput")[1]["input"] == {"pty": "bHMK"}
    await done(sandbox.pty.send_stdin(42, b"x"))
    assert seen(player, "SendInput")[1]["input"] == {"pty": "eA=="}
    await done(sandbox.pty.resize(42, PtySize(6, 7)))
    assert seen(player, "Update")[1] == {"process": {"pid": 42}, "pty": {"size": {"rows": 6, "cols": 7}}}
    assert await done(sandbox.pty.kill(42)) is True
    with pytest.raises(CommandExitException):
        await done(handle.wait(heard.append) if colour is Sandbox else handle.wait())
    assert heard == [b"$ \xff"]
    player.on("POST", PATH + "Connect", messages(START, OK, ended()))
    again = await done(sandbox.pty.connect(42, *on_data))
    await done(again.wait())
    await done(again.send_stdin(b"y"))
    assert seen(player, "SendInput")[1]["input"] == {"pty": "eQ=="}
    with pytest.raises(raybox.InvalidArgumentException):
        await done(sandbox.pty.resize(42, PtySize(0, 7)))
