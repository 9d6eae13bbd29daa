"""The incremental parser: events out of lines."""

from __future__ import annotations

import contextlib
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybox import SandboxException
from raybox._run import Run
from raybox._stream import MAX_LINE_BYTES, EventParser

VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))
EVENTS = st.lists(st.dictionaries(st.text(), VALUES, max_size=3).map(lambda event: {**event, "type": "x"}), max_size=8)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


@given(
    events=EVENTS, cuts=st.lists(st.integers(min_value=0), max_size=12), ascii_only=st.booleans(), crlf=st.booleans()
)
def test_any_chunking_gives_the_same_events(
    events: list[dict[str, Any]], cuts: list[int], ascii_only: bool, crlf: bool
) -> None:
    end = "\r\n" if crlf else "\n"
    data = "".join(json.dumps(event, ensure_ascii=ascii_only) + end for event in events)
    parser = EventParser()
    found = [event for piece in pieces_of(data.encode("utf-8", "replace"), cuts) for event in parser.feed(piece)]
    whole = EventParser().feed(data.encode("utf-8", "replace"))
    assert found == whole
    assert [event["type"] for event in found] == ["x"] * len(events)
    if ascii_only:
        assert found == events
    assert not parser.has_partial_line


@given(data=st.binary(), cuts=st.lists(st.integers(min_value=0), max_size=6))
def test_garbage_gives_events_or_our_error(data: bytes, cuts: list[int]) -> None:
    run = Run()
    with contextlib.suppress(SandboxException):
        for piece in pieces_of(data, cuts):
            for _ in run.feed(piece):
                pass


CALLED_BACK = ["result", "stdout", "stderr", "error"]
FIELDS = ["text", "name", "value", "traceback", "execution_count", "chart", "extra", "self", "timestamp"]
ANY_EVENT = st.fixed_dictionaries(
    {"type": st.sampled_from([*CALLED_BACK, "number_of_executions", "end_of_execution"])},
    optional=dict.fromkeys(FIELDS, VALUES),
)


@given(ANY_EVENT)
def test_any_object_gives_something_or_our_error(event: dict[str, Any]) -> None:
    def listen(_: object) -> None:
        pass

    run = Run(listen, listen, listen, listen)
    try:
        due = len(list(run.feed(json.dumps(event).encode() + b"\n")))
    except SandboxException:
        return
    assert due == (event["type"] in CALLED_BACK)


def test_blank_lines_are_skipped() -> None:
    assert EventParser().feed(b'\n \r\n{"type": "x"}\n\n') == [{"type": "x"}]


@pytest.mark.parametrize("line", [b"{", b"null", b"[]", b"1", b'{"a": 1}', b'{"type": 1}', b"\xff", b"[" * 100_000])
def test_line_that_is_no_event(line: bytes) -> None:
    with pytest.raises(SandboxException):
        EventParser().feed(line + b"\n")


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_line_beyond_the_bound_is_refused_as_soon_as_it_crosses(size: int) -> None:
    parser = EventParser(max_line_bytes=100)
    line = json.dumps({"type": "x", "pad": "y" * 100}).encode() + b"\n"
    harmless = 100 // size
    for start in range(0, harmless * size, size):
        assert parser.feed(line[start : start + size]) == []
    with pytest.raises(SandboxException, match="more than 100 bytes"):
        parser.feed(line[harmless * size : (harmless + 1) * size])
    assert MAX_LINE_BYTES >= 16 * 1024 * 1024


def test_line_at_the_bound_is_taken() -> None:
    line = json.dumps({"type": "x"}).encode()
    assert EventParser(max_line_bytes=len(line)).feed(line + b"\n") == [{"type": "x"}]


def test_nothing_after_the_end_counts() -> None:
    run = Run(on_stdout=lambda _: None)
    late = b'{"type": "end_of_execution"}\n{"type": "stdout", "text": "late", "timestamp": 0}\n'
    assert list(run.feed(late)) == []
    assert run.ended
    assert run.execution.logs.stdout == []


def test_timings_come_from_the_given_clock() -> None:
    now = iter([10.0, 10.25, 11.0])
    run = Run(clock=lambda: next(now))
    assert list(run.feed(b'{"type": "keepalive"}\n')) == []
    assert list(run.feed(b'{"type": "end_of_execution"}\n')) == []
    assert run.execution.timings_ms == {"first_byte": 250.0, "done": 1000.0}
