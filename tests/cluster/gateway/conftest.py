"""The gateway over an in-memory backend, served by a real uvicorn in the tests' own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from raybox_actors.values import CreateRequest, SandboxInfo
from raybox_cluster.gateway.app import create_app
from raybox_cluster.gateway.auth import ApiKey, ApiKeys, hash_key, new_key
from tests.cluster.gateway.memory import MemoryBackend

#: Between keepalive events; short, so that no test waits for one.
KEEPALIVE_S = 0.05


class Switch:
    """One server for all tests, another application for each."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class QuietServer(uvicorn.Server):
    """Leaves the signal handlers to pytest."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class Gateway:
    url: str
    key: str  #: an admin's
    backend: MemoryBackend
    client: httpx.AsyncClient  #: sends the API key with every request
    switch: Switch

    def with_keys(self, *keys: ApiKey) -> None:
        """Accept these, too."""
        self.switch.app = create_app(
            self.backend, ApiKeys([ApiKey("tester", hash_key(self.key), admin=True), *keys]), keepalive_s=KEEPALIVE_S
        )

    def sdk(self) -> dict[str, str]:
        """Options for every call of the official SDK."""
        return {"api_key": self.key, "api_url": self.url, "sandbox_url": self.url}

    async def sandbox(self, **wanted: object) -> SandboxInfo:
        return await self.backend.create(CreateRequest(**wanted))  # type: ignore[arg-type]  # any of its fields

    async def on_port(
        self,
        port: int,
        sandbox_id: str,
        method: str,
        path: str,
        *,
        json: object = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """A data plane request, without any API key."""
        routing = {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": str(port)}
        async with httpx.AsyncClient(base_url=self.url, verify=False) as client:
            return await client.request(method, path, json=json, headers=routing | (headers or {}))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
async def switch(anyio_backend: str) -> AsyncIterator[tuple[Switch, str]]:
    switch = Switch()
    # With the protocol named: asyncio turns Nagle's algorithm off only for sockets that say TCP themselves, and with it
    # on, every response waits 40 ms for an acknowledgement between its headers and its body.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(switch, lifespan="off", log_config=None, access_log=False, timeout_keep_alive=60)
    server = QuietServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    yield switch, f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = server.force_exit = True
    await task


@pytest.fixture
async def gateway(switch: tuple[Switch, str]) -> AsyncIterator[Gateway]:
    server, url = switch
    backend, key = MemoryBackend(), new_key()
    server.app = create_app(backend, ApiKeys.of(tester=key, other=new_key()), keepalive_s=KEEPALIVE_S)
    async with httpx.AsyncClient(base_url=url, headers={"X-API-KEY": key}, verify=False) as client:
        yield Gateway(url, key, backend, client, server)
    await backend.close()
