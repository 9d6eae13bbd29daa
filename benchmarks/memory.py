"""What one idle sandbox costs in memory: its actor, its walls and its kernel."""

from __future__ import annotations

from benchmarks.peers import stock_kernel
from benchmarks.pool import descendants, memory_mib, pool, processes
from benchmarks.report import Report, main, progress
from raybox import Sandbox

SANDBOXES = 3


def measure(report: Report) -> None:
    progress("a pool of idle sandboxes")
    parts: dict[str, list[tuple[float, float]]] = {"actor": [], "walls": [], "kernel": []}
    with pool(sandboxes=SANDBOXES, warm=SANDBOXES) as running:
        sandboxes = [Sandbox.create() for _ in range(SANDBOXES)]
        for sandbox in sandboxes:
            assert sandbox.run_code("1+1").text == "2"
        table = processes()
        tree = descendants(running.pid, table)
        own = table[running.pid].mounts
        for process in tree:
            if "SandboxActor" in process.command:
                parts["actor"].append(memory_mib(process.pid))
            elif "bwrap" in process.command.split(" ")[0] or process.command.startswith("/bin/bash --norc"):
                parts["walls"].append(memory_mib(process.pid))
            elif process.mounts != own:
                parts["kernel"].append(memory_mib(process.pid))
        for sandbox in sandboxes:
            sandbox.kill()
    progress("a stock kernel")
    with stock_kernel() as client:
        pid = client.parent.provisioner.pid if client.parent is not None else 0
        stock = memory_mib(pid)
    private = proportional = 0.0
    for name, measured in parts.items():
        assert measured, f"no process found for {name}"
        mine = sum(one[0] for one in measured) / SANDBOXES
        shared = sum(one[1] for one in measured) / SANDBOXES
        report.add(f"{name}_private_mib", mine, f"{name}, private", "MiB")
        private, proportional = private + mine, proportional + shared
    report.add("idle_private_mib", private, "idle sandbox, private", "MiB")
    report.add("idle_proportional_mib", proportional, "idle sandbox, proportional", "MiB")
    report.add("stock_private_mib", stock[0], "stock ipykernel process alone, private", "MiB")


if __name__ == "__main__":
    main("memory", measure, "memory of an idle sandbox")
