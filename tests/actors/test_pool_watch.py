"""When an actor takes its pool for gone."""

from __future__ import annotations

import pytest
import ray

from raybox_actors.config import NAMESPACE, PoolConfig
from raybox_actors.pool_watch import MISSES_MOST, PoolWatch

pytestmark = pytest.mark.anyio


async def test_a_pool_is_gone_when_its_manager_was_missed_often_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[object] = []

    def get_actor(name: str, namespace: str) -> object:
        assert (name, namespace) == ("p-manager", NAMESPACE)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(ray, "get_actor", get_actor)
    watch = PoolWatch(PoolConfig(name="p"))
    missed = [ValueError()] * (MISSES_MOST - 1)
    answers += [*missed, "a handle", *missed, RuntimeError("the cluster does not answer"), ValueError()]
    for _ in range(len(answers) - 1):
        await watch.look()
        assert not watch.is_gone
    await watch.look()
    assert watch.is_gone
    assert watch.manager == "a handle"
    answers.append(ValueError("none of this name"))
    with pytest.raises(ValueError, match="none of this name"):
        await watch.find()
