"""Processes and terminals that the agent starts, and who is attached to them (contract 4.5).

Output goes to every attached client. Whoever does not take it holds up the process, as a full pipe does, but not the
other clients for longer than STALL_LIMIT_S: then it is cut off. Output without a client is read and dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
from collections import deque
from typing import Any

from agent_spawn import Spec, resize, spawn
from agent_wire import ENDED, FAILED, STARTED, STDERR, STDOUT, TERMINAL, Connection, Failure, HungUp, wait_readable

MAX_PROCESSES = 512
#: How long a process that ended can still be attached to.
KEPT_S = 30.0
LIST_BYTES = 4 * 1024 * 1024
READ_BYTES, TERMINAL_READ_BYTES = 32 * 1024, 16 * 1024
#: Of one client's output: reading stops above the first and goes on below the second.
HIGH_BYTES, LOW_BYTES = 256 * 1024, 64 * 1024
#: How long a client may take nothing while others wait for the same output.
STALL_LIMIT_S = 10.0
#: Go names signals so, and the protocol with it.
SIGNAL_WORDS = {
    signal.SIGHUP: "hangup", signal.SIGINT: "interrupt", signal.SIGQUIT: "quit", signal.SIGILL: "illegal instruction",
    signal.SIGTRAP: "trace/breakpoint trap", signal.SIGABRT: "aborted", signal.SIGBUS: "bus error",
    signal.SIGFPE: "floating point exception", signal.SIGKILL: "killed", signal.SIGUSR1: "user defined signal 1",
    signal.SIGSEGV: "segmentation fault", signal.SIGUSR2: "user defined signal 2", signal.SIGPIPE: "broken pipe",
    signal.SIGALRM: "alarm clock", signal.SIGTERM: "terminated",
}  # fmt: skip


def end_of(code: int) -> dict[str, Any]:
    """ProcessEnded, from an exit code as of os.waitstatus_to_exitcode."""
    if code >= 0:
        status = f"exit status {code}"
        return {"exit_code": code, "exited": True, "status": status, "error": status if code else None}
    status = f"signal: {SIGNAL_WORDS.get(-code, f'signal {-code}')}"  # type: ignore[call-overload]
    return {"exit_code": -1, "exited": False, "status": status, "error": status}


class Client:
    """Somebody attached to a process: what it has still to be sent."""

    def __init__(self) -> None:
        self.frames: deque[tuple[bytes, bytes]] = deque()
        self.size = 0
        self.news = asyncio.Event()
        self.cut = False

    def put(self, kind: bytes, payload: bytes) -> None:
        self.frames.append((kind, payload))
        self.size += len(payload)
        self.news.set()


class Process:
    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.clients: set[Client] = set()
        self.input_turn = asyncio.Lock()
        self.end: dict[str, Any] | None = None  #: once it exited
        self.over = False  #: and its output has ended, too
        self.paused = False
        self.killed = False
        self.stall: asyncio.TimerHandle | None = None
        self.limit: asyncio.TimerHandle | None = None
        child = spawn(spec)
        self.pid, self.stdin, self.terminal = child.pid, child.stdin, child.terminal
        self.outputs: dict[int, bytes] = {}
        if child.terminal is not None:
            self.outputs[child.terminal] = TERMINAL
        else:
            assert child.stdout is not None
            assert child.stderr is not None
            self.outputs = {child.stdout: STDOUT, child.stderr: STDERR}
        self.loop = asyncio.get_running_loop()
        self._listen()

    # ---- output ----

    def _listen(self) -> None:
        for fd in self.outputs:
            self.loop.add_reader(fd, self._read, fd)

    def _read(self, fd: int) -> None:
        kind = self.outputs[fd]
        try:
            data = os.read(fd, TERMINAL_READ_BYTES if kind == TERMINAL else READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # EIO: nobody has the terminal open any more
            data = b""
        if not data:
            self.loop.remove_reader(fd)
            del self.outputs[fd]
            if fd != self.terminal:  # that one is closed last: it is the input, too
                os.close(fd)
            self.settle()
            return
        for client in self.clients:
            client.put(kind, data)
        if any(client.size >= HIGH_BYTES for client in self.clients):
            self._pause()

    def _pause(self) -> None:
        if not self.paused:
            self.paused = True
            for fd in self.outputs:
                self.loop.remove_reader(fd)
            self.stall = self.loop.call_later(STALL_LIMIT_S, self._cut_the_slow)

    def _cut_the_slow(self) -> None:
        slow = {client for client in self.clients if client.size >= HIGH_BYTES}
        if len(self.clients) == len(slow):  # nobody waits for them
            self.stall = self.loop.call_later(STALL_LIMIT_S, self._cut_the_slow)
            return
        for client in slow:
            client.cut = True
            client.news.set()
            self.detach(client)

    def eased(self) -> None:
        """A client took something, or left."""
        if self.paused and all(client.size < LOW_BYTES for client in self.clients):
            self.paused = False
            if self.stall is not None:
                self.stall.cancel()
            self._listen()

    def detach(self, client: Client) -> None:
        self.clients.discard(client)
        self.eased()

    # ---- end ----

    def exited(self, code: int) -> None:
        self.end = end_of(code)
        self.settle()

    def settle(self) -> None:
        """Once it has exited and all that it wrote was read, the clients are told."""
        if self.end is None or self.outputs or self.over:
            return
        self.over = True
        if self.limit is not None:
            self.limit.cancel()
        if self.stall is not None:
            self.stall.cancel()
        self.close_input()
        for client in self.clients:
            client.news.set()

    def close_input(self) -> None:
        for fd in {self.stdin, self.terminal} - {None}:
            assert fd is not None
            self.loop.remove_writer(fd)
            os.close(fd)
        self.stdin = self.terminal = None

    def signal(self, number: int) -> None:
        """Raises ProcessLookupError, for one that was killed before also when its end has not been noticed yet."""
        if number == signal.SIGKILL:
            if self.killed:
                raise ProcessLookupError
            self.killed = True
            os.killpg(self.pid, number)
        elif self.end is not None:
            raise ProcessLookupError
        else:
            os.kill(self.pid, number)


class Processes:
    """All that were started here, by pid."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = variables  #: the sandbox's own, of every process
        self.by_pid: dict[int, Process] = {}
        #: Children that are nobody's process: programs that sudo started.
        self.others: dict[int, asyncio.Future[int]] = {}

    def reap(self) -> None:
        """Of ours and of the orphans that the system gave us."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            process = self.by_pid.get(pid)
            if process is not None and process.end is None:
                process.exited(code)
                asyncio.get_running_loop().call_later(KEPT_S, self._forget, process)
            elif (waiting := self.others.pop(pid, None)) is not None and not waiting.done():
                waiting.set_result(code)

    def _forget(self, process: Process) -> None:
        if not process.over:
            asyncio.get_running_loop().call_later(KEPT_S, self._forget, process)
        elif self.by_pid.get(process.pid) is process:
            del self.by_pid[process.pid]

    def find(self, asked: dict[str, Any]) -> Process:
        """By `pid`, or the last that was started with `tag`. Raises Failure."""
        pid, tag = asked.get("pid"), asked.get("tag")
        if isinstance(pid, int):
            found = self.by_pid.get(pid)
            what = f"pid {pid}"
        elif isinstance(tag, str):
            found = next((p for p in reversed(self.by_pid.values()) if p.spec.tag == tag and not p.over), None)
            found = found or next((p for p in reversed(self.by_pid.values()) if p.spec.tag == tag), None)
            what = f"tag '{tag}'"
        else:
            raise Failure("invalid_argument", "a process is selected by pid or tag")
        if found is None:
            raise Failure("not_found", f"process with {what} not found")
        return found

    def find_live(self, asked: dict[str, Any]) -> Process:
        found = self.find(asked)
        if found.over:
            raise Failure("not_found", f"process with pid {found.pid} not found")
        return found

    def list(self) -> list[dict[str, Any]]:
        """Those that live, with what they were started with; beyond LIST_BYTES of that, with their commands only."""
        found, room = [], LIST_BYTES
        for pid, process in self.by_pid.items():
            if not process.over:
                spec = process.spec.asked
                room -= len(json.dumps(spec))
                found.append(
                    {"pid": pid, "spec": spec if room >= 0 else {"command": spec["command"], "tag": spec.get("tag")}}
                )
        return found

    async def start(self, asked: dict[str, Any], connection: Connection) -> None:
        if sum(not process.over for process in self.by_pid.values()) >= MAX_PROCESSES:
            raise Failure("resource_exhausted", f"there are {MAX_PROCESSES} processes, the limit")
        spec = Spec(asked, self.variables)
        process = Process(spec)
        self.by_pid.pop(process.pid, None)  # one of long ago, whose number came round again
        self.by_pid[process.pid] = process
        client = Client()
        if spec.timeout_s is not None:
            process.limit = process.loop.call_later(spec.timeout_s, self._time_is_up, process, client)
        await self._attend(process, client, connection)

    @staticmethod
    def _time_is_up(process: Process, client: Client) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.signal(signal.SIGKILL)
        message = b'{"code": "deadline_exceeded", "message": "the process was killed: its time is up"}'
        client.put(FAILED, message)

    async def connect(self, asked: dict[str, Any], connection: Connection) -> None:
        await self._attend(self.find(asked), Client(), connection)

    async def _attend(self, process: Process, client: Client, connection: Connection) -> None:
        """STARTED, output, ENDED, until the client leaves."""
        process.clients.add(client)
        gone = asyncio.ensure_future(connection.hung_up())
        sending = asyncio.ensure_future(self._send(process, client, connection))
        try:
            await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            process.detach(client)
            for task in (gone, sending):
                task.cancel()
            await asyncio.wait({gone, sending})

    @staticmethod
    async def _send(process: Process, client: Client, connection: Connection) -> None:
        await connection.send_json(STARTED, {"pid": process.pid})
        while True:
            while client.frames:
                if client.cut:
                    raise Failure("resource_exhausted", f"nothing was read for {STALL_LIMIT_S:.0f} s, while others did")
                kind, payload = client.frames.popleft()
                await connection.send(kind, payload)
                client.size -= len(payload)
                process.eased()
                if kind == FAILED:
                    return
            if process.over and not client.frames:
                await connection.send_json(ENDED, process.end)
                return
            client.news.clear()
            if not client.frames and not process.over:
                await client.news.wait()

    async def send_input(self, asked: dict[str, Any], connection: Connection) -> None:
        """DATA until COMMIT, to the standard input or the terminal, as fast as the process reads."""
        process = self.find_live(asked)
        terminal = bool(asked.get("pty"))
        gone = None
        async with process.input_turn:
            while True:
                frame = await connection.receive()
                if frame is None:
                    raise HungUp
                if frame[0] == b"C":
                    return
                gone = asyncio.ensure_future(self._hang_up_of(connection))
                writing = asyncio.ensure_future(self._write(process, terminal, frame[1]))
                try:
                    await asyncio.wait({gone, writing}, return_when=asyncio.FIRST_COMPLETED)
                    if not writing.done():
                        raise HungUp
                    writing.result()
                finally:
                    for task in (gone, writing):
                        task.cancel()
                    await asyncio.wait({gone, writing})

    @staticmethod
    async def _hang_up_of(connection: Connection) -> None:
        """Look ahead of the frame that is being written. Cancelled at any moment, it loses nothing of what came: no
        await stands between taking and keeping it."""
        while len(connection.buffer) < READ_BYTES:
            await wait_readable(connection.sock.fileno())
            try:
                data = connection.sock.recv(READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                return
            connection.buffer += data
        await asyncio.get_running_loop().create_future()

    @staticmethod
    async def _write(process: Process, terminal: bool, data: bytes) -> None:
        loop, rest = process.loop, memoryview(data)
        while rest:
            fd = process.terminal if terminal else process.stdin
            if fd is None:
                what = "a terminal" if terminal else "an open standard input"
                raise Failure("failed_precondition", f"process with pid {process.pid} has not {what}")
            try:
                rest = rest[os.write(fd, rest) :]
            except BlockingIOError:
                room = loop.create_future()
                loop.add_writer(fd, _resolve, room)
                try:
                    await room
                finally:
                    if fd in (process.stdin, process.terminal):
                        loop.remove_writer(fd)
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.EIO):
                    raise Failure("failed_precondition", f"process {process.pid} reads no input any more") from None
                raise

    async def close_stdin(self, asked: dict[str, Any]) -> None:
        process = self.find_live(asked)
        if process.spec.pty is not None:
            raise Failure("failed_precondition", "the input of a terminal cannot be closed; send it an end of file")
        async with process.input_turn:
            if process.stdin is not None:
                process.loop.remove_writer(process.stdin)
                os.close(process.stdin)
                process.stdin = None

    def send_signal(self, asked: dict[str, Any]) -> None:
        process = self.find_live(asked)
        number = asked.get("signal")
        if number not in list(signal.valid_signals()):
            raise Failure("unimplemented", f"there is no signal {number}")
        try:
            process.signal(int(number))
        except ProcessLookupError:
            raise Failure("not_found", f"process with pid {process.pid} not found") from None

    def resize(self, asked: dict[str, Any]) -> None:
        process = self.find_live(asked)
        if process.terminal is None:
            raise Failure("failed_precondition", f"process with pid {process.pid} has no terminal")
        resize(process.terminal, asked.get("size"))


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
