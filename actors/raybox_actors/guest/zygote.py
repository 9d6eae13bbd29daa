"""The zygote: one process per template version and node, from which the kernels of sandboxes are forked.

It imports and warms what a first cell touches, once, and then forks on request (warm.py); beside it is one that has
imported next to nothing, for what needs no more (lean.py). It is never a Ray process, has one thread, and holds no
secret: what is particular to one sandbox, its variables above all, only its own child reads, because what the zygote
ever had in its memory is in that of every later child.

Each request comes on its own connection and is answered with the child's pid in the zygote's pid namespace; when the
child ends, its exit status follows on the same connection. A request is one packet of JSON with `op` and what says
which descriptors come with it (`joins`, `has_bundle`, `has_gate`); the last descriptor is a file that has all of the
request, as JSON, for the child.

`{"op": "kernel", ...}` forks the Python kernel: descriptors are pidfd of the sandbox's first process, wire, stdout,
stderr. `{"op": "exec", "argv": [...]}` starts a program in the same walls with stdin, stdout, stderr in place of wire,
stdout, stderr, once `"files": {path: text}` are written. `{"op": "agent", "variables": {...}}` becomes the sandbox's
agent (agent.py), with its control socket, its listening socket and a log in these places. `{"op": "resize",
"size_bytes": n}` sets the quota of the sandbox's files, and ends with its stdin. `{"op": "program", ...}` runs a
program (program.py), with stdin, stdout, stderr in these places. Answers: `{"pid": n}` or `{"error": text}`, later
`{"status": n}`, n as of os.waitstatus_to_exitcode; or `{"refused": true}` with a descriptor, from which one reads why
the child cannot be inside: that may name what is the sandbox's own.

After these four descriptors comes the user namespace, then `joins` entrances of the sandbox's cgroups. With
`has_bundle` comes one with what a program consists of. With `has_gate` one more follows: the child waits until a byte
can be read from it, so that it can be forked while its walls are still being built; the pid namespace alone must be
there. `furnish`: the child makes the sandbox's root file system first (filesystem.py says what is in the plan). `view`:
it has files and System V objects of its own, which end with it and its children (view.py).

`{"op": "namespace", "first_id": n}`, without descriptors, makes a user namespace whose ids are the host's from n on;
the answer comes with its descriptor.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import termios
import traceback
from dataclasses import dataclass
from typing import Any, Protocol

import walls
from agent import run_agent
from filesystem import Root, resize
from program import run_program
from seccomp import Filter
from view import take_view

MAX_REQUEST_BYTES = 4096
#: Files and variables among it.
MAX_PARTICULARS_BYTES = 64 * 1024 * 1024
MAX_DESCRIPTORS = 16
#: Where a program finds what it consists of: see `place_descriptors`.
BUNDLE = 104


def settle(parent: int, program: int) -> Filter:
    """What every zygote does first: be nobody's heir, and die with its parent. Gives the sandboxes' filter."""
    with open(program, "rb") as file:
        calls = Filter(file.read())
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.umask(0o022)
    walls.die_with_parent(parent)
    walls.become_subreaper()
    # The pool's workers run at nice +15 and are the first that the system kills: neither is for sandboxes to inherit.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("0")
    return calls


class Interpreter(Protocol):
    """What a zygote makes of a child in its own image: warm.py has a notebook's kernel, lean.py only programs."""

    def become_kernel(self, _wire_fd: int, _pipes: tuple[int, int], /) -> None: ...

    def become_plain(self) -> None:
        """Be as an interpreter that has just been started."""
        ...


@dataclass(slots=True)
class Birth:
    """A child that is on its way into its walls, and what the zygote shares with it until it is inside."""

    pid: int
    connection: socket.socket  #: of whoever asked for it
    told: int  #: its words to us: end of file = inside; anything else = why not
    ended: int | None = None  #: its exit code, if it ended on the way


class Zygote:
    """Never waits for anybody: a client that says nothing, or a child that waits for its walls, holds up no other."""

    def __init__(self, address: str, calls: Filter, interpreter: Interpreter, helper: int = 0) -> None:
        """helper: pid of a child without which this one is of no use, and which is of no use without it."""
        self.calls, self.interpreter, self.helper = calls, interpreter, helper
        self.own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(address)
        self.listener.listen(256)
        self.listener.setblocking(False)
        #: Connection of whoever asked for the child, by pid; of those that are inside.
        self.children: dict[int, socket.socket] = {}
        self.births: dict[int, Birth] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ, self.accept)
        self.wake_reader, self.wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self.wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.selector.register(self.wake_reader, selectors.EVENT_READ, self.wake)

    def run(self) -> None:
        """Never returns."""
        while True:
            for key, _ in self.selector.select():
                key.data()
            self.reap()

    def close(self) -> None:
        """Forget it: a fork serves in its stead."""
        signal.set_wakeup_fd(-1)
        self.selector.close()
        self.listener.close()
        for fd in (self.own_pid_namespace, self.wake_reader, self.wake_writer):
            os.close(fd)

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self.listener.accept()
            connection.setblocking(False)
            self.selector.register(connection, selectors.EVENT_READ, lambda: self.answer(connection))

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake_reader, 4096)

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self.helper:
                os._exit(1)  # whoever started us starts both anew
            code = os.waitstatus_to_exitcode(status)
            if birth := self.births.get(pid):
                birth.ended = code
            elif connection := self.children.pop(pid, None):
                say(connection, {"status": code})
                connection.close()

    def answer(self, connection: socket.socket) -> None:
        """The one request of a connection: fork. Never raises; the answer follows when the child is inside."""
        self.selector.unregister(connection)
        fds: list[int] = []
        try:
            data, ancillary, _, _ = connection.recvmsg(MAX_REQUEST_BYTES, socket.CMSG_SPACE(4 * MAX_DESCRIPTORS))
            for _, _, raw in ancillary:
                numbers = array.array("i")
                numbers.frombytes(raw[: len(raw) - len(raw) % numbers.itemsize])
                fds.extend(numbers)
            request = json.loads(data)
            if request["op"] == "namespace":
                give_namespace(connection, int(request["first_id"]))
                return
            birth = self.fork(request, fds, connection)
            self.births[birth.pid] = birth
            self.selector.register(birth.told, selectors.EVENT_READ, lambda: self.hear(birth))
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(connection, {"error": f"{type(error).__name__}: {error}"})
            connection.close()
        finally:
            for fd in fds:
                os.close(fd)

    def fork(self, request: dict[str, Any], fds: list[int], connection: socket.socket) -> Birth:
        """Fork a child that enters the walls by itself."""
        pidfd, stdin, stdout, stderr, user_namespace, *more, particulars = fds
        gate = more.pop() if request.get("has_gate") else None
        bundle = more.pop() if request.get("has_bundle") else None
        if len(more) != request.get("joins", 0):
            raise ValueError(f"{len(more)} entrances of cgroups instead of {request.get('joins', 0)}")
        told, tell = os.pipe2(os.O_CLOEXEC)
        try:
            pid = walls.fork_into(pidfd, self.own_pid_namespace)
            if not pid:
                self.child(particulars, pidfd, (stdin, stdout, stderr), user_namespace, more, gate, tell, bundle)
            return Birth(pid, connection, told)
        except BaseException:
            os.close(told)
            raise
        finally:
            os.close(tell)

    def hear(self, birth: Birth) -> None:
        """A word of a child on its way in."""
        said = fcntl.ioctl(birth.told, termios.FIONREAD, bytes(4)) != bytes(4)  # how much; what, we do not read
        self.selector.unregister(birth.told)
        del self.births[birth.pid]
        if said:
            with contextlib.suppress(OSError):
                socket.send_fds(birth.connection, [b'{"refused": true}'], [birth.told])
        os.close(birth.told)
        if said:
            birth.connection.close()
            return
        say(birth.connection, {"pid": birth.pid})
        if birth.ended is None:
            self.children[birth.pid] = birth.connection
        else:
            say(birth.connection, {"status": birth.ended})
            birth.connection.close()

    def child(
        self,
        particulars: int,
        pidfd: int,
        stdio: tuple[int, int, int],
        user_namespace: int,
        joins: list[int],
        gate: int | None,
        tell: int,
        bundle: int | None,
    ) -> None:
        """In the child: enter, give up privileges, become the kernel or the program. Never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            walls.fresh_signals()
            os.setsid()
            request = json.loads(os.pread(particulars, MAX_PARTICULARS_BYTES, 0))
            walls.join_cgroup(joins)
            root = Root(request["furnish"], int(request["first_id"])) if request.get("furnish") else None
            if root is not None:
                root.prepare(user_namespace)
            if gate is not None and not os.read(gate, 1):
                raise OSError("the walls were never finished")
            walls.setns(pidfd, walls.SHARED_NAMESPACES)
            if root is not None:
                root.furnish()
            if request.get("view"):
                take_view(request["view"], int(request["first_id"]))
            if request["op"] == "resize":
                resize("/", {"size": str(int(request["size_bytes"]))})
                os.close(tell)
                os.read(stdio[0], 1)
                os._exit(0)
            walls.setns(user_namespace, walls.CLONE_NEWUSER)
            os.setpriority(os.PRIO_PROCESS, 0, int(request.get("nice", 0)))
            is_agent = request["op"] == "agent"
            walls.give_up_privileges(
                int(request.get("oom_score_adj", 0)),
                request.get("rlimits", {}),
                self.calls,
                is_agent or bool(request.get("root")),
            )
            os.environ.clear()
            os.environ.update(request["env"])
            os.chdir(request["cwd"])
            # Nothing of the zygote stays open but the words' pipe, which closes by itself when all went well.
            keep = self.place_descriptors(stdio, tell, bundle)
            if not is_agent:  # nobody in the sandbox may look into its memory
                walls.be_seen()
            if request["op"] == "exec":
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                write_files(request.get("files", {}))
                os.execve(request["argv"][0], request["argv"], request["env"])
            wire, pipes = keep
            if request["op"] == "program":
                os.closerange(100, 104)  # with the words' pipe: from here on, what goes wrong is the program's
                run_program(request, BUNDLE, self.interpreter.become_plain)
            os.close(wire[1])
            if is_agent:
                run_agent(wire[0], pipes[0], request["variables"], int(request["program_nice"]))
            else:
                self.interpreter.become_kernel(wire[0], pipes)
            code = 0
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(tell, f"{type(error).__name__}: {error}".encode()[:4000])
            with contextlib.suppress(OSError):
                os.write(2, traceback.format_exc().encode())
        os._exit(code)

    @staticmethod
    def place_descriptors(
        stdio: tuple[int, int, int], tell: int, bundle: int | None = None
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """0, 1 and 2 for the program; for a kernel, wire and private copies of the pipes above; the rest closed."""
        passed = (*stdio, tell) if bundle is None else (*stdio, tell, bundle)
        # Out of the way first: a zygote of many children has them at such numbers, too.
        away = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 200) for fd in passed]
        high = [os.dup2(fd, 100 + index, inheritable=False) for index, fd in enumerate(away)]
        for index in range(3):
            os.dup2(high[index], index, inheritable=True)
        os.closerange(3, 100)
        os.closerange(100 + len(high), 65_536)
        return (100, 103), (101, 102)


def give_namespace(connection: socket.socket, first_id: int) -> None:
    """Make a user namespace with a range of host ids and hand it over. Takes a millisecond. Raises OSError."""
    told, tell = os.pipe2(os.O_CLOEXEC)
    go, mapped = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            walls.check(walls.libc.unshare(walls.CLONE_NEWUSER), "unshare")
            os.write(tell, b"m")
            os.close(mapped)
            os.read(go, 1)
        os._exit(0)
    os.close(tell)
    os.close(go)
    try:
        if os.read(told, 1) != b"m":
            raise OSError("no user namespace can be made")
        walls.map_ids(pid, first_id)
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            socket.send_fds(connection, [b"{}"], [namespace])
        finally:
            os.close(namespace)
    finally:
        os.close(told)
        os.close(mapped)
        os.waitpid(pid, 0)
    connection.close()


def say(connection: socket.socket, words: dict[str, Any]) -> None:
    """One packet; whoever hung up hears nothing."""
    with contextlib.suppress(OSError):
        connection.send(json.dumps(words).encode())


def write_files(files: dict[str, str]) -> None:
    """Small files that a program needs at its start, for nobody but the user, in folders of their own."""
    for path, text in files.items():
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)


def refresh_process_state() -> None:
    """What every fork of the zygote would otherwise share: random generators, temporary names, cached folders."""
    tempfile._name_sequence = None  # type: ignore[attr-defined]
    tempfile.tempdir = None
    if (numpy := sys.modules.get("numpy")) is not None:
        # With a number: seed() alone gathers entropy in a way that costs 0.7 ms in a fresh fork.
        numpy.random.seed(int.from_bytes(os.urandom(4), "little"))
    if (matplotlib := sys.modules.get("matplotlib")) is not None:
        for name in ("get_configdir", "get_cachedir", "_get_xdg_config_dir", "_get_xdg_cache_dir"):
            if clear := getattr(getattr(matplotlib, name, None), "cache_clear", None):
                clear()
    sys.argv = [""]
    # The zygote ran isolated from environment and folder; a kernel imports from where it stands, as stock does.
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    os.environ.setdefault("PYDEVD_USE_FRAME_EVAL", "NO")  # as importing debugpy leaves it in a kernel's children
    if "" not in sys.path:
        folders = [os.path.basename(path) for path in sys.path]
        sys.path.insert(folders.index("site-packages") if "site-packages" in folders else 0, "")
