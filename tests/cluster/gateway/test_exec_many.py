"""POST /raybox/exec_many and the SDK's two ways to it, over real HTTP on a backend in memory."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import raybox
from raybox import ExecItem, InvalidArgumentException, ItemResult, SandboxException, _batch_async
from raybox_actors.values import ItemOutcome, ItemRequest
from raybox_cluster.batch import wire
from raybox_cluster.batch.run import Result
from raybox_cluster.batch.wire import Lines
from raybox_cluster.gateway.app import create_app
from raybox_cluster.gateway.asgi import StreamAborted
from raybox_cluster.gateway.auth import ApiKey, ApiKeys, hash_key
from tests.cluster.gateway.conftest import Gateway
from tests.cluster.gateway.memory import succeed

pytestmark = pytest.mark.anyio


def pool_of(gateway: Gateway) -> raybox.AsyncPool:
    return raybox.connect_async(gateway.url, api_key=gateway.key)


async def collect(results: AsyncIterator[ItemResult]) -> list[ItemResult]:
    return [result async for result in results]


async def post(gateway: Gateway, *lines: object) -> list[dict[str, Any]]:
    body = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    answer = await gateway.client.post("/raybox/exec_many", content=body)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_every_line_is_answered_whatever_is_in_it(gateway: Gateway) -> None:
    events = await post(
        gateway,
        {"max_in_flight": 2},
        {"code": "a", "id": "first"},
        b"{not json\n",
        b"\n",
        b"[1]\n",
        {"id": "no code"},
        {"code": "b", "timeout_s": -1},
        {"code": "c", "files": {"../x": ""}},
        {"code": "d", "kind": "poem"},
        b'{"code":"' + b"x" * (wire.MAX_LINE_BYTES + 1) + b'"}\n',
        {"code": "last"},
    )
    assert events[0] == {"type": "started", "max_in_flight": 2}
    assert events[-1] == {"type": "end", "results": 9, "deadline": False}
    by_index = {event["index"]: event for event in events if event["type"] == "result"}
    assert [by_index[n]["status"] for n in range(9)] == ["ok", *["invalid"] * 7, "ok"]
    assert by_index[0]["id"] == "first"
    assert by_index[0]["events"] == [by_index[0]["events"][0], {"type": "end_of_execution"}]
    assert by_index[2]["error"] == {"kind": "bad_request", "message": "a line must be a JSON object"}
    assert str(wire.MAX_LINE_BYTES) in by_index[7]["error"]["message"]
    assert not gateway.backend.live


@pytest.mark.parametrize("first", [b"", b"nonsense\n", b'{"max_in_flight": 0}\n', b'{"create": {"templateID": 1}}\n'])
async def test_options_that_mean_nothing_are_refused(gateway: Gateway, first: bytes) -> None:
    answer = await gateway.client.post("/raybox/exec_many", content=first)
    assert answer.status_code == 400
    assert answer.json()["kind"] == "bad_request"
    assert not gateway.backend.created


async def test_no_sandbox_of_a_batch_may_wait_longer_than_the_pool_lets_creates_wait(gateway: Gateway) -> None:
    keys = ApiKeys([ApiKey("tester", hash_key(gateway.key), admin=True)])
    gateway.switch.app = create_app(gateway.backend, keys, max_wait_s=700.0)
    for wait_s, status in ((700, 200), (701, 400)):
        options = json.dumps({"create": {"raybox": {"wait_s": wait_s}}}).encode()
        assert (await gateway.client.post("/raybox/exec_many", content=options)).status_code == status


async def test_without_a_key_nothing_is_run(gateway: Gateway) -> None:
    answer = await gateway.client.post("/raybox/exec_many", content=b"{}\n", headers={"X-API-KEY": "e2b_wrong"})
    assert answer.status_code == 401


def test_lines_do_not_depend_on_how_they_are_cut() -> None:
    text = b"one\n\n  \ntwo\r\n" + b"x" * 20 + b"\nend"
    expected = [b"one", b"two", None, b"end"]
    for size in range(1, len(text) + 1):
        lines = Lines(max_bytes=10)
        found = [line for at in range(0, len(text), size) for line in lines.feed(text[at : at + size])]
        assert [*found, *lines.rest()] == expected


async def test_a_result_has_what_a_cell_and_a_program_give(gateway: Gateway) -> None:
    async def run(sandbox_id: str, item: ItemRequest) -> ItemOutcome:
        assert item.stdin == b"in\xff"
        assert item.files == {"a/b": b"data"}
        assert item.env_vars == {"A": "1", "B": "2"}
        assert (item.kind, item.timeout_s, item.fetch) == ("program", 7.0, ("out",))
        done = await succeed(sandbox_id, item)
        return ItemOutcome("error", done.lines, 0.5, clean=True, exit_code=3, files={"out": b"\0left"})

    gateway.backend.run = run
    item = ExecItem("hello", "me", stdin=b"in\xff", files={"a/b": "data"}, env_vars={"B": "2"}, fetch=("out",))
    results = pool_of(gateway).exec_many([item], kind="program", timeout_s=7, env_vars={"A": "1"}, envs={"C": "3"})
    (result,) = await collect(results)
    assert (result.id, result.status, result.exit_code, result.stdout) == ("me", "error", 3, "hello")
    assert result.files == {"out": b"\0left"}
    assert result.error is None
    assert not result.should_mask_sample
    assert gateway.backend.created[0].env_vars == {"C": "3"}


async def test_an_endless_iterable_is_taken_as_results_are_read(gateway: Gateway) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield str(taken)

    results, count = pool_of(gateway).exec_many(endless(), max_in_flight=2), 0
    async for result in results:
        count += 1
        assert result.ok
        assert taken - count <= 8 * 2 + 16 + 3
        if count == 300:
            break
    await results.aclose()  # type: ignore[attr-defined]  # of a generator
    while gateway.backend.live:
        await gateway.backend.killed.get()


async def test_who_leaves_ends_what_runs(gateway: Gateway) -> None:
    running = asyncio.Event()

    async def run(_sandbox_id: str, _item: ItemRequest) -> ItemOutcome:
        running.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError("never")

    gateway.backend.run = run
    reading = asyncio.create_task(collect(pool_of(gateway).exec_many(["1"])))
    await running.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await gateway.backend.killed.get()
    assert not gateway.backend.live


async def test_what_reading_items_raises_is_raised(gateway: Gateway) -> None:
    async def items() -> AsyncIterator[str]:
        yield "1"
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        await collect(pool_of(gateway).exec_many(items()))
    with pytest.raises(InvalidArgumentException, match="not int"):
        await collect(pool_of(gateway).exec_many([1]))  # type: ignore[list-item]  # what is no item
    with pytest.raises(InvalidArgumentException):
        await collect(pool_of(gateway).exec_many("text"))


async def test_at_the_deadline_a_collection_is_told_to_its_end(gateway: Gateway) -> None:
    async def run(_sandbox_id: str, _item: ItemRequest) -> ItemOutcome:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("never")

    gateway.backend.run = run
    items = [ExecItem("1", id=str(number)) for number in range(100)]
    results = await collect(pool_of(gateway).exec_many(items, max_in_flight=2, deadline_s=0.1))
    assert sorted(result.index for result in results) == list(range(100))
    assert all(result.id == str(result.index) for result in results)
    assert {(result.status, result.should_mask_sample) for result in results} == {("deadline", True)}


def breaking_off(monkeypatch: pytest.MonkeyPatch, breaks: Callable[[Result], bool]) -> None:
    """Answers end in their midst instead of with such a result, as when the replica dies."""
    good = wire.result_line

    def line(result: Result) -> bytes:
        if breaks(result):
            raise StreamAborted("as when the replica dies")
        return good(result)

    monkeypatch.setattr(wire, "result_line", line)
    monkeypatch.setattr(_batch_async, "BROKEN_PAUSE_S", 0.01)


async def test_what_breaks_off_is_asked_again(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what has a result is not."""
    breaking_off(monkeypatch, lambda result: result.index == 5)  # of each answer
    items = [ExecItem(str(number), id=f"n{number}") for number in range(40)]
    results = await collect(pool_of(gateway).exec_many(iter(items), max_in_flight=2))
    assert sorted(result.index for result in results) == list(range(40))
    assert all(
        (result.stdout, result.id, result.ok) == (str(result.index), f"n{result.index}", True) for result in results
    )
    assert max(result.attempts for result in results) > 1


async def test_a_gateway_that_is_gone_loses_no_item(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    breaking_off(monkeypatch, lambda result: result.name != "good")
    found = []

    async def read() -> None:
        items: list[str | ExecItem] = [ExecItem("1", id="good"), "2", "3"]
        async for result in pool_of(gateway).exec_many(items, max_in_flight=1):
            found.append((result.index, result.status, result.should_mask_sample))  # noqa: PERF401  # kept if it fails

    with pytest.raises(SandboxException):
        await read()
    assert found[0] == (0, "ok", False)
    assert sorted(found[1:]) == [(1, "infrastructure", True), (2, "infrastructure", True)]


async def test_callers_that_block_have_the_same(gateway: Gateway) -> None:
    """An iterable that blocks until its own result is there would stop for ever if sending waited for reading."""
    answered = threading.Semaphore(3)

    def items() -> Iterator[str]:
        for number in range(50):
            answered.acquire()
            yield str(number)

    def read() -> list[str]:
        found = []
        for result in raybox.connect(gateway.url, api_key=gateway.key).exec_many(items(), max_in_flight=2):
            found.append(result.stdout)
            answered.release()
        return found

    assert sorted(map(int, await asyncio.to_thread(read))) == list(range(50))

    def leave() -> None:
        results = raybox.connect(gateway.url, api_key=gateway.key).exec_many(map(str, range(10**9)))
        next(results)
        results.close()  # type: ignore[attr-defined]  # of a generator

    await asyncio.to_thread(leave)
    while gateway.backend.live:
        await gateway.backend.killed.get()


async def test_a_key_in_the_metadata_does_not_make_all_sandboxes_one(gateway: Gateway) -> None:
    create = {"metadata": {"raybox.idempotency_key": "mine"}}
    events = await post(gateway, {"max_in_flight": 2, "create": create}, {"code": "a"}, {"code": "b"})
    assert [event["status"] for event in events if event["type"] == "result"] == ["ok", "ok"]
    assert {request.idempotency_key for request in gateway.backend.created} == {None}
