"""The tool for verl: against verl's own base class and schemas, driven as its agent loop does, on a real pool."""

from __future__ import annotations

import asyncio
import copy
import gc
import importlib
from typing import Any

import pytest

import raybox
from raybox import InvalidArgumentException
from tests.rl import real_verl
from tests.rl.conftest import live
from tests.rl.real_verl import AgentData, call_tool
from tests.support import components
from tests.support.pool import RunningPool
from tests.support.wait import async_wait_until

pytestmark = [
    pytest.mark.pool,
    pytest.mark.anyio,
    pytest.mark.skipif(not real_verl.INSTALLED.exists(), reason="make .tools/verl/.installed fetches verl's wheel"),
]


@pytest.fixture(scope="module")
def tool() -> Any:
    real_verl.load()
    return importlib.import_module("raybox.integrations.verl").CodeInterpreterTool({"type": "native", "timeout_s": 20})


async def test_it_is_verl_s_tool(tool: Any) -> None:
    from verl.tools.base_tool import BaseTool

    assert isinstance(tool, BaseTool)
    schema = tool.get_openai_tool_schema().model_dump(exclude_unset=True, exclude_none=True)
    assert tool.name == schema["function"]["name"] == "code_interpreter"
    assert schema["function"]["parameters"]["required"] == ["code"]
    with pytest.raises(InvalidArgumentException, match="unknown in the tool's config: ttl"):
        type(tool)({"type": "native", "ttl": 5}, None)


async def test_a_trajectory_keeps_its_sandbox_and_sees_no_other_s(tool: Any) -> None:
    first, second = AgentData("first"), AgentData("second")
    response, reward, metrics = await call_tool(tool, first, {"code": "state = 'mine'; print('set')"})
    assert (response.text, reward, metrics) == ("set", 0.0, {"kind": "ok", "should_mask_sample": False})
    other_process = copy.deepcopy(tool)  # as verl hands its tools out
    response, _, _ = await call_tool(other_process, first, {"code": "state"})
    assert response.text == "mine"
    response, _, metrics = await call_tool(tool, second, {"code": "state"})
    assert "NameError" in response.text
    assert metrics == {"kind": "user_code", "should_mask_sample": False}
    # Two calls of one turn share the sandbox, too.
    both = await asyncio.gather(*(call_tool(tool, second, {"code": f"x{n} = {n}; x{n}"}) for n in range(2)))
    assert [response.text for response, _, _ in both] == ["0", "1"]
    assert not first.extra_fields["should_mask_sample"]
    assert not second.extra_fields["should_mask_sample"]


async def test_the_sandbox_is_given_up_with_the_trajectory(tool: Any) -> None:
    before = live()
    trajectory: AgentData | None = AgentData("brief")
    await call_tool(tool, trajectory, {"code": "1"}, metadata={"sample": "7"})
    (made,) = live() - before
    assert raybox.Sandbox.get_info(made).metadata["sample"] == "7"
    trajectory = None
    gc.collect()
    await async_wait_until(lambda: made not in live(), 30, live)


async def test_instances_named_by_the_request_need_no_trajectory(tool: Any) -> None:
    await tool.create("request-9")
    await tool.execute("request-9", {"code": "state = 9"})
    response, _, _ = await tool.execute("request-9", {"code": "state"})
    assert response.text == "9"
    await tool.release("request-9")


async def test_what_the_policy_does_is_told_to_it_and_not_masked(tool: Any) -> None:
    trajectory = AgentData("clumsy")
    response, _, metrics = await call_tool(tool, trajectory, {"program": "1"})
    assert "`code` must be a text" in response.text
    assert metrics["kind"] == "bad_request"
    impatient = copy.deepcopy(tool)
    impatient.options = type(tool.options)(timeout_s=0.5)
    response, _, metrics = await call_tool(impatient, trajectory, {"code": "while True: pass"})
    assert metrics["kind"] == "timeout", response.text
    assert not trajectory.extra_fields["should_mask_sample"]


async def test_a_fault_of_ours_masks_the_trajectory_from_then_on(tool: Any, running_pool: RunningPool) -> None:
    before = live()
    trajectory = AgentData("unlucky")
    await call_tool(tool, trajectory, {"code": "state = 1"})
    (sandbox_id,) = live() - before
    components.kill(components.actor_pid(running_pool, sandbox_id))
    response, _, metrics = await call_tool(tool, trajectory, {"code": "state"})
    assert metrics["should_mask_sample"], (response.text, metrics)
    assert trajectory.extra_fields["should_mask_sample"]
    await call_tool(tool, trajectory, {"code": "1"})
    assert trajectory.extra_fields["should_mask_sample"]
