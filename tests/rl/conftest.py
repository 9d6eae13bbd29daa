"""The pool, over HTTP as the environment says it."""

from __future__ import annotations

import pytest

from tests.integration.conftest import where
from tests.support.pool import RunningPool


@pytest.fixture(autouse=True)
def _where(running_pool: RunningPool, monkeypatch: pytest.MonkeyPatch) -> None:
    where(running_pool, monkeypatch)
