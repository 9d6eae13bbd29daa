"""The kernel's own channel to its actor, which code in a cell can write anything into. One attack, one test."""

from __future__ import annotations

import pickle

import pytest

from tests.security.conftest import Attacker

pytestmark = pytest.mark.pool

#: Finds the socket of the kernel's frames among its descriptors.
WIRE = """
import json, os, socket, stat
def wire():
    for name in os.listdir('/proc/self/fd'):
        try:
            if stat.S_ISSOCK(os.stat(int(name)).st_mode):
                one = socket.socket(fileno=os.dup(int(name)))
                if one.family == socket.AF_UNIX and one.type == socket.SOCK_STREAM and int(name) >= 100:
                    return one
        except OSError:
            pass
sock = wire()
def forge(*frames):
    for frame in frames:
        sock.sendall(frame if isinstance(frame, bytes) else json.dumps(frame).encode() + b'\\n')
"""


class Exploit:
    """A pickle that would run a command in whoever loads it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch /tmp/raybox-was-here",)


def test_a_pickle_in_place_of_a_frame_is_never_loaded(attacker: Attacker) -> None:
    import os
    from pathlib import Path

    assert os.name == "posix"
    attacker.run(WIRE)
    attacker.run(f"forge({pickle.dumps(Exploit())!r} + b'\\n')")
    assert attacker.value("1 + 1") == 2
    assert not Path("/tmp/raybox-was-here").exists()


@pytest.mark.parametrize(
    "frames",
    [
        [["done", {"status": "ok", "exiting": False, "number": 1}]],
        [["done", {"status": "ok", "exiting": False, "number": -1}]],
        [["done", None], ["done", []], ["done", 3]],
        [["input", [1, 1]], ["input", "x"], ["input", [None, None]]],
        [["ready", {}], ["ready", {}]],
        [["stdout", 3], ["stderr", None], ["stdout", ["x"]]],
        [["execute_result", {"data": 3}], ["display_data", {"data": {"text/plain": {"a": 1}}}]],
        [["error", {"ename": 3, "evalue": None, "traceback": "x"}], ["error", []]],
        [["nothing", {}], [], {}, 3, None, "x", [1, 2, 3]],
    ],
)
def test_a_forged_frame_spoils_at_most_its_own_cell(attacker: Attacker, frames: list[object]) -> None:
    attacker.run(WIRE)
    attacker.run(f"forge(*{frames!r})")
    assert attacker.value("20 + 2") == 22
    assert attacker.value("'next'") == "next"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n" * 1000,
        b"{" * 10_000 + b"\n",
        b"[" * 200_000 + b"]" * 200_000 + b"\n",
        b"\xff\xfe\x00\n",
        b'["stdout", NaN]\n',
    ],
    ids=["empty lines", "braces", "deep", "not text", "not a number"],
)
def test_garbage_on_the_channel_is_ignored(attacker: Attacker, garbage: bytes) -> None:
    attacker.run(WIRE)
    attacker.run(f"forge({garbage!r})")
    assert attacker.value("20 + 2") == 22


def test_a_frame_without_an_end_costs_its_sender_the_kernel(attacker: Attacker) -> None:
    """The actor holds at most one frame's worth of it."""
    attacker.run(WIRE)
    error = attacker.error("while True: sock.sendall(b'x' * (1 << 20))")
    assert error.startswith("UnexpectedEndOfExecution: ")
    assert attacker.value("1 + 1") == 2


def test_closing_the_channel_ends_nobody_else(attacker: Attacker) -> None:
    attacker.run(WIRE)
    attacker.run("import os\nsock.shutdown(2)\nos.closerange(3, 200)\nos._exit(0)")
    assert attacker.value("1 + 1") == 2


def test_a_child_that_holds_the_channel_does_not_hold_the_cell(attacker: Attacker) -> None:
    """A daemon keeps the descriptors of a kernel that ended."""
    code = "import os, time\nif not os.fork():\n    os.setsid()\n    time.sleep(1000)\nos._exit(3)"
    assert attacker.error(code)
    assert attacker.value("1 + 1") == 2
