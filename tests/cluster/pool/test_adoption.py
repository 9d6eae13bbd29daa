"""Which settings of a running pool differ from what is wanted. The adoption itself: tests/cluster/cli."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from raybox_actors.config import PoolConfig
from raybox_cluster.cli_state import UserError
from raybox_cluster.config import UpOptions
from raybox_cluster.deploy import Running, adopted_config
from raybox_cluster.pool.adoption import CHANGEABLE, differences

OPTIONS = UpOptions(name="p")
CONFIG = OPTIONS.pool(b"the pool's own")


def test_the_same_is_adopted_with_the_secret_that_keys_its_ids() -> None:
    assert differences(CONFIG, replace(CONFIG, secret=b"another")) == {}
    assert adopted_config(Running(CONFIG), OPTIONS) == CONFIG


@pytest.mark.parametrize("field", sorted(CHANGEABLE))
def test_what_the_manager_alone_reads_may_change(field: str) -> None:
    has = getattr(OPTIONS, field)
    other: Any = {"min_sandboxes": 1, "node_labels": (("pool", "sandbox"),), "placement": "pack"}.get(field) or has + 1
    assert adopted_config(Running(CONFIG), replace(OPTIONS, **{field: other})) == replace(CONFIG, **{field: other})


def test_everything_else_is_refused_by_its_option_name() -> None:
    options = replace(
        OPTIONS, cpu=2, memory_mib=512, network="egress", network_denied_cidrs=("10.0.0.0/8",), max_timeout_s=600.0
    )
    with pytest.raises(UserError) as raised:
        adopted_config(Running(CONFIG), options)
    denied = ",".join(CONFIG.network_denied_cidrs)
    assert str(raised.value) == (
        "the pool p runs with other settings: max-timeout-s is 86400, not 600; memory-mib is 1024, not 512; cpu is 1,"
        f" not 2; network is none, not egress; network-denied-cidrs is {denied}, not 10.0.0.0/8; give the same, or end"
        " it first with `raybox down --name p`"
    )


def test_changeable_are_fields() -> None:
    assert {one.name for one in fields(PoolConfig)} >= CHANGEABLE
