"""Terminals. Its twin is `_pty_async.py`: same methods, same order, same docstrings."""

from __future__ import annotations

from collections.abc import Iterable

from . import _processes
from ._channel_sync import Channel
from ._command_handle_sync import CommandHandle
from ._commands_sync import stream_input
from ._envd_models import PtySize


class Pty:
    """Terminals of a sandbox: `sandbox.pty`."""

    def __init__(self, channel: Channel) -> None:
        """For `Sandbox` alone."""
        self._channel = channel
        self._to = channel.config, channel.address

    def kill(self, pid: int, request_timeout: float | None = None) -> bool:
        """End a terminal's process with SIGKILL. True if it ran, False if not any more. Can be repeated."""
        return self._channel.try_call(_processes.kill(*self._to, pid, request_timeout), unless="not_found")

    def send_stdin(self, pid: int, data: bytes, request_timeout: float | None = None) -> None:
        """Type into a terminal. Raises NotFoundException when its process has ended."""
        self._channel.call(_processes.send_input(*self._to, pid, "pty", data, request_timeout))

    def stream_input(self, pid: int, data: Iterable[str | bytes], *, timeout: float | None = 60.0) -> None:
        """Type into a terminal as a stream, in order, over one connection.

        timeout: seconds for all of it; None and 0: no limit. Raises NotFoundException, TimeoutException.
        """
        stream_input(self._channel, pid, "pty", data, timeout)

    def create(
        self,
        size: PtySize,
        user: str | None = None,
        cwd: str | None = None,
        envs: dict[str, str] | None = None,
        timeout: float | None = 60,
        request_timeout: float | None = None,
    ) -> CommandHandle[str]:
        """Start an interactive login shell in a terminal of this size.

        user, cwd, envs, timeout, request_timeout: as for `commands.run`; TERM is xterm-256color and the locale UTF-8
        unless `envs` says otherwise. What it shows comes as bytes. Not idempotent: each call starts one.
        """
        request = _processes.create_pty(*self._to, size, user, cwd, envs, timeout, request_timeout)
        return CommandHandle(self._channel, request, input_kind="pty")

    def connect(
        self,
        pid: int,
        timeout: float | None = 60,
        request_timeout: float | None = None,
    ) -> CommandHandle[str]:
        """Listen to a terminal that is there; what it showed before is not repeated.

        timeout: seconds that the connection lasts; None and 0: no limit. request_timeout: seconds until it begins.
        Raises NotFoundException when its process has ended.
        """
        request = _processes.connect(*self._to, pid, timeout, request_timeout)
        return CommandHandle(self._channel, request, input_kind="pty")

    def resize(self, pid: int, size: PtySize, request_timeout: float | None = None) -> None:
        """Tell a terminal its new size. Raises NotFoundException when its process has ended."""
        self._channel.call(_processes.resize(*self._to, pid, size, request_timeout))
