"""Files: arguments of calls -> requests, and answers -> values, without I/O."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Iterable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from ._config import ConnectionConfig, seconds
from ._connect import Message
from ._envd_models import EntryInfo, FilesystemEvent, FilesystemEventType, FileType, WriteInfo
from ._envd_requests import call, path_of, stream
from ._errors import InvalidArgumentException, LimitException, SandboxException
from ._requests import Address, Request
from ._responses import Reply, broken_reply, parsed

#: How long a streamed download may stand still.
STREAM_IDLE_S = 60.0
#: What `read` takes into memory at most; `format="stream"` has no such limit.
MAX_READ_BYTES = 2 * 1024**3
#: How deep `list` may look: beyond this nothing is left that a path could name.
MAX_DEPTH = 2**32 - 1

SERVICE = "filesystem.Filesystem"
BARE = "application/octet-stream"

_TYPES = {
    "FILE_TYPE_FILE": FileType.FILE,
    "FILE_TYPE_DIRECTORY": FileType.DIR,
    "FILE_TYPE_SYMLINK": FileType.SYMLINK,
    1: FileType.FILE,
    2: FileType.DIR,
    3: FileType.SYMLINK,
    "file": FileType.FILE,
    "dir": FileType.DIR,
    "symlink": FileType.SYMLINK,
}
_EVENTS = {
    "EVENT_TYPE_CREATE": FilesystemEventType.CREATE,
    "EVENT_TYPE_WRITE": FilesystemEventType.WRITE,
    "EVENT_TYPE_REMOVE": FilesystemEventType.REMOVE,
    "EVENT_TYPE_RENAME": FilesystemEventType.RENAME,
    "EVENT_TYPE_CHMOD": FilesystemEventType.CHMOD,
    1: FilesystemEventType.CREATE,
    2: FilesystemEventType.WRITE,
    3: FilesystemEventType.REMOVE,
    4: FilesystemEventType.RENAME,
    5: FilesystemEventType.CHMOD,
}

# --- over HTTP -------------------------------------------------------------------------------------------------------


def read(
    config: ConnectionConfig,
    to: Address,
    path: str,
    format: str,  # noqa: A002  # the E2B SDK's name
    user: str | None,
    request_timeout: float | None,
    gzip: bool,
    stream_idle_timeout: float | None,
) -> Request:
    if format not in ("text", "bytes", "stream"):
        raise InvalidArgumentException(f"format must be 'text', 'bytes' or 'stream', got {format!r}")
    # Always said, as a server that is asked nothing may choose.
    encoding = ("Accept-Encoding", "gzip" if gzip else "identity")
    idle_s, total_s = seconds(request_timeout, config.request_timeout, "request_timeout"), None
    if format == "stream":
        idle_s = seconds(stream_idle_timeout, STREAM_IDLE_S, "stream_idle_timeout")
        total_s = seconds(request_timeout, None, "request_timeout")
    request = _transfer(config, to, "GET", path_of(path), user, (encoding,), b"", idle_s)
    return request._replace(operation="read_file", total_s=total_s)


def write(
    config: ConnectionConfig,
    to: Address,
    path: str | None,
    user: str | None,
    request_timeout: float | None,
    metadata: Mapping[str, str] | None,
    content_type: str,
    content_encoding: str | None,
    body: bytes | Iterable[bytes] | AsyncIterable[bytes],
    length: int | None,
) -> Request:
    """One POST; `path` is None when the parts of the body name theirs."""
    headers = [("Content-Type", content_type), *_metadata(metadata)]
    if content_encoding is not None:
        headers.append(("Content-Encoding", content_encoding))
    if length is not None:
        headers.append(("Content-Length", str(length)))
    idle_s = seconds(request_timeout, config.request_timeout, "request_timeout")
    return _transfer(config, to, "POST", path, user, tuple(headers), body, idle_s)


def _transfer(
    config: ConnectionConfig,
    to: Address,
    method: str,
    path: str | None,
    user: str | None,
    headers: tuple[tuple[str, str], ...],
    body: bytes | Iterable[bytes] | AsyncIterable[bytes],
    idle_s: float | None,
) -> Request:
    query = {name: value for name, value in (("path", path), ("username", user)) if value is not None}
    return Request(
        "write_file",
        to.sandbox_id,
        query,
        method,
        f"{to.envd_url}/files" + (f"?{urlencode(query, quote_via=quote, safe='')}" if query else ""),
        (*to.envd_headers, *headers),
        body,
        None,
        None,
        connect_retries=config.connect_retries,
        proxy=config.proxy,
        logger=config.logger,
        idle_s=idle_s,
    )


def _metadata(metadata: Mapping[str, str] | None) -> list[tuple[str, str]]:
    headers = []
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", key) is None:
            raise InvalidArgumentException(f"metadata: {key!r} cannot be a key; those of HTTP headers can")
        if not isinstance(value, str) or re.fullmatch(r"[\x20-\x7e]*", value) is None:
            raise InvalidArgumentException(f"metadata: the value of {key!r} must be printable ASCII, got {value!r}")
        headers.append((f"X-Metadata-{key}", value))
    return headers


def use_octet_stream(asked: bool | None, gzip: bool, any_streamed: bool) -> bool:
    """Whether an upload is the bare bytes of one file. Raises InvalidArgumentException."""
    if gzip and asked is False:
        raise InvalidArgumentException("gzip=True is for use_octet_stream=True alone: a form is not compressed")
    return gzip or (any_streamed if asked is None else asked)


def written(request: Request, reply: Reply, count: int) -> list[WriteInfo]:
    """What an upload of `count` files answers."""
    listed = parsed(request, reply)
    try:
        infos = [
            WriteInfo(one["name"], _TYPES.get(one.get("type")), one["path"], metadata=one.get("metadata") or None)
            for one in listed
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise broken_reply(request, reply, error) from error
    if len(infos) != count:
        raise broken_reply(request, reply, f"expected {count} files")
    return infos


def check_size(content: bytearray, path: str) -> None:
    """Raises LimitException once there is more than may be read at once."""
    if len(content) > MAX_READ_BYTES:
        raise LimitException(f"{path!r} holds more than {MAX_READ_BYTES} bytes: read it with format='stream'")


# --- calls -----------------------------------------------------------------------------------------------------------


def list_files(
    config: ConnectionConfig, to: Address, path: str, depth: int | None, user: str | None, limit_s: float | None
) -> Request:
    depth = 1 if depth is None else depth
    if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= MAX_DEPTH:
        raise InvalidArgumentException(f"depth must be at least 1, got {depth!r}")
    message = {"path": path_of(path), "depth": depth}
    return call(config, to, "list_files", f"{SERVICE}/ListDir", message, limit_s, user)


def info(config: ConnectionConfig, to: Address, path: str, user: str | None, limit_s: float | None) -> Request:
    return call(config, to, "file_info", f"{SERVICE}/Stat", {"path": path_of(path)}, limit_s, user)


def make_dir(config: ConnectionConfig, to: Address, path: str, user: str | None, limit_s: float | None) -> Request:
    return call(config, to, "make_dir", f"{SERVICE}/MakeDir", {"path": path_of(path)}, limit_s, user)


def rename(
    config: ConnectionConfig, to: Address, old_path: str, new_path: str, user: str | None, limit_s: float | None
) -> Request:
    message = {"source": path_of(old_path), "destination": path_of(new_path)}
    return call(config, to, "rename_file", f"{SERVICE}/Move", message, limit_s, user)


def remove(config: ConnectionConfig, to: Address, path: str, user: str | None, limit_s: float | None) -> Request:
    return call(config, to, "remove_file", f"{SERVICE}/Remove", {"path": path_of(path)}, limit_s, user)


def _watch(path: str, recursive: bool, include_entry: bool, allow_network_mounts: bool) -> Message:
    message: Message = {"path": path_of(path)}
    if recursive:
        message["recursive"] = True
    if include_entry:
        message["includeEntry"] = True
    if allow_network_mounts:
        message["allowNetworkMounts"] = True
    return message


def create_watcher(
    config: ConnectionConfig,
    to: Address,
    path: str,
    user: str | None,
    limit_s: float | None,
    recursive: bool,
    include_entry: bool,
    allow_network_mounts: bool,
) -> Request:
    message = _watch(path, recursive, include_entry, allow_network_mounts)
    return call(config, to, "create_watcher", f"{SERVICE}/CreateWatcher", message, limit_s, user)


def watch(
    config: ConnectionConfig,
    to: Address,
    path: str,
    user: str | None,
    limit_s: float | None,
    timeout: float | None,
    recursive: bool,
    include_entry: bool,
    allow_network_mounts: bool,
) -> Request:
    message = _watch(path, recursive, include_entry, allow_network_mounts)
    return stream(config, to, "watch_dir", f"{SERVICE}/WatchDir", message, timeout, limit_s, user)


def watcher_events(
    config: ConnectionConfig, to: Address, watcher_id: str, user: str | None, limit_s: float | None
) -> Request:
    message = {"watcherId": watcher_id}
    return call(config, to, "watch_events", f"{SERVICE}/GetWatcherEvents", message, limit_s, user)


def remove_watcher(
    config: ConnectionConfig, to: Address, watcher_id: str, user: str | None, limit_s: float | None
) -> Request:
    message = {"watcherId": watcher_id}
    return call(config, to, "unwatch_dir", f"{SERVICE}/RemoveWatcher", message, limit_s, user)


# --- answers ---------------------------------------------------------------------------------------------------------


def entry(message: Message) -> EntryInfo:
    """Raises KeyError, TypeError, ValueError or AttributeError for what is no entry."""
    return EntryInfo(
        name=message["name"],
        type=FileType.SYMLINK if message.get("isSymlink") is True else _TYPES.get(message.get("type", 0)),
        path=message["path"],
        size=int(message.get("size", 0)),
        mode=int(message.get("mode", 0)),
        permissions=message.get("permissions", ""),
        owner=message.get("owner", ""),
        group=message.get("group", ""),
        modified_time=datetime.fromisoformat(message["modifiedTime"]),
        symlink_target=message.get("symlinkTarget"),
        metadata=message.get("metadata") or None,
    )


def entry_of(message: Message) -> EntryInfo:
    return entry(message["entry"])


def watcher_id(message: Message) -> str:
    found: str = message["watcherId"]
    return found


def entries(message: Message) -> list[EntryInfo]:
    """Without those that are neither file nor folder, as the E2B SDK does it: broken links, sockets, devices."""
    return [found for found in map(entry, message.get("entries") or ()) if found.type is not None]


def event(message: Mapping[str, Any]) -> FilesystemEvent | None:
    """None for a kind of event that this version does not know."""
    kind = _EVENTS.get(message.get("type", 0))
    if kind is None:
        return None
    about = message.get("entry")
    return FilesystemEvent(message.get("name", ""), kind, None if about is None else entry(about))


def streamed_event(message: Message) -> FilesystemEvent | None:
    """The event in a message of a watch, if it holds one. Raises SandboxException (internal)."""
    try:
        return event(message["filesystem"]) if "filesystem" in message else None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SandboxException(f"the server sent an event that cannot be used: {error!r}") from error


def events(message: Message) -> list[FilesystemEvent]:
    found = map(event, message.get("events") or ())
    return [one for one in found if one is not None]
