"""The agent's side of its launcher (agent_exec.py): started with the first program, used by those that follow."""

from __future__ import annotations

import array
import contextlib
import json
import marshal
import os
import select
import socket
import sys
from typing import Any

from agent_exec import MAX_REQUEST_BYTES, become

#: What a launcher consists of, in the order of imports; read while the host's files can be.
MODULES = ("seccomp", "walls", "agent_exec")
FOLDER = os.path.dirname(os.path.abspath(__file__))
BOOT = """\
import marshal, sys, types
for name, code in marshal.load(open(int(sys.argv[1]), 'rb')):
    module = sys.modules[name] = types.ModuleType(name)
    exec(code, module.__dict__)
sys.modules['agent_exec'].serve(int(sys.argv[2]), int(sys.argv[3]))
"""
ANSWER_LIMIT_S = 10.0


def _load() -> bytes:
    parts = []
    for name in MODULES:
        path = os.path.join(FOLDER, f"{name}.py")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                parts.append((name, compile(file.read(), f"{name}.py", "exec")))
    return marshal.dumps(parts)


CODE = _load()


class Launcher:
    """Used on one thread; blocks for about a millisecond. Without one that works, the agent forks by itself."""

    def __init__(self) -> None:
        self.control: socket.socket | None = None
        self.ready = False
        self.program_nice = 0  #: of what it starts; programs give way to the agent

    def fork(self, asked: dict[str, Any], fds: list[int]) -> int:
        """The pid of a child of ours that is on its way to `agent_exec.become`. Raises OSError."""
        asked = {**asked, "nice": self.program_nice}
        request = json.dumps(asked).encode()
        if len(request) <= MAX_REQUEST_BYTES and self._is_ready():
            assert self.control is not None
            rights = array.array("i", fds)
            with contextlib.suppress(OSError, ValueError):
                self.control.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                answer = int(self.control.recv(64))
                if answer > 0:
                    return answer
            self.close()
        pid = self._fork_here(asked, fds)
        if self.control is None:
            self._start()
        return pid

    @staticmethod
    def _fork_here(asked: dict[str, Any], fds: list[int]) -> int:
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            become(asked, fds, parent)
        return pid

    def _is_ready(self) -> bool:
        """It says so with an empty line, once it has come up."""
        if self.control is not None and not self.ready and select.select([self.control], [], [], 0)[0]:
            self.ready = self.control.recv(16) == b"\n"
            if not self.ready:
                self.close()
        return self.ready

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(ANSWER_LIMIT_S)
        code = os.memfd_create("launcher", os.MFD_CLOEXEC)
        os.write(code, CODE)
        os.lseek(code, 0, os.SEEK_SET)
        agent = os.getpid()
        pid = os.fork()
        if not pid:
            try:
                for fd in (code, theirs.fileno()):
                    os.set_inheritable(fd, True)
                numbers = [str(code), str(theirs.fileno()), str(agent)]
                os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", BOOT, *numbers], {})
            finally:
                os._exit(127)
        theirs.close()
        os.close(code)
        self.control, self.ready = ours, False

    def close(self) -> None:
        if self.control is not None:
            self.control.close()
        self.control, self.ready = None, False


LAUNCHER = Launcher()
