"""A Ray cluster whose autoscaler starts and ends nodes on this machine: Ray's own autoscaler, its fake node provider.

Ray's helper for this, AutoscalingCluster, ends every Ray on the machine by name; here only what was started is ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

from raybox_cluster import cli_processes
from tests.support.multi_node import NOTICE_SOON, OBJECT_STORE_BYTES
from tests.support.ray_cluster import LEAN
from tests.support.wait import wait_until

WORKER = "sandbox-node"


class Provider(FakeMultiNodeProvider):
    """Gives ids that differ in their first digits, as Ray's real ones do."""

    def _next_hex_node_id(self) -> str:
        self._next_node_id += 1
        return f"{self._next_node_id:012x}" + "f" * 44


def _configuration(address: str, max_workers: int, idle_s: float) -> dict[str, object]:
    worker = {
        "resources": {"CPU": 1, "object_store_memory": OBJECT_STORE_BYTES},
        "labels": {"pool": "sandbox"},
        "node_config": {},
        "min_workers": 0,
        "max_workers": max_workers,
    }
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "fake_multinode",
        "max_workers": max_workers,
        "provider": {
            "type": "external",
            "module": f"{__name__}.Provider",
            "gcs_address": address,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            WORKER: worker,
        },
        "head_node_type": "ray.head.default",
        "idle_timeout_minutes": idle_s / 60,
        "upscaling_speed": 1.0,
        "auth": {},
        "docker": {},
        **{f"{name}_commands": [] for name in commands},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }


@contextlib.contextmanager
def autoscaling_cluster(folder: Path, max_workers: int = 2, idle_s: float = 5.0) -> Iterator[str]:
    """The address of its GCS. A head without CPUs; workers of one CPU, labelled pool=sandbox, on demand."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    file = folder / "autoscaling.json"
    file.write_text(json.dumps(_configuration(address, max_workers, idle_s)))
    environment = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    log = folder / "head.log"
    with log.open("wb") as said:
        head = subprocess.Popen(
            [
                *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=0"),
                *("--node-ip-address=127.0.0.1", f"--port={port}", f"--autoscaling-config={file}"),
                *("--include-dashboard=false", f"--object-store-memory={OBJECT_STORE_BYTES}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=os.environ | LEAN | NOTICE_SOON | environment,
            start_new_session=True,
        )
    try:
        wait_until(lambda: re.search("Ray runtime started", log.read_text()), 60, log.read_text)
        yield address
    finally:
        tree = cli_processes.descendants(head.pid)
        head.send_signal(signal.SIGTERM)
        head.wait(30)
        for left in cli_processes.alive(tree):
            with contextlib.suppress(ProcessLookupError):
                os.kill(left.pid, signal.SIGKILL)
        wait_until(lambda: not cli_processes.alive(tree), 30, lambda: cli_processes.alive(tree))
