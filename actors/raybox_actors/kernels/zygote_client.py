"""Asking a node's zygote for processes inside walls (guest/zygote.py tells the protocol)."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import socket
from dataclasses import dataclass, field, replace
from typing import Any

from raybox_actors.kernels.base import KernelFailed

#: A fork takes about 10 ms; a zygote that is being started anew takes two seconds.
ANSWER_LIMIT_S = 20.0
MAX_ANSWER_BYTES = 64 * 1024
#: What the zygote itself reads of a request: nothing of the sandbox's, for its memory goes to the next one's processes.
FOR_THE_ZYGOTE = ("op", "joins", "has_bundle", "has_gate")


@dataclass(slots=True)
class Child:
    """A process that the zygote forked. `pid` is the host's; the zygote reaps it."""

    pid: int
    pidfd: int  #: -1: it had ended before it could be held
    connection: socket.socket

    async def status(self) -> int | None:
        """As of os.waitstatus_to_exitcode; None if its zygote went away and took it along. Returns when it is gone."""
        if self.pidfd >= 0:
            await wait_readable(self.pidfd)
        with contextlib.suppress(OSError, ValueError, TimeoutError):
            said, _ = await receive(self.connection, 1.0)
            return int(json.loads(said)["status"])
        return None

    async def wait(self) -> str:
        """How it ended, in words: "exit status 3", "killed by signal 9". Returns when it is gone."""
        status = await self.status()
        if status is None:
            return "ended"
        return f"exit status {status}" if status >= 0 else f"killed by signal {-status}"

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        self.connection.close()


def lean_address(address: str) -> str:
    """Of the zygote beside the one at `address`, which has no kernel and costs little to fork (guest/lean.py)."""
    return f"{address}.lean"


@dataclass(frozen=True, slots=True)
class ZygoteClient:
    """Of one zygote, by the address of its socket. Safe to share."""

    address: str
    waits_for_zygote_s: float = field(default=10.0)

    def lean(self) -> ZygoteClient:
        return replace(self, address=lean_address(self.address))

    async def spawn(self, request: dict[str, Any], fds: list[int]) -> Child:
        """Send one request with descriptors (ours stay open). Raises KernelFailed, also when there is no zygote."""
        connection = await self._connect()
        try:
            words = {name: request[name] for name in FOR_THE_ZYGOTE if name in request}
            particulars = os.memfd_create("raybox-request")
            try:
                os.write(particulars, json.dumps(request).encode())
                rights = array.array("i", [*fds, particulars])
                connection.sendmsg([json.dumps(words).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            finally:
                os.close(particulars)
            said, why = await receive(connection, ANSWER_LIMIT_S)
            answer = json.loads(said)
            if "refused" in answer:
                raise KernelFailed(why or "it did not come inside the walls")
            if "error" in answer:
                raise KernelFailed(str(answer["error"]))
            pid = int(answer["pid"])
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                pidfd = -1
            return Child(pid, pidfd, connection)
        except (OSError, ValueError, TimeoutError) as error:
            connection.close()
            raise KernelFailed(f"the zygote did not answer: {type(error).__name__}: {error}") from error
        except BaseException:
            connection.close()
            raise

    async def user_namespace(self, first_id: int) -> int:
        """A new user namespace; with the host's ids from `first_id` on. The caller closes it. Raises KernelFailed."""
        connection = await self._connect()
        try:
            connection.send(json.dumps({"op": "namespace", "first_id": first_id}).encode())
            async with asyncio.timeout(ANSWER_LIMIT_S):
                await wait_readable(connection.fileno())
            said, fds, _, _ = socket.recv_fds(connection, MAX_ANSWER_BYTES, 1)
            if len(fds) != 1:
                raise KernelFailed(f"no user namespace: {json.loads(said or b'{}').get('error', 'the zygote hung up')}")
            os.set_inheritable(fds[0], False)
            return fds[0]
        except (OSError, ValueError, TimeoutError) as error:
            raise KernelFailed(f"the zygote did not answer: {type(error).__name__}: {error}") from error
        finally:
            connection.close()

    async def _connect(self) -> socket.socket:
        """A zygote that died is started anew by its node agent; wait for that."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.waits_for_zygote_s
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            connection.setblocking(False)
            try:
                connection.connect(self.address)
                return connection
            except OSError as error:
                connection.close()
                if loop.time() > deadline:
                    raise KernelFailed(f"no zygote at {self.address}: {error}") from error
            await asyncio.sleep(0.02)


async def wait_readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        loop.remove_reader(fd)
        if not future.done():
            future.set_result(None)

    loop.add_reader(fd, wake)
    try:
        await future
    finally:
        loop.remove_reader(fd)


async def receive(connection: socket.socket, limit_s: float) -> tuple[bytes, str]:
    """A packet, and the words that can be read from the descriptor that came with it."""
    async with asyncio.timeout(limit_s):
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(connection, MAX_ANSWER_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                await wait_readable(connection.fileno())
                continue
            words = "".join(map(_words, fds))
            if not data:
                raise ConnectionResetError("the zygote hung up")
            return data, words


def _words(fd: int) -> str:
    """All that is said already. Closes it."""
    try:
        os.set_blocking(fd, False)
        return os.read(fd, MAX_ANSWER_BYTES).decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(fd)
