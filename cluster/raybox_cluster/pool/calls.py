"""Calls of Ray actors as the rest of raybox likes them: by name, awaitable, with raybox errors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayTaskError
from ray.util import list_named_actors

from raybox_actors.config import NAMESPACE, PoolConfig
from raybox_actors.errors import Cause, InternalError, RayboxError
from raybox_actors.values import SandboxInfo

#: A handle of Ray. Its methods are made at run time, so there is nothing for a type checker to see.
Handle: TypeAlias = Any


def translate(error: RayTaskError) -> RayboxError:
    """What the method raised: a raybox error as it was, anything else as an InternalError that names it."""
    cause = error.cause
    if isinstance(cause, RayboxError):
        return cause
    return InternalError(f"{type(cause).__name__}: {cause}"[:1000])


async def answer(call: Awaitable[Any], timeout_s: float | None = None) -> Any:
    """Await an ObjectRef. Raises the raybox error of the method, RayActorError as Ray does, or TimeoutError.

    On timeout the method goes on in its actor.
    """
    try:
        async with asyncio.timeout(timeout_s):  # `wait_for` of Python 3.11 may lose a cancellation
            return await call
    except RayTaskError as error:
        raise translate(error) from None


def answer_sync(call: Any, timeout_s: float | None = None) -> Any:
    """`answer` for code without a loop; ray.exceptions.GetTimeoutError on timeout, which is a TimeoutError."""
    try:
        return ray.get(call, timeout=timeout_s)
    except RayTaskError as error:
        raise translate(error) from None


def find(name: str) -> Handle:
    """The living actor of this name; ValueError if there is none. Blocks: call it in a thread."""
    return ray.get_actor(name, namespace=NAMESPACE)


def names(config: PoolConfig) -> list[str]:
    """Names of the living actors of this pool, the manager's included. Blocks: call it in a thread."""
    mine = re.compile(rf"{re.escape(config.name)}-(manager|(node|front)-[0-9a-f]{{12}}|sandbox-[0-9a-f]{{12}}-[0-9]+)")
    return [
        actor["name"]
        for actor in list_named_actors(all_namespaces=True)
        if actor["namespace"] == NAMESPACE and mine.fullmatch(actor["name"])
    ]


def alive_nodes() -> list[str]:
    """Ray's ids of the living nodes. Blocks: call it in a thread."""
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


def cause_of_loss(node: str) -> Cause:
    """Why an actor is dead of which nobody knows more. node: the first digits of its node's id. Blocks, as above."""
    return "internal" if any(node_id.startswith(node) for node_id in alive_nodes()) else "node_lost"


def one_line(error: BaseException) -> str:
    """What an error says, for a log or an operator."""
    return " ".join(str(error).split())[:500] or type(error).__name__


def timed(info: SandboxInfo, asked_at_s: float, assigned_at_s: float, ready_at_s: float) -> SandboxInfo:
    """With how long its creation took."""
    timings = {
        "queued": 1000 * (assigned_at_s - asked_at_s),
        "claimed": 1000 * (ready_at_s - assigned_at_s),
        "ready": 1000 * (ready_at_s - asked_at_s),
    }
    return replace(info, timings_ms={**info.timings_ms, **timings})
