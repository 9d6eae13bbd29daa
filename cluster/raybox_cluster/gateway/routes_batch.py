"""POST /raybox/exec_many: items in and results out, both streamed, lines of JSON (docs/protocol.md).

Both directions go on at the same time: the answer begins with the first line of the body, and the body is read as
items can be begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from raybox_actors.errors import BadRequest, RayboxError
from raybox_actors.values import DEFAULT_TEMPLATE, CreateRequest
from raybox_cluster.batch import wire as batch_wire
from raybox_cluster.batch.holding import LEASE_S
from raybox_cluster.batch.run import Batch, Entry, Result
from raybox_cluster.batch.schedule import Rules
from raybox_cluster.batch.wire import BatchOptions, Lines

from . import wire
from .asgi import ClientGone, Receive, Scope, Send, StreamAborted, body_chunk, stream_start
from .auth import ApiKey, key_of
from .backend import Backend
from .wire import KEEPALIVE_LINE

logger = logging.getLogger(__name__)

#: Items, for each that may run and beside that, and bytes of them, that are read before they can be begun: while there
#: is room, a client who leaves is noticed at once.
AHEAD_OF_EACH, READ_AHEAD = 8, 64
READ_AHEAD_BYTES = 32 * 1024 * 1024
#: If the caller does not say: half of the pool, and no more than this.
DEFAULT_IN_FLIGHT = 64


def batch_routes(backend: Backend, keepalive_s: float, max_timeout_s: float, max_wait_s: float) -> APIRouter:
    router = APIRouter()
    lingering: set[asyncio.Task[None]] = set()

    async def exec_many(request: Request) -> Response:
        return _Answer(backend, key_of(request.scope), keepalive_s, max_timeout_s, max_wait_s, lingering)

    router.add_route("/raybox/exec_many", exec_many, methods=["POST"])
    return router


class _Answer(Response):
    """A response that reads the request."""

    def __init__(
        self,
        backend: Backend,
        key: ApiKey,
        keepalive_s: float,
        max_timeout_s: float,
        max_wait_s: float,
        lingering: set[asyncio.Task[None]],
    ) -> None:
        super().__init__()
        self._backend, self._key, self._keepalive_s = backend, key, keepalive_s
        self._max_timeout_s, self._max_wait_s, self._lingering = max_timeout_s, max_wait_s, lingering

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        body = Body(receive)
        try:
            await self._answer(body, send)
        finally:
            await body.close()

    async def _answer(self, body: Body, send: Send) -> None:
        options = batch_wire.parse_options(await body.first())
        create = self._create_request(options)
        in_flight = options.max_in_flight or await default_in_flight(self._backend)
        batch = Batch(
            self._backend,
            create,
            Rules(in_flight, fresh=options.fresh),
            body.items(options, AHEAD_OF_EACH * in_flight + READ_AHEAD),
            deadline_s=options.deadline_s,
            lingering=self._lingering,
        )
        await send(stream_start())
        await send(body_chunk(batch_wire.started_line(in_flight)))
        count = 0
        results = batch.results()
        coming: asyncio.Task[Result | None] | None = None
        try:
            while True:
                coming = coming or asyncio.create_task(_next(results))
                waiting: set[asyncio.Future[Any]] = {coming, body.gone}
                done, _ = await asyncio.wait(waiting, timeout=self._keepalive_s, return_when=asyncio.FIRST_COMPLETED)
                if body.gone in done:
                    raise ClientGone
                if coming not in done:
                    await send(body_chunk(KEEPALIVE_LINE))
                    continue
                result, coming = coming.result(), None
                if result is None:
                    break
                count += 1
                await send(body_chunk(batch_wire.result_line(result)))
            last = batch_wire.end_line(count, timed_out=batch.timed_out)
            await send(body_chunk(last, more=False))
        except RayboxError as error:
            raise StreamAborted(str(error)) from error
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.wait({coming})
            await results.aclose()

    def _create_request(self, options: BatchOptions) -> CreateRequest:
        """As the body of a create would say, but for the template's name, which may be left out, and the timeout."""
        fields = {"templateID": DEFAULT_TEMPLATE, **options.create, "timeout": int(LEASE_S)}
        create = wire.create_of(
            fields, {}, key=self._key, version=2, max_timeout_s=self._max_timeout_s, max_wait_s=self._max_wait_s
        )
        return replace(create, idempotency_key=None)  # which metadata may have: it would make all of them the same one


async def default_in_flight(backend: Backend) -> int:
    """How many items run at once, if the caller does not say."""
    capacity = (await backend.status()).capacity
    return max(1, min(DEFAULT_IN_FLIGHT, (capacity + 1) // 2))


async def _next(results: AsyncIterator[Result]) -> Result | None:
    return await anext(results, None)


class Body:
    """The request's body as lines, read by one task, so that its end and the client's leaving are seen at any time."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._lines = Lines()
        self._found: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._ended = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._news = asyncio.Event()
        self._most, self._bytes = READ_AHEAD, 0
        self.gone = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        """Ends when the client has gone."""
        more = True
        with contextlib.suppress(Exception):
            while True:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    return
                for line in self._lines.feed(message.get("body", b"")):
                    self._put(line)
                if more and not message.get("more_body", False):
                    more = False
                    for line in self._lines.rest():
                        self._put(line)
                    self._ended.set()
                self._news.set()
                await self._room.wait()

    def _put(self, line: bytes | None) -> None:
        self._found.put_nowait(line)
        self._bytes += len(line or b"")
        if self._full():
            self._room.clear()

    def _full(self) -> bool:
        return self._found.qsize() >= self._most or self._bytes >= READ_AHEAD_BYTES

    async def first(self) -> bytes | None:
        """Raises BadRequest for an empty body, ClientGone."""
        async for line in self._each():
            return line
        raise BadRequest("the first line must be the options of the batch, a JSON object")

    async def items(self, options: BatchOptions, read_ahead: int) -> AsyncIterator[Entry]:
        self._most = read_ahead
        async for line in self._each():
            yield batch_wire.parse_item(line, options)

    async def _each(self) -> AsyncIterator[bytes | None]:
        while True:
            while not self._found.empty():
                line = self._found.get_nowait()
                self._bytes -= len(line or b"")
                if not self._full():
                    self._room.set()
                yield line
            if self._ended.is_set():
                return
            self._news.clear()
            news = asyncio.ensure_future(self._news.wait())
            try:
                await asyncio.wait({news, self.gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()
            if self.gone.done() and self._found.empty():
                raise ClientGone

    async def close(self) -> None:
        self.gone.cancel()
        await asyncio.wait({self.gone})
