"""The pool, over HTTP as the environment says it; nothing that a test made is left in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import raybox
from tests.integration.conftest import where
from tests.support.pool import RunningPool


def live() -> set[str]:
    """Every sandbox of the pool that lives."""
    return {one.sandbox_id for one in raybox.Sandbox.list().next_items()}


@pytest.fixture(autouse=True)
def _pool(running_pool: RunningPool, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    where(running_pool, monkeypatch)
    before = live()
    yield
    for sandbox_id in live() - before:
        raybox.Sandbox.kill(sandbox_id)
