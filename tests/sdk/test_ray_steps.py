"""The steps of requests over Ray, told by hand what comes of what they wait for; and what names and pieces are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybox import InvalidArgumentException, NotFoundException
from raybox._config import ConnectionConfig
from raybox._ray_exchange import FrontAnswer
from raybox._ray_execution import DirectAnswer
from raybox._ray_session import Session
from raybox._ray_wire import (
    BEGUN_AFTER_S,
    PIECE_BYTES,
    ActorDied,
    CallFailed,
    Find,
    Limits,
    Names,
    Next,
    NoActor,
    Pause,
    Wait,
    cut,
    pool_and_target,
    pools,
    repeatable,
    sandbox_actor_name,
)
from raybox._requests import Request, create, execute, kill
from raybox._responses import TransportFailure
from raybox_actors.sandbox_id import ENTROPY_BYTES, MAX_SLOT, mint

SANDBOX = "i0123456789ab000c00002f8f3k2q0z7xp4m1w9ab"
CONFIG = ConnectionConfig.resolve({"api_url": "ray://p"})


class Actor:
    """Notes what it is asked; a call is its name and arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, method: str) -> Any:
        actor = self

        class Method:
            def remote(self, *arguments: Any) -> Any:
                call = (method, *arguments)
                actor.calls.append(call)
                return call

        return Method()


class Told:
    """Answers what steps wait for, in this order: with values, and with exceptions to be raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = iter(answers)
        self.asked: list[Any] = []  #: what they waited for

    def run(self, steps: Any) -> Any:
        try:
            ask = next(steps)
            while True:
                self.asked.append(ask)
                if isinstance(ask, Pause):
                    ask = steps.send(None)
                    continue
                answer = next(self.answers)
                ask = steps.throw(answer) if isinstance(answer, BaseException) else steps.send(answer)
        except StopIteration as end:
            return end.value

    @property
    def found(self) -> list[str]:
        return [ask.name for ask in self.asked if isinstance(ask, Find)]


def session() -> Session:
    return Session("worker", "node")


def plain(kind: str, **more: object) -> dict[str, object]:
    return {"kind": kind, "message": "why", "retryable": False, "should_mask_sample": True, **more}


def cell(total_s: float | None = 300, connect_s: float | None = 60, **more: Any) -> Request:
    from raybox._requests import address

    to = address(CONFIG, SANDBOX, None, None, None)
    return execute(CONFIG, to, "1", None, None, None, total_s, connect_s, **more)


# --- pure ------------------------------------------------------------------------------------------------------------


@given(slot=st.integers(0, MAX_SLOT), node=st.text("0123456789abcdef", min_size=12, max_size=56))
def test_the_actor_of_a_sandbox_is_named_in_its_id(slot: int, node: str) -> None:
    sandbox_id = mint(b"secret", node, slot, 7, b"e" * ENTROPY_BYTES)
    assert sandbox_actor_name("p", sandbox_id) == f"p-sandbox-{node[:12]}-{slot}"
    assert sandbox_actor_name("p", sandbox_id + "0") is None


@given(text=st.text(max_size=60))
def test_what_is_no_id_has_no_actor(text: str) -> None:
    assert sandbox_actor_name("p", text) is None


@given(size=st.integers(0, 4 * PIECE_BYTES))
def test_pieces_fit_into_calls_and_are_whole(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    parts = list(cut(data))
    assert b"".join(parts) == data
    assert parts
    assert max(map(len, parts)) <= PIECE_BYTES


def test_urls_and_pools() -> None:
    assert pool_and_target("ray://p/a%20b?c=d&e") == ("p", "/a%20b?c=d&e")
    assert pool_and_target("ray:///v2/sandboxes") == ("", "/v2/sandboxes")
    assert pools(["b-manager", "a-manager", "a-node-0", "manager", "a-manager"]) == ["a", "b"]


def test_what_may_be_repeated() -> None:
    keyed = create(CONFIG, "base", idempotency_key="k")
    assert repeatable(keyed)
    assert repeatable(keyed._replace(method="GET", headers=()))
    assert not repeatable(create(CONFIG, "base"))
    assert not repeatable(kill(CONFIG, SANDBOX))
    assert not repeatable(keyed._replace(body=iter([b""])))


# --- finding the pool ------------------------------------------------------------------------------------------------


def test_the_only_pool_is_found_once() -> None:
    known = session()
    told = Told(["a-manager", "a-node-0"])
    assert told.run(known.pool("", Limits(cell()))) == "a"
    assert Told().run(known.pool("", Limits(cell()))) == "a"
    assert Told().run(known.pool("named", Limits(cell()))) == "named"
    assert isinstance(told.asked[0], Names)


@pytest.mark.parametrize(
    ("names", "error"),
    [(["a-manager", "b-manager"], InvalidArgumentException), ([], NotFoundException), (TimeoutError(), None)],
)
def test_no_pool_or_several_are_a_clear_error(names: Any, error: Any) -> None:
    with pytest.raises(error or TransportFailure):
        Told(names).run(session().pool("", Limits(cell())))


def test_a_manager_that_is_being_restarted_is_waited_for() -> None:
    manager = Actor()
    told = Told(manager, CallFailed("away"), manager, ActorDied("restarting"), manager, "p-front-1")
    known = session()
    assert told.run(known.front("p", Limits(cell()))) == "p-front-1"
    assert manager.calls == [("front", "node")] * 3
    assert Told().run(known.front("p", Limits(cell()))) == "p-front-1"
    with pytest.raises(NotFoundException, match="'q'"):
        Told(NoActor()).run(known.front("q", Limits(cell())))


# --- through a front -------------------------------------------------------------------------------------------------


def fronted(request: Request, *answers: Any) -> tuple[FrontAnswer, Told]:
    answer = FrontAnswer(session(), request)
    told = Told(Actor(), "p-front-1", *answers)
    return answer, told


def test_a_whole_request_is_one_call() -> None:
    front = Actor()
    answer, told = fronted(kill(CONFIG, SANDBOX), front, (204, [("X-A", "b")], b"", "ended"))
    told.run(answer.open())
    assert (answer.status, answer.headers, Told().run(answer.read()), answer.open_ended) == (
        204,
        {"x-a": "b"},
        b"",
        False,
    )
    ((method, _, *arguments),) = front.calls
    assert (method, arguments[:2], arguments[3:5]) == ("open", ["DELETE", f"/sandboxes/{SANDBOX}"], [b"", False])
    answer.leave()
    assert len(front.calls) == 1


def test_a_create_is_repeated_under_one_key_when_its_front_dies() -> None:
    one, other, manager = Actor(), Actor(), Actor()
    answer, told = fronted(
        create(CONFIG, "base"), one, ActorDied(), manager, "p-front-2", other, (201, [], b"{}", "ended")
    )
    told.run(answer.open())
    assert answer.status == 201
    keys = [dict(calls[0][4])["Idempotency-Key"] for calls in (one.calls, other.calls)]
    assert keys[0] == keys[1]
    assert told.found == ["p-manager", "p-front-1", "p-manager", "p-front-2"]


@pytest.mark.parametrize("failure", [ActorDied(), CallFailed()])
def test_what_may_have_been_done_is_not_repeated(failure: Exception) -> None:
    front = Actor()
    answer, told = fronted(kill(CONFIG, SANDBOX), front, failure)
    with pytest.raises(TransportFailure) as caught:
        told.run(answer.open())
    assert caught.value.stage == "broken"
    assert len(front.calls) == 1


def test_a_front_that_is_gone_before_it_is_asked_is_replaced() -> None:
    front = Actor()
    answer, told = fronted(kill(CONFIG, SANDBOX), NoActor(), Actor(), "p-front-2", front, (204, [], b"", "ended"))
    told.run(answer.open())
    assert answer.status == 204


def upload(pieces: Iterator[bytes]) -> Request:
    return kill(CONFIG, SANDBOX)._replace(method="POST", body=pieces)


def test_a_body_goes_in_pieces_as_far_as_it_is_wanted() -> None:
    front = Actor()
    pieces = iter([b"a" * (PIECE_BYTES + 1), b"", b"b", b"never"])
    asked: Sequence[Any] = [(0, [], b"", "open"), next(pieces), True, True, next(pieces), next(pieces), False]
    answer, told = fronted(upload(pieces), front, *asked, (413, [], b"no", "ended"))
    told.run(answer.open())
    assert [(call[0], call[2:]) for call in front.calls if call[0] == "feed"] == [
        ("feed", (b"a" * PIECE_BYTES, True)),
        ("feed", (b"a", True)),
        ("feed", (b"b", True)),
    ]
    assert (answer.status, Told().run(answer.read())) == (413, b"no")
    assert sum(isinstance(ask, Next) for ask in told.asked) == 3


def test_an_answer_comes_in_pieces_to_its_end() -> None:
    front = Actor()
    answer, told = fronted(kill(CONFIG, SANDBOX), front, (0, [], b"", "open"), (200, [], b"1", "open"))
    told.run(answer.open())
    assert answer.open_ended
    answer.pulse()
    assert Told().run(answer.read()) == b"1"
    assert Told((200, [], b"", "open"), (200, [], b"2", "ended")).run(answer.read()) == b"2"
    assert Told().run(answer.read()) == b""
    (exchange_id,) = {call[1] for call in front.calls if call[0] in ("open", "read")}
    assert ("touch", [exchange_id]) in front.calls


@pytest.mark.parametrize(
    ("answers", "stage"),
    [
        ([(200, [], b"", "broken")], "broken"),
        ([ActorDied()], "broken"),
        ([CallFailed()], "broken"),
        ([TimeoutError()], "timeout"),
    ],
)
def test_an_answer_that_breaks_off(answers: list[Any], stage: str) -> None:
    answer, told = fronted(kill(CONFIG, SANDBOX), Actor(), (200, [], b"", "open"))
    told.run(answer.open())
    with pytest.raises(TransportFailure) as caught:
        Told(*answers).run(answer.read())
    assert caught.value.stage == stage


def test_leaving_is_told_once() -> None:
    front = Actor()
    answer, told = fronted(kill(CONFIG, SANDBOX), front, (200, [], b"", "open"))
    told.run(answer.open())
    answer.leave()
    answer.leave()
    answer.pulse()
    assert [call[0] for call in front.calls] == ["open", "close"]
    with pytest.raises(TransportFailure):
        Told().run(answer.read())


# --- straight to the actor -------------------------------------------------------------------------------------------


def test_a_short_cell_is_one_call() -> None:
    actor = Actor()
    answer = DirectAnswer(session(), cell(execution_id="mine"))
    told = Told(actor, (0, 3, b"lines", True))
    told.run(answer.open())
    assert (answer.status, Told().run(answer.read()), Told().run(answer.read())) == (200, b"lines", b"")
    assert told.found == ["p-sandbox-0123456789ab-12"]
    ((method, sandbox_id, execution_id, _, headers),) = actor.calls
    assert (method, sandbox_id, execution_id, headers["x-raybox-execution-id"]) == ("run", SANDBOX, "mine", "mine")
    answer.leave()
    answer.pulse()
    assert len(actor.calls) == 1


def test_a_long_cell_is_polled_and_left() -> None:
    actor = Actor()
    answer = DirectAnswer(session(), cell())
    Told(actor, (0, 0, b"", False)).run(answer.open())
    assert Told((0, 2, b"a", False)).run(answer.read()) == b"a"
    assert Told((2, 0, b"", False), (2, 1, b"b", False)).run(answer.read()) == b"b"
    answer.leave()
    answer.leave()
    asked = [(call[0], *call[3:4]) for call in actor.calls[1:]]
    assert asked == [("events", 0), ("events", 2), ("events", 2), ("leave",)]
    assert actor.calls[0][2] == actor.calls[-1][2]
    assert actor.calls[0][2].startswith("auto-")


@pytest.mark.parametrize("detach", [False, True])
def test_an_execution_with_a_name_goes_on_without_its_caller(detach: bool) -> None:
    actor = Actor()
    answer = DirectAnswer(session(), cell(execution_id="mine", detach=detach))
    Told(actor, (0, 0, b"", False)).run(answer.open())
    answer.leave()
    assert [call[0] for call in actor.calls] == ["run"]


def test_a_cell_that_starts_slowly_counts_as_begun() -> None:
    actor = Actor()
    answer = DirectAnswer(session(), cell())
    told = Told(actor, TimeoutError())
    told.run(answer.open())
    assert told.asked[-1].limit_s == BEGUN_AFTER_S
    assert answer.status == 200
    again = Told((0, 1, b"a", True))
    assert again.run(answer.read()) == b"a"
    assert again.asked == [Wait(told.asked[-1].call, again.asked[0].limit_s)]


@pytest.mark.parametrize(
    ("request_", "stage"), [(cell(connect_s=5), "head_timeout"), (cell(total_s=5), "timeout"), (cell(5, 5), "timeout")]
)
def test_a_cell_that_does_not_begin_in_time_is_left(request_: Request, stage: str) -> None:
    actor = Actor()
    answer = DirectAnswer(session(), request_)
    with pytest.raises(TransportFailure) as caught:
        Told(actor, TimeoutError()).run(answer.open())
    answer.leave()
    assert caught.value.stage == stage
    assert [call[0] for call in actor.calls] == ["run", "leave"]


def test_a_sandbox_without_its_actor() -> None:
    manager = Actor()
    for failures in ([NoActor()], [Actor(), ActorDied()]):
        answer = DirectAnswer(session(), cell())
        Told(*failures, manager, plain("sandbox_lost", cause="node_lost")).run(answer.open())
        body = Told().run(answer.read())
        assert answer.status == 502
        assert b"node_lost" in body
        assert Told().run(answer.read()) == b""
    assert manager.calls == [("lost", SANDBOX)] * 2


def test_what_is_no_id_is_refused_without_asking() -> None:
    answer = DirectAnswer(session(), cell()._replace(sandbox_id="x"))
    Told().run(answer.open())
    assert answer.status == 502


@pytest.mark.parametrize(("kind", "left"), [("internal", True), ("bad_request", False)])
def test_a_refused_cell_is_interrupted_if_it_may_run(kind: str, left: bool) -> None:
    actor = Actor()
    answer = DirectAnswer(session(), cell())
    Told(actor, plain(kind)).run(answer.open())
    assert answer.status == {"internal": 500, "bad_request": 400}[kind]
    assert [Told().run(answer.read()) for _ in range(2)] == [b"why", b""]
    answer.leave()
    assert ("leave" in [call[0] for call in actor.calls]) == left


@pytest.mark.parametrize(
    ("failure", "stage"),
    [(plain("sandbox_lost"), "broken"), (ActorDied(), "broken"), (CallFailed(), "broken"), (TimeoutError(), "timeout")],
)
def test_a_cell_that_breaks_off(failure: Any, stage: str) -> None:
    answer = DirectAnswer(session(), cell())
    Told(Actor(), (0, 0, b"", False)).run(answer.open())
    with pytest.raises(TransportFailure) as caught:
        Told(failure).run(answer.read())
    assert caught.value.stage == stage


def test_limits() -> None:
    now = itertools.count()
    request = cell(total_s=100, connect_s=10)
    limits = Limits(request, lambda: float(next(now)))  # each look takes a second
    assert (limits.head_s(), limits.rest_s(), limits.late_head) == (9.0, 98.0, "head_timeout")
    idle = Limits(request._replace(idle_s=7.0, connect_s=None, total_s=None), lambda: 0.0)
    assert (idle.head_s(), idle.rest_s(), idle.late_head) == (7.0, 7.0, "timeout")
    unlimited = Limits(request._replace(connect_s=None, total_s=None), lambda: 0.0)
    assert (unlimited.head_s(), unlimited.rest_s()) == (None, None)
    late = Limits(request, iter([0.0, 500.0]).__next__)
    assert late.rest_s() == 0.001


def test_a_header_that_no_header_can_hold_is_refused() -> None:
    with pytest.raises(InvalidArgumentException, match="X-Y"):
        FrontAnswer(session(), kill(CONFIG, SANDBOX)._replace(headers=(("X-Y", "a\nb"),)))
