"""Leases on the real pool: shared by processes, and freed when their owners die, over HTTP and Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

import raybox
from raybox import Pool
from tests.integration import lease_program
from tests.support import components
from tests.support.pool import RunningPool
from tests.support.wait import wait_until

pytestmark = pytest.mark.pool

#: Death is noticed within ten seconds; this is only for a failing test.
NOTICED_S = 40.0


class Owner:
    """A process that runs lease_program.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def says(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "it has died"
        said: dict[str, Any] = json.loads(line)
        return said

    def goes_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@contextmanager
def owner(how: str, running_pool: RunningPool) -> Iterator[Owner]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "E2B"))}
    given = dict(running_pool.environment)
    if how == "ray":
        del given["RAYBOX_URL"], given["RAYBOX_API_KEY"]
    with subprocess.Popen(
        [sys.executable, "-m", lease_program.__name__, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment | given,
    ) as process:
        try:
            yield Owner(process)
        finally:
            process.kill()


@pytest.fixture
def pool(running_pool: RunningPool) -> Iterator[Pool]:
    pool = raybox.connect(running_pool.url, api_key=running_pool.api_key)
    yield pool
    for sandbox_id in leased(running_pool):
        pool.kill(sandbox_id)
    nothing_is_left(running_pool)


def ask(running_pool: RunningPool, path: str) -> Any:
    return httpx.get(f"{running_pool.url}{path}", headers={"X-API-KEY": running_pool.api_key}, timeout=30).json()


def leases(running_pool: RunningPool) -> dict[str, str]:
    return {lease["key"]: lease["sandboxID"] for lease in ask(running_pool, "/raybox/leases")}


def leased(running_pool: RunningPool) -> set[str]:
    return set(leases(running_pool).values())


def nothing_is_left(running_pool: RunningPool) -> None:
    def counts() -> tuple[int, int]:
        status = ask(running_pool, "/raybox/status")
        return status["leases"], status["orphaned_leases"]

    wait_until(lambda: counts() == (0, 0), NOTICED_S, counts)


def ended_with_its_owner(pool: Pool, sandbox_id: str) -> None:
    with pytest.raises(raybox.SandboxNotFoundException) as gone:
        pool.connect(sandbox_id)
    assert (gone.value.kind, gone.value.cause, gone.value.should_mask_sample) == ("sandbox_lost", "owner_died", True)


def test_a_lease_over_http_is_shared_and_ends_with_the_last_process_that_has_it(
    pool: Pool, running_pool: RunningPool
) -> None:
    with owner("http", running_pool) as first:
        said = first.says()
        assert said["created"]
        with owner("http", running_pool) as second:
            again = second.says()
            assert (again["sandbox_id"], again["created"]) == (said["sandbox_id"], False)
            first.process.kill()
            components.kill(components.pid_of(running_pool, components.MANAGER))
        # Both are dead now. Whoever came in time would have the state.
        wait_until(lambda: "trajectory" not in leases(running_pool), NOTICED_S)
    nothing_is_left(running_pool)
    ended_with_its_owner(pool, said["sandbox_id"])


def test_a_lease_over_ray_is_its_jobs_or_its_actors(pool: Pool, running_pool: RunningPool) -> None:
    with owner("ray", running_pool) as job:
        said = job.says()
        turns = said["turns"]
        assert len({sandbox_id for sandbox_id, _ in turns}) == 1
        assert [text for _, text in turns] == ["1", "2", "3"]
        of_job, of_actor = turns[0][0], said["of_actor"]
        assert leased(running_pool) == {of_job, of_actor}
        job.goes_on()
        job.says()
        wait_until(lambda: of_actor not in leased(running_pool), NOTICED_S)
        assert of_job in leased(running_pool)
        ended_with_its_owner(pool, of_actor)
    wait_until(lambda: of_job not in leased(running_pool), NOTICED_S)
    nothing_is_left(running_pool)
    ended_with_its_owner(pool, of_job)


def test_the_same_key_survives_a_manager_and_a_lost_sandbox_is_told_once(pool: Pool, running_pool: RunningPool) -> None:
    lease = pool.lease("k", owner="none", ttl_s=120, metadata={"a": "b"})
    lease.sandbox.run_code("x = 1")
    components.kill(components.pid_of(running_pool, components.MANAGER))
    again = pool.lease("k", owner="none")
    assert (again.sandbox.sandbox_id, again.created) == (lease.sandbox.sandbox_id, False)
    assert again.sandbox.run_code("x").text == "1"
    assert again.sandbox.get_info().metadata == {"a": "b"}
    components.kill(components.actor_pid(running_pool, lease.sandbox.sandbox_id))
    with pytest.raises(raybox.SandboxNotRunningException) as lost:
        pool.lease("k", owner="none")
    assert (lost.value.cause, lost.value.should_mask_sample) == ("internal", True)
    with pool.lease("k", owner="none") as fresh:
        assert fresh.created
        assert fresh.sandbox.run_code("globals().get('x')").text is None
        assert not lease.release(), "the key has another sandbox by now"
        assert fresh.sandbox.is_running()
    wait_until(lambda: not leases(running_pool), 10)


def test_an_expired_lease_is_begun_anew(pool: Pool) -> None:
    lease = pool.lease("k", owner="none")
    lease.renew(1)
    wait_until(lambda: not lease.sandbox.is_running(), 20)
    with pytest.raises(raybox.SandboxNotFoundException):
        lease.renew()
    with pool.lease("k", owner="none") as fresh:
        assert fresh.created
        assert fresh.sandbox.sandbox_id != lease.sandbox.sandbox_id
