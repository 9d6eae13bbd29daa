"""The zygote's life, and what its forks share and do not share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from raybox_actors.errors import InternalError
from raybox_actors.session import SessionOptions
from raybox_actors.zygote_process import ZygoteProcess, spawn_zygote
from tests.actors.driving import Driver, children_of, eventually, open_descriptors, state_of

OpenSession = Callable[..., Awaitable[Driver]]
pytestmark = pytest.mark.anyio


@pytest.fixture
def mortal(base_options: SessionOptions, run_folder: Path) -> Iterator[Callable[[], ZygoteProcess]]:
    """Starts zygotes that a test may kill, all at one address; light ones."""
    started: list[ZygoteProcess] = []

    def start() -> ZygoteProcess:
        zygote = spawn_zygote(base_options.python, str(run_folder / "m.sock"), run_folder / "mortal.log", ())
        started.append(zygote)
        return zygote

    yield start
    for zygote in started:
        zygote.stop()


async def test_kernels_survive_its_death_and_new_ones_wait_for_the_next(
    session: OpenSession, mortal: Callable[[], ZygoteProcess]
) -> None:
    first = mortal()
    await asyncio.to_thread(first.wait_until_ready)
    driver = await session(zygote_address=first.address)
    cell = await driver.running("import time\nx = 5\nwhile not globals().get('go'): time.sleep(0.01); go = True\nx")
    first.stop()
    assert (await driver.finish(cell)).result == "5"
    assert (await driver.run("x + 1")).result == "6"
    creating = asyncio.create_task(driver.session.create_context(None, None))
    second = mortal()
    await asyncio.to_thread(second.wait_until_ready)
    helpers = children_of(second.pid)
    assert second.address == first.address
    context = await creating
    assert (await driver.run("1 + 1", context_id=context.context_id)).result == "2"
    # A kernel whose zygote is gone can still be ended, restarted, and mourned.
    await driver.session.restart_context(driver.session.contexts()[0].context_id)
    assert (await driver.run("1 + 1")).result == "2"
    async with asyncio.timeout(8):
        await driver.session.close()
    await eventually(lambda: children_of(second.pid) == helpers)


async def test_the_two_zygotes_of_a_template_die_together(mortal: Callable[[], ZygoteProcess]) -> None:
    first = mortal()
    await asyncio.to_thread(first.wait_until_ready)
    (lean,) = children_of(first.pid)
    os.kill(lean, signal.SIGKILL)
    assert await asyncio.to_thread(first.process.wait, 5) != 0
    second = mortal()
    await asyncio.to_thread(second.wait_until_ready)
    (lean,) = children_of(second.pid)
    second.stop()
    await eventually(lambda: state_of(lean) in ("Z", "X", ""))


async def test_a_kernel_that_outlived_its_zygote_can_die(
    session: OpenSession, mortal: Callable[[], ZygoteProcess]
) -> None:
    first = mortal()
    await asyncio.to_thread(first.wait_until_ready)
    driver = await session(zygote_address=first.address)
    await driver.run("x = 1")
    first.stop()
    second = mortal()
    await asyncio.to_thread(second.wait_until_ready)
    cell = await driver.run("import os; os._exit(1)")
    assert cell.error is not None
    assert "state of the context is gone" in cell.error[1]
    assert (await driver.run("1 + 1")).result == "2"


async def test_death_in_the_middle_of_forks(session: OpenSession, mortal: Callable[[], ZygoteProcess]) -> None:
    """Every call ends, with a context or with InternalError, and the kernels of the failed ones are gone."""
    first = mortal()
    await asyncio.to_thread(first.wait_until_ready)
    driver = await session(zygote_address=first.address)
    creating = [asyncio.create_task(driver.session.create_context(None, None)) for _ in range(10)]
    await asyncio.wait(creating, return_when=asyncio.FIRST_COMPLETED)
    first.stop()
    second = mortal()
    await asyncio.to_thread(second.wait_until_ready)
    ends = await asyncio.gather(*creating, return_exceptions=True)
    failed = [end for end in ends if isinstance(end, BaseException)]
    assert all(isinstance(end, InternalError) for end in failed)
    assert len(driver.session.contexts()) == 1 + 10 - len(failed)
    for info in driver.session.contexts():
        assert (await driver.run("1 + 1", context_id=info.context_id)).result == "2"


async def test_it_forks_whatever_numbers_its_descriptors_have(
    session: OpenSession, mortal: Callable[[], ZygoteProcess]
) -> None:
    """With many children they come to the places that a child's own are put."""
    zygote = mortal()  # one that nobody else's children come and go at
    await asyncio.to_thread(zygote.wait_until_ready)
    driver = await session(zygote_address=zygote.address)

    def count() -> int:
        return len(list(Path(f"/proc/{zygote.pid}/fd").iterdir()))

    async def settle(at: int) -> None:
        await eventually(lambda: count() == at, describe=lambda: f"{count()}, not {at}")

    with contextlib.ExitStack() as silent:
        held = count()
        while held < 112:
            connection = silent.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            connection.connect(zygote.address)
            held += 1
            await settle(held)
            if held >= 80:
                context = await driver.session.create_context(None, None)
                assert (await driver.run("print('out'); 1 + 1", context_id=context.context_id)).result == "2"
                await driver.session.remove_context(context.context_id)
                await settle(held)


async def test_bad_requests_do_not_kill_it(zygote: ZygoteProcess, session: OpenSession) -> None:
    def send(data: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(10)
            connection.connect(zygote.address)
            connection.send(data)
            return connection.recv(4096)

    for data in (b"noise", b"\xff\xfe", b"{}", b'{"op": "kernel"}', b"[]", b"1", b'{"op": "nothing", "env": 1}'):
        assert b"error" in await asyncio.to_thread(send, data), data
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(zygote.address)  # and hangs up
    driver = await session()
    assert (await driver.run("1 + 1")).result == "2"


async def test_every_fork_draws_its_own_random_numbers(session: OpenSession) -> None:
    driver = await session()
    code = """
import numpy, os, random, secrets, tempfile, uuid
[numpy.random.rand(), random.random(), str(uuid.uuid4()), str(uuid.uuid1()), tempfile.mktemp(), secrets.token_hex()]
"""
    drawn = [(await driver.run(code)).result]
    for _ in range(2):
        context = await driver.session.create_context(None, None)
        drawn.append((await driver.run(code, context_id=context.context_id)).result)
    for column in zip(*(eval(str(row)) for row in drawn), strict=True):
        assert len(set(column)) == 3, column


async def test_kernels_are_killed_before_the_pool_and_have_their_own_priority(
    session: OpenSession, base_options: SessionOptions
) -> None:
    driver = await session()
    nice = min(19, os.getpriority(os.PRIO_PROCESS, 0) + base_options.policy.nice_above_actor)
    cell = await driver.run("import os; [os.nice(0), int(open('/proc/self/oom_score_adj').read())]")
    assert cell.result == f"[{nice}, {base_options.policy.oom_score_adj}]"
    lower = await driver.run("os.write(os.open('/proc/self/oom_score_adj', os.O_WRONLY), b'-1000')")
    assert lower.error is not None


async def test_a_zygote_that_cannot_start_says_so_and_is_reaped(run_folder: Path) -> None:
    before = open_descriptors()
    zygote = spawn_zygote("/bin/false", str(run_folder / "f.sock"), run_folder / "f.log")
    with pytest.raises(InternalError, match=r"f\.log says why"):
        zygote.wait_until_ready()
    zygote.stop()
    zygote.stop()
    assert (state_of(zygote.pid), zygote.alive, open_descriptors()) == ("", False, before)
