"""Whoever is cancelled ends, in whatever moment it comes: `asyncio.wait_for` of Python 3.11 lost it in one of them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from raybox_actors.session import Session
from raybox_cluster.pool.calls import answer

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("ticks", range(5))
@pytest.mark.parametrize("what", ["the sandbox's end", "an answer"])
async def test_a_cancellation_that_was_accepted_is_obeyed(what: str, ticks: int) -> None:
    happened = asyncio.Event()
    session: Any = SimpleNamespace(_closing=False, _walls_ended=happened)
    waiting = asyncio.create_task(Session._ends(session, 10) if what == "the sandbox's end" else answered(happened))
    for _ in range(3):
        await asyncio.sleep(0)
    happened.set()
    for _ in range(ticks):
        await asyncio.sleep(0)
    if waiting.cancel():
        with pytest.raises(asyncio.CancelledError):
            await waiting
    else:
        assert await waiting


async def answered(happened: asyncio.Event) -> bool:
    result: bool = await answer(asyncio.create_task(happened.wait()), 10)
    return result
