"""Frames of the kernel: one JSON array `[kind, content]` a line, over one stream socket, in both directions.

JSON because it is bounded and harmless to read, carries integers of any size, and because a line of it costs a print as
little as anything would; and a line that was cut short spoils itself, not the next. Runs inside sandboxes: standard
library only.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import io
import json
import os
import re
import select
import socket
import termios
import threading
import time
from collections import deque
from typing import Any

encode_text = json.encoder.encode_basestring_ascii
get_ident = threading.get_ident
ioctl = fcntl.ioctl
FIONREAD = termios.FIONREAD

#: Longest frame sent; the reader on the other side gives up on whoever sends twice as much.
MAX_FRAME_BYTES = 32 * 1024 * 1024
#: A longer write of text is cut into frames of this many characters.
TEXT_CHUNK_CHARS = 64 * 1024
#: How long a frame may wait for the pipes of file descriptors 1 and 2 while somebody keeps filling them; then order is
#: given up, not output, and later frames wait only a little until the pipes were empty once.
DRAIN_LIMIT_S = 1.0
IMPATIENT_S = 0.01

LONE_SURROGATES = re.compile("[\ud800-\udfff]")


class Wire:
    """The kernel's end. Safe to use from any thread and from signal handlers; a forked child must not (see `detach`).

    Order: what C code and child processes write to the pipes of descriptors 1 and 2 before a frame is read before the
    frame, because a frame waits until those pipes are empty, and the reader takes frames before bytes from pipes.
    """

    def __init__(self) -> None:
        self.sock: socket.socket | None = None
        self.pipes: tuple[int, ...] = ()
        self.muted = True  #: while nothing shall come of what runs: the zygote warms up, or a parked kernel does
        self.lock = threading.RLock()
        #: The main thread is sending: SIGINT must wait, or what it prints is lost. `interrupted` remembers it.
        self.busy = False
        self.interrupted = False
        self.main_thread = 0
        self._pending = array.array("i", [0])
        self._sending = False
        #: An exception out of a signal handler may have cut a frame: the next one begins on a line of its own.
        self._torn = False
        #: Frames of signal handlers and finalizers that ran in the midst of another frame.
        self._waiting: deque[bytes] = deque()
        self._patience_s = DRAIN_LIMIT_S

    def attach(self, sock: socket.socket, pipes: tuple[int, ...]) -> None:
        self.sock, self.pipes, self.lock = sock, pipes, threading.RLock()
        self.main_thread = get_ident()
        self.muted = False

    def detach(self) -> None:
        """In a child that user code forked: its output goes through the pipes, its displays nowhere."""
        self.sock, self.lock, self.busy = None, threading.RLock(), False

    def emit(self, kind: str, content: Any, *, apart: bool = False) -> None:
        """Send a frame. `apart`: on a new line, whatever user code wrote into the wire before."""
        if self.sock is not None:
            start = "\n" if apart else ""
            self.send(f"{start}[{encode_text(kind)},{json.dumps(content, default=str)}]\n".encode())

    def emit_packed(self, kind: str, content: bytes) -> None:
        """As `emit`, for JSON without line breaks, which lone surrogates may have kept from being UTF-8."""
        if self.sock is not None:
            if not content.isascii():
                content = content.decode("utf-8", "replace").encode()
            self.send(b"[%b,%b]\n" % (encode_text(kind).encode(), content))

    def send(self, frame: bytes) -> None:
        main = get_ident() == self.main_thread  # signals are handled there, and only there
        if main:
            self.busy = True
        try:
            with self.lock:
                if self._sending:
                    self._waiting.append(frame)
                    return
                self._sending = True
                try:
                    self._write(frame)
                    while self._waiting:
                        self._write(self._waiting.popleft())
                finally:
                    self._sending = False
        finally:
            if main:
                self.busy = False
        if main and self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt

    def _write(self, frame: bytes) -> None:
        sock, pending = self.sock, self._pending
        if sock is None or self.muted:
            return
        for pipe in self.pipes:
            try:
                ioctl(pipe, FIONREAD, pending)
            except OSError:  # user code closed it: nothing comes that way any more
                self.pipes = tuple(other for other in self.pipes if other != pipe)
                continue
            if pending[0] and not self._emptied(pipe):
                return  # interrupted, with nothing sent yet
        if self._torn:
            frame = b"\n" + frame
        self._torn = True
        try:
            sent = sock.send(frame, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        if sent < len(frame) and not self._send_rest(sock, frame, sent):
            return
        self._torn = False

    def _send_rest(self, sock: socket.socket, frame: bytes, sent: int) -> bool:
        """Wait for a reader that is behind. False if SIGINT came before the frame's first byte left."""
        rest = memoryview(frame)[sent:]
        poller = select.poll()
        poller.register(sock, select.POLLOUT)
        while rest:
            if self.interrupted and len(rest) == len(frame):
                self._torn = False
                return False
            poller.poll(50)
            with contextlib.suppress(BlockingIOError):
                rest = rest[sock.send(rest, socket.MSG_DONTWAIT) :]
        return True

    def _emptied(self, pipe: int) -> bool:
        """Wait until it is empty; False if SIGINT came first.

        As long as nothing moves, the reader has paused and is waited for; a writer that never ends is not.
        """
        moved_s, before, now = 0.0, self._pending[0], time.monotonic()
        while self._pending[0]:
            if self.interrupted:
                return False
            time.sleep(0.0002)
            ioctl(pipe, FIONREAD, self._pending)
            last, now = now, time.monotonic()
            if self._pending[0] != before:
                moved_s += now - last
                before = self._pending[0]
            if moved_s > self._patience_s:
                self._patience_s = IMPATIENT_S
                return True
        self._patience_s = DRAIN_LIMIT_S
        return True


class OutStream(io.TextIOBase):
    """What `sys.stdout` and `sys.stderr` are in the kernel: every write is a frame at once; the actor coalesces.

    Named as in ipykernel: libraries look for the name.
    """

    encoding = "UTF-8"

    def __init__(self, wire: Wire, name: str, fd: int) -> None:
        self.name = name
        self.buffer = BinaryStream(fd)
        self._wire, self._fd = wire, fd
        self._head = f'["{name}",'

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text)}")
        wire = self._wire
        if wire.sock is None:
            if not wire.muted:
                self.buffer.write(text.encode("utf-8", "surrogateescape"))
        elif text:
            if not text.isascii():
                text = without_lone_surrogates(text)
            if len(text) <= TEXT_CHUNK_CHARS:
                wire.send(f"{self._head}{encode_text(text)}]\n".encode("ascii"))
            else:
                for start in range(0, len(text), TEXT_CHUNK_CHARS):
                    piece = encode_text(text[start : start + TEXT_CHUNK_CHARS])
                    wire.send(f"{self._head}{piece}]\n".encode("ascii"))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None: ...

    def close(self) -> None:
        """Nothing: `with sys.stdout:` in a cell must not silence the cells that follow."""

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def set_parent(self, parent: object) -> None: ...


def without_lone_surrogates(text: str) -> str:
    """As stock ipykernel sends text: bytes that came in as surrogates are decoded, or become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        except UnicodeEncodeError:
            return LONE_SURROGATES.sub("\ufffd", text)
    return text


class BinaryStream:
    """`sys.stdout.buffer`: bytes straight to the descriptor."""

    closed = False

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        rest = view
        while len(rest):
            rest = rest[os.write(self._fd, rest) :]
        return len(view)

    def flush(self) -> None: ...

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return False

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True
