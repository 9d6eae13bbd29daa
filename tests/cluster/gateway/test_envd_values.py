"""The pure parts of port 49983: envelopes, messages, forms, signatures, ranges."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybox_actors.agent.errors import KINDS, AgentError
from raybox_actors.errors import BadRequest, InternalError, LimitReached, NotFound, RayboxError
from raybox_cluster.gateway import connect, http_values, process_messages, signatures
from raybox_cluster.gateway.errors import AGENT_STATUS
from raybox_cluster.gateway.protojson import Message, dump
from raybox_cluster.gateway.routes_envd import files_query

pytestmark = pytest.mark.anyio


def cut(data: bytes, sizes: Iterable[int]) -> list[bytes]:
    """`data` in pieces of these sizes, the rest in one."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


sizes = st.lists(st.integers(0, 40), max_size=30)
json_objects = st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers(), max_size=4)


# --- envelopes -------------------------------------------------------------------------------------------------------


@given(st.lists(json_objects, max_size=5), sizes)
def test_messages_are_found_however_the_body_arrives(messages: list[dict[str, object]], pieces: list[int]) -> None:
    body = b"".join(connect.envelope(message) for message in messages)
    reader = connect.EnvelopeReader()
    found = [message for piece in cut(body, pieces) for message in reader.feed(piece)]
    reader.finish()
    assert [json.loads(message) for message in found] == messages


@given(st.binary(max_size=200), sizes)
def test_any_bytes_are_messages_or_a_bad_request(body: bytes, pieces: list[int]) -> None:
    reader = connect.EnvelopeReader(limit_bytes=64)
    try:
        for piece in cut(body, pieces):
            assert all(len(message) <= 64 for message in reader.feed(piece))
        reader.finish()
    except BadRequest:
        return


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x01\0\0\0\x02{}", "compressed"),
        (b"\x02\0\0\0\x02{}", "flags 0x02"),
        (struct.pack(">BI", 0, connect.MAX_MESSAGE_BYTES + 1), "longer than"),
    ],
)
def test_envelopes_that_are_refused(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        connect.EnvelopeReader().feed(body)


def test_half_a_message_is_no_message() -> None:
    reader = connect.EnvelopeReader()
    assert reader.feed(b"\0\0\0\0\x05{}") == []
    with pytest.raises(BadRequest, match="in the middle"):
        reader.finish()


def test_every_error_has_a_word_and_a_status() -> None:
    for code in AGENT_STATUS:
        error = AgentError(code, "x")
        assert connect.code_of(error) in connect.HTTP_STATUS
        assert error.kind == KINDS.get(code, "bad_request")
    errors: list[RayboxError] = [BadRequest("x"), LimitReached("x"), InternalError("x"), NotFound("process", "x")]
    words = ["invalid_argument", "resource_exhausted", "internal", "not_found"]
    assert [connect.code_of(error) for error in errors] == words
    end = connect.end_of_stream(AgentError("no_space", "full"))
    assert end[:1] == b"\x02"
    assert json.loads(end[5:]) == {"error": {"code": "resource_exhausted", "message": "full"}}
    assert connect.end_of_stream() == b"\x02\0\0\0\x02{}"


@pytest.mark.parametrize("value", [b"-1", b"1e3", b"", b"12345678901", b" 5"])
def test_timeouts_that_are_none(value: bytes) -> None:
    with pytest.raises(BadRequest):
        connect.timeout_s({b"connect-timeout-ms": value})


def test_timeouts_and_keepalives() -> None:
    assert connect.timeout_s({}) is None
    assert connect.timeout_s({b"connect-timeout-ms": b"60000"}) == 60.0
    asked = [b"50", b"0", b"100000", b"x", b""]
    assert [connect.keepalive_s({b"keepalive-ping-interval": value}) for value in asked] == [50, 1, 90, 90, 90]


def test_users() -> None:
    def of(text: bytes) -> str:
        return connect.user_of({b"authorization": b"Basic " + base64.b64encode(text)})

    assert (of(b"root:"), of(b"root"), of(b":x"), of(b"a:b:c")) == ("root", "root", "user", "a")
    assert connect.user_of({}) == connect.user_of({b"authorization": b"Bearer x"}) == "user"
    for bad in (b"Basic !", b"Basic " + base64.b64encode(b"\xff"), b"Basic " + base64.b64encode(b"a\0:")):
        with pytest.raises(AgentError) as caught:
            connect.user_of({b"authorization": bad})
        assert caught.value.code == "unauthenticated"
    with pytest.raises(AgentError):
        connect.check_user("x" * (connect.MAX_USER_CHARS + 1))


# --- messages --------------------------------------------------------------------------------------------------------

_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_any = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
_names = st.sampled_from(
    ("process", "cmd", "args", "envs", "cwd", "pty", "size", "cols", "rows", "tag", "stdin", "pid", "signal", "input")
)
_plausible = st.recursive(_any, lambda inner: st.dictionaries(_names, inner, max_size=5), max_leaves=20)


@given(st.dictionaries(_names, _plausible, max_size=6))
def test_any_json_is_a_message_or_a_bad_request(fields: dict[str, object]) -> None:
    message = Message(fields)
    for parse in (
        lambda: process_messages.parse_start(message, "user", None),
        lambda: process_messages.selector(message),
        lambda: process_messages.process_input(message),
        lambda: process_messages.signal_number(message),
        lambda: process_messages.pty_size(message),
    ):
        try:
            parse()
        except (BadRequest, AgentError):
            continue


def test_either_case_defaults_and_numbers_as_text() -> None:
    message = Message({"include_entry": True, "watcherId": None, "depth": "3", "mode": 2.0, "unknown": object()})
    assert message.flag("includeEntry") is True
    assert message.flag("recursive") is False
    assert message.text("watcherId") == ""
    assert (message.integer("depth", 0, 9), message.integer("mode", 0, 9), message.integer("none", 1, 9)) == (3, 2, 0)
    assert Message.parse(b"").texts("args") == ()
    assert Message({"signal": "SIGNAL_SIGKILL"}).enum("signal", process_messages.SIGNALS) == 9
    assert Message({"signal": "9"}).enum("signal", process_messages.SIGNALS) == 9
    assert Message({"signal": 9}).enum("signal", process_messages.SIGNALS) == 9


@given(st.binary(max_size=50))
def test_bytes_are_base64_of_any_kind(data: bytes) -> None:
    for text in (base64.b64encode(data), base64.b64encode(data).rstrip(b"="), base64.urlsafe_b64encode(data)):
        assert Message({"data": text.decode()}).data("data") == data


@pytest.mark.parametrize("bad", ["a", "a===", "*", "\xe9", 5, ["YQ=="]])
def test_bytes_that_are_none(bad: object) -> None:
    with pytest.raises(BadRequest, match="data must be base64"):
        Message({"data": bad}).data("data")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"process": {}},
        {"process": {"cmd": "a\0b"}},
        {"process": {"cmd": "a", "args": "x"}},
        {"process": {"cmd": "a", "args": [1]}},
        {"process": {"cmd": "a", "envs": {"": "x"}}},
        {"process": {"cmd": "a", "envs": {"a=b": "x"}}},
        {"process": {"cmd": "a", "envs": {"a": 1}}},
        {"process": {"cmd": "a"}, "pty": {"size": {"cols": 65536}}},
        {"process": {"cmd": "a"}, "stdin": "yes"},
        {"process": []},
    ],
)
def test_processes_that_cannot_be_started(fields: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        process_messages.parse_start(Message(fields), "user", None)


def test_a_process_as_the_clients_ask_for_it() -> None:
    body = (
        b'{"process":{"cmd":"/bin/bash","args":["-l","-c","true"],"envs":{"A":"1"},"cwd":"x"},"stdin":false,"tag":"t"}'
    )
    spec = process_messages.parse_start(Message.parse(body), "root", 5.0)
    assert (spec.command, spec.arguments, spec.environment) == ("/bin/bash", ("-l", "-c", "true"), {"A": "1"})
    assert (spec.cwd, spec.user, spec.stdin, spec.pty, spec.tag, spec.timeout_s) == ("x", "root", False, None, "t", 5.0)
    bare = process_messages.parse_start(Message({"process": {"cmd": "cat"}, "pty": {}}), "user", None)
    assert (bare.stdin, bare.pty, bare.cwd, bare.tag) == (True, process_messages.DEFAULT_PTY, None, None)


def test_numbers_of_signals_that_are_not_there_are_unimplemented() -> None:
    for value in (0, 1, "SIGNAL_UNSPECIFIED", 99):
        with pytest.raises(AgentError) as caught:
            process_messages.signal_number(Message({"signal": value}))
        assert caught.value.code == "unimplemented"


def test_messages_are_ascii() -> None:
    assert dump({"a": "\u2028\ud800é"}).isascii()


# --- signatures, ranges, encodings, names ----------------------------------------------------------------------------

TOKEN = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0"


def test_the_signature_of_the_contract() -> None:
    expected = "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E"
    assert signatures.sign("hello.txt", "read", "user", TOKEN, None) == expected


@pytest.mark.parametrize(
    ("presented", "query", "message"),
    [
        (b"wrong", {}, "access token present in header but does not match"),
        (b"", {}, "access token present in header but does not match"),
        (None, {"path": "x"}, "missing signature query parameter"),
        (None, {"path": "x", "signature": "v1_x"}, "invalid signature"),
        (None, {"path": "x", "signature": "\udcff"}, "invalid signature"),
    ],
)
def test_who_may_not_use_files(presented: bytes | None, query: dict[str, str], message: str) -> None:
    with pytest.raises(signatures.AccessDenied) as caught:
        signatures.check_files_access(TOKEN, presented, "read", query, 0.0)
    assert caught.value.message == message


def test_who_may_use_files() -> None:
    signatures.check_files_access(None, None, "read", {}, 0.0)
    signatures.check_files_access(TOKEN, TOKEN.encode(), "read", {"signature": "x"}, 0.0)
    query = {"path": "x", "username": "u", "signature_expiration": "100"}
    query["signature"] = signatures.sign("x", "write", "u", TOKEN, "100")
    signatures.check_files_access(TOKEN, None, "write", query, 100.0)
    with pytest.raises(signatures.AccessDenied, match="signature is already expired"):
        signatures.check_files_access(TOKEN, None, "write", query, 101.0)
    with pytest.raises(signatures.AccessDenied, match="invalid signature"):
        signatures.check_files_access(TOKEN, None, "read", query, 0.0)
    for odd in ("", "1e9", "-5", "9" * 30):
        query["signature_expiration"] = odd
        query["signature"] = signatures.sign("x", "read", "u", TOKEN, odd)
        with pytest.raises(signatures.AccessDenied):
            signatures.check_files_access(TOKEN, None, "read", query, 0.0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"bytes=0-4", (0, 5)),
        (b"bytes=5-", (5, 5)),
        (b"bytes=-3", (7, 3)),
        (b"bytes=-300", (0, 10)),
        (b"bytes=9-300", (9, 1)),
        (b"bytes=0-0", (0, 1)),
        (b"bytes=5-2", None),
        (b"bytes=-", None),
        (b"bytes=0-1,3-4", None),
        (b"lines=1-2", None),
        (b"bytes=x-", None),
        (None, None),
    ],
)
def test_ranges(value: bytes | None, expected: tuple[int, int] | None) -> None:
    assert http_values.parse_range(value, 10) == expected


@pytest.mark.parametrize(("value", "size"), [(b"bytes=10-", 10), (b"bytes=0-", 0), (b"bytes=-0", 10), (b"bytes=-5", 0)])
def test_ranges_outside_the_file(value: bytes, size: int) -> None:
    with pytest.raises(http_values.RangeNotSatisfiable):
        http_values.parse_range(value, size)


@given(st.binary(max_size=30), st.integers(0, 100))
def test_a_range_is_within_the_file(value: bytes, size: int) -> None:
    for text in (value, b"bytes=" + value):
        try:
            part = http_values.parse_range(text, size)
        except http_values.RangeNotSatisfiable:
            continue
        assert part is None or (part[0] >= 0 and part[1] > 0 and sum(part) <= size)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "identity"),
        (b"", "identity"),
        (b"gzip", "gzip"),
        (b"gzip, deflate", "gzip"),
        (b"deflate, GZIP;q=0.5", "gzip"),
        (b"*", "gzip"),
        (b"br", "identity"),
        (b"gzip;q=0", "identity"),
        (b"gzip;q=0, *", "identity"),
        (b"identity;q=0", None),
        (b"br, *;q=0", None),
        (b"gzip;q=x", "identity"),
    ],
)
def test_encodings(value: bytes | None, expected: str | None) -> None:
    assert http_values.acceptable_encoding(value) == expected


def test_dispositions() -> None:
    assert http_values.inline_disposition("a.txt") == "inline; filename=a.txt"
    assert http_values.inline_disposition('a "b"\\.txt') == 'inline; filename="a \\"b\\"\\\\.txt"'
    assert http_values.inline_disposition("é\n.txt") == "inline; filename*=utf-8''%C3%A9%0A.txt"
    assert http_values.inline_disposition("\udcff").isascii()


def test_metadata() -> None:
    assert http_values.metadata_of({b"x-metadata-owner": b"me", b"x-other": b"y"}) == {"owner": "me"}
    key = b"x-metadata-" + b"k" * http_values.MAX_METADATA_KEY_BYTES
    assert http_values.metadata_of({key: b""}) == {"k" * 246: ""}
    assert http_values.metadata_of({b"x-metadata-k": b"v" * 4095})
    for bad in (
        {key + b"k": b""},
        {b"x-metadata-": b"v"},
        {b"x-metadata-k": b"\xc3\xa9"},
        {b"x-metadata-k": b"a\tb"},
        {b"x-metadata-k": b"v" * 4096},
    ):
        with pytest.raises(BadRequest):
            http_values.metadata_of(bad)


def test_queries_of_files() -> None:
    assert files_query(b"path=%2Fa%20b&username=root&path=second") == {"path": "/a b", "username": "root"}
    assert files_query(b"signature=v1_a%2Bb%2Fc") == {"signature": "v1_a+b/c"}
    for bad in (b"a=1&" * 300, b"path=" + b"x" * 70_000):
        with pytest.raises(BadRequest):
            files_query(bad)
