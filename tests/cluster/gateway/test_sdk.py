"""The official Python SDK, unmodified, sync and async, against the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import anyio.to_thread
import pytest
from e2b import (
    AuthenticationException,
    FileNotFoundException,
    InvalidArgumentException,
    NotFoundException,
    SandboxException,
    SandboxQuery,
    SandboxState,
    TimeoutException,
)
from e2b.exceptions import SandboxNotFoundException, ServiceBusyException
from e2b_code_interpreter import AsyncSandbox, Sandbox

from raybox_actors.errors import NoCapacity
from tests.cluster.gateway.conftest import Gateway
from tests.cluster.gateway.memory import Run

pytestmark = pytest.mark.anyio
T = TypeVar("T")


async def in_thread(call: Callable[[], T]) -> T:
    """The blocking SDK must not block the loop that serves it."""
    return await anyio.to_thread.run_sync(call)


async def everything(run: Run) -> None:
    run.emit("number_of_executions", execution_count=7)
    run.emit("stdout", text="out\u2028\n", timestamp="2024-01-01T00:00:00Z")
    run.emit("stderr", text="err\n", timestamp="2024-01-01T00:00:00Z")
    run.emit("result", text="2", png="aGk=", is_main_result=True, extra={})
    run.emit("error", name="ValueError", value="no", traceback="Traceback...")


async def forever(run: Run) -> None:
    run.emit("number_of_executions", execution_count=1)
    await run.interrupted.wait()


async def test_life_of_a_sandbox_async(gateway: Gateway) -> None:
    sdk: Any = gateway.sdk()
    sandbox = await AsyncSandbox.create(timeout=100, metadata={"who": "me"}, envs={"A": "1"}, **sdk)
    assert gateway.backend.created[0].env_vars == {"A": "1"}
    assert await sandbox.is_running()
    info = await sandbox.get_info()
    assert (info.sandbox_id, info.metadata, info.state) == (sandbox.sandbox_id, {"who": "me"}, SandboxState.RUNNING)
    assert (info.end_at - info.started_at).total_seconds() == 100

    await sandbox.set_timeout(50)
    shorter = await sandbox.get_info()
    again = await AsyncSandbox.connect(sandbox.sandbox_id, timeout=10, **sdk)
    assert again.sandbox_id == sandbox.sandbox_id
    assert (await again.get_info()).end_at == shorter.end_at < info.end_at

    assert await sandbox.kill()
    assert not await sandbox.kill()
    assert not await sandbox.is_running()
    with pytest.raises(SandboxNotFoundException):
        await sandbox.get_info()
    with pytest.raises(SandboxNotFoundException):
        await AsyncSandbox.connect(sandbox.sandbox_id, **sdk)
    with pytest.raises(SandboxNotFoundException):
        await sandbox.set_timeout(5)


async def test_life_of_a_sandbox_sync(gateway: Gateway) -> None:
    sdk: Any = gateway.sdk()

    def live() -> None:
        sandbox = Sandbox.create(template="base", **sdk)
        assert sandbox.is_running()
        assert Sandbox.connect(sandbox.sandbox_id, **sdk).get_info().state == SandboxState.RUNNING
        assert sandbox.run_code("1+1").text == "2"
        sandbox.set_timeout(0)
        assert not sandbox.is_running()
        with pytest.raises(TimeoutException):
            sandbox.run_code("1+1")

    await in_thread(live)


async def test_everything_that_a_cell_can_say(gateway: Gateway) -> None:
    gateway.backend.scripts["everything"] = everything
    sandbox = await AsyncSandbox.create(**gateway.sdk())
    heard: list[str] = []

    async def hear(message: Any) -> None:
        heard.append(message.line)

    for execution in (
        await sandbox.run_code("everything", on_stdout=hear, on_stderr=hear, envs={"X": "y"}),
        await in_thread(lambda: Sandbox.connect(sandbox.sandbox_id, **gateway.sdk()).run_code("everything")),
    ):
        assert execution.execution_count == 7
        assert (execution.logs.stdout, execution.logs.stderr) == (["out\u2028\n"], ["err\n"])
        assert (execution.text, execution.results[0].png) == ("2", "aGk=")
        assert execution.error is not None
        assert (execution.error.name, execution.error.value) == ("ValueError", "no")
    assert heard == ["out\u2028\n", "err\n"]
    assert gateway.backend.executed[0].env_vars == {"X": "y"}


async def test_contexts(gateway: Gateway) -> None:
    sandbox = await AsyncSandbox.create(**gateway.sdk())
    context = await sandbox.create_code_context(cwd="/root", language="r")
    assert (context.cwd, context.language) == ("/root", "r")
    listed = await sandbox.list_code_contexts()
    assert [item.language for item in listed] == ["python", "javascript", "r"]
    await sandbox.run_code("1+1", context=context)
    assert gateway.backend.executed[-1].context_id == context.id
    await sandbox.restart_code_context(context)
    await sandbox.remove_code_context(context)
    with pytest.raises(NotFoundException, match=f"Context {context.id} not found"):
        await sandbox.run_code("1+1", context=context)
    with pytest.raises(NotFoundException):
        await sandbox.restart_code_context(context)


async def test_private_traffic(gateway: Gateway) -> None:
    sdk: Any = gateway.sdk()
    sandbox = await AsyncSandbox.create(network={"allow_public_traffic": False}, **sdk)
    assert sandbox.traffic_access_token == "traffic-token"
    assert (await sandbox.run_code("1+1")).text == "2"
    await sandbox.list_code_contexts()


async def test_listing(gateway: Gateway) -> None:
    sdk: Any = gateway.sdk()
    tricky = {"a b/ü&=%,": "c/d&e=f+%20"}
    infos = [await gateway.sandbox(metadata=tricky if n == 2 else {}) for n in range(5)]

    async def ids(**options: Any) -> list[str]:
        found = []
        paginator = AsyncSandbox.list(**options, **sdk)
        while paginator.has_next:
            found += [item.sandbox_id for item in await paginator.next_items()]
        return found

    oldest_first = [info.sandbox_id for info in infos]
    assert await ids(limit=2) == oldest_first[::-1]
    assert await ids(limit=2, order="asc") == oldest_first
    assert await ids(query=SandboxQuery(metadata=tricky)) == [infos[2].sandbox_id]
    assert await ids(query=SandboxQuery(state=[SandboxState.PAUSED])) == []
    assert len(await ids(query=SandboxQuery(state=[SandboxState.PAUSED, SandboxState.RUNNING]))) == 5
    since = datetime.fromtimestamp(infos[3].started_at_s, UTC)
    assert await ids(query=SandboxQuery(started_after=since), order="asc") == oldest_first[3:]
    assert await ids(query=SandboxQuery(template="no-such")) == []

    def sync_ids() -> list[str]:
        paginator = Sandbox.list(query=SandboxQuery(metadata=tricky), **sdk)
        return [item.sandbox_id for item in paginator.next_items()]

    assert await in_thread(sync_ids) == [infos[2].sandbox_id]


async def test_errors_arrive_as_the_sdks_own(gateway: Gateway) -> None:
    sdk: Any = gateway.sdk()
    with pytest.raises(AuthenticationException):
        await AsyncSandbox.create(**(sdk | {"api_key": "e2b_" + "0" * 40}))
    with pytest.raises(SandboxException, match="404: template 'nope' not found"):
        await AsyncSandbox.create(template="nope", **sdk)
    with pytest.raises(SandboxException, match="autoPause is not supported yet"):
        await AsyncSandbox.create(lifecycle={"on_timeout": "pause"}, **sdk)
    with pytest.raises(SandboxException, match="timeout must be between"):
        await AsyncSandbox.create(timeout=-5, **sdk)
    sandbox = await AsyncSandbox.create(**sdk)
    with pytest.raises(SandboxException, match="not available in this version: pausing"):
        await sandbox.pause()
    with pytest.raises(FileNotFoundException, match="path '/x' does not exist"):
        await sandbox.files.read("/x")
    with pytest.raises(NotFoundException, match="process with pid 1 not found"):
        await sandbox.commands.connect(1)
    with pytest.raises(InvalidArgumentException):
        await sandbox.run_code("1", language="r", context=(await sandbox.list_code_contexts())[0])


async def test_a_full_pool_is_asked_once(gateway: Gateway) -> None:
    sdk: Any = gateway.sdk()
    gateway.backend.fail_with = NoCapacity("full", retry_after_s=30)
    with pytest.raises(ServiceBusyException):
        await AsyncSandbox.create(**sdk)
    assert gateway.backend.calls == ["create"]


async def test_an_execution_timeout_interrupts_and_the_sandbox_goes_on(gateway: Gateway) -> None:
    gateway.backend.scripts["forever"] = forever
    sandbox = await AsyncSandbox.create(**gateway.sdk())
    with pytest.raises(TimeoutException):
        await sandbox.run_code("forever", timeout=0.2)
    async with asyncio.timeout(5):
        assert await gateway.backend.interrupts.get() == gateway.backend.executed[0].execution_id
    assert (await sandbox.run_code("1+1")).text == "2"


@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_a_sandbox_killed_in_the_middle_is_an_error_of_its_own(gateway: Gateway, colour: str) -> None:
    sdk: Any = gateway.sdk()
    gateway.backend.scripts["forever"] = forever
    sandbox = await AsyncSandbox.create(**sdk)
    if colour == "async":
        execution = asyncio.ensure_future(sandbox.run_code("forever"))
    else:
        blocking = Sandbox.connect
        execution = asyncio.ensure_future(in_thread(lambda: blocking(sandbox.sandbox_id, **sdk).run_code("forever")))
    async with asyncio.timeout(5):
        run = await gateway.backend.started.get()
        await run.polled.wait()
    assert await sandbox.kill()
    with pytest.raises(TimeoutException, match="sandbox was killed"):
        await execution
