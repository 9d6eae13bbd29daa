"""A command that runs. Its twin is `_command_handle_async.py`: same methods, same order, same docstrings."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Generic

from . import _processes
from ._channel_sync import Channel, Messages
from ._envd_models import CommandResult, OutputT, PtyOutput, Stderr, Stdout
from ._errors import SandboxException
from ._processes import CommandRun, InputKind, Output, checked
from ._requests import Request

Handler = Callable[[Any], Any]


class CommandHandle(Generic[OutputT]):
    """A command or terminal that was started or connected to; it runs on when this object is gone.

    What it writes is fetched by `wait` or by iterating, which gives a tuple (stdout, stderr, pty) per piece with one of
    them set: text, text, bytes. Nothing is lost meanwhile, the command just waits when the way is full.
    """

    def __init__(
        self,
        channel: Channel,
        request: Request,
        retain_output: bool = True,
        input_kind: InputKind = "stdin",
        on_stdout: Handler | None = None,
        on_stderr: Handler | None = None,
    ) -> None:
        """For `commands` and `pty` alone."""
        self._channel = channel
        self._run = CommandRun(retain_output)
        self._messages = Messages(channel, request)
        try:
            while self._run.pid is None:
                self._take()
        except BaseException:
            self._messages.close()
            raise
        self._kind: InputKind = input_kind
        self._on_stdout = on_stdout
        self._on_stderr = on_stderr

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

    def __iter__(self) -> Generator[tuple[Stdout | None, Stderr | None, PtyOutput | None], None, None]:
        """The output from here on, to the end of the command. Raises what `wait` does, but for the exit code."""
        while self._run.result is None:
            yield from self._take()

    def wait(
        self,
        on_pty: Handler | None = None,
        on_stdout: Handler | None = None,
        on_stderr: Handler | None = None,
    ) -> CommandResult[OutputT]:
        """Wait for the end of the command; can be repeated.

        on_pty, on_stdout, on_stderr: called with each piece; the latter two instead of those given to `commands.run`.
        Raises CommandExitException when the exit code is not zero, TimeoutException at the command's `timeout`,
        SandboxNotRunningException, SandboxException (disconnected, or the outcome is lost).
        """
        on_stdout = on_stdout or self._on_stdout
        on_stderr = on_stderr or self._on_stderr
        for stdout, stderr, pty in self:
            if stdout is not None and on_stdout is not None:
                on_stdout(stdout)
            if stderr is not None and on_stderr is not None:
                on_stderr(stderr)
            if pty is not None and on_pty is not None:
                on_pty(pty)
        assert self._run.result is not None  # or iterating had not ended
        return checked(self._run.result)

    def kill(self) -> bool:
        """End the command with SIGKILL. True if it ran, False if not any more. Can be repeated."""
        config, address = self._channel.config, self._channel.address
        return self._channel.try_call(_processes.kill(config, address, self.pid, None), unless="not_found")

    def disconnect(self) -> None:
        """Stop listening; the command runs on and can be connected to again. Can be repeated."""
        self._messages.close()

    def send_stdin(self, data: str | bytes, request_timeout: float | None = None) -> None:
        """Write into the command's standard input, which must have been asked for with `stdin=True`, or the terminal.

        Raises NotFoundException when it has ended.
        """
        config, address = self._channel.config, self._channel.address
        self._channel.call(_processes.send_input(config, address, self.pid, self._kind, data, request_timeout))

    def close_stdin(self, request_timeout: float | None = None) -> None:
        """Let the command see the end of its standard input. Raises NotFoundException when it has ended."""
        config, address = self._channel.config, self._channel.address
        self._channel.call(_processes.close_stdin(config, address, self.pid, request_timeout))

    def _take(self) -> list[Output]:
        message = self._messages.next()
        if message is None:
            raise SandboxException("the stream of the command's output ended before the command: disconnected?")
        outputs = self._run.take(message)
        if self._run.result is not None:
            self._messages.next()  # the end of the stream, so that the connection can be used again
        return outputs
