"""The zygote of kernels: everything that a first cell touches is imported and has run."""

from __future__ import annotations

import asyncio
import atexit
import gc
import os
import shutil
import signal
import socket
import sys
import tempfile

import walls
from kernel import build_kernel, run_until_end, warm_up
from program import PlainInterpreter
from wire import Wire
from zygote import refresh_process_state


class Notebook:
    """An Interpreter (zygote.py), warmed up when it is made. plain: as it was before."""

    def __init__(self, imports: list[str], plain: PlainInterpreter) -> None:
        self.plain, self.wire = plain, Wire()
        private = tempfile.mkdtemp(prefix="raybox-zygote-")
        atexit.register(shutil.rmtree, private, ignore_errors=True)
        # The environment is what a sandbox starts with, but for folders that warming up writes to.
        os.environ |= {"MPLCONFIGDIR": private, "IPYTHONDIR": private}
        self.kernel = build_kernel(self.wire)
        asyncio.run(warm_up(self.kernel, imports))
        os.environ.pop("MPLCONFIGDIR"), os.environ.pop("IPYTHONDIR")
        shutil.rmtree(private, ignore_errors=True)
        gc.collect()
        gc.freeze()
        walls.join_pages()

    def become_kernel(self, wire_fd: int, pipes: tuple[int, int]) -> None:
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        sock = socket.socket(fileno=wire_fd)
        self.wire.attach(sock, pipes)
        os.register_at_fork(after_in_child=self.wire.detach)
        refresh_process_state()
        self.kernel.shell.init_environment()
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as in any Python; programs that it starts get the default back
        run_until_end(self.kernel, sock)
        atexit._run_exitfuncs()

    def become_plain(self) -> None:
        refresh_process_state()
        self.plain.restore()
        atexit.unregister(self.kernel.shell.atexit_operations)
        if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
            pyplot.switch_backend("agg")
