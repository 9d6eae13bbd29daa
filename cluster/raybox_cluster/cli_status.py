"""`raybox status`."""

from __future__ import annotations

import json
from typing import Any

from raybox_cluster.cli_http import Client
from raybox_cluster.cli_state import UserError


def status(url: str, api_key: str, as_json: bool) -> str:
    """What to print. Raises UserError."""
    with Client(url, api_key) as client:
        said = client.status()
    if as_json:
        return json.dumps(said, indent=2)
    try:
        return render(url, said)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"what answers at {url} is not this version of raybox ({error})") from None


def _state(node: dict[str, Any]) -> str:
    if not node["alive"]:
        return "gone"
    if node["draining"]:
        return "draining"
    if not node["hosts"]:
        return "hosts none"
    if node["zygote_ready"]:
        return "ready"
    return "not used" if node["problem"] else "starting" if node["slots"] else "free"


def render(url: str, said: dict[str, Any]) -> str:
    """The pool's status (a PoolStatus as JSON) as lines for people. Pure."""
    states: dict[str, int] = said["slots_by_state"]
    by_state = ", ".join(f"{count} {state}" for state, count in states.items() if count) or "none"
    lines = [
        f"pool       {url}",
        f"sandboxes  {by_state}",
        f"capacity   {said['capacity']} ({said['warm']} warm, {said['busy']} executing)",
    ]
    if said["claims_waiting"]:
        lines.append(f"waiting    {said['claims_waiting']} callers for a free sandbox")
    if said["leases"]:
        orphaned = f", {said['orphaned_leases']} of dead owners" if said["orphaned_leases"] else ""
        lines.append(f"leases     {said['leases']}{orphaned}")
    nodes: list[dict[str, Any]] = said["nodes"]
    lines.append(f"nodes      {len(nodes)}")
    for node in nodes:
        state = _state(node)
        left = ", ".join(f"{count} {kind}" for kind, count in node.get("leaks", {}).items() if count)
        left = f"; left of dead sandboxes and swept: {left}" if left else ""
        lines.append(f"  {node['node_id'][:12]}  {state}, {node['slots']} slots{left}")
        if node["problem"]:
            lines.append(f"    {node['problem']}")
    return "\n".join(lines)
