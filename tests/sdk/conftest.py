from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from raybox import AsyncSandbox, Sandbox
from tests.sdk.player import Player, playing


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("RAYBOX_", "E2B_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def _player() -> Iterator[Player]:
    with playing() as player:
        yield player


@pytest.fixture
def player(_player: Player) -> Player:
    _player.reset()
    return _player


@pytest.fixture(params=[Sandbox, AsyncSandbox], ids=["sync", "async"])
def colour(request: pytest.FixtureRequest) -> Any:
    """Either class of sandbox; `done` makes a test read the same for both."""
    return request.param


@pytest.fixture(params=[False, True], ids=["direct", "proxy"])
def options(request: pytest.FixtureRequest, player: Player) -> dict[str, Any]:
    """Connection options for the player, directly or through a proxy: that is the player too."""
    return player.options | ({"proxy": player.url} if request.param else {})


@pytest.fixture
def done() -> Callable[[Any], Awaitable[Any]]:
    async def wait(value: Any) -> Any:
        return await value if inspect.isawaitable(value) else value

    return wait
