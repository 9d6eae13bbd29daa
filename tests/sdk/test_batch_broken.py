"""A batch whose server, or whose items, do not keep to what was agreed: it ends, and says why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from raybox import SandboxException, _batch, _batch_async, _batch_sync, _transport
from raybox._config import ConnectionConfig

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]

CONFIG = ConnectionConfig.resolve({"api_key": "k" * 8, "api_url": "http://h"})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Answer:
    """The pieces of one answer, which then ends in good order; asked on, it says so again."""

    status = 200

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = iter(pieces)

    async def read(self) -> bytes:
        return next(self.pieces, b"")

    async def close(self) -> None:
        pass


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Answer]:
    """Those that requests get; each takes the first line of its body and one item."""
    due: list[Answer] = []

    async def opened(request: Any) -> Answer:
        for _ in range(2):
            await anext(request.body, None)
        return due.pop(0)

    monkeypatch.setattr(_transport, "open_duplex", opened)
    monkeypatch.setattr(_batch_async, "BROKEN_PAUSE_S", 0.0)
    return due


async def test_an_answer_that_ends_before_its_end_is_broken(answers: list[Answer]) -> None:
    answers += [Answer(b'{"type": "started", "max_in_flight": 1}\n')] + [Answer()] * (_batch_async.MAX_BROKEN - 1)
    results = _batch_async.exec_many(CONFIG, {}, ["1"])
    assert (await anext(results)).status == "infrastructure"
    with pytest.raises(SandboxException, match="without an end event"):
        await anext(results)
    assert not answers


class Spoiled:
    """A collection that cannot be read to its end."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[str]:
        yield from ("1", "2", "3")
        raise OSError("unreadable")


async def test_what_reading_items_raises_is_raised_after_the_deadline_too(answers: list[Answer]) -> None:
    answers.append(Answer(b'{"type": "end", "count": 0, "deadline": true}\n'))
    with pytest.raises(OSError, match="unreadable"):
        [one async for one in _batch_async.exec_many(CONFIG, {"deadline_s": 60.0}, Spoiled())]


@pytest.mark.parametrize("items", [["a", "b", "c"], {"a", "b", "c"}, {"a": 1, "b": 2, "c": 3}.keys()])
def test_every_item_of_a_collection_is_told_when_the_time_is_up(items: Any, answers: list[Answer]) -> None:
    answers.append(Answer(b'{"type": "end", "count": 0, "deadline": true}\n'))
    results = list(_batch_sync.exec_many(CONFIG, {"deadline_s": 60.0}, items))
    assert sorted((one.index, one.status) for one in results) == [(index, "deadline") for index in range(3)]


@pytest.mark.parametrize(
    "event",
    [{"status": "ok"}, {"index": 0, "status": "ok", "files": {"a": "abc"}}, {"index": 0, "status": "ok", "error": "x"}],
)
def test_a_result_that_is_none(event: dict[str, Any]) -> None:
    with pytest.raises(SandboxException, match="cannot be used"):
        _batch.result_of({"type": "result", **event})
