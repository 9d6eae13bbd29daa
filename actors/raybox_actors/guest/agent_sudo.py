"""The other end of `sudo` (sudo.py): commands as another user, with the descriptors of whoever calls."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import signal
import socket
import struct
from typing import Any

from agent_processes import Processes
from agent_spawn import base_environment, execute
from agent_users import TABLES, find_user
from agent_wire import ENDED, HEADER_LIMIT_S, STARTED, Connection, Failure, HungUp, wait_readable

#: Besides root, who may ask. No password: whoever holds the sandbox may do all that can be done in it.
SUDOERS = ("user",)
DESCRIPTORS = 4
SIGNAL = b"K"
MAX_SIGNAL = 64
#: What a terminal sends to all programs on it.
OF_TERMINALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGCONT, signal.SIGWINCH)


async def sudo(sock: socket.socket, processes: Processes) -> None:
    """One command. Raises Failure, HungUp, TimeoutError. The caller closes the socket."""
    caller = _caller(sock)
    connection = Connection(sock)
    fds = await _descriptors(connection)
    try:
        asked = await connection.header()
        user = find_user(asked.get("user"))
        argv, environment, variables = asked.get("argv"), asked.get("environment"), asked.get("variables")
        if not _texts(argv) or not _pairs(environment) or not _pairs(variables):
            raise Failure("invalid_argument", "a command is a list of texts without nulls, and so is its environment")
        assert isinstance(argv, list)
        assert isinstance(environment, dict)
        assert isinstance(variables, dict)
        command = " ".join(argv)
        own = base_environment(user)
        if asked.get("login"):
            argv = [user.shell, "-l", *(["-c", command] if argv else [])]
        elif asked.get("shell") is not None:
            argv = [str(asked["shell"]) or user.shell, *(["-c", command] if argv else [])]
        environment = {
            **environment,
            **own,
            "SUDO_USER": TABLES.user_names.get(caller, str(caller)),
            "SUDO_UID": str(caller),
            "SUDO_COMMAND": command[:4096],
            **variables,
        }
        cwd: str | int = user.home if asked.get("login") else fds[3]
        pid = execute(user, argv, environment, cwd, (fds[0], fds[1], fds[2]))
        ended = processes.others[pid] = asyncio.get_running_loop().create_future()
    finally:
        for fd in fds:
            os.close(fd)
    await connection.send_json(STARTED, {"pid": pid})
    listening = asyncio.ensure_future(_listen(connection, pid, ended))
    try:
        await asyncio.wait({ended, listening}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            await connection.send_json(ENDED, {"status": ended.result()})
        elif not asked.get("background"):  # whoever called has gone, as a terminal would
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGHUP)
    finally:
        listening.cancel()
        await asyncio.wait({listening})


def _caller(sock: socket.socket) -> int:
    """The uid. Raises Failure for one who may not."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    TABLES.refresh()
    name = TABLES.user_names.get(uid, str(uid))
    if uid and name not in SUDOERS:
        raise Failure("permission_denied", f"{name} is not allowed to run sudo")
    return int(uid)


async def _descriptors(connection: Connection) -> list[int]:
    """Those that come with the first bytes. Raises Failure unless they are as many as have to be."""
    sock = connection.sock
    async with asyncio.timeout(HEADER_LIMIT_S):
        await wait_readable(sock.fileno())
    data, ancillary, _, _ = sock.recvmsg(65536, socket.CMSG_SPACE(4 * DESCRIPTORS), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for _, _, raw in ancillary:
        fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
    if not data:
        raise HungUp
    connection.buffer += data
    if len(fds) != DESCRIPTORS:
        for fd in fds:
            os.close(fd)
        raise Failure("invalid_argument", f"{len(fds)} descriptors in place of {DESCRIPTORS}")
    return list(fds)


async def _listen(connection: Connection, pid: int, ended: asyncio.Future[int]) -> None:
    """Pass signals on, until the caller goes."""
    with contextlib.suppress(HungUp, Failure):
        while (frame := await connection.receive()) is not None:
            kind, payload = frame
            if kind == SIGNAL and len(payload) == 1 and 0 < payload[0] <= MAX_SIGNAL and not ended.done():
                with contextlib.suppress(ProcessLookupError):
                    (os.killpg if payload[0] in OF_TERMINALS else os.kill)(pid, payload[0])


def _texts(words: Any) -> bool:
    return isinstance(words, list) and all(isinstance(word, str) and "\0" not in word for word in words)


def _pairs(words: Any) -> bool:
    return isinstance(words, dict) and _texts([*words, *words.values()]) and not any("=" in name for name in words)
