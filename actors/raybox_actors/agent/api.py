"""How the rest of raybox speaks to the agent of one sandbox. The implementation is client.py, the other end guest/.

Every method may raise AgentError (errors.py) and, when the sandbox is gone, SandboxLost or NotFound. Cancelling a call
or closing an iterator ends the operation in the sandbox, except that a started process runs on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from raybox_actors.agent.values import (
    EntryInfo,
    ProcessEvent,
    ProcessInfo,
    ProcessSelector,
    ProcessSpec,
    PtySize,
    WatchEvent,
)


class FileReader(Protocol):
    """An open file. `size_bytes` is what stat says (0 under /proc, which is read to its end all the same)."""

    entry: EntryInfo

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Pieces of at most 256 KiB, with backpressure."""
        ...


class FileWriter(Protocol):
    """A file that is being written. Leaving the context without `commit` leaves what was written so far."""

    async def write(self, data: bytes) -> None:
        """Returns when the agent has room for more. Raises AgentError `no_space` when the disk is full."""
        ...

    async def commit(self) -> EntryInfo:
        """Flush and close; what was written is there when it returns."""
        ...


class ByteStream(Protocol):
    """A connection to a port inside the sandbox."""

    async def read(self, limit: int = 65536) -> bytes:
        """Empty at the end."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def write_eof(self) -> None: ...

    def abort(self) -> None:
        """Close at once. Idempotent."""
        ...


class Agent(Protocol):
    # ---- files (contract 4.3, 4.6); `user` decides what relative paths and permissions mean ----

    async def stat(self, path: str, user: str) -> EntryInfo: ...

    async def list_dir(self, path: str, depth: int, user: str) -> list[EntryInfo]: ...

    async def make_dir(self, path: str, user: str) -> EntryInfo: ...

    async def move(self, source: str, destination: str, user: str) -> EntryInfo: ...

    async def remove(self, path: str, user: str) -> None: ...

    def open_read(
        self, path: str, user: str, *, offset: int = 0, length: int | None = None
    ) -> AbstractAsyncContextManager[FileReader]: ...

    def open_write(
        self, path: str, user: str, *, metadata: dict[str, str] | None = None
    ) -> AbstractAsyncContextManager[FileWriter]:
        """Creates parents, truncates, replaces the metadata. A new file gives the events create, chmod, write."""
        ...

    def watch(
        self, path: str, user: str, *, recursive: bool, include_entry: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[WatchEvent]]:
        """Entered when the watch is in place."""
        ...

    async def create_watcher(self, path: str, user: str, *, recursive: bool, include_entry: bool) -> str: ...

    async def watcher_events(self, watcher_id: str) -> list[WatchEvent]:
        """Everything since the last call, what happened a moment ago included."""
        ...

    async def remove_watcher(self, watcher_id: str) -> None: ...

    # ---- processes (contract 4.5) ----

    def start_process(self, spec: ProcessSpec) -> AbstractAsyncContextManager[AsyncIterator[ProcessEvent]]:
        """The first event is ProcessStarted, the last ProcessEnded. Leaving the context leaves the process running."""
        ...

    def connect_process(
        self, selector: ProcessSelector
    ) -> AbstractAsyncContextManager[AsyncIterator[ProcessEvent]]: ...

    async def list_processes(self) -> list[ProcessInfo]: ...

    async def send_input(self, selector: ProcessSelector, data: bytes, *, pty: bool) -> None: ...

    async def close_stdin(self, selector: ProcessSelector) -> None: ...

    async def signal_process(self, selector: ProcessSelector, signal: int) -> None:
        """SIGKILL goes to the whole process group."""
        ...

    async def resize(self, selector: ProcessSelector, size: PtySize) -> None: ...

    # ---- ports ----

    async def dial(self, port: int) -> ByteStream:
        """Connect to 127.0.0.1 (or ::1) inside the sandbox. Raises AgentError `port_closed`."""
        ...
