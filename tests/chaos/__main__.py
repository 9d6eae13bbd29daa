"""`python -m tests.chaos --seed N --duration-s 600`: by hand, for as long as one likes. Exit code 1 on a violation."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.chaos import plan
from tests.chaos.journal import Journal
from tests.chaos.run import KINDS, LANES, WAYS, Chosen, replayed, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--duration-s", type=float, default=600.0)
    parser.add_argument("--lanes", type=int, default=LANES)
    parser.add_argument("--log", type=Path, help="a file for every decision, outcome and violation")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--components", nargs="+", choices=list(plan.WEIGHTS), default=list(plan.WEIGHTS))
    given = parser.parse_args()
    if given.log is not None:
        given.log.unlink(missing_ok=True)
    journal = Journal(given.log)
    chosen = Chosen(given.seed, given.duration_s, given.lanes, given.ways, given.kinds, given.components)
    run(chosen, journal)
    print(journal.summary())
    for violation in journal.violations:
        print(f"VIOLATION {violation}")
    print(f"seed {chosen.seed}: {len(journal.violations)} violations; replays: {replayed(chosen, journal)}")
    return 1 if journal.violations else 0


if __name__ == "__main__":
    sys.exit(main())
