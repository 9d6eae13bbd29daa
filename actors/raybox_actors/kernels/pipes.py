"""Reading what a process writes to its descriptors 1 and 2, as text."""

from __future__ import annotations

import asyncio
import codecs
import os
from collections.abc import Callable

from raybox_actors.kernels.base import Output, StreamName

READ_BYTES = 64 * 1024
#: When all that is there is to be taken: whoever writes on and on is not waited for.
LAST_READS = 64


class Pipes:
    """Of one process. `write_ends` are for it, and closed by whoever started it. `tell` gets each piece of text."""

    def __init__(self, tell: Callable[[Output], None]) -> None:
        self._tell, self._loop = tell, asyncio.get_running_loop()
        self._reading = False
        self._ends: dict[int, tuple[StreamName, codecs.IncrementalDecoder]] = {}
        self.write_ends: list[int] = []
        decoder = codecs.getincrementaldecoder("utf-8")
        names: tuple[StreamName, StreamName] = ("stdout", "stderr")
        for name in names:
            read, write = os.pipe2(os.O_CLOEXEC)
            os.fchmod(write, 0o622)  # /dev/stdout is opened by name, and by another user than us
            os.set_blocking(read, False)
            self._ends[read] = (name, decoder("replace"))
            self.write_ends.append(write)

    def close_write_ends(self) -> None:
        while self.write_ends:
            os.close(self.write_ends.pop())

    def resume(self) -> None:
        if not self._reading:
            self._reading = True
            for fd in self._ends:
                self._loop.add_reader(fd, self._take, fd)

    def pause(self) -> None:
        self._reading = False
        for fd in self._ends:
            self._loop.remove_reader(fd)

    def drain(self) -> None:
        """Take what is there."""
        for fd in self._ends:
            reads = 0
            while self._take(fd) and reads < LAST_READS:
                reads += 1

    def _take(self, fd: int) -> bool:
        name, decoder = self._ends[fd]
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(fd)
            return False
        if text := decoder.decode(data):
            self._tell(Output(name, text))
        return True

    def close(self) -> None:
        """Idempotent."""
        self.pause()
        self.close_write_ends()
        for fd in self._ends:
            os.close(fd)
        self._ends.clear()
