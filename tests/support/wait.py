"""Waiting for conditions, so that tests do not sleep."""

from __future__ import annotations

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
