"""Resource usage on the wire (contract 2.3, 4.2). Pure. Parsers raise BadRequest."""

from __future__ import annotations

from urllib.parse import parse_qsl

from raybox_actors.errors import BadRequest
from raybox_actors.fields import Json
from raybox_actors.values import ResourceUsage

from .wire import MAX_QUERY_BYTES, MAX_QUERY_FIELDS, timestamp

MAX_SANDBOXES = 100
_MIB = 1024 * 1024


def metric_body(usage: ResourceUsage) -> Json:
    """`SandboxMetric` of the contract: all nine are required."""
    return {
        "timestamp": timestamp(usage.at_s),
        "timestampUnix": int(usage.at_s),
        "cpuCount": usage.cpu_count,
        "cpuUsedPct": usage.cpu_used_pct,
        "memUsed": usage.memory_used_bytes,
        "memTotal": usage.memory_total_bytes,
        "memCache": usage.memory_cache_bytes,
        "diskUsed": usage.disk_used_bytes,
        "diskTotal": usage.disk_total_bytes,
    }


def agent_metrics_body(usage: ResourceUsage) -> Json:
    """What the agent itself answers to GET /metrics."""
    return {
        "ts": int(usage.at_s),
        "cpu_count": usage.cpu_count,
        "cpu_used_pct": usage.cpu_used_pct,
        "mem_total": usage.memory_total_bytes,
        "mem_used": usage.memory_used_bytes,
        "mem_cache": usage.memory_cache_bytes,
        "mem_total_mib": usage.memory_total_bytes // _MIB,
        "mem_used_mib": usage.memory_used_bytes // _MIB,
        "disk_used": usage.disk_used_bytes,
        "disk_total": usage.disk_total_bytes,
    }


def query_of(query_string: bytes) -> dict[str, str]:
    if len(query_string) > MAX_QUERY_BYTES:
        raise BadRequest(f"the query is longer than {MAX_QUERY_BYTES} bytes")
    try:
        pairs = parse_qsl(query_string.decode("utf-8", "replace"), max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise BadRequest("the query cannot be read") from None
    return dict(pairs)


def number(query: dict[str, str], name: str, high: int) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18) or int(text) > high:
        raise BadRequest(f"{name} must be a whole number from 0 to {high}")
    return int(text)


def span(query: dict[str, str]) -> tuple[float | None, float | None]:
    """From `start` to the end of the second `end`, unix time; either may be missing."""
    start, end = number(query, "start", 10**12), number(query, "end", 10**12)
    if start is not None and end is not None and start > end:
        raise BadRequest("start must not be after end")
    return (None if start is None else float(start)), (None if end is None else end + 1.0)


def sandbox_ids(query: dict[str, str]) -> list[str]:
    ids = [text for text in query.get("sandbox_ids", "").split(",") if text]
    if not 0 < len(ids) <= MAX_SANDBOXES:
        raise BadRequest(f"sandbox_ids must name 1 to {MAX_SANDBOXES} sandboxes, joined by commas")
    return ids
