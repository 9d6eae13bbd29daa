"""What is kept of the lives of sandboxes, and what a session tells for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from raybox_actors.life_log import MAX_ENTRIES, MAX_FIELD_CHARS, MAX_SANDBOXES, LifeLog
from tests.actors.driving import Driver, eventually

pytestmark = pytest.mark.anyio


def test_a_life_log_is_bounded() -> None:
    log = LifeLog()
    log.add("a", 0.0, "before it began", {})
    assert log.entries("a") is None
    log.begin("a")
    for number in range(MAX_ENTRIES + 5):
        log.add("a", float(number), "event", {"text": "x" * (MAX_FIELD_CHARS + 1)})
    entries = log.entries("a") or []
    assert (len(entries), entries[0].at_s, len(entries[0].fields["text"])) == (MAX_ENTRIES, 5.0, MAX_FIELD_CHARS)
    for number in range(MAX_SANDBOXES):
        log.begin(f"later{number}")
    assert log.entries("a") is None
    assert log.entries("later0") == []


async def test_a_session_tells_of_contexts_and_executions(session: Callable[..., Awaitable[Driver]]) -> None:
    driver = await session()
    told: list[tuple[str, dict[str, str]]] = []
    driver.session.on_event = lambda what, facts: told.append((what, facts))
    made = await driver.session.create_context("python", None)
    await driver.run("1 + 1")
    await driver.run("1 / 0")
    await eventually(lambda: len(told) == 5, 10.0, lambda: told)
    what = [(what, facts.get("error")) for what, facts in told]
    assert what == [
        ("context started", None),
        ("execution started", None),
        ("execution ended", None),
        ("execution started", None),
        ("execution ended", "ZeroDivisionError"),
    ]
    assert told[0][1] == {"context_id": made.context_id, "language": "python"}
    assert told[1][1] == told[2][1]
