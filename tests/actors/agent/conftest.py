"""Sessions as the rest of the actors' tests have them, and the agent of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.actors.agent.driving import Sandbox
from tests.actors.driving import Driver

OpenSession = Callable[..., Awaitable[Driver]]


@pytest.fixture
async def sandbox(session: OpenSession) -> Sandbox:
    return Sandbox(await session())
