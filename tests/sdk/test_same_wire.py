"""Both clients, ours and the E2B SDK's, on one recorded server: what they ask, and what they make of the answers."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import e2b
import pytest

import raybox
from tests.sdk.player import (
    CREATED,
    GONE,
    KEY,
    SANDBOX_ID,
    UNAUTHORIZED,
    Player,
    Seen,
    ended,
    messages,
    reply,
    rpc,
    rpc_error,
)
from tests.sdk.test_commands import FAILED, KILLED, OK, START, data
from tests.sdk.test_files import ENTRY as PRECISE
from tests.sdk.test_files import EVENTS, WRITTEN

pytestmark = pytest.mark.anyio

OFFICIAL = importlib.import_module("e2b_code_interpreter")
CLIENTS = {
    "sync": (raybox.Sandbox, OFFICIAL.Sandbox),
    "async": (raybox.AsyncSandbox, OFFICIAL.AsyncSandbox),
}
#: Headers that mean something to the agent.
HEADERS = {
    "authorization",
    "connect-protocol-version",
    "content-encoding",
    "e2b-sandbox-id",
    "e2b-sandbox-port",
    "keepalive-ping-interval",
    "x-access-token",
    "x-metadata-a",
}
#: To the microsecond: of nanoseconds we drop the rest, and they round it.
ENTRY = PRECISE | {"modifiedTime": "2025-01-02T03:04:05.123456Z"}
FILES = "/filesystem.Filesystem/"
PROCESS = "/process.Process/"

Call = Callable[[Any], Any]

CASES: dict[str, Call] = {
    "read": lambda one: one.files.read("a b/ü"),
    "read bytes": lambda one: one.files.read("a", "bytes", user="root"),
    "write": lambda one: one.files.write("a b/ü.txt", "héllo"),
    "write as root": lambda one: one.files.write("/a", b"\0", user="root", metadata={"a": "b"}),
    "write bare": lambda one: one.files.write("/a", b"x", use_octet_stream=True),
    "write several": lambda one: one.files.write_files([{"path": "a/ü", "data": "1"}, {"path": "b", "data": b"2"}]),
    "write none": lambda one: one.files.write_files([]),
    "list": lambda one: one.files.list("~", depth=2, user="root"),
    "exists": lambda one: one.files.exists("a"),
    "info": lambda one: one.files.get_info("a"),
    "rename": lambda one: one.files.rename("a", "b"),
    "remove": lambda one: one.files.remove("a"),
    "make_dir": lambda one: one.files.make_dir("a"),
    "run": lambda one: one.commands.run("echo 'ä'"),
    "run with all": lambda one: one.commands.run(
        "x", envs={"A": "1"}, user="root", cwd="/x", stdin=True, timeout=7, on_stdout=len, on_stderr=len
    ),
    "run without output": lambda one: one.commands.run("x", retain_output=False, timeout=0),
    "processes": lambda one: one.commands.list(),
    "kill": lambda one: one.commands.kill(42),
    "send": lambda one: one.commands.send_stdin(42, "ä"),
    "send to a terminal": lambda one: one.pty.send_stdin(42, b"\xff"),
    "close": lambda one: one.commands.close_stdin(42),
    "resize": lambda one: one.pty.resize(42, raybox.PtySize(rows=5, cols=6)),
    "kill a terminal": lambda one: one.pty.kill(42),
    "metrics": lambda one: one.get_metrics(),
    "network": lambda one: one.update_network({"allow_out": ["1.1.1.1"], "allow_internet_access": False}),
}


def script(player: Player, failing: str | None) -> None:
    """Answers to all of the cases; all the same failure if there is one."""
    run = messages(START, data(stdout=b"out\n"), data(stderr=b"err"), OK, ended())
    answers: dict[tuple[str, str], Any] = {
        ("GET", "/files"): reply(200, "cöntent".encode()),
        ("POST", "/files"): reply(200, [WRITTEN]),
        ("POST", FILES + "ListDir"): rpc({"entries": [ENTRY, ENTRY | {"type": "FILE_TYPE_DIRECTORY"}]}),
        ("POST", FILES + "Stat"): rpc({"entry": ENTRY | {"symlinkTarget": "/x", "metadata": {"a": "b"}}}),
        ("POST", FILES + "Move"): rpc({"entry": ENTRY}),
        ("POST", FILES + "Remove"): rpc({}),
        ("POST", FILES + "MakeDir"): rpc({"entry": ENTRY}),
        ("POST", PROCESS + "Start"): run,
        ("POST", PROCESS + "List"): rpc({"processes": [{"config": {"cmd": "x"}, "pid": 5}]}),
        **{("POST", PROCESS + method): rpc({}) for method in ("SendSignal", "SendInput", "CloseStdin", "Update")},
        ("GET", f"/sandboxes/{SANDBOX_ID}/metrics"): reply(200, []),
        ("PUT", f"/sandboxes/{SANDBOX_ID}/network"): reply(204),
    }
    kinds = {"gone": GONE, "unauthorized": UNAUTHORIZED}
    codes = {"not_found": 404, "invalid_argument": 400, "already_exists": 409, "internal": 500, "unauthenticated": 401}
    for (method, path), answer in answers.items():
        if failing in kinds:
            answer = kinds[failing]
        elif failing is not None:
            answer = rpc_error(codes[failing], failing, "told so")
            if path.endswith("Start"):
                answer = messages(ended({"code": failing, "message": "told so"}))
            if path == "/files":
                answer = reply(codes[failing], {"code": codes[failing], "message": "told so"})
        player.on(method, path, answer)
    player.on("POST", "/v2/sandboxes", reply(201, CREATED))
    player.on("GET", "/health", GONE if failing == "gone" else reply(204))


def plain(asked: Seen) -> Any:
    """What a request means."""
    body: Any = asked.body
    kind = asked.headers.get("content-type", "")
    if kind.startswith("multipart/"):
        boundary = kind.split("boundary=")[1]
        body = [part.split(b"\r\n\r\n", 1) for part in body.split(b"--" + boundary.encode())[1:-1]]
        body = [(part[0].split(b'filename="')[1].split(b'"')[0], part[1]) for part in body]
    elif kind == "application/connect+json":
        body = meaning(json.loads(body[5:]))
    elif kind == "application/json":
        body = meaning(json.loads(body))
    headers = {name: value for name, value in asked.headers.items() if name in HEADERS}
    if headers.get("content-encoding") == "identity":
        del headers["content-encoding"]
    if kind == "application/json":
        headers.pop("keepalive-ping-interval", None)  # theirs says so of CreateWatcher, where nothing is kept alive
    timeout_ms = int(asked.headers.get("connect-timeout-ms", 0))
    return asked.method, asked.path, parse_qs(asked.query), kind.split(";")[0], headers, body, round(timeout_ms, -3)


def meaning(message: Any) -> Any:
    """Without what means the same as nothing: no variables, a depth of one."""
    if isinstance(message, dict):
        return {
            name: meaning(value)
            for name, value in message.items()
            if not (name == "envs" and value == {}) and not (name == "depth" and value == 1)
        }
    return message


def value_of(value: Any) -> Any:
    """A result, whoever's it is."""
    if isinstance(value, enum.Enum):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: value_of(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return type(value).__name__, fields
    return [value_of(one) for one in value] if isinstance(value, list) else value


async def outcome(client: Any, call: Call, player: Player) -> tuple[Any, Any]:
    options = {"api_key": KEY, "api_url": player.url, "sandbox_url": player.url}
    sandbox = client.create(**options)
    sandbox = await sandbox if inspect.isawaitable(sandbox) else sandbox
    player.seen.clear()
    try:
        value = call(sandbox)
        value = await value if inspect.isawaitable(value) else value
    except (raybox.RayboxError, e2b.SandboxException, e2b.AuthenticationException) as error:
        value = type(error).__name__
    return [plain(asked) for asked in player.seen if asked.path != "/health"], value_of(value)


@pytest.mark.parametrize("colour", CLIENTS)
@pytest.mark.parametrize("name", CASES)
async def test_success(name: str, colour: str, player: Player) -> None:
    ours, theirs = CLIENTS[colour]
    script(player, None)
    if name == "write several":
        player.on("POST", "/files", reply(200, [WRITTEN, WRITTEN]))
    one = await outcome(ours, CASES[name], player)
    other = await outcome(theirs, CASES[name], player)
    assert one == other
    assert one[0] or name == "write none"


FAILURES = ["gone", "unauthorized", "not_found", "invalid_argument", "already_exists", "internal", "unauthenticated"]


@pytest.mark.parametrize("colour", CLIENTS)
@pytest.mark.parametrize("failing", FAILURES)
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("metrics", "network", "write none")])
async def test_failure(name: str, failing: str, colour: str, player: Player) -> None:
    ours, theirs = CLIENTS[colour]
    script(player, failing)
    assert await outcome(ours, CASES[name], player) == await outcome(theirs, CASES[name], player)


@pytest.mark.parametrize("colour", CLIENTS)
@pytest.mark.parametrize("end", [FAILED, KILLED])
async def test_exit(colour: str, end: Any, player: Player) -> None:
    script(player, None)
    player.on("POST", PROCESS + "Start", messages(START, data(stdout=b"a\xff"), data(stderr=b"b"), end, ended()))
    found = []
    for client, package in zip(CLIENTS[colour], (raybox, e2b), strict=True):

        async def run(sandbox: Any, package: Any = package) -> Any:
            try:
                value = sandbox.commands.run("x")
                await value if inspect.isawaitable(value) else value
            except package.CommandExitException as error:
                return error.exit_code, error.stdout, error.stderr, error.error
            raise AssertionError("no error")

        found.append((await outcome(client, run, player))[1])
    assert found[0] == found[1]


async def test_watching(player: Player) -> None:
    script(player, None)
    player.on("POST", FILES + "CreateWatcher", rpc({"watcherId": "w"}))
    created = dict(EVENTS[0], entry=ENTRY)
    player.on("POST", FILES + "GetWatcherEvents", rpc({"events": [created, *EVENTS[1:3]]}))
    player.on("POST", FILES + "RemoveWatcher", rpc({}))

    def watch(sandbox: Any) -> Any:
        handle = sandbox.files.watch_dir("/d", recursive=True, include_entry=True)
        found = handle.get_new_events()
        handle.stop()
        return found

    one, other = [await outcome(client, watch, player) for client in CLIENTS["sync"]]
    assert one == other


async def test_iterating_and_reconnecting(player: Player) -> None:
    script(player, None)
    player.on("POST", PROCESS + "Connect", messages(START, data(stdout=b"a"), data(pty=b"\xff"), OK, ended()))

    def connect(sandbox: Any) -> Any:
        handle = sandbox.commands.connect(42)
        return [handle.pid, *handle]

    one, other = [await outcome(client, connect, player) for client in CLIENTS["sync"]]
    assert one == other
    assert one[1] == [42, ("a", None, None), (None, None, b"\xff")]
