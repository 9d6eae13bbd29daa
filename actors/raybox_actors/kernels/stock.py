"""Any Jupyter kernel, driven by jupyter_client over `ipc` inside the same walls. Stock ipykernel is our oracle.

What differs between languages is a `Dialect`.

The kernel's sockets lie in a folder of the sandbox's own /tmp; from outside they are reached through the root of the
sandbox's first process, so nothing is left on the node when the walls go.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import re
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from raybox_actors.kernels.base import (
    CodeError,
    Display,
    Finished,
    InputAccepted,
    KernelEvent,
    KernelFailed,
    Output,
    Sink,
)
from raybox_actors.kernels.pipes import Pipes
from raybox_actors.kernels.place import Place
from raybox_actors.kernels.zygote_client import Child

if TYPE_CHECKING:
    from jupyter_client.asynchronous.client import AsyncKernelClient

START_LIMIT_S = 60.0
EXIT_LIMIT_S = 20.0
#: A message that is longer is not received, and ends the connection; whoever sends one loses its kernel.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
#: After its reply, a kernel that still has to publish something does so within this time, or never.
LAST_WORDS_S = 5.0
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a kernel's language says what we need of it, each as code for a cell that nobody sees.

    set_environment: variables for good. set_for_cell: for one cell, remembering what they were; restore: takes it back.
    prints_values: values are displays like any other, so that the last one counts as the cell's result; silent cells
    may count; and what children and C code print is not caught by the kernel. ends_itself: when a cell asks for that.
    """

    set_environment: Callable[[dict[str, str]], str]
    set_for_cell: Callable[[dict[str, str]], str]
    restore: Callable[[dict[str, str]], str]
    prints_values: bool = False
    ends_itself: bool = True


class StockKernel:
    """A Kernel (base.py) that speaks Jupyter's own protocol. `argv` may contain {connection_file}."""

    def __init__(self, place: Place, cwd: str, argv: list[str] | None = None, dialect: Dialect | None = None) -> None:
        self._place, self._cwd = place, cwd
        self._dialect = dialect or PYTHON
        self._count = 0
        self._interrupted = False
        self._argv = argv or [place.python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        self._child: Child | None = None
        self._client: AsyncKernelClient | None = None
        #: Of kernels that do not catch what their children and C code print.
        self._pipes: Pipes | None = None
        self._sink: Sink | None = None
        self._death: asyncio.Task[None] | None = None
        self._dead: str | None = None
        self._died = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._running = False

    async def start(self) -> None:
        from jupyter_client.asynchronous.client import AsyncKernelClient  # 0.3 s of imports that not every actor needs

        folder = f"/tmp/.kernel-{secrets.token_hex(4)}"  # noqa: S108  # inside the sandbox
        connection: dict[str, Any] = {
            "transport": "ipc",
            "ip": f"{folder}/s",
            "key": secrets.token_hex(16),
            "signature_scheme": "hmac-sha256",
            **{f"{channel}_port": number for number, channel in enumerate(CHANNELS, 1)},
        }
        connection_file = f"{folder}/connection.json"
        argv = [part.format(connection_file=connection_file) for part in self._argv]
        try:
            await self._launch(argv, {connection_file: json.dumps(connection)})
            outside = f"/proc/{self._place.walls.first_pid}/root{folder}/s"
            client: AsyncKernelClient = AsyncKernelClient()
            client.load_connection_info({**connection, "ip": outside})
            client.context.maxmsgsize = MAX_MESSAGE_BYTES  # of the sockets that it makes from here on
            self._client = client
            client.start_channels(hb=False, stdin=False)
            async with asyncio.timeout(START_LIMIT_S):
                ready = asyncio.create_task(client.wait_for_ready())
                died = asyncio.create_task(self._died.wait())
                await asyncio.wait({ready, died}, return_when=asyncio.FIRST_COMPLETED)
                died.cancel()
                if self._dead is not None:
                    ready.cancel()
                    raise KernelFailed(f"the kernel ended before it was ready: {self._dead}")
                await ready
        except TimeoutError as error:
            await self.stop()
            raise KernelFailed(f"the kernel was not ready after {START_LIMIT_S:.0f} s") from error
        except BaseException:
            await self.stop()
            raise

    async def _launch(self, argv: list[str], files: dict[str, str]) -> None:
        null = os.open(os.devnull, os.O_RDWR)
        outputs = [null, null]
        if self._dialect.prints_values:
            self._pipes = Pipes(self._printed)
            outputs = self._pipes.write_ends
        try:
            request = {"op": "exec", "argv": argv, "files": files}
            self._child = await self._place.enter(request, self._cwd, [null, *outputs])
        finally:
            os.close(null)
            if self._pipes is not None:
                self._pipes.close_write_ends()
                self._pipes.resume()
        self._death = asyncio.create_task(self._watch())

    def _printed(self, piece: Output) -> None:
        if self._sink is not None:
            self._sink(piece)

    async def _watch(self) -> None:
        assert self._child is not None
        how = await self._child.wait()
        self._dead = self._dead or how
        self._died.set()

    async def execute(self, code: str, env: dict[str, str], sink: Sink) -> Finished:
        if self._dead is not None or self._client is None:
            return Finished(ok=False, lost=True, reason=self._dead or "stopped")
        self._running = True
        try:
            if env:
                await self._silently(self._dialect.set_for_cell(env))
            self._count += 1
            self._interrupted = False
            translated = ValuePrinter(sink, self._count) if self._dialect.prints_values else None
            self._sink = translated
            finished = await self._run(code, translated or sink)
            if self._pipes is not None:
                self._pipes.drain()
            self._sink = None
            if translated is not None:
                translated.end(self._interrupted and not finished.ok and not finished.lost)
            if env and not finished.lost:
                await self._silently(self._dialect.restore(env))
            return finished
        finally:
            self._running, self._sink = False, None

    async def _run(self, code: str, sink: Sink) -> Finished:
        assert self._client is not None
        message_id = self._client.execute(code, allow_stdin=False, stop_on_error=False)
        reply = asyncio.create_task(self._client._async_recv_reply(message_id, timeout=None, channel="shell"))
        died = asyncio.create_task(self._died.wait())
        try:
            while True:
                await self._may_read.wait()
                content = await self._next_message(reply, died)
                if content is None:
                    if not died.done():
                        await self._kill("a message over the limit, and what came with it, was lost")
                    return Finished(ok=False, lost=True, reason=self._dead or "ended")
                if content["parent_header"].get("msg_id") != message_id:
                    continue
                if content["msg_type"] == "status" and content["content"]["execution_state"] == "idle":
                    break
                publish(content["msg_type"], content["content"], sink)
            await asyncio.wait({reply, died}, return_when=asyncio.FIRST_COMPLETED)
            if not reply.done():
                return Finished(ok=False, lost=True, reason=self._dead or "ended")
            answer = reply.result()["content"]
            if any(
                item.get("source") == "ask_exit" and not item.get("keepkernel") for item in answer.get("payload", [])
            ):
                await self._exit()
                return Finished(ok=False, lost=True, reason=self._dead or "ended")
            return Finished(ok=answer["status"] == "ok")
        finally:
            for task in (reply, died):
                task.cancel()

    async def _next_message(self, reply: asyncio.Task[Any], died: asyncio.Task[Any]) -> dict[str, Any] | None:
        """What the kernel publishes next. None: it died, or replied long ago and the word for its end has been lost."""
        assert self._client is not None
        message = asyncio.create_task(self._client.get_iopub_msg(timeout=None))
        try:
            if not reply.done():
                await asyncio.wait({message, died, reply}, return_when=asyncio.FIRST_COMPLETED)
            if not message.done() and not died.done():
                await asyncio.wait({message, died}, timeout=LAST_WORDS_S, return_when=asyncio.FIRST_COMPLETED)
            return message.result() if message.done() else None
        finally:
            message.cancel()

    async def _exit(self) -> None:
        """The cell asked for the kernel's end: some end by themselves, others wait for their frontend to end them."""
        if self._dialect.ends_itself:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXIT_LIMIT_S):
                    await self._died.wait()
                    return
        await self._kill("it was asked to end")

    async def _kill(self, reason: str) -> None:
        self._signal(signal.SIGKILL)
        self._dead = self._dead or reason
        await self._died.wait()

    async def _silently(self, code: str) -> None:
        assert self._client is not None
        with contextlib.suppress(queue.Empty, TimeoutError):
            message_id = self._client.execute(code, silent=True, store_history=False, allow_stdin=False)
            await self._client._async_recv_reply(message_id, timeout=10, channel="shell")

    async def configure(self, env: dict[str, str]) -> None:
        if env and self._dead is None:
            await self._silently(self._dialect.set_environment(env))

    async def exercise(self) -> None: ...

    def interrupt(self) -> None:
        if self._running:
            self._interrupted = True
            self._signal(signal.SIGINT)

    def pause(self) -> None:
        self._may_read.clear()
        if self._pipes is not None:
            self._pipes.pause()

    def resume(self) -> None:
        self._may_read.set()
        if self._pipes is not None:
            self._pipes.resume()

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.pidfd >= 0 and self._dead is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)

    async def stop(self) -> None:
        self._signal(signal.SIGKILL)
        if self._death is not None:
            await self._death
        if self._client is not None:
            self._client.stop_channels()
            self._client.context.destroy(linger=0)
            self._client = None
        if self._pipes is not None:
            self._pipes.close()
            self._pipes = None
        if self._child is not None:
            self._child.close()


def publish(kind: str, content: dict[str, Any], sink: Sink) -> None:
    """Jupyter's iopub messages as events; what the contract has no word for is left out."""
    if kind == "execute_input":
        sink(InputAccepted(int(content["execution_count"])))
    elif kind == "stream":
        sink(Output("stderr" if content["name"] == "stderr" else "stdout", content["text"]))
    elif kind in ("execute_result", "display_data", "update_display_data"):
        main, update = kind == "execute_result", kind == "update_display_data"
        sink(Display(content["data"], content.get("metadata") or {}, main, update))
    elif kind == "error":
        sink(CodeError(content["ename"], content["evalue"], tuple(content["traceback"])))


class ValuePrinter:
    """A sink for kernels that show values as they show anything: the last display of a cell becomes its result.

    A picture does not, nor what something else was printed after.
    """

    def __init__(self, sink: Sink, count: int) -> None:
        self._sink, self._count = sink, count
        self._held: Display | None = None
        self._failed = False

    def __call__(self, event: KernelEvent) -> None:
        self._release()
        if isinstance(event, Display) and not any(mime.startswith("image/") for mime in event.data):
            self._held = event
            return
        if isinstance(event, InputAccepted):
            event = InputAccepted(self._count)
        elif isinstance(event, CodeError):
            self._failed = True
            event = CodeError(event.name, event.value.strip(), tuple(ANSI.sub("", line) for line in event.traceback))
        self._sink(event)

    def _release(self) -> None:
        if self._held is not None:
            self._sink(self._held)
            self._held = None

    def end(self, interrupted: bool) -> None:
        """interrupted: and the kernel itself says nothing of it."""
        if self._held is not None and not interrupted:
            self._held = replace(self._held, main=True)
        self._release()
        if interrupted and not self._failed:
            self._sink(CodeError("KeyboardInterrupt", "", ("KeyboardInterrupt",)))


ANSI = re.compile(r"\x1b\[[0-9;]*m")


def _python_set(env: dict[str, str]) -> str:
    return f"import os as _os; _os.environ.update({env!r}); del _os"


def _python_set_for_cell(env: dict[str, str]) -> str:
    return (
        f"import os as _os\n_raybox_before = {{_n: _os.environ.get(_n) for _n in {list(env)!r}}}\n"
        f"_os.environ.update({env!r}); del _os"
    )


RESTORE_PYTHON = """
import os as _os
for _name, _value in _raybox_before.items():
    _os.environ.pop(_name, None) if _value is None else _os.environ.__setitem__(_name, _value)
del _os, _name, _value, _raybox_before
"""

PYTHON = Dialect(_python_set, _python_set_for_cell, lambda _env: RESTORE_PYTHON)
