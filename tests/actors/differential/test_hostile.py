"""User code that attacks its own kernel's transport: it spoils its own execution, at worst its own kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raybox_actors.kernels.base import CodeError, Display, InputAccepted, KernelEvent, Output
from raybox_actors.kernels.forked import MAX_FRAME_PARTS, ForkedKernel, parse_frames
from tests.actors.differential.normal import normal
from tests.actors.differential.pair import LoopThread, Resident, Site

#: The kernel's own end of the wire, found as user code would find it.
WIRE = "import os, socket\nwire = next(f for f in range(3, 200) if os.path.exists(f'/proc/self/fd/{f}') and " + (
    "os.readlink(f'/proc/self/fd/{f}').startswith('socket') and f == get_ipython().kernel.session.wire.sock.fileno())\n"
)

FORGERIES = {
    "garbage": "b'\\xff\\xfe\\x00 garbage \\n' * 1000",
    "half a frame": 'b\'["stdout","cut\'',
    "no array": "b'17\\n{}\\nnull\\n\"text\"\\n'",
    "empty lines": "b'\\n' * 10_000",
    "wrong shapes": 'b\'[]\\n[1]\\n[1,2]\\n["stdout"]\\n["stdout",1]\\n["stdout",null]\\n["x","y","z"]\\n\'',
    "unknown kinds": 'b\'["nonsense",{}]\\n["",null]\\n["ready",{}]\\n\'',
    "brackets that would join lines": "b']\\n[\\n],[\\n'",
    "displays that are none": (
        'b\'["display_data",5]\\n["display_data",{"data":5}]\\n["execute_result",{}]\\n["error",{}]\\n["input","x"]\\n\''
    ),
    "deep nesting": "b'[' * 200_000 + b'\\n'",
    "deep nesting, whole": "b'[\"display_data\",' + b'[' * 200_000 + b']' * 200_000 + b']\\n'",
    "too many values": "b'[\"display_data\",[' + b'[],' * 5_000_000 + b'1]]\\n'",
    "a number of many digits": "b'[\"input\",' + b'9' * 100_000 + b']\\n'",
    "infinity": 'b\'["display_data",{"data":{"x/y":Infinity}}]\\n["input",1e999]\\n\'',
    "lone surrogates": 'b\'["stdout","\\\\ud800"]\\n["display_data",{"data":{"\\\\udfff":"\\\\udfff"}}]\\n\'',
}


async def alive(resident: Resident) -> None:
    """The next execution works, and tells what it did and nothing else."""
    events, finished = await resident.run("print('fine'); 6 * 7")
    told = normal(events, finished)
    assert told[1:] == [("stdout", "fine\n"), ("result", {"text/plain": "42"}, {}), ("end", "ok", "")]


@pytest.fixture(scope="module")
def victim(site: Site, on_loop: LoopThread) -> Iterator[Resident]:
    """A kernel that the forgeries share: each leaves a live one behind, the same or a new one."""
    resident = Resident(site, 50_004, ForkedKernel)
    on_loop.run(resident.start())
    yield resident
    on_loop.run(resident.stop())


@pytest.mark.parametrize("forged", FORGERIES.values(), ids=FORGERIES.keys())
def test_forged_frames_spoil_nothing_else(forged: str, victim: Resident, on_loop: LoopThread) -> None:
    code = f"{WIRE}socket.socket(fileno=os.dup(wire)).sendall({forged})\nprint('said')"

    async def run() -> None:
        events, _ = await victim.run(code)
        for event in events:
            assert isinstance(event, InputAccepted | Output | Display | CodeError)
        await alive(victim)

    on_loop.run(run())


def test_forged_end_ends_only_its_own_execution(victim: Resident, on_loop: LoopThread) -> None:
    """The cell is believed to be over; the next one waits until it really is, and nothing is out of step."""
    forged = 'b\'\'.join(b\'["done",{"status":"ok","number":%d}]\\n["input",[99,%d]]\\n\' % (n, n) for n in range(500))'
    code = f"{WIRE}socket.socket(fileno=os.dup(wire)).sendall({forged}); import time; time.sleep(0.2); print('late')"

    async def run() -> None:
        _, finished = await victim.run(code)
        assert finished.ok
        for _ in range(3):
            await alive(victim)

    on_loop.run(run())


def test_a_frame_without_end_ends_its_kernel(victim: Resident, on_loop: LoopThread) -> None:
    code = f"{WIRE}s = socket.socket(fileno=os.dup(wire))\nwhile True: s.sendall(b'x' * 1_000_000)"

    async def run() -> None:
        _, finished = await victim.run(code)
        assert finished.lost
        assert finished.reason == "sent a frame over the limit"
        await alive(victim)

    on_loop.run(run())


CLOSINGS = {
    "stdout": ("import os; os.close(1)", False),
    "stderr": ("import os; os.close(2)", False),
    "all three": ("import os; os.closerange(0, 3)", False),
    "the wire": (f"{WIRE}os.close(wire)", True),
    "shut down the wire": ("import socket; get_ipython().kernel.session.wire.sock.shutdown(socket.SHUT_RDWR)", True),
    "everything": ("import os; os.closerange(3, 60_000)", True),
}


@pytest.mark.parametrize(("code", "fatal"), CLOSINGS.values(), ids=CLOSINGS.keys())
def test_closed_descriptors(code: str, fatal: bool, ours: Resident, on_loop: LoopThread) -> None:
    """Without the wire a kernel is of no use: it ends, says so, and the next cell finds a fresh one."""

    async def run() -> None:
        _, finished = await ours.run(code)
        assert finished.lost == fatal
        if fatal:
            assert finished.reason
        await alive(ours)

    on_loop.run(run())


def test_order_of_all_ways_to_write(ours: Resident, on_loop: LoopThread) -> None:
    """stdout, stderr, displays, C code and children, as they wrote; stock keeps no order across streams."""
    code = (
        "import os, sys, subprocess\n"
        "for i in range(20):\n"
        "    print(f'out{i}'); os.write(1, b'raw%d\\n' % i); print(f'err{i}', file=sys.stderr)\n"
        "    os.write(2, b'rawerr%d\\n' % i); display(i); os.system(f'echo child{i}')\n"
    )
    events, finished = on_loop.run(ours.run(code))
    assert finished.ok
    told = [event.text if isinstance(event, Output) else "display" for event in events if not_input(event)]
    lines = "".join(text if text != "display" else "display\n" for text in told).splitlines()
    want = [line for i in range(20) for line in (f"out{i}", f"raw{i}", f"err{i}", f"rawerr{i}", "display", f"child{i}")]
    assert lines == want


def not_input(event: KernelEvent) -> bool:
    return not isinstance(event, InputAccepted)


def test_endless_writer_does_not_stop_prints(ours: Resident, on_loop: LoopThread) -> None:
    """A child that never stops filling descriptor 1: order is given up, the cell goes on."""
    code = (
        "import subprocess, time\nchild = subprocess.Popen(['yes'])\nstarted = time.monotonic()\n"
        "for i in range(50): print(f'mine {i}.\\n', end='')\n"
        "child.kill(); child.wait(); time.monotonic() - started < 5"
    )
    events, finished = on_loop.run(ours.run(code))
    assert finished.ok
    text = "".join(event.text for event in events if isinstance(event, Output))
    assert "mine 49." in text
    assert [event.data["text/plain"] for event in events if isinstance(event, Display)] == ["True"]


def test_handlers_and_finalizers_that_print_do_not_cut_frames(ours: Resident, on_loop: LoopThread) -> None:
    code = (
        "import signal\nsignal.signal(signal.SIGALRM, lambda *_: print('alarm'))\n"
        "class Loud:\n    def __del__(self): print('gone')\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\n"
        "for i in range(300):\n    a = Loud(); a.a = a; print('x' * 40_000)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)"
    )
    events, finished = on_loop.run(ours.run(code))
    assert finished.ok
    lines = "".join(event.text for event in events if isinstance(event, Output)).replace("x" * 40_000, "X")
    assert lines.count("X") == 300
    assert set(lines.replace("alarm", "").replace("gone", "").replace("X", "")) == {"\n"}


def test_last_words_of_a_dying_kernel(ours: Resident, on_loop: LoopThread) -> None:
    code = "import os\nfor i in range(3000): print('word', i)\nos.write(1, b'raw last words\\n'); os._exit(3)"
    events, finished = on_loop.run(ours.run(code))
    assert (finished.lost, finished.reason) == (True, "exit status 3")
    text = "".join(event.text for event in events if isinstance(event, Output))
    assert "word 2999\n" in text
    assert text.endswith("raw last words\n")


def test_displays_over_the_limit_are_cut(ours: Resident, on_loop: LoopThread) -> None:
    events, finished = on_loop.run(
        ours.run("display({'text/html': 'x' * 40_000_000, 'text/plain': 'short'}, raw=True)")
    )
    assert finished.ok
    (display,) = [event for event in events if isinstance(event, Display)]
    assert set(display.data) == {"text/plain"}
    assert display.data["text/plain"].startswith("short\n[dropped, over the limit of a display: text/html (40000000")


def test_parsing_frames() -> None:
    lines = b'["stdout","a"]\n["stdout","b"]\n["stderr","c"]\n["input",1]\n["stdout","d"]\n'
    assert list(parse_frames(lines)) == [("stdout", "ab"), ("stderr", "c"), ("input", 1), ("stdout", "d")]
    assert list(parse_frames(b'["stdout","a"]\ncut ["in\n["stdout","b"]\n')) == [("stdout", "ab")]
    assert list(parse_frames(b'\n["input",1]\n\n["input",2]\n')) == [("input", 1), ("input", 2)]
    assert list(parse_frames(b"[" * (MAX_FRAME_PARTS + 1) + b"\n")) == []
