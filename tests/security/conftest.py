"""Real sandboxes, without Ray for speed: the fixtures of tests/actors, and attackers inside, as `user` and as root."""

from __future__ import annotations

import ast
import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from raybox_actors.isolation.policy import Limits
from raybox_actors.session import SessionOptions
from tests.actors.conftest import (
    anyio_backend,
    base_options,
    no_leaks,
    run_folder,
    session,
    template,
    zygote,
)
from tests.actors.driving import Cell, Driver

__all__ = ["anyio_backend", "base_options", "no_leaks", "run_folder", "session", "template", "zygote"]

OpenSession = Callable[..., Awaitable[Driver]]
#: Small, so that a bomb goes off soon.
TIGHT = Limits(memory_mib=192, disk_mib=64, inodes=2000, shm_mib=16, shm_inodes=500, pids_max=64, open_files=256)


@dataclass
class Attacker:
    """Code in a sandbox."""

    driver: Driver

    async def run(self, code: str, **fields: Any) -> Cell:
        return await self.driver.run(code, **fields)

    async def value(self, code: str) -> Any:
        """Of the last expression."""
        cell = await self.driver.run(code)
        assert cell.result is not None, cell.events
        try:
            return ast.literal_eval(cell.result)
        except (SyntaxError, ValueError):
            return cell.result

    async def error(self, code: str) -> str:
        """Name and text of what it raised."""
        cell = await self.driver.run(code)
        assert cell.error is not None, cell.events
        return ": ".join(cell.error)

    async def as_root(self, code: str) -> tuple[int, str]:
        """Run Python as the sandbox's root: exit status, and what it wrote."""
        place = self.driver.session._place
        read, write = os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        try:
            request = {"op": "exec", "root": True, "argv": [place.python, "-c", code]}
            child = await place.enter(request, "/", [null, write, write])
        finally:
            os.close(write)
            os.close(null)
        try:
            how = await child.wait()
            said = await asyncio.to_thread(_read_all, read)
        finally:
            child.close()
            os.close(read)
        status = int(how.rpartition(" ")[2])
        return (status if how.startswith("exit") else -status), said

    @property
    def first_pid(self) -> int:
        """The host's number of the sandbox's first process."""
        return self.driver.session._walls.first_pid


def _read_all(fd: int) -> str:
    said = b""
    while piece := os.read(fd, 65_536):
        said += piece
    return said.decode(errors="replace")


@pytest.fixture
async def attacker(session: OpenSession) -> Attacker:
    return Attacker(await session())


@pytest.fixture
async def tight(session: OpenSession, base_options: SessionOptions) -> AsyncIterator[Attacker]:
    """With small limits; afterwards the same node still serves another sandbox."""
    yield Attacker(await session(policy=replace(base_options.policy, limits=TIGHT)))
    other = Attacker(await session())
    assert await other.value("sum(range(10))") == 45
