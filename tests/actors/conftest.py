"""A zygote for the whole run, sessions in real walls, and a guard that nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raybox_actors.agent.helpers import write_helpers
from raybox_actors.isolation.cgroup import remove_pool, this_machine
from raybox_actors.isolation.policy import WallsPolicy, layers_of
from raybox_actors.isolation.walls import write_skeleton
from raybox_actors.session import SessionOptions, open_session
from raybox_actors.zygote_process import ZygoteProcess, spawn_zygote
from raybox_template.build import ensure
from raybox_template.store import BuiltTemplate
from tests.actors.driving import Driver, children_of, eventually, open_descriptors

OpenSession = Callable[..., Awaitable[Driver]]
_slots = itertools.count(1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def template() -> BuiltTemplate:
    return ensure("default")


@pytest.fixture(scope="session")
def run_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rbt-") as folder:  # short, for socket paths
        yield Path(folder)


@pytest.fixture(scope="session")
def zygote(template: BuiltTemplate, run_folder: Path) -> Iterator[ZygoteProcess]:
    """Shared: whoever wants to kill one starts one."""
    zygote = spawn_zygote(str(template.python), str(run_folder / "z.sock"), run_folder / "zygote.log")
    try:
        zygote.wait_until_ready()
        yield zygote
    finally:
        zygote.stop()


@pytest.fixture(scope="session")
def base_options(template: BuiltTemplate, run_folder: Path, zygote: ZygoteProcess) -> Iterator[SessionOptions]:
    skeleton, read_only = run_folder / "etc", tuple(str(prefix) for prefix in template.prefixes)
    policy = WallsPolicy(read_only=read_only, layers=layers_of(str(skeleton), read_only), mark=f"test{os.getpid()}:0:0")
    write_skeleton(skeleton, policy)
    write_helpers(skeleton, str(template.python))
    cgroups = this_machine()
    yield SessionOptions(0, zygote.address, str(template.python), skeleton, policy, cgroups=cgroups)
    assert cgroups is None or remove_pool(cgroups, f"test{os.getpid()}"), "a sandbox's cgroup is left"


@pytest.fixture
async def no_leaks(zygote: ZygoteProcess, anyio_backend: str) -> AsyncIterator[None]:
    """Descriptors, tasks, processes and mounts after the test are those before it."""

    def look() -> dict[str, set[Any]]:
        return {
            "descriptors": open_descriptors(),
            "tasks": {task for task in asyncio.all_tasks() if "TestRunner" not in repr(task.get_coro())},
            "processes": children_of(os.getpid()) | (children_of(zygote.pid) if zygote.alive else set()),
            "mounts": set(Path("/proc/self/mountinfo").read_text().splitlines()),
        }

    def left() -> dict[str, set[Any]]:
        return {kind: now - before[kind] for kind, now in look().items() if now - before[kind]}

    before = look()
    yield
    await eventually(lambda: not left(), 3.0, lambda: f"left over: {left()}")


@pytest.fixture
async def session(base_options: SessionOptions, no_leaks: None) -> AsyncIterator[OpenSession]:
    """Opens sessions, each in a slot of its own; they are closed at the end."""
    opened = []

    async def make(on_death: Callable[[], None] = lambda: None, **changes: Any) -> Driver:
        options = dataclasses.replace(base_options, slot=next(_slots), **changes)
        driver = Driver(await open_session(options, on_death))
        opened.append(driver)
        return driver

    async with contextlib.AsyncExitStack() as stack:
        yield make
        for driver in opened:
            stack.push_async_callback(driver.session.close)
