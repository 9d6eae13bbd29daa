"""The network fields through both clients, on a pool without network; tests/security/test_network.py has the rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import e2b_code_interpreter
import httpx
import pytest

from tests.support.pool import RunningPool

pytestmark = pytest.mark.pool


def test_a_sandbox_says_that_it_has_no_network(sandbox: Any) -> None:
    assert sandbox.get_info().allow_internet_access is False


def test_a_network_that_the_pool_does_not_have_is_refused(create: Callable[..., Any]) -> None:
    with pytest.raises(Exception, match="--network egress"):
        create(network={"allow_out": ["1.1.1.1"]})


def test_rules_that_hold_without_a_network_are_taken_and_shown(create: Callable[..., Any]) -> None:
    sandbox = create(network={"deny_out": ["1.1.1.1"]}, allow_internet_access=False)
    assert sandbox.get_info().network["deny_out"] == ["1.1.1.1"]


def test_rules_are_replaced_with_the_official_client(
    sandbox: Any,
    running_pool: RunningPool,
) -> None:
    official = e2b_code_interpreter.Sandbox.connect(sandbox.sandbox_id)
    official.update_network({"deny_out": lambda context: [context.all_traffic]})
    assert sandbox.get_info().network["deny_out"] == ["0.0.0.0/0"]
    with pytest.raises(Exception, match="--network egress"):
        official.update_network({"allow_out": ["a.example"], "deny_out": ["0.0.0.0/0"]})
    official.update_network({})
    path = f"{running_pool.url}/sandboxes/{sandbox.sandbox_id}"
    info = httpx.get(path, headers={"X-API-KEY": running_pool.api_key}, timeout=30).json()
    assert "network" not in info
    assert info["allowInternetAccess"] is False
