"""SIGINT at any moment: the cell ends or does not, the wire stays whole, the kernel lives on."""

from __future__ import annotations

import asyncio
import random

import pytest

from raybox_actors.kernels.base import CodeError, KernelEvent, Output
from tests.actors.differential.normal import normal
from tests.actors.differential.pair import CELL_LIMIT_S, LoopThread, Pair, Resident, Told

STARTED = "print('started', flush=True)\n"

#: Stock looks at a SIGINT in an `await` only when its loop wakes up for something else.
NAPS = "import asyncio\nasync def nap():\n    while True: await asyncio.sleep(0.02)\n"

CELLS = {
    "a loop": "while True: pass",
    "a C sleep": "import time; time.sleep(60)",
    "an await": NAPS + "await nap()",
    "a gather": NAPS + "await asyncio.gather(nap(), asyncio.Event().wait())",
    "a thread's join": "import threading; threading.Event().wait(60)",
    "a shell": "!sleep 60",
    "a subprocess": "import subprocess; subprocess.run(['sleep', '60'])",
    "a cell that catches it": "try:\n    while True: pass\nexcept KeyboardInterrupt:\n    print('caught')",
    "a cell that cleans up": "try:\n    while True: pass\nfinally:\n    print('cleaned')",
    "an await that catches it": (NAPS + "try: await nap()\nexcept asyncio.CancelledError: print('caught')"),
    "a timed cell": "%time __import__('time').sleep(60)",
    "a generator": "def g():\n    while True: yield\nfor _ in g(): pass",
    "a nested call": "def f(n):\n    if n: f(n - 1)\n    while True: pass\nf(5)",
    "a getpass": "import select; select.select([], [], [], 60)",
}


async def interrupted(resident: Resident, code: str, when: str = "started") -> Told:
    """Run the cell and send SIGINT once it has printed `when`."""
    kernel = resident.kernel
    assert kernel is not None
    events: list[KernelEvent] = []
    heard = asyncio.Event()

    def sink(event: KernelEvent) -> None:
        events.append(event)
        if isinstance(event, Output) and when in event.text:
            heard.set()

    running = asyncio.create_task(kernel.execute(code, {}, sink))
    async with asyncio.timeout(CELL_LIMIT_S):
        await heard.wait()
        await asyncio.sleep(0.05)  # for the statement after the print; the signal must not be early for stock
        kernel.interrupt()
        finished = await running
    return events, finished


@pytest.mark.parametrize("code", CELLS.values(), ids=CELLS.keys())
def test_same_end(code: str, pair: Pair, on_loop: LoopThread) -> None:
    async def both() -> tuple[Told, Told]:
        head = "%%time\n" if code.startswith("%%") else ""
        cell = head + STARTED + code
        ours, stock = await asyncio.gather(interrupted(pair.ours, cell), interrupted(pair.stock, cell))
        return ours, stock

    ours, stock = on_loop.run(both())
    left, right = normal(*ours), normal(*stock)
    assert deepest(left) == deepest(right)
    ours, stock = on_loop.run(pair.run("'alive'"))
    assert normal(*ours) == normal(*stock)


def deepest(told: list[tuple[object, ...]]) -> list[object]:
    """Without the inner lines of traces: which of them the signal met is by chance."""
    return [(event[0], event[1], event[2]) if event[0] == "error" else event for event in told]


def test_trace_ends_in_user_code(pair: Pair, on_loop: LoopThread) -> None:
    events, _ = on_loop.run(interrupted(pair.ours, STARTED + "while True: print('x' * 100)"))
    error = next(event for event in events if isinstance(event, CodeError))
    assert error.name == "KeyboardInterrupt"
    assert "guest" not in "".join(error.traceback)
    on_loop.run(pair.stock.run("'one cell each'"))


def test_long_await_ends_at_once(ours: Resident, on_loop: LoopThread) -> None:
    """The loop of the kernel sleeps as long as the cell does."""

    async def run() -> None:
        async with asyncio.timeout(5):
            events, finished = await interrupted(ours, STARTED + "import asyncio; await asyncio.sleep(600)")
        assert not finished.ok
        assert [event.name for event in events if isinstance(event, CodeError)] == ["CancelledError"]

    on_loop.run(run())


def test_ignored_while_idle(pair: Pair, on_loop: LoopThread) -> None:
    async def run() -> None:
        for resident in (pair.ours, pair.stock):
            assert resident.kernel is not None
            resident.kernel.interrupt()
            resident.kernel.interrupt()
        ours, stock = await pair.run("'undisturbed'")
        assert normal(*ours) == normal(*stock)
        assert ours[1].ok

    on_loop.run(run())


def test_background_task_outlives_an_interrupt(pair: Pair, on_loop: LoopThread) -> None:
    code = (
        "import asyncio\nticks = []\nasync def tick():\n    while True: ticks.append(1); await asyncio.sleep(0.005)\n"
    )
    on_loop.run(pair.run(code + "background = asyncio.create_task(tick())"))

    async def both() -> None:
        cell = STARTED + NAPS + "await nap()"
        await asyncio.gather(interrupted(pair.ours, cell), interrupted(pair.stock, cell))

    on_loop.run(both())
    after = "before = len(ticks); await asyncio.sleep(0.1); len(ticks) > before, background.done()"
    ours, stock = on_loop.run(pair.run(after))
    assert normal(*ours) == normal(*stock)
    assert "(True, False)" in str(ours[0])
    on_loop.run(pair.run("background.cancel(); None"))


def test_handler_that_raises_in_an_await_does_not_end_the_kernel(pair: Pair, on_loop: LoopThread) -> None:
    """It ends stock, whose loop has no net below it."""
    code = (
        "import asyncio, signal, time\ndef raises(*_): raise TimeoutError('by alarm')\n"
        "old = signal.signal(signal.SIGALRM, raises)\nsignal.setitimer(signal.ITIMER_REAL, 0.02)\n"
        "await asyncio.sleep(60)"
    )
    events, finished = on_loop.run(pair.ours.run(code))
    assert not finished.ok
    assert not finished.lost
    assert any(isinstance(event, Output) and "by alarm" in event.text for event in events)
    events, finished = on_loop.run(pair.ours.run("signal.signal(signal.SIGALRM, old); await asyncio.sleep(0)"))
    assert finished.ok
    on_loop.run(pair.start())  # in step again


@pytest.mark.parametrize("seed", range(4))
def test_wire_stays_whole(seed: int, pair: Pair, on_loop: LoopThread) -> None:
    """Floods of several sizes, cut by SIGINT at random moments: every line that arrives is a line that was written."""

    async def run() -> None:
        kernel = pair.ours.kernel
        assert kernel is not None
        chance = random.Random(seed)
        for turn in range(16):
            size = chance.choice([1, 100, 5_000, 70_000, 400_000])
            mark = f"{seed}.{turn}"
            code = f"while True: print('<{mark}' + 'é' * {size} + '>')"
            events: list[KernelEvent] = []
            running = asyncio.create_task(kernel.execute(code, {}, events.append))
            await asyncio.sleep(chance.uniform(0.0, 0.03))
            while not running.done():  # one that falls between two cells is ignored, as it should be
                kernel.interrupt()
                await asyncio.wait({running}, timeout=0.3)
            assert not running.result().ok
            assert not running.result().lost
            text = "".join(event.text for event in events if isinstance(event, Output) and event.name == "stdout")
            whole = f"<{mark}{'é' * size}>"
            lines = text.split("\n")
            # A signal may cut between the pieces of one write; nothing of it ever lands in another line.
            wrong = {line[:80] for line in lines[:-1] if line != whole}
            assert not wrong, (size, wrong)
            assert whole[: len(lines[-1])] == lines[-1][: len(whole)]
            errors = [event.name for event in events if isinstance(event, CodeError)]
            assert errors == ["KeyboardInterrupt"], errors
            after: list[KernelEvent] = []
            assert (await kernel.execute(f"print('after {mark}')", {}, after.append)).ok
            assert Output("stdout", f"after {mark}\n") in merged(after)

    on_loop.run(run())
    on_loop.run(pair.start())


def merged(events: list[KernelEvent]) -> list[KernelEvent]:
    text = "".join(event.text for event in events if isinstance(event, Output))
    return [Output("stdout", text), *(event for event in events if not isinstance(event, Output))]
