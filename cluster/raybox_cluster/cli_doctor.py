"""`raybox doctor`."""

from __future__ import annotations

from raybox_actors.isolation.capabilities import Finding, judge, probe
from raybox_cluster.config import default_run_dir


def doctor() -> tuple[str, bool]:
    """The report on this machine, and whether a pool can start here."""
    findings = judge(probe(default_run_dir()))
    return render(findings), not any(one.blocks for one in findings)


def render(findings: list[Finding]) -> str:
    """One line per finding, aligned, with what to do below; pure."""
    width = max(len(one.name) for one in findings)
    lines = []
    for one in findings:
        lines.append(f"{one.level:<8}  {one.name:<{width}}  {one.detail}")
        if one.remedy:
            lines.append(f"{'':<8}  {'':<{width}}  -> {one.remedy}")
    blocking = [one.name for one in findings if one.blocks]
    lines.append("")
    lines.append(f"a pool cannot start here: {', '.join(blocking)}" if blocking else "a pool can start here")
    return "\n".join(lines)
