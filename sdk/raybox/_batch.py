"""Items of a batch -> lines of JSON, and lines -> what became of them, without I/O."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from ._config import ConnectionConfig
from ._errors import InvalidArgumentException, SandboxException
from ._models import Execution, ExecutionError
from ._requests import Request, control_stream
from ._run import Run

ItemKind = Literal["cell", "program"]
ItemStatus = Literal["ok", "error", "timeout", "oom", "invalid", "deadline", "infrastructure"]

#: Items that are on their way before the server has said how many it runs at once.
FIRST_WINDOW = 16
#: So many may be on their way for each that runs, and so many more: a server gives a sandbox up to four at once.
WINDOW_FACTOR, WINDOW_MORE = 8, 16
#: Servers say something every few seconds.
IDLE_S = 60.0


@dataclass(frozen=True)
class ExecItem:
    """One piece of code of a batch.

    id: yours, given back with the result. kind: a `cell` of a fresh kernel, with results as of `run_code`; or a
    `program` that is run as a file of its own, with stdin and an exit status. language: `python` if nobody says
    otherwise. stdin, files (name below the working folder -> content) and fetch (names of files that the program leaves
    and that are wanted): of programs. timeout_s, language, kind: None: as the batch says. env_vars: added to the
    batch's.
    """

    code: str
    id: str | None = None
    language: str | None = None
    stdin: str | bytes | None = None
    files: Mapping[str, str | bytes] | None = None
    timeout_s: float | None = None
    env_vars: Mapping[str, str] | None = None
    kind: ItemKind | None = None
    fetch: tuple[str, ...] = ()


@dataclass(frozen=True)
class ItemResult:
    """What became of one item.

    index: its place among the items, from 0 on. status: `ok`; `error`: the code raised, or its program ended with
    another status than 0; `timeout`, `oom`: of its own doing; `invalid`: it could not mean anything, and `error` says
    why; `deadline`: the batch's time was up; `infrastructure`: no fault of the code, however often it was tried.
    execution: its output and results. error: what it raised, or what went wrong; None if it is `ok`, and for a program
    that ended with another status. exit_code: of a program that ended by itself; negative: the signal that ended it.
    files: those that were to be fetched and were there. attempts: on how many sandboxes it was begun.
    should_mask_sample: it says nothing of the code, so it must not be scored.
    """

    index: int
    id: str | None
    status: ItemStatus
    execution: Execution = field(default_factory=Execution)
    error: ExecutionError | None = None
    exit_code: int | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    duration_s: float = 0.0
    attempts: int = 0
    should_mask_sample: bool = False

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def stdout(self) -> str:
        """All of it."""
        return "".join(self.execution.logs.stdout)

    @property
    def stderr(self) -> str:
        """All of it."""
        return "".join(self.execution.logs.stderr)


Items = Iterable[str | ExecItem]
AsyncItems = Iterable[str | ExecItem] | AsyncIterable[str | ExecItem]


class BatchOptions(TypedDict, total=False):
    """What a batch can be told: see `Pool.exec_many`."""

    max_in_flight: int | None
    deadline_s: float | None
    language: str | None
    kind: ItemKind
    timeout_s: float | None
    fresh: bool
    env_vars: Mapping[str, str] | None


def request_of(config: ConnectionConfig, body: AsyncIterable[bytes]) -> Request:
    return control_stream(config, "exec_many", "/raybox/exec_many", body, IDLE_S)


def options_of(options: BatchOptions, create: Request) -> dict[str, Any]:
    """What the first line says. create: the request that would make a sandbox by itself."""
    return {**{name: value for name, value in options.items() if value is not None}, "create": create.payload}


def options_line(options: Mapping[str, Any], left_s: float | None) -> bytes:
    """left_s: of the batch's time."""
    return _line({**options, "deadline_s": left_s})


def item_line(item: object) -> bytes:
    """Raises InvalidArgumentException."""
    if isinstance(item, str):
        return _line({"code": item})
    if not isinstance(item, ExecItem):
        raise InvalidArgumentException(f"an item of a batch is a str or an ExecItem, not {type(item).__name__}")
    said: dict[str, Any] = {
        "code": item.code,
        "id": item.id,
        "language": item.language,
        "kind": item.kind,
        "timeout_s": item.timeout_s,
        "env_vars": dict(item.env_vars) if item.env_vars else None,
        "files": {name: _base64(data) for name, data in item.files.items()} if item.files else None,
        "fetch": list(item.fetch) or None,
    }
    if item.stdin is not None:
        said |= {"stdin": item.stdin} if isinstance(item.stdin, str) else {"stdin_base64": _base64(item.stdin)}
    return _line({name: value for name, value in said.items() if value is not None})


def id_of(item: object) -> str | None:
    return item.id if isinstance(item, ExecItem) else None


def result_of(event: Mapping[str, Any]) -> ItemResult:
    """Of a `result` line. Raises SandboxException (internal) where the server does not keep to the protocol."""
    try:
        return _result_of(event)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SandboxException(f"the server sent a result that cannot be used: {error!r}") from error


def _result_of(event: Mapping[str, Any]) -> ItemResult:
    run = Run()
    for line in event.get("events", ()):
        run._take(line)
    execution = run.execution
    error = execution.error
    if (said := event.get("error")) is not None:
        kind = str(said.get("kind"))
        error = ExecutionError(kind, str(said.get("message")), "", kind=kind)
    return ItemResult(
        index=event["index"],
        id=event.get("id"),
        status=event["status"],
        execution=execution,
        error=error,
        exit_code=event.get("exit_code"),
        files={name: base64.b64decode(text) for name, text in event.get("files", {}).items()},
        duration_s=event.get("duration_s", 0.0),
        attempts=event.get("attempts", 0),
        should_mask_sample=event.get("should_mask_sample", False),
    )


def unreached(index: int, name: str | None, status: ItemStatus, why: str) -> ItemResult:
    """Of an item that has no result of the server's."""
    return ItemResult(index, name, status, error=ExecutionError(status, why, ""), should_mask_sample=True)


def window_of(max_in_flight: int) -> int:
    """How many items may be on their way: enough for the server never to wait, few enough for it to read them all."""
    return WINDOW_FACTOR * max_in_flight + WINDOW_MORE


def _base64(data: str | bytes) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def _line(value: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(value).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise InvalidArgumentException(f"an item or option cannot be sent: {error}") from error
