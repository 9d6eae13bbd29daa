"""Carrying out decided operations with the SDK, and judging what came of them.

Whatever is killed, a call ends in time with a result or one of raybox's own errors; a cell whose result was given ran
once; and a sandbox shows nobody's traces but its owner's. What is otherwise is a violation.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from raybox import Execution, RayboxError, Sandbox
from tests.chaos.journal import Journal
from tests.chaos.plan import Batch, Gang, Operation, Trajectory, Turn, Way

Answer = TypeVar("Answer")

REQUEST_S = 40.0
#: A call may take so long, with all that the SDK itself repeats.
CALL_LIMIT_S = 60.0
#: A call that failed, but may succeed, is repeated for so long; how long it pauses between.
PERSIST_S, PAUSE_S = 30.0, 0.2
#: What nobody has any more ends by itself after this; what a batch had whose gateway or front died, sooner.
SANDBOX_S = 60
ITEM_S = 10.0
OF_A_BATCH = {"of": "batch"}

CELL = """
import pathlib, time
ledger = pathlib.Path('/home/user/ledger')
if {first}:
    assert 'owner' not in globals() and not ledger.exists(), 'somebody was here before'
    owner = {nonce!r}
with ledger.open('a') as file:
    print({execution_id!r}, file=file)
time.sleep({nap_s})
print(owner, {execution_id!r})
"""
ITEM = """
assert 'was' not in globals(), 'state of another item'
was = 1
import time; time.sleep({nap_s})
print({word!r})
"""


class Untyped(Exception):
    """Something else than an error of raybox's was raised; it has been noted as a violation."""


class Lane(threading.Thread):
    """One client: one operation after the other, until `stopping` is set."""

    def __init__(
        self,
        number: int,
        operations: Iterable[Operation],
        pools: Mapping[Way, Any],
        journal: Journal,
        stopping: threading.Event,
    ) -> None:
        super().__init__(name=f"lane-{number}", daemon=True)
        self.number, self._operations, self._pools = number, operations, pools
        self._journal, self._stopping = journal, stopping
        self.doing = ""

    def run(self) -> None:
        for operation in self._operations:
            if self._stopping.is_set():
                return
            self._journal.decided(self.number, operation)
            try:
                match operation:
                    case Trajectory():
                        self._trajectory(operation)
                    case Batch():
                        self._batch(operation)
                    case Gang():
                        self._gang(operation)
            except (RayboxError, Untyped) as error:
                self._journal.outcome(f"{operation.kind}: given up", f"{error}"[:300])
            except Exception as error:
                self._journal.violation(f"{operation.kind} {operation.nonce}: {error!r}"[:1000])
            else:
                self._journal.outcome(f"{operation.kind}: whole")

    # ---- operations ----

    def _trajectory(self, plan: Trajectory) -> None:
        pool, acknowledged = self._pools[plan.way], set[str]()
        sandbox, lease = self._hold(pool, plan)
        try:
            for number, turn in enumerate(plan.turns):
                if plan.hold == "lease":
                    before, (sandbox, lease) = sandbox.sandbox_id, self._hold(pool, plan)
                    if sandbox.sandbox_id != before:  # the one that was leased is lost, and its turns with it
                        self._journal.outcome("lease: began anew")
                        return
                cell = self._turn(sandbox, plan, number, turn)
                acknowledged.add(turn.execution_id)
                if cell.error is None:
                    self._expect(plan.nonce, "".join(cell.logs.stdout), f"{plan.nonce} {turn.execution_id}\n")
                elif cell.error.name not in ("KeyboardInterrupt", "NameError"):  # cut off, as when its client has gone
                    self._journal.violation(f"{turn.execution_id}: {cell.error.name}: {cell.error.value}")
            self._settle(sandbox, plan, acknowledged)
        finally:
            end: Callable[[], object] = lease.release if lease is not None else sandbox.kill
            with contextlib.suppress(RayboxError):
                self._persist("end", end)

    def _hold(self, pool: Any, plan: Trajectory) -> tuple[Sandbox, Any]:
        if plan.hold == "lease":
            lease = self._persist("lease", lambda: pool.lease(plan.nonce, ttl_s=SANDBOX_S, owner="none"))
            return lease.sandbox, lease
        return self._persist("create", lambda: pool.create(timeout=SANDBOX_S, idempotency_key=plan.nonce)), None

    def _turn(self, sandbox: Sandbox, plan: Trajectory, number: int, turn: Turn) -> Execution:
        code = CELL.format(first=number == 0, nonce=plan.nonce, execution_id=turn.execution_id, nap_s=turn.nap_s)
        return self._persist("cell", lambda: sandbox.run_code(code, execution_id=turn.execution_id))

    def _settle(self, sandbox: Sandbox, plan: Trajectory, acknowledged: set[str]) -> None:
        """What ran, as the sandbox itself has it on file."""
        cell = self._persist("ledger", lambda: sandbox.run_code("print(open('/home/user/ledger').read(), end='')"))
        ran = "".join(cell.logs.stdout).split()
        if len(ran) != len(set(ran)):
            self._journal.violation(f"{plan.nonce}: ran twice: {ran}")
        if not acknowledged <= set(ran) <= {turn.execution_id for turn in plan.turns}:
            self._journal.violation(f"{plan.nonce}: ran {ran}, acknowledged {sorted(acknowledged)}")

    def _batch(self, plan: Batch) -> None:
        items = [ITEM.format(nap_s=nap_s, word=f"{plan.nonce}-{n}") for n, nap_s in enumerate(plan.naps_s)]

        def all_results() -> None:
            seen: list[int] = []
            for result in self._pools[plan.way].exec_many(
                items, max_in_flight=2, deadline_s=REQUEST_S, timeout_s=ITEM_S, metadata=OF_A_BATCH
            ):
                seen.append(result.index)
                self._journal.outcome(f"item: {result.status}")
                if result.status == "ok":
                    self._expect(plan.nonce, "".join(result.execution.logs.stdout), f"{plan.nonce}-{result.index}\n")
                elif result.status == "error":
                    self._journal.violation(f"{plan.nonce}-{result.index}: {result.error}")
            if sorted(seen) != list(range(len(items))):
                self._journal.violation(f"{plan.nonce}: results {sorted(seen)} of {len(items)} items")

        self._in_time("batch", all_results)

    def _gang(self, plan: Gang) -> None:
        pool = self._pools[plan.way]
        sandboxes = self._in_time("gang", lambda: pool.create_many(plan.count, deadline_s=20.0, timeout=SANDBOX_S))
        try:
            if len({one.sandbox_id for one in sandboxes}) != plan.count:
                self._journal.violation(f"{plan.nonce}: a gang of {len(sandboxes)}, not {plan.count}")
            for number, sandbox in enumerate(sandboxes):
                turn = Turn(f"{plan.nonce}-{number}", 0)
                one = Trajectory(plan.nonce, plan.way, "handle", (turn,))
                self._turn(sandbox, one, 0, turn)
                self._settle(sandbox, one, {turn.execution_id})
        finally:
            for sandbox in sandboxes:
                with contextlib.suppress(RayboxError):
                    self._persist("end", sandbox.kill)

    # ---- calls ----

    def _persist(self, what: str, call: Callable[[], Answer]) -> Answer:
        """Repeat what may succeed later, or whose outcome is not known and which can be repeated."""
        until_s = time.monotonic() + PERSIST_S
        while True:
            try:
                return self._in_time(what, call)
            except RayboxError as error:
                if not (error.retryable or error.kind in ("internal", "timeout")) or time.monotonic() > until_s:
                    raise
            time.sleep(PAUSE_S)

    def _in_time(self, what: str, call: Callable[[], Answer]) -> Answer:
        self.doing, began_s, said = what, time.monotonic(), "ok"
        detail = ""
        try:
            return call()
        except RayboxError as error:
            said, detail = error.kind, f"{error}"[:300]
            raise
        except Exception as error:
            self._journal.violation(f"{what}: untyped: {error!r}"[:1000])
            raise Untyped(repr(error)) from error
        finally:
            took_s = time.monotonic() - began_s
            self._journal.outcome(f"{what}: {said}", detail, took_s)
            if took_s > CALL_LIMIT_S:
                self._journal.violation(f"{what}: {said} after {took_s:.1f} s")

    def _expect(self, nonce: str, seen: str, expected: str) -> None:
        if seen != expected:
            self._journal.violation(f"{nonce}: {seen[:300]!r}, not {expected!r}")
