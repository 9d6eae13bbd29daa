"""Tells the cluster, now and then, that whoever has open answers is still there: over HTTP the connection says so.

One thread for the process, as long as there is anything to tell; what is garbage is forgotten by itself.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import Final, Protocol

from ._config import has_joined_ray

#: The pool gives an answer up that nobody has asked about for 20 s, and interrupts an execution after 30 s.
PULSE_S: Final = 5.0


class Pulsing(Protocol):
    def pulse(self) -> None: ...


_lock = threading.Lock()
_open: weakref.WeakSet[Pulsing] = weakref.WeakSet()
_thread: threading.Thread | None = None


def watch(answer: Pulsing) -> None:
    global _thread
    with _lock:
        _open.add(answer)
        if _thread is None:
            _thread = threading.Thread(target=_run, name="raybox-pulse", daemon=True)
            _thread.start()


def forget(answer: Pulsing) -> None:
    with _lock:
        _open.discard(answer)


def _run() -> None:
    global _thread
    idle = 0
    while True:
        time.sleep(PULSE_S)
        with _lock:
            idle = 0 if _open else idle + 1
            if idle > 1:
                _thread = None
                return
            answers = list(_open)
        if not has_joined_ray():  # a call would make Ray start itself
            continue
        for answer in answers:
            try:
                answer.pulse()
            except Exception:  # its actor is gone, or the process is leaving the cluster: its reader will hear of it
                forget(answer)
