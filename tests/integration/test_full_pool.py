"""As many sandboxes as there are, each with a session of its own at once; with 100 it is in benchmarks/scale.py."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks import scale
from benchmarks.report import Report
from tests.integration.conftest import at_rest
from tests.support.pool import RunningPool

pytestmark = [pytest.mark.pool]


async def everybody(report: Report) -> None:
    sandboxes = await asyncio.gather(*(scale.created() for _ in range(6)))
    try:
        await scale.sessions(sandboxes, report)
    finally:
        await scale.end(sandboxes)


def test_every_sandbox_of_a_full_pool_runs_a_session_of_its_own(running_pool: RunningPool) -> None:
    at_rest(running_pool)
    report = Report("scale")
    asyncio.run(everybody(report))
    assert report.figures["sessions_6"] == 6
