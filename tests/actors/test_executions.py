"""The log of one execution: order, coalescing, bounds, replay. A loop whose clock the test moves; no kernels."""

from __future__ import annotations

import asyncio
import heapq
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybox_actors.errors import (
    BadRequest,
    Conflict,
    ExecutionForgotten,
    InternalError,
    LimitReached,
    NotFound,
    SandboxLost,
)
from raybox_actors.executions import Execution, ExecutionLog, OutputLimits, new_execution_id
from raybox_actors.kernels.base import CodeError, Display, InputAccepted, KernelEvent, Output
from raybox_actors.values import ExecuteRequest
from tests.actors.driving import Cell, eventually


class FakeLoop(asyncio.SelectorEventLoop):
    """Time passes when the test says so, or when there is nothing else to do."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.now_s = max(self.now_s, self._scheduled[0]._when)
        super()._run_once()  # type: ignore[misc]  # private, and the one place where time can be made to pass

    _ready: Any
    _scheduled: list[Any]

    def next_timer(self) -> float | None:
        live = [handle._when for handle in self._scheduled if not handle.cancelled()]
        return heapq.nsmallest(1, live)[0] if live else None


def on_fake_loop(work: Callable[[FakeLoop], Awaitable[None]]) -> None:
    loop = FakeLoop()
    try:
        loop.run_until_complete(work(loop))
        assert not asyncio.all_tasks(loop)
        assert loop.next_timer() is None, "a timer outlives its execution"
    finally:
        loop.close()


def small(**changes: int | float) -> OutputLimits:
    limits: dict[str, Any] = {
        "coalesce_bytes": 64,
        "batch_bytes": 400,
        "unread_bytes": 2000,
        "replay_bytes": 1000,
        "output_bytes": 1 << 20,
        **changes,
    }
    return OutputLimits(**limits)


def request(**fields: Any) -> ExecuteRequest:
    return ExecuteRequest("e", "", **fields)


def merged(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Neighbouring pieces of one stream as one, since where they are cut is nobody's business."""
    found: list[tuple[str, str]] = []
    for event in events:
        kind = event["type"]
        content = str(event.get("text", event.get("value", event.get("execution_count", ""))))
        if found and kind in ("stdout", "stderr") and found[-1][0] == kind:
            found[-1] = (kind, found[-1][1] + content)
        else:
            found.append((kind, content))
    return found


def expected(events: list[KernelEvent]) -> list[tuple[str, str]]:
    as_lines: list[dict[str, Any]] = []
    failed = False
    for event in events:
        if isinstance(event, Output):
            if event.text:
                as_lines.append({"type": event.name, "text": event.text})
        elif isinstance(event, InputAccepted):
            as_lines.append({"type": "number_of_executions", "execution_count": event.execution_count})
        elif isinstance(event, Display):
            as_lines.append({"type": "result", "text": event.data["text/plain"]})
        elif not failed:
            failed = True
            as_lines.append({"type": "error", "value": event.value})
    return merged([*as_lines, {"type": "end_of_execution"}])


texts = st.text(max_size=200)
kernel_events: st.SearchStrategy[KernelEvent] = st.one_of(
    st.builds(Output, st.sampled_from(("stdout", "stderr")), texts),
    st.builds(Output, st.just("stdout"), texts),
    st.builds(InputAccepted, st.integers(1, 9)),
    st.builds(lambda text: Display({"text/plain": f"<{text}>"}, {}), texts),
    st.builds(CodeError, st.just("E"), texts, st.just(())),
)
#: An event; or seconds that pass; or a poll that waits so long and, if the flag is set, is lost on the way.
steps = st.lists(
    st.one_of(
        kernel_events,
        st.sampled_from((0.001, 0.004, 1.0)),
        st.tuples(st.sampled_from((0.0, 0.002, 0.1)), st.booleans()),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(steps, st.booleans())
def test_any_events_and_any_polls_give_the_same_bytes_in_order(
    script: list[KernelEvent | float | tuple[float, bool]], detached: bool
) -> None:
    async def work(loop: FakeLoop) -> None:
        limits = small(unread_bytes=1 << 20, replay_bytes=500)
        execution = Execution(request(interrupt_if_unobserved=not detached), limits, loop)
        cell = Cell("e")
        fed = []
        for step in script:
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, tuple):
                batch = await execution.wait(cell.next_seq, step[0])
                if not step[1]:
                    cell.take(batch)
            else:
                execution.add(step)
                fed.append(step)
        execution.finish()
        while not cell.done:
            cell.take(await execution.wait(cell.next_seq, 10))
        assert merged(cell.events) == expected(fed)
        assert not cell.missed

    on_fake_loop(work)


@settings(deadline=None)
@given(st.lists(st.integers(1, 120), min_size=1, max_size=40))
def test_a_concurrent_observer_gets_all_of_it_and_never_too_much_at_once(sizes: list[int]) -> None:
    async def work(loop: FakeLoop) -> None:
        limits = small()
        execution = Execution(request(), limits, loop)
        cell = Cell("e")

        async def observe() -> None:
            while not cell.done:
                batch = await execution.wait(cell.next_seq, 60)
                assert batch.count <= 1 or len(batch.lines) <= limits.batch_bytes
                cell.take(batch)

        observer = loop.create_task(observe())
        for index, size in enumerate(sizes):
            execution.add(Output("stdout", str(index % 10) * size))
            await asyncio.sleep(0.003)
        execution.finish()
        await observer
        assert cell.text() == "".join(str(index % 10) * size for index, size in enumerate(sizes))

    on_fake_loop(work)


def test_text_is_coalesced_until_the_time_or_the_size_is_reached() -> None:
    async def work(loop: FakeLoop) -> None:
        execution = Execution(request(), small(coalesce_s=1.0, batch_bytes=1 << 20), loop)
        for _ in range(10):
            execution.add(Output("stdout", "a\n"))
        before = loop.time()
        batch = await execution.wait(0, 60)
        assert batch.count == 1
        assert loop.time() - before == pytest.approx(1.0)
        execution.add(Output("stdout", "x" * 64))  # as much as coalesce_bytes: at once
        assert (await execution.wait(1, 60)).count == 1
        assert loop.time() - before == pytest.approx(1.0)
        execution.add(Output("stdout", "out"))
        execution.add(Output("stderr", "err"))  # another stream ends the line
        execution.finish()
        kinds = [line.split(b'"')[3] for line in execution.batch(2).lines.splitlines()]
        assert kinds == [b"stdout", b"stderr", b"end_of_execution"]

    on_fake_loop(work)


def test_a_piece_of_a_line_waits_longer_for_the_rest_of_it_and_no_longer_than_that() -> None:
    async def work(loop: FakeLoop) -> None:
        execution = Execution(request(), small(coalesce_s=1.0, partial_line_s=10.0, coalesce_bytes=1000), loop)
        before = loop.time()
        execution.add(Output("stdout", "1"))
        loop.call_later(5.0, execution.add, Output("stdout", "\n"))
        assert json.loads((await execution.wait(0, 60)).lines)["text"] == "1\n"
        assert loop.time() - before == pytest.approx(5.0)
        execution.add(Output("stdout", "> "))
        began = loop.time()
        assert json.loads((await execution.wait(1, 60)).lines)["text"] == "> "
        assert 10.0 <= loop.time() - began <= 1.0 + 10.0 + 10.0
        execution.finish()

    on_fake_loop(work)


def pressed(limits: OutputLimits, loop: FakeLoop, **fields: Any) -> tuple[Execution, list[bool]]:
    pressure: list[bool] = []
    return Execution(request(**fields), limits, loop, pressure.append), pressure


def test_unread_output_presses_and_reading_half_of_it_releases() -> None:
    async def work(loop: FakeLoop) -> None:
        execution, pressure = pressed(small(), loop)
        while not pressure:
            execution.add(Output("stdout", "x" * 100))
        assert pressure == [True]
        seq = 0
        while pressure == [True]:
            batch = execution.batch(seq)
            assert batch.count
            seq = batch.first_seq + batch.count
        assert pressure == [True, False]
        assert 0 < execution._unread_bytes <= 1000
        execution.finish()

    on_fake_loop(work)


def test_a_slow_observer_of_a_detached_cell_loses_nothing() -> None:
    async def work(loop: FakeLoop) -> None:
        execution, pressure = pressed(small(), loop, interrupt_if_unobserved=False)
        cell = Cell("e")
        for number in range(200):
            if not pressure or not pressure[-1]:
                execution.add(Output("stdout", f"{number:>100}"))
            if number % 20 == 19:
                cell.take(await execution.wait(cell.next_seq, 0))
            await asyncio.sleep(0.1)  # 2 s between polls; under abandoned_s
        execution.finish()
        while not cell.done:
            cell.take(await execution.wait(cell.next_seq, 1))
        assert not cell.missed
        assert True in pressure

    on_fake_loop(work)


def test_an_abandoned_detached_cell_goes_on_and_drops_the_oldest() -> None:
    async def work(loop: FakeLoop) -> None:
        execution, pressure = pressed(small(abandoned_s=5.0), loop, interrupt_if_unobserved=False)
        while not pressure:
            execution.add(Output("stdout", "x" * 100))
        before = loop.time()
        await eventually(lambda: pressure != [True], 60)
        assert pressure == [True, False]
        assert loop.time() - before == pytest.approx(5.0, abs=0.01)
        for _ in range(100):
            execution.add(Output("stdout", "y" * 100))
        assert pressure == [True, False]
        assert execution.held_bytes <= 2000 + 300
        execution.finish()
        cell = Cell("e")
        while not cell.done:
            cell.take(await execution.wait(cell.next_seq, 1))
        assert cell.missed > 50
        assert cell.text() == "y" * len(cell.text())

    on_fake_loop(work)


def test_an_attached_cell_that_nobody_reads_waits_for_ever() -> None:
    async def work(loop: FakeLoop) -> None:
        execution, pressure = pressed(small(), loop)
        while not pressure:
            execution.add(Output("stdout", "x" * 100))
        await asyncio.sleep(1000)
        assert pressure == [True]
        assert execution.batch(0).first_seq == 0
        execution.finish()

    on_fake_loop(work)


def test_draining_cuts_instead_of_pressing_and_ends_by_itself() -> None:
    async def work(loop: FakeLoop) -> None:
        execution, pressure = pressed(small(), loop)
        while not pressure:
            execution.add(Output("stdout", "x" * 100))
        execution.drain(3.0)
        assert pressure == [True, False]
        for _ in range(100):
            execution.add(Output("stdout", "y" * 100))
            execution.add(Display({"text/plain": "z" * 100}, {}))
        assert pressure == [True, False]
        assert execution.cut_bytes > 10_000
        assert execution.held_bytes < 2 * 2000 + 1000
        await asyncio.sleep(3.1)
        assert pressure == [True, False, True]
        execution.add(CodeError("KeyboardInterrupt", "", ()))
        execution.finish()
        cell = Cell("e")
        while not cell.done:
            cell.take(execution.batch(cell.next_seq))
        assert cell.error == ("KeyboardInterrupt", "")
        assert f"[raybox: output was cut; {execution.cut_bytes} bytes are lost]" in cell.text("stderr")

    on_fake_loop(work)


def test_an_ended_execution_never_presses() -> None:
    async def work(loop: FakeLoop) -> None:
        execution, pressure = pressed(small(), loop)
        while not pressure:
            execution.add(Output("stdout", "x" * 100))
        execution.finish()
        seq = 0
        while not (batch := execution.batch(seq)).done:
            seq = batch.first_seq + batch.count
        execution.batch(seq)
        assert pressure == [True]  # whoever finished it has released the kernel long ago

    on_fake_loop(work)


def test_what_was_read_is_kept_for_replay_up_to_a_bound() -> None:
    async def work(loop: FakeLoop) -> None:
        execution = Execution(request(), small(replay_bytes=1000), loop)
        for number in range(5):
            execution.add(Output("stdout", f"{number}" * 64))
        everything = execution.batch(0)
        execution.batch(5)  # all read
        assert execution.batch(0) == everything
        for number in range(20):
            execution.add(Output("stdout", f"{number % 10}" * 64))
            execution.batch(execution.next_seq)
        assert execution.held_bytes <= 1000
        assert execution.batch(0).first_seq > 10
        execution.finish()

    on_fake_loop(work)


@pytest.mark.parametrize("room", [0, 1, 5, 10])
def test_the_cap_cuts_exactly_and_says_how_much(room: int) -> None:
    async def work(loop: FakeLoop) -> None:
        execution = Execution(request(), small(output_bytes=room), loop)
        execution.add(Output("stdout", "abcde"))
        execution.add(Output("stdout", "fghij"))
        execution.add(CodeError("E", "told all the same", ()))
        execution.finish()
        cell = Cell("e")
        cell.take(execution.batch(0))
        assert cell.text() == "abcdefghij"[:room]
        assert execution.cut_bytes == 10 - room
        assert (f"{10 - room} bytes are lost" in cell.text("stderr")) == (room < 10)
        assert cell.error == ("E", "told all the same")

    on_fake_loop(work)


def test_the_cap_counts_all_of_a_result() -> None:
    async def work(loop: FakeLoop) -> None:
        execution = Execution(request(), small(output_bytes=1000), loop)
        execution.add(Display({"application/json": {"rows": [1] * 1000}}, {}))
        execution.add(Display({"application/json": {"rows": [1]}}, {}))
        execution.finish()
        cell = Cell("e")
        cell.take(execution.batch(0))
        assert [event["json"] for event in cell.events if event["type"] == "result"] == [{"rows": [1]}]
        assert execution.cut_bytes > 2000

    on_fake_loop(work)


def test_one_error_and_ours_only_if_the_code_raised_none() -> None:
    async def work(loop: FakeLoop) -> None:
        execution = Execution(request(), small(), loop)
        execution.add(CodeError("First", "", ()))
        execution.add(CodeError("Second", "", ()))
        execution.finish(CodeError("Ours", "", ()))
        execution.finish(CodeError("Late", "", ()))
        cell = Cell("e")
        cell.take(execution.batch(0))
        assert [event.get("name") for event in cell.events] == ["First", None]
        held = Execution(request(), small(), loop)
        held.hold_errors()
        held.add(CodeError("KeyboardInterrupt", "", ()))
        held.finish(CodeError("ExecutionTimeout", "", ()))
        assert b"ExecutionTimeout" in held.batch(0).lines
        assert b"KeyboardInterrupt" not in held.batch(0).lines

    on_fake_loop(work)


def test_a_fault_comes_after_what_was_said_before_it_and_again_and_again() -> None:
    async def work(loop: FakeLoop) -> None:
        execution = Execution(request(), small(), loop)
        waiter = loop.create_task(execution.wait(0, 60))
        await asyncio.sleep(0)
        with pytest.raises(BadRequest, match="0 events"):
            await execution.wait(1, 60)
        execution.add(Output("stdout", "last words"))
        execution.fail(SandboxLost("s", "oom"))
        batch = await waiter
        assert (batch.count, batch.done) == (1, False)
        for _ in range(2):
            with pytest.raises(SandboxLost):
                await execution.wait(1, 60)
        execution.finish()
        with pytest.raises(SandboxLost):
            execution.batch(1)

    on_fake_loop(work)


def test_a_cancelled_observer_leaves_nothing() -> None:
    async def work(loop: FakeLoop) -> None:
        execution = Execution(request(), small(), loop)
        waiter = loop.create_task(execution.wait(0, 60))
        await asyncio.sleep(1)
        assert execution.observers == 1
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert (execution.observers, execution._waiters, execution.observed_at_s) == (0, set(), loop.time())
        execution.finish()

    on_fake_loop(work)


def logged(log: ExecutionLog, name: str, loop: FakeLoop, text: str = "") -> Execution:
    execution = Execution(ExecuteRequest(name, ""), small(unread_bytes=1 << 20), loop)
    log.add(execution)
    if text:
        execution.add(Output("stdout", text))
    return execution


def test_the_log_never_drops_a_running_one_and_prefers_those_read_to_their_end() -> None:
    async def work(loop: FakeLoop) -> None:
        log = ExecutionLog(keep=2)
        running = logged(log, "running", loop)
        unread = logged(log, "unread", loop)
        unread.finish()
        for number in range(5):
            read = logged(log, f"read{number}", loop)
            read.finish()
            assert read.batch(0).done
        logged(log, "last", loop).finish()
        assert log.get("running") is running
        assert log.get("unread") is unread
        with pytest.raises(ExecutionForgotten):
            log.get("read0")
        with pytest.raises(NotFound) as never:
            log.get("never")
        assert not isinstance(never.value, ExecutionForgotten)
        assert log.running() == [running]
        running.fail(InternalError(""))

    on_fake_loop(work)


def test_the_log_bounds_what_it_holds() -> None:
    async def work(loop: FakeLoop) -> None:
        log = ExecutionLog(keep_bytes=10_000)
        for number in range(20):
            logged(log, f"e{number}", loop, "x" * 2000).finish()
        assert sum(held.held_bytes for held in log._held.values()) <= 12_500
        assert log.get("e19")
        with pytest.raises(ExecutionForgotten):
            log.get("e0")

    on_fake_loop(work)


def test_an_id_is_run_once_and_is_of_one_cell() -> None:
    async def work(loop: FakeLoop) -> None:
        log = ExecutionLog(keep=1)
        asked = ExecuteRequest("e", "x = 1", env_vars={"A": "b"}, timeout_s=1)
        assert log.repeated(asked) is None
        execution = Execution(asked, small(), loop)
        log.add(execution)
        for again in (asked, replace(asked, timeout_s=9, from_event=1), replace(asked, language="python")):
            assert log.repeated(again) is execution
        for other in (
            replace(asked, code="x = 2"),
            replace(asked, language="r"),
            replace(asked, context_id="c"),
            replace(asked, env_vars={}),
        ):
            with pytest.raises(Conflict):
                log.repeated(other)
        execution.finish()
        logged(log, "f", loop).finish()
        logged(log, "g", loop).finish()
        with pytest.raises(ExecutionForgotten, match="no longer remembered"):
            log.repeated(asked)

    on_fake_loop(work)


def test_ids_that_callers_choose_are_remembered_for_ever_and_so_bounded_but_not_our_own() -> None:
    async def work(loop: FakeLoop) -> None:
        log = ExecutionLog(keep=1, remember=3)
        for number in range(3):
            logged(log, f"e{number}", loop).finish()
        with pytest.raises(LimitReached, match="3 execution ids"):
            log.repeated(ExecuteRequest("e3", ""))
        with pytest.raises(ExecutionForgotten):
            log.repeated(ExecuteRequest("e0", ""))
        for _ in range(5):
            logged(log, new_execution_id(), loop).finish()

    on_fake_loop(work)


@given(
    texts=st.lists(st.text("ab", min_size=1, max_size=40), min_size=1, max_size=30),
    offset=st.integers(0, 40),
    read=st.integers(0, 40),
    replay_bytes=st.integers(100, 4000),
)
@settings(max_examples=200, deadline=None)
def test_a_replay_from_any_offset_is_the_rest_of_the_stream_or_says_what_is_lost(
    texts: list[str], offset: int, read: int, replay_bytes: int
) -> None:
    async def work(loop: FakeLoop) -> None:
        execution = Execution(request(), small(replay_bytes=replay_bytes, unread_bytes=1 << 20), loop)
        original: list[bytes] = []

        def take() -> None:
            batch = execution.batch(len(original))
            assert batch.first_seq == len(original)
            original.extend(batch.lines.splitlines(keepends=True))

        for number, text in enumerate(texts):
            execution.add(Output("stdout" if number % 2 else "stderr", text))
            if number < read:
                execution._flush_text()
                take()
        execution.finish()
        while not execution.read_to_end:
            take()
        if offset > len(original):
            with pytest.raises(BadRequest):
                execution.batch(offset)
            return
        replayed: list[bytes] = []
        at = offset
        while True:
            batch = execution.batch(at)
            assert batch.first_seq >= at
            lines = batch.lines.splitlines(keepends=True)
            if batch.first_seq > at:
                lost = {"type": "events_lost", "first": at, "count": batch.first_seq - at}
                assert json.loads(lines.pop(0)) == lost
            assert len(lines) == batch.count
            assert lines == original[batch.first_seq : batch.first_seq + batch.count]
            replayed += lines
            at = batch.first_seq + batch.count
            if batch.done:
                break
        assert at == len(original)
        assert replayed == original[len(original) - len(replayed) :]

    on_fake_loop(work)
