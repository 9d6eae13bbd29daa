"""From what an agent answers to plain values (values.py). Pure; raises AgentError for what they cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast, get_args

from raybox_actors.agent.errors import AgentError
from raybox_actors.agent.values import (
    EntryInfo,
    FileType,
    ProcessEnded,
    ProcessInfo,
    ProcessSpec,
    PtySize,
    WatchEvent,
    WatchKind,
)
from raybox_actors.agent.wire import broken

Value = TypeVar("Value")
FILE_TYPES: Final = frozenset(get_args(FileType))
WATCH_KINDS: Final = frozenset(get_args(WatchKind))


def checked(make: Callable[[Any], Value], answer: Any) -> Value:
    """`make(answer)`; AgentError where it fails."""
    try:
        return make(answer)
    except AgentError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise broken("an answer that makes no sense") from None


def entry(said: Any) -> EntryInfo:
    if said["file_type"] not in FILE_TYPES:
        raise ValueError(said["file_type"])
    target = said.get("symlink_target")
    return EntryInfo(
        name=text(said["name"]),
        path=text(said["path"]),
        file_type=cast(FileType, said["file_type"]),
        size_bytes=whole(said["size_bytes"], 1 << 63),
        mode=whole(said["mode"], 0o10000),
        permissions=text(said["permissions"]),
        owner=text(said["owner"]),
        group=text(said["group"]),
        modified_at_s=seconds(said["modified_at_s"]),
        symlink_target=None if target is None else text(target),
        metadata=texts(said.get("metadata") or {}),
    )


def entries(said: Any) -> list[EntryInfo]:
    return [entry(one) for one in listed(said)]


def watch_events(said: Any) -> list[WatchEvent]:
    return [watch_event(one) for one in listed(said)]


def watch_event(said: Any) -> WatchEvent:
    if said["kind"] not in WATCH_KINDS:
        raise ValueError(said["kind"])
    about = said.get("entry")
    return WatchEvent(text(said["name"]), cast(WatchKind, said["kind"]), None if about is None else entry(about))


def processes(said: Any) -> list[ProcessInfo]:
    return [ProcessInfo(pid(one), spec(one["spec"])) for one in listed(said)]


def spec(said: Any) -> ProcessSpec:
    size = said.get("pty")
    return ProcessSpec(
        command=text(said["command"]),
        arguments=tuple(map(text, listed(said.get("arguments") or []))),
        environment=texts(said.get("environment") or {}),
        cwd=None if said.get("cwd") is None else text(said["cwd"]),
        user=text(said.get("user", "user")),
        stdin=bool(said.get("stdin", True)),
        pty=None if size is None else PtySize(whole(size["columns"], 1 << 16), whole(size["rows"], 1 << 16)),
        tag=None if said.get("tag") is None else text(said["tag"]),
        timeout_s=None if said.get("timeout_s") is None else seconds(said["timeout_s"]),
    )


def pid(said: Any) -> int:
    return whole(said["pid"], 1 << 31)


def ended(said: Any) -> ProcessEnded:
    code, error = said["exit_code"], said.get("error")
    if type(code) is not int or not -1 <= code <= 255 or type(said["exited"]) is not bool:
        raise ValueError(code)
    return ProcessEnded(code, said["exited"], text(said["status"]), None if error is None else text(error))


def text(said: Any) -> str:
    """Fit for UTF-8: names of files need not be."""
    if not isinstance(said, str):
        raise TypeError(said)
    return said.encode(errors="replace").decode() if not said.isascii() else said


def texts(said: Any) -> dict[str, str]:
    return {text(key): text(value) for key, value in said.items()}


def listed(said: Any) -> list[Any]:
    if not isinstance(said, list):
        raise TypeError(said)
    return said


def whole(said: Any, limit: int) -> int:
    if type(said) is not int or not 0 <= said < limit:
        raise ValueError(said)
    return said


def seconds(said: Any) -> float:
    if type(said) not in (int, float) or not -1e12 < said < 1e12:
        raise ValueError(said)
    return float(said)
