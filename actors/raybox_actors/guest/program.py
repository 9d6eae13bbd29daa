"""One program, from its start to its exit status, in a process that has just been forked from the zygote.

Python runs in this very process, as `python main.py` would, but for modules that are imported already; other languages
replace it. Standard library only.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what signal wraps in enums, which a fresh fork pays for
import atexit
import base64
import binascii
import builtins
import contextlib
import importlib.machinery
import io
import json
import os
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

#: Of all files that a program is asked to leave, once they are text.
MAX_ANSWER_BYTES = 8 * 1024 * 1024
#: How `python main.py` starts with regard to it.
RECURSION_LIMIT = 1000


class PlainInterpreter:
    """What the interpreter is like before anything makes a notebook's kernel of it. Made by the zygote at its start."""

    def __init__(self) -> None:
        self.builtins = dict(vars(builtins))
        self.warnings = list(warnings.filters)
        self.hooks = (sys.displayhook, sys.excepthook)
        self.recursion_limit = RECURSION_LIMIT

    def restore(self) -> None:
        for name in vars(builtins).keys() - self.builtins.keys():
            delattr(builtins, name)
        vars(builtins).update(self.builtins)
        warnings.filters[:] = self.warnings  # type: ignore[index]  # it is a list
        warnings._filters_mutated()  # type: ignore[attr-defined]
        sys.displayhook, sys.excepthook = self.hooks
        sys.setrecursionlimit(self.recursion_limit)
        self.restore_signals()

    @staticmethod
    def restore_signals() -> None:
        _signal.signal(signal.SIGINT, _signal.default_int_handler)
        _signal.signal(signal.SIGPIPE, _signal.SIG_IGN)


def run_program(request: dict[str, Any], bundle: int, become_plain: Callable[[], None]) -> NoReturn:
    """request: `argv` (empty: Python, in this process), `main`: the program's file in the working folder, `fetch`:
    names of files to put into the bundle in place of what it had. bundle: a descriptor with JSON, `code` and `files`:
    name -> base64. Never returns.
    """
    code = 1
    try:
        with open(bundle, "rb", closefd=False) as file:
            parts = json.loads(file.read())
        place_files(request["main"], parts)
        if request["fetch"] and (pid := os.fork()):
            supervise(pid, bundle, request["fetch"])
        os.close(bundle)
        if request["argv"]:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execvpe(request["argv"][0], request["argv"], request["env"])
        become_plain()
        code = run_python(request["main"], parts["code"])
    except (OSError, ValueError, KeyError) as error:
        with contextlib.suppress(OSError):
            os.write(2, f"raybox: the program cannot be started: {error}\n".encode(errors="replace"))
    finally:
        os._exit(code)


def place_files(main: str, parts: dict[str, Any]) -> None:
    """Relative to the working folder. What is called like the program is replaced by it."""
    for name, text in parts["files"].items():
        write(name, base64.b64decode(text, validate=True))
    write(main, parts["code"].encode("utf-8", "surrogatepass"))


def write(name: str, data: bytes) -> None:
    if folder := os.path.dirname(name):
        os.makedirs(folder, exist_ok=True)
    with open(name, "wb") as file:
        file.write(data)


def supervise(pid: int, bundle: int, names: list[str]) -> NoReturn:
    """Wait for the program, put what it left into the bundle, end as it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, status = os.waitpid(pid, 0)
    found: dict[str, str] = {}
    room = MAX_ANSWER_BYTES
    for name in names:
        with contextlib.suppress(OSError, binascii.Error):
            fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not hold us up
            with open(fd, "rb") as file:
                text = base64.b64encode(file.read(room)).decode()
            if len(text) <= room:
                found[name] = text
                room -= len(text)
    with contextlib.suppress(OSError):
        os.ftruncate(bundle, 0)
        os.pwrite(bundle, json.dumps(found).encode(), 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


def run_python(path: str, code: str) -> int:
    """The exit status. As the interpreter's own main: run, wait for threads, run what is due at the exit, flush."""
    sys.stdin = open_text(0, "r", "strict")
    sys.stdout = open_text(1, "w", "strict")
    sys.stderr = open_text(2, "w", "backslashreplace")
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)
    path = os.path.abspath(path)
    sys.argv = [path]
    sys.path = [os.path.dirname(path), *(folder for folder in sys.path if folder)]
    main = types.ModuleType("__main__")
    loader = importlib.machinery.SourceFileLoader("__main__", path)
    vars(main).update(__file__=path, __cached__=None, __builtins__=builtins, __loader__=loader)
    sys.modules["__main__"] = main
    status = 0
    try:
        exec(compile(code, path, "exec", dont_inherit=True), vars(main))  # noqa: S102  # what this is for
    except SystemExit as error:
        status = exit_status(error.code)
    except BaseException as error:
        status = 1
        error.__traceback__ = error.__traceback__.tb_next if error.__traceback__ is not None else None
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
        report(error)
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BaseException:
            status = status or 120  # as the interpreter's own
    return status


def report(error: BaseException) -> None:
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except BaseException:
        with contextlib.suppress(BaseException):
            sys.__excepthook__(type(error), error, error.__traceback__)


def exit_status(code: object) -> int:
    """What `sys.exit(code)` makes of it."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    with contextlib.suppress(BaseException):
        sys.stderr.write(f"{code}\n")
    return 1


def open_text(fd: int, mode: str, errors: str) -> io.TextIOWrapper:
    raw = io.FileIO(fd, mode, closefd=False)
    buffer: Any = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, encoding="utf-8", errors=errors, line_buffering=fd == 2)
