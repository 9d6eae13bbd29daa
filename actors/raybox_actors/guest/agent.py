"""The agent of a sandbox: what must happen inside the walls so that no path, process or port is resolved outside them.

Forked from the zygote on first use; root of the sandbox, one thread. Its actor holds one end of a control socket
(packets): a packet with a descriptor is a new connection (agent_wire.py), one without is JSON that changes the
variables of processes to come. On a listening socket, `sudo` calls. Where the control socket ends, the agent does, and
its processes with it.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import walls
from agent_files import list_dir, make_dir, read_file, stat_path, write_file
from agent_launcher import LAUNCHER
from agent_ports import dial
from agent_processes import Processes
from agent_sudo import sudo
from agent_tree import move, remove
from agent_users import User, find_user
from agent_watch import Watches
from agent_wire import FAILED, OK, Connection, Failure, HungUp, failure_of

#: Operations at one time; more are refused.
MAX_CONNECTIONS = 1024
MAX_CONTROL_BYTES = 1 << 20
#: Where the host put it (agent/helpers.py).
SUDO = "/etc/raybox/bin/sudo"


class Agent:
    def __init__(self, control: socket.socket, listener: socket.socket, variables: dict[str, str]) -> None:
        self.control, self.listener = control, listener
        self.loop = asyncio.get_running_loop()
        self.processes = Processes(variables)
        self.tasks: set[asyncio.Task[None]] = set()
        self.ended = self.loop.create_future()
        processes, watches = self.processes, Watches()
        #: Answered with what they return, as OK.
        self.answered: dict[str, Callable[[dict[str, Any]], Any]] = {
            "list_processes": lambda _: processes.list(),
            "signal": processes.send_signal,
            "resize": processes.resize,
            "create_watcher": watches.create,
            "remove_watcher": watches.remove,
            "ping": lambda _: {"pid": os.getpid()},
        }
        self.of_user: dict[str, Callable[[dict[str, Any], User], Any]] = {"stat": stat_path, "make_dir": make_dir}
        #: Speak for themselves.
        self.streams: dict[str, Callable[[dict[str, Any], Connection], Awaitable[None]]] = {
            "start": processes.start,
            "connect": processes.connect,
            "dial": dial,
            "watch": watches.stream,
            "watcher_events": watches.take,
            "input": self._then_ok(processes.send_input),
            "close_stdin": self._then_ok(lambda asked, _: processes.close_stdin(asked)),
        }
        self.streams_of_user: dict[str, Callable[[dict[str, Any], User, Connection], Awaitable[None]]] = {
            "list_dir": list_dir,
            "read": read_file,
            "write": write_file,
            "remove": remove,
            "move": move,
        }

    @staticmethod
    def _then_ok(
        work: Callable[[dict[str, Any], Connection], Awaitable[None]],
    ) -> Callable[[dict[str, Any], Connection], Awaitable[None]]:
        async def and_ok(asked: dict[str, Any], connection: Connection) -> None:
            await work(asked, connection)
            await connection.send_json(OK, {})

        return and_ok

    async def run(self) -> None:
        walls.become_subreaper()
        with contextlib.suppress(OSError):  # there already, or the folder cannot be written: PATH leads there, too
            os.symlink(SUDO, "/usr/bin/sudo")
        self.loop.add_signal_handler(signal.SIGCHLD, self.processes.reap)
        self.loop.add_reader(self.control, self._hear)
        self.loop.add_reader(self.listener, self._accept)
        await self.ended

    def _hear(self) -> None:
        try:
            data, ancillary, _, _ = self.control.recvmsg(
                MAX_CONTROL_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        if not data:
            self.loop.remove_reader(self.control)
            self.ended.set_result(None)
            return
        fds = array.array("i")
        for _, _, raw in ancillary:
            fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
        if not fds:
            self.processes.variables = json.loads(data)["variables"]
        for fd in fds:
            self._begin(self._serve(socket.socket(fileno=fd)))

    def _accept(self) -> None:
        """Somebody calls sudo."""
        with contextlib.suppress(OSError):
            sock, _ = self.listener.accept()
            self._begin(self._serve(sock, sudo(sock, self.processes)))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _serve(self, sock: socket.socket, work: Awaitable[None] | None = None) -> None:
        """One connection, one operation. Never raises."""
        connection = Connection(sock)
        try:
            await (work or self._carry_out(connection))
        except (HungUp, TimeoutError):
            pass
        except Exception as error:
            failure = failure_of(error)
            with contextlib.suppress(HungUp):
                await connection.send_json(FAILED, {"code": failure.code, "message": failure.message[:4000]})
        finally:
            connection.close()

    async def _carry_out(self, connection: Connection) -> None:
        if len(self.tasks) > MAX_CONNECTIONS:
            raise Failure("resource_exhausted", f"{MAX_CONNECTIONS} operations are under way in this sandbox")
        asked = await connection.header()
        name = str(asked.get("op"))
        if name in self.answered:
            await connection.send_json(OK, self.answered[name](asked))
        elif name in self.of_user:
            await connection.send_json(OK, self.of_user[name](asked, find_user(asked.get("user"))))
        elif name in self.streams:
            await self.streams[name](asked, connection)
        elif name in self.streams_of_user:
            await self.streams_of_user[name](asked, find_user(asked.get("user")), connection)
        else:
            raise Failure("unimplemented", f"the agent knows no operation {name[:100]!r}")


def run_agent(control_fd: int, listener_fd: int, variables: dict[str, str], program_nice: int) -> None:
    """Serve until the actor hangs up. For a process that is inside the walls and the sandbox's root."""
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    os.umask(0o022)
    LAUNCHER.program_nice = program_nice
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    control, listener = socket.socket(fileno=control_fd), socket.socket(fileno=listener_fd)
    for sock in (control, listener):
        sock.setblocking(False)
        sock.set_inheritable(False)

    async def serve() -> None:
        await Agent(control, listener, variables).run()

    asyncio.run(serve())
