"""How requests reach a server: repeated while no connection comes about, logged, and read whole where that is wanted.

What cannot be answered is a TransportFailure. The HTTP is in `_http.py`, and calls of Ray's actors in `_ray.py`; either
is only imported when it is needed: they take longer than all the rest of the package.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from ._config import RAY_SCHEME, has_joined_ray
from ._errors import InvalidArgumentException
from ._requests import Request
from ._responses import (
    Reply,
    TransportFailure,
    error_of,
    error_of_failure,
    reconnect_delay_s,
    retry_delay_s,
)


class Stream(Protocol):
    """One answer while it arrives."""

    status: int
    headers: Mapping[str, str]

    def read(self) -> bytes:
        """The next bytes of the body, empty at its end. Raises TransportFailure."""

    def finish(self) -> None:
        """The rest does not matter: wait for it briefly, so that what carries it can be used again."""

    def close(self) -> None:
        """End it wherever it is, which tells the server that nobody listens any more. May be repeated."""

    def cut(self) -> None:
        """Make the read that another thread waits in fail."""


class AsyncStream(Protocol):
    """One answer while it arrives. Cancelling `read` leaves it usable only for `close`."""

    status: int
    headers: Mapping[str, str]

    async def read(self) -> bytes:
        """The next bytes of the body, empty at its end. Raises TransportFailure."""

    async def finish(self) -> None:
        """The rest does not matter: wait for it briefly, so that what carries it can be used again."""

    async def close(self) -> None:
        """End it wherever it is, which tells the server that nobody listens any more. May be repeated."""


#: For callers that judge the status themselves.
ANY_STATUS = frozenset(range(300, 600))

_GONE = frozenset({404})

#: An answer that is read whole may be this long.
MAX_REPLY_BYTES = 64 * 1024 * 1024


def open_stream(request: Request) -> Stream:
    """Send a request; gives its answer once that has begun. Raises TransportFailure."""
    opened = _open_by_ray if request.url.startswith(RAY_SCHEME) else _open_by_http
    started_s = time.monotonic()
    attempt, rest = 0, request
    while True:
        try:
            stream = opened(rest)
        except TransportFailure as failure:
            delay_s = reconnect_delay_s(request, failure, attempt, random.random)
            if delay_s is None or not _fits(request, started_s, delay_s):
                _log(request, started_s, failure.stage)
                raise
        else:
            _log(request, started_s, stream.status)
            return stream
        time.sleep(delay_s)
        attempt, rest = attempt + 1, _rest_of(request, started_s)


async def open_stream_async(request: Request) -> AsyncStream:
    """Send a request; gives its answer once that has begun. Raises TransportFailure."""
    return await _open_async(_open_by_ray_async if request.url.startswith(RAY_SCHEME) else _open_by_http_async, request)


async def _open_async(opened: Callable[[Request], Awaitable[AsyncStream]], request: Request) -> AsyncStream:
    started_s = time.monotonic()
    attempt, rest = 0, request
    while True:
        try:
            stream = await opened(rest)
        except TransportFailure as failure:
            delay_s = reconnect_delay_s(request, failure, attempt, random.random)
            if delay_s is None or not _fits(request, started_s, delay_s):
                _log(request, started_s, failure.stage)
                raise
        else:
            _log(request, started_s, stream.status)
            return stream
        await asyncio.sleep(delay_s)
        attempt, rest = attempt + 1, _rest_of(request, started_s)


async def open_duplex(request: Request) -> AsyncStream:
    """Send a request with an asynchronous body; gives its answer once that has begun, while the body is still being
    sent. Raises TransportFailure."""
    return await _open_async(
        _open_duplex_by_ray if request.url.startswith(RAY_SCHEME) else _open_duplex_by_http, request
    )


async def _open_duplex_by_http(request: Request) -> AsyncStream:
    from . import _duplex

    return await _duplex.open_duplex(request)


async def _open_duplex_by_ray(request: Request) -> AsyncStream:
    _require_ray()
    from . import _ray

    return await _ray.open_duplex(request)


def _open_by_http(request: Request) -> Stream:
    from . import _http

    return _http.open_stream(request)


async def _open_by_http_async(request: Request) -> AsyncStream:
    from . import _http

    return await _http.open_stream_async(request)


def _open_by_ray(request: Request) -> Stream:
    _require_ray()
    from . import _ray

    return _ray.open_stream(request)


async def _open_by_ray_async(request: Request) -> AsyncStream:
    _require_ray()
    from . import _ray

    return await _ray.open_stream_async(request)


def _require_ray() -> None:
    if not has_joined_ray():
        raise InvalidArgumentException("this process has not joined a Ray cluster: call ray.init(), or say RAYBOX_URL")


def _fits(request: Request, started_s: float, delay_s: float) -> bool:
    """Whether there is time left for another attempt after `delay_s`."""
    at_s = time.monotonic() - started_s + delay_s
    return all(limit_s is None or at_s < limit_s for limit_s in (request.connect_s, request.total_s))


def _rest_of(request: Request, started_s: float) -> Request:
    """The same request with the time that is left of it."""
    passed_s = time.monotonic() - started_s
    connect_s, total_s = (
        None if limit_s is None else max(limit_s - passed_s, 0.001) for limit_s in (request.connect_s, request.total_s)
    )
    return request._replace(connect_s=connect_s, total_s=total_s)


def _log(request: Request, started_s: float, outcome: int | str) -> None:
    if request.logger is not None:
        took_ms = (time.monotonic() - started_s) * 1000
        request.logger.info("%s %s: %s after %.1f ms", request.method, request.url, outcome, took_ms)


# --- whole answers ---------------------------------------------------------------------------------------------------


def send(request: Request, accept: frozenset[int] = frozenset()) -> Reply:
    """The whole answer to a request, after the repetitions it allows.

    Raises the error that a failure means, and the one that a status outside 200-299 and `accept` means.
    """
    started_s = time.monotonic()
    attempt, rest = 0, request
    while True:
        reply = _send_once(rest)
        delay_s = None if reply.status < 300 else retry_delay_s(request, reply, attempt, random.random)
        if delay_s is None or not _fits(request, started_s, delay_s):
            break
        time.sleep(delay_s)
        attempt, rest = attempt + 1, _rest_of(request, started_s)
    if reply.status < 300 or reply.status in accept:
        return reply
    raise error_of(request, reply)


async def send_async(request: Request, accept: frozenset[int] = frozenset()) -> Reply:
    """The whole answer to a request, after the repetitions it allows.

    Raises the error that a failure means, and the one that a status outside 200-299 and `accept` means.
    """
    started_s = time.monotonic()
    attempt, rest = 0, request
    while True:
        reply = await _send_once_async(rest)
        delay_s = None if reply.status < 300 else retry_delay_s(request, reply, attempt, random.random)
        if delay_s is None or not _fits(request, started_s, delay_s):
            break
        await asyncio.sleep(delay_s)
        attempt, rest = attempt + 1, _rest_of(request, started_s)
    if reply.status < 300 or reply.status in accept:
        return reply
    raise error_of(request, reply)


def end(request: Request) -> bool:
    """Send what ends something. True if it was there, False if not any more. Raises as `send`."""
    return send(request, _GONE).status != 404


async def end_async(request: Request) -> bool:
    """Send what ends something. True if it was there, False if not any more. Raises as `send`."""
    return (await send_async(request, _GONE)).status != 404


def _send_once(request: Request) -> Reply:
    try:
        stream = open_stream(request)
        try:
            return Reply(stream.status, stream.headers, read_all(stream))
        finally:
            stream.close()
    except TransportFailure as failure:
        raise error_of_failure(request, failure) from failure


async def _send_once_async(request: Request) -> Reply:
    try:
        stream = await open_stream_async(request)
        try:
            return Reply(stream.status, stream.headers, await read_all_async(stream))
        finally:
            await stream.close()
    except TransportFailure as failure:
        raise error_of_failure(request, failure) from failure


def read_all(stream: Stream) -> bytes:
    """The body to its end. Raises TransportFailure, also when it is longer than MAX_REPLY_BYTES."""
    pieces, size = [], 0
    while piece := stream.read():
        size += len(piece)
        _check_size(size)
        pieces.append(piece)
    return b"".join(pieces)


async def read_all_async(stream: AsyncStream) -> bytes:
    """The body to its end. Raises TransportFailure, also when it is longer than MAX_REPLY_BYTES."""
    pieces, size = [], 0
    while piece := await stream.read():
        size += len(piece)
        _check_size(size)
        pieces.append(piece)
    return b"".join(pieces)


def _check_size(size: int) -> None:
    if size > MAX_REPLY_BYTES:
        raise TransportFailure("broken", f"the answer is longer than {MAX_REPLY_BYTES} bytes")
