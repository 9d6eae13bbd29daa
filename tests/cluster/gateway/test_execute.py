"""POST /execute: what is streamed, when it ends, and what happens when either side leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.types import Message

from raybox_actors.errors import Conflict, ExecutionForgotten, InternalError, NotFound, RayboxError, SandboxLost
from raybox_cluster.gateway.asgi import StreamAborted
from raybox_cluster.gateway.routes_execute import Executions
from tests.cluster.gateway.conftest import KEEPALIVE_S, Gateway
from tests.cluster.gateway.memory import MemoryBackend, Run

pytestmark = pytest.mark.anyio

CODE = 49999
WITHIN_S = 5.0  #: for what must happen at once; only a failing test waits for so long


@asynccontextmanager
async def raw_execute(gateway: Gateway, sandbox_id: str, code: str) -> AsyncIterator[asyncio.StreamReader]:
    """A bare socket that sent one /execute; leaving the block closes it without ceremony."""
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({"code": code}).encode()
    writer.write(
        b"POST /execute HTTP/1.1\r\nHost: x\r\nE2b-Sandbox-Id: %s\r\nE2b-Sandbox-Port: 49999\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (sandbox_id.encode(), len(body), body)
    )
    try:
        yield reader
    finally:
        writer.transport.abort()


async def next_interrupt(gateway: Gateway) -> str:
    async with asyncio.timeout(WITHIN_S):
        return await gateway.backend.interrupts.get()


async def next_run(gateway: Gateway) -> Run:
    async with asyncio.timeout(WITHIN_S):
        return await gateway.backend.started.get()


async def until_interrupted(run: Run) -> None:
    run.emit("number_of_executions", execution_count=1)
    await run.interrupted.wait()


async def silent(run: Run) -> None:
    await run.interrupted.wait()


async def test_events_are_passed_on_byte_for_byte_and_the_stream_ends_after_the_last(gateway: Gateway) -> None:
    async def strange(run: Run) -> None:
        run.emit_raw(b'{"type": "stdout",   "text":"\\u2028", "timestamp": 0}\n')

    info = await gateway.sandbox()
    gateway.backend.scripts["strange"] = strange
    response = await gateway.on_port(CODE, info.sandbox_id, "POST", "/execute", json={"code": "strange"})
    assert response.status_code == 200
    assert response.content == (
        b'{"type": "stdout",   "text":"\\u2028", "timestamp": 0}\n{"type": "end_of_execution"}\n'
    )
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in response.headers
    assert response.headers["transfer-encoding"] == "chunked"


async def test_the_request_reaches_the_sandbox_as_it_was_meant(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    body = {"code": "é", "context_id": "py", "language": None, "env_vars": {"A": "b"}}
    chosen = {"X-Raybox-Execution-Id": "my-run_1", "X-Raybox-Timeout-Seconds": "2.5"}
    response = await gateway.on_port(CODE, info.sandbox_id, "POST", "/execute", json=body, headers=chosen)
    assert response.headers["x-raybox-execution-id"] == "my-run_1"
    await gateway.on_port(CODE, info.sandbox_id, "POST", "/execute", json={"code": "", "language": "js"})
    first, second = gateway.backend.executed
    assert (first.execution_id, first.code, first.context_id) == ("my-run_1", "é", "py")
    assert (first.language, first.env_vars, first.timeout_s) == (None, {"A": "b"}, 2.5)
    assert first.interrupt_if_unobserved
    assert (second.language, second.context_id, second.env_vars, second.timeout_s) == ("js", None, {}, None)
    assert second.execution_id.startswith("auto-")


@pytest.mark.parametrize(
    ("body", "headers", "message"),
    [
        ({"code": "1", "context_id": "py", "language": "r"}, {}, "Only one of context_id or language can be provided"),
        ({}, {}, "code is required"),
        ({"code": 1}, {}, "code must be a string"),
        ({"code": "1", "env_vars": {"A": 1}}, {}, "env_vars must map strings to strings"),
        ([], {}, "the request body must be a JSON object"),
        (None, {}, "the request body is not valid JSON"),
        (
            {"code": "1"},
            {"X-Raybox-Execution-Id": "a b"},
            "X-Raybox-Execution-Id must match [A-Za-z0-9_-]{1,64}",
        ),
        (
            {"code": "1"},
            {"X-Raybox-Execution-Id": "auto-1"},
            "X-Raybox-Execution-Id: ids that begin with auto- are the server's own",
        ),
        (
            {"code": "1"},
            {"X-Raybox-On-Disconnect": "never"},
            "X-Raybox-On-Disconnect must be one of interrupt, wait, continue",
        ),
        (
            {"code": "1"},
            {"X-Raybox-From-Event": "-1"},
            "X-Raybox-From-Event must be the number of an event: at most 15 digits",
        ),
        (
            {"code": "1"},
            {"X-Raybox-Timeout-Seconds": "nan"},
            "X-Raybox-Timeout-Seconds must be a number above 0 and up to 86400",
        ),
    ],
)
async def test_a_bad_request_is_plain_text(
    gateway: Gateway, body: object, headers: dict[str, str], message: str
) -> None:
    info = await gateway.sandbox()
    response = await gateway.on_port(CODE, info.sandbox_id, "POST", "/execute", json=body, headers=headers)
    assert (response.status_code, response.text) == (400, message)
    assert gateway.backend.executed == []


async def test_half_a_surrogate_pair_is_no_code(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    target = {"E2b-Sandbox-Id": info.sandbox_id, "E2b-Sandbox-Port": "49999"}
    response = await gateway.client.post("/execute", content=b'{"code": "\\ud800"}', headers=target)
    assert (response.status_code, response.text) == (400, "code is not valid Unicode")


async def test_an_unknown_context_is_404_in_plain_text(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    body = {"code": "1", "context_id": "nope"}
    response = await gateway.on_port(CODE, info.sandbox_id, "POST", "/execute", json=body)
    assert (response.status_code, response.text) == (404, "Context nope not found")


async def test_only_post_executes(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    response = await gateway.on_port(CODE, info.sandbox_id, "GET", "/execute")
    assert (response.status_code, response.text, response.headers["allow"]) == (405, "Method Not Allowed", "POST")


async def test_headers_come_before_the_first_event_and_silence_is_filled_with_keepalives(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    gateway.backend.scripts["silent"] = silent
    async with raw_execute(gateway, info.sandbox_id, "silent") as reader:
        async with asyncio.timeout(WITHIN_S):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            run = gateway.backend.started.get_nowait()
            assert run.lines == []
            alive = b'{"type":"keepalive"}\n'
            chunk = b"%x\r\n%s\r\n" % (len(alive), alive)
            assert await reader.readexactly(2 * len(chunk)) == 2 * chunk
            run.interrupted.set()
            assert (await reader.readuntil(b"0\r\n\r\n")).endswith(b'{"type": "end_of_execution"}\n\r\n0\r\n\r\n')
    assert gateway.backend.interrupts.empty()


async def test_every_event_is_sent_when_it_happens(gateway: Gateway) -> None:
    go = asyncio.Event()

    async def stepwise(run: Run) -> None:
        run.emit("stdout", text="a", timestamp=0)
        await go.wait()
        run.emit("stdout", text="b", timestamp=0)

    info = await gateway.sandbox()
    gateway.backend.scripts["stepwise"] = stepwise
    async with raw_execute(gateway, info.sandbox_id, "stepwise") as reader, asyncio.timeout(WITHIN_S):
        assert b'"a"' in await reader.readuntil(b"}\n")
        go.set()
        await reader.readuntil(b'"b"')
        await reader.readuntil(b"0\r\n\r\n")


@pytest.mark.parametrize("code", ["silent", "talking"])
async def test_a_client_who_leaves_while_we_poll_interrupts_its_cell(gateway: Gateway, code: str) -> None:
    info = await gateway.sandbox()
    gateway.backend.scripts = {"silent": silent, "talking": until_interrupted}
    async with raw_execute(gateway, info.sandbox_id, code) as reader:
        await reader.readuntil(b"\r\n\r\n")
        run = await next_run(gateway)
        await asyncio.wait_for(run.polled.wait(), WITHIN_S)
    assert await next_interrupt(gateway) == run.request.execution_id


async def test_leaving_is_noticed_at_once_not_at_the_next_keepalive(gateway: Gateway) -> None:
    gone: asyncio.Queue[Message] = asyncio.Queue()
    gone.put_nowait({"type": "http.request", "body": b'{"code": "silent"}'})
    sent: asyncio.Queue[Message] = asyncio.Queue()
    gateway.backend.scripts["silent"] = silent
    info = await gateway.sandbox()
    patient = Executions(gateway.backend, keepalive_s=3600)
    task = asyncio.create_task(patient.execute(info.sandbox_id, {}, gone.get, sent.put))
    run = await next_run(gateway)
    await asyncio.wait_for(run.polled.wait(), WITHIN_S)
    gone.put_nowait({"type": "http.disconnect"})
    assert await next_interrupt(gateway) == run.request.execution_id
    await asyncio.wait((task,), timeout=WITHIN_S)
    assert type(task.exception()).__name__ == "ClientGone"


async def test_a_client_who_leaves_while_the_cell_is_being_started_interrupts_it_when_it_has(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    gateway.backend.scripts["silent"] = silent
    gateway.backend.hold_execute = asyncio.Event()
    async with raw_execute(gateway, info.sandbox_id, "silent"):
        run = await next_run(gateway)
    assert await next_interrupt(gateway) == run.request.execution_id
    assert gateway.backend.interrupts.empty()
    gateway.backend.hold_execute.set()
    assert await next_interrupt(gateway) == run.request.execution_id


async def test_a_server_that_cancels_the_request_interrupts_the_cell(gateway: Gateway) -> None:
    gone: asyncio.Queue[Message] = asyncio.Queue()
    gone.put_nowait({"type": "http.request", "body": b'{"code": "silent"}'})
    sent: asyncio.Queue[Message] = asyncio.Queue()
    gateway.backend.scripts["silent"] = silent
    info = await gateway.sandbox()
    executions = Executions(gateway.backend, keepalive_s=3600)
    task = asyncio.create_task(executions.execute(info.sandbox_id, {}, gone.get, sent.put))
    run = await next_run(gateway)
    task.cancel()
    assert await next_interrupt(gateway) == run.request.execution_id
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


async def test_a_start_that_takes_long_gets_its_headers_and_then_its_events(gateway: Gateway) -> None:
    backend = MemoryBackend()
    backend.live = gateway.backend.live
    backend.contexts_of = gateway.backend.contexts_of
    backend.hold_execute = asyncio.Event()
    info = await gateway.sandbox()
    received: asyncio.Queue[Message] = asyncio.Queue()
    received.put_nowait({"type": "http.request", "body": b'{"code": "1+1"}'})
    sent: asyncio.Queue[Message] = asyncio.Queue()
    executions = Executions(backend, keepalive_s=KEEPALIVE_S, headers_within_s=0.01)
    task = asyncio.create_task(executions.execute(info.sandbox_id, {}, received.get, sent.put))
    async with asyncio.timeout(WITHIN_S):
        assert (await sent.get())["status"] == 200
        assert (await sent.get())["body"] == b'{"type":"keepalive"}\n'
        backend.hold_execute.set()
        await task
    bodies = [sent.get_nowait() for _ in range(sent.qsize())]
    assert bodies[-1]["body"].endswith(b'{"type": "end_of_execution"}\n')
    assert bodies[-1]["more_body"] is False
    await backend.close()


@pytest.mark.parametrize(
    "error", [SandboxLost("x", "killed"), SandboxLost("x", "oom"), NotFound("sandbox", "x"), InternalError("hm")]
)
async def test_a_stream_that_cannot_go_on_is_aborted_never_ended(
    gateway: Gateway, error: SandboxLost | NotFound | InternalError
) -> None:
    info = await gateway.sandbox()
    gateway.backend.scripts["talking"] = until_interrupted
    async with raw_execute(gateway, info.sandbox_id, "talking") as reader:
        await reader.readuntil(b"\r\n\r\n")
        run = await next_run(gateway)
        await asyncio.wait_for(run.polled.wait(), WITHIN_S)
        run.fail(error)
        rest = await asyncio.wait_for(reader.read(), WITHIN_S)
    assert not rest.endswith(b"0\r\n\r\n")
    assert b"end_of_execution" not in rest
    if isinstance(error, InternalError):  # nobody knows whether the cell still runs
        assert await next_interrupt(gateway) == run.request.execution_id
    else:
        assert gateway.backend.interrupts.empty()


async def test_a_killed_sandbox_aborts_the_stream_for_an_http_client(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    gateway.backend.scripts["talking"] = until_interrupted
    request = asyncio.create_task(gateway.on_port(CODE, info.sandbox_id, "POST", "/execute", json={"code": "talking"}))
    run = await next_run(gateway)
    await asyncio.wait_for(run.polled.wait(), WITHIN_S)
    assert (await gateway.client.delete(f"/sandboxes/{info.sandbox_id}")).status_code == 204
    with pytest.raises(httpx.RemoteProtocolError):
        await asyncio.wait_for(request, WITHIN_S)
    assert (await gateway.on_port(49983, info.sandbox_id, "GET", "/health")).status_code == 502


async def test_an_abort_is_raised_through_the_server(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    gateway.backend.scripts["talking"] = until_interrupted
    received: asyncio.Queue[Message] = asyncio.Queue()
    received.put_nowait({"type": "http.request", "body": b'{"code": "talking"}'})
    sent: asyncio.Queue[Message] = asyncio.Queue()
    executions = Executions(gateway.backend, keepalive_s=KEEPALIVE_S)
    task = asyncio.create_task(executions.execute(info.sandbox_id, {}, received.get, sent.put))
    run = await next_run(gateway)
    run.fail(SandboxLost(info.sandbox_id, "node_lost"))
    with pytest.raises((StreamAborted, SandboxLost)):
        await asyncio.wait_for(task, WITHIN_S)


# --- executions that exist -------------------------------------------------------------------------------------------


async def five(run: Run) -> None:
    for number in range(5):
        run.emit("stdout", text=str(number), timestamp=0)


async def test_events_are_replayed_from_any_number_on(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    gateway.backend.scripts["five"] = five
    body, named = {"code": "five"}, {"X-Raybox-Execution-Id": "e"}
    original = await gateway.on_port(CODE, info.sandbox_id, "POST", "/execute", json=body, headers=named)
    lines = original.content.splitlines(keepends=True)
    assert len(lines) == 6
    for first in range(7):
        path = f"/executions/e/events?from={first}"
        replay = await gateway.on_port(CODE, info.sandbox_id, "GET", path)
        assert (replay.status_code, replay.headers["x-raybox-execution-id"]) == (200, "e")
        assert replay.content == b"".join(lines[first:])
        again = named | {"X-Raybox-From-Event": str(first)}
        repeat = await gateway.on_port(CODE, info.sandbox_id, "POST", "/execute", json=body, headers=again)
        assert repeat.content == replay.content
    assert len(gateway.backend.runs) == 1


async def test_who_attaches_sees_what_happens_next_and_leaves_without_a_trace(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    gateway.backend.scripts["talking"] = until_interrupted
    named = {"X-Raybox-Execution-Id": "e"}
    post = gateway.on_port(CODE, info.sandbox_id, "POST", "/execute", json={"code": "talking"}, headers=named)
    runner = asyncio.create_task(post)
    run = await next_run(gateway)
    routing = {"E2b-Sandbox-Id": info.sandbox_id, "E2b-Sandbox-Port": str(CODE)}
    async with gateway.client.stream("GET", "/executions/e/events", headers=routing) as watching:
        lines = watching.aiter_lines()
        async with asyncio.timeout(WITHIN_S):
            assert "number_of_executions" in await anext(lines)
            assert "keepalive" in await anext(lines)
            run.emit("stdout", text="next", timestamp=0)
            assert "next" in await anext(line async for line in lines if "keepalive" not in line)
    assert gateway.backend.interrupts.empty()
    interrupt = await gateway.on_port(CODE, info.sandbox_id, "POST", "/executions/e/interrupt")
    assert (interrupt.status_code, interrupt.content) == (204, b"")
    assert await next_interrupt(gateway) == "e"
    assert b"end_of_execution" in (await asyncio.wait_for(runner, WITHIN_S)).content


@pytest.mark.parametrize("choice", ["wait", "continue"])
async def test_a_client_may_leave_its_cell_running(gateway: Gateway, choice: str) -> None:
    received: asyncio.Queue[Message] = asyncio.Queue()
    received.put_nowait({"type": "http.request", "body": b'{"code": "silent"}'})
    sent: asyncio.Queue[Message] = asyncio.Queue()
    gateway.backend.scripts["silent"] = silent
    info = await gateway.sandbox()
    executions = Executions(gateway.backend, keepalive_s=3600)
    headers = {b"x-raybox-on-disconnect": choice.encode()}
    task = asyncio.create_task(executions.execute(info.sandbox_id, headers, received.get, sent.put))
    run = await next_run(gateway)
    await asyncio.wait_for(run.polled.wait(), WITHIN_S)
    received.put_nowait({"type": "http.disconnect"})
    await asyncio.wait((task,), timeout=WITHIN_S)
    assert type(task.exception()).__name__ == "ClientGone"
    assert not executions._interrupts
    assert run.request.interrupt_if_unobserved == (choice == "wait")
    run.interrupted.set()


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/executions/nope/events", 404, "Execution nope not found"),
        ("GET", "/executions/a%20b/events", 404, "Execution a b not found"),
        ("GET", "/executions/e/events?from=x", 400, "from must be the number of an event: at most 15 digits"),
        ("POST", "/executions/e/events", 405, "Method Not Allowed"),
        ("GET", "/executions/e/interrupt", 405, "Method Not Allowed"),
        ("GET", "/executions/e", 404, "Not Found"),
    ],
)
async def test_what_is_no_execution(gateway: Gateway, method: str, path: str, status: int, text: str) -> None:
    info = await gateway.sandbox()
    response = await gateway.on_port(CODE, info.sandbox_id, method, path)
    assert (response.status_code, response.text) == (status, text)
    assert (await gateway.on_port(CODE, "gone", method, path)).status_code in (502, status)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [(Conflict("of other code"), 409, "bad_request"), (ExecutionForgotten("e"), 410, "not_found")],
)
async def test_an_id_that_was_used_is_refused(gateway: Gateway, error: RayboxError, status: int, kind: str) -> None:
    info = await gateway.sandbox()
    gateway.backend.fail_with = error
    named = {"X-Raybox-Execution-Id": "e"}
    answer = await gateway.on_port(CODE, info.sandbox_id, "POST", "/execute", json={"code": ""}, headers=named)
    assert (answer.status_code, answer.text, answer.headers["x-raybox-kind"]) == (status, str(error), kind)
    assert answer.headers["x-raybox-retryable"] == "false"
    assert gateway.backend.interrupts.empty()
