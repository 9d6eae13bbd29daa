"""Requests over Ray, in a process that has joined the pool's cluster: the steps of the other `_ray` files, run.

Only this file knows Ray, and it is only imported with the first such request: Ray has been imported by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError
from ray.util import list_named_actors

from . import _ray_pulse
from ._ray_exchange import FrontAnswer
from ._ray_execution import DIRECT, DirectAnswer
from ._ray_session import Session
from ._ray_wire import NAMESPACE, ActorDied, Ask, CallFailed, Find, Names, Next, NoActor, Pause, Steps, Wait
from ._requests import Request
from ._responses import TransportFailure

T = TypeVar("T")
Value = TypeVar("Value")

_session: Session | None = None


def _current_session() -> Session:
    """Of the connection that there is now; a process may leave a cluster and join another."""
    global _session
    context = ray.get_runtime_context()
    worker_id = context.get_worker_id()
    if _session is None or _session.worker_id != worker_id:
        _session = Session(worker_id, context.get_node_id())
    return _session


def _answer_for(request: Request) -> DirectAnswer | FrontAnswer:
    return (DirectAnswer if request.operation in DIRECT else FrontAnswer)(_current_session(), request)


# --- what the steps wait for -----------------------------------------------------------------------------------------


def _find(name: str) -> Any:
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError as error:
        raise NoActor(f"there is no actor {name}") from error
    except RayError as error:
        raise CallFailed(f"{name} cannot be looked up: {error}") from error


def _names() -> list[str]:
    try:
        return [actor["name"] for actor in list_named_actors(all_namespaces=True) if actor["namespace"] == NAMESPACE]
    except RayError as error:
        raise CallFailed(f"the cluster's actors cannot be listed: {error}") from error


def _meaning(error: RayError) -> Exception:
    text = " ".join(str(error).split())[:500]
    return ActorDied(text) if isinstance(error, ActorDiedError) else CallFailed(text)


def _get(ask: Ask) -> Any:
    match ask:
        case Find(name):
            return _find(name)
        case Wait(call, limit_s):
            try:
                return ray.get(call, timeout=limit_s)
            except GetTimeoutError:
                raise
            except RayError as error:
                raise _meaning(error) from error
        case Names():
            return _names()
        case Pause(delay_s):
            time.sleep(delay_s)
        case Next(pieces):
            return next(pieces, None)
    return None


async def _get_async(session: Session, ask: Ask) -> Any:
    match ask:
        case Find(name, limit_s):
            if name in session.found:  # then Ray knows it, and asks nobody
                try:
                    return _find(name)
                except NoActor:
                    session.found.discard(name)
                    raise
            handle = await _in_thread(functools.partial(_find, name), limit_s)
            session.found.add(name)
            return handle
        case Wait(call, limit_s):
            try:
                async with asyncio.timeout(limit_s):
                    return await call
            except RayError as error:
                raise _meaning(error) from error
        case Names(limit_s):
            return await _in_thread(_names, limit_s)
        case Pause(delay_s):
            await asyncio.sleep(delay_s)
        case Next(pieces):
            if hasattr(pieces, "__anext__"):
                return await anext(pieces, None)
            return next(pieces, None)
    return None


async def _in_thread(work: Callable[[], T], limit_s: float | None) -> T:
    """What asks Ray's control store blocks, for a minute if that is away."""
    async with asyncio.timeout(limit_s):
        return await asyncio.to_thread(work)


def _run(steps: Steps[Value]) -> Value:
    try:
        ask = next(steps)
        while True:
            try:
                got = _get(ask)
            except BaseException as error:
                if isinstance(ask, Next):  # the caller's own
                    steps.close()
                    raise
                ask = steps.throw(error)
            else:
                ask = steps.send(got)
    except StopIteration as end:
        value: Value = end.value
        return value


async def _run_async(session: Session, steps: Steps[Value]) -> Value:
    try:
        ask = next(steps)
        while True:
            try:
                got = await _get_async(session, ask)
            except BaseException as error:
                if isinstance(ask, Next):
                    steps.close()
                    raise
                ask = steps.throw(error)
            else:
                ask = steps.send(got)
    except StopIteration as end:
        value: Value = end.value
        return value


# --- streams ---------------------------------------------------------------------------------------------------------


class Stream:
    """One answer while it arrives."""

    def __init__(self, answer: DirectAnswer | FrontAnswer) -> None:
        self._answer = answer
        self.status = answer.status
        self.headers: Mapping[str, str] = answer.headers

    def read(self) -> bytes:
        """The next bytes of the body, empty at its end. Raises TransportFailure."""
        return _run(self._answer.read())

    def finish(self) -> None:
        """The rest does not matter."""
        _run(self._answer.finish())
        self.close()

    def close(self) -> None:
        """End it wherever it is. May be repeated."""
        _ray_pulse.forget(self._answer)
        self._answer.leave()

    def cut(self) -> None:
        """Make the read that another thread waits in fail."""
        self._answer.cut()


class AsyncStream:
    """One answer while it arrives. Cancelling `read` leaves it usable only for `close`."""

    def __init__(self, session: Session, answer: DirectAnswer | FrontAnswer) -> None:
        self._session, self._answer = session, answer
        self.status = answer.status
        self.headers: Mapping[str, str] = answer.headers

    async def read(self) -> bytes:
        """The next bytes of the body, empty at its end. Raises TransportFailure."""
        return await _run_async(self._session, self._answer.read())

    async def finish(self) -> None:
        """The rest does not matter."""
        await _run_async(self._session, self._answer.finish())
        await self.close()

    async def close(self) -> None:
        """End it wherever it is. May be repeated."""
        _ray_pulse.forget(self._answer)
        self._answer.leave()


def open_stream(request: Request) -> Stream:
    """Send a request; gives its answer once that has begun. Raises TransportFailure."""
    answer = _answer_for(request)
    _ray_pulse.watch(answer)
    try:
        _run(answer.open())
    except BaseException:
        _ray_pulse.forget(answer)
        answer.leave()
        raise
    if not answer.open_ended:
        _ray_pulse.forget(answer)
    return Stream(answer)


async def open_stream_async(request: Request) -> AsyncStream:
    """Send a request; gives its answer once that has begun. Raises TransportFailure."""
    answer = _answer_for(request)
    _ray_pulse.watch(answer)
    try:
        await _run_async(answer.session, answer.open())
    except BaseException:
        _ray_pulse.forget(answer)
        answer.leave()
        raise
    if not answer.open_ended:
        _ray_pulse.forget(answer)
    return AsyncStream(answer.session, answer)


class DuplexStream(AsyncStream):
    """One answer while it arrives, and the body that is sent meanwhile."""

    def __init__(self, session: Session, answer: FrontAnswer, feeding: asyncio.Task[None]) -> None:
        super().__init__(session, answer)
        self._feeding = feeding

    async def close(self) -> None:
        """End it wherever it is. May be repeated."""
        self._feeding.cancel()
        await asyncio.wait({self._feeding})
        await super().close()


async def open_duplex(request: Request) -> DuplexStream:
    """Send a request with an asynchronous body; gives its answer once that has begun. Raises TransportFailure."""
    session = _current_session()
    answer = FrontAnswer(session, request, feeds_apart=True)
    _ray_pulse.watch(answer)
    feeding: asyncio.Task[None] | None = None
    try:
        await _run_async(session, answer.open())
        feeding = asyncio.create_task(_feed(session, answer))
        try:
            await _run_async(session, answer.head())
        except TimeoutError as error:
            raise TransportFailure("head_timeout") from error
        except (ActorDied, CallFailed) as error:
            raise TransportFailure("broken", str(error)) from error
    except BaseException:
        if feeding is not None:
            feeding.cancel()
            await asyncio.wait({feeding})
        _ray_pulse.forget(answer)
        answer.leave()
        raise
    return DuplexStream(session, answer, feeding)


async def _feed(session: Session, answer: FrontAnswer) -> None:
    """What goes wrong with the front is seen by who reads."""
    with contextlib.suppress(TimeoutError, ActorDied, CallFailed):
        await _run_async(session, answer.feed())
