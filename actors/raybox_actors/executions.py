"""One execution's events: numbered, coalesced, bounded, replayable. No I/O but timers of the loop."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from raybox_actors.errors import BadRequest, Conflict, ExecutionForgotten, LimitReached, NotFound, RayboxError
from raybox_actors.kernels.base import CodeError, Display, InputAccepted, KernelEvent, Output
from raybox_actors.results import END_LINE, error_line, input_line, lost_line, result_line, text_line
from raybox_actors.values import EventBatch, ExecuteRequest

#: Ids that begin so are of our making: no caller can come with one for the first time.
OWN_ID_PREFIX = "auto-"


def new_execution_id() -> str:
    """For a caller who chose none."""
    return OWN_ID_PREFIX + uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class OutputLimits:
    """Bounds of one execution's output, and how it is coalesced."""

    coalesce_s: float = 0.004  #: text waits this long for more of itself
    partial_line_s: float = 0.05  #: and this long again for the rest of a line: `print(1)` is two writes, and one event
    coalesce_bytes: int = 32 * 1024  #: or until there is this much
    batch_bytes: int = 96 * 1024  #: of one answer to a poll; below what Ray sends inline. One line may be longer.
    unread_bytes: int = 2 * 1024 * 1024  #: more than this not yet read by the observer pauses the kernel
    replay_bytes: int = 1024 * 1024  #: kept of what was read, for an observer who lost it
    output_bytes: int = 256 * 1024 * 1024  #: of text and results in all; the rest is cut, counted and marked
    abandoned_s: float = 5.0  #: a detached cell that nobody asks for this long drops its oldest output and goes on


class Execution:
    """What happened in one cell so far. The session feeds it; observers take batches of it."""

    def __init__(
        self,
        request: ExecuteRequest,
        limits: OutputLimits,
        loop: asyncio.AbstractEventLoop,
        on_pressure: Callable[[bool], None] = lambda _full: None,
    ) -> None:
        self.request, self.limits = request, limits
        self.done = False
        self.observed_at_s = loop.time()
        self.observers = 0
        self.failed: CodeError | None = None
        #: What went wrong on our side; raised to observers once they have what came before it.
        self.fault: RayboxError | None = None
        self._held_error = False
        self._told = False
        #: Bytes that the cap cut.
        self.cut_bytes = 0
        self._loop, self._on_pressure = loop, on_pressure
        self._lines: deque[bytes] = deque()
        self._first_seq = 0  #: number of the first line held
        self._read_seq = 0  #: lines before this one have arrived at the observer
        self._held_bytes = 0
        self._unread_bytes = 0
        self._total_bytes = 0
        self._text: list[str] = []
        self._text_name = ""
        self._text_chars = 0
        self._awaits_line = False  #: the timer runs for the rest of a line
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._full = False
        self._settle_timer: asyncio.TimerHandle | None = None
        self._draining_until_s = 0.0

    @property
    def next_seq(self) -> int:
        return self._first_seq + len(self._lines)

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    @property
    def read_to_end(self) -> bool:
        """An observer has taken the last event, or was told of the fault."""
        return self.done and (self._told or self._read_seq >= self.next_seq)

    def add(self, event: KernelEvent) -> None:
        """Take one event of the kernel, in order."""
        if self.done:
            return
        if isinstance(event, Output):
            self._add_text(event.name, event.text)
            return
        self._flush_text()
        if isinstance(event, InputAccepted):
            self._append(input_line(event))
            return  # nobody is in a hurry for it: a short cell's first answer is then its last
        if isinstance(event, CodeError):
            if self.failed is None and not self._held_error:
                self.failed = event
                self._append(error_line(event))
        elif isinstance(event, Display) and not event.update:
            self._add_result(result_line(event))
        self._soon()

    def hold_errors(self) -> None:
        """What the kernel reports from here on is the effect of our interrupt; `finish` brings what counts."""
        self._held_error = True

    def drain(self, for_s: float) -> None:
        """For so long, cut what an observer who is behind has no room for, rather than make the kernel wait.

        Who interrupts needs this: a kernel that waits for its output to be read never gets to hear of it.
        """
        if not self.done:
            self._draining_until_s = self._loop.time() + for_s
            self._settle()

    def abort(self) -> None:
        """End it before it began."""
        self.finish(CodeError("ExecutionAborted", "The execution was aborted before it began", ()))

    def fail(self, fault: RayboxError) -> None:
        """End it through our fault: no end of execution is ever sent, observers are raised `fault` instead."""
        if not self.done:
            self.fault = fault
            self._flush_text()
            self._end()

    def finish(self, error: CodeError | None = None) -> None:
        """The last event; `error` is ours (a timeout, a dead kernel), if user code raised none. Idempotent."""
        if self.done:
            return
        if self.cut_bytes:
            self._flush_text()
            self._append(text_line("stderr", f"\n[raybox: output was cut; {self.cut_bytes} bytes are lost]\n"))
        self._held_error = False
        if error is not None:
            self.add(error)
        self._flush_text()
        self._append(END_LINE)
        self._end()

    def _end(self) -> None:
        self.done = True
        for timer in (self._timer, self._settle_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._settle_timer = None
        self._wake()

    def batch(self, after_seq: int) -> EventBatch:
        """Lines from `after_seq` on, or from the oldest held; says that those before have arrived. Raises BadRequest
        for a number beyond the next event's."""
        self._mark_read(after_seq)
        start = max(after_seq, self._first_seq)
        taken: list[bytes] = []
        size = 0
        for index in range(start - self._first_seq, len(self._lines)):
            line = self._lines[index]
            if taken and size + len(line) > self.limits.batch_bytes:
                break
            taken.append(line)
            size += len(line)
        if not taken and self.fault is not None:
            self._told = True
            raise self.fault.with_traceback(None)  # raised more than once, and would carry all of the tracebacks
        done = self.done and self.fault is None and start + len(taken) >= self.next_seq
        self._told = self._told or done
        count = len(taken)
        if start > after_seq:
            taken.insert(0, lost_line(after_seq, start - after_seq))
        return EventBatch(self.request.execution_id, start, count, b"".join(taken), done)

    async def wait(self, after_seq: int, wait_s: float) -> EventBatch:
        """A batch from `after_seq` on as soon as there is one, or an empty one after `wait_s`. Raises as `batch`."""
        self._mark_read(after_seq)
        self.observers += 1
        try:
            if self.next_seq <= after_seq and not self.done:
                waiter: asyncio.Future[None] = self._loop.create_future()
                self._waiters.add(waiter)
                timeout = self._loop.call_later(wait_s, _resolve, waiter)
                try:
                    await waiter
                finally:
                    timeout.cancel()
                    self._waiters.discard(waiter)
            return self.batch(after_seq)
        finally:
            self.observers -= 1
            self.observed_at_s = self._loop.time()
            self._settle()

    def _add_text(self, name: str, text: str) -> None:
        room = self._room()
        if len(text) > room:
            self.cut_bytes += len(text) - room
            text = text[:room]
        if not text:
            return
        self._total_bytes += len(text)
        if name != self._text_name:
            self._flush_text()
            self._text_name = name
        self._text.append(text)
        self._text_chars += len(text)
        if self._text_chars >= self.limits.coalesce_bytes or (self._awaits_line and text.endswith("\n")):
            self._flush_text()
            self._wake()
        else:
            self._soon()

    def _add_result(self, line: bytes) -> None:
        if len(line) > self._room():
            self.cut_bytes += len(line)
        else:
            self._total_bytes += len(line)
            self._append(line)

    def _room(self) -> int:
        """How much more may be added: of the cap, and of what is held while the kernel must not be made to wait."""
        room = self.limits.output_bytes - self._total_bytes
        if self._draining:
            room = min(room, 2 * self.limits.unread_bytes - self._unread_bytes - self._text_chars)
        return max(room, 0)

    @property
    def _draining(self) -> bool:
        return self._loop.time() < self._draining_until_s

    @property
    def _abandoned(self) -> bool:
        detached = not self.request.interrupt_if_unobserved
        return detached and not self.observers and self._loop.time() >= self.observed_at_s + self.limits.abandoned_s

    def _flush_text(self) -> None:
        self._awaits_line = False
        if self._text:
            text = "".join(self._text)
            self._text.clear()
            self._text_chars = 0
            self._append(text_line(self._text_name, text))

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._held_bytes += len(line)
        self._unread_bytes += len(line)
        self._settle()

    def _mark_read(self, seq: int) -> None:
        if seq > self.next_seq:
            raise BadRequest(f"the execution has {self.next_seq} events; there is no number {seq} yet")
        while self._read_seq < seq:
            self._unread_bytes -= len(self._lines[self._read_seq - self._first_seq])
            self._read_seq += 1
        self._settle()

    def _settle(self) -> None:
        """Hold no more than the bounds allow, and tell the kernel's side whether to wait."""
        limits, abandoned = self.limits, self._abandoned
        # Half of it: an abandoned cell that was made to wait is to go on for a while.
        most_unread = limits.unread_bytes // 2 if abandoned and self._full else limits.unread_bytes
        while len(self._lines) > 1 and self._held_bytes > limits.replay_bytes:
            unread = self._first_seq >= self._read_seq
            if unread and not (abandoned and self._unread_bytes > most_unread):
                break
            line = self._lines.popleft()
            self._held_bytes -= len(line)
            self._first_seq += 1
            if unread:
                self._unread_bytes -= len(line)
                self._read_seq = self._first_seq
        if self.done:  # the kernel has gone on to other cells, which must not wait for this one's observer
            return
        behind = self._unread_bytes > (limits.unread_bytes // 2 if self._full else limits.unread_bytes)
        full = behind and not abandoned and not self._draining
        if behind and not abandoned:
            self._settle_later()
        if full != self._full:
            self._full = full
            self._on_pressure(full)

    def _settle_later(self) -> None:
        """Time alone ends draining, and makes a detached cell an abandoned one."""
        moments = [self._draining_until_s] if self._draining else []
        if not self.request.interrupt_if_unobserved and not self.observers:
            moments.append(self.observed_at_s + self.limits.abandoned_s)
        if moments and self._settle_timer is None:
            self._settle_timer = self._loop.call_at(min(moments), self._settle_now)

    def _settle_now(self) -> None:
        self._settle_timer = None
        self._settle()

    def _soon(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self.limits.coalesce_s, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        if self._text and not self._text[-1].endswith("\n") and not self._awaits_line:
            self._awaits_line = True
            self._timer = self._loop.call_later(self.limits.partial_line_s, self._time_is_up)
            return
        self._flush_text()
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            _resolve(waiter)


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class ExecutionLog:
    """The executions of one sandbox by id; the same id never runs twice.

    Ended ones are dropped when there are more than `keep` of them, or more than `keep_bytes` are held for them: those
    read to their end first, then the oldest. Of ids that callers chose a digest stays for the life of the sandbox, of
    up to `remember` of them; what would be one more is refused.
    """

    def __init__(self, keep: int = 256, keep_bytes: int = 64 * 1024 * 1024, remember: int = 100_000) -> None:
        self._keep, self._keep_bytes, self._remember = keep, keep_bytes, remember
        self._held: OrderedDict[str, Execution] = OrderedDict()
        self._seen: set[bytes] = set()

    def get(self, execution_id: str) -> Execution:
        """Raises NotFound, as ExecutionForgotten for one whose events are no longer held."""
        if found := self._held.get(execution_id):
            return found
        if _digest(execution_id) in self._seen:
            raise ExecutionForgotten(execution_id)
        raise NotFound("execution", execution_id)

    def repeated(self, request: ExecuteRequest) -> Execution | None:
        """The execution that this asks for again; None if it is to be run, now and once.

        Raises Conflict (the id is another cell's), ExecutionForgotten, LimitReached (no room to remember one more id).
        """
        execution_id = request.execution_id
        if held := self._held.get(execution_id):
            if held.request.same_cell(request):
                return held
            raise Conflict(f"execution {execution_id} is of other code, or in another context")
        if execution_id.startswith(OWN_ID_PREFIX):
            return None
        if _digest(execution_id) in self._seen:
            raise ExecutionForgotten(execution_id)
        if len(self._seen) >= self._remember:
            raise LimitReached(
                f"{self._remember} execution ids have been used in this sandbox, its limit; name no more"
            )
        return None

    def add(self, execution: Execution) -> None:
        execution_id = execution.request.execution_id
        assert self.repeated(execution.request) is None, "the same id never runs twice"
        self._held[execution_id] = execution
        if not execution_id.startswith(OWN_ID_PREFIX):
            self._seen.add(_digest(execution_id))
        self._forget()

    def _forget(self) -> None:
        ended = [held for held in self._held.values() if held.done]
        size = sum(held.held_bytes for held in ended)
        if len(ended) <= self._keep and size <= self._keep_bytes:
            return
        count = len(ended)
        for held in sorted(ended, key=lambda held: not held.read_to_end):  # stable: the oldest of each kind first
            if count <= self._keep and size <= self._keep_bytes:
                return
            del self._held[held.request.execution_id]
            count, size = count - 1, size - held.held_bytes

    def running(self) -> list[Execution]:
        return [execution for execution in self._held.values() if not execution.done]


def _digest(execution_id: str) -> bytes:
    return hashlib.blake2b(execution_id.encode(), digest_size=8).digest()
