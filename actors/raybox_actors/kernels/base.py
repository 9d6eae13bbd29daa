"""What a session needs of a kernel, whichever it is, and the events that it reports.

Order of calls: `start` once; then any number of `execute`, one at a time; `interrupt`, `pause` and `resume` at any
moment; `stop` once, after which the object is spent. A restart is a new kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

StreamName = Literal["stdout", "stderr"]


@dataclass(frozen=True, slots=True)
class InputAccepted:
    """The cell began; `execution_count` is its number in its kernel, from 1 on."""

    execution_count: int


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of text, of any size, possibly half a line."""

    name: StreamName
    text: str


@dataclass(frozen=True, slots=True)
class Display:
    """A MIME bundle. `main`: it is the value of the cell's last expression. `update`: of an earlier display."""

    data: dict[str, Any]
    metadata: dict[str, Any]
    main: bool = False
    update: bool = False


@dataclass(frozen=True, slots=True)
class CodeError:
    """What user code raised, or what ended it. `kind`, where set, says it to machines: `oom`, `timeout`."""

    name: str
    value: str
    traceback: tuple[str, ...]
    kind: str = ""


KernelEvent = InputAccepted | Output | Display | CodeError
Sink = Callable[[KernelEvent], None]


@dataclass(frozen=True, slots=True)
class Finished:
    """How an execution ended. `lost`: the kernel is gone and its state with it, and `reason` says how it ended."""

    ok: bool
    lost: bool = False
    reason: str = ""


class KernelFailed(Exception):
    """The kernel could not be started; the message is fit for the wire."""


class Kernel(Protocol):
    async def start(self) -> None:
        """Return when it can execute. Raises KernelFailed; then nothing of it is left."""
        ...

    async def execute(self, code: str, env: dict[str, str], sink: Sink) -> Finished:
        """Run one cell; call `sink` with each event, in order, before returning. `env` is set for this cell only.

        Never raises for what the cell does, the kernel's death included. Cancellation leaves the cell running:
        interrupt it first.
        """
        ...

    async def configure(self, env: dict[str, str]) -> None:
        """Add environment variables for every cell from the next one on. Between executions only."""
        ...

    async def exercise(self) -> None:
        """Make the first cell as fast as the later ones, if that takes anything. Leaves no trace; does not wait."""
        ...

    def interrupt(self) -> None:
        """Send SIGINT to the kernel's process group. Nothing happens while no cell runs."""
        ...

    def pause(self) -> None:
        """Stop reading what the kernel says; it blocks when its buffers are full. Idempotent."""
        ...

    def resume(self) -> None: ...

    async def stop(self) -> None:
        """Kill its process group, wait until it is gone, release everything. Idempotent."""
        ...
