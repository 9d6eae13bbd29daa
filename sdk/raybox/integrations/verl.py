"""A tool for verl's agent loops: the code that a policy writes runs in a sandbox that belongs to its trajectory.

verl makes and releases an instance of a tool for every call; what a trajectory is, `agent_data.request_id` tells. The
sandbox is leased under that id, so each turn finds what the turns before it left, in whatever process the turn runs. It
is given up when the trajectory's `agent_data` is collected, and otherwise when `ttl_s` passes without a turn.

In verl's tool file:

    tools:
      - class_name: raybox.integrations.verl.CodeInterpreterTool
        config: {type: native, timeout_s: 30, ttl_s: 600}

Written for the tool interface of verl 0.9; with rollouts that pass no `agent_data` and name instances by the request
itself, as older ones do, the instance's id is the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from uuid import uuid4

from verl.tools.base_tool import BaseTool
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse

from .. import connect_async
from .._errors import InvalidArgumentException, RayboxError
from ._turn import MAX_CHARS, Turn, turn_of, turn_of_fault

SCHEMA = {
    "type": "function",
    "function": {
        "name": "code_interpreter",
        "description": "Runs code. Variables, imports and files of earlier calls are still there.",
        "parameters": {
            "type": "object",
            "properties": {"code": {"type": "string", "description": "The code to run."}},
            "required": ["code"],
        },
    },
}


@dataclass(frozen=True, slots=True)
class ToolOptions:
    """The `config` of the tool, beside verl's own `type`. Raises InvalidArgumentException for what it does not know.

    language: of the code. timeout_s: for one call. ttl_s: how long a trajectory may be without a turn. max_chars: of a
    turn that the policy is shown. connect: arguments of `raybox.connect_async`. create: of every sandbox; a sample's
    `create_kwargs` win over it.
    """

    language: str = "python"
    timeout_s: float = 30.0
    ttl_s: float = 600.0
    max_chars: int = MAX_CHARS
    connect: dict[str, Any] = field(default_factory=dict)
    create: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ToolOptions:
        given = {name: value for name, value in config.items() if name != "type"}
        if unknown := given.keys() - {one.name for one in fields(cls)}:
            raise InvalidArgumentException(f"unknown in the tool's config: {', '.join(sorted(unknown))}")
        return cls(**given)


class CodeInterpreterTool(BaseTool):  # type: ignore[misc]  # verl is not there for mypy
    """verl's `BaseTool`. `execute` never raises for what became of the code: verl would show the policy any exception.

    The metrics of a call are `kind` and `should_mask_sample`. As verl drops them, a trajectory's
    `agent_data.extra_fields["should_mask_sample"]` is true from the first call on whose fault was not the policy's; it
    arrives in the batch's `non_tensor_batch` under this name, for the trainer to mask by.
    """

    def __init__(self, config: Mapping[str, Any], tool_schema: OpenAIFunctionToolSchema | None = None) -> None:
        self.options = ToolOptions.of(config)
        super().__init__(config, tool_schema or OpenAIFunctionToolSchema.model_validate(SCHEMA))
        self._pool: Any = None  # made where it is used: verl copies its tools
        self._create: dict[str, dict[str, Any]] = {}

    async def create(
        self, instance_id: str | None = None, create_kwargs: Mapping[str, Any] | None = None, **_: Any
    ) -> tuple[str, ToolResponse]:
        """Takes nothing yet: the sandbox is there when the trajectory's first code is run."""
        instance_id = instance_id or uuid4().hex
        self._create[instance_id] = {**self.options.create, **(create_kwargs or {})}
        return instance_id, ToolResponse()

    async def execute(
        self, instance_id: str, parameters: Mapping[str, Any], **kwargs: Any
    ) -> tuple[ToolResponse, float, dict[str, Any]]:
        """Run `parameters["code"]` in the trajectory's sandbox. The step's reward is 0: scoring is the trainer's."""
        trajectory = kwargs.get("agent_data")
        key = getattr(trajectory, "request_id", None) or instance_id
        turn = await self._turn(key, parameters.get("code"), self._create.get(instance_id, {}), trajectory)
        extra = getattr(trajectory, "extra_fields", None)
        if extra is not None:
            extra["should_mask_sample"] = bool(extra.get("should_mask_sample")) or turn.should_mask_sample
        return ToolResponse(text=turn.text), 0.0, dict(turn.facts)

    async def release(self, instance_id: str, **_: Any) -> None:
        """The instance ends, the sandbox does not: it is the trajectory's."""
        self._create.pop(instance_id, None)

    async def _turn(self, key: str, code: object, create: dict[str, Any], trajectory: object) -> Turn:
        options = self.options
        if not isinstance(code, str):
            return turn_of_fault(InvalidArgumentException("the argument `code` must be a text"), options.max_chars)
        try:
            if self._pool is None:
                self._pool = connect_async(**options.connect)
            lease = await self._pool.lease(key, ttl_s=options.ttl_s, **create)
            if trajectory is not None:
                _release_with(trajectory, lease)
            execution = await lease.sandbox.run_code(code, language=options.language, timeout=options.timeout_s)
        except RayboxError as error:
            return turn_of_fault(error, options.max_chars)
        return turn_of(execution, options.max_chars)


#: The latest lease of each trajectory, whose end gives it up: after a fault of ours it is of another sandbox.
_latest: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()


def _release_with(trajectory: Any, lease: Any) -> None:
    """Release the lease when the trajectory is collected, if somebody's loop still runs; else its time runs out."""
    if trajectory in _latest:
        _latest[trajectory][0] = lease
        return
    latest = _latest[trajectory] = [lease]
    loop = asyncio.get_running_loop()

    def release() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(lambda: _keep(loop.create_task(_released(latest[0]))))

    weakref.finalize(trajectory, release).atexit = False


async def _released(lease: Any) -> None:
    with contextlib.suppress(RayboxError):  # its time runs out
        await lease.release()


_releasing: set[asyncio.Task[None]] = set()


def _keep(task: asyncio.Task[None]) -> None:
    """A loop holds its tasks weakly."""
    _releasing.add(task)
    task.add_done_callback(_releasing.discard)
