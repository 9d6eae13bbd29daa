"""Batches on a backend in memory: order, faults, deadlines, leaving early; nothing lost and nothing left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

import pytest

from raybox_actors.errors import BadRequest, Cause, InternalError, NoCapacity, SandboxLost
from raybox_actors.values import CreateRequest, ItemOutcome, ItemRequest, SandboxInfo
from raybox_cluster.batch import holding
from raybox_cluster.batch import run as batch_run
from raybox_cluster.batch import service as batch_service
from raybox_cluster.batch.run import Batch, Entry, Result
from raybox_cluster.batch.schedule import TOGETHER_MOST, Rules
from raybox_cluster.batch.service import Service
from tests.cluster.gateway.memory import MemoryBackend, succeed

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


async def entries(codes: Iterable[str]) -> AsyncIterator[Entry]:
    for number, code in enumerate(codes):
        yield Entry(f"n{number}", ItemRequest(f"e{number}", code))


def batch_of(
    backend: MemoryBackend, items: AsyncIterator[Entry], rules: Rules, deadline_s: float | None = None
) -> Batch:
    return Batch(backend, CreateRequest(), rules, items, deadline_s=deadline_s)


async def collect(batch: Batch) -> list[Result]:
    return [result async for result in batch.results()]


async def test_results_come_as_they_are_done(backend: MemoryBackend) -> None:
    first_may_end = asyncio.Event()

    async def run(sandbox_id: str, item: ItemRequest) -> ItemOutcome:
        if item.code == "slow":
            await first_may_end.wait()
        return await succeed(sandbox_id, item)

    backend.run = run
    names = []
    async for result in batch_of(backend, entries(["slow", "a", "b"]), Rules(2)).results():
        names.append(result.name)
        if len(names) == 2:
            first_may_end.set()
    assert names == ["n1", "n2", "n0"]
    assert not backend.live
    assert len(backend.created) == 2, "sandboxes are used again"


async def test_an_endless_stream_is_read_no_further_than_it_can_be_run(backend: MemoryBackend) -> None:
    taken = 0

    async def endless() -> AsyncIterator[Entry]:
        nonlocal taken
        while True:
            taken += 1
            yield Entry(None, ItemRequest(f"e{taken}", "1"))

    batch = batch_of(backend, endless(), Rules(3))
    results, count = batch.results(), 0
    async for _ in results:
        count += 1
        assert taken - count <= 2 * 3 * TOGETHER_MOST + 1
        if count == 500:
            break
    await results.aclose()
    assert not backend.live, "leaving ends the sandboxes"
    assert len(backend.created) <= 3


async def test_small_items_are_given_together_and_one_that_is_not_holds_up_none(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_run, "TOGETHER_LIMIT_S", 0.05)
    slow_may_end = asyncio.Event()

    async def run(sandbox_id: str, item: ItemRequest) -> ItemOutcome:
        await asyncio.sleep(0.002)
        if item.code == "slow":
            await slow_may_end.wait()
        return await succeed(sandbox_id, item)

    backend.run = run
    codes = [*["1"] * 100, "slow", *["1"] * 100]
    names: list[str] = []
    async for result in batch_of(backend, entries(codes), Rules(2)).results():
        names.append(str(result.name))
        assert (result.status, result.attempts) == ("ok", 1)
        if len(names) == len(codes) - 1:
            slow_may_end.set()
    assert names[-1] == "n100"
    assert sorted(names) == sorted(f"n{number}" for number in range(201)), "each once"
    assert max(map(len, backend.together)) == TOGETHER_MOST
    assert any(len(items) > 1 and "slow" in [item.code for item in items[:-1]] for items in backend.together)
    assert not backend.live


@pytest.mark.parametrize("way", ["lost", "no process", "unclean", "invalid"])
async def test_of_items_that_were_given_together_one_goes_wrong(backend: MemoryBackend, way: str) -> None:
    async def run(sandbox_id: str, item: ItemRequest) -> ItemOutcome:
        await asyncio.sleep(0.002)
        outcome = await succeed(sandbox_id, item)
        if item.code == "wrong":
            match way:
                case "lost":
                    backend.end(sandbox_id, "oom")
                    raise SandboxLost(sandbox_id, "oom")
                case "no process":
                    raise InternalError("no zygote")
                case "unclean":
                    return replace(outcome, clean=False)
                case "invalid":
                    raise BadRequest("no such language")
        return outcome

    backend.run = run
    codes = ["wrong" if number % 50 == 49 else "1" for number in range(400)]
    results = await collect(batch_of(backend, entries(codes), Rules(2)))
    assert sorted(one.index for one in results) == list(range(400))
    expected = {"lost": "oom", "no process": "infrastructure", "unclean": "ok", "invalid": "invalid"}[way]
    assert {one.status for one in results if codes[one.index] == "wrong"} == {expected}
    assert {one.status for one in results if codes[one.index] == "1"} == {"ok"}
    assert any("wrong" in [item.code for item in items] for items in backend.together if len(items) > 1)
    assert not backend.live


async def test_an_item_that_loses_its_sandbox_runs_on_another(backend: MemoryBackend) -> None:
    lost: list[str] = []

    async def run(sandbox_id: str, item: ItemRequest) -> ItemOutcome:
        if item.code == "victim" and len(lost) < 2:
            lost.append(sandbox_id)
            backend.end(sandbox_id, "node_lost")
            raise SandboxLost(sandbox_id, "node_lost")
        return await succeed(sandbox_id, item)

    backend.run = run
    results = {one.name: one for one in await collect(batch_of(backend, entries(["victim", "b", "c"]), Rules(2)))}
    assert [results[f"n{n}"].status for n in range(3)] == ["ok"] * 3
    assert results["n0"].attempts == 3
    assert len(set(lost)) == 2


async def test_faults_without_end_are_told_and_masked(backend: MemoryBackend) -> None:
    async def run(_sandbox_id: str, _item: ItemRequest) -> ItemOutcome:
        raise InternalError("no zygote")

    backend.run = run
    (result,) = await collect(batch_of(backend, entries(["a"]), Rules(1)))
    assert (result.status, result.attempts, result.should_mask_sample) == ("infrastructure", 3, True)
    assert "no zygote" in str(result.error)


@pytest.mark.parametrize(("cause", "status", "attempts"), [("oom", "oom", 1), ("internal", "infrastructure", 3)])
async def test_a_sandbox_that_its_item_ended_is_not_tried_again(
    backend: MemoryBackend, cause: Cause, status: str, attempts: int
) -> None:
    async def run(sandbox_id: str, _item: ItemRequest) -> ItemOutcome:
        backend.end(sandbox_id, cause)
        raise SandboxLost(sandbox_id, cause)

    backend.run = run
    (result,) = await collect(batch_of(backend, entries(["a"]), Rules(1)))
    assert (result.status, result.attempts) == (status, attempts)
    assert result.should_mask_sample == (cause != "oom")


async def test_what_cannot_mean_anything_is_told_once(backend: MemoryBackend) -> None:
    async def run(_sandbox_id: str, _item: ItemRequest) -> ItemOutcome:
        raise BadRequest("language 'x' is not available")

    backend.run = run

    async def items() -> AsyncIterator[Entry]:
        yield Entry("bad line", None, BadRequest("a line is not valid JSON"))
        yield Entry("bad language", ItemRequest("e", "1", language="x"))

    results = await collect(batch_of(backend, items(), Rules(2)))
    assert {one.name: (one.status, one.attempts, one.should_mask_sample) for one in results} == {
        "bad line": ("invalid", 0, False),
        "bad language": ("invalid", 1, False),
    }
    assert {one.index for one in results} == {0, 1}


async def test_fewer_sandboxes_than_wanted_are_enough(backend: MemoryBackend) -> None:
    create = backend.create

    async def only_one(request: CreateRequest) -> SandboxInfo:
        if backend.live:
            raise NoCapacity("full", 0.0)
        return await create(request)

    backend.create = only_one  # type: ignore[method-assign]
    results = await collect(batch_of(backend, entries(map(str, range(20))), Rules(8)))
    assert [one.status for one in results] == ["ok"] * 20
    assert not backend.live


async def test_a_pool_without_room_is_no_fault_of_the_items(backend: MemoryBackend) -> None:
    async def full(_request: CreateRequest) -> SandboxInfo:
        raise NoCapacity("full", 0.0)

    backend.create = full  # type: ignore[method-assign,assignment]
    results = await collect(batch_of(backend, entries("ab"), Rules(2, starved_s=0.0)))
    assert [(one.status, one.should_mask_sample) for one in results] == [("infrastructure", True)] * 2
    assert all(one.error is not None and one.error.kind == "capacity" for one in results)


@pytest.mark.parametrize(
    "refusal", [NoCapacity("full", 0.0), InternalError("no zygote"), RuntimeError("what nobody expected")]
)
async def test_items_wait_for_a_pool_that_is_in_trouble(
    backend: MemoryBackend, refusal: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, asked = backend.create, 0

    async def at_last(request: CreateRequest) -> SandboxInfo:
        nonlocal asked
        asked += 1
        if asked <= 2:
            raise refusal
        return await create(request)

    backend.create = at_last  # type: ignore[method-assign]
    monkeypatch.setattr(batch_run, "PAUSE_S", 0.01)
    results = await collect(batch_of(backend, entries("a"), Rules(2)))
    assert [one.status for one in results] == ["ok"]


async def test_the_deadline_ends_what_runs_and_what_waits(backend: MemoryBackend) -> None:
    async def run(sandbox_id: str, item: ItemRequest) -> ItemOutcome:
        if item.code == "quick":
            return await succeed(sandbox_id, item)
        await asyncio.get_running_loop().create_future()
        raise AssertionError("never")

    backend.run = run
    batch = batch_of(backend, entries(["quick", "a", "b", "c", "d"]), Rules(2), deadline_s=0.2)
    results = await collect(batch)
    assert results[0].status == "ok"
    assert {one.status for one in results[1:]} == {"deadline"}
    assert len({one.index for one in results}) == len(results)
    assert batch.timed_out
    assert not backend.live


async def test_who_leaves_while_a_sandbox_is_being_made_leaves_none(backend: MemoryBackend) -> None:
    backend.hold_create = asyncio.Event()
    lingering: set[asyncio.Task[None]] = set()
    batch = Batch(backend, CreateRequest(), Rules(1), entries(["a"]), lingering=lingering)
    reading = asyncio.create_task(collect(batch))
    await backend.creating.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    backend.hold_create.set()
    await asyncio.wait(lingering)
    assert len(backend.created) == 1
    assert not backend.live


async def test_sandboxes_live_for_a_short_time_and_are_renewed_while_an_item_runs(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_run, "LOOK_S", 0.01)
    monkeypatch.setattr(holding, "RENEW_S", 0.02)
    renewed, refused = asyncio.Queue[float](), [InternalError("busy"), RuntimeError("what nobody expected")]

    async def set_timeout(_sandbox_id: str, timeout_s: float) -> None:
        if refused:
            raise refused.pop()
        renewed.put_nowait(timeout_s)

    async def run(sandbox_id: str, item: ItemRequest) -> ItemOutcome:
        if item.code == "long":
            assert [await renewed.get() for _ in range(3)] == [holding.LEASE_S] * 3
        return await succeed(sandbox_id, item)

    backend.run = run
    backend.set_timeout = set_timeout  # type: ignore[method-assign,assignment]
    results = await collect(batch_of(backend, entries(["long", "short"]), Rules(1)))
    assert [(one.status, one.attempts) for one in results] == [("ok", 1)] * 2
    assert [one.timeout_s for one in backend.created] == [holding.LEASE_S]


async def test_short_items_need_no_renewal(backend: MemoryBackend) -> None:
    results = await collect(batch_of(backend, entries(map(str, range(200))), Rules(2)))
    assert len(results) == 200
    assert "set_timeout" not in backend.calls


async def test_a_sandbox_whose_time_was_up_is_replaced(backend: MemoryBackend) -> None:
    """Or a batch that has nothing to do for long would try its items on dead sandboxes."""

    ran = asyncio.Event()

    async def run(sandbox_id: str, item: ItemRequest) -> ItemOutcome:
        ran.set()
        return await succeed(sandbox_id, item)

    backend.run = run

    async def items() -> AsyncIterator[Entry]:
        yield Entry("first", ItemRequest("a", "1", timeout_s=1))
        await ran.wait()
        backend.end(next(iter(backend.live)), "timeout")
        batch._workers[0].renewed_at_s = float("-inf")
        yield Entry("second", ItemRequest("b", "1", timeout_s=1))

    batch = batch_of(backend, items(), Rules(1))
    assert [(one.status, one.attempts) for one in await collect(batch)] == [("ok", 1)] * 2
    assert len(backend.created) == 2


async def test_single_items_share_a_batch_while_there_are_any(backend: MemoryBackend) -> None:
    asked_rules = 0

    async def rules() -> Rules:
        nonlocal asked_rules
        asked_rules += 1
        await asyncio.sleep(0)
        return Rules(2)

    service = Service(backend, rules, idle_s=0.05)

    def ask(code: str, whose: str) -> asyncio.Task[Result]:
        return asyncio.create_task(service.run(whose, CreateRequest(), ItemRequest(f"e{code}{whose}", code)))

    asked = [ask(str(number), whose) for number in range(10) for whose in ("alice", "bob")]
    results = await asyncio.gather(*asked)
    texts = [json.loads(one.outcome.lines.splitlines()[0])["text"] for one in results if one.outcome is not None]
    assert texts == [str(number) for number in range(10) for _ in range(2)], "each has its own result"
    assert 2 <= len(backend.created) <= 4
    while backend.live:
        await backend.killed.get()
    before = asked_rules
    assert (await ask("again", "alice")).status == "ok", "after the batch ended"
    assert (await ask("and again", "alice")).status == "ok"
    assert asked_rules == before + 1, "asked once for a batch"


async def one_at_a_time() -> Rules:
    return Rules(1)


async def test_what_waits_is_bounded_in_bytes(backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_service, "MAX_WAITING_BYTES", 100)
    hold = asyncio.Event()

    async def run(sandbox_id: str, item: ItemRequest) -> ItemOutcome:
        await hold.wait()
        return await succeed(sandbox_id, item)

    backend.run = run
    service = Service(backend, one_at_a_time, idle_s=0.05)

    def ask(size: int) -> asyncio.Task[Result]:
        return asyncio.create_task(service.run("me", CreateRequest(), ItemRequest(f"e{size}", "x" * size)))

    first = [ask(60), ask(61)]
    await backend.creating.wait()
    with pytest.raises(NoCapacity, match="100 bytes"):
        await ask(1)
    hold.set()
    await asyncio.gather(*first)
    assert (await ask(1)).status == "ok"


async def test_large_items_are_not_taken_ahead(backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_run, "HELD_BYTES", 100)
    taken = ended = most = 0

    async def items() -> AsyncIterator[Entry]:
        nonlocal taken, most
        for number in range(20):
            taken += 1
            most = max(most, taken - ended)
            yield Entry(None, ItemRequest(f"e{number}", "1", stdin=b"x" * 60))

    async for result in batch_of(backend, items(), Rules(8)).results():
        ended += 1
        assert result.status == "ok"
    assert (taken, ended) == (20, 20)
    assert most <= 4, "two fill it, one is being given out, one is taken"


async def test_who_does_not_wait_any_more_is_not_served(backend: MemoryBackend) -> None:
    ran: list[str] = []
    began, hold = asyncio.Event(), asyncio.Event()

    async def run(sandbox_id: str, item: ItemRequest) -> ItemOutcome:
        ran.append(item.code)
        began.set()
        await hold.wait()
        return await succeed(sandbox_id, item)

    backend.run = run
    service = Service(backend, one_at_a_time, idle_s=0.05)
    asked = [asyncio.create_task(service.run("me", CreateRequest(), ItemRequest(f"e{code}", code))) for code in "abcde"]
    await began.wait()
    asked[4].cancel()
    hold.set()
    await asyncio.gather(*asked[:4])
    assert sorted(ran) == ["a", "b", "c", "d"]
