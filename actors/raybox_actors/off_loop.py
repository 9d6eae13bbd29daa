"""Calls of Ray that block, beside the loop, in threads that hold up no exit of their process.

An executor's threads are waited for when the process ends, and one that asks Ray something while Ray is being shut down
never gets an answer: the process of an actor whose raylet was killed would stay for ever (seen in chaos).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def off_loop(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns, or raises, in a thread of its own. Cancelled, it goes on, and nobody hears of it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(how: Callable[[Any], None], what: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: None if done.done() else how(what))

    def run() -> None:
        try:
            result = work(*args, **kwargs)
        except Exception as error:
            tell(done.set_exception, error)
        else:
            tell(done.set_result, result)

    threading.Thread(target=run, name="raybox-off-loop", daemon=True).start()
    return await done
