"""Commands and terminals: arguments of calls -> requests, and their events -> results, without I/O."""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from ._config import ConnectionConfig, seconds
from ._connect import STREAM_TYPE, Message, bytes_of, encode, text_of
from ._envd_models import CommandExitException, CommandResult, ProcessInfo, PtySize
from ._envd_requests import call, milliseconds, stream
from ._errors import InvalidArgumentException, SandboxException
from ._requests import Address, Request

SERVICE = "process.Process"

#: How long a command may take unless told otherwise.
DEFAULT_TIMEOUT_S = 60
#: One message of `stream_input` carries at most this much.
INPUT_CHUNK_BYTES = 32 * 1024

InputKind = Literal["stdin", "pty"]

_SHELL = "/bin/bash"
_TERMINAL = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}

# --- requests --------------------------------------------------------------------------------------------------------


def run(
    config: ConnectionConfig,
    to: Address,
    cmd: str,
    envs: Mapping[str, str] | None,
    user: str | None,
    cwd: str | None,
    stdin: bool | None,
    timeout: float | None,
    limit_s: float | None,
) -> Request:
    process = {"cmd": _SHELL, "args": ["-l", "-c", _text(cmd, "cmd")], "envs": dict(envs or {})}
    if cwd is not None:
        process["cwd"] = _text(cwd, "cwd")
    message = {"process": process, "stdin": bool(stdin)}
    return stream(config, to, "run_command", f"{SERVICE}/Start", message, timeout, limit_s, user)


def create_pty(
    config: ConnectionConfig,
    to: Address,
    size: PtySize,
    user: str | None,
    cwd: str | None,
    envs: Mapping[str, str] | None,
    timeout: float | None,
    limit_s: float | None,
) -> Request:
    process = {"cmd": _SHELL, "args": ["-i", "-l"], "envs": {**_TERMINAL, **(envs or {})}}
    if cwd is not None:
        process["cwd"] = _text(cwd, "cwd")
    message = {"process": process, "pty": {"size": _size(size)}}
    return stream(config, to, "run_command", f"{SERVICE}/Start", message, timeout, limit_s, user)


def connect(config: ConnectionConfig, to: Address, pid: int, timeout: float | None, limit_s: float | None) -> Request:
    message = {"process": _selector(pid)}
    return stream(config, to, "connect_command", f"{SERVICE}/Connect", message, timeout, limit_s)


def list_commands(config: ConnectionConfig, to: Address, limit_s: float | None) -> Request:
    return call(config, to, "list_commands", f"{SERVICE}/List", {}, limit_s)


def kill(config: ConnectionConfig, to: Address, pid: int, limit_s: float | None) -> Request:
    message = {"process": _selector(pid), "signal": "SIGNAL_SIGKILL"}
    return call(config, to, "kill_command", f"{SERVICE}/SendSignal", message, limit_s)


def send_input(
    config: ConnectionConfig, to: Address, pid: int, kind: InputKind, data: str | bytes, limit_s: float | None
) -> Request:
    message = {"process": _selector(pid), "input": {kind: text_of(input_bytes(data))}}
    return call(config, to, "send_stdin", f"{SERVICE}/SendInput", message, limit_s)


def close_stdin(config: ConnectionConfig, to: Address, pid: int, limit_s: float | None) -> Request:
    return call(config, to, "close_stdin", f"{SERVICE}/CloseStdin", {"process": _selector(pid)}, limit_s)


def resize(config: ConnectionConfig, to: Address, pid: int, size: PtySize, limit_s: float | None) -> Request:
    message = {"process": _selector(pid), "pty": {"size": _size(size)}}
    return call(config, to, "resize_pty", f"{SERVICE}/Update", message, limit_s)


def stream_input(
    config: ConnectionConfig,
    to: Address,
    timeout: float | None,
    body: Iterable[bytes] | AsyncIterable[bytes],
) -> Request:
    """`body`: the envelopes of `input_start` and `input_data`."""
    total_s = seconds(timeout, None, "timeout")
    headers = [*to.envd_headers, ("Content-Type", STREAM_TYPE), ("Connect-Protocol-Version", "1")]
    if total_s is not None:
        headers.append(("Connect-Timeout-Ms", milliseconds(total_s)))
    return Request(
        "stream_input",
        to.sandbox_id,
        None,
        "POST",
        f"{to.envd_url}/{SERVICE}/StreamInput",
        tuple(headers),
        body,
        None,
        total_s,
        connect_retries=config.connect_retries,
        proxy=config.proxy,
        logger=config.logger,
    )


KEEPALIVE = encode({"keepalive": {}})


def input_start(pid: int) -> bytes:
    return encode({"start": {"process": _selector(pid)}})


def input_data(kind: InputKind, data: str | bytes) -> list[bytes]:
    """Envelopes of one piece of input, none for an empty one."""
    raw = input_bytes(data)
    cuts = range(0, len(raw), INPUT_CHUNK_BYTES)
    return [encode({"data": {"input": {kind: text_of(raw[cut : cut + INPUT_CHUNK_BYTES])}}}) for cut in cuts]


def input_bytes(data: str | bytes) -> bytes:
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise InvalidArgumentException(f"expected text or bytes as input, got {type(data).__name__}")


def _text(text: object, name: str) -> str:
    if not isinstance(text, str) or "\0" in text:
        raise InvalidArgumentException(f"{name} must be text without a zero byte, got {text!r}")
    return text


def _selector(pid: object) -> Message:
    if isinstance(pid, bool) or not isinstance(pid, int) or not 0 < pid < 2**32:
        raise InvalidArgumentException(f"expected the id of a process, got {pid!r}")
    return {"pid": pid}


def _size(size: PtySize) -> Message:
    if not 0 < size.rows < 2**16 or not 0 < size.cols < 2**16:
        raise InvalidArgumentException(f"expected a terminal of at least one row and column, got {size!r}")
    return {"cols": size.cols, "rows": size.rows}


# --- answers ---------------------------------------------------------------------------------------------------------


def processes(message: Message) -> list[ProcessInfo]:
    """Raises KeyError, TypeError or AttributeError for what is no list of processes."""
    found = []
    for one in message.get("processes") or ():
        config = one.get("config") or {}
        found.append(
            ProcessInfo(
                pid=one["pid"],
                tag=one.get("tag"),
                cmd=config.get("cmd", ""),
                args=list(config.get("args") or ()),
                envs=dict(config.get("envs") or {}),
                cwd=config.get("cwd"),
            )
        )
    return found


class Output(NamedTuple):
    """One piece of output, of one kind; the others are None."""

    stdout: str | None = None
    stderr: str | None = None
    pty: bytes | None = None


class CommandRun:
    """Puts a command's result together from its events.

    pid: known after the first event. stdout, stderr: what was written so far; None if it is not kept. result: None
    until the command has ended.
    """

    def __init__(self, retain_output: bool = True) -> None:
        self.pid: int | None = None
        self.result: CommandResult[Any] | None = None
        self._retain = retain_output
        self._stdout: list[str] = []
        self._stderr: list[str] = []
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._decode_stderr = codecs.getincrementaldecoder("utf-8")("replace").decode

    @property
    def stdout(self) -> str | None:
        return _joined(self._stdout) if self._retain else None

    @property
    def stderr(self) -> str | None:
        return _joined(self._stderr) if self._retain else None

    def take(self, message: Message) -> list[Output]:
        """The output that an event brings. Raises SandboxException (internal) when it is no event of a command."""
        try:
            return self._take(message["event"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SandboxException(f"the server sent an event of a command that cannot be used: {error!r}") from error

    def _take(self, event: Message) -> list[Output]:
        if "start" in event and self.pid is None:
            self.pid = int(event["start"]["pid"])
        elif self.pid is None and "keepalive" not in event:
            raise SandboxException("the server sent something else than the start of a command")
        elif "data" in event and self.result is None:
            return self._data(event["data"])
        elif "end" in event and self.result is None:
            return self._end(event["end"])
        return []  # keepalives, and what a newer server may send

    def _data(self, data: Message) -> list[Output]:
        if "pty" in data:
            return [Output(pty=bytes_of(data["pty"]))]
        if "stdout" in data:
            return self._texts(self._decode(bytes_of(data["stdout"])), "")
        if "stderr" in data:
            return self._texts("", self._decode_stderr(bytes_of(data["stderr"])))
        return []

    def _end(self, end: Message) -> list[Output]:
        # A character that was never completed comes out now.
        rest = self._texts(self._decode(b"", True), self._decode_stderr(b"", True))
        exit_code = int(end.get("exitCode", 0))
        self.result = CommandResult(self.stderr, self.stdout, exit_code, end.get("error") or None)
        return rest

    def _texts(self, stdout: str, stderr: str) -> list[Output]:
        found = []
        if stdout:
            found.append(Output(stdout=stdout))
        if stderr:
            found.append(Output(stderr=stderr))
        if self._retain:
            self._stdout += [one.stdout for one in found if one.stdout is not None]
            self._stderr += [one.stderr for one in found if one.stderr is not None]
        return found


def _joined(parts: list[str]) -> str:
    """The parts become one, so that asking again and again costs nothing."""
    parts[:] = ["".join(parts)]
    return parts[0]


def checked(result: CommandResult[Any]) -> CommandResult[Any]:
    """Raises CommandExitException unless the command ended with zero."""
    if result.exit_code != 0:
        raise CommandExitException(result.stderr, result.stdout, result.exit_code, result.error)
    return result
