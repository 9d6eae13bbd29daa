"""The life of one slot, that is, of one sandbox actor, as a pure state machine: events in, instructions out.

    idle --> preparing --> warm --------> running --> destroying --> idle (epoch + 1), or stopped if that was asked
      |          |                           ^
      `--claimed-+-------> starting ---------'

No I/O and no clock: whoever holds a Lifecycle carries out the instructions, in order, and reports what came of them
as further events. An event that cannot happen in a state raises InvalidTransition with the story so far; every pair of
state and event is in TRANSITIONS or in IMPOSSIBLE, with the reason.

Three promises of the executor make pairs impossible. It looks whether a sandbox id is the current one before it
reports KillAsked or DeadlineMoved. DestroyWalls ends a build that is under way, reaps everything and only then reports
Destroyed, so that nothing of an epoch is reported in the next one. And there is no pause yet.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from raybox_actors.errors import Cause
from raybox_actors.values import SlotState

# ---- events: facts, in the past tense. Times are seconds on one clock of the executor's choice. ----


@dataclass(frozen=True, slots=True)
class PrepareAsked:
    """The pool wants walls and a parked kernel ahead of demand. No effect where that is so already."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What BuildWalls ordered stands: walls up, kernel parked."""


@dataclass(frozen=True, slots=True)
class PrepareFailed:
    """What BuildWalls ordered could not be built; debris may remain."""

    reason: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """Somebody asked for the slot's sandbox under this new id. The first claim wins, the others are told `taken`."""

    sandbox_id: str
    deadline_s: float
    at_s: float


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """A timer set by ArmDeadline fired. It may be late or stale: `at_s` decides, not the firing."""

    at_s: float


@dataclass(frozen=True, slots=True)
class DeadlineMoved:
    deadline_s: float


@dataclass(frozen=True, slots=True)
class KillAsked:
    cause: Cause = "killed"


@dataclass(frozen=True, slots=True)
class WallsDied:
    """Pid 1 inside the walls, or the kernel beyond repair, ended without being asked to."""

    cause: Cause = "internal"


@dataclass(frozen=True, slots=True)
class Destroyed:
    """What DestroyWalls ordered is done: no process, mount, file or cgroup of this epoch is left."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The actor is to end for good; a sandbox in it ends with `cause`."""

    cause: Cause = "killed"


@dataclass(frozen=True, slots=True)
class PauseAsked:
    pass


@dataclass(frozen=True, slots=True)
class Resumed:
    pass


Event: TypeAlias = (
    PrepareAsked
    | Prepared
    | PrepareFailed
    | Claimed
    | DeadlinePassed
    | DeadlineMoved
    | KillAsked
    | WallsDied
    | Destroyed
    | StopAsked
    | PauseAsked
    | Resumed
)
EventKind: TypeAlias = type[Event]
STATES: Final[tuple[SlotState, ...]] = get_args(SlotState)
EVENT_KINDS: Final[tuple[EventKind, ...]] = get_args(Event)

# ---- instructions: orders, to be carried out in the order given ----


@dataclass(frozen=True, slots=True)
class BuildWalls:
    """Build walls and park a kernel in them; report Prepared or PrepareFailed. Never ordered twice in one epoch."""


@dataclass(frozen=True, slots=True)
class DestroyWalls:
    """Stop a build that is under way, remove all there is of this epoch, report Destroyed. Must not fail."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class ArmDeadline:
    """(Re)set the one timer; report DeadlinePassed when it fires. A deadline in the past fires at once."""

    deadline_s: float


@dataclass(frozen=True, slots=True)
class DisarmDeadline:
    pass


@dataclass(frozen=True, slots=True)
class RecordTombstone:
    """The sandbox is gone. The machine remembers it in its own ring; this is for longer memories."""

    sandbox_id: str
    cause: Cause
    epoch: int


@dataclass(frozen=True, slots=True)
class NotifyPool:
    """Tell the pool manager the new description; without waiting, it may be away."""


@dataclass(frozen=True, slots=True)
class AnswerClaim:
    """End the wait of the caller who claimed under this id. `taken`: another claim came first, or nothing to claim."""

    sandbox_id: str
    outcome: Literal["ready", "taken", "failed"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Exit:
    """Everything is clean; end the actor's process."""


Instruction: TypeAlias = (
    BuildWalls | DestroyWalls | ArmDeadline | DisarmDeadline | RecordTombstone | NotifyPool | AnswerClaim | Exit
)


class InvalidTransition(Exception):
    """A bug in the executor: an event that cannot happen in this state. `story` holds the transitions before it."""

    def __init__(self, state: SlotState, event: str, reason: str, story: tuple[str, ...]) -> None:
        super().__init__(state, event, reason, story)
        self.state, self.event, self.reason, self.story = state, event, reason, story

    def __str__(self) -> str:
        return f"{self.event} in {self.state}: {self.reason}; before: {' | '.join(self.story) or 'nothing'}"


class Lifecycle:
    """One slot. Feed `handle`; read the attributes."""

    state: SlotState
    #: Raised whenever a destruction completes: two sandboxes of one slot never share an epoch.
    epoch: int
    #: Of the claimed sandbox, in starting, running and paused; None in every other state.
    sandbox_id: str | None
    #: Set exactly when `sandbox_id` is.
    deadline_s: float | None
    #: A stop was asked: the next state after destroying is stopped. Never set outside destroying and stopped.
    stop_asked: bool

    def __init__(self, *, epoch: int = 0, tombstones_kept: int = 1000) -> None:
        self.state = "idle"
        self.epoch = epoch
        self.sandbox_id = None
        self.deadline_s = None
        self.stop_asked = False
        self._tombstones_kept = tombstones_kept
        self._tombstones: OrderedDict[str, Cause] = OrderedDict()
        self._story: deque[str] = deque(maxlen=32)

    def handle(self, event: Event) -> list[Instruction]:
        """Move on. InvalidTransition (and no change) for an event that IMPOSSIBLE names."""
        key = (self.state, type(event))
        transition = TRANSITIONS.get(key)
        if transition is None:
            reason = IMPOSSIBLE.get(key, "undecided")
            raise InvalidTransition(self.state, repr(event), reason, self.story())
        before = self.state
        instructions = transition(self, event)
        self._story.append(f"{before} + {event!r} -> {self.state}")
        return instructions

    def cause_of(self, sandbox_id: str) -> Cause | None:
        """Why a sandbox that once lived here is gone, as far as the ring remembers."""
        return self._tombstones.get(sandbox_id)

    def story(self) -> tuple[str, ...]:
        """The last transitions, oldest first."""
        return tuple(self._story)

    def check(self) -> None:
        """Assert every invariant."""
        claimed = self.state in ("starting", "running", "paused")
        assert (self.sandbox_id is not None) == claimed, self.story()
        assert (self.deadline_s is not None) == claimed, self.story()
        assert not self.stop_asked or self.state in ("destroying", "stopped"), self.story()
        assert self.stop_asked or self.state != "stopped", self.story()
        assert self.sandbox_id not in self._tombstones, self.story()
        assert len(self._tombstones) <= self._tombstones_kept, self.story()

    # ---- transitions ----

    def _unchanged(self, _event: Event) -> list[Instruction]:
        return []

    def _prepare(self, _event: Event) -> list[Instruction]:
        self.state = "preparing"
        return [BuildWalls(), NotifyPool()]

    def _become_warm(self, _event: Event) -> list[Instruction]:
        self.state = "warm"
        return [NotifyPool()]

    def _claim_warm(self, event: Event) -> list[Instruction]:
        assert isinstance(event, Claimed)
        deadline_s = self._take(event)
        self.state = "running"
        return [ArmDeadline(deadline_s), AnswerClaim(event.sandbox_id, "ready"), NotifyPool()]

    def _claim_preparing(self, event: Event) -> list[Instruction]:
        assert isinstance(event, Claimed)
        deadline_s = self._take(event)
        self.state = "starting"
        return [ArmDeadline(deadline_s), NotifyPool()]

    def _claim_idle(self, event: Event) -> list[Instruction]:
        return [BuildWalls(), *self._claim_preparing(event)]

    def _refuse_claim(self, event: Event) -> list[Instruction]:
        assert isinstance(event, Claimed)
        return [AnswerClaim(event.sandbox_id, "taken", f"the slot is {self.state}")]

    def _start_running(self, _event: Event) -> list[Instruction]:
        assert self.sandbox_id is not None
        self.state = "running"
        return [AnswerClaim(self.sandbox_id, "ready"), NotifyPool()]

    def _fail(self, event: Event) -> list[Instruction]:
        assert isinstance(event, PrepareFailed)
        return self._destroy("internal", event.reason)

    def _pass_deadline(self, event: Event) -> list[Instruction]:
        assert isinstance(event, DeadlinePassed)
        assert self.deadline_s is not None
        if event.at_s < self.deadline_s:  # the deadline was moved while the timer fired, or belongs to a past sandbox
            return [ArmDeadline(self.deadline_s)]
        return self._destroy("timeout", "its deadline passed before it was ready")

    def _move_deadline(self, event: Event) -> list[Instruction]:
        assert isinstance(event, DeadlineMoved)
        self.deadline_s = event.deadline_s
        return [ArmDeadline(event.deadline_s), NotifyPool()]

    def _kill(self, event: Event) -> list[Instruction]:
        assert isinstance(event, KillAsked)
        return self._destroy(event.cause, "it was killed before it was ready")

    def _lose_walls(self, event: Event) -> list[Instruction]:
        assert isinstance(event, WallsDied)
        return self._destroy(event.cause, f"its walls died: {event.cause}")

    def _stop(self, event: Event) -> list[Instruction]:
        assert isinstance(event, StopAsked)
        self.stop_asked = True
        return self._destroy(event.cause, "its actor was stopped")

    def _stop_idle(self, _event: Event) -> list[Instruction]:
        self.stop_asked = True
        self.state = "stopped"
        return [NotifyPool(), Exit()]

    def _stop_destroying(self, _event: Event) -> list[Instruction]:
        self.stop_asked = True
        return []

    def _recycle(self, _event: Event) -> list[Instruction]:
        self.epoch += 1
        if self.stop_asked:
            self.state = "stopped"
            return [NotifyPool(), Exit()]
        self.state = "idle"
        return [NotifyPool()]

    def _take(self, event: Claimed) -> float:
        self.sandbox_id = event.sandbox_id
        # Whatever the caller computed, a sandbox is never born with a deadline before its claim.
        self.deadline_s = max(event.deadline_s, event.at_s)
        return self.deadline_s

    def _destroy(self, cause: Cause, reason: str) -> list[Instruction]:
        instructions: list[Instruction] = []
        if self.sandbox_id is not None:
            instructions.append(DisarmDeadline())
            # Before the destruction, not after: from here on nobody is told that it lives.
            self._tombstones[self.sandbox_id] = cause
            while len(self._tombstones) > self._tombstones_kept:
                self._tombstones.popitem(last=False)
            instructions.append(RecordTombstone(self.sandbox_id, cause, self.epoch))
            if self.state == "starting":
                instructions.append(AnswerClaim(self.sandbox_id, "failed", reason))
            self.sandbox_id = None
            self.deadline_s = None
        self.state = "destroying"
        return [*instructions, DestroyWalls(cause), NotifyPool()]


Transition: TypeAlias = Callable[[Lifecycle, Event], list[Instruction]]

TRANSITIONS: Final[dict[tuple[SlotState, EventKind], Transition]] = {
    ("idle", PrepareAsked): Lifecycle._prepare,
    ("idle", Claimed): Lifecycle._claim_idle,
    ("idle", DeadlinePassed): Lifecycle._unchanged,  # a timer that fired while it was being disarmed
    ("idle", StopAsked): Lifecycle._stop_idle,
    #
    ("preparing", PrepareAsked): Lifecycle._unchanged,
    ("preparing", Prepared): Lifecycle._become_warm,
    ("preparing", PrepareFailed): Lifecycle._fail,
    ("preparing", Claimed): Lifecycle._claim_preparing,
    ("preparing", DeadlinePassed): Lifecycle._unchanged,
    ("preparing", WallsDied): Lifecycle._lose_walls,
    ("preparing", StopAsked): Lifecycle._stop,
    #
    ("warm", PrepareAsked): Lifecycle._unchanged,
    ("warm", Claimed): Lifecycle._claim_warm,
    ("warm", DeadlinePassed): Lifecycle._unchanged,
    ("warm", WallsDied): Lifecycle._lose_walls,
    ("warm", StopAsked): Lifecycle._stop,
    #
    ("starting", PrepareAsked): Lifecycle._unchanged,  # the pool asked before it heard of the claim
    ("starting", Prepared): Lifecycle._start_running,
    ("starting", PrepareFailed): Lifecycle._fail,
    ("starting", Claimed): Lifecycle._refuse_claim,
    ("starting", DeadlinePassed): Lifecycle._pass_deadline,
    ("starting", DeadlineMoved): Lifecycle._move_deadline,
    ("starting", KillAsked): Lifecycle._kill,
    ("starting", WallsDied): Lifecycle._lose_walls,
    ("starting", StopAsked): Lifecycle._stop,
    #
    ("running", PrepareAsked): Lifecycle._unchanged,
    ("running", Claimed): Lifecycle._refuse_claim,
    ("running", DeadlinePassed): Lifecycle._pass_deadline,
    ("running", DeadlineMoved): Lifecycle._move_deadline,
    ("running", KillAsked): Lifecycle._kill,
    ("running", WallsDied): Lifecycle._lose_walls,
    ("running", StopAsked): Lifecycle._stop,
    #
    ("destroying", PrepareAsked): Lifecycle._unchanged,  # the pool asks again when it sees the slot idle
    ("destroying", Prepared): Lifecycle._unchanged,  # the build won the race against its own end; it goes all the same
    ("destroying", PrepareFailed): Lifecycle._unchanged,
    ("destroying", Claimed): Lifecycle._refuse_claim,
    ("destroying", DeadlinePassed): Lifecycle._unchanged,
    ("destroying", KillAsked): Lifecycle._unchanged,
    ("destroying", WallsDied): Lifecycle._unchanged,
    ("destroying", Destroyed): Lifecycle._recycle,
    ("destroying", StopAsked): Lifecycle._stop_destroying,
    #
    ("stopped", PrepareAsked): Lifecycle._unchanged,
    ("stopped", Claimed): Lifecycle._refuse_claim,
    ("stopped", DeadlinePassed): Lifecycle._unchanged,
    ("stopped", StopAsked): Lifecycle._unchanged,
}

_NO_BUILD = "no build was ordered"
_NO_SANDBOX = "nothing is claimed, and the executor compares ids first"
_NO_WALLS = "there are no walls; what there was has been reaped"
_NOT_ASKED = "no destruction was ordered"
_NO_PAUSE = "pause does not exist yet"

IMPOSSIBLE: Final[dict[tuple[SlotState, EventKind], str]] = {
    **{(state, Prepared): _NO_BUILD for state in ("idle", "warm", "running", "stopped")},
    **{(state, PrepareFailed): _NO_BUILD for state in ("idle", "warm", "running", "stopped")},
    **{(state, KillAsked): _NO_SANDBOX for state in ("idle", "preparing", "warm", "stopped")},
    **{(state, DeadlineMoved): _NO_SANDBOX for state in ("idle", "preparing", "warm", "destroying", "stopped")},
    **{(state, WallsDied): _NO_WALLS for state in ("idle", "stopped")},
    **{(state, Destroyed): _NOT_ASKED for state in ("idle", "preparing", "warm", "starting", "running", "stopped")},
    **{(state, kind): _NO_PAUSE for state in STATES for kind in (PauseAsked, Resumed)},
    **{("paused", kind): "nothing leads to paused yet" for kind in EVENT_KINDS},
}
