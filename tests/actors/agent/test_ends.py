"""Ends in the middle: of the agent, of whoever asked, of the sandbox. Nothing acknowledged is lost, nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from raybox_actors.agent.errors import AgentError
from raybox_actors.agent.values import ProcessOutput, ProcessSelector, ProcessSpec, ProcessStarted
from raybox_actors.errors import SandboxLost
from tests.actors.agent.driving import Sandbox, descriptors, until
from tests.actors.driving import eventually

pytestmark = pytest.mark.anyio

ECHO = "import socket; s = socket.create_server(('127.0.0.1', 8765)); held = []\nwhile True: held.append(s.accept())"
Begun = Callable[[], None]


async def reading(sandbox: Sandbox, begun: Begun) -> None:
    async with sandbox.agent.open_read("big", "user") as reader:
        async for _ in reader:
            begun()
            await asyncio.sleep(0.01)


async def writing(sandbox: Sandbox, begun: Begun) -> None:
    async with sandbox.agent.open_write("written", "user") as writer:
        while True:
            await writer.write(bytes(10_000))
            begun()
            await asyncio.sleep(0.001)


async def watching(sandbox: Sandbox, begun: Begun) -> None:
    async with sandbox.agent.watch("", "user", recursive=True, include_entry=True) as events:
        begun()
        async for _ in events:
            pass


async def running(sandbox: Sandbox, begun: Begun) -> None:
    async with sandbox.agent.start_process(ProcessSpec("/bin/bash", ("-c", "while :; do echo x; done"))) as events:
        async for _ in events:
            begun()


async def feeding(sandbox: Sandbox, begun: Begun) -> None:
    async with sandbox.agent.start_process(ProcessSpec("/bin/sleep", ("60",), tag="deaf")) as events:
        started = await anext(events)
        assert isinstance(started, ProcessStarted)
        begun()
        await sandbox.agent.send_input(ProcessSelector(pid=started.pid), bytes(1 << 20), pty=False)


async def dialling(sandbox: Sandbox, begun: Begun) -> None:
    stream = await sandbox.agent.dial(8765)
    try:
        begun()
        while await stream.read():
            pass
        raise AgentError("unavailable", "the port's end is the agent's")
    finally:
        stream.abort()


async def moving(sandbox: Sandbox, begun: Begun) -> None:
    begun()
    while True:
        await sandbox.agent.move("big", "/dev/shm/big", "user")
        await sandbox.agent.move("/dev/shm/big", "big", "user")


OPERATIONS = {work.__name__: work for work in (reading, writing, watching, running, feeding, dialling, moving)}


@pytest.fixture(params=OPERATIONS)
async def operation(request: pytest.FixtureRequest, sandbox: Sandbox) -> Callable[[Begun], Awaitable[None]]:
    await sandbox.write("big", bytes(20_000_000))
    if request.param == "dialling":
        # Not below the agent, whose end is the point.
        await sandbox.driver.start(f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {ECHO!r}])")

        async def answers() -> bool:
            with contextlib.suppress(AgentError):
                (await sandbox.agent.dial(8765)).abort()
                return True
            return False

        await until(answers)
    return lambda begun: OPERATIONS[request.param](sandbox, begun)


Operation = Callable[[Begun], Awaitable[None]]


async def test_of_the_agent(sandbox: Sandbox, operation: Operation) -> None:
    await sandbox.write("acknowledged", b"kept")
    begun = asyncio.Event()
    task = asyncio.ensure_future(operation(begun.set))
    await asyncio.wait({task, asyncio.ensure_future(begun.wait())}, return_when=asyncio.FIRST_COMPLETED)
    pid = sandbox.session._agent.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(AgentError) as caught:
        await task
    assert caught.value.code == "unavailable"
    assert caught.value.retryable
    assert await sandbox.read("acknowledged") == b"kept"
    assert sandbox.session._agent.pid != pid
    await sandbox.sh("while pgrep -x sleep; do sleep 0.01; done")
    assert (await sandbox.driver.run("1+1")).result == "2"


async def test_of_whoever_asked(sandbox: Sandbox, operation: Operation) -> None:
    await sandbox.sh("true")
    pid = sandbox.session._agent.pid
    assert pid is not None
    before = descriptors(pid)
    for _ in range(3):
        begun = asyncio.Event()
        task = asyncio.ensure_future(operation(begun.set))
        waiting = asyncio.ensure_future(begun.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        waiting.cancel()
        for info in await sandbox.agent.list_processes():
            with contextlib.suppress(AgentError):  # it has ended meanwhile
                await sandbox.agent.signal_process(ProcessSelector(pid=info.pid), signal.SIGKILL)
    assert sandbox.session._agent.pid == pid
    # Processes that ended, and what is on its way, go by themselves.
    await eventually(lambda: len(descriptors(pid)) <= len(before), 5.0, lambda: (before, descriptors(pid)))


async def test_of_the_sandbox(sandbox: Sandbox, operation: Operation) -> None:
    begun = asyncio.Event()
    task = asyncio.ensure_future(operation(begun.set))
    waiting = asyncio.ensure_future(begun.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    await sandbox.session.close(SandboxLost("s", "killed"))
    with pytest.raises((SandboxLost, AgentError)):
        await task
    with pytest.raises(SandboxLost):
        await sandbox.agent.stat("", "user")


async def test_orphans_are_reaped(sandbox: Sandbox) -> None:
    await sandbox.sh("for i in 1 2 3 4 5; do (setsid sleep 0.05 &) ; done")
    await sandbox.sh("while pgrep -x sleep; do sleep 0.01; done")
    assert await sandbox.sh("grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null || true") == ""


async def test_memory_stays_flat_while_much_passes(sandbox: Sandbox) -> None:
    await sandbox.sh("true")
    pid = sandbox.session._agent.pid
    assert pid is not None

    def private_mib() -> float:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) / 1024

    async def pass_through() -> None:
        async with sandbox.agent.open_write("big", "user") as writer:
            for _ in range(200):
                await writer.write(bytes(1 << 20))
            await writer.commit()
        async with sandbox.agent.open_read("big", "user") as reader:
            assert sum([len(piece) async for piece in reader]) == 200 << 20

    await sandbox.write("small", bytes(2_000_000))
    await sandbox.read("small")
    before = private_mib()
    await pass_through()
    assert private_mib() < before + 8


@pytest.mark.slow
async def test_a_client_that_does_not_read_costs_no_memory_and_others_only_some_time(sandbox: Sandbox) -> None:
    """Two are attached to a flood; one reads nothing. After STALL_LIMIT_S of that it is cut off, and told why."""

    spec = ProcessSpec("/bin/bash", ("-c", "head -c 30000000 /dev/zero"))
    async with sandbox.agent.start_process(spec) as lazy:
        started = await anext(lazy)
        assert isinstance(started, ProcessStarted)
        selector = ProcessSelector(pid=started.pid)
        async with sandbox.agent.connect_process(selector) as eager:
            size = 0
            async with asyncio.timeout(60):
                async for event in eager:
                    size += len(event.data) if isinstance(event, ProcessOutput) else 0
        assert 25_000_000 < size <= 30_000_000
        with pytest.raises(AgentError) as caught:
            async for _ in lazy:
                pass
    assert caught.value.code == "resource_exhausted"
