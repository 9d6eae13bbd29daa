"""Running commands. Its twin is `_commands_async.py`: same methods, same order, same docstrings."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, overload

from . import _processes
from ._channel_sync import Channel, Messages
from ._command_handle_sync import CommandHandle
from ._envd_models import CommandResult, ProcessInfo
from ._errors import InvalidArgumentException
from ._processes import InputKind
from ._responses import parsed_by

OutputHandler = Callable[[str], Any]


class Commands:
    """Commands of a sandbox: `sandbox.commands`."""

    def __init__(self, channel: Channel) -> None:
        """For `Sandbox` alone."""
        self._channel = channel
        self._to = channel.config, channel.address

    def list(self, request_timeout: float | None = None) -> builtins.list[ProcessInfo]:
        """What runs and was started through `commands` or `pty`."""
        request = _processes.list_commands(*self._to, request_timeout)
        return parsed_by(_processes.processes, request, self._channel.call(request))

    def kill(self, pid: int, request_timeout: float | None = None) -> bool:
        """End a command with SIGKILL. True if it ran, False if not any more. Can be repeated."""
        return self._channel.try_call(_processes.kill(*self._to, pid, request_timeout), unless="not_found")

    def send_stdin(self, pid: int, data: str | bytes, request_timeout: float | None = None) -> None:
        """Write into the standard input of a command that was started with `stdin=True`.

        Raises NotFoundException when it has ended.
        """
        self._channel.call(_processes.send_input(*self._to, pid, "stdin", data, request_timeout))

    def stream_input(self, pid: int, data: Iterable[str | bytes], *, timeout: float | None = 60.0) -> None:
        """Write into the standard input of a command as a stream, in order, over one connection.

        timeout: seconds for all of it; None and 0: no limit. Raises NotFoundException, TimeoutException.
        """
        stream_input(self._channel, pid, "stdin", data, timeout)

    def close_stdin(self, pid: int, request_timeout: float | None = None) -> None:
        """Let a command see the end of its standard input. Raises NotFoundException when it has ended."""
        self._channel.call(_processes.close_stdin(*self._to, pid, request_timeout))

    @overload
    def run(
        self,
        cmd: str,
        background: Literal[False] | None = None,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        on_stdout: OutputHandler | None = None,
        on_stderr: OutputHandler | None = None,
        stdin: bool | None = None,
        timeout: float | None = 60,
        request_timeout: float | None = None,
        *,
        retain_output: Literal[True] = True,
    ) -> CommandResult[str]: ...
    @overload
    def run(
        self,
        cmd: str,
        background: Literal[False] | None = None,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        on_stdout: OutputHandler | None = None,
        on_stderr: OutputHandler | None = None,
        stdin: bool | None = None,
        timeout: float | None = 60,
        request_timeout: float | None = None,
        *,
        retain_output: bool,
    ) -> CommandResult[str | None]: ...
    @overload
    def run(
        self,
        cmd: str,
        background: Literal[True],
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        on_stdout: OutputHandler | None = None,
        on_stderr: OutputHandler | None = None,
        stdin: bool | None = None,
        timeout: float | None = 60,
        request_timeout: float | None = None,
        *,
        retain_output: Literal[True] = True,
    ) -> CommandHandle[str]: ...
    @overload
    def run(
        self,
        cmd: str,
        background: Literal[True],
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        on_stdout: OutputHandler | None = None,
        on_stderr: OutputHandler | None = None,
        stdin: bool | None = None,
        timeout: float | None = 60,
        request_timeout: float | None = None,
        *,
        retain_output: bool,
    ) -> CommandHandle[str | None]: ...
    def run(
        self,
        cmd: str,
        background: bool | None = None,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        on_stdout: OutputHandler | None = None,
        on_stderr: OutputHandler | None = None,
        stdin: bool | None = None,
        timeout: float | None = 60,
        request_timeout: float | None = None,
        *,
        retain_output: bool = True,
    ) -> CommandResult[Any] | CommandHandle[Any]:
        """Run a line in a login shell (`bash -l -c`), and wait for its end unless `background`.

        envs: environment of this command alone. user: who runs it, default `user`. cwd: where; relative to the user's
        home, which is the default. on_stdout, on_stderr: called with each piece of text as it arrives, in order; what
        they raise ends the call but not the command. stdin: whether it gets a standard input that can be written to.
        timeout: seconds until the command is killed; None and 0: never. request_timeout: seconds until it is known to
        have started. retain_output: False keeps nothing in memory, and stdout and stderr of the result are None.
        Returns a CommandResult; with `background` a handle as soon as it has started.
        Raises CommandExitException when the exit code is not zero, TimeoutException, InvalidArgumentException (cwd),
        AuthenticationException (user), SandboxNotRunningException, SandboxException (the outcome is lost).
        A call that is left early leaves the command running until its timeout. Not idempotent: it is never retried.
        """
        request = _processes.run(*self._to, cmd, envs, user, cwd, stdin, timeout, request_timeout)
        handle: CommandHandle[Any] = CommandHandle(
            self._channel, request, retain_output, on_stdout=on_stdout, on_stderr=on_stderr
        )
        if background:
            return handle
        try:
            return handle.wait()
        finally:
            handle.disconnect()

    @overload
    def connect(
        self,
        pid: int,
        timeout: float | None = 60,
        request_timeout: float | None = None,
        *,
        retain_output: Literal[True] = True,
    ) -> CommandHandle[str]: ...
    @overload
    def connect(
        self,
        pid: int,
        timeout: float | None = 60,
        request_timeout: float | None = None,
        *,
        retain_output: bool,
    ) -> CommandHandle[str | None]: ...
    def connect(
        self,
        pid: int,
        timeout: float | None = 60,
        request_timeout: float | None = None,
        *,
        retain_output: bool = True,
    ) -> CommandHandle[Any]:
        """Listen to a command that runs; what it wrote before is not repeated.

        timeout: seconds that the connection lasts, and not the command; None and 0: no limit. request_timeout: seconds
        until it begins. retain_output: False keeps no output in memory. Raises NotFoundException when it has ended.
        """
        request = _processes.connect(*self._to, pid, timeout, request_timeout)
        return CommandHandle(self._channel, request, retain_output)


def stream_input(
    channel: Channel, pid: int, kind: InputKind, data: Iterable[str | bytes], timeout: float | None
) -> None:
    """Send input to a command or terminal, and wait until it is all there."""
    if isinstance(data, (str, bytes, bytearray)):
        raise InvalidArgumentException("expected an iterable of pieces; for a single one there is send_stdin")

    def body() -> Iterator[bytes]:
        yield _processes.input_start(pid)
        for piece in data:
            yield from _processes.input_data(kind, piece)

    messages = Messages(channel, _processes.stream_input(channel.config, channel.address, timeout, body()))
    try:
        while messages.next() is not None:
            pass
    finally:
        messages.close()
