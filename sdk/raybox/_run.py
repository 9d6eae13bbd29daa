"""The events of an execution -> what came of it, without I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from ._errors import SandboxException
from ._models import Execution, ExecutionError, OutputMessage, Result
from ._stream import Event, EventParser

Handler = Callable[[Any], Any]


class Run:
    """Puts an Execution together from its stream, and says which callback is due with what.

    Created when the request is sent: its clock starts then.
    """

    def __init__(
        self,
        on_stdout: Handler | None = None,
        on_stderr: Handler | None = None,
        on_result: Handler | None = None,
        on_error: Handler | None = None,
        clock: Callable[[], float] = time.monotonic,
        from_event: int = 0,
    ) -> None:
        self.execution = Execution()
        self.ended = False
        #: Number of the event that comes next: events are numbered from 0, `keepalive` and `events_lost` are not.
        self.next_event = from_event
        self._handlers = {"stdout": on_stdout, "stderr": on_stderr, "result": on_result, "error": on_error}
        self._parser = EventParser()
        self._clock = clock
        self._started_s = clock()

    def feed(self, data: bytes) -> Iterator[tuple[Handler, Any]]:
        """Take in bytes; yields (callback, its argument) in the order of the stream. Iterate to the end.

        Raises SandboxException (internal) when the server does not keep to the protocol.
        """
        timings = self.execution.timings_ms
        if not timings:
            timings["first_byte"] = self._elapsed_ms()
        for event in self._parser.feed(data):
            if self.ended:
                return  # whatever comes after the end is not part of the execution
            due = self._take(event)
            if due is not None:
                yield due

    def reconnect(self) -> None:
        """What comes next comes over another connection, and begins with a whole line."""
        self._parser = EventParser()

    def whole(self) -> Execution:
        """The execution. Raises SandboxException (internal) if some of its events were lost."""
        if lost := self.execution.lost_events:
            raise SandboxException(f"{lost} events of the execution were lost with a connection, or never read in time")
        return self.execution

    def _take(self, event: Event) -> tuple[Handler, Any] | None:
        execution = self.execution
        kind = event["type"]
        value: object
        if kind != "keepalive":
            self.next_event += 1
        try:
            if kind == "result":
                fields = dict(event)
                del fields["type"]
                value = Result(**fields)
                execution.results.append(value)
            elif kind in ("stdout", "stderr"):
                text = event["text"]
                (execution.logs.stdout if kind == "stdout" else execution.logs.stderr).append(text)
                value = OutputMessage(text, event.get("timestamp", 0), kind == "stderr")
            elif kind == "error":
                value = execution.error = ExecutionError(
                    event["name"], event["value"], event["traceback"], kind=event.get("kind")
                )
            elif kind == "number_of_executions":
                execution.execution_count = event["execution_count"]
                return None
            elif kind == "end_of_execution":
                self.ended = True
                execution.timings_ms["done"] = self._elapsed_ms()
                return None
            elif kind == "events_lost":
                execution.lost_events += event["count"]
                self.next_event += event["count"] - 1
                return None
            else:
                return None  # keepalives, and what a newer server may send
        except (KeyError, TypeError) as error:
            raise SandboxException(f"the server sent a {kind!r} event that cannot be used: {error!r}") from error
        handler = self._handlers[kind]
        return None if handler is None else (handler, value)

    def _elapsed_ms(self) -> float:
        return (self._clock() - self._started_s) * 1000
