"""Ray's placement groups, which reserve room for the sandboxes of a gang: all of it or none. Everything here blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from raybox_actors.config import PoolConfig, placement_name
from raybox_cluster.pool.placement import sandbox_bundle

#: What a sandbox reserves that asks Ray for nothing: a bundle must not be empty.
LEAST: Final = {"CPU": 0.0001}


@dataclass(frozen=True, slots=True)
class Bundle:
    """Where an actor is to live."""

    group: PlacementGroup
    index: int
    gang_id: str


def reserve(config: PoolConfig, gang_id: str, bundles: int) -> PlacementGroup:
    """Ask for room; whoever asks awaits `ready()`. Detached: it stays until `remove`, whoever dies."""
    bundle = sandbox_bundle(config.cpu_request, config.memory_request_mib) or LEAST
    group: PlacementGroup = placement_group(
        [bundle] * bundles,
        "PACK" if config.placement == "pack" else "SPREAD",
        placement_name(config, gang_id),
        lifetime="detached",
        bundle_label_selector=[dict(config.node_labels)] * bundles,
    )
    return group


def nodes_of(group: PlacementGroup, bundles: int) -> tuple[str, ...]:
    """Ray's ids of the nodes that its bundles are on, of a group that is ready."""
    found: dict[int, str] = placement_group_table(group)["bundles_to_node_id"]
    return tuple(found[index] for index in range(bundles))


def existing(config: PoolConfig) -> dict[str, PlacementGroup]:
    """Every placement group of this pool that is not removed, by gang."""
    prefix = placement_name(config, "gang-")
    return {
        known["name"].removeprefix(placement_name(config, "")): PlacementGroup(PlacementGroupID.from_hex(group_id))
        for group_id, known in placement_group_table().items()
        if known["name"].startswith(prefix) and known["state"] != "REMOVED"
    }


def remove(config: PoolConfig, gang_id: str) -> None:
    """Ends the actors that live there. Idempotent."""
    group = existing(config).get(gang_id)
    if group is not None:
        remove_placement_group(group)
