"""What one process knows of the pools of the cluster that it has joined, and the steps to learn it. Without Ray."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from ._errors import InvalidArgumentException, NotFoundException
from ._ray_wire import (
    RETRY_PAUSE_S,
    ActorDied,
    CallFailed,
    Find,
    Limits,
    Names,
    NoActor,
    Pause,
    Steps,
    Wait,
    manager_name,
    pools,
)
from ._responses import TransportFailure

#: A manager or a front that is being replaced is asked for so often, a pause apart: 30 s.
ATTEMPTS = 300


class Session:
    """Of one connection of this process to a Ray cluster."""

    def __init__(self, worker_id: str, node_id: str) -> None:
        self.worker_id, self.node_id = worker_id, node_id
        #: Names of actors that have been found; Ray looks these up without asking anybody.
        self.found: set[str] = set()
        self._only_pool = ""
        self._fronts: dict[str, str] = {}

    def pool(self, named: str, limits: Limits) -> Steps[str]:
        """The pool of this name, or the only one of the cluster. Raises NotFoundException, InvalidArgumentException
        (there are several), TransportFailure."""
        if named or self._only_pool:
            return named or self._only_pool
        try:
            there = pools((yield Names(limits.head_s())))
        except TimeoutError as error:
            raise TransportFailure("connect_timeout") from error
        except CallFailed as error:
            raise TransportFailure("connect", str(error)) from error
        if not there:
            raise NotFoundException(
                "there is no raybox pool in the Ray cluster that this process has joined; start one with `raybox up`, "
                "or say where the pool is: RAYBOX_URL, or transport='http' for the one of this machine"
            )
        if len(there) > 1:
            raise InvalidArgumentException(
                f"there are several pools: {', '.join(there)}; name one: pool=... or RAYBOX_POOL"
            )
        self._only_pool = there[0]
        return there[0]

    def ask_manager(self, pool: str, method: str, arguments: tuple[object, ...], limits: Limits) -> Steps[Any]:
        """A call of the pool's manager that may be repeated, once it answers.

        Raises NotFoundException, TransportFailure.
        """
        failure: Exception | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                yield Pause(RETRY_PAUSE_S * (0.5 + random.random()))  # noqa: S311  # so that not all come at once
            try:
                manager = yield Find(manager_name(pool), limits.head_s())
                return (yield Wait(getattr(manager, method).remote(*arguments), limits.head_s()))
            except TimeoutError as error:
                raise TransportFailure("connect_timeout") from error
            except NoActor as error:
                if self._only_pool == pool:
                    self._only_pool = ""
                raise NotFoundException(
                    f"there is no raybox pool {pool!r} in the Ray cluster that this process has joined"
                ) from error
            except (ActorDied, CallFailed) as error:
                failure = error
        raise TransportFailure("connect", f"the manager of pool {pool} does not answer: {failure}")

    def front(self, pool: str, limits: Limits) -> Steps[str]:
        """The name of the actor that this process asks for everything but executions."""
        if pool not in self._fronts:
            found = yield from self.ask_manager(pool, "front", (self.node_id,), limits)
            if not isinstance(found, str):
                raise TransportFailure("connect", str(found["message"]))
            self._fronts[pool] = found
        return self._fronts[pool]

    def forget_front(self, pool: str) -> None:
        self._fronts.pop(pool, None)

    def lost(self, pool: str, sandbox_id: str, limits: Limits) -> Steps[Mapping[str, Any]]:
        """What there is to say of a sandbox whose actor is not there. Raises NotFoundException, TransportFailure."""
        error: Mapping[str, Any] = yield from self.ask_manager(pool, "lost", (sandbox_id,), limits)
        return error
