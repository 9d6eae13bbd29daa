"""The zygote of programs that need the standard library alone: a fork of it costs a tenth of what a kernel's does."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
from collections.abc import Callable

import walls
from program import PlainInterpreter
from seccomp import Filter
from zygote import Zygote, refresh_process_state

#: What programs import more often than not.
COMMON = (
    "array bisect collections copy dataclasses datetime decimal enum fractions functools heapq io itertools json math "
    "operator pathlib queue random re statistics string struct subprocess textwrap threading time typing unittest"
)


class Bare:
    """An Interpreter (zygote.py)."""

    def __init__(self, plain: PlainInterpreter) -> None:
        self.plain = plain

    def become_kernel(self, _wire_fd: int, _pipes: tuple[int, int]) -> None:
        raise OSError("this zygote has no kernel")

    def become_plain(self) -> None:
        refresh_process_state()
        self.plain.restore_signals()  # all else is as it was


def start_lean(address: str, calls: Filter, plain: PlainInterpreter, settled: Callable[[], None]) -> int:
    """Fork one that listens there; gives its pid. It dies with us. settled: called in it."""
    parent = os.getpid()
    zygote = Zygote(address, calls, Bare(plain))  # it listens before anybody is told that we are ready
    if pid := os.fork():
        zygote.close()
        return pid
    try:
        walls.die_with_parent(parent)
        walls.become_subreaper()
        settled()
        for name in COMMON.split():
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        plain.restore()
        os.environ.clear()  # each child has its own
        gc.collect()
        gc.freeze()
        walls.pass_on_mappings()
        zygote.run()
    finally:
        os._exit(1)
