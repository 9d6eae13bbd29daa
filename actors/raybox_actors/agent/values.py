"""What the in-sandbox agent is asked and what it answers, as plain values. No I/O, no Ray.

Paths follow the contract's rules (E2B wire contract 4.3): absolute, `~`, or relative to the user's home; they are only
ever resolved inside the walls. Users are names inside the sandbox: "user" or "root".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FileType = Literal["file", "directory", "symlink", "unspecified"]
WatchKind = Literal["create", "write", "remove", "rename", "chmod"]
Stream = Literal["stdout", "stderr", "pty"]


@dataclass(frozen=True, slots=True)
class EntryInfo:
    """One file system entry (contract 4.6). `mode` has permission bits only; times are unix seconds.

    `file_type` and `mode` are of a link's target, the other facts of the link itself; "unspecified" for broken links
    and what is neither file nor folder. `symlink_target` is set for links only: resolved, absolute.
    """

    name: str
    path: str
    file_type: FileType
    size_bytes: int
    mode: int
    permissions: str
    owner: str
    group: str
    modified_at_s: float
    symlink_target: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """`name` is relative to the watched folder. `entry` if it was asked for and still exists."""

    name: str
    kind: WatchKind
    entry: EntryInfo | None = None


@dataclass(frozen=True, slots=True)
class PtySize:
    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to start (contract 4.5). `stdin` False: /dev/null. `pty` set: a terminal of that size, whose stdin it is.

    `timeout_s` None: no limit; when it passes the process group is killed and the stream ends with the agent error
    `deadline_exceeded`. `cwd` None: the user's home.
    """

    command: str
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    cwd: str | None = None
    user: str = "user"
    stdin: bool = True
    pty: PtySize | None = None
    tag: str | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class ProcessSelector:
    """Exactly one of the two. `pid` as seen inside the sandbox."""

    pid: int | None = None
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    pid: int
    spec: ProcessSpec


@dataclass(frozen=True, slots=True)
class ProcessStarted:
    pid: int


@dataclass(frozen=True, slots=True)
class ProcessOutput:
    """Raw bytes, at most 32 KiB (16 KiB of a terminal)."""

    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class ProcessEnded:
    """`exited` False: killed by a signal, and `exit_code` is -1. `status` and `error` as in the contract."""

    exit_code: int
    exited: bool
    status: str
    error: str | None = None


ProcessEvent = ProcessStarted | ProcessOutput | ProcessEnded
