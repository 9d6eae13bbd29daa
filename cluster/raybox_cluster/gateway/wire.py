"""The contract's requests and answers as plain values. Pure: no I/O, no clock. Parsers raise BadRequest only."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, unquote

from raybox_actors import fields as f
from raybox_actors.errors import BadRequest
from raybox_actors.execute_request import MAX_NAME_CHARS
from raybox_actors.isolation.policy import ADJUSTABLE
from raybox_actors.network.rules import parse_request
from raybox_actors.values import DEFAULT_TEMPLATE, ContextInfo, CreateRequest, PublicState, SandboxInfo

from .asgi import Headers
from .auth import ApiKey
from .errors import TemplateNotFound

#: What the clients are told of the sandbox's agent: the reference's own version (contract 5). It opens every gate.
ENVD_VERSION = "0.6.13"
CLIENT_ID = "raybox"  #: legacy, must be there

#: Names that callers know the default template by.
TEMPLATES: Mapping[str, str] = {
    "base": DEFAULT_TEMPLATE,
    "code-interpreter-v1": DEFAULT_TEMPLATE,
    "default": DEFAULT_TEMPLATE,
}

#: Metadata entry that says the same as the header Idempotency-Key.
IDEMPOTENCY_METADATA = "raybox.idempotency_key"
#: The header, and the metadata entry that says the same, for how long a create may wait for a sandbox.
WAIT_HEADER = "X-Raybox-Wait-Seconds"
WAIT_METADATA = "raybox.wait_s"
#: Metadata entries of this beginning say what a sandbox shall get of each of policy.ADJUSTABLE.
RESOURCE_METADATA = "raybox."
#: Of the contract's `network`: what a sandbox's rules are made of.
EGRESS_FIELDS = ("allowOut", "denyOut", "dnsServers")

MAX_CONTROL_BODY_BYTES = 1024 * 1024
MAX_CONTEXT_BODY_BYTES = 64 * 1024
MAX_QUERY_BYTES = 64 * 1024
MAX_QUERY_FIELDS = 256
MAX_PATH_CHARS = 4096
MAX_PAGE = 100
MAX_REFRESH_S = 3600
MAX_WAIT_S = 600.0

#: Sandboxes that one call may create together.
MAX_GANG = 1_000
DEFAULT_DEADLINE_S = 60.0

DEFAULT_TIMEOUT_V1_S = 15
DEFAULT_TIMEOUT_V2_S = 300
DEFAULT_REFRESH_S = 15

#: Body and status of GET /health on port 49999: a JSON string.
INTERPRETER_HEALTH = b'"OK"'
#: One event that says nothing. It makes a dead client noticed and keeps proxies from closing the stream.
KEEPALIVE_LINE = b'{"type":"keepalive"}\n'

_IDEMPOTENCY_KEY = re.compile(rb"[a-z0-9-]{1,255}")
_CONTEXT_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_CURSOR = re.compile(r"1 (asc|desc) (\d{1,20}) ([a-z0-9]{1,64})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


# --- create, connect, timeouts ---------------------------------------------------------------------------------------


def parse_create(
    body: bytes, headers: Headers, *, key: ApiKey, version: int, max_timeout_s: float, max_wait_s: float
) -> CreateRequest:
    """`version` 1 or 2 of the route. Also raises TemplateNotFound. Unknown fields are ignored, so that newer clients
    work; known ones that the pool cannot honour are refused."""
    fields = f.json_object(body)
    return create_of(fields, headers, key=key, version=version, max_timeout_s=max_timeout_s, max_wait_s=max_wait_s)


def create_of(
    fields: f.Json,
    headers: Headers,
    *,
    key: ApiKey,
    version: int,
    max_timeout_s: float,
    max_wait_s: float,
) -> CreateRequest:
    """The same, of a body that has been read."""
    template = f.text(fields, "templateID", MAX_NAME_CHARS)
    if not template:
        raise BadRequest("templateID is required")
    timeout_s = f.integer(fields, "timeout", 1, int(max_timeout_s))
    if timeout_s is None:
        timeout_s = min(DEFAULT_TIMEOUT_V1_S if version == 1 else DEFAULT_TIMEOUT_V2_S, int(max_timeout_s))

    if f.flag(fields, "autoPause", False):
        raise BadRequest("autoPause is not supported yet")
    if not f.flag(fields, "autoPauseMemory", True):
        raise BadRequest("autoPauseMemory needs autoPause, which is not supported yet")
    if f.flag(f.mapping(fields, "autoResume"), "enabled", False):
        raise BadRequest("autoResume is not supported yet")
    f.refuse(fields, "mcp", "volumeMounts")
    if f.mapping(fields, "iam").get("tokens"):
        raise BadRequest("iam.tokens is not supported yet")
    if template not in TEMPLATES:  # after the fields: clients ask for a template of its own with `mcp`
        raise TemplateNotFound(template)

    metadata = f.text_map(fields, "metadata")
    internet = f.flag(fields, "allow_internet_access", True)
    network = _network(fields, internet)
    ours = f.mapping(fields, "raybox")
    wait_s = f.number(ours, "wait_s", 0, max_wait_s)
    near = f.text(ours, "near_node_id", MAX_NAME_CHARS) or ""
    if not re.fullmatch(r"[0-9a-f]*", near):
        raise BadRequest("raybox.near_node_id must be the id of a Ray node, in hex")
    return CreateRequest(
        template=TEMPLATES[template],
        timeout_s=float(timeout_s),
        metadata=metadata,
        env_vars=f.environment(fields, "envVars"),
        owner=key.name,
        quota=key.quota,
        weight=key.weight,
        wait_s=_wait(headers, metadata, max_wait_s) if wait_s is None else wait_s,
        secure=f.flag(fields, "secure", True) if version == 1 else True,
        allow_public_traffic=network is None or network["allowPublicTraffic"] is True,
        allow_internet_access=internet,
        network=network,
        idempotency_key=_idempotency_key(headers, metadata),
        near_node_id=near,
        resources=_resources(metadata),
    )


def parse_create_many(
    body: bytes, headers: Headers, *, key: ApiKey, max_timeout_s: float, max_wait_s: float
) -> tuple[CreateRequest, int, float]:
    """What each of them shall be, how many, and within how many seconds."""
    fields = f.json_object(body)
    count = f.integer(fields, "count", 1, MAX_GANG)
    if count is None:
        raise BadRequest("count is required")
    deadline_s = f.number(fields, "deadline_s", 0, max_wait_s)
    create = {"templateID": DEFAULT_TEMPLATE, **f.mapping(fields, "create")}
    request = create_of(create, headers, key=key, version=2, max_timeout_s=max_timeout_s, max_wait_s=max_wait_s)
    return request, count, min(DEFAULT_DEADLINE_S, max_wait_s) if deadline_s is None else deadline_s


def _network(fields: f.Json, allow_internet_access: bool) -> dict[str, object] | None:
    """The network as asked for, to be shown again; whether this pool can give it is the sandbox's to say."""
    if fields.get("network") is None:
        return None
    network = f.mapping(fields, "network")
    public = f.flag(network, "allowPublicTraffic", True)
    return {"allowPublicTraffic": public, **_egress(network, allow_internet_access)}


def _egress(network: f.Json, allow_internet_access: bool) -> f.Json:
    """The fields that rule what a sandbox reaches, checked. Those that would be promises we do not keep are refused."""
    for name, value in network.items():
        if name not in ("allowPublicTraffic", *EGRESS_FIELDS) and value:
            raise BadRequest(f"network.{name[:64]} is not supported yet")
    parse_request(network, allow_internet_access)
    return {name: network[name] for name in EGRESS_FIELDS if network.get(name) is not None}


def parse_network_update(body: bytes) -> tuple[f.Json, bool]:
    """Of PUT /sandboxes/{id}/network: the rules that replace all there were, and allow_internet_access."""
    fields = f.json_object(body, empty_ok=True)
    internet = f.flag(fields, "allow_internet_access", True)
    rules = {
        name: value for name, value in fields.items() if name not in ("allow_internet_access", "allowPublicTraffic")
    }
    return _egress(rules, internet), internet


def _idempotency_key(headers: Headers, metadata: Mapping[str, str]) -> str | None:
    """The header, or else the metadata entry, which every client can send."""
    name, key = "Idempotency-Key", headers.get(b"idempotency-key")
    if key is None and (entry := metadata.get(IDEMPOTENCY_METADATA)) is not None:
        name, key = f"metadata {IDEMPOTENCY_METADATA}", entry.encode("utf-8", "replace")
    if key is None:
        return None
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise BadRequest(f"{name} must match [a-z0-9-]{{1,255}}")
    return key.decode("ascii")


def _wait(headers: Headers, metadata: Mapping[str, str], max_wait_s: float) -> float | None:
    """How long the create may wait for a sandbox: the header, or else the metadata entry."""
    header = headers.get(WAIT_HEADER.lower().encode())
    name, text = f"metadata {WAIT_METADATA}", metadata.get(WAIT_METADATA)
    if header is not None:
        name, text = WAIT_HEADER, header.decode("latin-1")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text) or float(text) > max_wait_s:
        raise BadRequest(f"{name} must be a number of seconds from 0 to {max_wait_s:g}")
    return float(text)


def _resources(metadata: Mapping[str, str]) -> dict[str, float]:
    """What the creator wants of the pool's resources: metadata, because every client can send it. Whether the pool
    gives that much, the sandbox's actor says."""
    wanted: dict[str, float] = {}
    for name in ADJUSTABLE:
        text = metadata.get(RESOURCE_METADATA + name)
        if text is None:
            continue
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text):
            raise BadRequest(f"metadata {RESOURCE_METADATA}{name} must be a positive number")
        wanted[name] = float(text) if "." in text else int(text)
    return wanted


def parse_connect(body: bytes, *, version: int, max_timeout_s: float) -> float:
    """Seconds from now that the sandbox must live at least. `memory` matters only to paused sandboxes, and there are
    none yet."""
    fields = f.json_object(body, empty_ok=version == 2)
    f.flag(fields, "memory", True)
    timeout_s = f.integer(fields, "timeout", 0, int(max_timeout_s))
    if timeout_s is None:
        if version == 1:
            raise BadRequest("timeout is required")
        timeout_s = min(DEFAULT_TIMEOUT_V2_S, int(max_timeout_s))
    return float(timeout_s)


def parse_timeout(body: bytes, *, max_timeout_s: float) -> float:
    timeout_s = f.integer(f.json_object(body), "timeout", 0, int(max_timeout_s))
    if timeout_s is None:
        raise BadRequest("timeout is required")
    return float(timeout_s)


def parse_refresh(body: bytes) -> float:
    duration_s = f.integer(f.json_object(body, empty_ok=True), "duration", 0, MAX_REFRESH_S)
    return float(DEFAULT_REFRESH_S if duration_s is None else duration_s)


# --- what the clients see of a sandbox -------------------------------------------------------------------------------


def micros(at_s: float) -> int:
    """Unix microseconds, the resolution of the wire: what is compared is what was shown."""
    return round(at_s * 1_000_000)


def timestamp(at_s: float) -> str:
    """RFC 3339, microseconds, Z."""
    return (_EPOCH + micros(at_s) * _MICROSECOND).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def created_body(info: SandboxInfo) -> f.Json:
    """`Sandbox` of the contract, for create and connect."""
    return {
        "templateID": info.template,
        "sandboxID": info.sandbox_id,
        "clientID": CLIENT_ID,
        "alias": info.template,
        "envdVersion": ENVD_VERSION,
        **_optional("envdAccessToken", info.envd_access_token),
        **_optional("trafficAccessToken", info.traffic_access_token),
        "raybox": {"timings_ms": info.timings_ms, "node_id": info.node_id},
    }


def listed_body(info: SandboxInfo) -> f.Json:
    """`ListedSandbox` of the contract."""
    return {
        "templateID": info.template,
        "sandboxID": info.sandbox_id,
        "clientID": CLIENT_ID,
        "alias": info.template,
        "startedAt": timestamp(info.started_at_s),
        "endAt": timestamp(info.end_at_s),
        "cpuCount": info.cpu_count,
        "memoryMB": info.memory_mib,
        "diskSizeMB": info.disk_mib,
        "metadata": info.metadata,
        "state": info.state,
        "envdVersion": ENVD_VERSION,
    }


def detail_body(info: SandboxInfo) -> f.Json:
    """`SandboxDetail` of the contract. `network` is left out when unset: null crashes Python's client."""
    return {
        **listed_body(info),
        **_optional("envdAccessToken", info.envd_access_token),
        **_optional("network", info.network),
        "allowInternetAccess": info.allow_internet_access,
        "lifecycle": {"autoResume": False, "onTimeout": "pause" if info.auto_pause else "kill"},
        "raybox": {"node_id": info.node_id, "owner": info.owner},
    }


def _optional(name: str, value: object) -> f.Json:
    return {} if value is None else {name: value}


# --- list ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cursor:
    """Names the last sandbox of a page, so that pages do not shift when sandboxes come and go."""

    descending: bool
    started_at_us: int
    sandbox_id: str

    def encode(self) -> str:
        text = f"1 {'desc' if self.descending else 'asc'} {self.started_at_us} {self.sandbox_id}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @staticmethod
    def decode(token: str) -> Cursor:
        try:
            padded = token.encode("ascii") + b"=" * (-len(token) % 4)
            text = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
        except (ValueError, binascii.Error):
            raise BadRequest("nextToken is not valid") from None
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise BadRequest("nextToken is not valid")
        return Cursor(match[1] == "desc", int(match[2]), match[3])


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Which sandboxes, and in which order. Metadata entries must all match exactly."""

    states: frozenset[PublicState] = frozenset(("running", "paused"))
    metadata: tuple[tuple[str, str], ...] = ()
    descending: bool = True
    started_after_us: int | None = None
    template: str | None = None
    limit: int | None = MAX_PAGE
    cursor: Cursor | None = None


@dataclass(frozen=True, slots=True)
class Page:
    sandboxes: list[SandboxInfo]
    next_token: str | None
    total_running: int  #: running ones that match the other filters, on any page


def parse_list(query_string: bytes, *, version: int) -> ListQuery:
    """Version 1 lists running sandboxes only, all on one page, and knows only the metadata filter."""
    query = dict(_query(query_string))
    metadata = parse_metadata_filter(query.get("metadata", ""))
    if version == 1:
        return ListQuery(states=frozenset(("running",)), metadata=metadata, limit=None)
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise BadRequest("order must be asc or desc")
    cursor = Cursor.decode(query["nextToken"]) if query.get("nextToken") else None
    if cursor is not None and cursor.descending != (order == "desc"):
        raise BadRequest("nextToken belongs to a list in the other order")
    after = query.get("startedAfter")
    return ListQuery(
        states=_states(query.get("state")),
        metadata=metadata,
        descending=order == "desc",
        started_after_us=None if after is None else parse_timestamp("startedAfter", after),
        template=query.get("template"),
        limit=_limit(query.get("limit")),
        cursor=cursor,
    )


def _query(query_string: bytes) -> list[tuple[str, str]]:
    if len(query_string) > MAX_QUERY_BYTES:
        raise BadRequest(f"the query is longer than {MAX_QUERY_BYTES} bytes")
    try:
        return parse_qsl(
            query_string.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS
        )
    except ValueError:
        raise BadRequest("the query cannot be read") from None


def parse_metadata_filter(text: str) -> tuple[tuple[str, str], ...]:
    """The `metadata` parameter after the query's own decoding. It is a query string again, whose keys and values were
    percent-encoded once more by the clients before they built it."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise BadRequest("metadata cannot be read") from None
    return tuple((unquote(key), unquote(value)) for key, value in pairs)


def _states(text: str | None) -> frozenset[PublicState]:
    known: dict[str, PublicState] = {"running": "running", "paused": "paused"}
    if not text:
        return frozenset(known.values())
    try:
        return frozenset(known[word] for word in text.split(","))
    except KeyError:
        raise BadRequest("state must be running, paused or both, joined by a comma") from None


def _limit(text: str | None) -> int:
    if text is None:
        return MAX_PAGE
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= MAX_PAGE):
        raise BadRequest(f"limit must be a number from 1 to {MAX_PAGE}")
    return int(text)


def parse_timestamp(name: str, text: str) -> int:
    """RFC 3339 with an offset to unix microseconds."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError
        return (moment - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        raise BadRequest(f"{name} must be an RFC 3339 time with an offset") from None


def select(sandboxes: list[SandboxInfo], query: ListQuery) -> Page:
    """One page. A sandbox that lives through the whole listing is on exactly one of its pages."""
    template = None if query.template is None else TEMPLATES.get(query.template, query.template)
    matching = [
        info
        for info in sandboxes
        if info.state in query.states
        and (template is None or info.template == template)
        and (query.started_after_us is None or micros(info.started_at_s) >= query.started_after_us)
        and all(info.metadata.get(key) == value for key, value in query.metadata)
    ]
    matching.sort(key=_position, reverse=query.descending)
    total_running = sum(info.state == "running" for info in matching)
    rest = matching
    if query.cursor is not None:
        last = (query.cursor.started_at_us, query.cursor.sandbox_id)
        rest = [info for info in matching if (_position(info) < last if query.descending else _position(info) > last)]
    page = rest if query.limit is None else rest[: query.limit]
    more = len(rest) > len(page)
    token = Cursor(query.descending, *_position(page[-1])).encode() if more else None
    return Page(page, token, total_running)


def _position(info: SandboxInfo) -> tuple[int, str]:
    return micros(info.started_at_s), info.sandbox_id


# --- the code interpreter --------------------------------------------------------------------------------------------


def parse_new_context(body: bytes) -> tuple[str | None, str | None]:
    """Language and working directory; either may be left to the sandbox."""
    fields = f.json_object(body, empty_ok=True)
    cwd = f.text(fields, "cwd", MAX_PATH_CHARS) or None
    if cwd is not None and "\0" in cwd:
        raise BadRequest("cwd must not contain NUL")
    return f.text(fields, "language", MAX_NAME_CHARS) or None, cwd


def is_context_id(text: str) -> bool:
    """Whether any context could have this id."""
    return _CONTEXT_ID.fullmatch(text) is not None


def context_body(context: ContextInfo) -> f.Json:
    return {"id": context.context_id, "language": context.language, "cwd": context.cwd}
