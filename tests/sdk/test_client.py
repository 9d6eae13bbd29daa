"""Both colours, with and without a proxy, against a real server that plays recorded answers."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import raybox
from raybox import AsyncSandbox, Sandbox, SandboxQuery, SandboxState, _http
from raybox._config import ConnectionConfig
from tests.sdk.player import (
    ABORT,
    COUNT,
    CREATED,
    END,
    GONE,
    HANG,
    INFO,
    KEEPALIVE,
    KEY,
    SANDBOX_ID,
    TICK,
    TWO,
    Player,
    events,
    reply,
)

pytestmark = pytest.mark.anyio

Done = Callable[[Any], Awaitable[Any]]


def bare(colour: Any, url: str) -> Any:
    """A sandbox object without a call to the server."""
    return colour(
        sandbox_id=SANDBOX_ID,
        sandbox_domain=None,
        envd_version="0.6.13",
        envd_access_token=None,
        traffic_access_token=None,
        connection_config=ConnectionConfig.resolve({"api_key": KEY, "api_url": url}),
    )


@pytest.fixture
async def sandbox(colour: Any, options: dict[str, Any], done: Done) -> Any:
    return await done(colour.create(**options))


# --- control plane ---------------------------------------------------------------------------------------------------


async def test_create_sends_what_the_contract_says(
    colour: Any, options: dict[str, Any], player: Player, done: Done
) -> None:
    player.on(
        "POST",
        "/v2/sandboxes",
        reply(201, CREATED | {"raybox": {"timings_ms": {"queued": 1, "claimed": 2.5, "ready": 3}, "node_id": "n"}}),
    )
    sandbox = await done(colour.create(timeout=60, envs={"A": "1"}, idempotency_key="k-1", **options))
    (asked,) = player.seen
    assert asked.json == {
        "templateID": "code-interpreter-v1",
        "timeout": 60,
        "metadata": {},
        "envVars": {"A": "1"},
    }
    assert asked.headers["x-api-key"] == KEY
    assert asked.headers["idempotency-key"] == "k-1"
    assert asked.headers["content-type"] == "application/json"
    assert "e2b-sandbox-id" not in asked.headers
    assert sandbox.sandbox_id == SANDBOX_ID
    assert sandbox.timings_ms == {"queued": 1.0, "claimed": 2.5, "ready": 3.0}
    assert KEY not in repr(sandbox.connection_config)


async def test_create_without_timings(sandbox: Any) -> None:
    assert sandbox.timings_ms == {}


async def test_life_on_the_instance_and_on_the_class(
    colour: Any, sandbox: Any, options: dict[str, Any], player: Player, done: Done
) -> None:
    base = f"/sandboxes/{SANDBOX_ID}"
    player.on("POST", f"{base}/timeout", reply(204))
    player.on("GET", base, reply(200, INFO))
    player.on("POST", f"/v2{base}/connect", reply(200, CREATED))
    player.on("DELETE", base, reply(204), reply(404, {"code": 404, "message": "gone"}))
    player.seen.clear()

    assert await done(sandbox.set_timeout(10)) is None
    assert await done(colour.set_timeout(SANDBOX_ID, 20, **options)) is None
    assert [asked.json for asked in player.seen] == [{"timeout": 10}, {"timeout": 20}]

    info = await done(sandbox.get_info())
    assert info == await done(colour.get_info(SANDBOX_ID, **options))
    assert info == await done(colour.get_info(sandbox))  # the class with an instance is the instance
    assert info.state is SandboxState.RUNNING
    assert (info.end_at - info.started_at).total_seconds() == pytest.approx(299.876544)
    assert info.lifecycle == {"on_timeout": "kill", "auto_resume": False}
    assert info.network == {"allow_out": ["1.1.1.1"], "egress_proxy": {"address": "p:1", "tls": {}}}

    again = await done(colour.connect(SANDBOX_ID, timeout=30, on_resume="reboot", **options))
    assert type(again) is colour
    assert player.seen[-1].json == {"timeout": 30, "memory": False}
    assert await done(sandbox.connect()) is sandbox
    assert player.seen[-1].json == {}

    assert await done(sandbox.kill()) is True
    assert await done(colour.kill(SANDBOX_ID, **options)) is False


async def test_missing_sandbox_is_not_found(colour: Any, options: dict[str, Any], player: Player, done: Done) -> None:
    body = {"code": 404, "message": "sandbox x not found", "kind": "sandbox_lost", "cause": "node_lost"}
    player.on("GET", "/sandboxes/x%2F", reply(404, body))
    with pytest.raises(raybox.SandboxNotFoundException) as caught:
        await done(colour.get_info("x/", **options))
    assert (caught.value.kind, caught.value.cause, caught.value.should_mask_sample) == (
        "sandbox_lost",
        "node_lost",
        True,
    )


async def test_list_pages(colour: Any, options: dict[str, Any], player: Player, done: Done) -> None:
    second = reply(500, {"code": 500, "message": "once"}), reply(200, [])
    player.on("GET", "/v2/sandboxes", reply(200, [INFO], x_next_token="t1"), *second)
    query = SandboxQuery(metadata={"a b": "c/d&e"}, state=[SandboxState.RUNNING, SandboxState.PAUSED])
    paginator = colour.list(query, limit=1, order="asc", **options)
    assert player.seen == []
    assert paginator.has_next
    (listed,) = await done(paginator.next_items())
    assert listed.sandbox_id == SANDBOX_ID
    assert (paginator.has_next, paginator.next_token) == (True, "t1")
    with pytest.raises(raybox.SandboxException):
        await done(paginator.next_items(retries=0))
    assert await done(paginator.next_items()) == []
    assert (paginator.has_next, paginator.next_token) == (False, None)
    with pytest.raises(raybox.InvalidArgumentException):
        await done(paginator.next_items())
    assert player.seen[0].query == ("metadata=a%252520b%3Dc%252Fd%252526e&state=running%2Cpaused&order=asc&limit=1")
    assert player.seen[1].query.endswith("&nextToken=t1")
    assert player.seen[2].query == player.seen[1].query


async def test_busy_server_is_asked_again(colour: Any, options: dict[str, Any], player: Player, done: Done) -> None:
    busy = reply(503, {"code": 503, "message": "full", "retry_after_s": 7}, retry_after="0")
    player.on("POST", "/v2/sandboxes", busy, busy, reply(201, CREATED))
    await done(colour.create(**options))
    assert len(player.seen) == 3
    player.on("POST", "/v2/sandboxes", busy)
    with pytest.raises(raybox.ServiceBusyException) as caught:
        await done(colour.create(retries=1, **options))
    assert len(player.seen) == 5
    assert (caught.value.kind, caught.value.retryable, caught.value.retry_after_s) == ("capacity", True, 7)


async def test_refusal_is_final_when_the_server_says_so(
    colour: Any, options: dict[str, Any], player: Player, done: Done
) -> None:
    player.on("POST", "/v2/sandboxes", reply(429, {"code": 429, "message": "slow down"}, should_retry="false"))
    with pytest.raises(raybox.RateLimitException):
        await done(colour.create(**options))
    assert len(player.seen) == 1


async def test_context_manager_kills(colour: Any, options: dict[str, Any], player: Player, done: Done) -> None:
    if colour is Sandbox:
        with Sandbox.create(**options):
            pass
    else:
        async with await AsyncSandbox.create(**options):
            pass
    assert [asked.method for asked in player.seen] == ["POST", "DELETE"]


async def test_logger_hears_of_requests_but_not_of_keys(
    colour: Any, options: dict[str, Any], done: Done, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("test.requests")
    with caplog.at_level(logging.INFO, logger.name):
        sandbox = await done(colour.create(logger=logger, **options))
        await done(sandbox.run_code("1+1"))
    lines = [record.getMessage() for record in caplog.records if record.name == logger.name]
    assert [line.split(" after ")[0] for line in lines] == [
        f"POST {options['api_url']}/v2/sandboxes: 201",
        f"POST {options['api_url']}/execute: 200",
    ]
    assert KEY not in caplog.text


async def test_no_key_no_request(colour: Any, player: Player, done: Done) -> None:
    with pytest.raises(raybox.AuthenticationException, match="RAYBOX_API_KEY"):
        await done(colour.create(api_url=player.url))
    assert player.seen == []


async def test_answer_without_its_fields_is_an_error(
    colour: Any, options: dict[str, Any], player: Player, done: Done
) -> None:
    player.on("POST", "/v2/sandboxes", reply(201, {"sandboxID": "x"}), reply(201, b"<html>"), reply(201, b"[]"))
    for _ in range(3):
        with pytest.raises(raybox.SandboxException, match="create: the server's answer cannot be used"):
            await done(colour.create(**options))


async def test_nobody_there(colour: Any, done: Done) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(raybox.SandboxException) as caught:
        await done(colour.create(api_key=KEY, api_url=f"http://127.0.0.1:{port}"))
    assert (caught.value.kind, caught.value.retryable) == ("internal", True)


async def test_silent_server_meets_the_request_timeout(
    colour: Any, options: dict[str, Any], player: Player, done: Done
) -> None:
    player.on("GET", f"/sandboxes/{SANDBOX_ID}", events(TICK))
    with pytest.raises(TimeoutError) as caught:
        await done(colour.get_info(SANDBOX_ID, request_timeout=0.2, **options))
    assert isinstance(caught.value, raybox.TimeoutException)
    assert await asyncio.to_thread(player.client_left.wait, 10)


async def test_server_that_comes_up_late_is_reached(colour: Any, done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def serve() -> None:
        time.sleep(0.1)
        with socket.create_server(("127.0.0.1", int(url.rpartition(":")[2]))) as listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    sandbox = bare(colour, url)
    thread = threading.Thread(target=serve)
    thread.start()
    assert await done(sandbox.is_running()) is True
    thread.join()
    monkeypatch.setenv("E2B_CONNECTION_RETRIES", "0")
    with pytest.raises(raybox.SandboxUnreachableException):
        await done(bare(colour, url).is_running())


# --- executions ------------------------------------------------------------------------------------------------------


async def test_run_code(sandbox: Any, player: Player, done: Done) -> None:
    execution = await done(sandbox.run_code("1+1"))
    assert execution.text == "2"
    assert execution.execution_count == 1
    assert execution.error is None
    assert 0 < execution.timings_ms["first_byte"] <= execution.timings_ms["done"] < 60_000
    asked = player.seen[-1]
    assert asked.json == {"code": "1+1", "context_id": None, "language": None, "env_vars": None}
    assert asked.headers["e2b-sandbox-id"] == SANDBOX_ID
    assert asked.headers["e2b-sandbox-port"] == "49999"
    assert asked.headers["x-access-token"] == "envd-token"
    assert "x-api-key" not in asked.headers


async def test_events_reach_their_callbacks_in_order(sandbox: Any, player: Player, done: Done) -> None:
    player.on(
        "POST",
        "/execute",
        events(
            COUNT,
            {"type": "stdout", "text": "a\n", "timestamp": "2025-01-01T00:00:00Z"},
            b'{"type": "stderr", "te',
            b'xt": "b", "timestamp": 5}\n',
            KEEPALIVE,
            {"type": "from_the_future"},
            TWO,
            {"type": "error", "name": "ValueError", "value": "x", "traceback": "tb"},
            END,
        ),
    )
    heard: list[Any] = []
    execution = await done(
        sandbox.run_code(
            "...", on_stdout=heard.append, on_stderr=heard.append, on_result=heard.append, on_error=heard.append
        )
    )
    assert heard == [
        raybox.OutputMessage("a\n", "2025-01-01T00:00:00Z", False),
        raybox.OutputMessage("b", 5, True),
        raybox.Result(text="2", is_main_result=True, extra={}),
        raybox.ExecutionError("ValueError", "x", "tb"),
    ]
    assert execution.error is heard[3]
    assert execution.logs == raybox.Logs(["a\n"], ["b"])


async def test_coroutine_callbacks_are_awaited(player: Player) -> None:
    sandbox = await AsyncSandbox.create(**player.options)
    heard = []

    async def on_result(result: raybox.Result) -> None:
        await asyncio.sleep(0)
        heard.append(result.text)

    await sandbox.run_code("1+1", on_result=on_result)
    assert heard == ["2"]


async def test_callback_error_ends_the_call_and_the_connection(sandbox: Any, player: Player, done: Done) -> None:
    player.on("POST", "/execute", events(COUNT, TWO, HANG))

    def refuse(result: raybox.Result) -> None:
        raise LookupError(result.text)

    with pytest.raises(LookupError):
        await done(sandbox.run_code("1+1", on_result=refuse))
    assert await asyncio.to_thread(player.client_left.wait, 10)


@pytest.mark.parametrize("last_step", [HANG, TICK], ids=["silent", "chatty"])
async def test_execution_timeout(sandbox: Any, player: Player, done: Done, last_step: object) -> None:
    player.on("POST", "/execute", events(COUNT, last_step))
    with pytest.raises(TimeoutError) as caught:
        await done(sandbox.run_code("while True: pass", timeout=0.3))
    assert isinstance(caught.value, raybox.TimeoutException)
    assert (caught.value.kind, caught.value.retryable, caught.value.should_mask_sample) == ("timeout", False, False)
    assert await asyncio.to_thread(player.client_left.wait, 10)


@pytest.mark.parametrize(("timeout", "request_timeout"), [(1, 9), (9, 1)], ids=["timeout", "request_timeout"])
async def test_server_that_is_slow_to_begin(colour: Any, done: Done, timeout: float, request_timeout: float) -> None:
    """The answer's head comes late or never; what was waited for it counts."""
    gone = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            time.sleep(0.8)
            if timeout < request_timeout:
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while connection.recv(65536):
                pass
            gone.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        sandbox = bare(colour, f"http://127.0.0.1:{listener.getsockname()[1]}")
        started_s = time.monotonic()
        with pytest.raises(raybox.TimeoutException, match=r"\b1 s") as caught:
            await done(sandbox.run_code("1+1", timeout=timeout, request_timeout=request_timeout))
        assert 0.95 < time.monotonic() - started_s < 1.6
        assert caught.value.retryable is False
        assert await asyncio.to_thread(gone.wait, 10)
        thread.join()


async def test_chatty_execution_ends_on_time(sandbox: Any, player: Player, done: Done) -> None:
    player.on("POST", "/execute", events(COUNT, TICK))
    started_s = time.monotonic()
    with pytest.raises(raybox.TimeoutException):
        await done(sandbox.run_code("while True: pass", timeout=0.5))
    assert 0.49 < time.monotonic() - started_s < 1.5


async def test_thread_that_keeps_deadlines_ends(player: Player) -> None:
    sandbox = Sandbox.create(**player.options)
    sandbox.run_code("1+1")
    (keeper,) = (thread for thread in threading.enumerate() if thread.name == "raybox-deadlines")
    await asyncio.to_thread(keeper.join, 10)
    assert not keeper.is_alive()
    player.on("POST", "/execute", events(COUNT, TICK))
    with pytest.raises(raybox.TimeoutException):
        sandbox.run_code("while True: pass", timeout=0.2)


async def test_cancelled_execution_closes_the_connection(player: Player) -> None:
    sandbox = await AsyncSandbox.create(**player.options)
    player.on("POST", "/execute", events(COUNT, TWO, HANG))
    running = asyncio.Event()
    task = asyncio.create_task(sandbox.run_code("...", on_result=lambda _: running.set()))
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(player.client_left.wait, 10)


@pytest.mark.parametrize("cut", [(), (ABORT,), (b'{"type": "stdout", "te', ABORT), (b'{"type"',)])
async def test_cut_stream_of_a_dead_sandbox(sandbox: Any, player: Player, done: Done, cut: tuple[object, ...]) -> None:
    player.on("POST", "/execute", events(COUNT, TWO, *cut))
    player.on("GET", "/health", GONE)
    with pytest.raises(raybox.SandboxNotRunningException) as caught:
        await done(sandbox.run_code("1+1"))
    assert (caught.value.kind, caught.value.sandbox_id) == ("sandbox_lost", SANDBOX_ID)
    assert player.seen[-1].headers["e2b-sandbox-port"] == "49983"


async def test_dead_sandbox_says_why(sandbox: Any, player: Player, done: Done) -> None:
    player.on("POST", "/execute", events(COUNT, ABORT))
    body = {"code": 502, "message": "The sandbox was not found", "kind": "sandbox_lost", "cause": "killed"}
    player.on("GET", "/health", reply(502, body))
    with pytest.raises(raybox.SandboxNotRunningException) as caught:
        await done(sandbox.run_code("1+1"))
    assert (caught.value.cause, caught.value.should_mask_sample) == ("killed", False)


@pytest.mark.parametrize("cut", [(), (ABORT,)])
async def test_cut_stream_of_a_living_sandbox(
    sandbox: Any, player: Player, done: Done, cut: tuple[object, ...]
) -> None:
    player.on("POST", "/execute", events(COUNT, TWO, *cut))
    with pytest.raises(raybox.SandboxException) as caught:
        await done(sandbox.run_code("1+1"))
    assert type(caught.value) is raybox.SandboxException
    assert (caught.value.kind, caught.value.retryable, caught.value.should_mask_sample) == ("internal", False, True)


async def test_cut_after_the_end_does_not_matter(sandbox: Any, player: Player, done: Done) -> None:
    player.on("POST", "/execute", events(COUNT, TWO, END, ABORT))
    assert (await done(sandbox.run_code("1+1"))).text == "2"


async def test_server_that_never_closes_the_stream_does_not_hold_the_caller(
    sandbox: Any, player: Player, done: Done
) -> None:
    player.on("POST", "/execute", events(COUNT, TWO, END, HANG))
    started_s = time.monotonic()
    assert (await done(sandbox.run_code("1+1"))).text == "2"
    assert time.monotonic() - started_s < 3
    assert await asyncio.to_thread(player.client_left.wait, 10)


async def test_aborted_before_the_head(sandbox: Any, player: Player, done: Done) -> None:
    player.on("POST", "/execute", events(ABORT))
    with pytest.raises(raybox.SandboxException) as caught:
        await done(sandbox.run_code("1+1"))
    assert caught.value.kind == "internal"


async def test_sandbox_that_is_gone_already(sandbox: Any, player: Player, done: Done) -> None:
    player.on("POST", "/execute", GONE)
    player.on("GET", "/health", GONE)
    with pytest.raises(raybox.SandboxNotRunningException):
        await done(sandbox.run_code("1+1"))
    assert await done(sandbox.is_running()) is False
    player.on("GET", "/health", reply(204))
    assert await done(sandbox.is_running()) is True
    player.on("GET", "/health", reply(500, b"odd"))
    with pytest.raises(raybox.SandboxException):
        await done(sandbox.is_running())


async def test_nonsense_in_the_stream(sandbox: Any, player: Player, done: Done) -> None:
    for nonsense in (b"<html>\n", b"[1]\n", b'{"no": "type"}\n', b'{"type": "stdout"}\n', b'{"type": "error"}\n'):
        player.on("POST", "/execute", events(COUNT, nonsense, END))
        with pytest.raises(raybox.SandboxException) as caught:
            await done(sandbox.run_code("1+1"))
        assert caught.value.kind == "internal"


async def test_language_and_context_exclude_each_other(sandbox: Any, done: Done) -> None:
    with pytest.raises(raybox.InvalidArgumentException):
        await done(sandbox.run_code("1", "python", raybox.Context("c", "r", "/")))


@pytest.mark.parametrize("argument", [{"timeout": -1}, {"request_timeout": -0.1}, {"envs": {"a": object()}}])
async def test_arguments_that_mean_nothing(sandbox: Any, done: Done, argument: dict[str, Any]) -> None:
    with pytest.raises(raybox.InvalidArgumentException):
        await done(sandbox.run_code("1", **argument))


# --- contexts --------------------------------------------------------------------------------------------------------


async def test_contexts(sandbox: Any, player: Player, done: Done) -> None:
    made = {"id": "c/1", "language": "r", "cwd": "/home/user"}
    player.on("POST", "/contexts", reply(200, made))
    player.on("GET", "/contexts", reply(200, [made]))
    player.on("POST", "/contexts/c%2F1/restart", reply(200, None), reply(404, b"Context c/1 not found"))
    player.on("DELETE", "/contexts/c%2F1", reply(200, None))
    context = await done(sandbox.create_code_context(cwd="/tmp", language="r"))
    assert context == raybox.Context("c/1", "r", "/home/user")
    assert player.seen[-1].json == {"language": "r", "cwd": "/tmp"}
    assert await done(sandbox.list_code_contexts()) == [context]
    assert await done(sandbox.restart_code_context(context)) is None
    with pytest.raises(raybox.NotFoundException, match="Context c/1 not found"):
        await done(sandbox.restart_code_context("c/1"))
    assert await done(sandbox.remove_code_context("c/1")) is None
    for value in (context, "c/1"):
        await done(sandbox.run_code("1", context=value))
        assert player.seen[-1].json["context_id"] == "c/1"
    with pytest.raises(raybox.InvalidArgumentException):
        await done(sandbox.remove_code_context(""))


async def test_context_call_on_a_sandbox_that_dies(sandbox: Any, player: Player, done: Done) -> None:
    player.on("POST", "/contexts", events(b'{"id"', ABORT))
    player.on("GET", "/health", GONE)
    with pytest.raises(raybox.SandboxNotRunningException):
        await done(sandbox.create_code_context())


# --- connections -----------------------------------------------------------------------------------------------------


async def test_sandboxes_share_connections(colour: Any, options: dict[str, Any], player: Player, done: Done) -> None:
    for _ in range(3):
        sandbox = await done(colour.create(**options))
        await done(sandbox.run_code("1+1"))
        await done(sandbox.is_running())
    assert len(player.connections) == 1


async def test_connection_that_the_server_closed_meanwhile_is_not_used(colour: Any, player: Player, done: Done) -> None:
    sandbox = await done(colour.create(**player.options))
    player.on("GET", "/health", reply(204, None, connection="close"), reply(204))
    assert await done(sandbox.is_running())
    assert await done(sandbox.is_running())
    assert len(player.connections) == 2


@pytest.mark.parametrize("proxied", [False, True])
def test_each_event_loop_has_its_own_connections_and_closes_them(player: Player, proxied: bool) -> None:
    options = player.options | ({"proxy": player.url} if proxied else {})

    async def main() -> None:
        sandbox = await AsyncSandbox.create(**options)
        executions = await asyncio.gather(*(sandbox.run_code("1+1") for _ in range(5)))
        assert [execution.text for execution in executions] == ["2"] * 5

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            asyncio.run(main())
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.parametrize("proxied", [False, True])
def test_forked_child_uses_connections_of_its_own(player: Player, proxied: bool) -> None:
    options = player.options | ({"proxy": player.url} if proxied else {})
    sandbox = Sandbox.create(**options)
    assert len(player.connections) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with the player's thread is what is tested
        pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if sandbox.run_code("1+1").text == "2" else 3)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(player.connections) == 2
    assert sandbox.run_code("1+1").text == "2"
    assert len(player.connections) == 2


@pytest.mark.parametrize("forks", [False, True])
def test_process_ends_without_warnings(player: Player, forks: bool) -> None:
    program = f"""
import asyncio, os, sys
from raybox import AsyncSandbox, Sandbox
options = {player.options!r}
sandbox = Sandbox.create(**options)
assert sandbox.run_code("1+1").text == "2"
async def main():
    asyncio.get_running_loop().slow_callback_duration = 60  # how fast this machine is now is not the question
    await (await AsyncSandbox.create(**options)).run_code("1+1")
asyncio.run(main())
if {forks} and os.fork() == 0:
    assert sandbox.run_code("1+1").text == "2"
    sys.exit()
if {forks}:
    os.wait()
"""
    command = [sys.executable, "-X", "dev", "-W", "error", "-W", "ignore::DeprecationWarning", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")


async def test_sandbox_survives_pickling(colour: Any, player: Player, done: Done) -> None:
    sandbox = pickle.loads(pickle.dumps(await done(colour.create(**player.options))))
    assert (await done(sandbox.run_code("1+1"))).text == "2"


async def test_idle_connections_are_bounded(player: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "MAX_IDLE", 2)
    sandbox = await AsyncSandbox.create(**player.options)
    await asyncio.gather(*(sandbox.run_code("1+1") for _ in range(6)))
    connections = await _http._connections()
    assert len(connections.idle._kept) == 2


async def test_large_answers_arrive_whole(sandbox: Any, player: Player, done: Done) -> None:
    text = "x" * 3_000_000
    player.on("POST", "/execute", events({"type": "result", "text": text, "is_main_result": True}, END))
    assert (await done(sandbox.run_code("y" * 2_000_000))).text == text
    assert len(player.seen[-1].json["code"]) == 2_000_000
