"""How the pool's actors are made: all detached, with nothing in their runtime_env. Sandboxes ask Ray for what the pool
says of CPU and memory, so that its scheduler and autoscaler see them; the others ask for nothing.

What Ray is given of the classes are shells (shells.py). A runtime_env would cost a second interpreter start for every
actor. Task events are off: Ray keeps at most 100,000 of them, and ours would drive out the user's.
"""

from __future__ import annotations

from dataclasses import dataclass

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from raybox_actors.config import NAMESPACE, PoolConfig, front_name, manager_name, node_agent_name, sandbox_actor_name
from raybox_cluster.gateway.auth import ApiKey
from raybox_cluster.pool.calls import Handle
from raybox_cluster.pool.events import SlotKey
from raybox_cluster.pool.placement_groups import Bundle
from raybox_cluster.pool.shells import concurrency_groups, shell


@dataclass(frozen=True, slots=True)
class ActorClasses:
    """Where the classes are found, as "module:Class"; they are plain classes. Others only in tests."""

    sandbox: str = "raybox_actors.sandbox_actor:SandboxActor"
    node_agent: str = "raybox_actors.node_agent:NodeAgent"


def start_sandbox_actor(
    config: PoolConfig, classes: ActorClasses, key: SlotKey, within: Bundle | None = None
) -> Handle:
    """ValueError if the name is taken. Never restarted: a restart would silently yield an empty sandbox. Blocks.

    Where the node has no room, calls of the actor raise ActorUnschedulableError: it never waits for room.
    within: the bundle of a gang's placement group that it shall live in; its node is that of `key`.
    """
    # Ray's own annotations do not know this argument of its decorator.
    groups = concurrency_groups(classes.sandbox)
    actor_class = ray.remote(concurrency_groups=groups)(shell(classes.sandbox))  # type: ignore[call-overload]
    return actor_class.options(
        name=sandbox_actor_name(config, key.node_id, key.slot),
        namespace=NAMESPACE,
        lifetime="detached",
        max_restarts=0,
        max_task_retries=0,
        num_cpus=config.cpu_request,
        memory=config.memory_request_mib * 2**20 or None,
        scheduling_strategy=NodeAffinitySchedulingStrategy(key.node_id, soft=False, _fail_on_unavailable=True)
        if within is None
        else PlacementGroupSchedulingStrategy(within.group, within.index),
        enable_task_events=False,
    ).remote(config, key.node_id, key.slot, "" if within is None else within.gang_id)


def ensure_node_agent(config: PoolConfig, classes: ActorClasses, node_id: str) -> Handle:
    """The node's agent, started if there is none. Blocks."""
    return (
        ray.remote(shell(classes.node_agent))
        .options(
            name=node_agent_name(config, node_id),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
            enable_task_events=False,
        )
        .remote(config, node_id)
    )


def ensure_front(config: PoolConfig, keys: tuple[ApiKey, ...], node_id: str) -> Handle:
    """The node's front, started if there is none. Not restarted: whoever misses it asks the manager again. Blocks."""
    return (
        ray.remote(shell("raybox_cluster.front:Front"))
        .options(
            name=front_name(config, node_id),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=10_000,  # every open stream is a call under way
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
            enable_task_events=False,
        )
        .remote(config, keys)
    )


def ensure_manager(config: PoolConfig, classes: ActorClasses, keys: tuple[ApiKey, ...] = ()) -> Handle:
    """The pool's manager, started if there is none. On the head node: no other outlives it. Blocks.

    keys: that callers over Ray may give; those over HTTP are the gateway's business.
    """
    return (
        ray.remote(shell("raybox_cluster.pool.manager:PoolManager"))
        .options(
            name=manager_name(config),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=10_000,  # every waiting create is a call under way
            num_cpus=0,
            resources={"node:__internal_head__": 0.001},
            enable_task_events=False,
        )
        .remote(config, classes, keys)
    )
