"""One real Ray of one node for all tests that need no running pool, lean enough for two cores."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

LEAN = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_num_server_call_thread": "1",
    "RAY_worker_num_grpc_internal_threads": "2",
    "RAY_core_worker_num_server_call_thread": "1",
    "RAY_gcs_server_rpc_server_thread_num": "1",
    "RAY_enable_metrics_collection": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Actor classes of the tests are found from here; a detached actor outlives the driver's own path.
    "PYTHONPATH": str(Path(__file__).parents[2]),
}


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """The id of its node."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        for name, value in LEAN.items():
            patch.setenv(name, value)
        ray.init(
            address="local",
            num_cpus=8,
            include_dashboard=False,
            object_store_memory=80_000_000,
            log_to_driver=False,
            logging_level=logging.ERROR,
            namespace="raybox",
        )
        yield ray.get_runtime_context().get_node_id()
        ray.shutdown()
