"""A gymnasium environment: actions are code, observations are what the code printed and returned.

An episode has a sandbox of its own, in which variables and files stay from step to step.
"""

from __future__ import annotations

import contextlib
import string
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import gymnasium

from .. import Sandbox, connect
from .._errors import RayboxError
from .._models import Execution
from ._turn import MAX_CHARS, Turn, turn_of, turn_of_fault

#: The reward of a step, and whether the episode has reached its end. Called with the sandbox as the code left it.
Score = Callable[[Sandbox, Execution], tuple[float, bool]]


def no_score(_sandbox: Sandbox, _execution: Execution) -> tuple[float, bool]:
    """Nothing for any step, and no end."""
    return 0.0, False


class AnyText(gymnasium.Space[str]):
    """Texts of at most so many characters; gymnasium's own wants every character listed. Samples are short ASCII."""

    def __init__(self, max_chars: int, seed: int | None = None) -> None:
        self.max_chars = max_chars
        super().__init__(shape=(), dtype=str, seed=seed)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_chars

    def sample(self, mask: Any = None, probability: Any = None) -> str:  # noqa: ARG002  # gymnasium's signature
        return "".join(self.np_random.choice(list(string.ascii_lowercase), size=min(8, self.max_chars)))

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnyText) and other.max_chars == self.max_chars

    __hash__ = None  # type: ignore[assignment]  # as gymnasium's own spaces


class CodeEnv(gymnasium.Env[str, str]):
    """One policy's code, step by step. Not safe to be used by two threads at once, as no environment is.

    prompt: the first observation, unless `reset(options={"prompt": ...})` gives one; its `setup` is code that is run in
    the new sandbox first. score: see Score. max_steps: after so many the episode is truncated. timeout_s: of one step.
    ttl_s: how long the sandbox lives without a step. connect: arguments of `raybox.connect`; create: of the sandbox.

    `info` has `kind` and `should_mask_sample`. A step whose fault was not the policy's truncates the episode with
    reward 0 and `should_mask_sample` true: leave the episode out. `reset` raises what a create and a run raise, such as
    ServiceBusyException (retryable), and ValueError when the setup itself fails; `close` gives the sandbox up and may
    be called again.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # gymnasium's

    def __init__(
        self,
        *,
        prompt: str = "",
        score: Score = no_score,
        language: str = "python",
        max_steps: int = 16,
        timeout_s: float = 30.0,
        ttl_s: float = 600.0,
        max_chars: int = MAX_CHARS,
        connect: dict[str, Any] | None = None,
        create: dict[str, Any] | None = None,
    ) -> None:
        self.action_space = AnyText(1 << 20)
        self.observation_space = AnyText(max(max_chars, len(prompt)) + 64)  # the note on what is left out comes on top
        self._prompt, self._score, self._language = prompt, score, language
        self._max_steps, self._timeout_s, self._ttl_s, self._max_chars = max_steps, timeout_s, ttl_s, max_chars
        self._connect, self._create = dict(connect or {}), dict(create or {})
        self._lease: Any = None
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        options = options or {}
        self.close()
        self._steps = 0
        pool: Any = connect(**self._connect)
        self._lease = pool.lease(f"gymnasium-{uuid4().hex}", ttl_s=self._ttl_s, **self._create)
        if setup := options.get("setup"):
            try:
                turn = turn_of(self._run(setup), self._max_chars)
            except RayboxError as error:
                if error.should_mask_sample:
                    self.close()
                    raise
                turn = turn_of_fault(error, self._max_chars)
            if turn.kind != "ok":
                self.close()
                raise ValueError(f"the setup failed: {turn.text}")
        return str(options.get("prompt", self._prompt)), {"kind": "ok", "should_mask_sample": False}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self._lease is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        self._steps += 1
        turn = self._turn(action)
        reward, terminated = 0.0, False
        if turn.execution is not None:
            try:
                reward, terminated = self._score(self._lease.sandbox, turn.execution)
            except RayboxError as error:
                turn = turn_of_fault(error, self._max_chars)
        truncated = turn.should_mask_sample or (not terminated and self._steps >= self._max_steps)
        return turn.text, float(reward), terminated, truncated, dict(turn.facts)

    def close(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            with contextlib.suppress(RayboxError):  # its time runs out
                lease.release()

    def _run(self, code: str) -> Execution:
        self._lease.renew()
        execution: Execution = self._lease.sandbox.run_code(code, language=self._language, timeout=self._timeout_s)
        return execution

    def _turn(self, code: str) -> Turn:
        try:
            return turn_of(self._run(code), self._max_chars)
        except RayboxError as error:
            return turn_of_fault(error, self._max_chars)
