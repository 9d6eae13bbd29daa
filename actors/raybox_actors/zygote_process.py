"""The zygote of one template version on this node: starting it, knowing that it is ready, ending it. No Ray."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from raybox_actors.errors import InternalError
from raybox_actors.isolation.policy import base_environment
from raybox_actors.isolation.walls import open_filter, readable
from raybox_actors.kernels.zygote_client import lean_address

GUEST = Path(__file__).parent / "guest"
#: What a first cell of the default template touches. An import that is missing in the template is left out there.
IMPORTS = ("numpy", "pandas", "matplotlib.pyplot", "sqlite3", "debugpy", "PIL.Image")
START_LIMIT_S = 60.0


@dataclass(slots=True)
class ZygoteProcess:
    """A zygote, starting or ready. Made by `spawn_zygote`; `stop` ends it. Kernels that it forked live on."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until_ready(self) -> None:
        """Return when it listens, about two seconds after the start. Blocks, in any thread. Raises InternalError."""
        assert self.process.stdout is not None
        pipe, said, deadline = self.process.stdout.fileno(), b"", time.monotonic() + START_LIMIT_S
        while b"ready\n" not in said:
            piece = os.read(pipe, 4096) if readable(pipe, deadline - time.monotonic()) else b""
            if not piece:
                raise InternalError(f"the zygote did not start; {self.log} says why")
            said += piece

    def stop(self) -> None:
        """Kill, reap, remove the socket. Idempotent."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        for address in (self.address, lean_address(self.address)):
            with contextlib.suppress(FileNotFoundError):
                Path(address).unlink()


def spawn_zygote(python: str, address: str, log: Path, imports: tuple[str, ...] = IMPORTS) -> ZygoteProcess:
    """Start a zygote; it is of use once `wait_until_ready` returned.

    python: the template's interpreter. address: of the socket, in a folder that only its owner may enter. log: where
    its own complaints go. It dies with the calling thread, and never holds what this process has open.
    """
    prefix = str(Path(python).parent.parent)
    environment = {**base_environment(prefix), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    program = open_filter()
    command = [
        python,
        "-I",
        "-Xfrozen_modules=off",
        str(GUEST),
        address,
        lean_address(address),
        str(os.getpid()),
        str(program),
        *imports,
    ]
    with log.open("ab") as errors, os.fdopen(program, "rb"):
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            cwd="/",
            start_new_session=True,
            pass_fds=[program],
        )
    return ZygoteProcess(process, address, log)
