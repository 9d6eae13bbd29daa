"""The folder of one pool on one node, `<run_dir>/<pool>/<node>`: sockets, logs and what sandboxes have as /etc.

Several Ray nodes may share a machine, and one that comes after a dead one has another name: whoever holds a folder
keeps it locked, so what nobody holds is known to be of a dead node.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from raybox_actors.isolation.policy import SKELETONS

#: What a node agent itself has there.
OWN_FILES = frozenset({*SKELETONS.values(), "zygote.sock", "zygote.sock.lean", "zygote.log"})


class NodeFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def open(self) -> None:
        """Make it, private to this user, and hold it; away with those of dead nodes beside it. Blocks while another
        process holds it. Idempotent."""
        for folder in (self.path.parent, self.path):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        if self._lock < 0:
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._remove_abandoned()

    def siblings(self) -> list[Path]:
        """Folders of this pool's other nodes on this machine, living or dead."""
        with contextlib.suppress(OSError):
            return [entry for entry in self.path.parent.iterdir() if entry.is_dir() and entry != self.path]
        return []

    def _remove_abandoned(self) -> None:
        for folder in self.siblings():
            with contextlib.suppress(OSError):
                lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(lock)

    def close(self) -> None:
        """Away with our own files, the folder if nothing strange is in it, the pool's if that was all. Idempotent."""
        for name in OWN_FILES:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()
            self.path.parent.rmdir()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
