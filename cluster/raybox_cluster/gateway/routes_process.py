"""`process.Process` on port 49983 (contract 4.5): every method, by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager

from raybox_actors.errors import BadRequest
from raybox_actors.fields import Json

from . import process_messages as m
from .protojson import Message
from .rpc import Call, Method, mapped, unary


async def _list(call: Call, _: Message) -> Json:
    return m.list_body(await call.agent.list_processes())


def _start(call: Call, message: Message) -> AbstractAsyncContextManager[AsyncIterator[Json]]:
    """The agent keeps the deadline: it is the process's, not this connection's."""
    return mapped(call.agent.start_process(m.parse_start(message, call.user, call.timeout_s)), m.event_body)


def _connect(call: Call, message: Message) -> AbstractAsyncContextManager[AsyncIterator[Json]]:
    return mapped(call.agent.connect_process(m.selector(message)), m.event_body)


async def _update(call: Call, message: Message) -> Json:
    selector, size = m.selector(message), m.pty_size(message)
    if size is not None:
        await call.agent.resize(selector, size)
    return {}


async def _send_input(call: Call, message: Message) -> Json:
    data, pty = m.process_input(message)
    await call.agent.send_input(m.selector(message), data, pty=pty)
    return {}


async def _stream_input(call: Call, messages: AsyncIterator[Message]) -> Json:
    """In order; what was written stays written when the client goes away in the middle."""
    selector = None
    async for message in messages:
        if (start := message.message("start")) is not None:
            if selector is not None:
                raise BadRequest("the stream was started already")
            selector = m.selector(start)
        elif (data := message.message("data")) is not None:
            if selector is None:
                raise BadRequest("the first message must be start")
            written, pty = m.process_input(data)
            await call.agent.send_input(selector, written, pty=pty)
        elif not message.has("keepalive"):
            raise BadRequest("a message must have start, data or keepalive")
    if selector is None:
        raise BadRequest("the first message must be start")
    return {}


async def _send_signal(call: Call, message: Message) -> Json:
    await call.agent.signal_process(m.selector(message), m.signal_number(message))
    return {}


async def _close_stdin(call: Call, message: Message) -> Json:
    await call.agent.close_stdin(m.selector(message))
    return {}


PROCESS: Mapping[str, Method] = {
    "List": unary(_list),
    "Start": Method(stream=_start, keepalive=m.KEEPALIVE, own_deadline=True),
    "Connect": Method(stream=_connect, keepalive=m.KEEPALIVE),
    "Update": unary(_update),
    "SendInput": unary(_send_input),
    "StreamInput": Method(client_stream=_stream_input),
    "SendSignal": unary(_send_signal),
    "CloseStdin": unary(_close_stdin),
}
