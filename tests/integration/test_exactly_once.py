"""Executions with ids on the real pool: run once, whatever becomes of gateways and clients; replayed from anywhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from raybox import InvalidArgumentException, NotFoundException, Sandbox
from tests.support import components
from tests.support.pool import RunningPool

pytestmark = pytest.mark.pool

#: Says that it ran, then counts aloud for two seconds.
COUNTING = """
import time
with open("runs", "a") as runs: runs.write("x")
for number in range(40):
    print(number, flush=True)
    time.sleep(0.05)
"the end"
"""
COUNTED = "".join(f"{number}\n" for number in range(40))


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox.create(timeout=120) as sandbox:
        yield sandbox


def runs(sandbox: Sandbox) -> int:
    return len(sandbox.files.read("runs"))


def test_a_run_goes_on_while_its_gateway_is_killed(sandbox: Sandbox, running_pool: RunningPool) -> None:
    before = components.pid_of(running_pool, components.GATEWAY)
    heard: list[str] = []
    killed = threading.Event()

    def hear(message: object) -> None:
        heard.append(str(message))
        if not killed.is_set():
            killed.set()
            components.kill(before)

    execution = sandbox.run_code(COUNTING, execution_id="count", on_stdout=hear, timeout=60)
    assert (execution.text, execution.error) == ("the end", None)
    assert "".join(execution.logs.stdout) == "".join(heard) == COUNTED
    assert components.pid_of(running_pool, components.GATEWAY) != before
    assert runs(sandbox) == 1
    assert "".join(sandbox.attach_execution("count").logs.stdout) == COUNTED
    assert sandbox.attach_execution("count", from_event=10).logs.stdout == execution.logs.stdout[9:]


def test_repeats_at_once_are_one_run(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(sandbox.run_code, COUNTING, execution_id="same") for _ in range(4)]
        outputs = [call.result().logs.stdout for call in calls]
    assert outputs == [outputs[0]] * 4
    assert "".join(outputs[0]) == COUNTED
    assert runs(sandbox) == 1
    assert sandbox.run_code(COUNTING, execution_id="same").logs.stdout == outputs[0]
    with pytest.raises(InvalidArgumentException, match="of other code") as conflict:
        sandbox.run_code("1", execution_id="same")
    assert (conflict.value.status_code, conflict.value.retryable) == (409, False)
    with pytest.raises(NotFoundException) as never:
        sandbox.attach_execution("never")
    assert never.value.status_code == 404


def test_a_forgotten_id_is_refused_and_never_run_again(sandbox: Sandbox) -> None:
    code = 'with open("runs", "a") as runs: runs.write("x")'
    sandbox.run_code(code, execution_id="first")
    for number in range(257):  # one more than what is held of those that ended
        sandbox.run_code("None", execution_id=f"later-{number}")
    with pytest.raises(NotFoundException, match="no longer remembered") as repeated:
        sandbox.run_code(code, execution_id="first")
    with pytest.raises(NotFoundException, match="no longer remembered") as attached:
        sandbox.attach_execution("first")
    assert (repeated.value.status_code, attached.value.status_code) == (410, 410)
    assert runs(sandbox) == 1


def test_a_detached_run_outlives_who_left_it_and_is_found_again(sandbox: Sandbox) -> None:
    class Left(Exception):
        pass

    def leave(_: object) -> None:
        raise Left

    for name, detach in (("kept", True), ("dropped", False)):
        with pytest.raises(Left):
            sandbox.run_code(COUNTING, execution_id=name, detach=detach, on_stdout=leave)
    assert sandbox.attach_execution("kept").text == "the end"
    dropped = sandbox.attach_execution("dropped")
    assert dropped.error is not None
    assert dropped.error.name in ("KeyboardInterrupt", "ExecutionAborted")
    began = threading.Event()
    code = "print('on', flush=True); import time; time.sleep(60)"
    with ThreadPoolExecutor(1) as thread:
        stuck = thread.submit(
            sandbox.run_code, code, execution_id="stuck", detach=True, on_stdout=lambda _: began.set()
        )
        assert began.wait(30)
        sandbox.interrupt_execution("stuck")
        error = stuck.result().error
    assert error is not None
    assert error.name == "KeyboardInterrupt"
