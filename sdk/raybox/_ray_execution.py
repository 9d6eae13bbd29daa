"""What is asked of a sandbox's actor directly: executions, and whether it lives. Steps, without Ray."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any

from ._ray_session import Session
from ._ray_wire import (
    BEGUN_AFTER_S,
    NO_SUCH_SANDBOX,
    WAIT_S,
    ActorDied,
    CallFailed,
    Find,
    Limits,
    NoActor,
    Steps,
    Wait,
    own_headers,
    pool_and_target,
    reply_of_error,
    sandbox_actor_name,
    unreachable,
)
from ._requests import Request
from ._responses import TransportFailure

#: What does not go through a front.
DIRECT = frozenset({"execute", "attach_execution", "interrupt_execution", "health"})
#: How long who attaches to an execution waits for its next event before the answer begins: as over HTTP.
FIRST_EVENTS_S = 0.05

_EXISTING = re.compile(r"/executions/([^/]*)/(?:events\?from=([0-9]+)|interrupt)")


class DirectAnswer:
    """The answer to one request while it arrives. Use: `open`, then `read` to the end or `leave`."""

    def __init__(self, session: Session, request: Request) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.session, self._request = session, request
        self._own = own_headers(request.headers)
        self._pool_named, target = pool_and_target(request.url)
        existing = _EXISTING.fullmatch(target)
        #: Known here from the beginning, so that what nobody has answered yet can be interrupted.
        self._execution_id = self._own.get("x-raybox-execution-id") or f"auto-{uuid.uuid4().hex}"
        if existing is not None:
            self._execution_id = existing[1]
        self._leaving_interrupts = (
            request.operation == "execute" and self._own.get("x-raybox-on-disconnect", "interrupt") == "interrupt"
        )
        self._limits = Limits(request)
        self._actor: Any = None
        self._started: Any = None  #: the call that starts it, while it is under way
        self._next_event = int(existing[2] or 0) if existing is not None else 0
        self._data = b""
        self._over = True  #: nothing of it runs, as far as is known
        self._refused = False  #: the answer is an error, and whole

    @property
    def open_ended(self) -> bool:
        """Whether something runs that must be told when nobody listens any more."""
        return not self._over

    def open(self) -> Steps[None]:
        """Until the answer begins. Raises TransportFailure, NotFoundException."""
        sandbox_id = self._request.sandbox_id or ""
        pool = yield from self.session.pool(self._pool_named, self._limits)
        name = sandbox_actor_name(pool, sandbox_id)
        if name is None:
            self._refuse(NO_SUCH_SANDBOX)
            return
        try:
            self._actor = yield Find(name, self._limits.head_s())
            match self._request.operation:
                case "health":
                    yield from self._unary(self._actor.look.remote(sandbox_id))
                case "interrupt_execution":
                    yield from self._unary(self._actor.halt.remote(sandbox_id, self._execution_id))
                case "attach_execution":
                    self._begin((yield Wait(self._ask(FIRST_EVENTS_S), self._limits.head_s())))
                case _:
                    yield from self._run(sandbox_id)
        except (NoActor, ActorDied):
            self._over = True
            self._refuse((yield from self.session.lost(pool, sandbox_id, Limits(self._request))))
        except CallFailed as error:
            self._refuse(unreachable(str(error)))
        except TimeoutError as error:
            stage = "connect_timeout" if self._actor is None else self._limits.late_head
            raise TransportFailure(stage) from error

    def read(self) -> Steps[bytes]:
        """The next bytes of the body, empty at its end. Raises TransportFailure."""
        while not self._data and not (self._over or self._refused):
            call, self._started = self._started, None
            try:
                answer = yield Wait(call if call is not None else self._ask(WAIT_S), self._limits.rest_s())
            except TimeoutError as error:
                raise TransportFailure("timeout") from error
            except (ActorDied, CallFailed) as error:
                self._over = isinstance(error, ActorDied)
                raise TransportFailure("broken", str(error)) from error
            if isinstance(answer, dict):
                self._over = answer["kind"] != "internal"  # after a fault of ours nobody knows whether it still runs
                raise TransportFailure("broken", str(answer["message"]))
            self._take(answer)
        data, self._data = self._data, b""
        return data

    def finish(self) -> Steps[None]:
        """Its end has been read."""
        self._over = True
        return
        yield

    def leave(self) -> None:
        """Nobody listens any more: what still runs is interrupted, unless it is to go on. Does not wait. May be
        repeated."""
        over, self._over = self._over, True
        if not over and self._leaving_interrupts:
            self._actor.leave.remote(self._request.sandbox_id, self._execution_id)

    def cut(self) -> None:
        """What is being read ends soon, as the execution is interrupted."""
        self.leave()

    def pulse(self) -> None:
        """Somebody is still there, though nothing is read. Does not wait."""
        if not self._over:
            self._ask(0.0)

    def _ask(self, wait_s: float) -> Any:
        return self._actor.events.remote(self._request.sandbox_id, self._execution_id, self._next_event, wait_s)

    def _unary(self, call: Any) -> Steps[None]:
        error = yield Wait(call, self._limits.head_s())
        if error is None:
            self.status = 204
        else:
            self._refuse(error)

    def _run(self, sandbox_id: str) -> Steps[None]:
        self._over = False
        call = self._actor.run.remote(sandbox_id, self._execution_id, self._request.body, dict(self._own))
        limit_s = self._limits.head_s()
        begun = limit_s is None or limit_s > BEGUN_AFTER_S
        try:
            answer = yield Wait(call, BEGUN_AFTER_S if begun else limit_s)
        except TimeoutError:
            if not begun:
                raise
            answer, self._started = (0, 0, b"", False), call
        self._begin(answer)

    def _begin(self, answer: Any) -> None:
        if isinstance(answer, dict):
            self._over = answer["kind"] != "internal"
            self._refuse(answer)
        else:
            self.status = 200
            self.headers = {"content-type": "application/x-ndjson", "x-raybox-execution-id": self._execution_id}
            self._take(answer)

    def _take(self, batch: tuple[int, int, bytes, bool]) -> None:
        first, count, self._data, self._over = batch
        self._next_event = first + count

    def _refuse(self, error: Mapping[str, Any]) -> None:
        self._refused = True
        self.status, self.headers, self._data = reply_of_error(self._request.sandbox_id, error)
