"""A context: one kernel process with a working directory, and the executions that wait for it, in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from raybox_actors.errors import InternalError
from raybox_actors.executions import Execution
from raybox_actors.kernels.base import CodeError, Finished, InputAccepted, Kernel, KernelEvent, KernelFailed
from raybox_actors.values import ContextInfo

logger = logging.getLogger(__name__)

KernelFactory = Callable[[], Kernel]

REMOVED = "The context was removed"
#: An interrupt that came before its cell began is sent this long after the beginning was reported. The report comes a
#: moment before the kernel listens to signals; the second one is for a kernel that was held up in that very moment.
LATE_INTERRUPTS_S = (0.02, 0.5)
#: Starting a kernel takes about 10 ms; an execution whose kernel died does not wait longer than this to hear of it.
QUICK_START_S = 0.25
#: How long the first process of a sandbox may outlive its kernels when all of it is killed.
LAST_MOMENTS_S = 0.1


@dataclass(frozen=True, slots=True)
class TimeoutPolicy:
    """What happens to a cell that outlives its timeout."""

    interrupt_grace_s: float = 3.0  #: after SIGINT; then the kernel's process group is killed and the context restarted


class Context:
    """One kernel at a time; the same id, language and cwd over restarts. All methods run on one loop.

    sandbox_ends: waits so many seconds at most, and tells whether the whole sandbox has ended by then. Kernels end a
    moment before it, and their executions must not be told that they are to blame.
    oom_kills: how many processes of the sandbox the system has killed for want of memory so far.
    replaces_kernels: have a fresh one as soon as one is lost; else with the next cell.
    """

    def __init__(
        self,
        info: ContextInfo,
        make_kernel: KernelFactory,
        policy: TimeoutPolicy,
        sandbox_ends: Callable[[float], Awaitable[bool]] | None = None,
        oom_kills: Callable[[], int] = lambda: 0,
        replaces_kernels: bool = True,
    ) -> None:
        self.info = info
        self._make_kernel, self._policy = make_kernel, policy
        self._sandbox_ends, self._oom_kills = sandbox_ends, oom_kills
        self._replaces_kernels = replaces_kernels
        self._oom_kills_before = 0  #: `current` began
        self._kernel: Kernel | None = None
        #: Of executions: whoever has it has the kernel to itself. First come, first served.
        self._turn = asyncio.Lock()
        #: Of whoever makes a kernel, so that there is never a second one.
        self._making = asyncio.Lock()
        #: The execution whose turn it is, until it is finished; its kernel may still be starting.
        self.current: Execution | None = None
        self._begun = False  #: the kernel has taken up `current`: an interrupt finds it
        self._interrupt_asked = False  #: before it had
        self._ended_by: CodeError | None = None  #: why `current` loses its kernel, if that is our doing
        self._used = False  #: a cell began in this kernel, so it may have state to lose
        self._late_env: dict[str, str] = {}  #: given while a kernel starts, which may not have heard of it
        self._removed = False

    async def start(self) -> None:
        """Bring the kernel up, if it is not. Raises KernelFailed; after `remove`, always."""
        async with self._making:
            if self._kernel is None:
                self._kernel = await self._new_kernel()
                self._used = False

    async def _new_kernel(self) -> Kernel:
        self._late_env = {}
        kernel = self._make_kernel()
        try:
            await kernel.start()
        except KernelFailed as error:
            # The zygote died while it forked; the next one is asked, once.
            if self._removed or not isinstance(error.__cause__, ConnectionError):
                raise
            kernel = self._make_kernel()
            await kernel.start()
        if self._removed:
            await kernel.stop()
            raise KernelFailed(REMOVED)
        if self._late_env:
            await kernel.configure(self._late_env)
        return kernel

    async def configure(self, env: dict[str, str]) -> None:
        """Add environment variables, when the cells that are running or waiting have ended."""
        async with self._turn:
            if env and self._kernel is not None:
                await self._kernel.configure(env)
            else:
                self._late_env = {**self._late_env, **env}

    async def exercise(self) -> None:
        if self._kernel is not None:
            await self._kernel.exercise()

    async def run(self, execution: Execution) -> None:
        """Wait for the turn, run the cell, finish the execution whatever happens."""
        try:
            async with self._turn:
                if not execution.done:  # aborted while it waited
                    await self._run(execution)
        except asyncio.CancelledError:
            execution.finish(closed("The sandbox ended while the cell ran"))
            raise
        except KernelFailed as error:
            if self._removed:
                execution.finish(closed(REMOVED))
            else:
                execution.fail(InternalError(f"the kernel of context {self.info.context_id} could not start: {error}"))
        except Exception:
            logger.exception("execution %s", execution.request.execution_id)
            execution.fail(InternalError("the execution failed inside the pool"))

    async def _run(self, execution: Execution, again: bool = True) -> None:
        self.current, self._begun, self._interrupt_asked, self._ended_by = execution, False, False, None
        self._oom_kills_before = self._oom_kills()
        try:
            kernel = await self._kernel_for_cell()
            if self._interrupt_asked:
                execution.abort()
                return
            kernel.resume()
            if execution.request.timeout_s is None:
                finished, overdue = await self._execute(kernel, execution), False
            else:
                finished, overdue = await self._run_limited(kernel, execution, execution.request.timeout_s)
            kernel.resume()
            if not finished.lost:
                execution.finish(self._verdict(execution, finished, overdue))
                return
            # It died before it had any state, and the cell never began: nobody needs to know.
            again = again and not (self._begun or self._used or self._ended_by or overdue or self._interrupt_asked)
            await self._lose(kernel, execution, None if again else self._verdict(execution, finished, overdue))
        finally:
            self.current = None
        if again:
            await self._run(execution, again=False)

    async def _kernel_for_cell(self) -> Kernel:
        while True:
            if self._removed:
                raise KernelFailed(REMOVED)
            await self.start()
            if self._kernel is not None:  # `restart` or `remove` may have taken it in this very moment
                return self._kernel

    async def _execute(self, kernel: Kernel, execution: Execution) -> Finished:
        loop = asyncio.get_running_loop()

        def interrupt_late() -> None:
            if self.current is execution and not execution.done and self._kernel is kernel:
                kernel.interrupt()

        def sink(event: KernelEvent) -> None:
            if isinstance(event, InputAccepted) and not self._begun:
                self._begun = self._used = True
                if self._interrupt_asked:
                    for delay_s in LATE_INTERRUPTS_S:
                        loop.call_later(delay_s, interrupt_late)
            execution.add(event)

        return await kernel.execute(execution.request.code, execution.request.env_vars, sink)

    async def _run_limited(self, kernel: Kernel, execution: Execution, timeout_s: float) -> tuple[Finished, bool]:
        running = asyncio.create_task(self._execute(kernel, execution))
        try:
            await asyncio.wait({running}, timeout=timeout_s)
            if running.done():
                return running.result(), False
            execution.hold_errors()  # the KeyboardInterrupt that follows is ours, not the code's
            self.interrupt()
            await asyncio.wait({running}, timeout=self._policy.interrupt_grace_s)
            if not running.done():
                kernel.resume()
                await kernel.stop()
            return await running, True
        finally:
            running.cancel()

    def _verdict(self, execution: Execution, finished: Finished, overdue: bool) -> CodeError | None:
        """What to add to the events: nothing where the kernel told all there is to tell."""
        state = "the state of the context is gone" if finished.lost else "the state of the context is kept"
        if finished.lost and self._ended_by is not None:
            return self._ended_by
        if finished.lost and self._oom_kills() > self._oom_kills_before:
            value = f"the sandbox ran out of memory and the kernel was killed; {state}"
            return CodeError("OutOfMemory", value, (f"OutOfMemory: {value}",), kind="oom")
        if overdue:
            value = f"the cell did not end within {execution.request.timeout_s:g} s and was interrupted; {state}"
            return CodeError("ExecutionTimeout", value, (f"ExecutionTimeout: {value}",), kind="timeout")
        if finished.lost and not self._begun:
            return closed(f"The kernel had ended before the cell began ({finished.reason}); {state}")
        if finished.lost:
            return closed(f"The kernel ended while the cell ran ({finished.reason}); {state}")
        return None

    async def _lose(self, kernel: Kernel, execution: Execution, verdict: CodeError | None) -> None:
        """After a kernel's death: finish the execution, have a fresh kernel for the next cell.

        A failure is told to that next cell. `verdict` None: the execution is not to be finished.
        """
        replacing = asyncio.create_task(self._replace(kernel))
        try:
            await asyncio.wait({replacing}, timeout=QUICK_START_S)
            replaced = replacing.done() and replacing.result()
            if not replaced and not self._removed and self._sandbox_ends and await self._sandbox_ends(LAST_MOMENTS_S):
                await asyncio.get_running_loop().create_future()  # until `Session.close` says what became of it
            if verdict is not None:
                execution.finish(verdict)
            await replacing
        finally:
            if not replacing.done():  # only when we are cancelled: the sandbox is closing
                replacing.cancel()
                await asyncio.wait({replacing})

    async def _replace(self, kernel: Kernel) -> bool:
        if self._kernel is not kernel:  # `restart` or `remove` took it, and sees to the rest
            return True
        self._kernel = None
        await kernel.stop()
        if not self._replaces_kernels:
            return False
        try:
            await self.start()
        except KernelFailed:
            return False
        return True

    def interrupt(self) -> None:
        """SIGINT to `current`, as soon as the kernel has taken it up; nothing while there is none."""
        if self.current is None:
            return
        self._interrupt_asked = True
        # A kernel that waits for its output to be read would not hear of it.
        self.current.drain(self._policy.interrupt_grace_s)
        if self._begun and self._kernel is not None:
            self._kernel.interrupt()

    def press(self, execution: Execution, full: bool) -> None:
        """The observer of `execution` is behind, or no longer: stop reading the kernel's output, or go on."""
        if self._kernel is not None and execution is self.current:
            (self._kernel.pause if full else self._kernel.resume)()

    async def restart(self) -> None:
        """A fresh kernel; a running cell ends with ContextRestarting, waiting ones run in the new one.

        Raises KernelFailed; then the next cell tries again.
        """
        async with self._making:
            await self._end_kernel(CodeError("ContextRestarting", "Context was restarted", ()))
            if self._removed:
                raise KernelFailed(REMOVED)
            self._kernel = await self._new_kernel()
            self._used = False

    async def remove(self) -> None:
        """End the kernel; a running cell and waiting ones end with an error. Idempotent.

        A kernel that is being started elsewhere is ended by whoever starts it.
        """
        self._removed = True
        await self._end_kernel(closed(REMOVED))

    async def _end_kernel(self, reason: CodeError) -> None:
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            self._ended_by = reason
            kernel.resume()  # one that waits for its output to be read could not be told from one that hangs
            await kernel.stop()


def closed(value: str) -> CodeError:
    """What E2B calls an execution whose kernel went away under it."""
    return CodeError("UnexpectedEndOfExecution", value, ())
