"""Exchanges of a front: HTTP-shaped requests of an ASGI application, fed and read in pieces. And where fronts are."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from raybox._config import ConnectionConfig
from raybox._ray_wire import reply_of_error
from raybox._requests import Address, attach_execution
from raybox._responses import Reply, error_of
from raybox_actors.errors import NotFound, RayboxError, Unauthenticated
from raybox_actors.plain import plain_error
from raybox_cluster.front_exchange import PIECE_BYTES, UNREAD_BYTES, Exchanges, Part
from raybox_cluster.gateway.app import create_app
from raybox_cluster.gateway.auth import ApiKey, ApiKeys, hash_key
from raybox_cluster.gateway.errors import interpreter_response
from raybox_cluster.pool.fronts import node_of_front
from tests.cluster.gateway.memory import MemoryBackend
from tests.cluster.gateway.test_totality import ERRORS, one

pytestmark = pytest.mark.anyio

_names = (str(number) for number in itertools.count())
WAIT_S = 5.0


async def whole(exchanges: Exchanges, part: Part, name: str) -> tuple[int, dict[str, str], bytes, str]:
    """To the end of what began with `part`."""
    status, head, data, stage = part
    headers = dict(head)
    while stage == "open":
        so_far, head, more, stage = await exchanges.read(name, WAIT_S)
        assert len(more) <= PIECE_BYTES
        status, data = so_far or status, data + more
        headers |= dict(head)
    return status, headers, data, stage


async def ask(exchanges: Exchanges, method: str, target: str, body: bytes = b"", **headers: str) -> tuple[int, Any]:
    name = next(_names)
    named = [(key.replace("_", "-"), value) for key, value in headers.items()]
    part = await exchanges.open(name, method, target, named, body, False, WAIT_S)
    status, _, data, stage = await whole(exchanges, part, name)
    assert stage == "ended"
    assert len(exchanges) == 0
    return status, json.loads(data) if data else None


def gateway(**keys: str) -> Exchanges:
    known = [ApiKey(name, hash_key(key)) for name, key in keys.items()]
    keyless = ApiKey("ray", hash_key("nobody's"), admin=True)
    return Exchanges(create_app(MemoryBackend(), ApiKeys(known, keyless=keyless)))


async def test_no_key_is_asked_for_and_one_that_is_given_counts() -> None:
    exchanges = gateway(alice="secret")
    status, made = await ask(exchanges, "POST", "/v2/sandboxes", b'{"templateID": "base"}')
    assert status == 201
    assert [one["sandboxID"] for one in (await ask(exchanges, "GET", "/v2/sandboxes?limit=5"))[1]] == [
        made["sandboxID"]
    ]
    assert await ask(exchanges, "GET", "/v2/sandboxes", x_api_key="secret") == (200, [])
    assert (await ask(exchanges, "GET", "/v2/sandboxes", x_api_key="wrong"))[0] == 401
    assert (await ask(exchanges, "GET", "/v2/sandboxes", x_api_key=""))[0] == 401


async def test_an_answer_that_is_sent_at_once_is_read_at_once() -> None:
    status, _, _, stage = await gateway().open("1", "GET", "/health", [], b"", False, WAIT_S)
    assert (status, stage) == (200, "ended")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-path", scope["raw_path"])]})
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": message["body"], "more_body": more})


@given(pieces=st.lists(st.integers(0, 3 * PIECE_BYTES), max_size=5))
def test_what_is_fed_comes_out_whole_and_in_order(pieces: list[int]) -> None:
    bodies = [bytes([number]) * size for number, size in enumerate(pieces)]

    async def run() -> None:
        exchanges = Exchanges(echo)
        first = await exchanges.open("e", "POST", "/a%20b?c=d", [], b"", True, 0)

        async def feed() -> None:
            for body in bodies:
                assert await exchanges.feed("e", body, True)
            await exchanges.feed("e", b"", False)

        feeding = asyncio.create_task(feed())
        status, headers, data, stage = await whole(exchanges, first, "e")
        await feeding
        assert (status, headers, data, stage) == (200, {"x-path": "/a%20b"}, b"".join(bodies), "ended")

    asyncio.run(run())


async def test_neither_way_holds_more_than_its_bound() -> None:
    sent = 0

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
            sent += 1000

    exchanges = Exchanges(endless)
    await exchanges.open("e", "GET", "/", [], b"", False, WAIT_S)
    before = sent
    for _ in range(100):
        await asyncio.sleep(0)
    assert UNREAD_BYTES - PIECE_BYTES <= sent <= UNREAD_BYTES + PIECE_BYTES
    await exchanges.read("e", WAIT_S)
    await exchanges.read("e", WAIT_S)
    for _ in range(100):
        await asyncio.sleep(0)
    assert before < sent <= UNREAD_BYTES + 3 * PIECE_BYTES
    exchanges.close("e")

    taken = asyncio.Event()

    async def deaf(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await taken.wait()
        await receive()

    exchanges = Exchanges(deaf)
    await exchanges.open("d", "POST", "/", [], b"first", True, 0)
    feeding = asyncio.create_task(exchanges.feed("d", b"second", True))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not feeding.done()
    taken.set()
    assert await feeding in (True, False)  # the application ends when it has taken it


@pytest.mark.parametrize("ending", ["close", "expire"])
async def test_a_caller_who_leaves_is_a_client_who_went_away(ending: str) -> None:
    seen: list[str] = []
    over = asyncio.Event()

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        try:
            while True:
                await receive()
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append((await receive())["type"])
            with pytest.raises(OSError, match="gone"):
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
            raise
        finally:
            over.set()

    exchanges = Exchanges(stream, idle_s=0.0)
    await exchanges.open("e", "GET", "/", [], b"", False, WAIT_S)
    reading = asyncio.create_task(exchanges.read("e", WAIT_S))
    await asyncio.sleep(0)
    assert exchanges.expire() == []  # it is being read
    if ending == "close":
        exchanges.close("e")
        assert (await reading)[-1] == "broken"
    else:
        reading.cancel()
        await asyncio.wait({reading})
        exchanges.touch(["e", "unknown"])
        await asyncio.sleep(0.001)
        assert exchanges.expire() == ["e"]
    await over.wait()
    assert seen == ["http.disconnect"]
    assert len(exchanges) == 0
    assert (await exchanges.read("e", WAIT_S))[-1] == "broken"
    assert not await exchanges.feed("e", b"x", True)


async def test_what_stops_in_the_middle_is_not_taken_for_whole() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError

    exchanges = Exchanges(broken)
    part = await exchanges.open("e", "GET", "/", [], b"", False, WAIT_S)
    assert (await whole(exchanges, part, "e"))[2:] == (b"half", "broken")


async def test_who_has_nothing_to_say_answers_after_the_wait() -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    exchanges = Exchanges(silent)
    assert await exchanges.open("e", "GET", "/", [], b"", False, 0.0) == (0, [], b"", "open")
    exchanges.close("e")


def test_a_front_is_where_its_caller_is_if_sandboxes_are_there() -> None:
    assert node_of_front("b", ["a", "b"], "head") == "b"
    assert node_of_front("b", [], "head") == "head"
    hosts = ["n1", "n2", "n3"]
    chosen = {caller: node_of_front(caller, hosts, "head") for caller in map(str, range(30))}
    assert set(chosen.values()) == set(hosts)
    assert chosen == {caller: node_of_front(caller, hosts[::-1], "head") for caller in chosen}


#: What an execution can raise in the actor.
OF_EXECUTIONS = [one(cls) for cls in ERRORS if cls.__module__ == "raybox_actors.errors" and cls is not Unauthenticated]


@pytest.mark.parametrize("error", [*OF_EXECUTIONS, NotFound("context", "c")], ids=lambda error: type(error).__name__)
def test_an_error_over_ray_means_what_it_means_over_http(error: RayboxError) -> None:
    request = attach_execution(ConnectionConfig(), Address("abc", "ray://p", (), "", ()), "e", 0, None, None)
    http = interpreter_response("abc", error)
    plain = plain_error(error)
    assert {type(value) for value in plain.values()} <= {str, bool, float}
    replies = [
        Reply(http.status_code, dict(http.headers), bytes(http.body)),
        Reply(*reply_of_error("abc", plain)),
    ]
    over_http, over_ray = (error_of(request, reply) for reply in replies)
    assert type(over_http) is type(over_ray)
    if error.kind != "capacity":  # which the actor's executions never are: over HTTP it says when to come again
        assert over_http.args == over_ray.args
