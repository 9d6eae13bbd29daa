"""How the asyncio classes reach one sandbox, and what a broken connection meant. Its twin is `_channel_sync.py`."""

from __future__ import annotations

from collections import deque

from . import _requests, _responses, _transport
from ._config import ConnectionConfig
from ._connect import EnvelopeParser, Message, code_of_reply, error_of_end, error_of_reply, read_message
from ._errors import RayboxError, SandboxException, SandboxUnreachableException
from ._requests import Address, Request
from ._responses import Reply, TransportFailure
from ._transport import AsyncStream


class Channel:
    """Sends requests to a sandbox's data plane. It holds no connection, and can be pickled."""

    def __init__(self, config: ConnectionConfig, address: Address) -> None:
        self.config = config
        self.address = address

    async def send(self, request: Request) -> Reply:
        """The whole answer of the code interpreter. Raises what its failure means."""
        try:
            return await _transport.send_async(request)
        except SandboxUnreachableException as error:
            raise await self._told(request, error) from error.__cause__

    async def ask(self, request: Request) -> Reply:
        """The whole answer of the agent. Raises what its failure means."""
        reply = await self._whole(request)
        if reply.status >= 300:
            raise error_of_reply(request, reply)
        return reply

    async def call(self, request: Request) -> Message:
        """The message that answers a call. Raises what its failure means."""
        return read_message(request, await self.ask(request))

    async def try_call(self, request: Request, unless: str) -> bool:
        """Whether a call succeeds; False when it is answered with the code `unless`. Raises what else it means."""
        reply = await self._whole(request)
        if reply.status >= 300:
            if code_of_reply(reply) == unless:
                return False
            raise error_of_reply(request, reply)
        read_message(request, reply)
        return True

    async def open(self, request: Request) -> AsyncStream:
        """The agent's answer, once it has begun well. Raises what its failure means."""
        try:
            stream = await _transport.open_stream_async(request)
        except TransportFailure as failure:
            raise await self.explain(request, failure) from failure
        if stream.status < 300:
            return stream
        try:
            raise error_of_reply(request, Reply(stream.status, stream.headers, await _transport.read_all_async(stream)))
        except TransportFailure as failure:
            raise await self.explain(request, failure) from failure
        finally:
            await stream.close()

    async def explain(self, request: Request, failure: TransportFailure) -> RayboxError:
        """The error for a request that got no answer, or half of one: if its connection broke, /health says why."""
        if failure.stage != "broken":
            return _responses.error_of_failure(request, failure)
        health = _requests.health(self.config, self.address, _requests.PROBE_TIMEOUT_S)._replace(connect_retries=0)
        try:
            probe = await _transport.send_async(health, _transport.ANY_STATUS)
        except RayboxError:
            return _responses.error_of_cut_answer(request, None, failure.detail)
        return _responses.error_of_cut_answer(request, probe, failure.detail)

    async def _whole(self, request: Request) -> Reply:
        try:
            return await _transport.send_async(request, _transport.ANY_STATUS)
        except SandboxUnreachableException as error:
            raise await self._told(request, error) from error.__cause__

    async def _told(self, request: Request, error: SandboxUnreachableException) -> RayboxError:
        return await self.explain(request, error.__cause__) if isinstance(error.__cause__, TransportFailure) else error


class Messages:
    """The messages of one stream of the agent, in order, to its end. Closing it early tells the server.

    It is for one task; cancelling `next` leaves it usable only for `close`.
    """

    def __init__(self, channel: Channel, request: Request, stream: AsyncStream) -> None:
        self._channel = channel
        self._request = request
        self._parser = EnvelopeParser()
        self._waiting: deque[Message] = deque()
        self._error: RayboxError | None = None
        self._stream = stream

    @classmethod
    async def open(cls, channel: Channel, request: Request) -> Messages:
        """Raises what the failure of the request means."""
        return cls(channel, request, await channel.open(request))

    async def next(self) -> Message | None:
        """The next one; None when the stream ended well. Raises what its failure means."""
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if not await self._read():
                return None
        return self._waiting.popleft()

    async def _read(self) -> bool:
        """False at the end."""
        if self._parser.ended:
            return False
        try:
            data = await self._stream.read()
            if not data:
                raise TransportFailure("broken", "it ended without saying how")
            for found in self._parser.feed(data):
                if isinstance(found, dict):
                    self._waiting.append(found)
                elif found.error is not None:
                    self._error = error_of_end(self._request, found.error)
            if self._parser.ended:
                await self._stream.finish()
        except TransportFailure as failure:
            await self._stream.close()
            self._error = await self._channel.explain(self._request, failure)
            self._error.__cause__ = failure
        except SandboxException as error:
            await self._stream.close()
            self._error = error
        return True

    async def close(self) -> None:
        """May be repeated."""
        await self._stream.close()
