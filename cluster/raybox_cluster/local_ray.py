"""A Ray of one machine that lives and dies with this process, started lean.

`ray.init` in this very process: its GCS and raylet are told by the kernel when we die (parent-death signal), and Ray's
workers die with their raylet. The signal belongs to the thread that started them: `start` must be called from the main
thread. Ray's two agents take a minute to follow a SIGKILL of ours, trying to report it to the GCS that is gone, so
`up` has a guard beside it (cli_processes.py) that ends whatever outlives it.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

#: Logical resources only decide what Ray queues; sandboxes are limited by walls, so they must never be what runs out.
LOGICAL_CPUS = 10_000
#: The same of memory: 64 TiB.
LOGICAL_MEMORY_BYTES = 1 << 46
OBJECT_STORE_BYTES = 80 * 1024 * 1024
#: A socket's path has 107 bytes, of which Ray's own part takes about 65.
LONGEST_BASE = 30

VITAL = ("raylet", "gcs_server")

#: For a small machine; what the user has set in the environment wins, but for what keeps the pool closed.
LEAN = {
    # Prestarting one worker per logical CPU would start thousands, and ray.init would wait for them.
    "RAY_prestart_worker_first_driver": "0",
    # Finished workers of the start are reused for the next actors instead of starting processes anew.
    "RAY_num_workers_soft_limit": "2",
    "RAY_worker_maximum_startup_concurrency": str(max(2, os.cpu_count() or 1)),
    # Kernels are nicer than the actors that hold them (policy.py), so a busy one does not starve the pool's own calls.
    "RAY_worker_niceness": "0",
    "RAY_num_server_call_thread": "1",
    "RAY_worker_num_grpc_internal_threads": "2",
    "RAY_core_worker_num_server_call_thread": "1",
    "RAY_gcs_server_rpc_server_thread_num": "1",
    "RAY_enable_metrics_collection": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_ENABLE_TASK_EVENTS": "0",
    # Not the worker that dies shall tell the terminal of it, but the pool.
    "RAY_LOG_TO_DRIVER": "0",
}
CLOSED = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # on, `uv run raybox up` would give every actor a runtime_env
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
}


@dataclass(frozen=True, slots=True)
class LocalRay:
    """A running local Ray; `folder` is its session folder's parent, private to us."""

    address: str
    folder: Path


def prepare_environment(token_path: Path) -> None:
    """Set what Ray reads from the environment. Must come before the first `import ray`, which keeps some of it."""
    for name, value in LEAN.items():
        os.environ.setdefault(name, value)
    os.environ.update(CLOSED, RAY_AUTH_TOKEN_PATH=str(token_path))
    # These would point the new Ray, or its workers, somewhere else.
    for name in (
        "RAY_ADDRESS",
        "RAY_AUTH_TOKEN",
        "RAY_NAMESPACE",
        "RAY_RUNTIME_ENV_HOOK",
        "RAY_JOB_CONFIG_JSON_ENV_VAR",
    ):
        os.environ.pop(name, None)


def make_folder() -> Path:
    """A new folder for Ray's sockets and logs, mode 0700, with a path short enough for sockets."""
    base = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(base) > LONGEST_BASE or not os.access(base, os.W_OK):
        base = "/tmp"  # noqa: S108  # the folder in it is made by mkdtemp, private
    return Path(tempfile.mkdtemp(prefix="raybox-", dir=base))


def start(folder: Path, cpus: float) -> LocalRay:
    """Start Ray and connect to it. Call from the main thread, after `prepare_environment`. cpus: that are asked for."""
    import ray

    ray.init(
        address="local",
        num_cpus=LOGICAL_CPUS + ceil(cpus),
        _memory=LOGICAL_MEMORY_BYTES,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=str(folder / "r"),  # Ray opens this one to everybody (mode 0777); ours around it stays closed
    )
    return LocalRay(ray.get_runtime_context().gcs_address, folder)


def died() -> str | None:
    """Which process of the running Ray has ended that nothing works without, `raylet` or `gcs_server`; None: none."""
    from ray._private import worker

    node: Any = worker._global_node
    ended = {kind for kind, _ in node.dead_processes()}
    return next((kind for kind in VITAL if kind in ended), None)


def stop(folder: Path) -> None:
    """Stop Ray with all it runs, wait for its processes and remove its folder. Idempotent."""
    import ray

    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
