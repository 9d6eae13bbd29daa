"""Batches on the running pool: many items, faults in their midst, reward code, and nothing left of any of it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter

import httpx
import pytest

import raybox
from raybox import ExecItem, ItemResult, RayboxError, Sandbox
from raybox_cluster.batch.holding import LEASE_S
from tests.integration.conftest import at_rest
from tests.support import components
from tests.support.pool import RunningPool
from tests.support.wait import wait_until

pytestmark = [pytest.mark.pool, pytest.mark.slow]


READ_STDIN = "const fs = require('fs'); console.log(fs.readFileSync(0, 'utf8'))"


def sandboxes() -> list[str]:
    found = raybox.connect().list()
    return [info.sandbox_id for info in found.next_items()]


def test_two_hundred_items_and_a_sandbox_that_is_lost(running_pool: RunningPool) -> None:
    """Every item has one result, and the right one, though the actor of a sandbox dies with an item in its hands."""
    killed = threading.Event()

    def kill_one() -> None:
        found = wait_until(sandboxes, 30)
        components.kill(components.actor_pid(running_pool, found[0]))
        killed.set()

    def items() -> list[ExecItem]:
        slow = "import time; time.sleep(0.05); print(input())"
        return [ExecItem(slow, id=f"case {number}", stdin=str(number)) for number in range(200)]

    results: list[ItemResult] = []
    killer = threading.Thread(target=kill_one)
    for result in raybox.connect().exec_many(items(), kind="program", max_in_flight=3):
        results.append(result)
        if len(results) == 20:
            killer.start()
    killer.join()
    assert killed.is_set()
    assert sorted(result.index for result in results) == list(range(200))
    assert Counter(result.status for result in results) == {"ok": 200}, [one for one in results if not one.ok]
    assert all((result.stdout, result.id) == (f"{result.index}\n", f"case {result.index}") for result in results)
    assert max(result.attempts for result in results) == 2
    wait_until(lambda: sandboxes() == [], 10)
    at_rest(running_pool)


def test_cells_have_results_and_errors_of_their_own() -> None:
    items: list[str | ExecItem] = [
        "x = 6\nx * 7",
        "x",
        ExecItem("import os; os.environ['WHO']", env_vars={"WHO": "me"}),
        ExecItem("echo $((6 * 7))", language="bash", kind="program"),
        ExecItem(READ_STDIN, "js", "javascript", "hi", kind="program"),
        ExecItem("1", language="klingon"),
        ExecItem("while True: pass", timeout_s=0.3),
    ]
    found = {result.index: result for result in raybox.connect().exec_many(items, max_in_flight=2)}
    assert [found[index].status for index in range(7)] == ["ok", "error", "ok", "ok", "ok", "invalid", "timeout"]
    assert found[0].execution.text == "42"
    assert found[1].error is not None
    assert found[1].error.name == "NameError", "nothing of the item before"
    assert found[2].execution.text == "me"
    assert (found[3].stdout, found[3].exit_code) == ("42\n", 0)
    assert found[4].stdout == "hi\n"
    assert not any(result.should_mask_sample for result in found.values())


def test_reward_code_is_answered(running_pool: RunningPool) -> None:
    def post(**fields: object) -> dict[str, object]:
        body = {"compile_timeout": 10, "run_timeout": 10, "stdin": "", "language": "python", "files": {}, **fields}
        headers = {"Authorization": f"Bearer {running_pool.api_key}"}
        answer = httpx.post(f"{running_pool.url}/run_code", json=body, headers=headers, timeout=60)
        answer.raise_for_status()
        found: dict[str, object] = answer.json()
        return found

    good = post(code="a, b = map(int, input().split())\nprint(a * b)", stdin="6 7\n")
    assert good["status"] == "Success"
    ran = good["run_result"]
    assert isinstance(ran, dict)
    assert (ran["status"], ran["return_code"], ran["stdout"], ran["stderr"]) == ("Finished", 0, "42\n", "")
    wrong = post(code="import sys; open('o', 'wb').write(b'\\0'); sys.exit(3)", fetch_files=["o"])
    assert wrong["status"] == "Failed"
    assert wrong["files"] == {"o": base64.b64encode(b"\0").decode()}
    slow = post(code="print('so far', flush=True)\nwhile True: pass", run_timeout=0.3)
    assert isinstance(slow["run_result"], dict)
    assert (slow["run_result"]["status"], slow["run_result"]["stdout"]) == ("TimeLimitExceeded", "so far\n")


def test_a_batch_that_is_left_leaves_nothing(running_pool: RunningPool) -> None:
    results = raybox.connect().exec_many(iter(lambda: "import time; time.sleep(0.02)", None), max_in_flight=2)
    for _ in range(5):
        next(results)
    results.close()  # type: ignore[attr-defined]  # of a generator
    with Sandbox.create():
        wait_until(lambda: len(sandboxes()) == 1, 30)
    at_rest(running_pool)


def test_slots_come_back_soon_after_the_gateway_that_served_a_batch_died(running_pool: RunningPool) -> None:
    """And not before, though its items take longer than its sandboxes would live by themselves."""
    gateway = components.pid_of(running_pool, components.GATEWAY)
    lines = [{"kind": "program", "timeout_s": 600, "max_in_flight": 2}, *[{"code": "import time; time.sleep(600)"}] * 2]
    body = "".join(f"{json.dumps(line)}\n" for line in lines)

    def ends_s() -> dict[str, float]:
        return {info.sandbox_id: info.end_at.timestamp() for info in raybox.connect().list().next_items()}

    def post() -> None:  # and not the SDK's: that would send the items to another gateway
        headers = {"X-API-KEY": running_pool.api_key}
        with contextlib.suppress(httpx.TransportError):
            httpx.post(f"{running_pool.url}/raybox/exec_many", content=body, headers=headers, timeout=120)

    poster = threading.Thread(target=post)
    poster.start()
    wait_until(lambda: len(ends_s()) == 2, 30)
    first_s = ends_s()

    def renewed() -> bool:
        now_s = ends_s()
        return all(now_s[one] > end_s for one, end_s in first_s.items())

    wait_until(renewed, LEASE_S)
    components.kill(gateway)
    poster.join(30)
    assert not poster.is_alive()

    def none_left() -> bool:
        with contextlib.suppress(RayboxError):  # until there is another gateway
            return not ends_s()
        return False

    wait_until(none_left, LEASE_S + 10, "slots are held")
    at_rest(running_pool)


OVER_RAY = """
import sys, ray, raybox
ray.init(logging_level="error")
pool = raybox.connect(transport="ray", pool=sys.argv[1])
items = (f"import time; time.sleep(0.01); print({number})" for number in range(60))
found = {result.index: result.stdout for result in pool.exec_many(items, kind="program", max_in_flight=2)}
assert found == {number: f"{number}\\n" for number in range(60)}, found
results = pool.exec_many(iter(lambda: "1", None))
print(next(results).status)
results.close()
"""


def test_over_ray_it_is_the_same(running_pool: RunningPool) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAYBOX_")}
    environment = {name: value for name, value in running_pool.environment.items() if name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", OVER_RAY, running_pool.name],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=inherited | environment,
    )
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
    wait_until(lambda: sandboxes() == [], 30)
