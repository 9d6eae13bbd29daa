"""A kernel that is a program of ours in another language (raybox_template/kernel_programs), on the frames of ours.

It is started inside the walls with the wire as descriptor 3. What it prints comes through the pipes of descriptors 1
and 2 alone, its children's output too. A frame is sent when what was printed before it is in the pipes.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from raybox_actors.kernels.forked import LAST_READS, ForkedKernel
from raybox_actors.kernels.place import Place

#: Descriptor 0 is a place that the zygote has for the wire; children of the program shall not find it there.
LAUNCH = ("/bin/sh", "-c", 'exec "$@" 3<&0 </dev/null', "sh")
#: A virtual machine on a busy node.
START_LIMIT_S = 60.0


class ProgramKernel(ForkedKernel):
    """A Kernel (base.py). `command` may contain {python}, the template's interpreter."""

    start_limit_s = START_LIMIT_S

    def __init__(self, place: Place, cwd: str, command: tuple[str, ...]) -> None:
        super().__init__(place, cwd)
        argv = [place.python if word == "{python}" else word for word in command]
        self.request = {"op": "exec", "argv": [*LAUNCH, *argv]}

    async def start(self) -> None:
        await super().start()
        # Of its environment they are a part already; but in Java they are to be properties.
        if self._place.variables:
            await self.configure(self._place.variables)

    def interrupt(self) -> None:
        """The frame is for who cannot hear signals while it is busy; the signal is for its children, too."""
        if self._wire is not None:
            with contextlib.suppress(OSError):  # full: it does not read, and the signal has to do
                self._wire.send(json.dumps(["interrupt", {}]).encode() + b"\n")
        super().interrupt()

    def _handle(self, kind: str, content: Any) -> None:
        if kind not in ("ready", "input"):
            for fd in list(self._pipes):
                reads = 0
                while self._take_from_pipe(fd) and reads < LAST_READS:
                    reads += 1
        super()._handle(kind, content)
