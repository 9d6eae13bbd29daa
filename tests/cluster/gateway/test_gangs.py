"""Several sandboxes at once over HTTP: all or none, with a report."""

from __future__ import annotations

import asyncio
import pickle

import pytest

from raybox_actors.errors import GangFailed, LimitReached, NoCapacity, RayboxError
from raybox_actors.values import MemberReport
from raybox_cluster.gateway.errors import status_of
from tests.cluster.gateway.conftest import Gateway

pytestmark = pytest.mark.anyio

PATH = "/raybox/sandboxes"


async def test_a_gang_is_created_with_what_a_create_says(gateway: Gateway) -> None:
    create = {"timeout": 60, "metadata": {"task": "7"}, "envVars": {"A": "b"}}
    answer = await gateway.client.post(
        PATH, json={"count": 3, "deadline_s": 2.5, "create": create}, headers={"Idempotency-Key": "g-1"}
    )
    assert answer.status_code == 201
    assert [one["sandboxID"] for one in answer.json()["sandboxes"]] == list(gateway.backend.live)
    ((request, count, deadline_s),) = gateway.backend.gangs
    assert (count, deadline_s, request.owner) == (3, 2.5, "tester")
    assert (request.timeout_s, request.metadata, request.env_vars) == (60.0, {"task": "7"}, {"A": "b"})
    assert request.idempotency_key == "g-1"


async def test_what_is_not_said_has_defaults(gateway: Gateway) -> None:
    assert (await gateway.client.post(PATH, json={"count": 1})).status_code == 201
    assert gateway.backend.gangs[0][1:] == (1, 60.0)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "count is required"),
        ({"count": 0}, "count must be between 1 and 1000"),
        ({"count": 1001}, "count must be between 1 and 1000"),
        ({"count": 1.5}, "count must be a whole number"),
        ({"count": 1, "deadline_s": -1}, "deadline_s must be between 0 and 600"),
        ({"count": 1, "deadline_s": 601}, "deadline_s must be between 0 and 600"),
        ({"count": 1, "deadline_s": "soon"}, "deadline_s must be a number"),
        ({"count": 1, "create": []}, "create must be an object"),
        ({"count": 1, "create": {"timeout": 0}}, "timeout must be between 1 and"),
    ],
)
async def test_what_cannot_be_meant_is_refused(gateway: Gateway, body: dict[str, object], says: str) -> None:
    answer = await gateway.client.post(PATH, json=body)
    assert (answer.status_code, answer.json()["kind"]) == (400, "bad_request")
    assert says in answer.json()["message"]
    assert not gateway.backend.gangs


@pytest.mark.parametrize(
    ("cause", "status", "kind", "retryable"),
    [(NoCapacity("too late", 3.5), 503, "capacity", True), (LimitReached("the quota"), 429, "limit", False)],
)
async def test_a_failure_says_what_had_become_of_each(
    gateway: Gateway, cause: RayboxError, status: int, kind: str, retryable: bool
) -> None:
    report = (MemberReport(0, "ready"), MemberReport(1, "failed", "its walls"), MemberReport(2, "not_started", "late"))
    error = GangFailed(cause, report)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.report, str(copy), copy.kind, status_of(copy)) == (report, str(error), kind, status)
    gateway.backend.fail_with = error
    answer = await gateway.client.post(PATH, json={"count": 3})
    said = answer.json()
    assert (answer.status_code, said["kind"], said["retryable"]) == (status, kind, retryable)
    assert said["message"] == f"{cause} (1 of 3 sandboxes were ready, and were given back)"
    assert said["report"] == [
        {"index": 0, "state": "ready", "reason": ""},
        {"index": 1, "state": "failed", "reason": "its walls"},
        {"index": 2, "state": "not_started", "reason": "late"},
    ]
    assert said.get("retry_after_s") == (3.5 if kind == "capacity" else None)
    assert answer.headers["should-retry"] == "false"


async def test_a_caller_who_goes_gives_the_gang_up(gateway: Gateway) -> None:
    gateway.backend.hold_create = asyncio.Event()
    request = asyncio.create_task(gateway.client.post(PATH, json={"count": 2}))
    await asyncio.wait_for(gateway.backend.creating.wait(), 5)
    request.cancel()  # closes the connection
    assert await asyncio.wait_for(gateway.backend.gangs_given_up.get(), 5) == 2
    assert not gateway.backend.live
