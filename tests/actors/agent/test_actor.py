"""The agent of a sandbox actor in a real Ray, through RayBackend: endpoints, ends, other nodes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from raybox_actors.agent.values import ProcessEnded, ProcessOutput, ProcessSpec
from raybox_actors.errors import NotFound, SandboxLost
from raybox_actors.values import CreateRequest, SandboxInfo
from raybox_cluster.pool.backend_ray import RayBackend
from tests.actors.test_sandbox_actor import Pool

pytestmark = [
    pytest.mark.pool,
    pytest.mark.anyio,
    # Ray itself: sockets of its driver that are collected rather than closed.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SLEEP = ProcessSpec("/bin/sleep", ("60",))


@pytest.fixture(scope="module")
def pool(ray_cluster: str, run_folder: Path) -> Iterator[Pool]:
    pool = Pool(ray_cluster, run_folder)
    yield pool
    pool.stop()


@pytest.fixture(scope="module")
def actor(pool: Pool) -> Any:
    return pool.slot()


@pytest.fixture
def claimed(actor: Any) -> Iterator[SandboxInfo]:
    info = ray.get(actor.claim.remote(CreateRequest(env_vars={"OF_SANDBOX": "yes"})))
    yield info
    with contextlib.suppress(SandboxLost):
        ray.get(actor.kill.remote(info.sandbox_id))


@pytest.fixture(params=["same node", "another node"])
def backend(request: pytest.FixtureRequest, pool: Pool) -> RayBackend:
    backend = RayBackend(pool.config)
    if request.param == "another node":
        backend._node_id = "f" * 56
    return backend


async def output(backend: RayBackend, sandbox_id: str, script: str) -> str:
    agent, said = await backend.agent(sandbox_id), b""
    async with agent.start_process(ProcessSpec("/bin/bash", ("-c", script))) as events:
        async for event in events:
            said += event.data if isinstance(event, ProcessOutput) else b""
    assert isinstance(event, ProcessEnded)
    assert event.exit_code == 0
    return said.decode().strip()


async def test_files_and_processes(backend: RayBackend, claimed: SandboxInfo) -> None:
    agent = await backend.agent(claimed.sandbox_id)
    data = bytes(range(256)) * 8000
    async with agent.open_write("file", "user") as writer:
        await writer.write(data)
        await writer.commit()
    async with agent.open_read("file", "user") as reader:
        assert b"".join([piece async for piece in reader]) == data
    assert await output(backend, claimed.sandbox_id, "echo $OF_SANDBOX; stat -c %s file") == "yes\n2048000"


async def test_a_killed_sandbox_cuts_its_connections(backend: RayBackend, claimed: SandboxInfo) -> None:
    agent = await backend.agent(claimed.sandbox_id)
    async with agent.start_process(SLEEP) as events:
        await anext(events)
        killing = asyncio.create_task(backend.kill(claimed.sandbox_id))
        with pytest.raises(SandboxLost) as caught:
            await anext(events)
        assert caught.value.cause == "killed"
        await killing
    with pytest.raises(SandboxLost):  # with the endpoint that it has
        await agent.stat("", "user")
    with pytest.raises(SandboxLost):  # without
        await backend.agent(claimed.sandbox_id)


async def test_an_id_that_never_was(backend: RayBackend) -> None:
    with pytest.raises(NotFound):
        await backend.agent("nosuchsandbox")


async def test_a_sandbox_whose_actor_died(backend: RayBackend, pool: Pool) -> None:
    actor = pool.slot()
    info = ray.get(actor.claim.remote(CreateRequest()))
    agent = await backend.agent(info.sandbox_id)
    async with agent.start_process(SLEEP) as events:
        await anext(events)
        ray.kill(actor)
        with pytest.raises(SandboxLost):
            await anext(events)
    with pytest.raises(SandboxLost):
        await agent.stat("", "user")
