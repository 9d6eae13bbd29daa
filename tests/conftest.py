"""What every test may use. The pool is one for the whole session, started by the first test that asks for it."""

from __future__ import annotations

import signal

import hypothesis
import pytest

from tests.support.pool import running_pool
from tests.support.ray_cluster import ray_cluster

__all__ = ["ray_cluster", "running_pool"]

# The same examples in every run: what is red once is red again, and what is green stays so.
hypothesis.settings.register_profile("raybox", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("raybox")

# A shell that runs us in the background leaves SIGINT ignored, and what the tests start, and interrupt, inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The pool's Ray comes before the others: the first on a machine gets the ports that all would have. And this
    process has joined `ray_cluster` from its first test to the end."""
    items.sort(key=lambda item: "ray_cluster" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
