"""Loading the system call filter that the pool built (isolation/seccomp_policy.py). Stdlib only."""

from __future__ import annotations

import ctypes
import os

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
INSTRUCTION_BYTES = 8


class _Program(ctypes.Structure):
    _fields_ = (("count", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


class Filter:
    """A program ready to be loaded: made once, before the fork, because a fresh fork pays for every page it touches."""

    def __init__(self, program: bytes) -> None:
        if not program or len(program) % INSTRUCTION_BYTES:
            raise ValueError(f"not a BPF program: {len(program)} bytes")
        self._bytes = program  # the structure holds only its address
        self._program = _Program(len(program) // INSTRUCTION_BYTES, program)
        self._libc = ctypes.CDLL(None, use_errno=True)

    def load(self) -> None:
        """For this process and all that come of it, for good. It must have set no_new_privs. Raises OSError."""
        if self._libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(self._program), 0, 0):
            error = ctypes.get_errno()
            raise OSError(error, f"prctl(PR_SET_SECCOMP): {os.strerror(error)}")
