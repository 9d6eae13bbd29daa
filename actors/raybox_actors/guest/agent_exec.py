"""Becoming a program: what a child of the agent does between its fork and its execution. And the launcher.

A fork of the agent takes some 5 ms, for it has the zygote's 100 MB. The launcher is a bare interpreter with a tenth of
that, which forks in the agent's place and makes the child the agent's own (CLONE_PARENT). Knows only `walls`.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import json
import os
import platform
import signal
import socket
import termios
from typing import Any, NoReturn

import walls

#: A request is one packet.
MAX_REQUEST_BYTES = 128 * 1024
#: stdin, stdout, stderr, where to tell what went wrong, and perhaps the folder to be in.
MAX_DESCRIPTORS = 5
CLONE_PARENT = 0x00008000
SYS_CLONE = {"x86_64": 56, "aarch64": 220}


def become(asked: dict[str, Any], fds: list[int], parent: int) -> NoReturn:
    """In the child. What fails is written to the fourth descriptor as JSON, [code, message]; else it closes by itself.

    asked: uid, gid, groups, nice, argv, environment, cwd (None: the fifth descriptor), terminal. Whatever else is open
    here closes by itself.
    """
    failed = ("internal", "")
    argv, tell = asked["argv"], fds[3]
    try:
        signal.set_wakeup_fd(-1)
        walls.fresh_signals()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.setsid()
        os.setpriority(os.PRIO_PROCESS, 0, max(asked["nice"], os.getpriority(os.PRIO_PROCESS, 0)))
        if asked["terminal"]:
            fcntl.ioctl(fds[0], termios.TIOCSCTTY, 0)
        if asked["cwd"] is None:  # as the agent: whoever could open it was allowed to
            os.fchdir(fds[4])
        for number in range(3):
            os.dup2(fds[number], number)
        walls.become_user(asked["uid"], asked["gid"], asked["groups"])
        walls.die_with_parent(parent)
        if asked["cwd"] is not None:
            try:
                os.chdir(asked["cwd"])
            except OSError as error:
                failed = ("invalid_argument", about_cwd(asked["cwd"], error))
                raise
        failed = ("invalid_argument", "")
        os.execvpe(argv[0], argv, asked["environment"])
    except BaseException as error:
        code, message = failed
        if not message:
            reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else repr(error)
            message = f"error starting process '{argv[0][:200]}': {reason}"
        os.write(tell, json.dumps([code, message]).encode()[:4096])
    finally:
        os._exit(127)


def about_cwd(cwd: str, error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"cwd '{cwd}' does not exist"
    return f"cwd '{cwd}': {os.strerror(error.errno or 0)}"


def serve(control_fd: int, agent: int) -> None:
    """Be the launcher, until the agent hangs up or ends. Each packet is answered with a pid, or a negative errno."""
    walls.die_with_parent(agent)
    walls.libc.prctl(walls.PR_SET_DUMPABLE, 0, 0, 0, 0)
    # With the interpreter's lock held all the while, and with one thread, the child needs nothing that fork() repairs.
    clone = ctypes.PyDLL(None, use_errno=True).syscall
    number = SYS_CLONE[platform.machine()]
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    control.send(b"\n")
    while True:
        data, ancillary, _, _ = control.recvmsg(
            MAX_REQUEST_BYTES, socket.CMSG_SPACE(4 * MAX_DESCRIPTORS), socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            return
        fds = array.array("i")
        for _, _, raw in ancillary:
            fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
        pid = clone(number, CLONE_PARENT | signal.SIGCHLD, None, None, None, None)
        if not pid:
            become(json.loads(data), list(fds), agent)
        answer = pid if pid > 0 else -ctypes.get_errno()
        for fd in fds:
            os.close(fd)
        control.send(str(answer).encode())
