"""Metrics and logs of sandboxes over HTTP, and the idempotency key that every client can send."""

from __future__ import annotations

import json

import pytest
from e2b_code_interpreter import AsyncSandbox

from raybox_actors.values import LogEntry, ResourceUsage
from raybox_cluster.gateway.auth import ApiKey, hash_key, new_key
from tests.cluster.gateway.conftest import Gateway

pytestmark = pytest.mark.anyio

CREATE = {"templateID": "code-interpreter-v1"}


def usage(at_s: float) -> ResourceUsage:
    return ResourceUsage(at_s, 2, 12.5, 1_048_576, 2_097_152, 4096, 100, 1000)


async def test_metrics_have_all_nine_fields(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    gateway.backend.samples = [usage(1000.25), usage(1005.0), usage(1010.5)]
    path = f"/sandboxes/{info.sandbox_id}/metrics"
    answer = await gateway.client.get(path)
    assert answer.status_code == 200
    assert answer.json()[0] == {
        "timestamp": "1970-01-01T00:16:40.250000Z",
        "timestampUnix": 1000,
        "cpuCount": 2,
        "cpuUsedPct": 12.5,
        "memUsed": 1_048_576,
        "memTotal": 2_097_152,
        "memCache": 4096,
        "diskUsed": 100,
        "diskTotal": 1000,
    }

    async def seconds(query: str) -> list[int]:
        return [sample["timestampUnix"] for sample in (await gateway.client.get(f"{path}?{query}")).json()]

    assert await seconds("start=1001") == [1005, 1010]
    assert await seconds("end=1010") == [1000, 1005, 1010]
    assert await seconds("start=1&end=999") == []
    for bad in ("start=x", "start=-1", "end=1.5", "start=2&end=1", "start=" + "9" * 30):
        assert (await gateway.client.get(f"{path}?{bad}")).status_code == 400
    sandbox = await AsyncSandbox.connect(info.sandbox_id, **gateway.sdk())
    (first, *_) = await sandbox.get_metrics()
    assert (first.cpu_count, first.mem_used, first.disk_total) == (2, 1_048_576, 1000)
    assert (await gateway.client.get("/sandboxes/nobody/metrics")).status_code == 404


async def test_metrics_of_many_leave_out_what_is_not_there(gateway: Gateway) -> None:
    alice = new_key()
    gateway.with_keys(ApiKey("alice", hash_key(alice)))
    mine, other, gone = [await gateway.sandbox(owner=owner) for owner in ("alice", "bob", "alice")]
    gateway.backend.end(gone.sandbox_id, "killed")
    gateway.backend.samples = [usage(4e9)]
    ids = ",".join((mine.sandbox_id, other.sandbox_id, gone.sandbox_id, "nobody", "NO ID"))
    answer = await gateway.client.get("/sandboxes/metrics", params={"sandbox_ids": ids}, headers={"X-API-KEY": alice})
    assert answer.status_code == 200
    assert list(answer.json()["sandboxes"]) == [mine.sandbox_id]
    everything = await gateway.client.get("/sandboxes/metrics", params={"sandbox_ids": ids})
    assert list(everything.json()["sandboxes"]) == [mine.sandbox_id, other.sandbox_id]
    for bad in ("", ",".join(["x"] * 101)):
        assert (await gateway.client.get("/sandboxes/metrics", params={"sandbox_ids": bad})).status_code == 400


async def test_the_agents_own_metrics(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    gateway.backend.samples = [usage(4e9)]
    token = {"X-Access-Token": info.envd_access_token or ""}
    answer = await gateway.on_port(49983, info.sandbox_id, "GET", "/metrics", headers=token)
    assert answer.json() == {
        "ts": 4_000_000_000,
        "cpu_count": 2,
        "cpu_used_pct": 12.5,
        "mem_total": 2_097_152,
        "mem_used": 1_048_576,
        "mem_cache": 4096,
        "mem_total_mib": 2,
        "mem_used_mib": 1,
        "disk_used": 100,
        "disk_total": 1000,
    }


async def test_logs_in_both_shapes(gateway: Gateway) -> None:
    info = await gateway.sandbox()
    gateway.backend.entries = [
        LogEntry(1.0, "info", "sandbox created", {"template": "base"}),
        LogEntry(2.0, "error", "sandbox ended", {"cause": "oom"}),
    ]
    first = {
        "timestamp": "1970-01-01T00:00:01.000000Z",
        "message": "sandbox created",
        "level": "info",
        "fields": {"template": "base"},
    }
    new = (await gateway.client.get(f"/v2/sandboxes/{info.sandbox_id}/logs")).json()
    assert new["logs"][0] == first
    old = (await gateway.client.get(f"/sandboxes/{info.sandbox_id}/logs?start=1500")).json()
    (line,) = old["logs"]
    assert line["timestamp"] == "1970-01-01T00:00:02.000000Z"
    assert json.loads(line["line"]) == old["logEntries"][0] == new["logs"][1]
    assert len((await gateway.client.get(f"/sandboxes/{info.sandbox_id}/logs?limit=1")).json()["logs"]) == 1
    for bad in ("limit=-1", "limit=1001", "start=x"):
        assert (await gateway.client.get(f"/sandboxes/{info.sandbox_id}/logs?{bad}")).status_code == 400
    assert (await gateway.client.get("/sandboxes/nobody/logs")).status_code == 404
    gateway.backend.end(info.sandbox_id, "oom")  # and why it ended can still be read
    assert (await gateway.client.get(f"/sandboxes/{info.sandbox_id}/logs")).status_code == 200


async def test_a_create_can_be_repeated_by_its_metadata(gateway: Gateway) -> None:
    metadata = {"raybox.idempotency_key": "job-7"}
    answer = await gateway.client.post("/v2/sandboxes", json=CREATE | {"metadata": metadata})
    assert answer.status_code == 201
    assert gateway.backend.created[-1].idempotency_key == "job-7"
    assert gateway.backend.created[-1].metadata == metadata
    both = {"Idempotency-Key": "of-the-header"}
    await gateway.client.post("/v2/sandboxes", json=CREATE | {"metadata": metadata}, headers=both)
    assert gateway.backend.created[-1].idempotency_key == "of-the-header"
    for bad in ("", "UPPER", "x" * 256, "é"):
        refused = {"metadata": {"raybox.idempotency_key": bad}}
        answer = await gateway.client.post("/v2/sandboxes", json=CREATE | refused)
        assert (answer.status_code, "raybox.idempotency_key" in answer.json()["message"]) == (400, True)


@pytest.mark.parametrize(
    "field",
    [
        {"autoPause": True},
        {"autoPauseMemory": False},
        {"autoResume": {"enabled": True}},
        {"mcp": {"server": {}}},
        {"volumeMounts": [{"name": "x", "path": "/x"}]},
        {"iam": {"tokens": {"x": {"audience": "y"}}}},
    ],
)
async def test_what_cannot_be_honoured_is_refused(gateway: Gateway, field: dict[str, object]) -> None:
    answer = await gateway.client.post("/v2/sandboxes", json=CREATE | field)
    assert (answer.status_code, answer.json()["kind"]) == (400, "bad_request")
    assert "not supported yet" in answer.json()["message"]
