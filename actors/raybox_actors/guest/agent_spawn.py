"""Starting one program inside the sandbox as one of its users: fork, give up what is root's, execute."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import termios
from dataclasses import dataclass
from typing import Any

from agent_launcher import LAUNCHER
from agent_users import User, acting_as, find_user, resolve
from agent_wire import Failure

#: Of the agent's own environment, what programs get; the rest is set up for kernels.
INHERITED = ("PATH", "SHELL", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
MAX_COLUMNS = 65_535


class Spec:
    """What to start (ProcessSpec of the actor's values.py), checked. Raises Failure."""

    def __init__(self, asked: dict[str, Any], variables: dict[str, str]) -> None:
        spec = self.asked = asked.get("spec") or {}
        self.command: str = spec.get("command") or ""
        self.arguments: list[str] = spec.get("arguments") or []
        given, self.tag, self.pty = spec.get("environment") or {}, spec.get("tag"), spec.get("pty")
        self.stdin = bool(spec.get("stdin", True))
        words = [self.command, *self.arguments, *given, *given.values()] if isinstance(given, dict) else [None]
        if not all(isinstance(word, str) and "\0" not in word for word in words) or not self.command:
            raise Failure("invalid_argument", "a command, its arguments and its environment are text without nulls")
        if any("=" in name or not name for name in given):
            raise Failure("invalid_argument", "the name of an environment variable is not empty and has no '='")
        if not (self.tag is None or isinstance(self.tag, str)):
            raise Failure("invalid_argument", "a tag is text")
        timeout_s = spec.get("timeout_s")
        if not (timeout_s is None or (isinstance(timeout_s, int | float) and timeout_s >= 0)):
            raise Failure("invalid_argument", "a timeout is a number of at least 0")
        self.timeout_s: float | None = timeout_s
        if self.pty is not None:
            window(self.pty)
        self.user: User = find_user(spec.get("user", "user"))
        self.cwd = resolve(spec.get("cwd") or "", self.user)
        self.environment = {**base_environment(self.user), **variables, **given}


def base_environment(user: User) -> dict[str, str]:
    found = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**found, "HOME": user.home, "USER": user.name, "LOGNAME": user.name, "SHELL": user.shell}


def window(size: Any) -> bytes:
    """Of TIOCSWINSZ. Raises Failure."""
    numbers = [size.get(name) for name in ("rows", "columns")] if isinstance(size, dict) else [None]
    if not all(isinstance(number, int) and 0 <= number <= MAX_COLUMNS for number in numbers):
        raise Failure("invalid_argument", "a terminal has from 0 to 65535 rows and columns")
    return struct.pack("HHHH", *numbers, 0, 0)


def resize(terminal: int, size: Any) -> None:
    """Of an open terminal; tells the programs on it (SIGWINCH)."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, window(size))


@dataclass
class Child:
    """A program that runs, and our ends of what it has: pipes, or a terminal. They do not block."""

    pid: int
    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    terminal: int | None = None


def spawn(spec: Spec) -> Child:
    """Raises Failure; then nothing is left. The program leads a session and a process group of its own."""
    theirs: list[int] = []
    ours: list[int] = []

    def pipe(reads: bool) -> int:
        """Give the program one end; the other is ours."""
        read, write = os.pipe2(os.O_CLOEXEC)
        theirs.append(read if reads else write)
        ours.append(write if reads else read)
        return ours[-1]

    try:
        # With the user's rights, so that /dev/stdout and the terminal are files of the user's.
        with acting_as(spec.user):
            if spec.pty is not None:
                terminal, program_end = os.openpty()
                ours.append(terminal)
                theirs.append(program_end)
                resize(terminal, spec.pty)
                child = Child(0, terminal=terminal)
            else:
                child = Child(0)
                if spec.stdin:
                    child.stdin = pipe(True)
                else:
                    theirs.append(os.open("/dev/null", os.O_RDONLY))
                child.stdout, child.stderr = pipe(False), pipe(False)
        stdio = (theirs[0],) * 3 if spec.pty is not None else (theirs[0], theirs[1], theirs[2])
        for fd in ours:
            os.set_blocking(fd, False)
        child.pid = execute(
            spec.user, [spec.command, *spec.arguments], spec.environment, spec.cwd, stdio, spec.pty is not None
        )
        return child
    except BaseException as error:
        for fd in ours:
            os.close(fd)
        if isinstance(error, OSError):
            raise Failure("resource_exhausted", f"error starting process: {os.strerror(error.errno or 0)}") from None
        raise
    finally:
        for fd in theirs:
            os.close(fd)


def execute(
    user: User,
    argv: list[str],
    environment: dict[str, str],
    cwd: str | int,
    stdio: tuple[int, int, int],
    terminal: bool = False,
) -> int:
    """Fork; return the pid once the program runs. Raises Failure for what kept it from running, OSError for the fork.

    cwd: a path, or an open folder.
    """
    told, tell = os.pipe2(os.O_CLOEXEC)
    asked = {
        "uid": user.uid,
        "gid": user.gid,
        "groups": user.groups,
        "argv": argv,
        "environment": environment,
        "cwd": cwd if isinstance(cwd, str) else None,
        "terminal": terminal,
    }
    try:
        pid = LAUNCHER.fork(asked, [*stdio, tell, *([cwd] if isinstance(cwd, int) else [])])
        os.close(tell)
        tell = -1
        words = os.read(told, 4096)
    finally:
        os.close(told)
        if tell >= 0:
            os.close(tell)
    if words:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        code, message = json.loads(words)
        raise Failure(code, message)
    return pid
