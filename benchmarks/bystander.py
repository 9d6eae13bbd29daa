"""How fast a sandbox answers while, and after, one beside it on the same node is attacked from inside: `1+1` against
itself before."""

from __future__ import annotations

import contextlib
import threading
import time

from benchmarks.pool import pool
from benchmarks.report import Report, main, median_ms, progress
from raybox import RayboxError, Sandbox
from tests.support.attacks import ATTACKS

SANDBOXES, WARM = 4, 2
ROUND_TRIPS = 60
#: The attack is left to its sandbox's end after this.
ATTACK_LIMIT_S = 3


def measure(report: Report) -> None:
    with pool(SANDBOXES, WARM) as running, Sandbox.create(timeout=600) as bystander:
        round_trip_ms(bystander)  # the first ones open connections
        ratios: dict[str, list[float]] = {"during": [], "after": []}
        for name, code in ATTACKS.items():
            progress(name)
            before = round_trip_ms(bystander)
            with Sandbox.create(timeout=60) as attacked:
                attack = threading.Thread(target=run, args=(attacked, code))
                attack.start()
                ratios["during"].append(round_trip_ms(bystander) / before)
                attack.join()
            running.wait_for_warm(WARM)
            ratios["after"].append(round_trip_ms(bystander) / before)
            label = name.replace(" ", "_")
            report.add(f"during_{label}", ratios["during"][-1], f"round trip during: {name}", "x")
            report.add(f"after_{label}", ratios["after"][-1], f"round trip after: {name}", "x")
        for when, found in ratios.items():
            report.add(f"bystander_ratio_{when}", max(found), f"the worst {when} an attack, against before", "x")


def run(attacked: Sandbox, code: str) -> None:
    with contextlib.suppress(RayboxError):  # the cell may outlive the call, and the sandbox ends it
        attacked.run_code(code, timeout=ATTACK_LIMIT_S)


def round_trip_ms(sandbox: Sandbox) -> float:
    times = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        assert sandbox.run_code("1+1").text == "2"
        times.append(time.perf_counter() - began)
    return median_ms(times)


if __name__ == "__main__":
    main("bystander", measure, "a sandbox beside one that is attacked")
