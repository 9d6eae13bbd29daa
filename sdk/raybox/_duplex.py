"""A request whose body is still being sent while its answer arrives, which httpx cannot do. asyncio, HTTP/1.1."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import h11

from . import _http
from ._errors import InvalidArgumentException
from ._requests import Request
from ._responses import TransportFailure

if TYPE_CHECKING:
    import httpx

READ_BYTES = 64 * 1024
RawHeaders: TypeAlias = list[tuple[bytes, bytes]]


class DuplexStream:
    """One answer while it arrives, and the body that is sent meanwhile."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._reader, self._writer, self._request = reader, writer, request
        self._protocol = h11.Connection(h11.CLIENT)
        self._feeding: asyncio.Task[None] | None = None

    async def begin(self, target: bytes, headers: RawHeaders) -> None:
        """Send the head, begin to send the body, return when the answer begins. Raises TransportFailure."""
        head = [*headers, (b"Transfer-Encoding", b"chunked")]
        self._send(h11.Request(method=self._request.method, target=target, headers=head))
        self._feeding = asyncio.get_running_loop().create_task(self._feed())
        while True:
            event = await self._next()
            if isinstance(event, h11.Response):
                self.status = event.status_code
                self.headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                return
            if event is h11.PAUSED or isinstance(event, (h11.ConnectionClosed, h11.EndOfMessage)):
                raise TransportFailure("broken", "the connection ended before the answer began")

    async def _feed(self) -> None:
        """What goes wrong with the connection is seen by who reads; a server that wants no more says so there, too."""
        assert isinstance(self._request.body, AsyncIterable)
        with contextlib.suppress(OSError, h11.LocalProtocolError):
            async for piece in self._request.body:
                if piece:
                    self._send(h11.Data(data=piece))
                    await self._writer.drain()
            self._send(h11.EndOfMessage())

    def _send(self, event: h11.Event) -> None:
        if data := self._protocol.send(event):
            self._writer.write(data)

    async def _next(self) -> object:
        try:
            while (event := self._protocol.next_event()) is h11.NEED_DATA:
                self._protocol.receive_data(await self._reader.read(READ_BYTES))
        except (OSError, h11.RemoteProtocolError) as error:
            raise TransportFailure("broken", str(error) or type(error).__name__) from error
        return event

    async def read(self) -> bytes:
        """The next bytes of the body, empty at its end. Raises TransportFailure."""
        while True:
            try:
                async with asyncio.timeout(self._request.idle_s):
                    event = await self._next()
            except TimeoutError as error:
                raise TransportFailure("timeout", "nothing came for too long") from error
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if isinstance(event, h11.EndOfMessage):
                return b""
            if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                raise TransportFailure("broken", "the connection ended in the midst of the answer")

    async def finish(self) -> None:
        """The rest does not matter."""
        await self.close()

    async def close(self) -> None:
        """End it wherever it is, which tells the server that nobody listens any more. May be repeated."""
        if self._feeding is not None:
            self._feeding.cancel()
            await asyncio.wait({self._feeding})
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def open_duplex(request: Request) -> DuplexStream:
    """Send a request with an asynchronous body; gives its answer once that has begun. Raises TransportFailure."""
    url, headers = _http._url_and_headers(request.url, request.headers)
    route = _http._route(request)
    try:
        async with asyncio.timeout(request.connect_s):
            reader, writer, target, more = await _connect(url, route.proxy)
    except TimeoutError as error:
        raise TransportFailure("connect_timeout") from error
    except OSError as error:
        raise TransportFailure("connect", str(error)) from error
    stream = DuplexStream(reader, writer, request)
    try:
        async with asyncio.timeout(request.connect_s):
            await stream.begin(target, [*headers.raw, *more])
    except TimeoutError as error:
        await stream.close()
        raise TransportFailure("head_timeout") from error
    except BaseException:
        await stream.close()
        raise
    return stream


async def _connect(
    url: httpx.URL, proxy: str | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes, RawHeaders]:
    """A connection, what to ask for on it, and with what besides. Through a proxy, TLS goes through a tunnel."""
    secure = url.scheme == "https"
    port = url.port or (443 if secure else 80)
    if proxy is None:
        context = _http._tls() if secure else None
        reader, writer = await asyncio.open_connection(url.host, port, ssl=context, limit=2**20)
        return reader, writer, url.raw_path, []
    found = _http._checked_proxy(proxy)
    assert found is not None
    via = found.url
    if via.scheme not in ("http", "https"):
        raise InvalidArgumentException(f"a batch goes through no {via.scheme} proxy, only through one of HTTP")
    auth = _authorization(found)
    context = _http._tls() if via.scheme == "https" else None
    reader, writer = await asyncio.open_connection(
        via.host, via.port or (80 if context is None else 443), ssl=context, limit=2**20
    )
    if not secure:
        return reader, writer, b"%b://%b%b" % (url.raw_scheme, url.netloc, url.raw_path), auth
    try:
        writer.write(b"CONNECT %b:%d HTTP/1.1\r\nHost: %b:%d\r\n" % (url.raw_host, port, url.raw_host, port))
        writer.write(b"".join(b"%b: %b\r\n" % header for header in auth) + b"\r\n")
        said = await reader.readuntil(b"\r\n\r\n")
        if said.split(b" ", 2)[1:2] != [b"200"]:
            raise OSError(f"the proxy refused: {said.splitlines()[0].decode('latin-1')}")
        await writer.start_tls(_http._tls(), server_hostname=url.host)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        writer.close()
        raise OSError("the proxy hung up") from error
    except BaseException:
        writer.close()
        raise
    return reader, writer, url.raw_path, []


def _authorization(proxy: httpx.Proxy) -> RawHeaders:
    """Of the name and password in its URL, if there are any."""
    if proxy.raw_auth is None:
        return []
    return [(b"Proxy-Authorization", b"Basic " + base64.b64encode(b":".join(proxy.raw_auth)))]
