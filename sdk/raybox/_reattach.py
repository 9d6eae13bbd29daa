"""Whether, and when, to ask again for the rest of an execution whose answer broke off. No I/O."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from ._errors import RayboxError
from ._requests import Request
from ._responses import TransportFailure, backoff_s

#: When nobody has answered for so long the outcome is lost, however much time the execution has left.
REATTACH_WITHIN_S = 60.0
REATTACH_DELAY_MAX_S = 2.0


class Reattaching:
    """The patience of one call, which begins now. That of nobody answering begins anew with every event."""

    def __init__(
        self,
        total_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock, self._jitter = clock, jitter
        self._progress_at_s = clock()
        self._ends_s = None if total_s is None else clock() + total_s
        self._attempts = 0
        self._seen = -1

    def rest(self, request: Request) -> Request:
        """The request with what is left of its time."""
        if self._ends_s is None:
            return request
        return request._replace(total_s=max(self._ends_s - self._clock(), 0.001))

    def delay_s(self, failure: TransportFailure | RayboxError, next_event: int) -> float | None:
        """Seconds after which to ask for the events from `next_event` on; None: the failure is final."""
        again = failure.retryable if isinstance(failure, RayboxError) else failure.stage != "timeout"
        if next_event != self._seen:
            self._seen, self._attempts, self._progress_at_s = next_event, 0, self._clock()
        delay_s = backoff_s(self._attempts, self._jitter, REATTACH_DELAY_MAX_S)
        self._attempts += 1
        ends_s = self._progress_at_s + REATTACH_WITHIN_S
        if self._ends_s is not None:
            ends_s = min(ends_s, self._ends_s)
        return delay_s if again and self._clock() + delay_s < ends_s else None
