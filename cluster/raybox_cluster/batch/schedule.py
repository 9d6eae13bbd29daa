"""Which item runs where, which is tried again, when there is a sandbox more or less. Pure: moments are passed in.

Every item that is taken in is given out exactly once: by `Emit`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from raybox_actors.values import ItemStatus

#: What became of an item. `invalid`: it cannot mean anything; `deadline`: the batch's time was up before it was done;
#: `infrastructure`: no fault of the code.
Status = Literal[ItemStatus, "invalid", "deadline", "infrastructure"]
#: Of the infrastructure, or of nobody: not to be scored.
MASKED: frozenset[Status] = frozenset(("deadline", "infrastructure"))

STARVED_S = 60.0
#: A sandbox is given so many items together, if they are done within about this time: a call costs more than a small
#: program.
TOGETHER_MOST, TOGETHER_S = 4, 0.2
#: Of the pace at which items are done, what the last of them count for.
PACE_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Rules:
    max_in_flight: int
    max_attempts: int = 3  #: of an item whose sandbox or node was lost
    fresh: bool = False  #: a sandbox for each item
    starts_at_once: int = 4  #: sandboxes that are asked for at the same time
    starved_s: float = field(default_factory=lambda: STARVED_S)  #: for so long items wait for the first sandbox


@dataclass(frozen=True, slots=True)
class StartWorker:
    worker: int


@dataclass(frozen=True, slots=True)
class EndWorker:
    worker: int


@dataclass(frozen=True, slots=True)
class Run:
    """Items, one after the other. More than one only at their first attempt: what takes its sandbox along takes the
    others along once."""

    worker: int
    indices: tuple[int, ...]
    attempt: int  #: of each, from 1 on


@dataclass(frozen=True, slots=True)
class Emit:
    """`verdict` None: as whoever ran it said."""

    index: int
    attempts: int
    verdict: Status | None = None


Instruction = StartWorker | EndWorker | Run | Emit


@dataclass(slots=True)
class Schedule:
    """Tell it what happened, and carry out what it returns, in order. A worker is one sandbox, named by a number."""

    rules: Rules
    _waiting: deque[int] = field(default_factory=deque)
    _attempts: dict[int, int] = field(default_factory=dict)  #: of the items in hand, those under way included
    _starting: set[int] = field(default_factory=set)
    _idle: list[int] = field(default_factory=list)
    _busy: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _begun_at_s: dict[int, float] = field(default_factory=dict)  #: of busy workers
    _pace_s: float | None = None  #: what an item takes, of late
    _next_worker: int = 0
    _ended: bool = False
    _grows_at_s: float = 0.0
    _starved_since_s: float | None = None
    _failures: int = 0  #: of starts, since the last that worked

    @property
    def wants_item(self) -> bool:
        """Whether to take in another one: no more than can be begun, so that who gives them is held up."""
        return not self._ended and len(self._waiting) < self.rules.max_in_flight * self._together

    @property
    def over(self) -> bool:
        """Nothing will come any more, and all is given out."""
        return self._ended and not self._attempts

    @property
    def wakes_at_s(self) -> float | None:
        """When `look` may have something to say, though nothing happened."""
        return self._grows_at_s if self._short() else None

    def took(self, index: int, now_s: float) -> list[Instruction]:
        self._attempts[index] = 0
        self._waiting.append(index)
        return self.look(now_s)

    def input_ended(self) -> list[Instruction]:
        """No more items. Workers that nothing is left for are ended."""
        self._ended = True
        return self._spare()

    def worker_started(self, worker: int, now_s: float) -> list[Instruction]:
        self._starting.discard(worker)
        self._idle.append(worker)
        self._starved_since_s, self._failures = None, 0
        return self.look(now_s) + self._spare()

    def worker_refused(self, worker: int, retry_after_s: float, full: bool, now_s: float) -> list[Instruction]:
        """It could not be started. full: because there is no room, and not for another reason."""
        self._starting.discard(worker)
        self._failures += not full
        self._grows_at_s = max(self._grows_at_s, now_s + retry_after_s)
        if self._idle or self._busy or self._starting:
            return []
        if self._starved_since_s is None:
            self._starved_since_s = now_s
        starved = now_s - self._starved_since_s >= self.rules.starved_s
        if not starved and self._failures < self.rules.max_attempts:
            return []
        self._starved_since_s, self._failures = None, 0
        given_up = list(self._waiting)
        self._waiting.clear()
        return [self._emit(index, "infrastructure") for index in given_up]

    def advanced(self, worker: int, ended: int, begun: int, now_s: float) -> list[Instruction]:
        """Of its items the first `ended` have a result, and those from number `begun` on did not begin: they are given
        to whoever is free. The worker stays busy, with those in between, until it is `finished` or `faulted`."""
        indices = self._busy[worker]
        self._keep_pace(worker, ended, now_s)
        self._busy[worker], self._begun_at_s[worker] = indices[ended:begun], now_s
        for index in indices[begun:]:
            self._attempts[index] -= 1
        self._waiting.extendleft(reversed(indices[begun:]))
        said: list[Instruction] = [self._emit(index, None) for index in indices[:ended]]
        return said + self.look(now_s)

    def finished(self, worker: int, reusable: bool, now_s: float) -> list[Instruction]:
        """All its items have a result. reusable: the sandbox can take others."""
        if indices := self._busy.pop(worker):
            self._keep_pace(worker, len(indices), now_s)
        self._begun_at_s.pop(worker)
        said: list[Instruction] = [self._emit(index, None) for index in indices]
        if reusable and not self.rules.fresh:
            self._idle.append(worker)
        else:
            said.append(EndWorker(worker))
        return said + self.look(now_s) + self._spare()

    def faulted(self, worker: int, now_s: float) -> list[Instruction]:
        """Its sandbox failed its items, for no fault of theirs."""
        said: list[Instruction] = [EndWorker(worker)]
        del self._begun_at_s[worker]
        for index in reversed(self._busy.pop(worker)):
            if self._attempts[index] < self.rules.max_attempts:
                self._waiting.appendleft(index)
            else:
                said.append(self._emit(index, "infrastructure"))
        return said + self.look(now_s) + self._spare()

    def time_is_up(self) -> list[Instruction]:
        """The deadline of the batch: whatever is not done ends here."""
        self._ended = True
        said: list[Instruction] = [EndWorker(worker) for worker in [*self._busy, *self._idle, *self._starting]]
        said += [self._emit(index, "deadline") for index in list(self._attempts)]
        self._waiting.clear()
        self._busy.clear()
        self._begun_at_s.clear()
        self._idle.clear()
        self._starting.clear()
        return said

    def look(self, now_s: float) -> list[Instruction]:
        """Put items that wait on sandboxes that are free; want more of them if there are too few."""
        said: list[Instruction] = []
        while self._waiting and self._idle:
            indices = self._next()
            worker = self._idle.pop()
            self._busy[worker], self._begun_at_s[worker] = indices, now_s
            for index in indices:
                self._attempts[index] += 1
            said.append(Run(worker, indices, self._attempts[indices[0]]))
        while self._short() and now_s >= self._grows_at_s:
            said.append(StartWorker(self._next_worker))
            self._starting.add(self._next_worker)
            self._next_worker += 1
        return said

    @property
    def _workers(self) -> int:
        return len(self._starting) + len(self._idle) + len(self._busy)

    @property
    def _together(self) -> int:
        """How many items a sandbox may be given together, going by their pace."""
        if self._pace_s is None or self.rules.fresh or self.rules.max_attempts == 1:
            return 1
        return max(1, min(TOGETHER_MOST, int(TOGETHER_S / max(self._pace_s, 1e-6))))

    def _next(self) -> tuple[int, ...]:
        """What a free worker is given: as many as are its share of what waits."""
        most = min(self._together, -(-len(self._waiting) // self._workers))
        indices = [self._waiting.popleft()]
        while len(indices) < most and not self._attempts[indices[0]] and not self._attempts[self._waiting[0]]:
            indices.append(self._waiting.popleft())
        return tuple(indices)

    def _keep_pace(self, worker: int, ended: int, now_s: float) -> None:
        took_s = (now_s - self._begun_at_s[worker]) / max(ended, 1)
        before_s = took_s if self._pace_s is None else self._pace_s
        self._pace_s = before_s + PACE_SHARE * (took_s - before_s)

    def _short(self) -> bool:
        workers = self._workers
        starting_most = min(len(self._waiting), self.rules.starts_at_once)
        return len(self._starting) < starting_most and workers < self.rules.max_in_flight

    def _spare(self) -> list[Instruction]:
        """Of an ended input: whoever has nothing to do will never have."""
        if not self._ended or self._waiting:
            return []
        spared, self._idle = self._idle, []
        return [EndWorker(worker) for worker in spared]

    def _emit(self, index: int, verdict: Status | None) -> Emit:
        return Emit(index, self._attempts.pop(index), verdict)
