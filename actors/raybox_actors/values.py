"""Plain values that cross process boundaries between gateway, pool manager and sandbox actors. No I/O, no Ray."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

#: What a caller may see of a sandbox's life; the actor's own machine (lifecycle.py) has more states.
PublicState = Literal["running", "paused"]

DEFAULT_TEMPLATE = "code-interpreter-v1"


@dataclass(frozen=True, slots=True)
class Quota:
    """What the live sandboxes of one API key may add up to; None: no bound but the pool's own size."""

    sandboxes: int | None = None
    cpu: float | None = None  #: sum of `SandboxInfo.cpu_count`
    memory_mib: int | None = None  #: sum of `SandboxInfo.memory_mib`


@dataclass(frozen=True, slots=True)
class MemberReport:
    """What had become of one sandbox of a gang when the gang failed; all that was made has been given back."""

    index: int
    state: Literal["ready", "failed", "not_started"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LeaseOwner:
    """Who holds a lease. `id` is Ray's (hex digits) for a job, an actor or a process; a name of the holder's own for
    `heartbeat`, which lives as long as it says so; nothing for `none`, which never dies."""

    kind: Literal["none", "heartbeat", "job", "actor", "process"]
    id: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a leased sandbox knows of its lease, so that a new manager knows it, too; the deadline is the sandbox's own.

    `key` is unique among the leases of `SandboxInfo.owner`; `ttl_s` is what the last use granted. The sandbox is ended
    when the last of `owners` has died.
    """

    key: str
    ttl_s: float
    owners: tuple[LeaseOwner, ...] = ()


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What a caller asks for. `timeout_s` counts from the claim; times on the wire are whole seconds."""

    template: str = DEFAULT_TEMPLATE
    timeout_s: float = 300.0
    metadata: dict[str, str] = field(default_factory=dict)
    env_vars: dict[str, str] = field(default_factory=dict)
    owner: str = ""  #: name of the API key that created it
    quota: Quota | None = None  #: of that key; with one, only the pool manager may find the slot
    weight: float = 1.0  #: of that key, when several wait for slots
    wait_s: float | None = None  #: how long it may wait for a slot; None: as long as the pool says
    secure: bool = True  #: issue an envd access token (v1 clients may decline)
    allow_public_traffic: bool = True
    allow_internet_access: bool = True  #: as asked; a pool without a network gives none
    network: dict[str, object] | None = None  #: as asked, echoed by info
    auto_pause: bool = False
    idempotency_key: str | None = None
    gang: str = ""  #: that it is a member of; then it is pending until `SandboxActor.confirm`
    near_node_id: str = ""  #: Ray's id of a node; a free slot there is preferred
    #: What the creator wants of policy.ADJUSTABLE, within what the pool gives.
    resources: dict[str, float] = field(default_factory=dict)
    lease: Lease | None = None  #: through the pool manager only


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """A live sandbox as its actor describes it. Times are unix seconds; `end_at_s` is stored, never recomputed."""

    sandbox_id: str
    template: str
    state: PublicState
    started_at_s: float
    end_at_s: float
    metadata: dict[str, str]
    cpu_count: int
    memory_mib: int
    disk_mib: int
    owner: str = ""
    envd_access_token: str | None = field(default=None, repr=False)  # what is logged must not open a sandbox
    traffic_access_token: str | None = field(default=None, repr=False)
    allow_internet_access: bool = True
    network: dict[str, object] | None = None
    auto_pause: bool = False
    node_id: str = ""
    idempotency_key: str | None = None  #: of its creation; how a restarted manager knows what it has promised
    gang: str = ""  #: id of the gang that it was created in, all or nothing
    pending: bool = False  #: its gang is not whole yet: nobody has it, and it ends soon by itself
    timings_ms: dict[str, float] = field(default_factory=dict)  #: of its creation: queued, claimed, ready
    lease: Lease | None = None


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """What a sandbox uses, from its cgroup and its file systems, at one moment (unix seconds)."""

    at_s: float
    cpu_count: int
    cpu_used_pct: float  #: of one core, since the sample before; 100 x cpu_count at most
    memory_used_bytes: int
    memory_total_bytes: int
    memory_cache_bytes: int
    disk_used_bytes: int
    disk_total_bytes: int


@dataclass(frozen=True, slots=True)
class LogEntry:
    """Something that happened in the life of a sandbox, for people to read. Times are unix seconds."""

    at_s: float
    level: Literal["debug", "info", "warn", "error"]
    message: str
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ContextInfo:
    context_id: str
    language: str
    cwd: str


@dataclass(frozen=True, slots=True)
class ExecuteRequest:
    """One cell. `context_id` None means the default context of `language` (None: python).

    `execution_id` is the caller's, or of our making (executions.new_execution_id); the same id never runs twice.
    `timeout_s` None: no limit of the server's own. `interrupt_if_unobserved`: E2B's rule, that a client who
    goes away interrupts its cell; false leaves it running. `from_event`: the first event to answer with, for who has
    had those before it.
    """

    execution_id: str
    code: str
    language: str | None = None
    context_id: str | None = None
    env_vars: dict[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    interrupt_if_unobserved: bool = True
    from_event: int = 0

    def same_cell(self, other: ExecuteRequest) -> bool:
        """Whether both ask for the same to be run; how long it may take and who watches is not part of that."""
        mine, theirs = ((one.code, one.language or "python", one.context_id, one.env_vars) for one in (self, other))
        return mine == theirs


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Consecutive events of one execution, numbered from `first_seq` (0-based), as contract 3.2 NDJSON.

    `lines` is `count` JSON objects, each ended by one newline, ASCII only, ready for the wire. It may be empty when
    nothing happened within the wait. `done`: the last event of the execution is in this batch or came before it.
    To go on, poll with `after_seq = first_seq + count`. Asking for what the ring no longer holds starts at the oldest
    event held: `first_seq` says so, and so does a line `events_lost` before it, which has no number.
    """

    execution_id: str
    first_seq: int
    count: int
    lines: bytes
    done: bool


#: How an item is run: as a cell of a fresh kernel, or as a program of a fresh interpreter.
ItemKind = Literal["cell", "program"]
#: `error`: the code raised, or its program ended with another status than 0.
ItemStatus = Literal["ok", "error", "timeout", "oom"]

#: Of one item: text and results together; the rest is cut, counted and marked.
ITEM_OUTPUT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ItemRequest:
    """One piece of code that is to be run by itself, so that nothing of it is left (Session.run_items).

    language: None means python. files: by their names relative to the working folder. stdin and files are for programs.
    fetch: names of files that the program leaves and that are wanted.
    """

    execution_id: str
    code: str
    kind: ItemKind = "cell"
    language: str | None = None
    stdin: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    env_vars: dict[str, str] = field(default_factory=dict)
    fetch: tuple[str, ...] = ()
    timeout_s: float = 60.0

    @property
    def size_bytes(self) -> int:
        """About what holding it takes."""
        return len(self.code) + len(self.stdin) + sum(map(len, self.files.values()))


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What came of an item. `lines`: its events, as of an execution. exit_code: of a program that ended by itself;
    negative: the signal that ended it. clean: the sandbox is as it was before, and can take another item."""

    status: ItemStatus
    lines: bytes
    duration_s: float
    clean: bool
    exit_code: int | None = None
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """About what holding it takes."""
        return len(self.lines) + sum(map(len, self.files.values()))


@dataclass(frozen=True, slots=True)
class ItemsDone:
    """Of items that were given together, in their order. `ends`: of those that ended, the last one perhaps with a
    RayboxError: then it could not be run. running: the next one goes on. Those behind it have not begun."""

    ends: tuple[ItemOutcome | Exception, ...]
    running: bool = False


#: State of a slot (one sandbox actor), as its lifecycle machine names it.
SlotState = Literal["idle", "preparing", "warm", "starting", "running", "paused", "destroying", "stopped"]


@dataclass(frozen=True, slots=True)
class SlotDescription:
    """What a sandbox actor says of itself; all that the pool manager knows of it, and how it rebuilds its state."""

    actor_name: str
    node_id: str
    slot: int
    epoch: int  #: raised by every recycling
    state: SlotState
    info: SandboxInfo | None  #: of the claimed sandbox, in starting, running and paused
    executions_running: int
    sequence: int  #: raised by every change within this actor; an older description never replaces a newer one
    placement: str = ""  #: id of the gang in whose placement group the actor was born; it ends with its sandbox


@dataclass(frozen=True, slots=True)
class NodeStatus:
    node_id: str
    alive: bool
    zygote_ready: bool
    slots: int
    problem: str = ""  #: why it hosts no sandboxes, in one line
    draining: bool = False  #: it is going away
    hosts: bool = True  #: it has CPUs and the labels that the pool wants
    leaks: dict[str, int] = field(default_factory=dict)  #: found left of dead sandboxes, by kind; should stay zero


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """`capacity` is the number of sandboxes that may live at once; `warm` ones need no walls built. Orphaned leases are
    those whose owners are all dead and whose sandbox is not gone yet: more than a moment after that there are none."""

    nodes: list[NodeStatus]
    slots_by_state: dict[str, int]
    capacity: int
    warm: int
    busy: int  #: sandboxes with an execution running
    claims_waiting: int
    leases: int = 0
    orphaned_leases: int = 0


@dataclass(frozen=True, slots=True)
class PoolCapacity:
    """What one API key may start at this moment; the next may be different."""

    available: int  #: sandboxes that it may start without waiting
    warm: int  #: of these, ready: nothing has to be built for them
    live: int  #: its own, those that are being made included
    limit: int | None  #: how many its quota lets it have at once; None: as many as the pool
    waiting: int  #: creates of all keys that wait for a sandbox
    retry_after_s: float  #: with none available, when there may be; else 0
    pool_live: int  #: sandboxes of all keys
    pool_limit: int  #: how many the pool may grow to
