"""WarmHints: which sandboxes a gateway may claim without asking the manager first.

A hint is as old as the last look and may be wrong at any moment; the sandbox's actor decides. Nobody looks while
nothing is created.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

#: More than are claimed between two looks when creates come one after another; a storm goes to the manager.
HINTS_MOST: Final = 8
#: So many actors are connected to ahead of their first call; the others when they are hinted at.
CONNECTED_MOST: Final = 64
#: After a create; the refill that follows it takes about as long.
LOOK_AFTER_S: Final = 0.15
#: Between two looks while there is no hint, and for how long after the last create.
LOOK_AGAIN_S: Final = 0.25
LOOK_FOR_S: Final = 3.0


class WarmHints:
    """Used on one loop.

    look: names of at most so many free slots, those to be used first at the front; None if that cannot be known now.
    connect: make sure that the next call of this actor needs no new connection; false if it does not answer.
    """

    def __init__(
        self, look: Callable[[int], Awaitable[list[str] | None]], connect: Callable[[str], Awaitable[bool]]
    ) -> None:
        self._look, self._connect = look, connect
        self._names: deque[str] = deque(maxlen=HINTS_MOST)
        #: Since the look that is under way began, which may still bring their names.
        self._used: set[str] = set()
        self._wanted_at_s = 0.0
        self._task: asyncio.Task[None] | None = None

    def take(self, part: str = "") -> str | None:
        """The name of a slot that was free; nobody else on this loop is given it until it is seen free again.

        part: of the name, where only such a slot will do.
        """
        name = next((name for name in self._names if part in name), None)
        if name is not None:
            self._names.remove(name)
            self._used.add(name)
        return name

    def refresh(self, delay_s: float = LOOK_AFTER_S) -> None:
        """Look after so long, and then now and then until there are hints. Calls that follow at once are one look."""
        self._wanted_at_s = time.monotonic()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._keep_looking(delay_s))

    async def _keep_looking(self, delay_s: float) -> None:
        while True:
            await asyncio.sleep(delay_s)
            began_s = time.monotonic()
            await self._renew()
            if self._wanted_at_s >= began_s:
                delay_s = LOOK_AFTER_S
            elif self._names or began_s - self._wanted_at_s > LOOK_FOR_S:
                return
            else:
                delay_s = LOOK_AGAIN_S

    async def _renew(self) -> None:
        self._used.clear()
        names = await self._look(CONNECTED_MOST)
        if names is None:
            return
        first, others = names[:HINTS_MOST], names[HINTS_MOST:]
        answering = await asyncio.gather(*map(self._connect, first))
        self._names.clear()
        self._names.extend(
            name for name, answers in zip(first, answering, strict=True) if answers and name not in self._used
        )
        await asyncio.gather(*map(self._connect, others))
