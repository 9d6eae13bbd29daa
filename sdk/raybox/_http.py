"""One request through httpx: connections that are kept, and deadlines that hold.

httpx's transports without its clients: redirects, cookies and authentication are no part of the protocol, and a client
costs twice what the transport beneath it does. HTTP/1.1 only: a closed connection tells the server to interrupt. Only
this file knows httpx, and it is only imported with the first request.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ipaddress
import os
import socket
import threading
import time
import urllib.request
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import httpx

from ._errors import InvalidArgumentException
from ._requests import Request, check_headers
from ._responses import Stage, TransportFailure, head_limit_s, late_head

#: Below what servers keep idle connections for, so that it is us who closes first.
IDLE_S = 60.0
MAX_IDLE = 256
#: How long the last bytes of an answer may take when nothing of interest is left in it.
FINISH_S = 1.0

# --- requests and failures -------------------------------------------------------------------------------------------


class _Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A request's body. It is asked for when the request's head is out, so it knows if a server has been reached."""

    def __init__(self, request: Request, limits: dict[str, float | None], head_by_s: float | None) -> None:
        self.reached = False
        self._request = request
        self._limits = limits
        self._head_by_s = head_by_s

    def __iter__(self) -> Iterator[bytes]:
        self.reached = True
        if self._request.idle_s is None:
            # Looked up again before the answer; connecting took its share.
            self._limits["read"] = _left_s(self._head_by_s)
        data = self._request.body
        if isinstance(data, bytes):
            data = (data,)
        assert isinstance(data, Iterable)  # an asynchronous body is for the asynchronous half
        # An empty piece would end the body: that is how chunks say so.
        yield from (piece for piece in data if piece)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.reached = True
        data = self._request.body
        if isinstance(data, bytes):
            data = (data,)
        if isinstance(data, Iterable):
            for piece in data:
                if piece:
                    yield piece
        else:
            async for piece in data:
                if piece:
                    yield piece


def _left_s(deadline_s: float | None) -> float | None:
    return None if deadline_s is None else max(deadline_s - time.monotonic(), 0.001)


def _deadline_s(limit_s: float | None) -> float | None:
    return None if limit_s is None else time.monotonic() + limit_s


@lru_cache(maxsize=1024)
def _url_and_headers(url: str, headers: tuple[tuple[str, str], ...]) -> tuple[httpx.URL, httpx.Headers]:
    """Parsed and checked once: a sandbox's requests are all alike."""
    check_headers(headers)
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidArgumentException(f"the URL {url!r} is none: {error}") from error
    if not parsed.host:
        raise InvalidArgumentException(f"the URL {url!r} has no host")
    return parsed, httpx.Headers([("Host", parsed.netloc.decode("ascii")), *headers])


def _httpx_request(request: Request, body: _Body, limits: dict[str, float | None]) -> httpx.Request:
    url, headers = _url_and_headers(request.url, request.headers)
    built = httpx.Request(request.method, url, headers=headers, stream=body, extensions={"timeout": limits})
    if not isinstance(request.body, bytes):
        if "Content-Length" not in built.headers:
            built.headers["Transfer-Encoding"] = "chunked"
    elif request.body or request.method not in ("GET", "DELETE"):
        built.headers["Content-Length"] = str(len(request.body))
    return built


def _idle_limits(request: Request) -> dict[str, float | None]:
    """Of each step of a transfer: however much there is, it may take as long as it goes on."""
    limit_s = min((limit for limit in (request.idle_s, request.total_s) if limit is not None), default=None)
    return {"connect": limit_s, "read": limit_s, "write": limit_s}


def _failure(error: httpx.HTTPError, late: Stage) -> TransportFailure:
    """`late`: what a timeout means that is none of connecting."""
    detail = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectTimeout):
        return TransportFailure("connect_timeout", detail)
    if isinstance(error, httpx.TimeoutException):
        return TransportFailure(late, detail)
    if isinstance(error, (httpx.ConnectError, httpx.UnsupportedProtocol, httpx.ProxyError)):
        return TransportFailure("connect", detail)
    return TransportFailure("broken", detail)


# --- proxies and TLS -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def environment_proxy(scheme: str, host: str) -> str | None:
    """The proxy that the environment names for a host, none for this machine; looked up once, as httpx's clients do."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return None
    if host == "localhost" or host.endswith(".localhost") or urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


#: Shared by all transports: making it takes longer than a request.
_tls = lru_cache(maxsize=1)(httpx.create_ssl_context)


def _checked_proxy(url: str | None) -> httpx.Proxy | None:
    try:
        return None if url is None else httpx.Proxy(url)
    except (ValueError, httpx.InvalidURL) as error:
        raise InvalidArgumentException(f"proxy: {error}") from error


# --- connections -----------------------------------------------------------------------------------------------------

T = TypeVar("T", httpx.HTTPTransport, httpx.AsyncHTTPTransport)

# One connection, of one request at a time: see _Idle.
_LIMITS = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=IDLE_S)


class _Route(NamedTuple):
    proxy: str | None
    scheme: str
    host: bytes  # and its port


def _route(request: Request) -> _Route:
    url, _ = _url_and_headers(request.url, request.headers)
    proxy = request.proxy if request.proxy is not None else environment_proxy(url.scheme, url.host)
    return _Route(proxy, url.scheme, url.netloc)


class _Idle(Generic[T]):
    """Transports that nobody uses, each with one connection; the one that was used last is used first.

    Not one transport with all connections: it looks at each of them, several times, for every request and every answer.
    With 256 executions at once that gave 145 per second, and this 900.
    """

    def __init__(self) -> None:
        self._kept: deque[tuple[_Route, T, float]] = deque()
        self._lock = threading.Lock()

    def take(self, route: _Route) -> T | None:
        with self._lock:
            for at in range(len(self._kept) - 1, -1, -1):
                if self._kept[at][0] == route:
                    transport = self._kept[at][1]
                    del self._kept[at]
                    return transport
        return None

    def give_back(self, route: _Route, transport: T) -> list[T]:
        """Gives those that are to be closed instead."""
        now_s = time.monotonic()
        dropped = []
        with self._lock:
            self._kept.append((route, transport, now_s))
            while len(self._kept) > MAX_IDLE or now_s - self._kept[0][2] > IDLE_S:
                dropped.append(self._kept.popleft()[1])
        return dropped

    def take_all(self) -> list[T]:
        with self._lock:
            transports = [transport for _, transport, _ in self._kept]
            self._kept.clear()
        return transports


# --- blocking --------------------------------------------------------------------------------------------------------


class _Watchdog:
    """Shuts connections down at their deadlines, from one thread, which ends when it had nothing to do for a while.

    httpx bounds each read but not their sum: an execution that writes now and then would never time out.
    """

    NAP_S = 1.0

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deadlines: dict[Stream, float] = {}
        self._wakes_s: float | None = None  # None: there is no thread

    def watch(self, stream: Stream, deadline_s: float) -> None:
        with self._changed:
            self._deadlines[stream] = deadline_s
            if self._wakes_s is None:
                threading.Thread(target=self._run, name="raybox-deadlines", daemon=True).start()
                self._wakes_s = time.monotonic()
            elif deadline_s < self._wakes_s:
                self._changed.notify()

    def forget(self, stream: Stream) -> None:
        """Once this returns, the stream's connection is left alone."""
        with self._changed:
            self._deadlines.pop(stream, None)

    def _run(self) -> None:
        with self._changed:
            idle = False
            while self._deadlines or not idle:
                idle = not self._deadlines
                now_s = time.monotonic()
                self._wakes_s = min(self._deadlines.values(), default=now_s + self.NAP_S)
                self._wakes_s = min(self._wakes_s, now_s + self.NAP_S)
                self._changed.wait(max(self._wakes_s - now_s, 0))
                now_s = time.monotonic()
                for stream in [stream for stream, due_s in self._deadlines.items() if due_s <= now_s]:
                    del self._deadlines[stream]
                    stream.cut()
            self._wakes_s = None


class Stream:
    """One answer while it arrives."""

    #: Only what takes longer is watched. A read that began before ends at most this much too late.
    PATIENCE_S = 0.01

    def __init__(
        self, route: _Route, transport: httpx.HTTPTransport, response: httpx.Response, deadline_s: float | None
    ) -> None:
        assert isinstance(response.stream, httpx.SyncByteStream)  # what a synchronous transport gives
        self._route = route
        self._transport: httpx.HTTPTransport | None = transport
        self._complete = False
        self._response = response
        self._pieces = iter(response.stream)
        self._deadline_s = deadline_s
        self._trusted_until_s = time.monotonic() + self.PATIENCE_S
        self._watched = False
        self._cut = False
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers

    def read(self) -> bytes:
        """The next bytes of the body, empty at its end. Raises TransportFailure."""
        if self._deadline_s is not None and not self._watched and time.monotonic() > self._trusted_until_s:
            self._watch(self._deadline_s)
        try:
            for piece in self._pieces:
                if piece:
                    return piece
        except httpx.HTTPError as error:
            failure = _failure(error, "timeout")
            raise (TransportFailure("timeout", failure.detail) if self._cut else failure) from error
        if self._cut:
            raise TransportFailure("timeout")  # an answer without a length ends where its connection does
        self._complete = True
        return b""

    def finish(self) -> None:
        """The rest does not matter: wait for it briefly, so that the connection can be used again."""
        self._watch(time.monotonic() + FINISH_S)
        try:
            while self.read():
                pass
        except TransportFailure:
            pass
        self.close()

    def close(self) -> None:
        """End it wherever it is, which tells the server that nobody listens any more. May be repeated."""
        if self._watched:
            self._watched = False
            _watchdog.forget(self)
        transport, self._transport = self._transport, None
        if transport is not None:
            self._response.close()
            for ended in _idle.give_back(self._route, transport) if self._complete else [transport]:
                ended.close()

    def cut(self) -> None:
        """Make the read that another thread waits in fail."""
        self._cut = True
        connection = self._response.extensions["network_stream"].get_extra_info("socket")
        if isinstance(connection, socket.socket):  # with TLS inside the TLS of a proxy too
            with contextlib.suppress(OSError):  # it may have ended by itself
                # Not SSLSocket.shutdown: that one drops the TLS state which the other thread is reading from.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _watch(self, deadline_s: float) -> None:
        self._watched = True
        _watchdog.watch(self, deadline_s)


_watchdog = _Watchdog()
_idle: _Idle[httpx.HTTPTransport] = _Idle()
#: What belongs to the parent process. A child must neither use nor close its connections, and closing could wait for a
#: lock that a thread held which does not exist here; so they are kept and left alone.
_of_parent: list[object] = []


def _forget_parent() -> None:
    global _idle, _watchdog
    _of_parent.append((_idle, _watchdog))
    _idle, _watchdog = _Idle(), _Watchdog()


def _close_idle() -> None:
    for transport in _idle.take_all():
        transport.close()


os.register_at_fork(after_in_child=_forget_parent)
atexit.register(_close_idle)


def open_stream(request: Request) -> Stream:
    """Send a request; gives its answer once that has begun. Raises TransportFailure."""
    deadline_s = _deadline_s(request.total_s)
    limit_s = head_limit_s(request)
    limits = {"connect": limit_s, "read": limit_s, "write": limit_s}
    if request.idle_s is not None:
        limits = _idle_limits(request)
    built = _httpx_request(request, _Body(request, limits, _deadline_s(limit_s)), limits)
    route = _route(request)
    transport = _idle.take(route)
    if transport is None:
        transport = httpx.HTTPTransport(verify=_tls(), limits=_LIMITS, proxy=_checked_proxy(route.proxy))
    try:
        response = transport.handle_request(built)
    except BaseException as error:
        transport.close()
        if isinstance(error, httpx.HTTPError):
            raise _failure(error, late_head(request)) from error
        raise
    if request.idle_s is None:
        limits["read"] = _left_s(deadline_s)  # looked up again when the body is first read
    return Stream(route, transport, response, deadline_s)


# --- asyncio ---------------------------------------------------------------------------------------------------------


class AsyncStream:
    """One answer while it arrives. Cancelling `read` leaves it usable only for `close`."""

    def __init__(
        self,
        connections: _LoopConnections,
        route: _Route,
        transport: httpx.AsyncHTTPTransport,
        response: httpx.Response,
        deadline_s: float | None,
    ) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)  # what an asynchronous transport gives
        self._connections = connections
        self._route = route
        self._transport: httpx.AsyncHTTPTransport | None = transport
        self._complete = False
        self._response = response
        self._pieces = aiter(response.stream)
        self._deadline_s = deadline_s
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        """The next bytes of the body, empty at its end. Raises TransportFailure."""
        try:
            async with asyncio.timeout(_left_s(self._deadline_s)):
                async for piece in self._pieces:
                    if piece:
                        return piece
            self._complete = True
            return b""
        except TimeoutError as error:
            raise TransportFailure("timeout") from error
        except httpx.HTTPError as error:
            raise _failure(error, "timeout") from error

    async def finish(self) -> None:
        """The rest does not matter: wait for it briefly, so that the connection can be used again."""
        self._deadline_s = time.monotonic() + FINISH_S
        try:
            while await self.read():
                pass
        except TransportFailure:
            pass
        await self.close()

    async def close(self) -> None:
        """End it wherever it is, which tells the server that nobody listens any more. May be repeated."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await self._response.aclose()
            for ended in self._connections.idle.give_back(self._route, transport) if self._complete else [transport]:
                await ended.aclose()


class _LoopConnections:
    """The idle connections of one event loop."""

    def __init__(self) -> None:
        self.idle: _Idle[httpx.AsyncHTTPTransport] = _Idle()
        self.keeper = self._keep()

    async def _keep(self) -> AsyncGenerator[None, None]:
        """Waits inside a generator that the loop closes on shutdown, and closes the connections then."""
        try:
            yield
        finally:
            for transport in self.idle.take_all():
                await transport.aclose()


_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopConnections] = WeakKeyDictionary()


async def _connections() -> _LoopConnections:
    loop = asyncio.get_running_loop()
    found = _of_loop.get(loop)
    if found is None:
        found = _of_loop[loop] = _LoopConnections()
        await anext(found.keeper)
    return found


async def open_stream_async(request: Request) -> AsyncStream:
    """Send a request; gives its answer once that has begun. Raises TransportFailure."""
    deadline_s = _deadline_s(request.total_s)
    limits: dict[str, float | None] = {}  # one timeout around it all is exact, and costs less
    if request.idle_s is not None:
        limits = _idle_limits(request)
    body = _Body(request, limits, None)
    built = _httpx_request(request, body, limits)
    route = _route(request)
    connections = await _connections()
    transport = connections.idle.take(route)
    if transport is None:
        transport = httpx.AsyncHTTPTransport(verify=_tls(), limits=_LIMITS, proxy=_checked_proxy(route.proxy))
    try:
        async with asyncio.timeout(head_limit_s(request) if request.idle_s is None else None):
            response = await transport.handle_async_request(built)
    except BaseException as error:
        await transport.aclose()
        if isinstance(error, TimeoutError):
            raise TransportFailure(late_head(request) if body.reached else "connect_timeout") from error
        if isinstance(error, httpx.HTTPError):
            raise _failure(error, "timeout") from error
        raise
    return AsyncStream(connections, route, transport, response, deadline_s)
