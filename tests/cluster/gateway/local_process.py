"""A real process of this machine, started and heard as the agent's are. Only for the gateway's tests."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import pty
import signal
import struct
import termios
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from raybox_actors.agent.errors import AgentError
from raybox_actors.agent.values import ProcessEnded, ProcessEvent, ProcessOutput, ProcessSpec, ProcessStarted, PtySize
from raybox_actors.errors import RayboxError


class Owner(Protocol):
    """The agent, whose faults end every stream."""

    fault: RayboxError | None
    broken: asyncio.Event


@dataclass
class LocalProcess:
    spec: ProcessSpec
    pid: int = 0
    stdin: int = -1
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ended_callback: Callable[[], object] = lambda: None
    listeners: set[asyncio.Queue[ProcessEvent | RayboxError]] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    last: ProcessEvent | RayboxError | None = None

    async def start(self, cwd: Path) -> None:
        argv = [self.spec.command, *self.spec.arguments]
        environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), **self.spec.environment}
        ends: list[tuple[int, str]]
        if self.spec.pty is not None:
            ours, theirs = pty.openpty()
            set_size(ours, self.spec.pty)
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=environment, start_new_session=True
            )
            os.close(theirs)
            self.stdin, ends = ours, [(ours, "pty")]
        else:
            out, out_end = os.pipe()
            err, err_end = os.pipe()
            in_end, self.stdin = os.pipe() if self.spec.stdin else (os.open(os.devnull, os.O_RDONLY), -1)
            try:
                process = await asyncio.create_subprocess_exec(
                    *argv, stdin=in_end, stdout=out_end, stderr=err_end, cwd=cwd, env=environment,
                    start_new_session=True,
                )  # fmt: skip
            except OSError:
                for fd in (out, err, *([self.stdin] if self.stdin >= 0 else [])):
                    os.close(fd)
                raise
            finally:
                for fd in (out_end, err_end, in_end):
                    os.close(fd)
            ends = [(out, "stdout"), (err, "stderr")]
        self.pid = process.pid
        task = asyncio.create_task(self._run(process, ends))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _run(self, process: asyncio.subprocess.Process, ends: list[tuple[int, str]]) -> None:
        overdue = False
        try:
            async with asyncio.timeout(self.spec.timeout_s):
                await asyncio.gather(*(self._pump(fd, name) for fd, name in ends))
                code = await process.wait()
        except TimeoutError:
            overdue = True
            self.kill(signal.SIGKILL)
            code = await process.wait()
        for fd in {fd for fd, _ in ends} | ({self.stdin} if self.stdin >= 0 else set()):
            os.close(fd)
        self.stdin = -1
        if overdue:
            self.last = AgentError("deadline_exceeded", "the process exceeded its time limit")
        elif code < 0:
            words = f"signal: {signal.strsignal(-code)}".lower()
            self.last = ProcessEnded(-1, False, words, words)
        else:
            self.last = ProcessEnded(code, True, f"exit status {code}", f"exit status {code}" if code else None)
        self.ended_callback()
        self._tell(self.last)
        self.ended.set()

    async def _pump(self, fd: int, name: str) -> None:
        loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        while True:
            readable = asyncio.Event()
            loop.add_reader(fd, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(fd)
            try:
                data = os.read(fd, 16384)
            except OSError as error:
                if error.errno != errno.EIO:  # the other end of a terminal is closed
                    raise
                return
            if not data:
                return
            self._tell(ProcessOutput(name, data))  # type: ignore[arg-type]  # one of the streams

    def _tell(self, event: ProcessEvent | RayboxError) -> None:
        for listener in self.listeners:
            listener.put_nowait(event)

    async def listen(self, agent: Owner) -> AsyncIterator[ProcessEvent]:
        queue: asyncio.Queue[ProcessEvent | RayboxError] = asyncio.Queue()
        self.listeners.add(queue)
        if self.last is not None:
            queue.put_nowait(self.last)
        broken = asyncio.ensure_future(agent.broken.wait())
        try:
            yield ProcessStarted(self.pid)
            while True:
                following = asyncio.ensure_future(queue.get())
                try:
                    await asyncio.wait((following, broken), return_when=asyncio.FIRST_COMPLETED)
                    if agent.fault is not None:
                        raise agent.fault
                    event = following.result()
                finally:
                    following.cancel()
                if isinstance(event, RayboxError):
                    raise event
                yield event
                if isinstance(event, ProcessEnded):
                    return
        finally:
            broken.cancel()
            self.listeners.discard(queue)

    def close_stdin(self) -> None:
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def kill(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def set_size(fd: int, size: PtySize) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))
