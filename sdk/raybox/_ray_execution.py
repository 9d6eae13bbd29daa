"""What is asked of a sandbox's actor directly: executions, and whether it lives. Steps, without Ray."""

from __future__ import annotations

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
DIRECT = frozenset({"execute", "health"})


class DirectAnswer:
    """The answer to one request while it arrives. Use: `open`, then `read` to the end or `leave`."""

    def __init__(self, session: Session, request: Request) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.session, self._request = session, request
        self._own = own_headers(request.headers)
        #: Known here from the beginning, so that what nobody has answered yet can be interrupted.
        self.execution_id = self._own.get("x-raybox-execution-id") or uuid.uuid4().hex
        self._limits = Limits(request)
        self._actor: Any = None
        self._started: Any = None  #: the call that starts it, while it is under way
        self._next_event = 0
        self._data = b""
        self._over = True  #: nothing of it runs, as far as is known

    @property
    def open_ended(self) -> bool:
        """Whether something runs that must be told when nobody listens any more."""
        return not self._over

    def open(self) -> Steps[None]:
        """Until the answer begins. Raises TransportFailure, NotFoundException."""
        sandbox_id = self._request.sandbox_id or ""
        named, _ = pool_and_target(self._request.url)
        pool = yield from self.session.pool(named, self._limits)
        name = sandbox_actor_name(pool, sandbox_id)
        if name is None:
            self._refuse(NO_SUCH_SANDBOX)
            return
        try:
            self._actor = yield Find(name, self._limits.head_s())
            if self._request.operation == "health":
                yield from self._look(sandbox_id)
            else:
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
        while not self._data and not self._over:
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
        """Nobody listens any more: what still runs is interrupted. Does not wait. May be repeated."""
        if not self._over:
            self._over = True
            self._actor.leave.remote(self._request.sandbox_id, self.execution_id)

    def cut(self) -> None:
        """What is being read ends soon: the execution is interrupted."""
        self.leave()

    def pulse(self) -> None:
        """Somebody is still there, though nothing is read. Does not wait."""
        if not self._over:
            self._ask(0.0)

    def _ask(self, wait_s: float) -> Any:
        return self._actor.events.remote(self._request.sandbox_id, self.execution_id, self._next_event, wait_s)

    def _look(self, sandbox_id: str) -> Steps[None]:
        gone = yield Wait(self._actor.look.remote(sandbox_id), self._limits.head_s())
        if gone is None:
            self.status = 204
        else:
            self._refuse(gone)

    def _run(self, sandbox_id: str) -> Steps[None]:
        self._over = False
        call = self._actor.run.remote(sandbox_id, self.execution_id, self._request.body, dict(self._own))
        limit_s = self._limits.head_s()
        begun = limit_s is None or limit_s > BEGUN_AFTER_S
        try:
            answer = yield Wait(call, BEGUN_AFTER_S if begun else limit_s)
        except TimeoutError:
            if not begun:
                raise
            answer, self._started = (0, 0, b"", False), call
        if isinstance(answer, dict):
            self._over = answer["kind"] != "internal"
            self._refuse(answer)
            return
        self.status = 200
        self.headers = {"content-type": "application/x-ndjson", "x-raybox-execution-id": self.execution_id}
        self._take(answer)

    def _take(self, batch: tuple[int, int, bytes, bool]) -> None:
        first, count, self._data, self._over = batch
        self._next_event = first + count

    def _refuse(self, error: Mapping[str, Any]) -> None:
        self.status, self.headers, self._data = reply_of_error(self._request.sandbox_id, error)
