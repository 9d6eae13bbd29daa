"""Where a kernel is to run: inside which walls, forked from which zygote, with what environment."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import Any

from raybox_actors.isolation.cgroup import Cgroup
from raybox_actors.isolation.policy import WallsPolicy, root_plan, view_plan
from raybox_actors.isolation.walls import Walls
from raybox_actors.kernels.identity import Identity
from raybox_actors.kernels.zygote_client import Child, ZygoteClient


@dataclass(slots=True)
class Place:
    """One sandbox's walls, seen from a kernel that is to enter them."""

    walls: Walls
    zygote: ZygoteClient
    policy: WallsPolicy
    identity: Identity
    python: str  #: the template's interpreter
    env: dict[str, str] = field(default_factory=dict)  #: of every process; the sandbox's own variables are added to it
    cgroup: Cgroup | None = None  #: what every process joins before it enters
    variables: dict[str, str] = field(default_factory=dict)  #: the sandbox's own alone
    private: bool = False  #: every process that enters has a view of the files of its own (guest/view.py)

    async def enter(self, request: dict[str, Any], cwd: str, fds: list[int], bundle: int | None = None) -> Child:
        """Fork a process into the walls; `fds` take the places that `request["op"]` gives them. Raises KernelFailed.

        bundle: a descriptor with what a program consists of.

        The first to enter makes the root file system (guest/filesystem.py); it is forked while the walls are still
        being built, and waits for them. Nobody else may enter before it is in.
        """
        joins = self.cgroup.joins if self.cgroup is not None else []
        standing = self.walls.standing  # which may change while we wait for a namespace
        actor_nice = os.getpriority(os.PRIO_PROCESS, 0)
        nice = min(19, actor_nice + self.policy.nice_above_actor)
        asked = {
            "env": self.env,
            **request,
            "cwd": cwd,
            "first_id": self.identity.first_id,
            "furnish": None if self.walls.furnished else root_plan(self.policy),
            # The agent answers for the actor; only what it starts gives way.
            "nice": actor_nice if request["op"] == "agent" else nice,
            "program_nice": nice,
            "oom_score_adj": self.policy.oom_score_adj,
            "rlimits": self.policy.limits.rlimits(),
            "joins": len(joins),
            "has_gate": not standing,
            "view": view_plan(self.policy) if self.private else None,
            "has_bundle": bundle is not None,
        }
        passed = [self.walls.pidfd, *fds, await self.identity.namespace(self.zygote), *joins]
        if bundle is not None:
            passed.append(bundle)
        if standing:
            child = await self.zygote.spawn(asked, passed)
        else:
            child = await self._enter_unfinished(asked, passed)
        self.walls.furnished = True
        return child

    async def _enter_unfinished(self, asked: dict[str, Any], passed: list[int]) -> Child:
        """Fork and build at the same time. Closing the gate unopened ends the child."""
        wait, gate = os.pipe2(os.O_CLOEXEC)
        spawning = asyncio.create_task(self.zygote.spawn(asked, [*passed, wait]))
        try:
            await self.walls.stand()
            os.write(gate, b"g")
            return await spawning
        except BaseException:
            if spawning.done() and not spawning.cancelled() and spawning.exception() is None:
                spawning.result().close()  # the caller ends the walls, and the child with them
            spawning.cancel()
            raise
        finally:
            os.close(wait)
            os.close(gate)
