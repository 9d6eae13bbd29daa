"""Calls that block, beside the loop."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from raybox_actors.off_loop import off_loop

pytestmark = pytest.mark.anyio

STUCK = """
import asyncio, threading
from raybox_actors.off_loop import off_loop

async def main():
    begun = threading.Event()
    stuck = asyncio.ensure_future(off_loop(lambda: (begun.set(), threading.Event().wait())))
    while not begun.is_set():
        await asyncio.sleep(0)
    stuck.cancel()

asyncio.run(main())
"""


async def test_it_gives_what_the_call_gives() -> None:
    def call(a: int, b: int = 0) -> tuple[int, int, bool]:
        return a, b, threading.current_thread() is threading.main_thread()

    assert await off_loop(call, 1, b=2) == (1, 2, False)
    with pytest.raises(ZeroDivisionError):
        await off_loop(lambda: 1 / 0)


def test_one_that_never_returns_holds_up_no_exit() -> None:
    assert subprocess.run([sys.executable, "-c", STUCK], timeout=60, check=False).returncode == 0
