"""Sessions with real walls and real kernels: state, order, environment, interrupts, timeouts, deaths, floods, ends."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from raybox_actors.contexts import TimeoutPolicy
from raybox_actors.errors import BadRequest, Conflict, InternalError, LimitReached, NotFound, SandboxLost
from raybox_actors.executions import OutputLimits
from raybox_actors.kernels.languages import normal_language
from raybox_actors.session import SessionOptions, begin_session, open_session
from raybox_actors.values import ExecuteRequest
from raybox_actors.zygote_process import ZygoteProcess
from tests.actors.driving import Cell, Driver, children_of, eventually, inside, namespace_of, parse

OpenSession = Callable[..., Awaitable[Driver]]
pytestmark = pytest.mark.anyio

SLEEP = "import time; time.sleep(60)"
DEAF = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(1)"
QUICK = TimeoutPolicy(interrupt_grace_s=0.3)


async def test_state_lives_across_cells_and_the_count_rises_by_one(session: OpenSession) -> None:
    driver = await session()
    await driver.run("x = 41")
    cell = await driver.run("x + 1")
    assert cell.result == "42"
    assert cell.events[0] == {"type": "number_of_executions", "execution_count": 2}
    assert [event["type"] for event in cell.events] == ["number_of_executions", "result", "end_of_execution"]


async def test_what_it_uses_is_what_it_uses_from_the_first_sample_on(session: OpenSession) -> None:
    """While its root is being made, the host's disk would be seen, and no process."""
    driver = await session()
    if driver.session.options.cgroups is None:
        pytest.skip("nothing is sampled without cgroups")
    (first, *_) = await eventually(lambda: driver.session.metrics(None, None))
    assert first.disk_total_bytes <= driver.session.options.policy.limits.disk_mib << 20
    assert first.memory_used_bytes > 0


async def test_an_error_is_data(session: OpenSession) -> None:
    driver = await session()
    cell = await driver.run("print('before'); 1/0")
    assert cell.error == ("ZeroDivisionError", "division by zero")
    assert cell.text() == "before\n"


async def test_contexts_run_in_parallel_and_one_context_in_order(session: OpenSession) -> None:
    driver = await session()
    other = await driver.session.create_context(None, None)
    long = await driver.running(SLEEP)
    waiting = [await driver.start(f"print({number})") for number in range(5)]
    assert (await driver.run("1 + 1", context_id=other.context_id)).result == "2"
    assert not any(cell.lines for cell in waiting)
    driver.session.interrupt(long.execution_id)
    await driver.finish(long)
    finished = [await driver.finish(cell) for cell in waiting]
    assert [cell.events[0]["execution_count"] for cell in finished] == [2, 3, 4, 5, 6]
    assert [info.context_id for info in driver.session.contexts()][-1] == other.context_id


async def test_environment_of_an_execution_is_gone_afterwards(session: OpenSession) -> None:
    driver = await session()
    await driver.session.configure({"G": "global"})
    look = "import os; [os.environ.get('A'), os.environ.get('G')]"
    assert (await driver.run(look, env_vars={"A": "x", "G": "mine"})).result == "['x', 'mine']"
    assert (await driver.run(look)).result == "[None, 'global']"
    later = await driver.session.create_context(None, None)
    assert (await driver.run(look, context_id=later.context_id)).result == "[None, 'global']"
    await driver.session.restart_context(later.context_id)
    assert (await driver.run(look, context_id=later.context_id)).result == "[None, 'global']"


async def test_working_directories(session: OpenSession) -> None:
    driver = await session()
    assert (await driver.run("import os; os.getcwd()")).result == "/home/user"
    there = await driver.session.create_context("python", "/tmp")
    assert there.cwd == "/tmp"
    assert (await driver.run("import os; os.getcwd()", context_id=there.context_id)).result == "/tmp"
    with pytest.raises(BadRequest, match="/nowhere"):
        await driver.session.create_context("python", "/nowhere")
    assert driver.session.contexts()[-1] == there


async def test_what_is_not_there(session: OpenSession) -> None:
    driver = await session()
    with pytest.raises(BadRequest, match="cobol"):
        await driver.run("1", language="cobol")
    with pytest.raises(BadRequest, match="Only one of"):
        await driver.run("1", language="python", context_id="x")
    with pytest.raises(NotFound, match="context x not found"):
        await driver.run("1", context_id="x")
    for call in (driver.session.restart_context, driver.session.remove_context):
        with pytest.raises(NotFound):
            await call("x")
    with pytest.raises(NotFound):
        driver.session.interrupt("x")
    with pytest.raises(NotFound):
        await driver.session.poll("x", 0, 0)
    assert normal_language(" PYTHON ") == normal_language(None) == "python"


async def test_limits_of_contexts_and_of_waiting_executions(session: OpenSession) -> None:
    driver = await session(max_contexts=3, max_waiting=2)
    created = await asyncio.gather(
        *(driver.session.create_context(None, None) for _ in range(4)), return_exceptions=True
    )
    assert sum(isinstance(one, LimitReached) for one in created) == 2
    assert len(driver.session.contexts()) == 3
    long = await driver.running(SLEEP)
    waiting = await driver.start("1")
    with pytest.raises(LimitReached):
        await driver.start("2")
    driver.session.interrupt(waiting.execution_id)
    assert (await driver.finish(waiting)).error == (
        "ExecutionAborted",
        "The execution was aborted before it began",
    )
    assert await driver.start("3")
    driver.session.interrupt(long.execution_id)


async def test_interrupt_keeps_the_state(session: OpenSession) -> None:
    driver = await session()
    cell = await driver.running(f"x = 1\n{SLEEP}")
    driver.session.interrupt(cell.execution_id)
    await driver.finish(cell)
    assert cell.error is not None
    assert cell.error[0] == "KeyboardInterrupt"
    assert (await driver.run("x")).result == "1"


async def test_an_interrupt_right_after_the_start_is_not_lost(session: OpenSession) -> None:
    driver = await session(first_wait_s=0.0)
    for _ in range(20):
        cell = await driver.start(SLEEP)
        driver.session.interrupt(cell.execution_id)
        async with asyncio.timeout(10):
            await driver.finish(cell)
        assert cell.error is not None
        assert cell.error[0] in ("KeyboardInterrupt", "ExecutionAborted")
    assert (await driver.run("1 + 1")).result == "2"


async def test_an_aborted_execution_never_runs(session: OpenSession) -> None:
    driver = await session()
    long = await driver.running(f"ran = []\n{SLEEP}")
    waiting = [await driver.start(f"ran.append({number})") for number in range(3)]
    driver.session.interrupt(waiting[1].execution_id)
    assert (await driver.finish(waiting[1])).error is not None
    driver.session.interrupt(long.execution_id)
    assert (await driver.run("ran")).result == "[0, 2]"


async def test_a_timeout_that_the_code_heeds_keeps_the_state(session: OpenSession) -> None:
    driver = await session(timeouts=QUICK)
    cell = await driver.run(f"x = 1\n{SLEEP}", timeout_s=0.2)
    assert cell.error is not None
    assert cell.error[0] == "ExecutionTimeout"
    assert "is kept" in cell.error[1]
    assert (await driver.run("x")).result == "1"


async def test_a_timeout_that_the_code_ignores_loses_the_state_and_says_so(session: OpenSession) -> None:
    driver = await session(timeouts=QUICK)
    cell = await driver.run(f"x = 1\n{DEAF}", timeout_s=0.2)
    assert cell.error is not None
    assert cell.error[0] == "ExecutionTimeout"
    assert "is gone" in cell.error[1]
    assert (await driver.run("'x' in globals()")).result == "False"


async def test_a_timeout_too_short_to_begin_keeps_the_state(session: OpenSession) -> None:
    driver = await session()
    await driver.run("x = 1")
    cell = await driver.run(SLEEP, timeout_s=0.0)
    assert cell.error is not None
    assert "is kept" in cell.error[1]
    assert (await driver.run("x")).result == "1"


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("import os; os._exit(3)", "exit status 3"),
        ("exit()", "exit status 0"),
        ("!kill -9 -1", "killed by signal 9"),
        ("import ctypes; ctypes.string_at(0)", "killed by signal 11"),
    ],
)
async def test_a_kernel_that_ends_itself_is_replaced(session: OpenSession, code: str, how: str) -> None:
    driver = await session()
    await driver.run("x = 1")
    cell = await driver.run(code)
    assert cell.error is not None
    assert cell.error[0] == "UnexpectedEndOfExecution"
    assert how in cell.error[1]
    assert "state of the context is gone" in cell.error[1]
    after = await driver.run("'x' in globals()")
    assert (after.result, after.events[0]["execution_count"]) == ("False", 1)


async def test_a_kernel_that_died_between_cells_says_so_once(session: OpenSession) -> None:
    driver = await session()
    other = await driver.session.create_context(None, None)
    fresh = await driver.session.create_context(None, None)
    await driver.run("x = 1", context_id=other.context_id)
    await driver.run("!kill -9 -1")  # every process of the user: the other kernels, too
    cell = await driver.run("print('never')", context_id=other.context_id)
    assert cell.error is not None
    assert "ended before the cell began" in cell.error[1]
    assert cell.text() == ""
    assert (await driver.run("1 + 1", context_id=other.context_id)).result == "2"
    # Nothing ran there yet, so there is nothing to tell.
    assert (await driver.run("1 + 1", context_id=fresh.context_id)).result == "2"


async def test_an_execution_id_runs_once(session: OpenSession) -> None:
    driver = await session()
    await driver.session.remove_context(driver.session.contexts()[0].context_id)  # so that a kernel must start first
    request = ExecuteRequest("same", "n = globals().get('n', 0) + 1; n")
    await asyncio.gather(*(driver.session.execute(request) for _ in range(5)))
    first = await driver.finish(Cell("same"))
    again = Cell("same")
    again.take(await driver.session.execute(request))
    assert (await driver.finish(again)).events == first.events
    rest = await driver.session.execute(dataclasses.replace(request, from_event=1))
    assert parse(rest.lines) == first.events[1:]
    with pytest.raises(Conflict):
        await driver.session.execute(dataclasses.replace(request, code="n += 1"))
    with pytest.raises(BadRequest, match="has not begun"):
        await driver.session.execute(ExecuteRequest("other", "n += 1", from_event=3))
    assert (await driver.run("n")).result == "1"
    assert len(driver.session.contexts()) == 1


async def test_a_cell_that_nobody_observes_is_interrupted(session: OpenSession) -> None:
    driver = await session(unobserved_s=0.3)
    cell = await driver.running(SLEEP)
    waiting = await driver.start("print('waited')")
    execution = driver.session._log.get(cell.execution_id)
    await eventually(lambda: execution.done)
    assert (await driver.finish(cell)).error is not None
    await eventually(lambda: driver.session.executions_running == 0)
    assert await driver.finish(waiting)


async def test_an_unobserved_cell_that_floods_is_interrupted_too(session: OpenSession) -> None:
    """Its kernel waits for output to be read that nobody reads, and must hear of the interrupt all the same."""
    driver = await session(unobserved_s=0.3, output=OutputLimits(unread_bytes=100_000))
    cell = await driver.start("while True: print('x' * 1000)")
    execution = driver.session._log.get(cell.execution_id)
    await eventually(lambda: execution.done)
    assert (await driver.run("1 + 1")).result == "2"
    await driver.finish(cell)
    assert cell.error is not None
    assert cell.error[0] == "KeyboardInterrupt"


async def test_a_detached_cell_runs_to_its_end_unobserved(session: OpenSession) -> None:
    driver = await session(unobserved_s=0.1, output=OutputLimits(unread_bytes=100_000, abandoned_s=0.1))
    cell = await driver.start("for i in range(3000): print('x' * 1000)\n'end'", interrupt_if_unobserved=False)
    execution = driver.session._log.get(cell.execution_id)
    await eventually(lambda: execution.done, 15)
    await driver.finish(cell)
    assert cell.result == "end"
    assert cell.missed > 0


async def test_an_observed_cell_is_left_alone(session: OpenSession) -> None:
    driver = await session(unobserved_s=0.1)
    cell = await driver.run("import time; time.sleep(0.5); 'slept'")
    assert cell.result == "slept"


async def test_ten_megabytes_in_one_cell(session: OpenSession) -> None:
    driver = await session()
    cell = await driver.run("print('x' * 10_000_000)")
    assert len(cell.text()) == 10_000_001
    assert not cell.missed


async def test_a_hundred_thousand_prints(session: OpenSession) -> None:
    driver = await session()
    cell = await driver.run("for i in range(100_000): print(i)")
    assert cell.text() == "".join(f"{number}\n" for number in range(100_000))
    assert len(cell.events) < 2000  # coalesced


async def test_unicode_and_noise(session: OpenSession) -> None:
    driver = await session()
    text = "héllo \U0001f600 \u2028 \x85 \x00 日本"
    assert (await driver.run(f"print({text!r})")).text() == f"{text}\n"
    raw = await driver.run("import os; n = os.write(1, '日'.encode()[:2]); n = os.write(1, '日'.encode()[2:])")
    assert raw.text() == "日"
    noise = await driver.run("import os\nfor _ in range(50): os.write(1, os.urandom(5000))")
    assert len(noise.text()) > 50_000


async def test_big_images(session: OpenSession) -> None:
    driver = await session()
    code = "from IPython.display import Image, display\ndisplay(Image(bytes(6_000_000), format='png'))"
    cell = await driver.run(code)
    png = next(event["png"] for event in cell.events if event["type"] == "result")
    assert len(png.replace("\n", "")) == 8_000_000


async def test_a_slow_reader_loses_nothing_and_memory_stays_bounded(session: OpenSession) -> None:
    limits = OutputLimits(unread_bytes=200_000, replay_bytes=50_000)
    driver = await session(output=limits)
    cell = await driver.start("for i in range(4000): print(f'{i:>999}')")
    held = 0
    while not cell.done:
        await asyncio.sleep(0.002)
        held = max(held, driver.session._log.get(cell.execution_id).held_bytes)
        await driver.poll(cell)
    assert cell.text() == "".join(f"{number:>999}\n" for number in range(4000))
    assert held < 200_000 + 1_000_000


async def test_restart_under_load(session: OpenSession) -> None:
    driver = await session()
    context_id = driver.session.contexts()[0].context_id
    long = await driver.running(f"x = 1\n{SLEEP}", context_id=context_id)
    waiting = [await driver.start("'x' in globals()", context_id=context_id) for _ in range(3)]
    last = await driver.start(SLEEP, context_id=context_id)
    async with asyncio.timeout(5):  # and not until the last of them has ended
        await driver.session.restart_context(context_id)
    assert (await driver.finish(long)).error == ("ContextRestarting", "Context was restarted")
    assert [(await driver.finish(cell)).result for cell in waiting] == ["False"] * 3
    driver.session.interrupt(last.execution_id)
    assert driver.session.contexts()[0].context_id == context_id


async def test_many_restarts_at_once_end_with_one_kernel(session: OpenSession, zygote: ZygoteProcess) -> None:
    driver = await session()
    before = len(children_of(zygote.pid))
    context_id = driver.session.contexts()[0].context_id
    cells = [await driver.start("1 + 1") for _ in range(10)]
    await asyncio.gather(*(driver.session.restart_context(context_id) for _ in range(5)))
    for cell in cells:
        await driver.finish(cell)
    assert (await driver.run("2 + 2")).result == "4"
    await eventually(lambda: len(children_of(zygote.pid)) == before)


async def test_remove_under_load(session: OpenSession, zygote: ZygoteProcess) -> None:
    driver = await session()
    before = len(children_of(zygote.pid))
    context_id = (await driver.session.create_context(None, None)).context_id
    long = await driver.running(SLEEP, context_id=context_id)
    waiting = await driver.start("1", context_id=context_id)
    restart = asyncio.create_task(driver.session.restart_context(context_id))
    await asyncio.sleep(0)
    await driver.session.remove_context(context_id)
    with pytest.raises(NotFound):
        await restart
    for cell in (long, waiting):
        error = (await driver.finish(cell)).error
        assert error is not None
        assert error[0] in ("ContextRestarting", "UnexpectedEndOfExecution")
    with pytest.raises(NotFound):
        await driver.start("1", context_id=context_id)
    await eventually(lambda: len(children_of(zygote.pid)) == before)


async def test_the_default_context_comes_back_after_its_removal(session: OpenSession) -> None:
    driver = await session()
    await driver.session.remove_context(driver.session.contexts()[0].context_id)
    assert driver.session.contexts() == []
    assert (await driver.run("1 + 1")).result == "2"


async def test_close_under_load_tells_everybody_why_at_once(session: OpenSession) -> None:
    driver = await session()
    long = await driver.running(SLEEP)
    waiting = await asyncio.gather(*(driver.start("1") for _ in range(20)))
    polls = [asyncio.create_task(driver.poll(cell, 60)) for cell in (long, *waiting)]
    creating = asyncio.create_task(driver.session.create_context(None, None))
    await asyncio.sleep(0)
    reason = SandboxLost("s", "killed")
    async with asyncio.timeout(3):
        await asyncio.gather(driver.session.close(reason), driver.session.close(), driver.session.close())
        ends = await asyncio.gather(creating, *polls, return_exceptions=True)
    assert [type(end) for end in ends] == [SandboxLost] * 22
    with pytest.raises(SandboxLost):
        await driver.session.create_context(None, None)
    with pytest.raises(SandboxLost):
        await driver.run("1")
    await driver.session.close()


async def test_close_is_finished_even_when_it_is_cancelled(session: OpenSession) -> None:
    driver = await session()
    pid_1 = namespace_of(driver.session._walls.first_pid)
    closing = asyncio.create_task(driver.session.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert driver.session._walls.pidfd == -1
    assert not inside(pid_1)


async def test_opening_that_is_cancelled_leaves_nothing(base_options: SessionOptions, no_leaks: None) -> None:
    for steps in (1, 2, 3, 5, 8):
        opening = asyncio.create_task(open_session(base_options, lambda: None))
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening


async def test_what_has_only_begun_keeps_calls_waiting_until_it_is_parked(
    base_options: SessionOptions, no_leaks: None
) -> None:
    session = await begin_session(base_options, lambda: None)
    try:
        assert session.contexts() == []
        cell = await Driver(session).run("1 + 1")
        assert cell.result == "2"
        assert session.contexts()
    finally:
        await session.close()


async def test_what_began_and_ends_before_it_is_parked_leaves_nothing(
    base_options: SessionOptions, no_leaks: None
) -> None:
    session = await begin_session(base_options, lambda: None)
    running = asyncio.create_task(Driver(session).run("1 + 1"))
    await asyncio.sleep(0)
    await session.close(SandboxLost("s", "killed"))
    with pytest.raises(SandboxLost):
        await running


async def test_opening_without_a_zygote_fails_and_leaves_nothing(
    base_options: SessionOptions, no_leaks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raybox_actors.kernels import zygote_client

    monkeypatch.setattr(
        "raybox_actors.session.ZygoteClient", lambda address: zygote_client.ZygoteClient(address, waits_for_zygote_s=0)
    )
    options = dataclasses.replace(base_options, zygote_address=f"{base_options.zygote_address}.absent")
    with pytest.raises(InternalError, match="no zygote"):
        await open_session(options, lambda: None)
    begun = await begin_session(options, lambda: None)
    for call in (begun.parked(), begun.create_context(None, None), Driver(begun).run("1 + 1")):
        with pytest.raises(InternalError, match="no zygote"):
            await call
    await begun.close()


async def test_the_end_of_pid_1_is_the_sandbox_s_and_no_fault_of_the_cell(session: OpenSession) -> None:
    dead = asyncio.Event()
    driver = await session(on_death=dead.set)
    cell = await driver.running(SLEEP)
    waiting = await driver.start("1")
    driver.session._walls.kill()
    await asyncio.wait_for(dead.wait(), 5)
    polls = [asyncio.create_task(driver.poll(one)) for one in (cell, waiting)]
    await asyncio.sleep(0)
    await driver.session.close(SandboxLost("s", "internal"))
    assert [type(end) for end in await asyncio.gather(*polls, return_exceptions=True)] == [SandboxLost] * 2
    assert cell.error is None


async def test_walls_that_die_while_kernels_start(session: OpenSession) -> None:
    dead = asyncio.Event()
    driver = await session(on_death=dead.set)
    creating = [asyncio.create_task(driver.session.create_context(None, None)) for _ in range(3)]
    await asyncio.sleep(0.005)
    driver.session._walls.kill()
    ends: list[Any] = await asyncio.gather(*creating, return_exceptions=True)
    assert not [end for end in ends if isinstance(end, BaseException) and not isinstance(end, InternalError)]
    await asyncio.wait_for(dead.wait(), 5)


async def test_background_tasks_of_the_guest_speak_into_no_other_execution(session: OpenSession) -> None:
    driver = await session()
    await driver.run(
        "import asyncio\nasync def tick():\n  while True:\n    print('tick')\n    await asyncio.sleep(0.001)\n"
        "task = asyncio.create_task(tick())"
    )
    assert (await driver.run("1 + 1")).result == "2"
    await driver.run("task.cancel()")


async def test_the_stock_kernel_behind_the_same_session(session: OpenSession) -> None:
    driver = await session(kernel="ipykernel")
    assert (await driver.run("print('a'); x = 1; 1 + 1")).result == "2"
    cell = await driver.running(SLEEP)
    driver.session.interrupt(cell.execution_id)
    error = (await driver.finish(cell)).error
    assert error is not None
    assert error[0] == "KeyboardInterrupt"
    assert (await driver.run("x")).result == "1"
