"""wire.py and resolver.py, by properties: what the clients encode is what we read, and nothing else gets through."""

from __future__ import annotations

import contextlib
import urllib.parse
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybox_actors.errors import BadRequest
from raybox_actors.values import SandboxInfo
from raybox_cluster.gateway import wire
from raybox_cluster.gateway.resolver import Target, resolve

text = st.text(st.characters(codec="utf-8"), max_size=20)
metadata = st.dictionaries(text, text, max_size=5)


def python_sdk(filter_: dict[str, str]) -> str:
    """As e2b.sandbox_sync.paginator builds the parameter; httpx encodes it once more."""
    return urllib.parse.urlencode({urllib.parse.quote(k): urllib.parse.quote(v) for k, v in filter_.items()})


def component(text: str) -> str:
    """JavaScript's encodeURIComponent."""
    return urllib.parse.quote(text, safe="!'()*~")


def javascript_sdk(filter_: dict[str, str]) -> str:
    """As the JavaScript client builds it: encoded pairs in a URLSearchParams."""
    return urllib.parse.urlencode({component(k): component(v) for k, v in filter_.items()})


@given(metadata)
def test_the_metadata_filter_of_either_sdk_is_read_back(filter_: dict[str, str]) -> None:
    for encode in (python_sdk, javascript_sdk):
        outer = urllib.parse.urlencode({"metadata": encode(filter_)}).encode()
        assert dict(wire.parse_list(outer, version=2).metadata) == filter_
        assert dict(wire.parse_list(outer, version=1).metadata) == filter_


def test_the_example_of_the_contract() -> None:
    assert wire.parse_metadata_filter("a%2520b=c%2Fd%2526e&k=v") == (("a b", "c/d&e"), ("k", "v"))


def sandbox(sandbox_id: str, started_at_s: float, state: str = "running") -> SandboxInfo:
    return SandboxInfo(
        sandbox_id=sandbox_id,
        template="code-interpreter-v1",
        state="running" if state == "running" else "paused",
        started_at_s=started_at_s,
        end_at_s=started_at_s + 300,
        metadata={},
        cpu_count=1,
        memory_mib=1,
        disk_mib=1,
    )


ids = st.integers(0, 40).map(lambda n: f"s{n}")
pools = st.dictionaries(ids, st.integers(0, 5).map(float), max_size=20).map(
    lambda pool: [sandbox(sandbox_id, at) for sandbox_id, at in pool.items()]
)


@given(staying=pools, churn=st.lists(pools, max_size=12), limit=st.integers(1, 4), descending=st.booleans())
def test_what_lives_through_a_listing_is_on_exactly_one_page(
    staying: list[SandboxInfo], churn: list[list[SandboxInfo]], limit: int, descending: bool
) -> None:
    """Whatever comes and goes between the pages."""
    stay = {info.sandbox_id for info in staying}
    seen: list[SandboxInfo] = []
    query = wire.ListQuery(limit=limit, descending=descending)
    for turn in range(100):
        others = churn[turn % len(churn)] if churn else []
        page = wire.select(staying + [info for info in others if info.sandbox_id not in stay], query)
        assert len(page.sandboxes) <= limit
        seen += page.sandboxes
        if page.next_token is None:
            break
        query = replace(query, cursor=wire.Cursor.decode(page.next_token))
    positions = [(info.started_at_s, info.sandbox_id) for info in seen]
    assert positions == sorted(positions, reverse=descending)
    assert sorted(info.sandbox_id for info in seen if info.sandbox_id in stay) == sorted(stay)


@given(st.booleans(), st.integers(0, 10**19), st.from_regex(r"[a-z0-9]{1,64}", fullmatch=True))
def test_a_cursor_survives_its_trip(descending: bool, at_us: int, sandbox_id: str) -> None:
    cursor = wire.Cursor(descending, at_us, sandbox_id)
    assert wire.Cursor.decode(cursor.encode()) == cursor


@given(st.text(max_size=60))
def test_no_other_cursor_gets_through(token: str) -> None:
    try:
        cursor = wire.Cursor.decode(token)
    except BadRequest:
        return
    assert wire.Cursor.decode(cursor.encode()) == cursor


@given(st.floats(0, 4e9, allow_nan=False))
def test_a_time_shown_is_a_time_that_can_be_asked_for(at_s: float) -> None:
    shown = wire.timestamp(at_s)
    assert wire.parse_timestamp("startedAfter", shown) == wire.micros(at_s)
    info = sandbox("a", at_s)
    query = wire.parse_list(urllib.parse.urlencode({"startedAfter": shown}).encode(), version=2)
    assert wire.select([info], query).sandboxes == [info]


def test_nanoseconds_and_offsets_are_times_too() -> None:
    expected = wire.micros(1_704_067_200.123456)
    for shown in ("2024-01-01T00:00:00.123456789Z", "2024-01-01T01:00:00.123456+01:00"):
        assert wire.parse_timestamp("startedAfter", shown) == expected


@given(st.binary(max_size=200), st.sampled_from((1, 2)))
def test_any_query_is_understood_or_refused(query: bytes, version: int) -> None:
    with contextlib.suppress(BadRequest):
        wire.select([sandbox("a", 1.0)], wire.parse_list(query, version=version))


@given(
    st.dictionaries(
        st.sampled_from((b"e2b-sandbox-id", b"e2b-sandbox-port", b"host")),
        st.binary(max_size=80) | st.from_regex(rb"\d{1,6}(-[a-z0-9]{1,70}\..*)?") | st.from_regex(rb"[a-z0-9]{1,70}"),
    )
)
def test_every_request_belongs_to_somebody_or_is_refused(headers: dict[bytes, bytes]) -> None:
    try:
        target = resolve(headers)
    except BadRequest:
        return
    if target is not None:
        assert 1 <= target.port <= 65535
        assert 1 <= len(target.sandbox_id) <= 64
        assert target.sandbox_id.isprintable()
    else:
        assert b"e2b-sandbox-id" not in headers
        assert b"e2b-sandbox-port" not in headers


@pytest.mark.parametrize(
    ("headers", "target"),
    [
        ({}, None),
        ({b"host": b"127.0.0.1:8000"}, None),
        ({b"host": b"49999-abc.example.org"}, Target("abc", 49999)),
        ({b"host": b"3000-ABC1.example.org:80"}, Target("abc1", 3000)),
        ({b"host": b"49999-abc"}, None),
        ({b"host": b"x49999-abc.example.org"}, None),
        ({b"host": b"49999-a-b.example.org"}, None),
        ({b"host": b"49999-abc." + b"x" * 300}, None),
        ({b"host": b"1-b.c", b"e2b-sandbox-id": b"a", b"e2b-sandbox-port": b"49983"}, Target("a", 49983)),
    ],
)
def test_who_is_asked(headers: dict[bytes, bytes], target: Target | None) -> None:
    assert resolve(headers) == target
