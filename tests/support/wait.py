"""Waiting for conditions, so that tests do not sleep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_until(predicate: Callable[[], Found], timeout_s: float, describe: Callable[[], object] | str = "") -> Found:
    """The first true value of `predicate`, asked all the time. AssertionError with `describe()` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (found := predicate()):
        if time.monotonic() > deadline:
            state = describe() if callable(describe) else describe
            raise AssertionError(f"not within {timeout_s:g} s; last: {found!r}; {state}")
        time.sleep(0.01)
    return found


async def async_wait_until(
    predicate: Callable[[], Found], timeout_s: float = 30.0, describe: Callable[[], object] | str = ""
) -> Found:
    """The same on an event loop, which goes on meanwhile."""
    deadline = time.monotonic() + timeout_s
    while not (found := predicate()):
        if time.monotonic() > deadline:
            state = describe() if callable(describe) else describe
            raise AssertionError(f"not within {timeout_s:g} s; last: {found!r}; {state}")
        await asyncio.sleep(0.01)
    return found
