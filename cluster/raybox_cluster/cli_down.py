"""`raybox down`: end a pool and see to it that nothing of it is left. Ends only what that pool's `up` started."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

from raybox_actors.isolation.cgroup import remove_pool, this_machine
from raybox_cluster import cli_processes, cli_state
from raybox_cluster.cli_processes import Process
from raybox_cluster.cli_state import PoolRecord, UserError
from raybox_cluster.config import UpOptions, default_run_dir

#: An orderly stop takes 2-4 s; a busy machine gets more before its processes are killed.
ORDERLY_S = 30.0
KILLED_S = 10.0


def down(record: PoolRecord) -> str:
    """End the pool, wait until everything is gone, forget it. Returns one line for the user. Raises UserError."""
    if record.held:
        return _stop_holder(record)
    if not record.own_ray:
        return _leave_cluster(record)
    clear_away(record)
    return f"{record.name} had ended already; cleared away what it left behind"


def down_in_cluster(options: UpOptions) -> str:
    """As `down`, of a pool that somebody else started in the cluster at `options.address`. Raises UserError."""
    if options.address is None:
        raise UserError("address: must name a Ray cluster; a pool on a Ray of its own is ended by its --name")
    ended = _take_down(options.address, options, started_serve=False)
    record = cli_state.read(options.name)
    if record is not None and not record.own_ray:
        cli_state.remove(options.name)
    return ended


def _take_down(address: str, options: UpOptions, *, started_serve: bool) -> str:
    """Returns one line for the user."""
    from raybox_cluster.deploy import join, take_down

    join(address)
    try:
        take_down(options.pool(b""), started_serve)
    finally:
        import ray

        ray.shutdown()
    return f"{options.name} is down; its Ray cluster goes on"


def clear_away(record: PoolRecord) -> None:
    """What a pool whose process is dead may have left: processes, Ray's folder, the record. Idempotent."""
    left = _belonging(record, ())
    for one in left:
        cli_processes.send(one, signal.SIGKILL)
    _require_gone(record, left)
    _remove_files(record)


def _stop_holder(record: PoolRecord) -> str:
    holder = cli_processes.look(record.pid)
    # Taken before anything dies: sandboxes are in nobody's environment list, only in the tree.
    known = cli_processes.descendants(record.pid)
    if holder is not None:
        cli_processes.send(holder, signal.SIGTERM)
        left = cli_processes.wait_gone(lambda: cli_processes.alive([holder, *known]), ORDERLY_S)
        for one in left:
            cli_processes.send(one, signal.SIGKILL)
    left = _belonging(record, known)
    for one in left:
        cli_processes.send(one, signal.SIGKILL)
    _require_gone(record, left)
    _remove_files(record)
    return f"{record.name} is down"


def _belonging(record: PoolRecord, known: tuple[Process, ...] | list[Process]) -> list[Process]:
    marked = cli_processes.marked(record.marker)
    found = {one.pid: one for top in marked for one in (top, *cli_processes.descendants(top.pid))}
    found |= {one.pid: one for one in cli_processes.alive(known)}
    found.pop(os.getpid(), None)
    return list(found.values())


def _require_gone(record: PoolRecord, processes: list[Process]) -> None:
    left = cli_processes.wait_gone(lambda: cli_processes.alive(processes), KILLED_S)
    if left:
        shown = ", ".join(f"{one.pid} ({one.command})" for one in left[:5])
        raise UserError(f"{record.name}: {len(left)} processes would not end: {shown}")


def _remove_files(record: PoolRecord) -> None:
    folder = Path(record.folder)
    # The record is ours, but a folder is removed with everything in it: look twice.
    if record.folder and folder.name.startswith("raybox-") and folder.parent in _bases():
        shutil.rmtree(folder, ignore_errors=True)
    if record.own_ray and record.name:  # its only node was this machine, and its agent may not have had the time
        shutil.rmtree(Path(default_run_dir(), record.name), ignore_errors=True)
        if (hierarchy := this_machine()) is not None:
            remove_pool(hierarchy, record.name)
    cli_state.remove(record.name)


def _bases() -> set[Path]:
    return {Path(os.environ.get("RAY_TMPDIR") or "/tmp"), Path(tempfile.gettempdir()), Path("/tmp")}  # noqa: S108


def _leave_cluster(record: PoolRecord) -> str:
    try:
        ended = _take_down(record.ray_address, UpOptions(name=record.name), started_serve=record.started_serve)
    except UserError as error:
        if "no Ray answers" not in str(error):
            raise
        cli_state.remove(record.name)
        return f"the Ray cluster of {record.name} is gone, and the pool with it"
    cli_state.remove(record.name)
    return ended
