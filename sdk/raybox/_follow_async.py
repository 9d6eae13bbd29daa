"""Following an execution to its end, over as many connections as it takes. Its twin is `_follow_sync.py`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from . import _responses, _transport
from ._callbacks import called
from ._channel_async import Channel
from ._errors import RayboxError
from ._models import Execution
from ._reattach import Reattaching
from ._requests import Request
from ._responses import Reply, TransportFailure
from ._run import Run
from ._transport import AsyncStream


async def follow(
    channel: Channel,
    ask: Callable[[int], Request],
    run: Run,
    reattach: bool = False,
    interrupt: Request | None = None,
) -> Execution:
    """The execution once it has ended. Raises what its failure means, and what a callback raises.

    ask: gives the request for its events from a number on. reattach: to ask again when a connection is lost. interrupt:
    sent when the call ends before the execution does.
    """
    request = ask(run.next_event)
    reattaching = Reattaching(request.total_s) if reattach else None
    try:
        while True:
            failure: TransportFailure | RayboxError
            try:
                stream = await _opened(request if reattaching is None else reattaching.rest(request))
            except (TransportFailure, RayboxError) as error:
                failure = error
            else:
                try:
                    while not run.ended:
                        try:
                            if not (data := await stream.read()):
                                raise TransportFailure("broken", "it ended without an end_of_execution event")
                        except TransportFailure as error:
                            failure = error
                            break
                        for handler, value in run.feed(data):
                            await called(handler, value)
                    else:
                        await stream.finish()
                        return run.execution
                finally:
                    await stream.close()
            delay_s = None if reattaching is None else reattaching.delay_s(failure, run.next_event)
            if delay_s is None:
                if isinstance(failure, RayboxError):
                    raise failure
                raise await channel.explain(request, failure) from failure
            await asyncio.sleep(delay_s)
            run.reconnect()
            request = ask(run.next_event)
    finally:
        if interrupt is not None and not run.ended:
            with contextlib.suppress(RayboxError):  # or else the server does it, a while after nobody listens
                await channel.send(interrupt)


async def _opened(request: Request) -> AsyncStream:
    stream = await _transport.open_stream_async(request)
    if stream.status == 200:
        return stream
    try:
        reply = Reply(stream.status, stream.headers, await _transport.read_all_async(stream))
    finally:
        await stream.close()
    raise _responses.error_of(request, reply)
