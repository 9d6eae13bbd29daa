"""What `raybox up` leaves for `down`, `status` and `run`: one private file per pool, removed when the pool stops."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from raybox_cluster.cli_processes import is_alive


class UserError(Exception):
    """Something the user can put right. One line; the command ends with exit code 2."""


@dataclass(frozen=True, slots=True)
class PoolRecord:
    """One pool that was started from this machine. Times are unix seconds.

    pid, pid_started: the process that holds the pool, and when it started (in kernel ticks, so that a reused pid is
    told apart); 0 for a pool that lives in a joined cluster by itself. marker: what every process of it has in its
    environment as RAYBOX_RUN. folder: its Ray's folder, ours to remove.
    """

    name: str
    url: str
    api_key: str
    ray_address: str
    own_ray: bool
    pid: int
    pid_started: int
    marker: str
    folder: str
    token_path: str
    log: str
    started_at_s: float
    started_serve: bool = False
    ready: bool = False

    def __repr__(self) -> str:
        return f"PoolRecord(name={self.name!r}, url={self.url!r}, pid={self.pid})"

    @property
    def held(self) -> bool:
        """Whether the process that holds the pool is alive."""
        return self.pid > 0 and is_alive(self.pid, self.pid_started)


def home() -> Path:
    """`$RAYBOX_HOME`, or `~/.cache/raybox`; absolute."""
    given = os.environ.get("RAYBOX_HOME")
    return Path(given).absolute() if given else Path.home() / ".cache" / "raybox"


def run_folder() -> Path:
    """The private folder of records, logs and tokens; made if it is missing. Raises UserError."""
    folder = home() / "run"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise UserError(f"{folder} cannot be used: {error.strerror} (RAYBOX_HOME says where it is)") from None
    return folder


def record_path(name: str) -> Path:
    return run_folder() / f"{name}.json"


def read(name: str) -> PoolRecord | None:
    """The record of a pool, None if there is none or it is not one."""
    try:
        plain = json.loads(record_path(name).read_text())
        return PoolRecord(**{one.name: plain[one.name] for one in fields(PoolRecord)})
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def records() -> list[PoolRecord]:
    """Every record, by name."""
    found = (read(path.stem) for path in sorted(run_folder().glob("*.json")))
    return [one for one in found if one is not None]


def write(record: PoolRecord) -> None:
    """Replace the record, readable by its owner only at every moment."""
    write_private(record_path(record.name), json.dumps(asdict(record), indent=1) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write atomically, mode 0600."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    new.replace(path)


def remove(name: str) -> None:
    """Forget a pool. Idempotent. Its log stays, for whoever asks why it ended."""
    for suffix in ("json", "token"):
        (run_folder() / f"{name}.{suffix}").unlink(missing_ok=True)


@contextlib.contextmanager
def starting(name: str) -> Iterator[None]:
    """Only one `up` of a name at a time: held from its first check until its record is written.

    Raises UserError at once when another one holds it.
    """
    descriptor = os.open(run_folder() / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"the pool {name} is being started by another `raybox up`") from None
        yield
    finally:
        os.close(descriptor)


def find(name: str | None) -> PoolRecord | None:
    """The pool called `name`; without a name, `raybox`, or else the only one there is. None: no such pool.

    Raises UserError when it cannot be told which one is meant.
    """
    if name is not None:
        return read(name)
    known = records()
    by_default = [one for one in known if one.name == "raybox"] or known
    if len(by_default) > 1:
        raise UserError(f"several pools are up ({', '.join(one.name for one in by_default)}): say which with --name")
    return by_default[0] if by_default else None
