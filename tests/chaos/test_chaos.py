"""A minute of seeded chaos on a real cluster of three nodes, and that the same seed decides the same."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos import plan
from tests.chaos.run import COMPONENTS, KINDS, WAYS

SEED, DURATION_S = 20, 60.0


def test_the_same_seed_decides_the_same_and_another_does_not() -> None:
    def decisions(seed: int) -> list[str]:
        lines = [plan.line(None, one) for one in itertools.islice(plan.faults(seed, COMPONENTS), 100)]
        for lane in range(3):
            lines += [plan.line(lane, one) for one in itertools.islice(plan.operations(seed, lane, WAYS, KINDS), 50)]
        return lines

    assert decisions(1) == decisions(1)
    assert not set(decisions(1)) & set(decisions(2))


def test_all_there_is_gets_its_turn() -> None:
    faults = list(itertools.islice(plan.faults(1, COMPONENTS), 200))
    assert {one.component for one in faults} == set(COMPONENTS)
    assert all(a.at_s < b.at_s for a, b in itertools.pairwise(faults))
    operations = list(itertools.islice(plan.operations(1, 0, WAYS, KINDS), 200))
    kinds = Counter(one.hold if isinstance(one, plan.Trajectory) else one.kind for one in operations)
    assert set(kinds) == {"handle", "lease", "batch", "gang"}
    assert {one.way for one in operations} == {"http", "ray"}
    ids = [turn.execution_id for one in operations if isinstance(one, plan.Trajectory) for turn in one.turns]
    assert len(set(ids)) == len(ids)


@pytest.mark.pool
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_minute_of_chaos(tmp_path: Path) -> None:
    """In a process of its own, as Ray allows one cluster in each."""
    log = tmp_path / "log"
    arguments = ["--seed", str(SEED), "--duration-s", str(DURATION_S), "--log", str(log)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *arguments], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}\n{log.read_text()[-6000:]}"
    *_, summary, verdict = done.stdout.splitlines()
    assert verdict == f"seed {SEED}: 0 violations; replays: True"
    outcomes = json.loads(summary)["outcomes"]
    assert outcomes["trajectory: whole"] >= 10, summary
    assert sum(count for what, count in outcomes.items() if what.startswith("fault: ")) >= 5, summary
