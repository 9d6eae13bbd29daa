"""A pool by deploy/serve.yaml, as KubeRay applies it; and a job in its cluster, submitted as examples/job says."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from raybox import Sandbox
from raybox_cluster.gateway.auth import hash_key
from tests.support.listeners import free_port
from tests.support.token_cluster import TokenCluster, token_cluster
from tests.support.wait import wait_until

pytestmark = [pytest.mark.pool, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
KEY = "e2b_" + "7" * 40


@pytest.fixture(scope="module")
def cluster() -> Iterator[TokenCluster]:
    with token_cluster("--labels=raybox=gateway") as running:
        yield running


def config(port: int, **args: object) -> dict[str, Any]:
    """deploy/serve.yaml for a small machine."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "deploy/serve.yaml").read_text())
    loaded["http_options"] |= {"host": "127.0.0.1", "port": port}
    application = loaded["applications"][0]
    application["args"] |= {
        "require": "standard",
        "sandboxes": 2,
        "warm": 1,
        "api_keys": [{"name": "admin", "admin": True, "sha256": hash_key(KEY)}],
        **args,
    }
    return loaded


def gateway(cluster: TokenCluster) -> dict[str, Any]:
    answered = cluster.api("GET", "/api/serve/applications/").json()
    return dict(answered["applications"].get("raybox-gateway", {}))


def replicas(cluster: TokenCluster) -> list[dict[str, Any]]:
    deployment = gateway(cluster).get("deployments", {}).get("Gateway", {})
    return [one for one in deployment.get("replicas", []) if one["state"] == "RUNNING"]


def apply(cluster: TokenCluster, wanted: dict[str, Any]) -> None:
    answered = cluster.api("PUT", "/api/serve/applications/", wanted)
    assert answered.is_success, answered.text
    wait_until(lambda: gateway(cluster).get("status") in ("RUNNING", "DEPLOY_FAILED"), 90, lambda: gateway(cluster))
    assert gateway(cluster)["status"] == "RUNNING", gateway(cluster)["message"]


def test_a_pool_by_a_serve_configuration_and_a_job_beside_it(cluster: TokenCluster) -> None:
    port = free_port()
    apply(cluster, config(port))
    where: dict[str, Any] = {"api_url": f"http://127.0.0.1:{port}", "api_key": KEY}
    sandbox = Sandbox.create(timeout=300, request_timeout=60, **where)
    sandbox.run_code("state = 'kept'")

    first, second = replicas(cluster)
    os.kill(first["pid"], signal.SIGKILL)
    for _ in range(5):
        assert sandbox.run_code("state").text == "kept"
    import time,httpx
    t=time.time(); [sandbox.run_code("state") for _ in range(50)]; print("MS", 1000*(time.time()-t)/50)
    print(gateway(cluster)); print(cluster.api("GET", "/api/serve/applications/").json().get("target_groups"))
    t=time.time()
    apply(cluster, config(port, sandboxes=3))
    print("APPLY", time.time()-t)
    r=httpx.get(where["api_url"]+"/raybox/status", headers={"X-API-KEY": KEY}, trust_env=False); print(r.text)
    assert sandbox.run_code("state").text == "kept"
    print(sandbox.run_code("import time\nfor i in range(3): print(i, flush=True); time.sleep(0.2)"))
    apply(cluster, config(port, sandboxes=3, memory_mib=512))
