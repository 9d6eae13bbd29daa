"""The same tests through both clients: ours and the official one, on one real pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import e2b_code_interpreter
import httpx
import pytest

import raybox
from tests.support.pool import RunningPool
from tests.support.wait import wait_until

CLIENTS = {"raybox": raybox.Sandbox, "e2b": e2b_code_interpreter.Sandbox}
ASYNC_CLIENTS = {"raybox": raybox.AsyncSandbox, "e2b": e2b_code_interpreter.AsyncSandbox}


@pytest.fixture(autouse=True)
def _where(running_pool: RunningPool, monkeypatch: pytest.MonkeyPatch) -> None:
    where(running_pool, monkeypatch)


def where(running_pool: RunningPool, monkeypatch: pytest.MonkeyPatch) -> None:
    for prefix in ("RAYBOX_URL", "E2B_API_URL", "E2B_SANDBOX_URL"):
        monkeypatch.setenv(prefix, running_pool.url)
    for name in ("RAYBOX_API_KEY", "E2B_API_KEY"):
        monkeypatch.setenv(name, running_pool.api_key)


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Any:
    """The class `Sandbox` of either package."""
    return CLIENTS[request.param]


@pytest.fixture(params=ASYNC_CLIENTS)
def async_client(request: pytest.FixtureRequest) -> Any:
    return ASYNC_CLIENTS[request.param]


@pytest.fixture
def create(client: Any) -> Iterator[Callable[..., Any]]:
    """Makes sandboxes that are killed at the end of the test."""
    made: list[Any] = []

    def make(**options: Any) -> Any:
        made.append(client.create(**{"timeout": 120, **options}))
        return made[-1]

    yield make
    for sandbox in made:
        sandbox.kill()


@pytest.fixture
def sandbox(create: Callable[..., Any]) -> Any:
    return create()


def slots_by_state(pool: RunningPool) -> dict[str, int]:
    answer = httpx.get(f"{pool.url}/raybox/status", headers={"X-API-KEY": pool.api_key}, timeout=30)
    states: dict[str, int] = answer.json()["slots_by_state"]
    return states


def at_rest(pool: RunningPool, warm: int = 2, slots: int = 6) -> None:
    """Wait until no sandbox is claimed and the warm ones stand ready."""

    def resting() -> bool:
        states = slots_by_state(pool)
        return states.get("warm", 0) == warm and states.get("idle", 0) == slots - warm

    wait_until(resting, 60, lambda: slots_by_state(pool))
