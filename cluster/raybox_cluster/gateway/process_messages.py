"""Messages of `process.Process` (contract 4.5) as plain values. Pure. Parsers raise BadRequest and AgentError."""

from __future__ import annotations

import base64
from typing import Final

from raybox_actors.agent.errors import AgentError
from raybox_actors.agent.values import (
    ProcessEnded,
    ProcessEvent,
    ProcessInfo,
    ProcessOutput,
    ProcessSelector,
    ProcessSpec,
    ProcessStarted,
    PtySize,
)
from raybox_actors.errors import BadRequest
from raybox_actors.fields import Json

from .protojson import Message

MAX_UINT32: Final = 2**32 - 1
MAX_PTY_SIDE: Final = 65535
DEFAULT_PTY: Final = PtySize(columns=80, rows=24)
SIGNALS: Final = {"SIGNAL_UNSPECIFIED": 0, "SIGNAL_SIGTERM": 15, "SIGNAL_SIGKILL": 9}
KEEPALIVE: Final[Json] = {"event": {"keepalive": {}}}


def parse_start(message: Message, user: str, timeout_s: float | None) -> ProcessSpec:
    config = message.message("process")
    if config is None or not config.text("cmd"):
        raise BadRequest("process.cmd is required")
    environment = config.text_map("envs")
    for name in environment:
        if not name or "=" in name:
            raise BadRequest(f"process.envs: {name[:64]!r} cannot be an environment variable")
    return ProcessSpec(
        command=config.text("cmd"),
        arguments=config.texts("args"),
        environment=environment,
        cwd=config.text("cwd") or None,
        user=user,
        stdin=message.flag("stdin", default=True),
        pty=pty_size(message),
        tag=message.text("tag") or None,
        timeout_s=timeout_s,
    )


def pty_size(message: Message) -> PtySize | None:
    pty = message.message("pty")
    if pty is None:
        return None
    size = pty.message("size")
    if size is None:
        return DEFAULT_PTY
    columns, rows = size.integer("cols", 0, MAX_PTY_SIDE), size.integer("rows", 0, MAX_PTY_SIDE)
    return PtySize(columns or DEFAULT_PTY.columns, rows or DEFAULT_PTY.rows)


def selector(message: Message) -> ProcessSelector:
    chosen = message.message("process")
    if chosen is not None:
        if chosen.has("pid"):
            return ProcessSelector(pid=chosen.integer("pid", 0, MAX_UINT32))
        if chosen.has("tag"):
            return ProcessSelector(tag=chosen.text("tag"))
    raise BadRequest("process.pid or process.tag is required")


def process_input(message: Message) -> tuple[bytes, bool]:
    """The bytes, and whether they are for the terminal."""
    data = message.message("input")
    if data is None or not (data.has("pty") or data.has("stdin")):
        raise BadRequest("input.stdin or input.pty is required")
    pty = data.has("pty")
    return data.data("pty" if pty else "stdin"), pty


def signal_number(message: Message) -> int:
    number = message.enum("signal", SIGNALS)
    if number not in (9, 15):
        raise AgentError("unimplemented", f"invalid signal: {number}")
    return number


def event_body(event: ProcessEvent) -> Json:
    match event:
        case ProcessStarted(pid):
            return {"event": {"start": {"pid": pid}}}
        case ProcessOutput(stream, data):
            return {"event": {"data": {stream: base64.b64encode(data).decode("ascii")}}}
        case ProcessEnded():
            end: Json = {"exitCode": event.exit_code, "exited": event.exited, "status": event.status}
            if event.error is not None:
                end["error"] = event.error
            return {"event": {"end": end}}


def list_body(processes: list[ProcessInfo]) -> Json:
    return {"processes": [_info_body(process) for process in processes]}


def _info_body(process: ProcessInfo) -> Json:
    spec = process.spec
    config: Json = {"cmd": spec.command, "args": list(spec.arguments), "envs": dict(spec.environment)}
    if spec.cwd is not None:
        config["cwd"] = spec.cwd
    body: Json = {"config": config, "pid": process.pid}
    if spec.tag is not None:
        body["tag"] = spec.tag
    return body
