"""A pool by deploy/serve.yaml, applied as KubeRay does it, in a cluster of one node; and examples/job beside it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from raybox import Sandbox
from raybox_cluster.gateway.auth import hash_key
from tests.support.listeners import free_port
from tests.support.pool import raybox
from tests.support.token_cluster import TokenCluster, token_cluster
from tests.support.wait import wait_until

pytestmark = [pytest.mark.pool, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
KEY = "e2b_" + "7" * 40
NAME = f"configured-{os.getpid()}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[TokenCluster]:
    with token_cluster("--labels=raybox=gateway") as running:
        yield running


def config(port: int, **args: object) -> dict[str, Any]:
    """deploy/serve.yaml for a small machine."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "deploy/serve.yaml").read_text())
    loaded["http_options"] |= {"host": "127.0.0.1", "port": port}
    application = loaded["applications"][0]
    application["name"] = f"{NAME}-gateway"
    application["args"] |= {
        "name": NAME,
        "require": "standard",
        "node_labels": {},
        "min_sandboxes": None,
        "sandboxes": 2,
        "warm": 1,
        "api_keys": [{"name": "admin", "admin": True, "sha256": hash_key(KEY)}],
        **args,
    }
    return loaded


def gateway(cluster: TokenCluster) -> dict[str, Any]:
    answered = cluster.api("GET", "/api/serve/applications/").json()
    return dict(answered["applications"].get(f"{NAME}-gateway", {}))


def apply(cluster: TokenCluster, wanted: dict[str, Any]) -> str:
    """Hand the configuration to Serve; how its deployment ended."""
    answered = cluster.api("PUT", "/api/serve/applications/", wanted)
    assert answered.is_success, answered.text

    def ended() -> str:
        status = str(gateway(cluster).get("status"))
        return status if status in ("RUNNING", "DEPLOY_FAILED") else ""

    return wait_until(ended, 90, lambda: gateway(cluster))


def submit(cluster: TokenCluster) -> subprocess.CompletedProcess[str]:
    """The job, by the command of its page."""
    (command,) = re.findall(r"^ray job submit .*$", (ROOT / "examples/job/README.md").read_text(), re.MULTILINE)
    return subprocess.run(
        shlex.split(command),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=cluster.environment | {"RAY_API_SERVER_ADDRESS": cluster.dashboard, "HOME": os.environ["HOME"]},
    )


def test_a_pool_by_a_serve_configuration_and_a_job_beside_it(cluster: TokenCluster) -> None:
    port = free_port()
    assert apply(cluster, config(port)) == "RUNNING", gateway(cluster)["message"]
    sandbox = Sandbox.create(timeout=300, request_timeout=60, api_url=f"http://127.0.0.1:{port}", api_key=KEY)
    sandbox.run_code("state = 'kept'")

    first, _ = gateway(cluster)["deployments"]["Gateway"]["replicas"]
    os.kill(first["pid"], signal.SIGKILL)
    assert [sandbox.run_code("state").text for _ in range(5)] == ["kept"] * 5  # by the other one

    assert apply(cluster, config(port, sandboxes=3)) == "RUNNING", gateway(cluster)["message"]
    headers = {"X-API-KEY": KEY}
    status = httpx.get(f"http://127.0.0.1:{port}/raybox/status", headers=headers, timeout=30, trust_env=False).json()
    assert status["capacity"] == 3
    assert apply(cluster, config(port, memory_mib=512)) == "DEPLOY_FAILED"
    assert "memory-mib is 1024, not 512" in gateway(cluster)["message"]
    assert sandbox.run_code("state").text == "kept"

    submitted = submit(cluster)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "the sandbox says: Python 3." in submitted.stdout
    assert "squares: ['0', '1', '4', '9']" in submitted.stdout

    down = raybox("down", "--name", NAME, "--address", cluster.address, timeout_s=60, **cluster.environment)
    assert down.returncode == 0, down.stderr
    assert down.stderr.splitlines()[-1] == f"{NAME} is down; its Ray cluster goes on"
    assert not gateway(cluster)
    assert not Path(f"/run/raybox/{NAME}").exists()
