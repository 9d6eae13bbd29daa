"""The user namespace of a slot: who the code in its sandboxes is to the host. One for all sandboxes of a slot, in turn.

Made once by the zygote, and kept by its descriptor; each process that enters a sandbox joins it. That saves every
creation the handshake of mapping ids. It is as good as a fresh one, because nothing in it outlives the processes that
used it, and all of them are gone before the next sandbox of the slot begins: counters go back to zero with them, the
ids are the slot's own either way, keyrings (which could stay) are closed by the system call filter, and every mount,
network, pid, ipc and uts namespace belongs to the host's user namespace, not to this one.
"""

from __future__ import annotations

import asyncio
import os

from raybox_actors.isolation.policy import first_host_id
from raybox_actors.kernels.zygote_client import ZygoteClient


class Identity:
    """Of one slot. `close` releases the namespace, which lives on with the processes in it."""

    def __init__(self, slot: int) -> None:
        self.first_id = first_host_id(slot)
        self._fd = -1
        self._turn = asyncio.Lock()

    async def namespace(self, zygote: ZygoteClient) -> int:
        """Its descriptor, ours to keep; the zygote is asked the first time. Raises KernelFailed."""
        async with self._turn:
            if self._fd < 0:
                self._fd = await zygote.user_namespace(self.first_id)
            return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
