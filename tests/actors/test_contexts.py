"""Races of one context that a real kernel cannot be made to run into on demand: a kernel that follows a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from raybox_actors.contexts import Context, TimeoutPolicy
from raybox_actors.errors import InternalError, SandboxLost
from raybox_actors.executions import Execution, OutputLimits
from raybox_actors.kernels.base import CodeError, Finished, InputAccepted, KernelFailed, Output, Sink
from raybox_actors.values import ContextInfo, ExecuteRequest
from tests.actors.driving import Cell, eventually

pytestmark = pytest.mark.anyio


class ScriptedKernel:
    """Cells begin and end when the test says so. Every kernel that was made is in `made`."""

    def __init__(self, made: list[ScriptedKernel], failure: BaseException | None, begins: bool) -> None:
        made.append(self)
        self.failure, self.begins = failure, begins
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.calls: list[str] = []
        self.sink: Sink | None = None
        self.finished: asyncio.Future[Finished] | None = None
        self.paused = self.stopped = False

    async def start(self) -> None:
        await self.may_start.wait()
        if self.failure is not None:
            raise self.failure
        self.calls.append("started")

    async def execute(self, code: str, env: dict[str, str], sink: Sink) -> Finished:
        assert self.finished is None, "one execution at a time"
        self.calls.append(code)
        if self.stopped:
            return Finished(ok=False, lost=True, reason="stopped")
        self.sink, self.finished = sink, asyncio.get_running_loop().create_future()
        if self.begins:
            sink(InputAccepted(1))
        try:
            return await asyncio.shield(self.finished)
        finally:
            self.sink = self.finished = None

    def end(self, **fields: Any) -> None:
        assert self.finished is not None
        self.finished.set_result(Finished(**{"ok": True, **fields}))

    def die(self, reason: str = "killed by signal 9") -> None:
        self.stopped = True
        if self.finished is not None and not self.finished.done():
            self.end(ok=False, lost=True, reason=reason)

    async def configure(self, env: dict[str, str]) -> None:
        self.calls.append(f"configure {env}")

    async def exercise(self) -> None: ...

    def interrupt(self) -> None:
        self.calls.append("interrupt")

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    async def stop(self) -> None:
        await asyncio.sleep(0)
        self.die("stopped")


class Bench:
    """A context of scripted kernels. `failures` are what the next kernels fail with at their start, None for none."""

    def __init__(self) -> None:
        self.made: list[ScriptedKernel] = []
        self.failures: list[BaseException | None] = []
        self.begins = True
        self.sandbox_ended = False
        self.blocked = False
        policy = TimeoutPolicy(interrupt_grace_s=0.05)
        self.context = Context(ContextInfo("c", "python", "/"), self._make, policy, self._ends)
        self.runs: list[asyncio.Task[None]] = []

    def _make(self) -> ScriptedKernel:
        failure = self.failures.pop(0) if self.failures else None
        kernel = ScriptedKernel(self.made, failure, self.begins)
        if self.blocked:
            kernel.may_start.clear()
        return kernel

    async def _ends(self, _within_s: float) -> bool:
        return self.sandbox_ended

    @property
    def kernel(self) -> ScriptedKernel:
        return self.made[-1]

    def run(self, code: str, **fields: Any) -> Execution:
        loop = asyncio.get_running_loop()
        execution = Execution(
            ExecuteRequest(code, code, **fields),
            OutputLimits(unread_bytes=1000),
            loop,
            lambda full: self.context.press(execution, full),
        )
        self.runs.append(loop.create_task(self.context.run(execution)))
        return execution

    async def until_kernels(self, count: int) -> None:
        await eventually(lambda: len(self.made) == count and self.kernel.finished is not None)

    async def until_running(self, code: str) -> None:
        await eventually(lambda: self.made and self.kernel.finished is not None and self.kernel.calls[-1] == code)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.context.start()
    yield bench
    for run in bench.runs:
        run.cancel()
    await asyncio.gather(*bench.runs, return_exceptions=True)


def error_of(execution: Execution) -> tuple[str, str] | None:
    assert execution.done
    cell = Cell("")
    cell.take(execution.batch(0))
    return cell.error


async def test_an_interrupt_before_the_cell_began_is_sent_when_it_does(bench: Bench) -> None:
    bench.kernel.begins = False
    bench.run("a")
    await bench.until_running("a")
    bench.context.interrupt()
    assert "interrupt" not in bench.kernel.calls
    assert bench.kernel.sink is not None
    bench.kernel.sink(InputAccepted(1))
    await eventually(lambda: bench.kernel.calls[-1] == "interrupt")
    bench.kernel.end(ok=False)


async def test_an_interrupt_while_the_kernel_starts_aborts_the_cell(bench: Bench) -> None:
    bench.blocked = True
    restarting = asyncio.create_task(bench.context.restart())
    execution = bench.run("never")
    await eventually(lambda: len(bench.made) == 2 and bench.context.current is execution)
    bench.context.interrupt()
    bench.kernel.may_start.set()
    await restarting
    await bench.runs[0]
    assert error_of(execution) == ("ExecutionAborted", "The execution was aborted before it began")
    assert "never" not in bench.kernel.calls


async def test_a_restart_does_not_wait_for_those_who_wait(bench: Bench) -> None:
    first, second = bench.run("first"), bench.run("second")
    await bench.until_running("first")
    async with asyncio.timeout(1):
        await bench.context.restart()
    assert len(bench.made) == 2
    await bench.until_running("second")
    assert error_of(first) == ("ContextRestarting", "Context was restarted")
    bench.kernel.end()
    await asyncio.gather(*bench.runs)
    assert error_of(second) is None


async def test_removal_while_a_kernel_starts_ends_that_kernel(bench: Bench) -> None:
    bench.blocked = True
    restarting = asyncio.create_task(bench.context.restart())
    await eventually(lambda: len(bench.made) == 2)
    execution = bench.run("never")
    await bench.context.remove()
    bench.kernel.may_start.set()
    with pytest.raises(KernelFailed, match="removed"):
        await restarting
    await asyncio.gather(*bench.runs)
    assert bench.kernel.stopped
    assert error_of(execution) == ("UnexpectedEndOfExecution", "The context was removed")


async def test_removal_while_a_dead_kernel_is_replaced_leaves_none(bench: Bench) -> None:
    bench.blocked = True
    execution = bench.run("a")
    await bench.until_running("a")
    bench.kernel.die()
    await eventually(lambda: len(bench.made) == 2)
    await bench.context.remove()
    bench.kernel.may_start.set()
    await asyncio.gather(*bench.runs)
    assert bench.kernel.stopped
    assert error_of(execution) is not None


async def test_a_kernel_that_died_idle_and_unused_is_replaced_silently_once(bench: Bench) -> None:
    bench.kernel.die()
    execution = bench.run("a")
    await bench.until_running("a")
    assert len(bench.made) == 2
    bench.kernel.end()
    await bench.runs[0]
    assert error_of(execution) is None


async def test_kernels_that_never_begin_are_not_made_for_ever(bench: Bench) -> None:
    bench.begins = bench.kernel.begins = False
    execution = bench.run("a")
    for count in (1, 2):
        await bench.until_kernels(count)
        bench.kernel.die()
    await bench.runs[0]
    error = error_of(execution)
    assert error is not None
    assert "before the cell began" in error[1]


async def test_a_replacement_that_fails_is_told_to_the_next_cell(bench: Bench) -> None:
    bench.failures = [KernelFailed("no room"), KernelFailed("no room")]
    first = bench.run("first")
    await bench.until_running("first")
    bench.kernel.die()
    second = bench.run("second")
    await asyncio.gather(*bench.runs)
    error = error_of(first)
    assert error is not None
    assert error[0] == "UnexpectedEndOfExecution"
    assert isinstance(second.fault, InternalError)
    assert "no room" in str(second.fault)
    third = bench.run("third")
    await bench.until_running("third")
    bench.kernel.end()
    await asyncio.gather(*bench.runs)
    assert error_of(third) is None


async def test_a_slow_replacement_does_not_delay_the_end(bench: Bench) -> None:
    bench.blocked = True
    execution = bench.run("a")
    await bench.until_running("a")
    bench.kernel.die()
    await eventually(lambda: execution.done, 2)
    assert not bench.runs[0].done()
    bench.kernel.may_start.set()
    await bench.runs[0]


async def test_a_zygote_that_hangs_up_is_asked_again(bench: Bench) -> None:
    hung_up = KernelFailed("the zygote did not answer")
    hung_up.__cause__ = ConnectionResetError()
    bench.failures = [hung_up]
    await bench.context.restart()
    assert len(bench.made) == 3
    assert bench.kernel.calls == ["started"]


async def test_an_execution_whose_sandbox_ends_waits_for_the_reason(bench: Bench) -> None:
    execution = bench.run("a")
    await bench.until_running("a")
    bench.sandbox_ended = True
    bench.failures = [KernelFailed("setns")]
    bench.kernel.die()
    await eventually(lambda: len(bench.made) == 2)
    await asyncio.sleep(0)
    assert not execution.done
    execution.fail(SandboxLost("s", "oom"))
    bench.runs[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await bench.runs[0]
    assert isinstance(execution.fault, SandboxLost)


async def test_pressure_of_an_ended_cell_does_not_reach_the_next(bench: Bench) -> None:
    first = bench.run("first")
    await bench.until_running("first")
    assert bench.kernel.sink is not None
    bench.kernel.sink(Output("stdout", "x" * 40_000))
    assert bench.kernel.paused
    bench.kernel.end()
    second = bench.run("second")
    await bench.until_running("second")
    assert not bench.kernel.paused
    bench.kernel.sink(Output("stdout", "x" * 40_000))
    assert bench.kernel.paused
    first.batch(first.next_seq)  # its observer catches up, which is no reason to let the other one flood
    assert bench.kernel.paused
    second.batch(second.next_seq)
    assert not bench.kernel.paused
    bench.kernel.end()


async def test_an_interrupt_releases_a_kernel_that_waits_for_its_output_to_be_read(bench: Bench) -> None:
    bench.run("a")
    await bench.until_running("a")
    assert bench.kernel.sink is not None
    bench.kernel.sink(Output("stdout", "x" * 40_000))
    assert bench.kernel.paused
    bench.context.interrupt()
    assert (bench.kernel.paused, bench.kernel.calls[-1]) == (False, "interrupt")
    await eventually(lambda: bench.kernel.paused)  # after the grace time, should the cell shrug it off
    bench.kernel.end(ok=False)


async def test_a_timeout_interrupts_waits_and_kills(bench: Bench) -> None:
    execution = bench.run("a", timeout_s=0.01)
    await bench.until_running("a")
    first = bench.kernel
    assert first.sink is not None
    await eventually(lambda: "interrupt" in first.calls)
    first.sink(CodeError("KeyboardInterrupt", "", ()))  # it says so, and goes on
    await asyncio.gather(*bench.runs)
    assert first.stopped
    assert len(bench.made) == 2
    error = error_of(execution)
    assert error is not None
    assert error[0] == "ExecutionTimeout"
    assert "is gone" in error[1]


async def test_configure_waits_for_the_cell(bench: Bench) -> None:
    bench.run("a")
    await bench.until_running("a")
    configuring = asyncio.create_task(bench.context.configure({"A": "1"}))
    await asyncio.sleep(0)
    assert bench.kernel.calls[-1] == "a"
    bench.kernel.end()
    await configuring
    assert bench.kernel.calls[-1] == "configure {'A': '1'}"


async def test_cancelling_a_run_in_any_moment_finishes_its_execution(bench: Bench) -> None:
    for steps in range(6):
        execution = bench.run(f"cell {steps}", timeout_s=10)
        for _ in range(steps):
            await asyncio.sleep(0)
        bench.runs[-1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await bench.runs[-1]
        if steps:  # a task that never began cannot finish anything
            assert execution.done
        await eventually(lambda: bench.kernel.finished is None)
        assert bench.context.current is None
