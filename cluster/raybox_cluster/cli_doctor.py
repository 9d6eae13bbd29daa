"""`raybox doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from raybox_actors.isolation.capabilities import Finding, Require, judge, shortfalls
from raybox_actors.isolation.probes import probe, token_of_ray
from raybox_cluster.config import default_run_dir


def doctor(require: Require, as_json: bool) -> tuple[str, bool]:
    """The report on this machine, and whether a pool that requires so much can start here."""
    findings = judge(probe(default_run_dir(), replace(token_of_ray(), inside_ray=False)))
    can_start = not shortfalls(findings, require)
    if as_json:
        plain = {"can_start": can_start, "require": require, "findings": [asdict(one) for one in findings]}
        return json.dumps(plain, indent=2), can_start
    return render(findings, require), can_start


def render(findings: list[Finding], require: Require = "standard") -> str:
    """One line per finding, aligned, with what to do below; pure."""
    width = max(len(one.name) for one in findings)
    lines = []
    for one in findings:
        lines.append(f"{one.level:<8}  {one.name:<{width}}  {one.detail}")
        if one.remedy:
            lines.append(f"{'':<8}  {'':<{width}}  -> {one.remedy}")
    short = [one.name for one in shortfalls(findings, require)]
    which = "a pool" if require == "standard" else "a pool that requires strict"
    lines.append("")
    lines.append(f"{which} cannot start here: {', '.join(short)}" if short else f"{which} can start here")
    return "\n".join(lines)
