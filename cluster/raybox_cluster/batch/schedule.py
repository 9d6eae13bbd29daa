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
    worker: int
    index: int
    attempt: int  #: from 1 on


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
    _busy: dict[int, int] = field(default_factory=dict)
    _next_worker: int = 0
    _ended: bool = False
    _grows_at_s: float = 0.0
    _starved_since_s: float | None = None
    _failures: int = 0  #: of starts, since the last that worked

    @property
    def wants_item(self) -> bool:
        """Whether to take in another one: no more than can be begun, so that who gives them is held up."""
        return not self._ended and len(self._waiting) < self.rules.max_in_flight

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

    def finished(self, worker: int, reusable: bool, now_s: float) -> list[Instruction]:
        """Its item has a result. reusable: the sandbox can take another one."""
        index = self._busy.pop(worker)
        said: list[Instruction] = [self._emit(index, None)]
        if reusable and not self.rules.fresh:
            self._idle.append(worker)
        else:
            said.append(EndWorker(worker))
        return said + self.look(now_s) + self._spare()

    def faulted(self, worker: int, now_s: float) -> list[Instruction]:
        """Its sandbox failed its item, for no fault of the item's."""
        index = self._busy.pop(worker)
        said: list[Instruction] = [EndWorker(worker)]
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
        self._idle.clear()
        self._starting.clear()
        return said

    def look(self, now_s: float) -> list[Instruction]:
        """Put items that wait on sandboxes that are free; want more of them if there are too few."""
        said: list[Instruction] = []
        while self._waiting and self._idle:
            worker, index = self._idle.pop(), self._waiting.popleft()
            self._busy[worker] = index
            self._attempts[index] += 1
            said.append(Run(worker, index, self._attempts[index]))
        while self._short() and now_s >= self._grows_at_s:
            said.append(StartWorker(self._next_worker))
            self._starting.add(self._next_worker)
            self._next_worker += 1
        return said

    def _short(self) -> bool:
        workers = len(self._starting) + len(self._idle) + len(self._busy)
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
