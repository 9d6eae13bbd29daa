"""Carries Connect calls out: reads messages, runs a handler, writes what it says (contract 4.4).

An error of a unary call is an HTTP status; one of a stream comes after 200, in its end-of-stream envelope. A sandbox
that is gone is neither: before the answer began it is the 502 of every port, and after that the connection is cut,
without any end of stream, which makes the clients ask /health.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeVar

from starlette.responses import Response

from raybox_actors.agent.api import Agent
from raybox_actors.agent.errors import AgentError
from raybox_actors.errors import BadRequest, InternalError, RayboxError
from raybox_actors.fields import Json

from . import connect
from .asgi import ClientGone, Headers, Receive, Scope, Send, StreamAborted, json_response, read_body, wait_until_gone
from .asgi import Message as ASGIMessage
from .errors import internal, sandbox_is_gone
from .protojson import Message

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler may know besides the message. `timeout_s` None: no limit."""

    agent: Agent
    user: str
    timeout_s: float | None


Unary = Callable[[Call, Message], Awaitable[Json]]
#: Enters when the operation is under way; leaving ends it.
Stream = Callable[[Call, Message], AbstractAsyncContextManager[AsyncIterator[Json]]]
#: Gets the messages of the client as they come.
ClientStream = Callable[[Call, AsyncIterator[Message]], Awaitable[Json]]


@dataclass(frozen=True, slots=True)
class Method:
    """One of the three. `own_deadline`: what the handler starts outlives the call and ends itself at the deadline."""

    unary: Unary | None = None
    stream: Stream | None = None
    client_stream: ClientStream | None = None
    keepalive: Json | None = None
    own_deadline: bool = False


#: Finds the way to the sandbox's agent; its errors are those of the call.
FindAgent = Callable[[], Awaitable[Agent]]
#: Asks whether the sandbox lives; raises if it does not.
Alive = Callable[[], Awaitable[object]]


async def serve(
    method: Method, agent: FindAgent, alive: Alive, headers: Headers, scope: Scope, receive: Receive, send: Send
) -> None:
    """Raises what says that the sandbox is gone (as long as nothing was sent), StreamAborted (after that), ClientGone.
    Everything else is answered."""
    unary = method.unary is not None
    if connect.media_type(headers) != (connect.UNARY_TYPE if unary else connect.STREAM_TYPE):
        await alive()
        expected = (connect.UNARY_TYPE if unary else connect.STREAM_TYPE).decode()
        response = json_response(415, {"code": 415, "message": f"expected {expected}"}, {"accept-post": expected})
        await response(scope, receive, send)
    elif unary:
        await (await _unary(method, agent, alive, headers, receive))(scope, receive, send)
    else:
        await _Streaming(method, agent, alive, headers, receive, send).run()


def unary_error(error: RayboxError) -> Response:
    return json_response(connect.HTTP_STATUS[connect.code_of(error)], connect.error_body(error))


async def _call(agent: FindAgent, headers: Headers) -> Call:
    user, timeout_s = connect.user_of(headers), connect.timeout_s(headers)
    return Call(await agent(), user, timeout_s)


async def _unary(method: Method, agent: FindAgent, alive: Alive, headers: Headers, receive: Receive) -> Response:
    assert method.unary is not None
    try:
        if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"identity", b""):
            raise AgentError("unimplemented", "compressed messages are not supported")
        call = await _call(agent, headers)
        message = Message.parse(await read_body(receive, headers, connect.MAX_MESSAGE_BYTES))
        return json_response(200, await _while_wanted(method.unary(call, message), call.timeout_s, receive))
    except RayboxError as error:
        return unary_error(await telling(error, alive))


async def _while_wanted(work: Awaitable[Answer], timeout_s: float | None, receive: Receive) -> Answer:
    """Do `work` until the client has gone (ClientGone) or the time is up (`deadline_exceeded`)."""
    doing = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(wait_until_gone(receive))
    try:
        await asyncio.wait((doing, gone), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise ClientGone if gone.done() else deadline_exceeded()
    finally:
        gone.cancel()
        if not doing.done():
            doing.cancel()
            await asyncio.wait((doing,))


def deadline_exceeded() -> AgentError:
    return AgentError("deadline_exceeded", "the time limit of the call was exceeded")


async def telling(error: RayboxError, alive: Alive) -> RayboxError:
    """The error itself, unless it may come of the sandbox's end: then that is raised, if it has come."""
    if sandbox_is_gone(error):
        raise error
    if isinstance(error, InternalError) or (
        isinstance(error, AgentError) and error.code in ("unavailable", "internal")
    ):
        try:
            await alive()
        except RayboxError as why:
            if sandbox_is_gone(why):
                raise why from error
    return error


class _Streaming:
    """One call whose answer is a stream of envelopes."""

    def __init__(
        self, method: Method, agent: FindAgent, alive: Alive, headers: Headers, receive: Receive, send: Send
    ) -> None:
        self._method, self._agent, self._alive = method, agent, alive
        self._headers, self._receive, self._send = headers, receive, send
        self._reader = connect.EnvelopeReader()
        self._waiting: list[bytes] = []  #: messages that have come and were not asked for yet
        self._ended = False  #: the request's body has
        self._started = False
        self._ahead: asyncio.Future[ASGIMessage] | None = None  #: what comes next of the client

    async def run(self) -> None:
        try:
            try:
                await self._run()
                await self._put(connect.end_of_stream(), more=False)
            except RayboxError as error:
                told = await telling(error, self._alive)
                await self._put(connect.end_of_stream(told), more=False)
        except RayboxError as error:  # the sandbox is gone
            if self._started:
                raise StreamAborted(str(error)) from error
            raise
        except (ClientGone, StreamAborted):
            raise
        except Exception:
            logger.exception("a stream failed")
            await self._put(connect.end_of_stream(internal()), more=False)

    async def _run(self) -> None:
        encoding = self._headers.get(b"connect-content-encoding", b"identity").strip().lower()
        if encoding not in (b"identity", b""):
            raise AgentError("unimplemented", "compressed messages are not supported")
        call = await _call(self._agent, self._headers)
        if call.timeout_s == 0:
            raise deadline_exceeded()
        if self._method.client_stream is not None:
            await self._put(connect.envelope(await self._client_stream(call, self._method.client_stream)))
            return
        message = await self._next_message()
        if message is None:
            raise BadRequest("the request has no message")
        await self._stream(call, message)

    async def _client_stream(self, call: Call, handle: ClientStream) -> Json:
        try:
            async with asyncio.timeout(call.timeout_s) as scope:
                return await handle(call, self._messages(scope))
        except TimeoutError:
            if self._ahead is not None and _says_gone(self._ahead):
                raise ClientGone from None
            raise deadline_exceeded() from None
        finally:
            if self._ahead is not None:
                self._ahead.cancel()

    async def _stream(self, call: Call, message: Message) -> None:
        assert self._method.stream is not None
        gone = asyncio.ensure_future(wait_until_gone(self._receive))
        limit_s = None if self._method.own_deadline else call.timeout_s
        try:
            async with asyncio.timeout(limit_s) as scope:
                gone.add_done_callback(lambda done: _end_now(done, scope))
                async with self._method.stream(call, message) as messages:
                    await self._forward(messages)
        except TimeoutError:
            if gone.done():
                raise ClientGone from None
            raise deadline_exceeded() from None
        finally:
            gone.cancel()

    async def _forward(self, messages: AsyncIterator[Json]) -> None:
        """Send messages until there are none; in their absence, say now and then that we are still there."""
        keepalive = connect.envelope(self._method.keepalive or {})
        pause_s = connect.keepalive_s(self._headers)
        while True:
            following = asyncio.ensure_future(_next(messages))
            try:
                while not (await asyncio.wait((following,), timeout=pause_s))[0]:
                    await self._put(keepalive)
            except BaseException:
                following.cancel()
                await asyncio.wait((following,))
                raise
            found = following.result()
            if found is None:
                return
            await self._put(connect.envelope(found))

    async def _messages(self, scope: asyncio.Timeout) -> AsyncIterator[Message]:
        """While one is being handled, the client is listened to: if it goes away, `scope` ends."""
        while (message := await self._next_message()) is not None:
            if self._ahead is None:
                self._ahead = asyncio.ensure_future(self._receive())
                self._ahead.add_done_callback(lambda done: _end_if_gone(done, scope))
            yield message

    async def _next_message(self) -> Message | None:
        """None at the end of the request's body."""
        while not self._waiting:
            if self._ended:
                self._reader.finish()
                return None
            ahead, self._ahead = self._ahead, None
            event = await self._receive() if ahead is None else await ahead
            if event["type"] == "http.disconnect":
                raise ClientGone
            self._waiting = self._reader.feed(event.get("body", b""))
            self._ended = not event.get("more_body", False)
        return Message.parse(self._waiting.pop(0))

    async def _put(self, body: bytes, *, more: bool = True) -> None:
        if not self._started:
            self._started = True
            # By hand: one client compares the content type as a whole.
            names = [(b"content-type", connect.STREAM_TYPE), (b"cache-control", b"no-cache")]
            names.append((b"x-accel-buffering", b"no"))
            await self._send({"type": "http.response.start", "status": 200, "headers": names})
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


async def _next(messages: AsyncIterator[Json]) -> Json | None:
    """In a coroutine of its own: what `anext` returns cannot be made a task."""
    return await anext(messages, None)


def _end_now(gone: asyncio.Future[None], scope: asyncio.Timeout) -> None:
    if not gone.cancelled():
        with contextlib.suppress(RuntimeError):  # it has just ended by itself
            scope.reschedule(asyncio.get_running_loop().time())


def _end_if_gone(ahead: asyncio.Future[ASGIMessage], scope: asyncio.Timeout) -> None:
    if _says_gone(ahead):
        with contextlib.suppress(RuntimeError):
            scope.reschedule(asyncio.get_running_loop().time())


def _says_gone(ahead: asyncio.Future[ASGIMessage]) -> bool:
    if not ahead.done() or ahead.cancelled() or ahead.exception() is not None:
        return False
    return bool(ahead.result()["type"] == "http.disconnect")


@contextlib.asynccontextmanager
async def mapped(
    opened: AbstractAsyncContextManager[AsyncIterator[Answer]],
    shape: Callable[[Answer], Json],
    first: Json | None = None,
) -> AsyncIterator[AsyncIterator[Json]]:
    """A stream of the agent's as one of messages, `first` before all."""
    async with opened as events:

        async def messages() -> AsyncIterator[Json]:
            if first is not None:
                yield first
            async for event in events:
                yield shape(event)

        yield messages()


def unary(work: Callable[[Call, Message], Coroutine[object, object, Json]]) -> Method:
    return Method(unary=work)
