"""A cluster of three nodes and a head that hosts nothing, for all tests here; this process is its driver."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest

from tests.support.multi_node import MultiNode, connected, multi_node


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[MultiNode]:
    """Each has one CPU and 1 GiB, and labels pool=sandbox and zone=a, b or c."""
    with multi_node() as cluster:
        for zone in "abc":
            cluster.add(labels={"pool": "sandbox", "zone": zone})
        with connected(cluster):
            yield cluster


@pytest.fixture(scope="module")
def run_folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="rbn-") as folder:  # short, for socket paths
        yield folder
