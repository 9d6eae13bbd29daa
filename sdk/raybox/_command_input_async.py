"""Input for a command or terminal as one long request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from . import _processes
from ._channel_async import Channel, Messages
from ._envd_requests import KEEPALIVE_INTERVAL_S
from ._errors import SandboxException
from ._processes import InputKind

#: This many pieces may wait to be sent; `send` then waits with them.
MAX_WAITING = 16


class AsyncCommandInputHandle:
    """Sends input in order over one connection. `close` it, or use it as a context manager: then all has arrived."""

    def __init__(self, channel: Channel, pid: int, input_kind: InputKind, timeout: float | None) -> None:
        """For `commands` and `pty` alone."""
        self._channel = channel
        self._kind: InputKind = input_kind
        self._start = _processes.input_start(pid)
        self._timeout = timeout
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_WAITING)
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc_type is None:
            await self.close()
        elif self._task is not None:
            self._closed = True
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def send(self, data: str | bytes) -> None:
        """Queue a piece of input, and wait while there is no room for it.

        Raises NotFoundException (no such process), TimeoutException, SandboxException (closed).
        """
        if self._closed:
            raise SandboxException("the input was closed; open another one with stream_input")
        for envelope in _processes.input_data(self._kind, data):
            await self._put(envelope)

    async def close(self) -> None:
        """End the input, and wait until all of it has arrived. The process's own input stays open. Can be repeated.

        Raises NotFoundException (no such process), TimeoutException.
        """
        if not self._closed:
            self._closed = True
            await self._put(None)
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _put(self, piece: bytes | None) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send_all())
        putting = asyncio.ensure_future(self._waiting.put(piece))
        try:
            await asyncio.wait([putting, self._task], return_when=asyncio.FIRST_COMPLETED)
            if self._task.done() and not putting.done():
                self._task.result()  # raises what ended it
                raise SandboxException("the server ended the stream of the input")
        finally:
            putting.cancel()

    async def _send_all(self) -> None:
        config, address = self._channel.config, self._channel.address
        request = _processes.stream_input(config, address, self._timeout, self._body())
        messages = await Messages.open(self._channel, request)
        try:
            while await messages.next() is not None:
                pass
        finally:
            await messages.close()

    async def _body(self) -> AsyncIterator[bytes]:
        yield self._start
        while True:
            try:
                async with asyncio.timeout(KEEPALIVE_INTERVAL_S):
                    piece = await self._waiting.get()
            except TimeoutError:
                piece = _processes.KEEPALIVE
            if piece is None:
                return
            yield piece
