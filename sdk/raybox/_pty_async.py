"""Terminals. Its twin is `_pty_sync.py`: same methods, same order, same docstrings."""

from __future__ import annotations

from . import _processes
from ._callbacks import OutputHandler
from ._channel_async import Channel
from ._command_handle_async import AsyncCommandHandle
from ._command_input_async import AsyncCommandInputHandle
from ._envd_models import PtyOutput, PtySize


class Pty:
    """Terminals of a sandbox: `sandbox.pty`."""

    def __init__(self, channel: Channel) -> None:
        """For `Sandbox` alone."""
        self._channel = channel
        self._to = channel.config, channel.address

    async def kill(self, pid: int, request_timeout: float | None = None) -> bool:
        """End a terminal's process with SIGKILL. True if it ran, False if not any more. Can be repeated."""
        return await self._channel.try_call(_processes.kill(*self._to, pid, request_timeout), unless="not_found")

    async def send_stdin(self, pid: int, data: bytes, request_timeout: float | None = None) -> None:
        """Type into a terminal. Raises NotFoundException when its process has ended."""
        await self._channel.call(_processes.send_input(*self._to, pid, "pty", data, request_timeout))

    def stream_input(self, pid: int, *, timeout: float | None = 60.0) -> AsyncCommandInputHandle:
        """Type into a terminal as a stream, in order, over one connection.

        timeout: seconds for all of it; None and 0: no limit. Nothing is sent before the handle's first `send`.
        """
        return AsyncCommandInputHandle(self._channel, pid, "pty", timeout)

    async def create(
        self,
        size: PtySize,
        on_data: OutputHandler[PtyOutput],
        user: str | None = None,
        cwd: str | None = None,
        envs: dict[str, str] | None = None,
        timeout: float | None = 60,
        request_timeout: float | None = None,
    ) -> AsyncCommandHandle[str]:
        """Start an interactive login shell in a terminal of this size.

        user, cwd, envs, timeout, request_timeout: as for `commands.run`; TERM is xterm-256color and the locale UTF-8
        unless `envs` says otherwise. What it shows comes as bytes. Not idempotent: each call starts one.
        """
        request = _processes.create_pty(*self._to, size, user, cwd, envs, timeout, request_timeout)
        return await AsyncCommandHandle.open(self._channel, request, input_kind="pty", on_pty=on_data)

    async def connect(
        self,
        pid: int,
        on_data: OutputHandler[PtyOutput],
        timeout: float | None = 60,
        request_timeout: float | None = None,
    ) -> AsyncCommandHandle[str]:
        """Listen to a terminal that is there; what it showed before is not repeated.

        timeout: seconds that the connection lasts; None and 0: no limit. request_timeout: seconds until it begins.
        Raises NotFoundException when its process has ended.
        """
        request = _processes.connect(*self._to, pid, timeout, request_timeout)
        return await AsyncCommandHandle.open(self._channel, request, input_kind="pty", on_pty=on_data)

    async def resize(self, pid: int, size: PtySize, request_timeout: float | None = None) -> None:
        """Tell a terminal its new size. Raises NotFoundException when its process has ended."""
        await self._channel.call(_processes.resize(*self._to, pid, size, request_timeout))
