"""verl's own tool interface, from its wheel, and the calls that its agent loop makes of a tool.

verl's packages import torch when they are imported. Their modules that a tool needs do not: they are loaded from the
wheel as they are, below packages that are empty.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

INSTALLED = Path(__file__).parents[2] / ".tools/verl"


def load() -> None:
    """Make `verl.tools.base_tool` and `verl.tools.schemas` importable."""
    for name in ("verl", "verl.utils", "verl.tools"):
        if name not in sys.modules:
            package = types.ModuleType(name)
            package.__path__ = [str(INSTALLED.joinpath(*name.split(".")))]
            sys.modules[name] = package


class AgentData:
    """What verl's agent loop hands to `execute`: of its class of this name, what a tool can be interested in."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.extra_fields: dict[str, Any] = {}


async def call_tool(tool: Any, trajectory: AgentData | None, arguments: dict[str, Any], **create: Any) -> Any:
    """One call as `ToolAgentLoop._call_tool` makes it: an instance for it alone, released whatever happened."""
    instance_id, _ = await tool.create(create_kwargs=create)
    try:
        return await tool.execute(instance_id, json.loads(json.dumps(arguments)), agent_data=trajectory)
    finally:
        await tool.release(instance_id)
