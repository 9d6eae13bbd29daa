"""One HTTP-shaped request through an ASGI application, without HTTP: fed and read in pieces by somebody far away.

Neither way holds more than a piece or two: who writes waits until the other side has taken what there is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope

#: Ray sends what is smaller than 100 KiB with the call itself, and everything else by way of its object store.
PIECE_BYTES: Final = 96 * 1024
#: The application waits while so much of its answer is not yet read.
UNREAD_BYTES: Final = 2 * PIECE_BYTES

#: An exchange that nobody has asked about for so long has lost its caller. Callers that live say so every 5 s.
IDLE_S: Final = 20.0
#: The longest that one call waits; then it answers with nothing, and its caller asks again.
WAIT_MOST_S: Final = 30.0

#: `open`: there is more to come, or may be. `ended`: this was all. `broken`: it stopped before its end.
Stage = Literal["open", "ended", "broken"]

#: What was read at once: status (0 until the answer begins), headers (once, with the status), data, stage.
Part: TypeAlias = tuple[int, list[tuple[str, str]], bytes, Stage]

_running: set[asyncio.Task[None]] = set()


class Exchange:
    """Begins at once, in a task of its own. Used on one loop, by one reader and one writer."""

    def __init__(
        self, app: ASGIApp, method: str, target: str, headers: list[tuple[str, str]], body: bytes, more: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        self.touched_s = loop.time()  #: when somebody last asked about it
        self._asking = 0  #: calls that wait for it
        self._loop = loop
        self._fed: deque[bytes] = deque((body,))
        self._whole = not more  #: all of the body has been fed
        self._taken = False  #: all of it, by the application
        self._gone = False
        self._status = 0
        self._headers: list[tuple[str, str]] = []
        self._head_due = False  #: it has been sent and not been read
        self._unread: deque[bytes] = deque()
        self._unread_bytes = 0
        self._stage: Stage = "open"
        self._changed = asyncio.Event()
        self._task = loop.create_task(self._run(app, _scope(method, target, headers)))
        _running.add(self._task)  # the application may have something to do after the end of its answer
        self._task.add_done_callback(_running.discard)

    @property
    def idle_since_s(self) -> float:
        return self._loop.time() if self._asking else self.touched_s

    async def feed(self, data: bytes, more: bool) -> bool:
        """Hand over the next piece of the body and return when it has been taken; false if nobody wants any more."""
        async with self._asked():
            self._fed.append(data)
            self._whole = not more
            self._change()
            while self._fed and self._stage == "open" and not self._gone:
                await self._changed.wait()
            return self._stage == "open" and not self._gone

    async def read(self, wait_s: float) -> Part:
        """What there is to be read, at most a piece of it; if there is nothing, after up to `wait_s`."""
        async with self._asked():
            deadline_s = self._loop.time() + wait_s
            while not (self._unread or self._stage != "open" or self._head_due):
                try:
                    async with asyncio.timeout_at(deadline_s):
                        await self._changed.wait()
                except TimeoutError:
                    break
            return self._take()

    def touch(self) -> None:
        """Its caller is still there."""
        self.touched_s = self._loop.time()

    def abandon(self) -> None:
        """There is nobody any more. May be repeated."""
        if not self._gone:
            self._gone = True
            self._unread.clear()
            self._unread_bytes = 0
            self._task.cancel()
            self._change()

    def _take(self) -> Part:
        size, taken = 0, []
        while self._unread and size < PIECE_BYTES:
            piece = self._unread.popleft()
            if size + len(piece) > PIECE_BYTES:
                room = PIECE_BYTES - size
                self._unread.appendleft(piece[room:])
                piece = piece[:room]
            size += len(piece)
            taken.append(piece)
        self._unread_bytes -= size
        headers, self._headers = self._headers, []
        self._head_due = False
        self._change()
        stage: Stage = "broken" if self._gone else "open" if self._unread else self._stage
        return self._status, headers, b"".join(taken), stage

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            # The application has logged what it did not expect. After its answer began, raising is how it says that the
            # rest must not be taken for all of it.
            with contextlib.suppress(Exception):
                await app(scope, self._receive, self._send)
        finally:
            if self._stage == "open":
                self._stage = "broken"
            self._change()

    async def _receive(self) -> Message:
        while True:
            if self._gone or (self._taken and self._stage != "open"):
                return {"type": "http.disconnect"}
            if not self._taken and (self._fed or self._whole):
                data = self._fed.popleft() if self._fed else b""
                self._taken = self._whole and not self._fed
                self._change()
                return {"type": "http.request", "body": data, "more_body": not self._taken}
            await self._changed.wait()

    async def _send(self, message: Message) -> None:
        if self._gone:
            raise OSError("the caller has gone")
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = [
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers", ())
            ]
            self._head_due = True
            self._change()  # the reader wakes after this step, in which most answers are sent whole
            return
        data = message.get("body", b"")
        if data:
            self._unread.append(data)
            self._unread_bytes += len(data)
        if not message.get("more_body", False):
            self._stage = "ended"
        self._change()
        while self._unread_bytes > UNREAD_BYTES and not self._gone:
            await self._changed.wait()

    def _change(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _asked(self) -> _Asking:
        return _Asking(self)


class Exchanges:
    """Those under way, by the names that their callers gave them. Used on one loop. Builtins alone go in and out: these
    are the methods of the actor (front.py)."""

    def __init__(self, app: ASGIApp, idle_s: float = IDLE_S) -> None:
        self._app, self._idle_s = app, idle_s
        self._open: dict[str, Exchange] = {}

    def __len__(self) -> int:
        return len(self._open)

    async def open(
        self,
        exchange_id: str,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        body: bytes,
        more: bool,
        wait_s: float,
    ) -> Part:
        """Begin one; `target` is path and query, `more` says that `feed` brings the rest of the body. Answers as `read`
        does."""
        self.close(exchange_id)
        self._open[exchange_id] = Exchange(self._app, method, target, headers, body, more)
        return await self.read(exchange_id, wait_s)

    async def feed(self, exchange_id: str, data: bytes, more: bool) -> bool:
        """Exchange.feed; false, too, if there is none of this name, or not any more."""
        exchange = self._open.get(exchange_id)
        return exchange is not None and await exchange.feed(data, more)

    async def read(self, exchange_id: str, wait_s: float) -> Part:
        """Exchange.read, of an exchange that is forgotten once its end has been read; `broken` if there is none."""
        exchange = self._open.get(exchange_id)
        if exchange is None:
            return 0, [], b"", "broken"
        part = await exchange.read(min(wait_s, WAIT_MOST_S))
        if part[-1] != "open" and self._open.get(exchange_id) is exchange:
            del self._open[exchange_id]
        return part

    def touch(self, exchange_ids: Iterable[str]) -> None:
        """Their callers are still there, though they do not read."""
        for exchange_id in exchange_ids:
            if (exchange := self._open.get(exchange_id)) is not None:
                exchange.touch()

    def close(self, exchange_id: str) -> None:
        """Nobody wants the rest; to the application this is a client that went away. May be repeated."""
        if (exchange := self._open.pop(exchange_id, None)) is not None:
            exchange.abandon()

    def expire(self) -> list[str]:
        """Close those whose callers have not been heard of for `idle_s`; gives their names."""
        since_s = asyncio.get_running_loop().time() - self._idle_s
        expired = [name for name, exchange in self._open.items() if exchange.idle_since_s < since_s]
        for name in expired:
            self.close(name)
        return expired


class _Asking:
    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def __aenter__(self) -> None:
        self._exchange._asking += 1

    async def __aexit__(self, *_: object) -> None:
        self._exchange._asking -= 1
        self._exchange.touch()


def _scope(method: str, target: str, headers: list[tuple[str, str]]) -> Scope:
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("ascii", "replace"),
        "query_string": query.encode("ascii", "replace"),
        "root_path": "",
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        "client": None,
        "server": None,
    }
