"""The Python kernel of a sandbox: ipykernel's IPythonKernel on a transport of one socket and one thread.

It is built and warmed before the fork, so it holds no thread, no open channel and no history database. Runs inside
sandboxes: nothing of raybox is importable here but its neighbours.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from jupyter_client.session import Session
from tornado.ioloop import IOLoop
from traitlets.config import Config, PyFileConfigLoader
from wire import MAX_FRAME_BYTES, OutStream, Wire

#: What passes of IPython's messages; comms have no other end here.
PUBLISHED = frozenset({"execute_result", "display_data", "update_display_data", "clear_output", "error"})
OWN_FOLDER = os.path.dirname(os.path.abspath(__file__))
#: Runs of the plainest cells while warming up.
WARM_UP_REPEATS = 10
#: A request line longer than this ends the kernel: the actor never sends one.
MAX_REQUEST_BYTES = 64 * 1024 * 1024


#: What `shell.reset` takes away of a module.
MODULE_NAMES = ("__doc__", "__loader__", "__name__", "__package__", "__spec__")


class WireSession(Session):  # type: ignore[misc]  # the template's packages are not visible to the checker
    """A jupyter session whose messages become frames."""

    wire: Wire

    def send(self, _stream: Any, msg_or_type: Any, content: Any = None, *_args: Any, **_kwargs: Any) -> Any:
        if isinstance(msg_or_type, dict):
            msg_or_type, content = msg_or_type["header"]["msg_type"], msg_or_type["content"]
        if msg_or_type in PUBLISHED:
            content = bounded(content or {})
            # Stock's own way from Python to JSON, whatever it makes of NaN, bytes, sets and lone surrogates.
            self.wire.emit_packed(msg_or_type, self.pack(content))
        return {"content": content}


def bounded(content: dict[str, Any]) -> dict[str, Any]:
    """Drop the representations that would make the frame too long, and say so in the text."""
    data = content.get("data")
    if not isinstance(data, dict):
        return content
    sizes = {mime: len(value) if isinstance(value, str) else 0 for mime, value in data.items()}
    sizes |= {mime: len(json.dumps(data[mime], default=str)) for mime, size in sizes.items() if not size and data[mime]}
    if sum(sizes.values()) * 2 < MAX_FRAME_BYTES:  # escapes may double a text that is mostly control characters
        return content
    kept: dict[str, Any] = {}
    room = MAX_FRAME_BYTES // 8
    dropped = []
    for mime, value in sorted(data.items(), key=lambda item: sizes[item[0]]):
        if sizes[mime] <= room:
            kept[mime] = value
            room -= sizes[mime]
        elif mime == "text/plain":
            kept[mime] = f"{value[:room]}\n[cut: {sizes[mime]} characters are over the limit of a display]"
            room = 0
        else:
            dropped.append(f"{mime} ({sizes[mime]} characters)")
    if dropped:
        note = f"[dropped, over the limit of a display: {', '.join(dropped)}]"
        kept["text/plain"] = f"{kept.get('text/plain', '')}\n{note}".strip()
    return {**content, "data": kept}


class Kernel(IPythonKernel):  # type: ignore[misc]  # as above
    """IPythonKernel that runs one request after the other, each given by `run`."""

    #: The cell that runs, if it is one with `await` in it.
    awaiting: asyncio.Future[Any] | None = None
    wakeup_fd = -1

    async def run(self, code: str, env: dict[str, str] | None = None, number: int = 0) -> None:
        """Run a cell as a frontend would; frames tell what happened, `done` ends it. Never raises.

        number: the actor's, repeated at the beginning and the end, so that a forged end puts nothing out of step.
        """
        shell, wire = self.shell, self.session.wire
        shell._last_traceback = None
        for part in (shell.displayhook, shell.display_pub):
            part.set_parent({})
        count = shell.execution_count
        status, reason = "error", ""
        with self.environment(env or {}):
            # asyncio.run() would swallow SIGINT in synchronous cells: raise while a cell runs, ignore while idle.
            signal.signal(signal.SIGINT, self.interrupt)
            # Or a SIGINT in an `await` would be looked at when the loop wakes up for something else, as in stock.
            signal.set_wakeup_fd(self.wakeup_fd, warn_on_full_buffer=False)
            try:
                # Not before SIGINT is heeded: the actor interrupts as soon as it knows that the cell began.
                wire.emit("input", [count, number], apart=True)
                reply = await self.do_execute(code, False, store_history=True, allow_stdin=False, cell_meta={})
                status = reply["status"]
            except (KeyboardInterrupt, asyncio.CancelledError):
                reason = "KeyboardInterrupt"
            except BaseException as error:
                reason = f"{type(error).__name__}: {error}"
            finally:
                with contextlib.suppress(KeyboardInterrupt):
                    signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.awaiting = None
        wire.interrupted = False
        if reason and shell._last_traceback is None:
            # The interrupt fell between IPython's own handlers: report it as IPython would have.
            name, _, value = reason.partition(": ")
            wire.emit("error", {"ename": name, "evalue": value, "traceback": [reason]})
        self.payload = shell.payload_manager.read_payload()
        shell.payload_manager.clear_payload()
        done = {"status": status, "exiting": bool(shell.exit_now), "number": number}
        wire.emit("done", done, apart=True)

    def _cancel_on_sigint(self, future: asyncio.Future[Any]) -> Any:
        self.awaiting = future
        return super()._cancel_on_sigint(future)

    def escaped(self, error: BaseException) -> None:
        """What a signal handler of user code raised while the loop itself ran: its `await` ends, the kernel lives."""
        traceback.print_exception(error, limit=-1)
        if self.awaiting is not None and not self.awaiting.done():
            self.awaiting.cancel()

    def interrupt(self, *_args: object) -> None:
        wire = self.session.wire
        if wire.busy:
            wire.interrupted = True
        else:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def environment(self, env: dict[str, str]) -> Iterator[None]:
        """Set variables for one execution and put back what was there before."""
        before = {name: os.environ.get(name) for name in env}
        os.environ.update(env)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def load_config(prefix: Path) -> Config:
    """The template's own IPython configuration, as stock ipykernel reads it; history stays in memory."""
    config = Config()
    folder = prefix / "etc" / "ipython"
    for name in ("ipython_config.py", "ipython_kernel_config.py"):
        if (folder / name).exists():
            config.merge(PyFileConfigLoader(name, path=str(folder)).load_config())
    config.HistoryManager.hist_file = ":memory:"  # with it, %history works and no thread is started
    config.IPKernelApp.connection_file = ""  # by this key libraries tell a kernel from a terminal
    return config


def build_kernel(wire: Wire) -> Kernel:
    """A kernel with its start-up files run; its output goes nowhere until the wire is attached."""
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    config = load_config(Path(sys.prefix))
    session = WireSession(key=b"", config=config)
    session.wire = wire
    sys.stdout, sys.stderr = OutStream(wire, "stdout", 1), OutStream(wire, "stderr", 2)
    kernel = Kernel(
        session=session, config=config, iopub_socket=object(), user_ns=None, log=logging.getLogger("kernel")
    )
    shell = kernel.shell
    # Never run; it is what %pylab, %config and the like look for.
    app = IPKernelApp.instance(config=config)
    app.kernel, app.shell = kernel, shell
    app.init_pdb()
    shell.configurables.append(app)
    for extension in ["storemagic", *config.InteractiveShellApp.get("extensions", [])]:
        shell.extension_manager.load_extension(extension)
    find_exception = shell._get_exc_info
    shell._get_exc_info = lambda exc_tuple=None: without_own_frames(*find_exception(exc_tuple))
    return kernel


def without_own_frames(kind: type, error: BaseException, trace: types.TracebackType | None) -> tuple[Any, ...]:
    """An interrupt is raised by our handler, often below `print`: the trace ends where user code was."""
    last, entry = None, trace
    while entry is not None:
        if os.path.dirname(entry.tb_frame.f_code.co_filename) != OWN_FOLDER:
            last = entry
        entry = entry.tb_next
    if last is not None and issubclass(kind, KeyboardInterrupt):
        last.tb_next = None
    return kind, error, trace


async def warm_up(kernel: Kernel, imports: list[str]) -> None:
    """Import and run what a first cell touches, then forget that anything ran. Before the fork, output goes nowhere."""
    for name in imports:
        with contextlib.suppress(ImportError):  # a template need not have what the default one has
            importlib.import_module(name)
    cells = [
        "1+1",
        "print('x'); 'text'",
        "1/0",
        "import asyncio; await asyncio.sleep(0)",
        "!true",
    ]
    if "pandas" in sys.modules:
        cells.append("import pandas as pd; pd.DataFrame({'a': [1]})")
    if "matplotlib.pyplot" in sys.modules:
        cells.append("import matplotlib.pyplot as plt; plt.plot([1]); plt.show(); plt.close('all')")
    attach_loop(kernel)
    # Often enough for the interpreter to settle on its specialised instructions: until then every call rewrites the
    # function's own code, and each page of that is copied anew in every fork (150 of 1,700 pages of a first cell).
    for cell in [*cells[:2] * WARM_UP_REPEATS, *cells]:
        await kernel.run(cell)
    forget(kernel)


def forget(kernel: Kernel) -> None:
    """Leave the kernel as if no cell had run."""
    shell = kernel.shell
    module_names = {name: value for name, value in shell.user_ns.items() if name in MODULE_NAMES}
    shell.reset(new_session=True, aggressive=False)
    shell.user_ns.update(module_names)
    shell.user_ns_hidden.update(shell.user_ns)
    history = shell.history_manager
    history.db_input_cache = []
    history._switch_to_memory_history()  # a new database: the old one has the cells above
    history._i00 = history._i = history._ii = history._iii = ""
    shell.execution_count = 1
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        if hasattr(sys, name):
            delattr(sys, name)
    shell._last_traceback = None


async def exercise(kernel: Kernel) -> None:
    """Run a cell that leaves no trace, so that the first real one does not pay for the pages that a fork shares.

    For a kernel that waits for its sandbox to be claimed.
    """
    wire = kernel.session.wire
    wire.muted = True
    try:
        for code in ("1+1", "print(1)"):
            await kernel.run(code)
        forget(kernel)
    finally:
        wire.muted = False


def attach_loop(kernel: Kernel) -> None:
    # do_execute needs these two to turn SIGINT into a cancelled `await`.
    kernel.io_loop = IOLoop.current()
    kernel.wakeup_fd = asyncio.get_running_loop()._csock.fileno()  # type: ignore[attr-defined]  # asyncio's own way
    kernel.shell_channel_thread = types.SimpleNamespace(parent_thread=threading.main_thread())


def run_until_end(kernel: Kernel, sock: socket.socket) -> None:
    """Serve. What a signal handler of user code raises while the loop itself runs must not end the kernel."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        asyncio.set_event_loop(loop)
        serving = loop.create_task(serve(kernel, sock))
        while not serving.done():
            try:
                loop.run_until_complete(serving)
            except BaseException as error:
                if serving.done():
                    raise
                kernel.escaped(error)


async def serve(kernel: Kernel, sock: socket.socket) -> None:
    """Answer requests until the actor hangs up or user code asks to exit. Background tasks live on between cells."""
    attach_loop(kernel)
    requests: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
    received = bytearray()

    def readable() -> None:
        data = sock.recv(1 << 18)
        if not data or len(received) > MAX_REQUEST_BYTES:
            os._exit(0)
        received.extend(data)
        if b"\n" not in data:
            return
        *lines, rest = received.split(b"\n")
        received[:] = rest
        for line in lines:
            kind, content = json.loads(line)
            requests.put_nowait((kind, content))

    asyncio.get_running_loop().add_reader(sock.fileno(), readable)
    wire = kernel.session.wire
    wire.emit("ready", {"pid": os.getpid(), "at": time.time()})
    while True:
        kind, content = await requests.get()
        if kind == "execute":
            await kernel.run(content["code"], content.get("env"), content.get("number", 0))
            if kernel.shell.exit_now:
                return
        elif kind == "exercise":
            await exercise(kernel)
        elif kind == "configure":
            os.environ.update(content.get("env", {}))
            if cwd := content.get("cwd"):
                os.chdir(cwd)
