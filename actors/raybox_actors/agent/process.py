"""The agent of one sandbox as a process: forked into the walls on first use, and again when it has died."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from raybox_actors.agent.errors import AgentError
from raybox_actors.kernels.base import KernelFailed
from raybox_actors.kernels.place import Place
from raybox_actors.kernels.zygote_client import Child

logger = logging.getLogger(__name__)

#: How long an agent may leave a new connection waiting; it looks at each at once.
HAND_OVER_LIMIT_S = 10.0
HAND_OVER_PAUSE_S = 0.005
#: An agent that could not be started for somebody who called sudo.
RETRY_PAUSE_S = 1.0


class AgentProcess:
    """Used on one loop. `stop` ends it; the walls' end does, too."""

    def __init__(self, place: Place, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        """`spawn` starts a task that ends before the walls' descriptors go."""
        self._place, self._spawn = place, spawn
        self._listener: socket.socket | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._variables: dict[str, str] = {}
        self._turn = asyncio.Lock()
        self._child: Child | None = None
        self._control: socket.socket | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The host's, while it runs."""
        return self._child.pid if self._child is not None and self._control is not None else None

    def set_variables(self, variables: dict[str, str]) -> None:
        """The sandbox's own environment variables, of all processes that are started from now on."""
        self._variables = {**self._variables, **variables}
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.send(json.dumps({"variables": self._variables}).encode())

    def activate_by(self, listener: socket.socket) -> None:
        """Have the agent whenever somebody connects to this socket, which becomes ours."""
        self._listener = listener
        self._wait_for_sudo()

    def _wait_for_sudo(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._wanted)

    def _wanted(self) -> None:
        assert self._listener is not None
        asyncio.get_running_loop().remove_reader(self._listener)
        self._spawn(self._come())

    async def _come(self) -> None:
        try:
            if self._control is None:
                await self._start()
        except AgentError as error:
            logger.warning("sudo waits: %s", error)
            self._retry = asyncio.get_running_loop().call_later(RETRY_PAUSE_S, self._wait_for_sudo)

    async def hand_over(self, connection: socket.socket) -> None:
        """Give the agent a connection (the caller's copy stays open). Starts it if need be; raises AgentError."""
        for _ in range(2):
            control = self._control or await self._start()
            if await self._pass(control, connection):
                return
            self._hang_up(control)
        raise AgentError("unavailable", "the sandbox's agent ends as soon as it runs")

    async def _start(self) -> socket.socket:
        async with self._turn:
            if self._control is not None:
                return self._control
            await self._forget()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            null = os.open("/dev/null", os.O_RDWR)
            listener = self._listener.fileno() if self._listener is not None else null
            try:
                ours.setblocking(False)
                request = {"op": "agent", "variables": self._variables}
                self._child = await self._place.enter(request, "/", [theirs.fileno(), listener, null])
            except KernelFailed as error:
                ours.close()
                raise AgentError("unavailable", f"the sandbox's agent could not be started: {error}") from error
            except BaseException:
                ours.close()
                raise
            finally:
                theirs.close()
                os.close(null)
            if self._listener is not None:
                asyncio.get_running_loop().remove_reader(self._listener)
            self._control = ours
            self._watcher = asyncio.create_task(self._watch(self._child, ours))
            return ours

    async def _watch(self, child: Child, control: socket.socket) -> None:
        await child.wait()
        self._hang_up(control)
        self._wait_for_sudo()

    @staticmethod
    async def _pass(control: socket.socket, connection: socket.socket) -> bool:
        """False if there is nobody at the other end."""
        rights = array.array("i", [connection.fileno()])
        deadline = asyncio.get_running_loop().time() + HAND_OVER_LIMIT_S
        while True:
            try:
                control.sendmsg([b"+"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                return True
            except BlockingIOError:
                if asyncio.get_running_loop().time() > deadline:
                    raise AgentError("unavailable", "the sandbox's agent does not answer") from None
            except OSError:
                return False
            await asyncio.sleep(HAND_OVER_PAUSE_S)

    def _hang_up(self, control: socket.socket) -> None:
        """An agent that is hung up on ends."""
        control.close()
        if self._control is control:
            self._control = None

    async def _forget(self) -> None:
        """Of the last one, which is dead or dying."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait({watcher})
        if self._child is not None:
            self._child.close()
            self._child = None

    async def stop(self) -> None:
        """Hang up; release every descriptor. The walls are about to fall. Idempotent."""
        if self._control is not None:
            self._hang_up(self._control)
        await self._forget()
        if self._retry is not None:
            self._retry.cancel()
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
