"""The Python kernel on our own transport, from the actor's side (guest/kernel.py is the other).

Everything that comes from it is untrusted: frames are bounded, parsed as JSON and checked; whoever breaks the rules
loses its own kernel.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

from raybox_actors.kernels.base import (
    CodeError,
    Display,
    Finished,
    InputAccepted,
    KernelEvent,
    KernelFailed,
    Output,
    Sink,
    StreamName,
)
from raybox_actors.kernels.place import Place
from raybox_actors.kernels.zygote_client import Child

#: Read from the wire or a pipe at once; small, so that one flooding kernel does not hold the loop for long.
READ_BYTES = 128 * 1024
#: One frame; the guest cuts at half of this.
MAX_FRAME_BYTES = 64 * 1024 * 1024
#: Values in what is read at once; more are not parsed: an empty list costs 56 bytes here and 3 on the wire.
MAX_FRAME_PARTS = 4_000_000
#: Of adjacent text that is handed on as one piece.
TEXT_CHARS = 32 * 1024
#: Of the wire, on the sender's side, where small frames count for some 800 bytes each. Beyond the system's own limit.
WIRE_BUFFER_BYTES = 1 << 20
SO_SNDBUFFORCE = 32  # the module socket does not name it
#: Of a kernel that has ended; its children may go on writing.
LAST_READS = 64
#: After this many reads of nothing but text the wire rests before the next: a reader that sleeps costs the kernel a
#: wake-up with every print, and two processes half a core each.
FLOOD_READS = 8
FLOOD_REST_S = 0.001
START_LIMIT_S = 20.0


class ForkedKernel:
    """A Kernel (base.py) forked from the zygote, ready to run."""

    #: What the zygote is asked for, and how long that may take until it is ready.
    request: dict[str, Any] = {"op": "kernel"}  # noqa: RUF012  # never changed
    start_limit_s = START_LIMIT_S

    def __init__(self, place: Place, cwd: str) -> None:
        self._place, self._cwd = place, cwd
        self._loop = asyncio.get_running_loop()
        self._child: Child | None = None
        self._wire: socket.socket | None = None
        self._buffer = bytearray()
        #: Read ends of the pipes of descriptors 1 and 2, with what is left of a cut character.
        self._pipes: dict[int, tuple[StreamName, codecs.IncrementalDecoder]] = {}
        self._sink: Sink | None = None
        #: Of the running execution; the kernel repeats it when it begins and ends the cell.
        self._number = 0
        self._accepted = False
        self._finished: asyncio.Future[Finished] | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._reading = False
        self._text_reads = 0
        self._rest: asyncio.TimerHandle | None = None
        self._death: asyncio.Task[None] | None = None
        self._dead: str | None = None

    async def start(self) -> None:
        ours, theirs = socket.socketpair()
        with contextlib.suppress(PermissionError):
            theirs.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, WIRE_BUFFER_BYTES)
        ours.setblocking(False)
        self._wire = ours
        write_ends = []
        decoder = codecs.getincrementaldecoder("utf-8")
        names: tuple[StreamName, StreamName] = ("stdout", "stderr")
        for name in names:
            read, write = os.pipe2(os.O_CLOEXEC)
            os.fchmod(write, 0o622)  # /dev/stdout is opened by name, and by another user than us
            os.set_blocking(read, False)
            self._pipes[read] = (name, decoder("replace"))
            write_ends.append(write)
        try:
            self._child = await self._place.enter(self.request, self._cwd, [theirs.fileno(), *write_ends])
            self.resume()
            self._death = asyncio.create_task(self._watch())
            async with asyncio.timeout(self.start_limit_s):
                await self._ready
        except TimeoutError as error:
            await self.stop()
            raise KernelFailed(f"the kernel was not ready after {self.start_limit_s:.0f} s") from error
        except BaseException:
            await self.stop()
            raise
        finally:
            theirs.close()
            for fd in write_ends:
                os.close(fd)

    async def execute(self, code: str, env: dict[str, str], sink: Sink) -> Finished:
        assert self._finished is None, "one execution at a time"
        if self._dead is not None:
            return Finished(ok=False, lost=True, reason=self._dead)
        self._finished = self._loop.create_future()
        self._sink, self._accepted = sink, False
        self._number += 1
        try:
            await self._send("execute", {"code": code, "env": env, "number": self._number})
            return await asyncio.shield(self._finished)
        finally:
            self._sink = self._finished = None

    async def configure(self, env: dict[str, str]) -> None:
        await self._send("configure", {"env": env})

    async def exercise(self) -> None:
        await self._send("exercise", {})

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    def pause(self) -> None:
        if self._reading:
            self._reading = False
            if self._rest is not None:
                self._rest.cancel()
                self._rest = None
            for fd in (self._wire, *self._pipes):
                if fd is not None:
                    self._loop.remove_reader(fd)

    def resume(self) -> None:
        if not self._reading and self._wire is not None:
            self._reading = True
            self._listen()
            for fd in self._pipes:
                self._loop.add_reader(fd, self._read_pipe, fd)

    async def stop(self) -> None:
        self._die("stopped")
        if self._death is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._death
        self.pause()
        for fd in self._pipes:
            os.close(fd)
        self._pipes.clear()
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        if self._child is not None:
            self._child.close()

    async def _send(self, kind: str, content: dict[str, Any]) -> None:
        if self._wire is None:
            return
        with contextlib.suppress(OSError):  # a dead kernel is reported by the task that watches it
            await self._loop.sock_sendall(self._wire, json.dumps([kind, content]).encode() + b"\n")

    def _signal(self, number: signal.Signals) -> None:
        """To the process group. The group's number is safe to use while the zygote has not reaped its leader."""
        if self._child is not None and self._child.pidfd >= 0 and self._dead is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)

    async def _watch(self) -> None:
        """Wait for the process's end, then take what it still said, then say how it ended."""
        assert self._child is not None
        how = await self._child.wait()
        if self._wire is not None:  # paused or not: what is left is bounded by the buffers
            reads = 0
            while self._read_wire() and reads < LAST_READS:
                reads += 1
            for fd in list(self._pipes):
                self._read_pipe(fd)
        self._die(how)

    def _die(self, reason: str) -> None:
        """Kill what is left of the group; whoever waits for an execution hears that it is lost. Idempotent."""
        if self._dead is None:
            self._signal(signal.SIGKILL)
            self._dead = reason
        if not self._ready.done():
            self._ready.set_exception(KernelFailed(f"the kernel ended before it was ready: {reason}"))
            self._ready.exception()  # retrieved: `start` may have given up already
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(Finished(ok=False, lost=True, reason=self._dead))

    def _listen(self) -> None:
        self._rest = None
        if self._wire is not None:
            self._loop.add_reader(self._wire, self._wire_readable)

    def _wire_readable(self) -> None:
        self._read_wire()
        if self._text_reads > FLOOD_READS and self._reading and self._wire is not None:
            self._loop.remove_reader(self._wire)
            self._rest = self._loop.call_later(FLOOD_REST_S, self._listen)

    def _read_wire(self) -> bool:
        """Take what is there, up to a bound. False when there was nothing."""
        assert self._wire is not None
        try:
            data = self._wire.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._wire)  # the task that watches the process knows the rest
            self._text_reads = 0
            return False
        last = data.rfind(b"\n") + 1
        end = len(self._buffer) + last if last else 0
        self._buffer += data
        if len(self._buffer) - end > MAX_FRAME_BYTES:
            self._die("sent a frame over the limit")
        elif end:
            lines = bytes(self._buffer[:end])
            del self._buffer[:end]
            self._text_reads = self._text_reads + 1 if len(data) < READ_BYTES else 0  # full: somebody waits for room
            for kind, content in parse_frames(lines):
                if kind not in ("stdout", "stderr"):
                    self._text_reads = 0
                self._handle(kind, content)
        return True

    def _handle(self, kind: str, content: Any) -> None:
        """Act on one frame. A forged one that makes no sense is ignored."""
        if kind == "ready":
            if not self._ready.done():
                self._ready.set_result(None)
        elif kind == "input":
            # Output before it is of a background task, between executions, or of a cell whose end was forged.
            if is_pair(content) and content[1] == self._number and not self._accepted:
                self._accepted = True
                self._tell(InputAccepted(content[0]))
        elif not self._accepted:
            return
        elif kind == "done":
            if isinstance(content, dict) and content.get("number") == self._number and self._finished is not None:
                self._end(content)
        elif event := event_of(kind, content):
            self._tell(event)

    def _tell(self, event: KernelEvent) -> None:
        if self._sink is not None:
            self._sink(event)

    def _end(self, content: dict[str, Any]) -> None:
        """The cell is over. If it asked for the kernel's end, that is near, and the task that watches it reports."""
        if not content.get("exiting") and self._finished is not None and not self._finished.done():
            self._accepted = False
            self._finished.set_result(Finished(ok=content.get("status") == "ok"))

    def _read_pipe(self, fd: int) -> None:
        if self._wire is not None:
            self._read_wire()  # frames first: see guest/wire.py for the order that both sides keep
        self._take_from_pipe(fd)

    def _take_from_pipe(self, fd: int) -> bool:
        """Take what is there, up to a bound. False when there was nothing."""
        if fd not in self._pipes:
            return False
        name, decoder = self._pipes[fd]
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(fd)
            return False
        text = decoder.decode(data)
        if text and self._accepted:
            self._tell(Output(name, text))
        return True


def is_pair(content: Any) -> bool:
    return isinstance(content, list) and len(content) == 2 and all(type(number) is int for number in content)


def event_of(kind: str, content: Any) -> KernelEvent | None:
    """What a frame says, or None if it says nothing that makes sense."""
    if kind in ("stdout", "stderr"):
        return Output("stdout" if kind == "stdout" else "stderr", content) if isinstance(content, str) else None
    if not isinstance(content, dict):
        return None
    if kind in ("execute_result", "display_data", "update_display_data"):
        data, metadata = content.get("data"), content.get("metadata") or {}
        if isinstance(data, dict) and isinstance(metadata, dict):
            return Display(data, metadata, kind == "execute_result", kind == "update_display_data")
    elif kind == "error":
        lines = content.get("traceback")
        if isinstance(lines, list):
            return CodeError(str(content.get("ename")), str(content.get("evalue")), tuple(map(str, lines)))
    return None


def parse_frames(lines: bytes) -> Iterator[tuple[str, Any]]:
    """The frames in whole lines; adjacent text of one stream comes as one. What is no frame is left out.

    All lines are parsed as one array: a line cannot contain a line break of its own, and a frame costs little more
    than its bytes.
    """
    frames: list[Any] = []
    try:
        frames = parse(b"[%b]" % lines.strip(b"\n").replace(b"\n\n", b"\n").replace(b"\n", b","))
    except (ValueError, RecursionError):  # cut by an exception out of a signal handler, or forged
        for line in lines.split(b"\n"):
            with contextlib.suppress(ValueError, RecursionError):
                frames.append(parse(line))
    text: list[str] = []
    name, length = "", 0
    for frame in frames:
        if not isinstance(frame, list) or len(frame) != 2 or not isinstance(frame[0], str):
            continue
        kind, content = frame
        is_text = kind in ("stdout", "stderr")
        if text and (kind != name or length > TEXT_CHARS):
            yield name, "".join(text)
            text.clear()
        if not is_text:
            yield kind, content
        elif isinstance(content, str):
            if not text:
                name, length = kind, 0
            text.append(content)
            length += len(content)
    if text:
        yield name, "".join(text)


def parse(text: bytes) -> Any:
    """JSON of bounded size once parsed. Raises ValueError, RecursionError."""
    if text.count(b",") + text.count(b"[") + text.count(b"{") > MAX_FRAME_PARTS:
        raise ValueError("too many values")
    return json.loads(text)
