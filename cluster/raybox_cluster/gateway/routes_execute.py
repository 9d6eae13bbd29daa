"""POST /execute on port 49999: run one cell and stream its events. And /executions: those that were started so.

The hottest path of the gateway, hence plain ASGI without framework or middleware.

The client's side of the contract: headers come at once, a stream that ends cleanly is taken for complete, and a client
who leaves interrupts its cell. So the response ends only after `done`; whatever else ends it is raised through the
server, which then closes the connection without the terminating chunk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

from starlette.responses import Response

from raybox_actors.errors import NotFound, RayboxError
from raybox_actors.execute_request import (
    MAX_EXECUTE_BODY_BYTES,
    event_number,
    is_execution_id,
    parse_execute,
    parse_on_disconnect,
)
from raybox_actors.executions import new_execution_id
from raybox_actors.values import EventBatch

from .asgi import (
    ClientGone,
    Headers,
    Receive,
    Scope,
    Send,
    StreamAborted,
    body_chunk,
    read_body,
    stream_start,
    text_response,
    wait_until_gone,
)
from .backend import Backend
from .metrics import query_of
from .routes_envd import require_running
from .wire import KEEPALIVE_LINE

logger = logging.getLogger(__name__)

#: Starting a cell may mean starting a kernel. For so long the answer can still be an error with its own status; then
#: the headers go out anyway, because clients wait for them no longer than a minute.
HEADERS_WITHIN_S = 20.0
#: How long an interrupted client's cell may take to be started before it is left to the sandbox to notice.
INTERRUPT_WITHIN_S = 60.0
#: How long who attaches to an execution waits for its next event before the headers go out.
FIRST_EVENTS_S = 0.05


class Executions:
    """Starts, streams and, when their clients leave, interrupts. Owns the tasks that outlive a request."""

    def __init__(self, backend: Backend, keepalive_s: float, headers_within_s: float = HEADERS_WITHIN_S) -> None:
        self._backend = backend
        self._keepalive_s = keepalive_s
        self._headers_within_s = headers_within_s
        self._interrupts: set[asyncio.Task[None]] = set()

    async def execute(self, sandbox_id: str, headers: Headers, receive: Receive, send: Send) -> None:
        """Raises RayboxError (as long as nothing was sent), StreamAborted (after that) and ClientGone."""
        body = await read_body(receive, headers, MAX_EXECUTE_BODY_BYTES)
        request = parse_execute(body, headers, new_execution_id())
        start = _call(self._backend.execute(sandbox_id, request))
        over = False
        try:
            await self._stream(sandbox_id, request.execution_id, start, receive, send)
            over = True
        except (RayboxError, StreamAborted) as error:
            cause = error if isinstance(error, RayboxError) else error.__cause__
            # After a fault of ours nobody knows whether the cell still runs.
            over = isinstance(cause, RayboxError) and cause.kind != "internal"
            raise
        finally:
            if not over and parse_on_disconnect(headers) == "interrupt":
                self._interrupt(sandbox_id, request.execution_id, start)

    async def existing(self, sandbox_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        """/executions/{id}/events?from=N, /executions/{id}/interrupt. Raises as `execute` does."""
        match scope["path"].split("/")[2:], scope["method"]:
            case [execution_id, "events"], "GET":
                first = event_number("from", query_of(scope["query_string"]).get("from", "0"))
                await self._events(sandbox_id, _checked(execution_id), first, receive, send)
                return
            case [execution_id, "interrupt"], "POST":
                await self._backend.interrupt(sandbox_id, _checked(execution_id))
                response = Response(status_code=204)
            case [_, "events" | "interrupt" as what], _:
                await require_running(self._backend, sandbox_id)
                response = text_response(405, "Method Not Allowed", {"allow": "GET" if what == "events" else "POST"})
            case _:
                await require_running(self._backend, sandbox_id)
                response = text_response(404, "Not Found")
        await response(scope, receive, send)

    async def _events(self, sandbox_id: str, execution_id: str, first: int, receive: Receive, send: Send) -> None:
        start = _call(self._backend.poll(sandbox_id, execution_id, first, FIRST_EVENTS_S))
        try:
            await self._stream(sandbox_id, execution_id, start, receive, send)
        finally:
            start.cancel()

    async def _stream(
        self, sandbox_id: str, execution_id: str, start: asyncio.Future[EventBatch], receive: Receive, send: Send
    ) -> None:
        """From what `start` brings to the last event; `start` itself is left alone when the client leaves."""
        gone = asyncio.create_task(wait_until_gone(receive))
        call = start
        started = False
        patience_s = self._headers_within_s
        try:
            while True:
                await asyncio.wait((call, gone), timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    raise ClientGone
                batch = call.result() if call.done() else None
                if not started:
                    started = True
                    patience_s = 2 * self._keepalive_s
                    await send(stream_start((b"x-raybox-execution-id", execution_id.encode("ascii"))))
                if batch is None:  # the backend takes longer than it promised
                    await send(body_chunk(KEEPALIVE_LINE))
                    continue
                if batch.done:
                    await send(body_chunk(batch.lines, more=False))
                    return
                if batch.lines:
                    await send(body_chunk(batch.lines))
                elif call is not start:
                    await send(body_chunk(KEEPALIVE_LINE))
                call = _call(self._next(sandbox_id, batch))
        except RayboxError as error:
            if started:
                raise StreamAborted(str(error)) from error
            raise
        finally:
            gone.cancel()
            if call is not start:
                call.cancel()

    async def _next(self, sandbox_id: str, batch: EventBatch) -> EventBatch:
        after = batch.first_seq + batch.count
        following = await self._backend.poll(sandbox_id, batch.execution_id, after, self._keepalive_s)
        if following.first_seq > after:
            logger.warning("execution %s: events %d to %d were lost", batch.execution_id, after, following.first_seq)
        return following

    def _interrupt(self, sandbox_id: str, execution_id: str, start: asyncio.Future[EventBatch]) -> None:
        """In a task of its own: the request's may be in the middle of being cancelled."""
        task = asyncio.create_task(self._interrupt_around(sandbox_id, execution_id, start))
        self._interrupts.add(task)
        task.add_done_callback(self._interrupts.discard)

    async def _interrupt_around(self, sandbox_id: str, execution_id: str, start: asyncio.Future[EventBatch]) -> None:
        """Interrupt now; and again after a start that was still under way, which the first one may have missed."""
        under_way = not start.done()
        await self._interrupt_once(sandbox_id, execution_id)
        if not under_way:
            return
        await asyncio.wait((start,), timeout=INTERRUPT_WITHIN_S)
        if not start.done():
            start.cancel()
        elif start.exception() is None and not start.result().done:
            await self._interrupt_once(sandbox_id, execution_id)

    async def _interrupt_once(self, sandbox_id: str, execution_id: str) -> None:
        try:
            await self._backend.interrupt(sandbox_id, execution_id)
        except RayboxError as error:
            logger.debug("execution %s is not there to be interrupted: %s", execution_id, error)
        except Exception:
            logger.exception("execution %s could not be interrupted", execution_id)


def _checked(execution_id: str) -> str:
    if not is_execution_id(execution_id):
        raise NotFound("execution", execution_id[:64])
    return execution_id


def _call(coroutine: Coroutine[object, object, EventBatch]) -> asyncio.Future[EventBatch]:
    """A task whose failure nobody may come to hear of, if the client leaves at the same moment."""
    task = asyncio.create_task(coroutine)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
