"""One zygote, one pair of kernels and one loop for the whole folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybox_actors.isolation.policy import WallsPolicy
from raybox_actors.isolation.walls import write_skeleton
from raybox_actors.kernels.forked import ForkedKernel
from raybox_actors.kernels.stock import StockKernel
from raybox_actors.zygote_process import spawn_zygote
from raybox_template.build import ensure
from tests.actors.differential.pair import LoopThread, Pair, Resident, Site


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """The default template with a zygote."""
    template = ensure("default")
    policy = WallsPolicy(read_only=tuple(map(str, template.prefixes)))
    with tempfile.TemporaryDirectory(prefix="raybox-differential-") as folder:
        write_skeleton(Path(folder) / "etc", policy)
        zygote = spawn_zygote(str(template.python), f"{folder}/zygote.sock", Path(folder) / "zygote.log")
        try:
            zygote.wait_until_ready()
            yield Site(str(template.python), zygote.address, Path(folder) / "etc", policy)
        finally:
            zygote.stop()


@pytest.fixture(scope="session")
def on_loop(site: Site) -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture(scope="session")
def pair(site: Site, on_loop: LoopThread) -> Iterator[Pair]:
    """Both kernels, alive. Cells of every test go through them; whoever needs them fresh calls `start`."""
    both = Pair(Resident(site, 50_001, ForkedKernel), Resident(site, 50_002, StockKernel))
    on_loop.run(both.start())
    yield both
    on_loop.run(both.stop())


@pytest.fixture
def ours(site: Site, on_loop: LoopThread) -> Iterator[Resident]:
    """A kernel of ours that a test may ruin."""
    resident = Resident(site, 50_003, ForkedKernel)
    on_loop.run(resident.start())
    yield resident
    on_loop.run(resident.stop())
