"""The pure halves of files and commands: framing, uploads, signatures, results, whatever bytes come."""

from __future__ import annotations

import base64
import contextlib
import email.parser
import email.policy
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import raybox
from raybox import SandboxException
from raybox._connect import MAX_MESSAGE_BYTES, End, EnvelopeParser, bytes_of, encode, error_of_reply, text_of
from raybox._envd_requests import milliseconds
from raybox._files import entry, event
from raybox._processes import INPUT_CHUNK_BYTES, CommandRun, input_data
from raybox._responses import Reply
from raybox._signature import file_url, sign
from raybox._uploads import CHUNK_BYTES, Inflater, compressed, multipart, pieces
from tests.sdk.player import ended
from tests.sdk.test_errors import HEALTH

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.lists(st.dictionaries(st.text(), VALUES, max_size=3), max_size=6)
CUTS = st.lists(st.integers(min_value=0), max_size=12)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(one % (len(data) + 1) for one in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


# --- framing ---------------------------------------------------------------------------------------------------------


@given(messages=MESSAGES, cuts=CUTS, rest=st.binary(max_size=20))
def test_any_cutting_gives_the_same_messages(messages: list[dict[str, Any]], cuts: list[int], rest: bytes) -> None:
    parser = EnvelopeParser()
    data = b"".join(map(encode, messages)) + ended() + rest
    found = [one for piece in cut(data, cuts) for one in parser.feed(piece)]
    assert found == [*messages, End(None)]
    assert parser.ended


@given(data=st.binary(), cuts=CUTS)
def test_garbage_gives_messages_or_our_error(data: bytes, cuts: list[int]) -> None:
    parser = EnvelopeParser()
    with contextlib.suppress(SandboxException):
        for piece in cut(data, cuts):
            for one in parser.feed(piece):
                assert isinstance(one, (dict, End))


@given(flags=st.integers(0, 255), body=st.binary(max_size=30))
def test_any_envelope_gives_a_message_or_our_error(flags: int, body: bytes) -> None:
    parser = EnvelopeParser()
    try:
        (found,) = parser.feed(bytes([flags]) + len(body).to_bytes(4, "big") + body)
    except SandboxException:
        return
    assert isinstance(json.loads(body), dict)
    assert isinstance(found, End) == (flags == 2)
    assert flags in (0, 2)


@pytest.mark.parametrize("limit", [10, MAX_MESSAGE_BYTES])
def test_a_message_beyond_the_limit_is_refused_before_it_is_there(limit: int) -> None:
    EnvelopeParser(limit).feed(b"\0" + limit.to_bytes(4, "big"))
    with pytest.raises(SandboxException, match=f"the limit is {limit}"):
        EnvelopeParser(limit).feed(b"\0" + (limit + 1).to_bytes(4, "big"))


@given(st.binary())
def test_bytes_as_text_and_back(data: bytes) -> None:
    assert bytes_of(text_of(data)) == data
    assert bytes_of(base64.urlsafe_b64encode(data).decode().rstrip("=")) == data


@pytest.mark.parametrize("text", ["a", "a b=", "äöü", None, 5, "====a"])
def test_what_is_no_base64(text: object) -> None:
    with pytest.raises(SandboxException):
        bytes_of(text)


# --- results ---------------------------------------------------------------------------------------------------------

OUTPUT = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.text()), max_size=8)


@given(output=OUTPUT, cuts=CUTS)
def test_text_is_whole_however_it_was_cut(output: list[tuple[str, str]], cuts: list[int]) -> None:
    run = CommandRun()
    run.take({"event": {"start": {"pid": 5}}})
    texts = {"stdout": "", "stderr": ""}
    heard = {"stdout": "", "stderr": ""}
    for kind, text in output:
        text = text.encode(errors="replace").decode()
        texts[kind] += text
        for piece in cut(text.encode(), cuts):
            for stdout, stderr, _ in run.take({"event": {"data": {kind: text_of(piece)}}}):
                heard["stdout"] += stdout or ""
                heard["stderr"] += stderr or ""
    run.take({"event": {"end": {}}})
    assert heard == texts == {"stdout": run.stdout, "stderr": run.stderr}
    assert run.result == raybox.CommandResult(texts["stderr"], texts["stdout"], 0, None)


EVENTS = st.dictionaries(
    st.sampled_from(["event", "x"]),
    VALUES
    | st.dictionaries(
        st.sampled_from(["start", "data", "end", "keepalive"]),
        VALUES | st.dictionaries(st.sampled_from(["pid", "stdout", "pty", "exitCode", "error"]), VALUES),
    ),
)


@given(st.lists(EVENTS, max_size=5))
def test_any_event_is_taken_or_refused_with_our_error(events: list[dict[str, Any]]) -> None:
    run = CommandRun()
    with contextlib.suppress(SandboxException):
        for one in events:
            run.take(one)


NAMES = st.sampled_from(
    ["name", "type", "path", "size", "mode", "modifiedTime", "metadata", "entry", "isSymlink", "symlinkTarget"]
)


@given(st.dictionaries(NAMES, VALUES))
def test_any_entry_is_one_or_an_error_that_is_expected(message: dict[str, Any]) -> None:
    for read in (entry, event):
        with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
            read(message)


@given(body=st.binary() | VALUES.map(lambda value: json.dumps(value).encode()), status=st.integers(300, 599))
def test_any_refusal_is_an_error_of_ours(body: bytes, status: int) -> None:
    assert isinstance(error_of_reply(HEALTH, Reply(status, {}, body)), raybox.RayboxError)


@given(code=VALUES, message=VALUES)
def test_any_code_is_an_error_of_ours(code: object, message: object) -> None:
    body = json.dumps({"code": code, "message": message}).encode()
    assert isinstance(error_of_reply(HEALTH, Reply(500, {}, body)), raybox.RayboxError)


# --- uploads ---------------------------------------------------------------------------------------------------------


@given(files=st.lists(st.tuples(st.text(st.characters(blacklist_categories=["Cs", "Cc"])), st.binary()), min_size=1))
def test_forms_are_read_by_others(files: list[tuple[str, bytes]]) -> None:
    form = multipart([path for path, _ in files])
    contents = [content for _, content in files]
    body = b"".join(form.body(contents))
    assert form.length(contents) == len(body)
    head = f"Content-Type: {form.content_type}\r\n\r\n".encode()
    parsed = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    found = [part.get_payload(decode=True) for part in parsed.iter_parts()]
    # Python's reader of e-mails takes line ends within a part as they come, and drops the last one.
    assert len(found) == len(files)
    for (path, content), part in zip(files, form.heads, strict=True):
        assert b'filename="' + path.replace('"', "%22").encode() + b'"' in part
        assert content in body


@given(st.lists(st.binary(max_size=2000), max_size=8), CUTS)
def test_compressed_and_back(parts: list[bytes], cuts: list[int]) -> None:
    packed = b"".join(compressed(iter(parts)))
    inflater = Inflater()
    found = [part for piece in cut(packed, cuts) for part in inflater.feed(piece)]
    assert b"".join(found) == b"".join(parts)
    assert all(len(part) <= CHUNK_BYTES for part in found)


@given(st.text())
def test_text_is_utf8(text: str) -> None:
    text = text.encode(errors="replace").decode()
    assert b"".join(pieces(text)) == text.encode()


@given(st.binary(max_size=3 * INPUT_CHUNK_BYTES))
def test_input_is_sent_whole(data: bytes) -> None:
    parser = EnvelopeParser()
    found = [one for envelope in input_data("pty", data) for one in parser.feed(envelope)]
    sent = [bytes_of(one["data"]["input"]["pty"]) for one in found if isinstance(one, dict)]
    assert b"".join(sent) == data
    assert all(0 < len(one) <= INPUT_CHUNK_BYTES for one in sent)


# --- signatures ------------------------------------------------------------------------------------------------------


def test_signature_of_the_contract() -> None:
    token = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0"
    expected = "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E"
    assert sign("hello.txt", "read", "user", token, None) == expected
    url = file_url("http://h", "hello.txt", "read", "user", token, None)
    assert url == (
        "http://h/files?path=hello.txt&username=user&signature=v1_gUtH%2Fs9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E"
    )


@given(path=st.text(), user=st.text(), token=st.text(), end=st.none() | st.integers(0, 2**40))
def test_signatures_differ_by_what_they_allow(path: str, user: str, token: str, end: int | None) -> None:
    path, user, token = (text.encode(errors="replace").decode() for text in (path, user, token))
    signed = sign(path, "read", user, token, end)
    assert signed != sign(path, "write", user, token, end)
    assert signed != sign(path, "read", user, token, (end or 0) + 1)
    assert signed.startswith("v1_")
    assert "=" not in signed


@given(st.floats(min_value=0, max_value=1e12))
def test_timeouts_fit_their_header(value_s: float) -> None:
    text = milliseconds(value_s)
    assert text.isdecimal()
    assert 1 <= len(text) <= 10
    assert int(text) > 0
