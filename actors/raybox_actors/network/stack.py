"""User-mode network stacks (slirp4netns): how they are born without privileges, watched and ended.

A stack runs under host ids of its own. It creates its end of the link in a user and network namespace that belong to
those ids, its birthplace, and from there the node moves the link into the sandbox's namespace. So the stack never holds
a capability towards the node or the sandbox, and nobody inside the sandbox can change the link.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from raybox_actors.errors import InternalError
from raybox_actors.isolation.policy import FIRST_HOST_ID, IDS_PER_SANDBOX, MAX_SLOTS_PER_NODE
from raybox_actors.network import netlink
from raybox_actors.network.rules import STACK_NETWORK

#: Programs that are needed, and Debian's packages of them.
PROGRAMS = {
    "slirp4netns": "slirp4netns",
    "nft": "nftables",
    "nsenter": "util-linux",
    "prlimit": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LINK = "egress"
#: The largest that the stack takes: fewer and larger packets cost less.
LINK_MTU_BYTES = 65_520
#: A start takes about 5 ms, an end 20, most of which the kernel takes for the link.
START_LIMIT_S = 10.0
STOP_LIMIT_S = 5.0
#: Of one stack: sockets, one for each connection of its sandbox, and memory.
STACK_SOCKETS = 1024
STACK_MEMORY_BYTES = 256 << 20
#: Of what a stack says, kept for logs and errors.
SAID_BYTES = 4096

#: Host ids of the stacks, one for each slot: below those of all sandboxes.
FIRST_STACK_ID = FIRST_HOST_ID - IDS_PER_SANDBOX
TUN_DEVICE = os.makedev(10, 200)

#: A mount namespace with a tun device of our own and nothing of the host's configuration; then what follows.
_PRIVATE_MOUNTS = """
mount -t tmpfs -o mode=755,size=64k none /dev && mkdir /dev/net &&
mknod -m 666 /dev/net/tun c 10 200 && mknod -m 666 /dev/null c 1 3 &&
for folder in /etc /run /root /home; do
    [ ! -d "$folder" ] || mount -t tmpfs -o ro,size=4k none "$folder" || exit 1
done && exec "$@"
"""
#: Lives until its stdin closes.
_HOLD = ("sh", "-c", "echo up; exec cat")


def egress_available() -> str | None:
    """None if this node can give sandboxes a network, else the reason, fit for an operator. Sends nothing."""
    if os.geteuid() != 0:
        return "network egress needs root, to set rules that sandboxes cannot change"
    missing = [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]
    if missing:
        packages = " ".join(dict.fromkeys(PROGRAMS[name] for name in missing))
        return f"{', '.join(missing)} not found: apt-get install {packages}"
    if failure := tun_failure():
        return f"the tun device cannot be used ({failure}): load the kernel module tun, or allow device c 10:200"
    return None


def tun_failure() -> str:
    """Why tun devices cannot be made and opened here; empty if they can. Whether the node has one does not matter."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            node = Path(folder) / "tun"
            os.mknod(node, stat.S_IFCHR | 0o600, TUN_DEVICE)
            os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.strerror or str(error)
    return ""


class Birthplace:
    """The namespaces in which one slot's stacks are born, one after the other. Used on one loop, whose thread must live
    as long as the sandboxes shall: a stack's end is tied to it."""

    def __init__(self, slot: int, outer_namespace: str | None) -> None:
        """outer_namespace: path of the network namespace to go out from; None: this process's."""
        self._id = FIRST_STACK_ID + slot % MAX_SLOTS_PER_NODE
        self._outer_path = outer_namespace or "/proc/self/ns/net"
        self._holder: subprocess.Popen[bytes] | None = None
        self._mounts = self._network = -1
        self.outer = -1  #: descriptor of the namespace to go out from, once started
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """About 30 ms. Idempotent. Raises InternalError with the reason where this node cannot do it."""
        async with self._turn:
            if self._holder is not None and self._holder.poll() is None:
                return
            self.close()
            if reason := egress_available():
                raise InternalError(f"this node cannot give sandboxes a network: {reason}")
            try:
                self.outer = os.open(self._outer_path, os.O_RDONLY | os.O_CLOEXEC)
                holder = self._holder = self._hold()
                assert holder.stdout is not None
                if not await _reads(holder.stdout.fileno(), b"up\n"):
                    raise InternalError(f"the network's namespaces could not be made: {_complaint(holder)}")
                self._mounts = os.open(f"/proc/{holder.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
                self._network = os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            except BaseException as error:
                self.close()
                if isinstance(error, OSError):
                    raise InternalError(f"the network's namespaces could not be made: {error}") from error
                raise

    def _hold(self) -> subprocess.Popen[bytes]:
        command = [
            *("nsenter", f"--net=/proc/self/fd/{self.outer}"),
            *("unshare", "--mount", "--propagation", "private", "sh", "-c", _PRIVATE_MOUNTS, "sh"),
            *self._without_privileges(),
            *("unshare", "--user", "--map-root-user", "--net"),
            *_HOLD,
        ]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[self.outer],
            env={"PATH": SEARCH_PATH},
            cwd="/",
            start_new_session=True,
        )

    def _without_privileges(self) -> list[str]:
        identity = ["--reuid", str(self._id), "--regid", str(self._id), "--clear-groups"]
        return ["setpriv", *identity, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--pdeathsig", "KILL"]

    async def start_stack(self, namespace: int) -> Stack:
        """A stack whose link is in this network namespace (a descriptor), still down and without address. About 5 ms.
        `start` must have returned. Raises InternalError, OSError."""
        async with self._turn:  # links have one name at their birthplace
            if self._holder is None:
                raise InternalError("the network of this slot has been closed")
            ready, tell = os.pipe2(os.O_CLOEXEC)
            try:
                stack = self._spawn(tell)
            except BaseException:
                os.close(ready)
                raise
            finally:
                os.close(tell)
            try:
                if not await _reads(ready, b"1"):
                    raise InternalError(f"the user-mode network stack did not start: {stack.said()}")
                await netlink.in_namespace(self._network, functools.partial(_move_out, os.dup(namespace)))
            except BaseException:
                await stack.close()
                raise
            finally:
                os.close(ready)
            return stack

    def _spawn(self, tell: int) -> Stack:
        assert self._holder is not None
        hang_up, alive = os.pipe2(os.O_CLOEXEC)
        command = [
            *("nsenter", f"--mount=/proc/self/fd/{self._mounts}", f"--net=/proc/self/fd/{self.outer}"),
            *("prlimit", f"--nofile={STACK_SOCKETS}", f"--data={STACK_MEMORY_BYTES}"),
            *self._without_privileges(),
            *("slirp4netns", "--disable-host-loopback", "--disable-dns", "--enable-sandbox", "--enable-seccomp"),
            *(f"--cidr={STACK_NETWORK}", f"--mtu={LINK_MTU_BYTES}"),
            *("--ready-fd", str(tell), "--exit-fd", str(hang_up), str(self._holder.pid), LINK),
        ]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[self._mounts, self.outer, tell, hang_up],
                env={"PATH": SEARCH_PATH},
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(alive)
            raise
        finally:
            os.close(hang_up)
        return Stack(process, alive)

    def close(self) -> None:
        """Release what `start` made. Stacks that run go on. Blocks for a few milliseconds. Idempotent."""
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait()
            for pipe in (self._holder.stdin, self._holder.stdout, self._holder.stderr):
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()
        for fd in (self._mounts, self._network, self.outer):
            if fd >= 0:
                os.close(fd)
        self._holder = None
        self._mounts = self._network = self.outer = -1


class Stack:
    """One running stack. Ended by `close`, by the end of its thread, and by the end of this process."""

    def __init__(self, process: subprocess.Popen[bytes], alive: int) -> None:
        """alive: the end of a pipe that the stack takes its closing of for an order to exit; ours from now on."""
        self.pid = process.pid
        self._process, self._alive = process, alive
        self._pidfd = os.pidfd_open(process.pid)
        self._said = b""
        self._loop = asyncio.get_running_loop()
        assert process.stderr is not None
        self._stderr = process.stderr
        os.set_blocking(self._stderr.fileno(), False)
        self._loop.add_reader(self._stderr.fileno(), self._hear)

    def _hear(self) -> None:
        """Or the pipe would fill up, and the stack wait for ever."""
        try:
            piece = os.read(self._stderr.fileno(), SAID_BYTES)
        except BlockingIOError:
            return
        if not piece:
            self._loop.remove_reader(self._stderr.fileno())
        self._said = (self._said + piece)[-SAID_BYTES:]

    def said(self) -> str:
        self._hear()
        return self._said.decode(errors="replace").strip() or "it said nothing"

    async def ended(self) -> None:
        """Return when it has. One caller at a time."""
        ended = asyncio.Event()
        self._loop.add_reader(self._pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            self._loop.remove_reader(self._pidfd)

    async def close(self) -> None:
        """Kill, reap, release. Idempotent. Nobody may wait in `ended`."""
        if self._pidfd < 0:
            return
        self._process.kill()
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await self.ended()
        finally:
            self._loop.remove_reader(self._stderr.fileno())
            self._process.wait()
            self._stderr.close()
            os.close(self._alive)
            os.close(self._pidfd)
            self._pidfd = -1


def _move_out(namespace: int) -> None:
    """The descriptor is this call's own: whoever waits for it may be cancelled, and close theirs."""
    try:
        netlink.move_link(LINK, namespace)
    finally:
        os.close(namespace)


def _complaint(process: subprocess.Popen[bytes]) -> str:
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    return (process.stderr.read(SAID_BYTES) or b"").decode(errors="replace").strip() or "nothing was said"


async def _reads(fd: int, expected: bytes) -> bool:
    """Whether this can be read from it before it is closed or START_LIMIT_S has passed. Small words come at once."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        async with asyncio.timeout(START_LIMIT_S):
            await readable.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return os.read(fd, 64) == expected
