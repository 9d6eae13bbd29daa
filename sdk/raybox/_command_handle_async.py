"""A command that runs. Its twin is `_command_handle_sync.py`: same methods, same order, same docstrings."""

from __future__ import annotations

import asyncio
from typing import Any, Generic

from . import _processes
from ._callbacks import OutputHandler, called
from ._channel_async import Channel, Messages
from ._envd_models import CommandResult, OutputT, PtyOutput
from ._errors import SandboxException
from ._processes import CommandRun, InputKind, Output, checked
from ._requests import Request


class AsyncCommandHandle(Generic[OutputT]):
    """A command or terminal that was started or connected to; it runs on when this object is gone.

    What it writes is fetched in the background, and goes to the callbacks, which are awaited one by one. Nothing is
    lost meanwhile, the command just waits when the way is full.
    """

    def __init__(
        self,
        channel: Channel,
        messages: Messages,
        run: CommandRun,
        input_kind: InputKind,
        on_pty: OutputHandler[PtyOutput] | None,
        on_stdout: OutputHandler[str] | None,
        on_stderr: OutputHandler[str] | None,
    ) -> None:
        """For `commands` and `pty` alone."""
        self._channel = channel
        self._messages = messages
        self._run = run
        self._kind = input_kind
        self._handlers = Output(on_stdout, on_stderr, on_pty)  # type: ignore[arg-type]  # one for each of its fields
        self._failure: BaseException | None = None
        self._task = asyncio.get_running_loop().create_task(self._pump())

    @classmethod
    async def open(
        cls,
        channel: Channel,
        request: Request,
        retain_output: bool = True,
        input_kind: InputKind = "stdin",
        on_pty: OutputHandler[PtyOutput] | None = None,
        on_stdout: OutputHandler[str] | None = None,
        on_stderr: OutputHandler[str] | None = None,
    ) -> AsyncCommandHandle[Any]:
        """For `commands` and `pty` alone."""
        run = CommandRun(retain_output)
        messages = await Messages.open(channel, request)
        try:
            while run.pid is None:
                await take(messages, run)
        except BaseException:
            await messages.close()
            raise
        return cls(channel, messages, run, input_kind, on_pty, on_stdout, on_stderr)

    @property
    def pid(self) -> int:
        """Id of the process, as it is seen inside the sandbox."""
        assert self._run.pid is not None  # known since the first event
        return self._run.pid

    @property
    def stdout(self) -> OutputT:
        """What was written so far and has been fetched; None if it is not kept."""
        return self._run.stdout  # type: ignore[return-value]  # the type says whether it is kept

    @property
    def stderr(self) -> OutputT:
        """What was written so far and has been fetched; None if it is not kept."""
        return self._run.stderr  # type: ignore[return-value]  # the type says whether it is kept

    @property
    def error(self) -> str | None:
        """What ended the command, if that was no plain exit; None while it runs."""
        return self._run.result.error if self._run.result is not None else None

    @property
    def exit_code(self) -> int | None:
        """None while it runs, or as long as nobody has fetched its end."""
        return self._run.result.exit_code if self._run.result is not None else None

    async def wait(self) -> CommandResult[OutputT]:
        """Wait for the end of the command; can be repeated.

        Raises CommandExitException when the exit code is not zero, TimeoutException at the command's `timeout`,
        SandboxNotRunningException, SandboxException (disconnected, or the outcome is lost).
        """
        await asyncio.wait([self._task])  # which goes on if it is the waiting that is cancelled
        if self._failure is not None:
            raise self._failure
        if self._run.result is None:
            raise SandboxException("disconnected from the command before its end")
        return checked(self._run.result)

    async def kill(self) -> bool:
        """End the command with SIGKILL. True if it ran, False if not any more. Can be repeated."""
        config, address = self._channel.config, self._channel.address
        return await self._channel.try_call(_processes.kill(config, address, self.pid, None), unless="not_found")

    async def disconnect(self) -> None:
        """Stop listening; the command runs on and can be connected to again. Can be repeated."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def send_stdin(self, data: str | bytes, request_timeout: float | None = None) -> None:
        """Write into the command's standard input, which must have been asked for with `stdin=True`, or the terminal.

        Raises NotFoundException when it has ended.
        """
        config, address = self._channel.config, self._channel.address
        request = _processes.send_input(config, address, self.pid, self._kind, data, request_timeout)
        await self._channel.call(request)

    async def close_stdin(self, request_timeout: float | None = None) -> None:
        """Let the command see the end of its standard input. Raises NotFoundException when it has ended."""
        config, address = self._channel.config, self._channel.address
        await self._channel.call(_processes.close_stdin(config, address, self.pid, request_timeout))

    async def _pump(self) -> None:
        try:
            while self._run.result is None:
                for output in await take(self._messages, self._run):
                    for handler, piece in zip(self._handlers, output, strict=True):
                        if handler is not None and piece is not None:
                            await called(handler, piece)  # type: ignore[arg-type]  # of the same field
        except asyncio.CancelledError:
            pass  # `disconnect`, or the end of the loop
        except Exception as error:
            self._failure = error
        finally:
            await self._messages.close()


async def take(messages: Messages, run: CommandRun) -> list[Output]:
    """The output that the next event brings. Raises what the failure of the stream means."""
    message = await messages.next()
    if message is None:
        raise SandboxException("the stream of the command's output ended before the command: disconnected?")
    outputs = run.take(message)
    if run.result is not None:
        await messages.next()  # the end of the stream, so that the connection can be used again
    return outputs
