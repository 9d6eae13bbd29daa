"""The few ASGI pieces that both planes share: types, bodies in, JSON and text out, CORS."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from raybox_actors.errors import BadRequest

__all__ = [
    "CORS_HEADERS",
    "PROXIED",
    "ClientGone",
    "Headers",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "StreamAborted",
    "WatchedSend",
    "body_chunk",
    "body_pieces",
    "headers_of",
    "is_preflight",
    "json_response",
    "preflight_response",
    "read_body",
    "stream_start",
    "text_response",
    "wait_until_gone",
]

#: Request headers by lower-case name. Of a repeated header the last one counts.
Headers = Mapping[bytes, bytes]

#: Browsers may use both planes from anywhere: credentials are headers that a page must know, never cookies.
CORS_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"*"),
)


#: Set in the scope of a request that a server inside a sandbox answers.
PROXIED = "raybox.proxied"


class StreamAborted(Exception):
    """Raised through the ASGI server after the headers were sent: the client must not take the end for success."""


class ClientGone(Exception):
    """The client closed the connection before its request was complete; there is nobody to answer."""


class WatchedSend:
    """`send` that knows whether the response has begun: until then, another one can be sent in its place."""

    __slots__ = ("_send", "started")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def __call__(self, message: Message) -> None:
        self.started = True
        await self._send(message)


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    return dict(scope["headers"])


async def read_body(receive: Receive, headers: Headers, limit_bytes: int) -> bytes:
    """The whole request body. Raises BadRequest beyond `limit_bytes` (before reading it, if its length is announced)
    and ClientGone when the client leaves in the middle."""
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and (len(announced) > 18 or int(announced) > limit_bytes):
        raise BadRequest(f"the request body is longer than {limit_bytes} bytes")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit_bytes:
            raise BadRequest(f"the request body is longer than {limit_bytes} bytes")
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def body_pieces(receive: Receive) -> AsyncIterator[bytes]:
    """The request body as it comes, without a limit. Raises ClientGone when the client leaves in the middle."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        if part := message.get("body", b""):
            yield part
        if not message.get("more_body", False):
            return


async def wait_until_gone(receive: Receive) -> None:
    """Return when the client has gone. Only for requests whose body has been read. A broken channel counts as gone."""
    with contextlib.suppress(Exception):
        while (await receive())["type"] != "http.disconnect":
            pass


def stream_start(*headers: tuple[bytes, bytes]) -> Message:
    """Of an answer of lines of JSON that come one after the other; no proxy shall hold them back."""
    kind = ((b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
    return {"type": "http.response.start", "status": 200, "headers": [*kind, *headers]}


def body_chunk(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


def json_response(status: int, value: object, headers: Mapping[str, str] | None = None) -> Response:
    """ASCII JSON. Starlette's own JSONResponse fails on lone surrogates, which callers can put into any string."""
    body = json.dumps(value, separators=(",", ":")).encode("ascii")
    return Response(body, status, headers, media_type="application/json")


def text_response(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(text.encode("utf-8", "replace"), status, headers, media_type="text/plain")


def is_preflight(method: str, headers: Iterable[bytes]) -> bool:
    return method == "OPTIONS" and b"access-control-request-method" in headers


def preflight_response() -> Response:
    """Permissive. `*` covers every header but Authorization, which must be named."""
    return Response(
        status_code=204,
        headers={
            "access-control-allow-methods": "*",
            "access-control-allow-headers": "*, Authorization",
            "access-control-max-age": "7200",
        },
    )
