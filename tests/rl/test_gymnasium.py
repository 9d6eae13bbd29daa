"""The environment for gymnasium, by gymnasium's own checker and on a real pool."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from raybox import Execution, Sandbox
from raybox.integrations.gymnasium import CodeEnv
from tests.rl.conftest import live
from tests.support import components
from tests.support.pool import RunningPool

pytestmark = pytest.mark.pool


def reached(sandbox: Sandbox, execution: Execution) -> tuple[float, bool]:
    """Whether the file that the task asks for is there. Looks into the sandbox itself."""
    done = sandbox.files.exists("answer.txt")
    return (1.0 if done else 0.0) - (0.1 if execution.error else 0.0), done


@pytest.fixture
def env() -> Iterator[CodeEnv]:
    made = CodeEnv(prompt="Write 42 into answer.txt.", score=reached, max_steps=4, timeout_s=20)
    yield made
    made.close()


def test_gymnasium_s_own_checks(env: CodeEnv) -> None:
    check_env(env, skip_render_check=True)


def test_an_episode(env: CodeEnv) -> None:
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("1")
    observation, info = env.reset(seed=1, options={"setup": "given = 41"})
    assert (observation, info) == ("Write 42 into answer.txt.", {"kind": "ok", "should_mask_sample": False})
    assert env.step("answer = given + 1; answer")[:4] == ("42", 0.0, False, False)
    observation, reward, terminated, truncated, info = env.step("1 / 0")
    assert "ZeroDivisionError" in observation
    assert (reward, terminated, truncated, info["kind"]) == (-0.1, False, False, "user_code")
    assert env.step("open('answer.txt', 'w').write(str(answer))") == (
        "2", 1.0, True, False, {"kind": "ok", "should_mask_sample": False},
    )  # fmt: skip
    observation, _ = env.reset(options={"prompt": "Another."})
    assert observation == "Another."
    assert "NameError" in env.step("given")[0]  # a new episode is a new sandbox


def test_an_episode_without_an_end_is_truncated(env: CodeEnv) -> None:
    env.reset()
    assert [env.step("1")[2:4] for _ in range(4)] == [(False, False)] * 3 + [(False, True)]


def test_a_setup_that_fails_is_an_error_of_its_author(env: CodeEnv) -> None:
    with pytest.raises(ValueError, match=r"the setup failed: (?s:.*)ZeroDivisionError"):
        env.reset(options={"setup": "1 / 0"})


def test_a_fault_of_ours_ends_the_episode_and_masks_it(env: CodeEnv, running_pool: RunningPool) -> None:
    before = live()
    env.reset()
    (sandbox_id,) = live() - before
    components.kill(components.actor_pid(running_pool, sandbox_id))
    _, reward, terminated, truncated, info = env.step("1")
    assert (reward, terminated, truncated, info["should_mask_sample"]) == (0.0, False, True, True)
