"""What a policy is shown of a turn, and what the trainer is told. The adapters: tests/rl."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import raybox
from raybox import Execution, ExecutionError, Logs, Result
from raybox.integrations._turn import NO_OUTPUT, shorten, turn_of, turn_of_fault


def test_importing_raybox_imports_no_framework() -> None:
    program = (
        "import sys, raybox, raybox.integrations; assert not {'gymnasium', 'verl', 'numpy', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_output_then_the_value_then_the_error() -> None:
    ended_well = Execution([Result(text="4", is_main_result=True)], Logs(["a\n", "b\n"], ["careful\n"]))
    assert turn_of(ended_well).text == "a\nb\ncareful\n4"
    raised = Execution([], Logs(["a\n"]), ExecutionError("ValueError", "no", "Traceback\nValueError: no"))
    assert turn_of(raised).text == "a\nTraceback\nValueError: no"
    assert turn_of(Execution()).text == NO_OUTPUT


@pytest.mark.parametrize("kind", [None, "oom", "timeout", "never heard of"])
def test_a_turn_says_what_ended_the_code_and_is_the_policy_s_own(kind: str | None) -> None:
    turn = turn_of(Execution(error=ExecutionError("E", "v", "t", kind=kind)))
    assert turn.facts == {"kind": kind if kind in ("oom", "timeout") else "user_code", "should_mask_sample": False}
    assert turn_of(Execution()).facts == {"kind": "ok", "should_mask_sample": False}


@pytest.mark.parametrize(
    ("error", "kind", "mask"),
    [
        (raybox.SandboxNotRunningException("gone", cause="node_lost"), "sandbox_lost", True),
        (raybox.SandboxNotRunningException("gone", cause="killed"), "sandbox_lost", False),
        (raybox.ServiceBusyException("full"), "capacity", True),
        (raybox.TimeoutException("too long", should_mask_sample=False), "timeout", False),
        (raybox.InvalidArgumentException("what"), "bad_request", False),
    ],
)
def test_a_fault_is_masked_unless_it_is_the_policy_s(error: raybox.RayboxError, kind: str, mask: bool) -> None:
    turn = turn_of_fault(error)
    assert turn.facts == {"kind": kind, "should_mask_sample": mask}
    assert (turn.text, turn.execution) == (f"[{error}]", None)


@given(st.text(max_size=300), st.integers(1, 200))
def test_a_long_text_keeps_its_ends_and_says_what_is_missing(text: str, limit: int) -> None:
    short = shorten(text, limit)
    if len(text) <= limit:
        assert short == text
        return
    note = f"\n[{len(text) - limit} characters left out]\n"
    head, found, tail = (
        short.partition(note) if note not in text else (short[: limit // 2], note, short[limit // 2 + len(note) :])
    )
    assert found
    assert len(head) + len(tail) == limit
    assert text.startswith(head)
    assert text.endswith(tail)


class FailingPool:
    """And its lease, and the sandbox, in which code has no result."""

    def __init__(self, error: raybox.RayboxError) -> None:
        self.error, self.released, self.sandbox = error, 0, self

    def lease(self, _key: str, **_: object) -> FailingPool:
        return self

    def renew(self) -> None:
        pass

    def run_code(self, _code: str, **_: object) -> Execution:
        raise self.error

    def release(self) -> None:
        self.released += 1


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (raybox.SandboxNotRunningException("gone", cause="node_lost"), raybox.SandboxNotRunningException),
        (raybox.TimeoutException("too long", should_mask_sample=False), ValueError),
    ],
)
def test_a_fault_of_ours_in_the_setup_of_an_episode_is_not_its_author_s(
    error: raybox.RayboxError, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = pytest.importorskip("raybox.integrations.gymnasium")
    pool = FailingPool(error)
    monkeypatch.setattr(adapter, "connect", lambda: pool)
    with pytest.raises(raised):
        adapter.CodeEnv().reset(options={"setup": "x = 1"})
    assert pool.released == 1
