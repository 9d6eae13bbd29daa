"""Connect calls on port 49983 as raw HTTP: framing, content types, deadlines, keepalives, and what ends a stream."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from raybox_actors.agent.errors import AgentError
from raybox_actors.errors import InternalError
from raybox_cluster.gateway import connect
from tests.cluster.gateway.conftest import Gateway
from tests.cluster.gateway.test_envd_files import Box
from tests.support.wait import async_wait_until

pytestmark = pytest.mark.anyio

UNARY, STREAM = "application/json", "application/connect+json"
SHELL = "/bin/sh"


class Rpc(Box):
    async def unary(self, method: str, message: object = None, **headers: str) -> httpx.Response:
        sent = {"Content-Type": UNARY} | {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(f"/{method}", content=json.dumps(message or {}), headers=sent)

    @contextlib.asynccontextmanager
    async def stream(self, method: str, *messages: object, **headers: str) -> AsyncIterator[AsyncIterator[Any]]:
        """What comes back, message by message; the end of the stream as `{"end": ...}`."""
        sent = {"Content-Type": STREAM} | {name.replace("_", "-"): value for name, value in headers.items()}
        body = b"".join(connect.envelope(message) for message in messages)  # type: ignore[arg-type]
        async with self.client.stream("POST", f"/{method}", content=body, headers=sent) as answer:
            assert (answer.status_code, answer.headers["content-type"]) == (200, STREAM)
            yield read_messages(answer)

    async def all_of(self, method: str, *messages: object, **headers: str) -> list[Any]:
        async with self.stream(method, *messages, **headers) as answers:
            return [message async for message in answers]


async def read_messages(answer: httpx.Response) -> AsyncIterator[Any]:
    held = b""
    async for piece in answer.aiter_raw():
        held += piece
        while len(held) >= 5:
            flags, length = struct.unpack(">BI", held[:5])
            if len(held) < 5 + length:
                break
            message = json.loads(held[5 : 5 + length])
            held = held[5 + length :]
            yield {"end": message} if flags == 2 else message
    assert held == b""


def shell(code: str, **more: object) -> dict[str, object]:
    return {"process": {"cmd": SHELL, "args": ["-c", code]}, "stdin": False, **more}


def output(messages: list[Any], stream: str = "stdout") -> bytes:
    data = [message["event"]["data"] for message in messages if "data" in message.get("event", {})]
    return b"".join(base64.b64decode(piece[stream]) for piece in data if stream in piece)


@pytest.fixture
async def rpc(gateway: Gateway) -> AsyncIterator[Rpc]:
    rpc = Rpc(gateway, await gateway.sandbox())
    async with rpc.client:
        yield rpc


# --- framing ---------------------------------------------------------------------------------------------------------


async def test_a_command_from_start_to_end(rpc: Rpc) -> None:
    messages = await rpc.all_of("process.Process/Start", shell("echo out; echo err >&2; exit 3"))
    pid = messages[0]["event"]["start"]["pid"]
    assert pid > 0
    assert (output(messages), output(messages, "stderr")) == (b"out\n", b"err\n")
    ended = {"exitCode": 3, "exited": True, "status": "exit status 3", "error": "exit status 3"}
    assert messages[-2:] == [{"event": {"end": ended}}, {"end": {}}]


async def test_a_success_and_a_signal(rpc: Rpc) -> None:
    messages = await rpc.all_of("process.Process/Start", shell("true"))
    assert messages[-2]["event"]["end"] == {"exitCode": 0, "exited": True, "status": "exit status 0"}
    messages = await rpc.all_of("process.Process/Start", shell("kill -9 $$"))
    killed = {"exitCode": -1, "exited": False, "status": "signal: killed", "error": "signal: killed"}
    assert messages[-2]["event"]["end"] == killed


async def test_unary_calls_and_their_errors(rpc: Rpc) -> None:
    assert (await rpc.unary("process.Process/List")).json() == {"processes": []}
    answer = await rpc.client.post("/process.Process/List", content=b"", headers={"Content-Type": UNARY})
    assert (answer.status_code, answer.headers["content-type"]) == (200, UNARY)
    answer = await rpc.unary("process.Process/SendSignal", {"process": {"pid": 7}, "signal": "SIGNAL_SIGKILL"})
    assert answer.status_code == 404
    assert answer.json() == {"code": "not_found", "message": "process with pid 7 not found"}
    for message, status, code in (
        ({"path": "a\0"}, 400, "invalid_argument"),
        ({"path": 5}, 400, "invalid_argument"),
        ([], 400, "invalid_argument"),
        ({"path": "none"}, 404, "not_found"),
    ):
        body = json.dumps(message).encode()
        answer = await rpc.client.post("/filesystem.Filesystem/Stat", content=body, headers={"Content-Type": UNARY})
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    answer = await rpc.unary("filesystem.Filesystem/Stat", {}, Authorization="Basic bm9ib2R5Og==")
    assert (answer.status_code, answer.json()["message"]) == (401, "invalid username: 'nobody'")


async def test_errors_of_a_stream_come_after_200(rpc: Rpc) -> None:
    for messages, code in (
        ([{}], "invalid_argument"),
        ([], "invalid_argument"),
        ([{"process": {"cmd": "/no/such/thing"}}], "invalid_argument"),
        ([{"process": {"cmd": SHELL, "cwd": "/no/such"}}], "invalid_argument"),
    ):
        (end,) = await rpc.all_of("process.Process/Start", *messages)
        assert end["end"]["error"]["code"] == code
    (end,) = await rpc.all_of("process.Process/Connect", {"process": {"pid": 9}})
    assert end == {"end": {"error": {"code": "not_found", "message": "process with pid 9 not found"}}}
    (end,) = await rpc.all_of("process.Process/Start", shell("true"), Authorization="Basic bm9ib2R5Og==")
    assert end["end"]["error"]["code"] == "unauthenticated"
    (end,) = await rpc.all_of("process.Process/Start", shell("true"), Connect_Content_Encoding="gzip")
    assert end["end"]["error"]["code"] == "unimplemented"
    (end,) = await rpc.all_of("process.Process/Start", shell("true"), Connect_Timeout_Ms="soon")
    assert end["end"]["error"]["code"] == "invalid_argument"
    (end,) = await rpc.all_of("filesystem.Filesystem/WatchDir", {"path": "nope"})
    assert end["end"]["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    "body", [b"", b"\0\0\0", b"\0\0\0\0\x05{}", b"\x01\0\0\0\x02{}", b"\0\0\0\0\x01x", b"\xff" * 9]
)
async def test_bodies_that_are_no_messages(rpc: Rpc, body: bytes) -> None:
    answer = await rpc.client.post("/process.Process/Start", content=body, headers={"Content-Type": STREAM})
    end = json.loads(answer.content[5:])
    assert (answer.status_code, answer.content[:1], end["error"]["code"]) == (200, b"\x02", "invalid_argument")


async def test_content_types_and_methods_that_are_not_there(rpc: Rpc) -> None:
    answer = await rpc.client.post("/process.Process/Start", content=b"{}", headers={"Content-Type": UNARY})
    assert (answer.status_code, answer.headers["accept-post"]) == (415, STREAM)
    answer = await rpc.client.post("/process.Process/List", content=b"", headers={"Content-Type": "application/proto"})
    assert (answer.status_code, answer.headers["accept-post"]) == (415, UNARY)
    answer = await rpc.unary("process.Process/List", {}, Content_Type="application/json; charset=utf-8")
    assert answer.status_code == 200
    answer = await rpc.unary("process.Process/Nope")
    assert (answer.status_code, answer.json()["code"]) == (501, "unimplemented")
    assert (await rpc.unary("no.Such/Service")).status_code == 404
    answer = await rpc.unary("process.Process/List", {}, Content_Encoding="gzip")
    assert (answer.status_code, answer.json()["code"]) == (501, "unimplemented")


async def test_a_message_that_is_too_long(rpc: Rpc) -> None:
    answer = await rpc.unary("process.Process/SendInput", {"x": "y" * connect.MAX_MESSAGE_BYTES})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
    announced = struct.pack(">BI", 0, connect.MAX_MESSAGE_BYTES + 1)
    answer = await rpc.client.post("/process.Process/Start", content=announced, headers={"Content-Type": STREAM})
    assert b"longer than" in answer.content


# --- deadlines, keepalives, disconnects ------------------------------------------------------------------------------


async def test_the_deadline_of_start_kills(rpc: Rpc) -> None:
    messages = await rpc.all_of("process.Process/Start", shell("echo up; sleep 60"), Connect_Timeout_Ms="300")
    assert output(messages) == b"up\n"
    assert messages[-1]["end"]["error"]["code"] == "deadline_exceeded"
    assert (await rpc.unary("process.Process/List")).json() == {"processes": []}


async def test_the_deadline_of_connect_leaves_the_process_alone(rpc: Rpc) -> None:
    async with rpc.stream("process.Process/Start", shell("sleep 60")) as started:
        pid = (await anext(started))["event"]["start"]["pid"]
        messages = await rpc.all_of("process.Process/Connect", {"process": {"pid": pid}}, Connect_Timeout_Ms="100")
        assert messages == [
            {"event": {"start": {"pid": pid}}},
            {"end": {"error": {"code": "deadline_exceeded", "message": "the time limit of the call was exceeded"}}},
        ]
        messages = await rpc.all_of("filesystem.Filesystem/WatchDir", {"path": "."}, Connect_Timeout_Ms="100")
        assert messages[0] == {"start": {}}
        assert messages[-1]["end"]["error"]["code"] == "deadline_exceeded"
        (listed,) = (await rpc.unary("process.Process/List")).json()["processes"]
        assert listed["pid"] == pid
    (end,) = await rpc.all_of("process.Process/Start", shell("true"), Connect_Timeout_Ms="0")
    assert end["end"]["error"]["code"] == "deadline_exceeded"


async def test_a_process_outlives_its_client_and_can_be_found_again(rpc: Rpc) -> None:
    async with rpc.stream("process.Process/Start", shell("read x; echo got $x", stdin=True, tag="mine")) as started:
        pid = (await anext(started))["event"]["start"]["pid"]
    (listed,) = (await rpc.unary("process.Process/List")).json()["processes"]
    config = {"cmd": SHELL, "args": ["-c", "read x; echo got $x"], "envs": {}}
    assert listed == {"config": config, "pid": pid, "tag": "mine"}
    async with (
        rpc.stream("process.Process/Connect", {"process": {"tag": "mine"}}) as one,
        rpc.stream("process.Process/Connect", {"process": {"pid": pid}}) as two,
    ):
        assert [await anext(one), await anext(two)] == [{"event": {"start": {"pid": pid}}}] * 2
        data = base64.b64encode(b"it\n").decode()
        answer = await rpc.unary("process.Process/SendInput", {"process": {"pid": pid}, "input": {"stdin": data}})
        assert (answer.status_code, answer.json()) == (200, {})
        for stream in (one, two):
            rest = [message async for message in stream]
            assert (output(rest), rest[-1]) == (b"got it\n", {"end": {}})


async def test_silence_is_filled_with_keepalives(rpc: Rpc) -> None:
    async with rpc.stream("process.Process/Start", shell("sleep 60"), Keepalive_Ping_Interval="1") as messages:
        assert "start" in (await anext(messages))["event"]
        assert await anext(messages) == {"event": {"keepalive": {}}}
    async with rpc.stream("filesystem.Filesystem/WatchDir", {"path": "."}, Keepalive_Ping_Interval="1") as messages:
        assert [await anext(messages), await anext(messages)] == [{"start": {}}, {"keepalive": {}}]


async def test_a_call_that_nobody_waits_for_any_more_ends(rpc: Rpc) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def stuck(*_: object, **__: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    rpc.agent.send_input = stuck  # type: ignore[method-assign]
    message = {"process": {"pid": 1}, "input": {"stdin": ""}}
    answer = await rpc.unary("process.Process/SendInput", message, Connect_Timeout_Ms="100")
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    assert ended.is_set()
    sent = [{"start": {"process": {"pid": 1}}}, {"data": message}, {"keepalive": {}}]
    (end,) = await rpc.all_of("process.Process/StreamInput", *sent, Connect_Timeout_Ms="100")
    assert end["end"]["error"]["code"] == "deadline_exceeded"
    for again in (
        rpc.unary("process.Process/SendInput", message),
        rpc.all_of("process.Process/StreamInput", {"start": {"process": {"pid": 1}}}, {"data": message}),
    ):
        begun.clear()
        ended.clear()
        call = asyncio.create_task(again)
        async with asyncio.timeout(10):
            await begun.wait()
            call.cancel()
            await ended.wait()


# --- input, terminals ------------------------------------------------------------------------------------------------


async def test_input_as_a_stream(rpc: Rpc) -> None:
    def data(text: bytes) -> dict[str, object]:
        return {"data": {"input": {"stdin": base64.b64encode(text).decode()}}}

    async with rpc.stream("process.Process/Start", shell("cat", stdin=True)) as started:
        pid = (await anext(started))["event"]["start"]["pid"]
        start = {"start": {"process": {"pid": pid}}}
        messages = [start, data(b"one "), {"keepalive": {}}, data(b"two")]
        assert await rpc.all_of("process.Process/StreamInput", *messages) == [{}, {"end": {}}]
        assert (await rpc.unary("process.Process/CloseStdin", {"process": {"pid": pid}})).status_code == 200
        rest = [message async for message in started]
        assert output(rest) == b"one two"
    for wrong in ([data(b"x")], [], [start, start], [start, {}], [start, {"data": {}}]):
        (end,) = await rpc.all_of("process.Process/StreamInput", *wrong)
        assert end["end"]["error"]["code"] in ("invalid_argument", "not_found")


async def test_a_terminal(rpc: Rpc) -> None:
    message = {"process": {"cmd": SHELL}, "pty": {"size": {"cols": 90, "rows": 20}}}
    async with rpc.stream("process.Process/Start", message) as messages:
        selector = {"process": {"pid": (await anext(messages))["event"]["start"]["pid"]}}

        async def type_(text: str) -> None:
            data = base64.b64encode(text.encode()).decode()
            answer = await rpc.unary("process.Process/SendInput", selector | {"input": {"pty": data}})
            assert answer.status_code == 200

        async def read_until(text: bytes) -> None:
            seen = b""
            async with asyncio.timeout(20):
                while text not in seen:
                    seen += output([await anext(messages)], "pty")

        await type_("stty size\n")
        await read_until(b"20 90")
        size = {"pty": {"size": {"cols": 100, "rows": 30}}}
        assert (await rpc.unary("process.Process/Update", selector | size)).json() == {}
        await type_("stty size\n")
        await read_until(b"30 100")
        await type_("exit 4\n")
        rest = [message async for message in messages]
        assert rest[-2]["event"]["end"]["exitCode"] == 4


# --- files -----------------------------------------------------------------------------------------------------------


async def test_files_and_folders(rpc: Rpc) -> None:
    async def fs(method: str, **message: object) -> Any:
        answer = await rpc.unary(f"filesystem.Filesystem/{method}", message)
        return answer.json() if answer.status_code == 200 else (answer.status_code, answer.json()["code"])

    made = (await fs("MakeDir", path="a/b"))["entry"]
    assert (made["name"], made["type"], made["path"]) == ("b", "FILE_TYPE_DIRECTORY", "/home/user/a/b")
    assert await fs("MakeDir", path="a/b") == (409, "already_exists")
    rpc.put("/home/user/a/b/f", b"12345")
    rpc.agent.real("/home/user/a/link").symlink_to(rpc.agent.real("/home/user/a/b/f"))
    stat = (await fs("Stat", path="a/b/f"))["entry"]
    assert (stat["type"], int(stat["size"]), stat["mode"]) == ("FILE_TYPE_FILE", 5, 0o644)
    assert stat["permissions"] == "-rw-r--r--"
    assert stat["modifiedTime"].endswith("Z")
    assert "symlinkTarget" not in stat
    link = (await fs("Stat", path="a/link"))["entry"]
    assert (link["symlinkTarget"], link["type"]) == ("/home/user/a/b/f", "FILE_TYPE_FILE")
    assert "isSymlink" not in link
    listed = await fs("ListDir", path="a", depth=2)
    assert [entry["path"] for entry in listed["entries"]] == [
        "/home/user/a/b",
        "/home/user/a/b/f",
        "/home/user/a/link",
    ]
    assert len((await fs("ListDir", path="a"))["entries"]) == 2
    assert (await fs("Move", source="a/b/f", destination="c/g"))["entry"]["path"] == "/home/user/c/g"
    assert await fs("Remove", path="c") == {}
    assert await fs("Remove", path="c") == {}
    assert await fs("Stat", path="c/g") == (404, "not_found")


async def test_watching(rpc: Rpc) -> None:
    async with rpc.stream("filesystem.Filesystem/WatchDir", {"path": ".", "include_entry": True}) as messages:
        assert await anext(messages) == {"start": {}}
        rpc.put("/home/user/new", b"x")
        event = (await anext(messages))["filesystem"]
        assert (event["name"], event["type"]) == ("new", "EVENT_TYPE_CREATE")
        assert event["entry"]["path"] == "/home/user/new"
    made = (await rpc.unary("filesystem.Filesystem/CreateWatcher", {"path": "."})).json()
    rpc.put("/home/user/newer", b"x")
    events = (await rpc.unary("filesystem.Filesystem/GetWatcherEvents", made)).json()["events"]
    assert events == [{"name": "newer", "type": "EVENT_TYPE_CREATE"}]
    assert (await rpc.unary("filesystem.Filesystem/RemoveWatcher", made)).json() == {}
    for method in ("GetWatcherEvents", "RemoveWatcher"):
        assert (await rpc.unary(f"filesystem.Filesystem/{method}", made)).status_code == 404


# --- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["lost", "broken"])
async def test_a_stream_is_cut_without_an_end_when_the_sandbox_goes(rpc: Rpc, error: str) -> None:
    """Also if the first that the gateway hears of it is a broken connection to the agent."""
    async with rpc.stream("process.Process/Start", shell("sleep 60")) as messages:
        await anext(messages)
        if error == "broken":
            rpc.agent.end(AgentError("unavailable", "the connection to the agent broke"))
            del rpc.gateway.backend.agents[rpc.info.sandbox_id]
        rpc.gateway.backend.end(rpc.info.sandbox_id, "killed")
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(messages)
    assert (await rpc.client.get("/health")).status_code == 502
    answer = await rpc.client.post("/process.Process/Start", content=b"", headers={"Content-Type": STREAM})
    assert answer.status_code in (200, 502)


async def test_a_stream_to_a_sandbox_that_is_gone_is_502(rpc: Rpc) -> None:
    await rpc.unary("process.Process/List")
    rpc.gateway.backend.end(rpc.info.sandbox_id, "killed")
    body = connect.envelope(shell("true"))
    answer = await rpc.client.post("/process.Process/Start", content=body, headers={"Content-Type": STREAM})
    assert (answer.status_code, answer.json()["message"]) == (502, "The sandbox was not found")


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (AgentError("unavailable", "the agent went away"), "unavailable"),
        (InternalError("the sandbox's actor cannot be reached"), "internal"),
    ],
)
async def test_a_stream_ends_with_an_error_when_only_the_agent_goes(rpc: Rpc, fault: Any, code: str) -> None:
    async with rpc.stream("process.Process/Start", shell("sleep 60")) as messages:
        await anext(messages)
        rpc.agent.end(fault)
        assert await anext(messages) == {"end": {"error": {"code": code, "message": str(fault)}}}
    answer = await rpc.unary("process.Process/List")
    assert (answer.status_code, answer.json()["code"]) == (connect.HTTP_STATUS[code], code)


async def test_what_nobody_expected_ends_a_stream_as_internal(rpc: Rpc) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("secret detail")

    rpc.agent.start_process = explode  # type: ignore[method-assign,assignment]
    (end,) = await rpc.all_of("process.Process/Start", shell("true"))
    assert end["end"]["error"]["code"] == "internal"
    assert "secret" not in end["end"]["error"]["message"]
    rpc.agent.list_processes = explode  # type: ignore[method-assign,assignment]
    answer = await rpc.unary("process.Process/List")
    assert (answer.status_code, answer.json()["code"]) == (500, 500)


async def test_listeners_are_let_go(rpc: Rpc) -> None:
    async with rpc.stream("process.Process/Start", shell("sleep 60")) as messages:
        pid = (await anext(messages))["event"]["start"]["pid"]
        process = rpc.agent._processes[pid]
        assert len(process.listeners) == 1
    await async_wait_until(lambda: not process.listeners)
