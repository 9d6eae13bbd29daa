"""The blocking sandbox. Its twin is `_sandbox_async.py`: same methods, same order, same docstrings."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload

from . import _requests, _responses, _transport
from ._channel_sync import Channel
from ._commands_sync import Commands
from ._config import ApiParams, ConnectionConfig, seconds
from ._either import also_on_class
from ._envd_models import SandboxMetrics
from ._filesystem_sync import Filesystem
from ._follow_sync import follow
from ._git_sync import Git
from ._models import (
    Context,
    Execution,
    ExecutionError,
    OutputHandler,
    OutputMessage,
    Result,
    RunCodeLanguage,
    SandboxInfo,
    SandboxListOrder,
    SandboxOnResume,
    SandboxQuery,
)
from ._paginator import PaginatorBase
from ._pty_sync import Pty
from ._requests import Request
from ._run import Run
from ._sandbox_base import SandboxBase, SandboxOpts, options_of

_DOWN = frozenset({502})


class SandboxPaginator(PaginatorBase):
    """Pages of sandboxes: call `next_items` while `has_next`."""

    def next_items(self, **opts: Unpack[ApiParams]) -> list[SandboxInfo]:
        """The next page, which may be empty; `opts` hold for this call only.

        Raises InvalidArgumentException when there is no next page. After any other error the same page can be asked
        for again.
        """
        request = self._request(opts)
        return self._turn(request, _transport.send(request))


class Sandbox(SandboxBase):
    """A machine of its own in the pool, where code runs and keeps its state between calls.

    Made by `Sandbox.create`, found again by `Sandbox.connect`; it lives until its timeout or `kill`, not until this
    object is gone. As a context manager it is killed at the end. Objects may be shared by threads and pickled.
    """

    def __init__(self, **opts: Unpack[SandboxOpts]) -> None:
        """For a sandbox that runs already and whose tokens are known; use `create` or `connect` instead."""
        super().__init__(**opts)
        self._channel = Channel(self._config, self._address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def files(self) -> Filesystem:
        """Files of the sandbox."""
        return Filesystem(self._channel)

    @property
    def commands(self) -> Commands:
        """Commands that run in the sandbox."""
        return Commands(self._channel)

    @property
    def pty(self) -> Pty:
        """Terminals of the sandbox."""
        return Pty(self._channel)

    @property
    def git(self) -> Git:
        """Git in the sandbox."""
        return Git(self.commands)

    @classmethod
    def create(
        cls,
        template: str | None = None,
        timeout: int | None = None,
        metadata: dict[str, str] | None = None,
        envs: dict[str, str] | None = None,
        secure: bool | None = None,  # noqa: ARG003  # accepted as the E2B SDK does; every sandbox is secured
        allow_internet_access: bool | None = None,
        mcp: object | None = None,
        network: Mapping[str, Any] | None = None,
        iam: Mapping[str, Any] | None = None,
        lifecycle: Mapping[str, Any] | None = None,
        volume_mounts: Mapping[str, Any] | None = None,
        logger: logging.Logger | None = None,
        idempotency_key: str | None = None,
        wait_s: float | None = None,
        locality: Literal["caller"] | None = None,
        **opts: Unpack[ApiParams],
    ) -> Self:
        """Get a sandbox that is ready to run code.

        template: name or id of what it looks like at birth. timeout: seconds until it ends by itself, default 300.
        metadata: shown in `list` and `get_info`. envs: environment of everything that runs in it. network, iam,
        lifecycle, volume_mounts: as in the E2B SDK. idempotency_key: 1 to 255 of a-z, 0-9 and "-"; a repeated key gives
        the same sandbox again. locality: "caller" prefers this process's node, if it has joined the pool's Ray cluster,
        and means nothing elsewhere. wait_s: for a free sandbox, on top of request_timeout; None: as long as the pool
        says. logger: is told of every request (INFO). mcp is not supported yet. opts hold for all calls on the sandbox.
        Raises ServiceBusyException or RateLimitException when there is no room even after the retries,
        AuthenticationException, InvalidArgumentException, NotFoundException (template).
        A failed call may leave a sandbox behind; it ends at its timeout.
        """
        config = ConnectionConfig.resolve(opts, logger)
        request = _requests.create(
            config,
            template or cls.default_template,
            timeout=timeout,
            metadata=metadata,
            envs=envs,
            allow_internet_access=allow_internet_access,
            mcp=mcp,
            network=network,
            iam=iam,
            lifecycle=lifecycle,
            volume_mounts=volume_mounts,
            idempotency_key=idempotency_key,
            wait_s=wait_s,
            locality=locality,
        )
        return cls._born(config, request)

    @classmethod
    def _born(cls, config: ConnectionConfig, request: _requests.Request) -> Self:
        """What a create has made."""
        return cls._made(_responses.access(request, _transport.send(request)), config)

    @classmethod
    def _made(cls, access: _responses.Access, config: ConnectionConfig) -> Self:
        sandbox = cls(**options_of(access, config))
        sandbox.timings_ms = access.timings_ms
        return sandbox

    @classmethod
    def list(
        cls,
        query: SandboxQuery | None = None,
        limit: int | None = None,
        next_token: str | None = None,
        order: SandboxListOrder | None = None,
        **opts: Unpack[ApiParams],
    ) -> SandboxPaginator:
        """Sandboxes of this key, in pages; nothing is asked for before `next_items`.

        limit: per page, 1 to 100. order: by start time over all pages, newest first by default. next_token: of a
        paginator that stopped there.
        """
        return SandboxPaginator(query, limit, next_token, order, **opts)

    @classmethod
    def _connect_by_id(
        cls,
        sandbox_id: str,
        timeout: int | None = None,
        logger: logging.Logger | None = None,
        *,
        on_resume: SandboxOnResume = "restore",
        **opts: Unpack[ApiParams],
    ) -> Sandbox:  # not Self: the decorator cannot carry it
        return cls._found(ConnectionConfig.resolve(opts, logger), sandbox_id, timeout, on_resume)

    @classmethod
    def _found(cls, config: ConnectionConfig, sandbox_id: str, timeout: int | None, on_resume: SandboxOnResume) -> Self:
        request = _requests.connect(config, sandbox_id, timeout, on_resume)
        return cls(**options_of(_responses.access(request, _transport.send(request)), config))

    @also_on_class(_connect_by_id)
    def connect(
        self,
        timeout: int | None = None,
        *,
        on_resume: SandboxOnResume = "restore",
        **opts: Unpack[ApiParams],
    ) -> Sandbox:
        """Attach to a sandbox that exists, resuming it if it is paused: `Sandbox.connect(sandbox_id, timeout=None)`.

        timeout: seconds from now that it is to live at least; a running sandbox's life is never shortened.
        on_resume: "reboot" drops the memory of a paused sandbox and starts it from its disk.
        Raises SandboxNotFoundException when it has ended or never was. Can be repeated.
        """
        config = self._config.with_options(opts)
        request = _requests.connect(config, self._id, timeout, on_resume)
        _responses.access(request, _transport.send(request))
        return self

    @classmethod
    def _kill_by_id(cls, sandbox_id: str, **opts: Unpack[ApiParams]) -> bool:
        request = _requests.kill(ConnectionConfig.resolve(opts), sandbox_id)
        return _transport.end(request)

    @also_on_class(_kill_by_id)
    def kill(self, **opts: Unpack[ApiParams]) -> bool:
        """End the sandbox and everything in it; also `Sandbox.kill(sandbox_id)`.

        True if it was there, False if not any more. Can be repeated.
        """
        request = _requests.kill(self._config.with_options(opts), self._id)
        return _transport.end(request)

    @classmethod
    def _set_timeout_by_id(cls, sandbox_id: str, timeout: int, **opts: Unpack[ApiParams]) -> None:
        _transport.send(_requests.set_timeout(ConnectionConfig.resolve(opts), sandbox_id, timeout))

    @also_on_class(_set_timeout_by_id)
    def set_timeout(self, timeout: int, **opts: Unpack[ApiParams]) -> None:
        """Let the sandbox end `timeout` seconds from now, be it later or sooner than before.

        Also `Sandbox.set_timeout(sandbox_id, timeout)`. Raises SandboxNotFoundException.
        """
        _transport.send(_requests.set_timeout(self._config.with_options(opts), self._id, timeout))

    @classmethod
    def _get_info_by_id(cls, sandbox_id: str, **opts: Unpack[ApiParams]) -> SandboxInfo:
        request = _requests.info(ConnectionConfig.resolve(opts), sandbox_id)
        return _responses.sandbox_info(request, _transport.send(request))

    @also_on_class(_get_info_by_id)
    def get_info(self, **opts: Unpack[ApiParams]) -> SandboxInfo:
        """What the control plane knows of the sandbox; also `Sandbox.get_info(sandbox_id)`.

        Raises SandboxNotFoundException when it has ended. Does not resume a paused one.
        """
        request = _requests.info(self._config.with_options(opts), self._id)
        return _responses.sandbox_info(request, _transport.send(request))

    @classmethod
    def _get_metrics_by_id(
        cls,
        sandbox_id: str,
        start: datetime | None = None,
        end: datetime | None = None,
        **opts: Unpack[ApiParams],
    ) -> builtins.list[SandboxMetrics]:
        request = _requests.get_metrics(ConnectionConfig.resolve(opts), sandbox_id, start, end)
        return _responses.metrics(request, _transport.send(request))

    @also_on_class(_get_metrics_by_id)
    def get_metrics(
        self,
        start: datetime | None = None,
        end: datetime | None = None,
        **opts: Unpack[ApiParams],
    ) -> builtins.list[SandboxMetrics]:
        """What the sandbox used, every few seconds; also `Sandbox.get_metrics(sandbox_id)`.

        start, end: of the samples; default all there are; without a zone they are local time.
        Raises SandboxNotFoundException.
        """
        request = _requests.get_metrics(self._config.with_options(opts), self._id, start, end)
        return _responses.metrics(request, _transport.send(request))

    @classmethod
    def _update_network_by_id(cls, sandbox_id: str, network: Mapping[str, Any], **opts: Unpack[ApiParams]) -> None:
        _transport.send(_requests.update_network(ConnectionConfig.resolve(opts), sandbox_id, network))

    @also_on_class(_update_network_by_id)
    def update_network(self, network: Mapping[str, Any], **opts: Unpack[ApiParams]) -> None:
        """Replace what the sandbox may reach; also `Sandbox.update_network(sandbox_id, network)`.

        network: `allow_internet_access`, `allow_out`, `deny_out`, `dns_servers`, `egress_proxy`, `rules`, as for
        `create`; what is not named is cleared. Raises SandboxNotFoundException.
        """
        _transport.send(_requests.update_network(self._config.with_options(opts), self._id, network))

    def is_running(self, request_timeout: float | None = None) -> bool:
        """Whether the sandbox answers; False when it has ended or is paused. Raises when that cannot be known."""
        limit_s = seconds(request_timeout, self._config.request_timeout, "request_timeout")
        request = _requests.health(self._config, self._address, limit_s)
        return _transport.send(request, _DOWN).status != 502

    @overload
    def run_code(
        self,
        code: str,
        language: RunCodeLanguage | None = None,
        *,
        on_stdout: OutputHandler[OutputMessage] | None = None,
        on_stderr: OutputHandler[OutputMessage] | None = None,
        on_result: OutputHandler[Result] | None = None,
        on_error: OutputHandler[ExecutionError] | None = None,
        envs: dict[str, str] | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
        execution_id: str | None = None,
        detach: bool = False,
    ) -> Execution: ...
    @overload
    def run_code(
        self,
        code: str,
        language: None = None,
        context: Context | str | None = None,
        on_stdout: OutputHandler[OutputMessage] | None = None,
        on_stderr: OutputHandler[OutputMessage] | None = None,
        on_result: OutputHandler[Result] | None = None,
        on_error: OutputHandler[ExecutionError] | None = None,
        envs: dict[str, str] | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
        execution_id: str | None = None,
        detach: bool = False,
    ) -> Execution: ...
    def run_code(
        self,
        code: str,
        language: RunCodeLanguage | None = None,
        context: Context | str | None = None,
        on_stdout: OutputHandler[OutputMessage] | None = None,
        on_stderr: OutputHandler[OutputMessage] | None = None,
        on_result: OutputHandler[Result] | None = None,
        on_error: OutputHandler[ExecutionError] | None = None,
        envs: dict[str, str] | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
        execution_id: str | None = None,
        detach: bool = False,
    ) -> Execution:
        """Run code and wait for its end. Variables stay: the next call in the same context sees them.

        language: run in that language's default context; default Python. context: run in this context (or its id)
        instead. on_stdout, on_stderr, on_result, on_error: called with each piece as it arrives, in order; what they
        raise ends the call and interrupts the code. envs: environment variables of this execution alone.
        timeout: seconds the whole execution may take, default 300; 0 = no limit; then the code is interrupted.
        request_timeout: seconds until its answer begins. execution_id: 1 to 64 letters, digits, "_" and "-": the code
        runs at most once under it, however often and from wherever it is called; a repeat gets the same events, and so
        does this call when it loses its connection. detach: the code outlives this call, for `attach_execution`.
        Returns an Execution; what the code raised is its `error`, never an exception from here.
        Raises TimeoutException, SandboxNotRunningException (the sandbox ended before or during the run),
        SandboxUnreachableException, SandboxException (the outcome is lost), NotFoundException (context; or, with
        status_code 410, an execution that is no longer remembered), InvalidArgumentException (also when the
        execution_id is of other code).
        Leaving the call early by any exception, cancellation included, interrupts the code unless it is detached; its
        context lives on. Not idempotent, and never retried here, without an execution_id.
        """

        def ask(from_event: int) -> Request:
            return _requests.execute(
                self._config,
                self._address,
                code,
                language,
                context,
                envs,
                timeout,
                request_timeout,
                execution_id,
                detach,
                from_event,
            )

        run = Run(on_stdout, on_stderr, on_result, on_error)
        if execution_id is None:
            return follow(self._channel, ask, run)
        interrupt = None if detach else self._interrupt(execution_id, _requests.INTERRUPT_TIMEOUT_S)
        follow(self._channel, ask, run, reattach=True, interrupt=interrupt)
        return run.whole()

    def attach_execution(
        self,
        execution_id: str,
        from_event: int = 0,
        on_stdout: OutputHandler[OutputMessage] | None = None,
        on_stderr: OutputHandler[OutputMessage] | None = None,
        on_result: OutputHandler[Result] | None = None,
        on_error: OutputHandler[ExecutionError] | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> Execution:
        """The events of an execution that somebody started under this id, and wait for its end.

        from_event: number of the first event to have, from 0. Of long output only the newest is kept once it was read;
        `lost_events` of what is returned says how many are missing. on_stdout, on_stderr, on_result, on_error: as of
        `run_code`. timeout: seconds to wait, default 300; 0 = no limit. request_timeout: seconds until the answer
        begins. Leaving the call early interrupts nothing, and a lost connection is taken up again; may be repeated.
        Raises NotFoundException (never started; with status_code 410: no longer remembered), TimeoutException,
        SandboxNotRunningException, SandboxUnreachableException.
        """

        def ask(number: int) -> Request:
            return _requests.attach_execution(
                self._config, self._address, execution_id, number, timeout, request_timeout
            )

        run = Run(on_stdout, on_stderr, on_result, on_error, from_event=from_event)
        return follow(self._channel, ask, run, reattach=True)

    def interrupt_execution(self, execution_id: str, request_timeout: float | None = None) -> None:
        """Interrupt code that runs, or is about to, under this id; nothing happens to what has ended. May be repeated.

        Raises NotFoundException for an id that was never used, or is no longer remembered.
        """
        limit_s = seconds(request_timeout, self._config.request_timeout, "request_timeout")
        self._channel.send(self._interrupt(execution_id, limit_s))

    def _interrupt(self, execution_id: str, limit_s: float | None) -> Request:
        return _requests.interrupt_execution(self._config, self._address, execution_id, limit_s)

    def create_code_context(
        self,
        cwd: str | None = None,
        language: RunCodeLanguage | None = None,
        request_timeout: float | None = None,
    ) -> Context:
        """Start another kernel in the sandbox.

        cwd: its working directory, default /home/user. language: default Python. request_timeout: seconds.
        Not idempotent: each call starts one.
        """
        request = _requests.create_context(self._config, self._address, cwd, language, request_timeout)
        return _responses.context(request, self._channel.send(request))

    def remove_code_context(self, context: Context | str) -> None:
        """End a context (or the one with this id); what runs in it ends too. Raises NotFoundException."""
        self._channel.send(_requests.remove_context(self._config, self._address, context))

    def list_code_contexts(self) -> builtins.list[Context]:
        """The contexts there are, in order of creation."""
        request = _requests.list_contexts(self._config, self._address)
        return _responses.contexts(request, self._channel.send(request))

    def restart_code_context(self, context: Context | str) -> None:
        """Give a context (or the one with this id) a fresh kernel; its variables are gone. Raises NotFoundException."""
        self._channel.send(_requests.restart_context(self._config, self._address, context))
