"""Executions with ids: the client comes back for the rest when its connection is lost, and sees nothing twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import raybox
from raybox import SandboxUnreachableException
from raybox._reattach import REATTACH_WITHIN_S, Reattaching
from raybox._responses import TransportFailure
from tests.sdk.player import ABORT, COUNT, END, GONE, KEEPALIVE, SANDBOX_ID, TICK, Player, events, reply
from tests.sdk.test_client import bare

pytestmark = pytest.mark.anyio

Done = Callable[[Any], Awaitable[Any]]
INTERRUPT = "/executions/e/interrupt"


@pytest.fixture
def sandbox(colour: Any, player: Player) -> Any:
    player.on("POST", INTERRUPT, reply(204))
    return bare(colour, player.url)


def said(text: str) -> dict[str, object]:
    return {"type": "stdout", "text": text, "timestamp": 0}


def asked(player: Player, method: str = "POST", path: str = "/execute") -> list[dict[str, str]]:
    return [one.headers for one in player.seen if (one.method, one.path) == (method, path)]


async def test_a_plain_run_says_nothing_of_ids(sandbox: Any, player: Player, done: Done) -> None:
    await done(sandbox.run_code("1 + 1"))
    (headers,) = asked(player)
    assert not [name for name in headers if name.startswith("x-raybox")]


async def test_a_lost_connection_is_taken_up_where_it_broke(sandbox: Any, player: Player, done: Done) -> None:
    half = b'{"type": "stdout", "te'
    player.on(
        "POST",
        "/execute",
        events(COUNT, said("a"), KEEPALIVE, said("b"), half, ABORT),
        reply(503, b"restarting"),
        events(said("c")),  # a server that was told to stop may end a stream in good order
        events(said("d"), END),
    )
    heard: list[str] = []
    execution = await done(
        sandbox.run_code("x", execution_id="e", on_stdout=lambda message: heard.append(message.line))
    )
    assert heard == execution.logs.stdout == ["a", "b", "c", "d"]
    assert (execution.execution_count, execution.lost_events) == (1, 0)
    headers = asked(player)
    assert [one.get("x-raybox-from-event", "0") for one in headers] == ["0", "3", "3", "4"]
    assert {(one["x-raybox-execution-id"], one["x-raybox-on-disconnect"]) for one in headers} == {("e", "wait")}
    assert len({one.body for one in player.seen}) == 1
    assert not asked(player, path=INTERRUPT)


async def test_without_an_id_nothing_is_asked_twice(sandbox: Any, player: Player, done: Done) -> None:
    player.on("POST", "/execute", events(COUNT, ABORT), events(END))
    with pytest.raises(raybox.SandboxException, match="stopped before its end"):
        await done(sandbox.run_code("x"))
    assert len(asked(player)) == 1


async def test_lost_events_are_an_error_of_a_run_and_a_number_in_a_replay(
    sandbox: Any, player: Player, done: Done
) -> None:
    lost = {"type": "events_lost", "first": 1, "count": 4}
    player.on("POST", "/execute", events(COUNT, ABORT), events(lost, ABORT), events(said("z"), END))
    with pytest.raises(raybox.SandboxException, match="4 events of the execution were lost") as caught:
        await done(sandbox.run_code("x", execution_id="e"))
    assert (caught.value.kind, caught.value.should_mask_sample) == ("internal", True)
    assert [one.get("x-raybox-from-event", "0") for one in asked(player)] == ["0", "1", "5"]
    player.on("GET", "/executions/e/events", events(lost, said("z"), END))
    execution = await done(sandbox.attach_execution("e", from_event=1))
    assert (execution.lost_events, execution.logs.stdout) == (4, ["z"])


async def test_attaching_goes_on_after_a_lost_connection_and_interrupts_nothing(
    sandbox: Any, player: Player, done: Done
) -> None:
    player.on("GET", "/executions/e/events", events(COUNT, said("a"), ABORT), events(said("b"), END), events(TICK))
    execution = await done(sandbox.attach_execution("e"))
    assert execution.logs.stdout == ["a", "b"]
    assert [one.query for one in player.seen] == ["from=0", "from=2"]
    with pytest.raises(raybox.TimeoutException, match="it goes on") as late:
        await done(sandbox.attach_execution("e", timeout=0.2))
    assert (late.value.kind, late.value.retryable) == ("timeout", True)
    assert not asked(player, path=INTERRUPT)


@pytest.mark.parametrize("detach", [False, True])
async def test_leaving_early_interrupts_what_is_not_detached(
    sandbox: Any, player: Player, done: Done, detach: bool
) -> None:
    class Leave(Exception):
        pass

    def leave(_: object) -> None:
        raise Leave

    player.on("POST", "/execute", events(said("a"), TICK))
    with pytest.raises(Leave):
        await done(sandbox.run_code("x", execution_id="e", detach=detach, on_stdout=leave))
    with pytest.raises(raybox.TimeoutException):
        await done(sandbox.run_code("x", execution_id="e", detach=detach, timeout=0.2))
    assert len(asked(player, path=INTERRUPT)) == (0 if detach else 2)
    assert {one["x-raybox-on-disconnect"] for one in asked(player)} == {"continue" if detach else "wait"}


async def test_an_explicit_interrupt(sandbox: Any, player: Player, done: Done) -> None:
    assert await done(sandbox.interrupt_execution("e")) is None
    assert len(asked(player, path=INTERRUPT)) == 1


@pytest.mark.parametrize(
    ("answer", "error", "kind", "status"),
    [
        (
            reply(409, b"of other code", x_raybox_kind="bad_request"),
            raybox.InvalidArgumentException,
            "bad_request",
            409,
        ),
        (reply(410, b"no longer remembered", x_raybox_kind="not_found"), raybox.NotFoundException, "not_found", 410),
        (GONE, raybox.SandboxNotRunningException, "sandbox_lost", 502),
    ],
)
async def test_what_is_final_is_not_asked_again(
    sandbox: Any, player: Player, done: Done, answer: Any, error: type[raybox.RayboxError], kind: str, status: int
) -> None:
    answer.headers["x-raybox-retryable"] = "false"
    player.on("POST", "/execute", events(COUNT, ABORT), answer)
    with pytest.raises(error) as caught:
        await done(sandbox.run_code("x", execution_id="e"))
    assert (caught.value.kind, caught.value.status_code) == (kind, status)
    assert len(asked(player)) == 2


@pytest.mark.parametrize(
    "wanted", [{"execution_id": ""}, {"execution_id": "a b"}, {"execution_id": "x" * 65}, {"detach": True}]
)
async def test_what_no_execution_can_be_called(sandbox: Any, player: Player, done: Done, wanted: Any) -> None:
    with pytest.raises(raybox.InvalidArgumentException):
        await done(sandbox.run_code("x", **wanted))
    assert not player.seen


async def test_only_a_number_is_attached_from(sandbox: Any, player: Player, done: Done) -> None:
    for from_event in (-1, True, "0"):
        with pytest.raises(raybox.InvalidArgumentException, match="from_event"):
            await done(sandbox.attach_execution("e", from_event=from_event))
    assert not player.seen


# --- patience --------------------------------------------------------------------------------------------------------


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def attempts(clock: Clock, reattaching: Reattaching, next_event: int = 0) -> int:
    count = 0
    while (delay_s := reattaching.delay_s(TransportFailure("broken"), next_event)) is not None:
        clock.now_s += delay_s
        count += 1
    return count


def test_patience_ends_when_nobody_answers_and_begins_anew_with_every_event() -> None:
    clock = Clock()
    reattaching = Reattaching(None, clock, lambda: 1.0)
    assert attempts(clock, reattaching) > 20
    assert REATTACH_WITHIN_S - 2 <= clock.now_s <= REATTACH_WITHIN_S
    before_s = clock.now_s
    assert attempts(clock, reattaching, next_event=1) > 20
    assert clock.now_s > before_s + REATTACH_WITHIN_S - 2


def test_patience_does_not_outlast_the_timeout() -> None:
    clock = Clock()
    reattaching = Reattaching(5.0, clock, lambda: 1.0)
    assert attempts(clock, reattaching)
    assert clock.now_s < 5.0
    clock.now_s = 4.0
    request = bare(raybox.Sandbox, "http://x")._interrupt("e", 9.0)
    assert reattaching.rest(request).total_s == 1.0


def test_what_no_repetition_helps() -> None:
    reattaching = Reattaching(None)
    assert reattaching.delay_s(TransportFailure("timeout"), 0) is None
    assert reattaching.delay_s(raybox.NotFoundException("x"), 0) is None
    assert reattaching.delay_s(SandboxUnreachableException("x", sandbox_id=SANDBOX_ID), 0) is not None
