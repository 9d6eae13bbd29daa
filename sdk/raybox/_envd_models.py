"""Values of files, commands and terminals: plain, without I/O. Same names and fields as the E2B SDK has them."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import IO, Any, Generic, TypedDict, TypeVar

from ._errors import Kind, SandboxException

Stdout = str
Stderr = str
PtyOutput = bytes
Username = str

#: What the blocking `files.write` takes; files and iterables are sent piece by piece.
WriteData = str | bytes | IO[str] | IO[bytes] | Iterable[bytes]
#: What its asyncio twin takes.
AsyncWriteData = str | bytes | IO[str] | IO[bytes] | AsyncIterable[bytes]

#: str, or None of a command whose output is not kept (`retain_output=False`).
OutputT = TypeVar("OutputT")


class WriteEntry(TypedDict):
    """One file for `files.write_files`."""

    path: str
    data: WriteData


class AsyncWriteEntry(TypedDict):
    """One file for the asyncio `files.write_files`."""

    path: str
    data: AsyncWriteData


# --- files -----------------------------------------------------------------------------------------------------------


class FileType(Enum):
    """What an entry of a directory is."""

    FILE = "file"
    DIR = "dir"
    SYMLINK = "symlink"


@dataclass
class WriteInfo:
    """A file that was written; `type` is None when it is none of FileType."""

    name: str
    type: FileType | None
    path: str
    metadata: dict[str, str] | None = field(default=None, kw_only=True)


@dataclass
class EntryInfo(WriteInfo):
    """A file or directory, followed where it is a link: then `symlink_target` is the path at the end of the links.

    size: bytes. mode: permission bits. permissions: as `ls -l` writes them. owner, group: names, or numbers as text.
    metadata: what was given to `files.write`; None when there is none.
    """

    size: int
    mode: int
    permissions: str
    owner: str
    group: str
    modified_time: datetime
    symlink_target: str | None = None


class FilesystemEventType(Enum):
    """What happened to a watched entry."""

    CHMOD = "chmod"
    CREATE = "create"
    REMOVE = "remove"
    RENAME = "rename"
    WRITE = "write"


@dataclass
class FilesystemEvent:
    """One change in a watched directory. name: relative to it. entry: as it was then, if that was asked for."""

    name: str
    type: FilesystemEventType
    entry: EntryInfo | None = None


# --- commands --------------------------------------------------------------------------------------------------------


@dataclass
class ProcessInfo:
    """A process that was started through `commands` or `pty` and runs. cwd: None when it was not given."""

    pid: int
    tag: str | None
    cmd: str
    args: list[str]
    envs: dict[str, str]
    cwd: str | None


@dataclass
class PtySize:
    """Size of a terminal, in characters."""

    rows: int
    cols: int


@dataclass
class CommandResult(Generic[OutputT]):
    """What came of a command that ended.

    stdout, stderr: decoded as UTF-8, other bytes replaced; None if it was not to be kept. exit_code: -1 when a signal
    ended it, and `error` then says which.
    """

    stderr: OutputT
    stdout: OutputT
    exit_code: int
    error: str | None


class CommandExitException(SandboxException, CommandResult[OutputT]):
    """A command ended with an exit code other than zero: the doing of what ran there, so no sample is masked."""

    kind: Kind = "user_code"
    should_mask_sample = False

    def __init__(self, stderr: OutputT, stdout: OutputT, exit_code: int, error: str | None) -> None:
        CommandResult.__init__(self, stderr, stdout, exit_code, error)
        SandboxException.__init__(self, self._describe())

    def _describe(self) -> str:
        told = self.stderr or self.error
        return f"the command exited with code {self.exit_code}" + (f":\n{told}" if told else "")

    # An error is equal to itself alone, and can be put into a set: a result's comparison would take that away.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.stderr, self.stdout, self.exit_code, self.error)


# --- metrics ---------------------------------------------------------------------------------------------------------


@dataclass
class SandboxMetrics:
    """What a sandbox used at one moment: memory and disk in bytes, CPU in percent of one core."""

    cpu_count: int
    cpu_used_pct: float
    disk_total: int
    disk_used: int
    mem_total: int
    mem_used: int
    mem_cache: int
    timestamp: datetime
