"""What goes through a front: everything but executions, as HTTP-shaped requests. Steps, without Ray."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from ._ray_session import Session
from ._ray_wire import (
    PIECE_BYTES,
    RETRY_PAUSE_S,
    WAIT_S,
    ActorDied,
    CallFailed,
    Find,
    Limits,
    Next,
    NoActor,
    Pause,
    Steps,
    Wait,
    cut,
    own_headers,
    pieces_of,
    pool_and_target,
    repeatable,
)
from ._requests import Request
from ._responses import TransportFailure

#: How long the last of an answer may take when nothing of interest is left in it.
FINISH_S = 1.0


class FrontAnswer:
    """The answer to one request while it arrives. Use: `open`, then `read` to the end or `leave`."""

    def __init__(self, session: Session, request: Request, feeds_apart: bool = False) -> None:
        """feeds_apart: `open` only begins it; then `feed` and `head` go on at the same time."""
        self.status = 0
        self.headers: Mapping[str, str] = {}
        own_headers(request.headers)  # refuses what no header can hold
        if request.operation == "create" and not repeatable(request):
            # A front that dies in the middle may have made the sandbox; asked again, the next one finds it.
            key = ("Idempotency-Key", f"raybox-{uuid.uuid4().hex}")
            request = request._replace(headers=(*request.headers, key))
        self.session, self._request, self._feeds_apart = session, request, feeds_apart
        self._limits = Limits(request)
        self._exchange_id = ""
        self._front: Any = None
        self._data = b""
        self._stage = "ended"

    @property
    def open_ended(self) -> bool:
        """Whether there is somebody who must be told when nobody listens any more."""
        return self._stage == "open"

    def open(self) -> Steps[None]:
        """Until the answer begins. Raises TransportFailure, NotFoundException, and what reading the body raises."""
        named, target = pool_and_target(self._request.url)
        pool = yield from self.session.pool(named, self._limits)
        attempts = self._request.connect_retries
        while True:
            name = yield from self.session.front(pool, self._limits)
            sent = False
            try:
                self._front = yield Find(name, self._limits.head_s())
                sent = True
                yield from self._begin(target)
                return
            except TimeoutError as error:
                raise TransportFailure(self._limits.late_head if sent else "connect_timeout") from error
            except (NoActor, ActorDied, CallFailed) as error:
                self._stage = "ended"
                self.session.forget_front(pool)
                if attempts <= 0 or (sent and not repeatable(self._request)):
                    raise TransportFailure("broken" if sent else "connect", str(error)) from error
                attempts -= 1
            yield Pause(RETRY_PAUSE_S)

    def read(self) -> Steps[bytes]:
        """The next bytes of the body, empty at its end. Raises TransportFailure."""
        try:
            while not self._data and self._stage == "open":
                yield from self._more(self._limits.rest_s())
        except TimeoutError as error:
            raise TransportFailure("timeout") from error
        except (ActorDied, CallFailed) as error:
            self._stage = "broken"
            raise TransportFailure("broken", str(error)) from error
        data, self._data = self._data, b""
        if not data:
            self._check()
        return data

    def finish(self) -> Steps[None]:
        """The rest does not matter: let it end by itself, if it does so soon."""
        try:
            while self._stage == "open":
                yield from self._more(FINISH_S)
        except (TimeoutError, ActorDied, CallFailed):
            pass

    def leave(self) -> None:
        """Nobody listens any more. Does not wait. May be repeated."""
        if self._stage == "open":
            self._stage = "broken"
            self._front.close.remote(self._exchange_id)

    def cut(self) -> None:
        """Make the read that another thread waits in fail."""
        self.leave()

    def pulse(self) -> None:
        """Somebody is still there, though nothing is read. Does not wait."""
        if self._stage == "open" and self._front is not None:
            self._front.touch.remote([self._exchange_id])

    def _begin(self, target: str) -> Steps[None]:
        request, body = self._request, self._request.body
        whole = isinstance(body, bytes) and len(body) <= PIECE_BYTES
        self._exchange_id, self._stage = uuid.uuid4().hex, "open"
        call = self._front.open.remote(
            self._exchange_id,
            request.method,
            target,
            list(request.headers),
            body if whole else b"",
            not whole,
            WAIT_S if whole else 0.0,
        )
        self._take((yield Wait(call, self._limits.head_s())))
        if self._feeds_apart:
            return
        if not whole:
            yield from self.feed()
        yield from self.head()

    def head(self) -> Steps[None]:
        """Until the answer begins. Raises TransportFailure, TimeoutError, ActorDied, CallFailed."""
        while self.status == 0:
            self._check()
            yield from self._more(self._limits.head_s())

    def feed(self) -> Steps[None]:
        """The body, as far as it is wanted. Raises TimeoutError, ActorDied, CallFailed."""
        pieces = pieces_of(self._request.body)
        while (piece := (yield Next(pieces))) is not None:
            for part in cut(piece):
                if part and not (yield from self._hand_over(part, True)):
                    return
        yield from self._hand_over(b"", False)

    def _hand_over(self, data: bytes, more: bool) -> Steps[bool]:
        call = self._front.feed.remote(self._exchange_id, data, more)
        return bool((yield Wait(call, self._limits.head_s())))

    def _more(self, limit_s: float | None) -> Steps[None]:
        self._take((yield Wait(self._front.read.remote(self._exchange_id, WAIT_S), limit_s)))

    def _take(self, part: tuple[int, list[tuple[str, str]], bytes, str]) -> None:
        status, headers, self._data, stage = part
        if status:
            self.status = status
        if headers:
            self.headers = {name.lower(): value for name, value in headers}
        if self._stage == "open":  # or somebody has left meanwhile
            self._stage = stage

    def _check(self) -> None:
        if self._stage not in ("open", "ended"):
            raise TransportFailure("broken", f"the pool broke the answer off ({self._stage})")
