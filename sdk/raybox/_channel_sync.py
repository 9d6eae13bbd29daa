"""How the blocking classes reach one sandbox, and what a broken connection meant. Its twin is `_channel_async.py`."""

from __future__ import annotations

import threading
import weakref
from collections import deque

from . import _requests, _responses, _transport
from ._config import ConnectionConfig
from ._connect import EnvelopeParser, Message, code_of_reply, error_of_end, error_of_reply, read_message
from ._errors import RayboxError, SandboxException, SandboxUnreachableException
from ._requests import Address, Request
from ._responses import Reply, TransportFailure
from ._transport import Stream


class Channel:
    """Sends requests to a sandbox's data plane. It holds no connection, and can be pickled."""

    def __init__(self, config: ConnectionConfig, address: Address) -> None:
        self.config = config
        self.address = address

    def send(self, request: Request) -> Reply:
        """The whole answer of the code interpreter. Raises what its failure means."""
        try:
            return _transport.send(request)
        except SandboxUnreachableException as error:
            raise self._told(request, error) from error.__cause__

    def ask(self, request: Request) -> Reply:
        """The whole answer of the agent. Raises what its failure means."""
        reply = self._whole(request)
        if reply.status >= 300:
            raise error_of_reply(request, reply)
        return reply

    def call(self, request: Request) -> Message:
        """The message that answers a call. Raises what its failure means."""
        return read_message(request, self.ask(request))

    def try_call(self, request: Request, unless: str) -> bool:
        """Whether a call succeeds; False when it is answered with the code `unless`. Raises what else it means."""
        reply = self._whole(request)
        if reply.status >= 300:
            if code_of_reply(reply) == unless:
                return False
            raise error_of_reply(request, reply)
        read_message(request, reply)
        return True

    def open(self, request: Request) -> Stream:
        """The agent's answer, once it has begun well. Raises what its failure means."""
        try:
            stream = _transport.open_stream(request)
        except TransportFailure as failure:
            raise self.explain(request, failure) from failure
        if stream.status < 300:
            return stream
        try:
            raise error_of_reply(request, Reply(stream.status, stream.headers, _transport.read_all(stream)))
        except TransportFailure as failure:
            raise self.explain(request, failure) from failure
        finally:
            stream.close()

    def explain(self, request: Request, failure: TransportFailure) -> RayboxError:
        """The error for a request that got no answer, or half of one: if its connection broke, /health says why."""
        if failure.stage != "broken":
            return _responses.error_of_failure(request, failure)
        health = _requests.health(self.config, self.address, _requests.PROBE_TIMEOUT_S)._replace(connect_retries=0)
        try:
            probe = _transport.send(health, _transport.ANY_STATUS)
        except RayboxError:
            return _responses.error_of_cut_answer(request, None, failure.detail)
        return _responses.error_of_cut_answer(request, probe, failure.detail)

    def _whole(self, request: Request) -> Reply:
        try:
            return _transport.send(request, _transport.ANY_STATUS)
        except SandboxUnreachableException as error:
            raise self._told(request, error) from error.__cause__

    def _told(self, request: Request, error: SandboxUnreachableException) -> RayboxError:
        return self.explain(request, error.__cause__) if isinstance(error.__cause__, TransportFailure) else error


class Messages:
    """The messages of one stream of the agent, in order, to its end. Closing it early tells the server."""

    def __init__(self, channel: Channel, request: Request) -> None:
        self._channel = channel
        self._request = request
        self._parser = EnvelopeParser()
        self._waiting: deque[Message] = deque()
        self._error: RayboxError | None = None
        self._closed = False
        self._reading = threading.Lock()
        self._stream = channel.open(request)
        self._finalizer = weakref.finalize(self, self._stream.close)
        self._finalizer.atexit = False  # the system does it then, and a forked child must leave it alone

    def next(self) -> Message | None:
        """The next one; None when the stream ended well, or was closed. Raises what its failure means."""
        with self._reading:
            while not self._waiting:
                if self._error is not None:
                    raise self._error
                if self._closed or not self._read():
                    return None
            return self._waiting.popleft()

    def _read(self) -> bool:
        """False at the end."""
        if self._parser.ended:
            return False
        try:
            data = self._stream.read()
            if not data:
                raise TransportFailure("broken", "it ended without saying how")
            for found in self._parser.feed(data):
                if isinstance(found, dict):
                    self._waiting.append(found)
                elif found.error is not None:
                    self._error = error_of_end(self._request, found.error)
            if self._parser.ended:
                self._stream.finish()
        except TransportFailure as failure:
            if self._closed:
                return False
            self._stream.close()
            self._error = self._channel.explain(self._request, failure)
            self._error.__cause__ = failure
        except SandboxException as error:
            self._stream.close()
            self._error = error
        return True

    def close(self) -> None:
        """May be repeated, and be called while another thread waits in `next`, which then gives None."""
        self._closed = True
        if self._reading.acquire(blocking=False):
            self._reading.release()
        elif not self._parser.ended:
            self._stream.cut()
        with self._reading:
            self._finalizer()
