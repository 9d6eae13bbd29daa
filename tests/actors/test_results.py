"""Kernel events as the contract's lines."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybox_actors.kernels.base import CodeError, Display, InputAccepted
from raybox_actors.results import END_LINE, KEYS, encode, error_line, input_line, result_line, text_line

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def result(data: dict[str, Any], **fields: Any) -> dict[str, Any]:
    found = json.loads(result_line(Display(data, {}, **fields)))
    assert isinstance(found, dict)
    return found


@settings(deadline=None)
@given(st.dictionaries(st.text(), values))
def test_every_line_is_one_line_of_ascii_that_strict_parsers_take(event: dict[str, Any]) -> None:
    line = encode(event)
    assert line.isascii()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line.decode().splitlines()) == 1  # the Python client splits at every Unicode line boundary

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    json.loads(line, parse_constant=refuse)


@settings(deadline=None)
@given(st.text())
def test_text_survives(text: str) -> None:
    assert json.loads(text_line("stdout", text))["text"] == text


def test_lone_surrogates_survive() -> None:
    assert json.loads(text_line("stderr", "\udcff"))["text"] == "\udcff"


def test_nan_and_infinity_become_null_at_any_depth() -> None:
    assert result({"application/json": {"a": [math.nan, {"b": math.inf}], "c": 1.5}})["json"] == {
        "a": [None, {"b": None}],
        "c": 1.5,
    }


@pytest.mark.parametrize(("mime", "key"), KEYS.items())
def test_every_mime_type_of_the_contract_has_its_key(mime: str, key: str) -> None:
    assert result({mime: "x"}) == {"type": "result", "is_main_result": False, key: "x", "extra": {}}


def test_other_mime_types_go_into_extra() -> None:
    assert result({"application/vnd.x+json": {"a": 1}})["extra"] == {"application/vnd.x+json": {"a": 1}}


def test_absent_representations_are_left_out() -> None:
    assert result({"text/plain": None, "text/latex": "$x$"}) == {
        "type": "result",
        "is_main_result": False,
        "latex": "$x$",
        "extra": {},
    }


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("'hi'", "hi"),
        ('"hi"', "hi"),
        ("''hi''", "'hi'"),
        ("'hi\"", "'hi\""),
        ("'", "'"),
        ("''", ""),
        ("hi", "hi"),
        ("", ""),
    ],
)
def test_one_pair_of_quotes_is_stripped(text: str, kept: str) -> None:
    assert result({"text/plain": text}, main=True)["text"] == kept


def test_lists_of_lines_are_joined_but_data_are_kept() -> None:
    found = result({"text/html": ["<a>", "</a>"], "application/json": [1, 2], "e2b/data": [3], "e2b/chart": [4]})
    assert (found["html"], found["json"], found["data"], found["chart"]) == ("<a></a>", [1, 2], [3], [4])


def test_the_other_lines() -> None:
    assert json.loads(input_line(InputAccepted(3))) == {"type": "number_of_executions", "execution_count": 3}
    assert json.loads(error_line(CodeError("E", "v", ("a\n", "b")))) == {
        "type": "error",
        "name": "E",
        "value": "v",
        "traceback": "a\nb",
    }
    assert json.loads(END_LINE) == {"type": "end_of_execution"}
    text = json.loads(text_line("stdout", "x"))
    assert text.keys() == {"type", "text", "timestamp"}
