"""WebSockets of servers inside: messages are passed on both ways, with their kind, and the close with its code.

The client's side is the ASGI server's; the other one is websockets' protocol without I/O, over a dialled connection.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.responses import Response
from websockets.client import ClientProtocol
from websockets.datastructures import Headers as WebSocketHeaders
from websockets.exceptions import InvalidHandshake, WebSocketException
from websockets.frames import Frame, Opcode
from websockets.http11 import Response as Handshake
from websockets.protocol import State
from websockets.uri import parse_uri

from raybox_actors.agent.api import ByteStream
from raybox_actors.errors import RayboxError

from .asgi import Headers, Receive, Scope, Send

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
READ_BYTES: Final = 64 * 1024
HANDSHAKE_S: Final = 30.0

NORMAL, GOING_AWAY, NO_CODE, INTERNAL, TOO_BIG = 1000, 1001, 1005, 1011, 1009
#: Made by the protocol on either side, or meant for the gateway.
_NOT_FORWARDED: Final = frozenset(
    (
        b"connection",
        b"content-length",
        b"e2b-sandbox-id",
        b"e2b-sandbox-port",
        b"e2b-traffic-access-token",
        b"host",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
        b"transfer-encoding",
        b"upgrade",
    )
)
_NOT_RETURNED: Final = frozenset(
    (
        "connection",
        "content-length",
        "date",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-protocol",
        "transfer-encoding",
        "upgrade",
    )
)


async def refuse(response: Response, scope: Scope, send: Send) -> None:
    """Answer a handshake with an HTTP response; where the server cannot, close it, which is a 403."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    start = {"type": "websocket.http.response.start", "status": response.status_code, "headers": response.raw_headers}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": bytes(response.body), "more_body": False})


async def relay(stream: ByteStream, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
    """Until either side closes. A server that does not shake hands is a refusal with its own status, or a 502. Raises
    RayboxError before the handshake is over."""
    socket = _Inside(stream, headers, scope)
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            handshake = await socket.handshake()
    except (TimeoutError, WebSocketException):
        handshake = None
    if not isinstance(handshake, Handshake) or handshake.status_code != 101:
        await refuse(_refusal(handshake), scope, send)
        return
    await receive()  # websocket.connect
    returned = [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in handshake.headers.raw_items()
        if name.lower() not in _NOT_RETURNED
    ]
    await send({"type": "websocket.accept", "subprotocol": socket.subprotocol, "headers": returned})
    inwards = asyncio.ensure_future(_inwards(socket, receive))
    outwards = asyncio.ensure_future(_outwards(socket, send))
    try:
        await asyncio.wait((inwards, outwards), return_when=asyncio.FIRST_COMPLETED)
        if outwards.done():
            code, reason = outwards.result()
            await send({"type": "websocket.close", "code": code, "reason": reason})
        elif isinstance(inwards.exception(), RayboxError):
            await send({"type": "websocket.close", "code": INTERNAL, "reason": "the server closed the connection"})
    finally:
        for task in (inwards, outwards):
            task.cancel()
        await asyncio.wait((inwards, outwards))


def _refusal(handshake: Handshake | None) -> Response:
    if handshake is None or handshake.status_code < 300:
        return Response(b"The server at this port does not speak WebSocket", 502, media_type="text/plain")
    kept = {name: value for name, value in handshake.headers.raw_items() if name.lower() not in _NOT_RETURNED}
    return Response(bytes(handshake.body or b""), handshake.status_code, kept)


class _Inside:
    """The connection to the server inside, as messages."""

    def __init__(self, stream: ByteStream, headers: Headers, scope: Scope) -> None:
        self._stream, self._headers, self._scope = stream, headers, scope
        self._protocol = ClientProtocol(
            parse_uri("ws://localhost/"),
            extensions=None,
            subprotocols=scope.get("subprotocols") or None,
            max_size=MAX_MESSAGE_BYTES,
        )
        self._turn = asyncio.Lock()  #: frames of both directions' making must not get between each other

    @property
    def subprotocol(self) -> str | None:
        return self._protocol.subprotocol

    @property
    def close_code(self) -> tuple[int, str]:
        received = self._protocol.close_rcvd
        if received is not None:
            return (NORMAL if received.code == NO_CODE else received.code), received.reason
        sent = self._protocol.close_sent
        return (sent.code, sent.reason) if sent is not None else (INTERNAL, "the server closed the connection")

    async def handshake(self) -> Handshake | None:
        """The server's answer; None if it is none. Raises InvalidHandshake, RayboxError."""
        request = self._protocol.connect()
        path = self._scope.get("raw_path") or self._scope["path"].encode()
        query = self._scope["query_string"]
        request.path = (path + (b"?" + query if query else b"")).decode("latin-1")
        del request.headers["Host"]
        request.headers["Host"] = self._headers.get(b"host", b"localhost").decode("latin-1")
        for name, value in self._scope["headers"]:
            if name not in _NOT_FORWARDED:
                request.headers[name.decode("latin-1")] = value.decode("latin-1")
        _check(request.headers)
        self._protocol.send_request(request)
        await self._flush()
        while True:
            for event in self._protocol.events_received():
                if isinstance(event, Handshake):
                    if self._protocol.handshake_exc is not None and event.status_code == 101:
                        raise self._protocol.handshake_exc
                    return event
            if not await self._read():
                return None

    async def _read(self) -> bool:
        """False at the end of the connection, which `events_received` may still have something after."""
        if self._protocol.state is State.CLOSED:
            return False
        data = await self._stream.read(READ_BYTES)
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        await self._flush()
        return bool(data)

    async def _flush(self) -> None:
        """Send what the protocol wants sent: our frames, and its answers to pings and closes."""
        async with self._turn:
            for data in self._protocol.data_to_send():
                if data:
                    await self._stream.write(data)
                else:
                    await self._stream.write_eof()

    async def frames(self) -> list[Frame] | None:
        """Those that came; None when there will be no more."""
        while True:
            if frames := [event for event in self._protocol.events_received() if isinstance(event, Frame)]:
                return frames
            # After a close, or what is no WebSocket, the server need not be waited for.
            if self._protocol.close_rcvd is not None or self._protocol.parser_exc is not None:
                return None
            if not await self._read():
                rest = [event for event in self._protocol.events_received() if isinstance(event, Frame)]
                return rest or None

    async def send(self, data: str | bytes) -> None:
        if self._protocol.state is not State.OPEN:
            return
        if isinstance(data, str):
            self._protocol.send_text(data.encode())
        else:
            self._protocol.send_binary(data)
        await self._flush()

    async def close(self, code: int, reason: str) -> None:
        """Say so, and wait for nothing: whoever called closes the connection."""
        if self._protocol.state is not State.OPEN:
            return
        sendable = code in (*range(1000, 1004), *range(1007, 1015)) or 3000 <= code < 5000
        self._protocol.send_close(code if sendable else GOING_AWAY, reason if sendable else "")
        await self._flush()


def _check(headers: WebSocketHeaders) -> None:
    """What was split by a server into headers has no line breaks, but this is where they would become new ones."""
    if any("\r" in value or "\n" in value for _, value in headers.raw_items()):
        raise InvalidHandshake("a header has a line break")


async def _inwards(socket: _Inside, receive: Receive) -> None:
    """From the client to the server inside, until the client has gone or closed."""
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            await socket.close(message.get("code") or GOING_AWAY, message.get("reason") or "")
            return
        text = message.get("text")
        await socket.send(text if text is not None else message.get("bytes") or b"")


async def _outwards(socket: _Inside, send: Send) -> tuple[int, str]:
    """From the server inside to the client; the code and the reason with which it ended."""
    text = False
    parts: list[bytes] = []
    try:
        while (frames := await socket.frames()) is not None:
            for frame in frames:
                if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                    if frame.opcode is not Opcode.CONT:
                        text = frame.opcode is Opcode.TEXT
                    parts.append(bytes(frame.data))
                    if frame.fin:
                        data, parts = b"".join(parts), []
                        await send(_message(data, text))
    except RayboxError:
        return GOING_AWAY, "the sandbox has gone"
    except UnicodeDecodeError:
        return 1007, "text that is not UTF-8"
    return socket.close_code


def _message(data: bytes, text: bool) -> dict[str, object]:
    if text:
        return {"type": "websocket.send", "text": data.decode()}
    return {"type": "websocket.send", "bytes": data}
