"""Two kernels of the same template, ours and stock ipykernel, each behind walls of its own, fed the same cells."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from raybox_actors.isolation.policy import HOME, WallsPolicy, base_environment
from raybox_actors.isolation.walls import Walls, build_walls, bwrap_arguments
from raybox_actors.kernels.base import Finished, Kernel, KernelEvent
from raybox_actors.kernels.forked import ForkedKernel
from raybox_actors.kernels.identity import Identity
from raybox_actors.kernels.place import Place
from raybox_actors.kernels.stock import StockKernel
from raybox_actors.kernels.zygote_client import ZygoteClient, wait_readable

#: A cell that takes longer than this hangs.
CELL_LIMIT_S = 30.0

T = TypeVar("T")
Told = tuple[list[KernelEvent], Finished]


class LoopThread:
    """An event loop in a thread that lives as long as the walls that it builds."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="kernels")
        self._thread.start()

    def run(self, work: Coroutine[object, object, T], limit_s: float = 60.0) -> T:
        """Run it there, wait here."""

        async def limited() -> T:
            async with asyncio.timeout(limit_s):
                return await work

        return asyncio.run_coroutine_threadsafe(limited(), self.loop).result()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@dataclass(frozen=True, slots=True)
class Site:
    """What the walls and kernels of a test run are made from."""

    python: str
    zygote_address: str
    skeleton: Path
    policy: WallsPolicy


@dataclass
class Resident:
    """One kernel in walls of its own; a new kernel in the same walls, then new walls, whenever it is asked for."""

    site: Site
    slot: int
    kind: type[ForkedKernel] | type[StockKernel]
    walls: Walls | None = None
    kernel: Kernel | None = None
    identity: Identity = field(init=False)
    seen: list[KernelEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.identity = Identity(self.slot)

    async def start(self) -> None:
        """Fresh walls and a fresh kernel."""
        await self.stop()
        self.walls = build_walls(bwrap_arguments(self.site.policy, self.site.skeleton))
        prefix = str(Path(self.site.python).parent.parent)
        env = base_environment(prefix)
        zygote = ZygoteClient(self.site.zygote_address)
        place = Place(self.walls, zygote, self.site.policy, self.identity, self.site.python, env)
        self.kernel = self.kind(place, HOME)
        await self.kernel.start()
        await self.kernel.exercise()  # as before a claim: it must leave no trace

    async def stop(self) -> None:
        if self.kernel is not None:
            await self.kernel.stop()
            self.kernel = None
        if self.walls is not None:
            self.walls.kill()
            await wait_readable(self.walls.pidfd)
            self.walls.close()
            self.walls = None
        self.identity.close()

    async def run(self, code: str, env: dict[str, str] | None = None) -> Told:
        """Run a cell; afterwards there is a live kernel again, whatever the cell did."""
        assert self.kernel is not None
        events: list[KernelEvent] = []
        self.seen = events
        async with asyncio.timeout(CELL_LIMIT_S):
            finished = await self.kernel.execute(code, env or {}, events.append)
        if finished.lost:
            await self.start()
        return events, finished


@dataclass
class Pair:
    """Ours and stock's, in step."""

    ours: Resident
    stock: Resident

    async def start(self) -> None:
        await asyncio.gather(self.ours.start(), self.stock.start())

    async def stop(self) -> None:
        await asyncio.gather(self.ours.stop(), self.stock.stop())

    async def run(self, code: str) -> tuple[Told, Told]:
        """The same cell in both. If it ended only one kernel, both are replaced: their states must stay the same."""
        try:
            ours, stock = await asyncio.gather(self.ours.run(code), self.stock.run(code))
        except TimeoutError as error:
            told = {"ours": self.ours.seen, "stock": self.stock.seen}
            await self.start()
            raise AssertionError(f"the cell hangs:\n{code}\n{told}") from error
        if ours[1].lost != stock[1].lost:
            await self.start()
        return ours, stock
