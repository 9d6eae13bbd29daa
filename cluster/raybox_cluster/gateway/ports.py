"""Any other port: a request is handed to the server inside that listens there, over a connection of its own.

Bytes of that server are untrusted: h11 reads them, with bounded headers, and what is no HTTP/1.1 is a 502. Headers that
are about the connection stay on it; all others pass, Host included. CORS is the server's own business.
"""

from __future__ import annotations

import asyncio
from typing import Final

import h11
from starlette.responses import Response

from raybox_actors.agent.api import ByteStream
from raybox_actors.agent.errors import AgentError
from raybox_actors.errors import BadRequest, RayboxError

from .asgi import PROXIED, ClientGone, Headers, Receive, Scope, Send, StreamAborted, WatchedSend, json_response
from .backend import Backend
from .errors import port_closed_response
from .ports_websocket import refuse, relay
from .resolver import Target
from .routes_envd import require_running
from .rpc import telling

MAX_RESPONSE_HEADER_BYTES: Final = 64 * 1024
READ_BYTES: Final = 64 * 1024

#: About one connection only (RFC 9110, 7.6.1), or meant for the gateway.
NOT_FORWARDED: Final = frozenset(
    (
        b"connection",
        b"e2b-sandbox-id",
        b"e2b-sandbox-port",
        b"e2b-traffic-access-token",
        b"expect",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
#: The gateway's own server says the time.
NOT_RETURNED: Final = NOT_FORWARDED | {b"date"}

RawHeaders = list[tuple[bytes, bytes]]


class Ports:
    """Stateless but for the requests under way."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def http(self, target: Target, headers: Headers, scope: Scope, receive: Receive, send: WatchedSend) -> None:
        """Raises what says that the sandbox is gone, ClientGone, and StreamAborted if the server inside breaks off."""
        request = request_head(headers, scope)
        stream = await self._dial(target)
        if stream is None:
            await port_closed_response(target.sandbox_id, target.port)(scope, receive, send)
            return
        try:
            await _Exchange(request, stream, receive, send, scope).run()
        except h11.RemoteProtocolError:
            if send.started:
                raise StreamAborted("the server inside broke off its answer") from None
            await self._require(target)
            await _bad_gateway(target)(scope, receive, send)
        except AgentError as error:
            if send.started:
                raise
            if (await self._telling(target, error)).code != "unavailable":
                raise
            await _bad_gateway(target)(scope, receive, send)
        finally:
            stream.abort()

    async def websocket(self, target: Target, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises RayboxError as long as nothing was sent."""
        stream = await self._dial(target)
        if stream is None:
            await refuse(port_closed_response(target.sandbox_id, target.port), scope, send)
            return
        try:
            await relay(stream, headers, scope, receive, send)
        finally:
            stream.abort()

    async def _dial(self, target: Target) -> ByteStream | None:
        """None if nothing listens there."""
        try:
            return await (await self._backend.agent(target.sandbox_id)).dial(target.port)
        except RayboxError as error:
            if isinstance(error, AgentError) and error.code == "port_closed":
                return None
            raise await telling(error, lambda: self._require(target)) from None

    async def _telling(self, target: Target, error: AgentError) -> AgentError:
        told = await telling(error, lambda: self._require(target))
        assert isinstance(told, AgentError)
        return told

    async def _require(self, target: Target) -> None:
        await require_running(self._backend, target.sandbox_id)


def forwarded(headers: RawHeaders, dropped: frozenset[bytes]) -> RawHeaders:
    """Without those that are about the connection, the ones that it names itself included."""
    named = {
        name.strip().lower() for key, value in headers if key.lower() == b"connection" for name in value.split(b",")
    }
    return [(key, value) for key, value in headers if key.lower() not in dropped and key.lower() not in named]


def request_head(headers: Headers, scope: Scope) -> h11.Request:
    """The request as the server inside gets it. Raises BadRequest for what HTTP/1.1 cannot say."""
    path = scope.get("raw_path") or scope["path"].encode()
    query = scope["query_string"]
    passed = forwarded(list(scope["headers"]), NOT_FORWARDED)
    if b"transfer-encoding" in headers:
        passed = [(key, value) for key, value in passed if key != b"content-length"]
        passed.append((b"transfer-encoding", b"chunked"))
    client = scope.get("client")
    if client and b"x-forwarded-for" not in headers:
        passed.append((b"x-forwarded-for", str(client[0]).encode()))
    if b"x-forwarded-proto" not in headers:
        passed.append((b"x-forwarded-proto", str(scope.get("scheme", "http")).encode()))
    if b"x-forwarded-host" not in headers and b"host" in headers:
        passed.append((b"x-forwarded-host", headers[b"host"]))
    if b"host" not in headers:  # HTTP/1.0 may leave it out
        passed.append((b"host", b"localhost"))
    passed.append((b"connection", b"close"))
    try:
        return h11.Request(
            method=scope["method"].encode(), target=path + (b"?" + query if query else b""), headers=passed
        )
    except (h11.LocalProtocolError, UnicodeEncodeError) as error:
        raise BadRequest(f"the request cannot be passed on: {error}") from None


class _Exchange:
    """One request and its answer over one connection to the server inside."""

    def __init__(self, request: h11.Request, stream: ByteStream, receive: Receive, send: Send, scope: Scope) -> None:
        self._request, self._stream = request, stream
        self._receive, self._send, self._scope = receive, send, scope
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_RESPONSE_HEADER_BYTES)
        self._body_sent = False

    async def run(self) -> None:
        """The body goes in while the answer comes out: a server may answer before it has read everything."""
        uploading = asyncio.ensure_future(self._upload())
        answering = asyncio.ensure_future(self._answer())
        try:
            await asyncio.wait((uploading, answering), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                gone = uploading.exception()
                if isinstance(gone, ClientGone):
                    raise gone
                # A server that answers early may close its end for reading; what it says is in the answer.
                if gone is not None and not isinstance(gone, AgentError):
                    raise gone
                watching = asyncio.ensure_future(self._until_gone())
                try:
                    await asyncio.wait((watching, answering), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    watching.cancel()
                if not answering.done():
                    raise ClientGone
            answering.result()
        finally:
            for task in (uploading, answering):
                task.cancel()
            await asyncio.wait((uploading, answering))
            if not uploading.cancelled():
                uploading.exception()

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _upload(self) -> None:
        await self._write(self._request)
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            if part := message.get("body", b""):
                await self._write(h11.Data(data=part))
            if not message.get("more_body", False):
                await self._write(h11.EndOfMessage())
                return

    async def _write(self, event: h11.Event) -> None:
        try:
            data = self._http.send(event)
        except h11.LocalProtocolError as error:  # more body than was announced
            raise BadRequest(f"the request cannot be passed on: {error}") from None
        if data:
            await self._stream.write(data)

    async def _answer(self) -> None:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._stream.read(READ_BYTES))
            elif isinstance(event, h11.Response):
                self._scope[PROXIED] = True
                headers = forwarded(list(event.headers), NOT_RETURNED)
                await self._send({"type": "http.response.start", "status": event.status_code, "headers": headers})
            elif isinstance(event, h11.Data):
                await self._send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
            elif isinstance(event, h11.EndOfMessage):
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            elif not isinstance(event, h11.InformationalResponse):  # closed, or paused: there is no answer
                raise h11.RemoteProtocolError("the connection ended without an answer")


def _bad_gateway(target: Target) -> Response:
    return json_response(
        502,
        {
            "sandboxId": target.sandbox_id,
            "message": "The server at this port does not answer in HTTP",
            "port": target.port,
            "code": 502,
            "kind": "bad_request",
            "retryable": False,
            "should_mask_sample": False,
        },
    )
