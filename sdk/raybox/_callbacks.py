"""Callbacks of the asyncio classes: functions, or coroutine functions, which are awaited."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

OutputHandler = Callable[[T], Any] | Callable[[T], Awaitable[Any]]


async def called(handler: OutputHandler[T], value: T) -> None:
    """Call it, and wait for it where there is something to wait for."""
    due = handler(value)
    if inspect.isawaitable(due):
        await due
