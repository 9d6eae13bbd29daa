"""The peers: stock ipykernel of the same template, started and driven by jupyter_client as a notebook server would."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from raybox_template.build import ensure


@contextlib.contextmanager
def stock_kernel() -> Iterator[Any]:
    """A started, answering stock kernel's blocking client."""
    python = str(ensure("default").python)
    manager = KernelManager()
    argv = [python, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager._kernel_spec = KernelSpec(argv=argv, display_name="python", language="python")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def run(client: Any, code: str) -> None:
    """One cell: until its reply and the kernel's idle state are there."""
    message_id = client.execute(code)
    while True:
        message = client.get_iopub_msg(timeout=60)
        ours = message["parent_header"].get("msg_id") == message_id
        if ours and message["content"].get("execution_state") == "idle":
            break
    client.get_shell_msg(timeout=60)


def cold_start_s(code: str) -> float:
    """From nothing to the result of a first cell."""
    began = time.perf_counter()
    with stock_kernel() as client:
        run(client, code)
        return time.perf_counter() - began
