"""Messages of `filesystem.Filesystem` (contract 4.6) as plain values. Pure. Parsers raise BadRequest."""

from __future__ import annotations

from typing import Final

from raybox_actors.agent.values import EntryInfo, FileType, WatchEvent, WatchKind
from raybox_actors.fields import Json

from .protojson import Message
from .wire import timestamp

MAX_PATH_CHARS: Final = 4096
MAX_DEPTH: Final = 2**31 - 1
KEEPALIVE: Final[Json] = {"keepalive": {}}
STARTED: Final[Json] = {"start": {}}

_TYPES: Final[dict[FileType, str]] = {
    "file": "FILE_TYPE_FILE",
    "directory": "FILE_TYPE_DIRECTORY",
    "symlink": "FILE_TYPE_SYMLINK",
    "unspecified": "FILE_TYPE_UNSPECIFIED",
}
_KINDS: Final[dict[WatchKind, str]] = {
    "create": "EVENT_TYPE_CREATE",
    "write": "EVENT_TYPE_WRITE",
    "remove": "EVENT_TYPE_REMOVE",
    "rename": "EVENT_TYPE_RENAME",
    "chmod": "EVENT_TYPE_CHMOD",
}


def path(message: Message, name: str = "path") -> str:
    return message.text(name, MAX_PATH_CHARS)


def depth(message: Message) -> int:
    return message.integer("depth", 0, MAX_DEPTH) or 1


def entry_body(entry: EntryInfo) -> Json:
    body: Json = {
        "name": entry.name,
        "type": _TYPES[entry.file_type],
        "path": entry.path,
        "size": str(entry.size_bytes),
        "mode": entry.mode,
        "permissions": entry.permissions,
        "owner": entry.owner,
        "group": entry.group,
        "modifiedTime": modified(entry.modified_at_s),
    }
    if entry.symlink_target is not None:
        body["symlinkTarget"] = entry.symlink_target
    if entry.metadata:
        body["metadata"] = dict(entry.metadata)
    return body


def modified(at_s: float) -> str:
    """A file may carry any time at all; the wire has the years 1 to 9999."""
    try:
        return timestamp(at_s)
    except (OverflowError, ValueError):
        return timestamp(0)


def event_body(event: WatchEvent) -> Json:
    body: Json = {"name": event.name, "type": _KINDS[event.kind]}
    if event.entry is not None:
        body["entry"] = entry_body(event.entry)
    return body


def upload_body(entry: EntryInfo) -> Json:
    """One element of the answer to POST /files. `metadata` only if there is any: clients compare the keys."""
    body: Json = {"name": entry.name, "path": entry.path, "type": "file"}
    if entry.metadata:
        body["metadata"] = dict(entry.metadata)
    return body
