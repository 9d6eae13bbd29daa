"""The page itself, without any pool."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from .capabilities import NAMES
from .matrix import STATUSES, Outcome, changes, of_both, page, read, regressions

DETAILS = st.text(alphabet="ab| \n`[]1.", min_size=1, max_size=20).filter(lambda text: text.strip())
OUTCOMES = st.one_of(
    st.just(Outcome("works")),
    st.just(Outcome("absent")),
    st.builds(Outcome, st.sampled_from(["differs", "refused", "fails"]), DETAILS),
)
COLUMNS = st.dictionaries(st.sampled_from(NAMES), OUTCOMES)
TITLES = ("Python 1 (e2b 2)", "JavaScript 3 (e2b 4)")


@given(st.tuples(COLUMNS, COLUMNS))
def test_a_page_is_read_as_it_was_written(columns: tuple[dict[str, Outcome], dict[str, Outcome]]) -> None:
    written = dict(zip(TITLES, columns, strict=True))
    again = read(page(written))
    assert changes(again, written) == []
    assert page(again) == page(written)
    assert all(set(column) == set(NAMES) for column in again.values())


def test_what_worked_and_does_not_is_a_regression() -> None:
    first, second = NAMES[:2]
    before = {TITLES[0]: {first: Outcome("works"), second: Outcome("fails", "why")}}
    worse = {TITLES[0]: {first: Outcome("refused", "no"), second: Outcome("works")}}
    assert regressions(before, worse) == [f"{TITLES[0]}: {first} worked, and now: refused: no"]
    assert regressions(before, {TITLES[0]: {second: Outcome("works")}}) == [
        f"{TITLES[0]}: {first} worked, and now: absent: "
    ]
    assert regressions(worse, {TITLES[0]: {second: Outcome("works")}}) == []
    assert len(changes(before, worse)) == 2


def test_a_column_of_newer_versions_is_measured_by_the_one_before_it() -> None:
    before = {TITLES[0]: {NAMES[0]: Outcome("works")}}
    assert regressions(before, {"Python 2 (e2b 3)": {NAMES[0]: Outcome("fails", "x")}})
    assert changes(before, {"Python 2 (e2b 3)": {NAMES[0]: Outcome("works")}}) == []


@given(OUTCOMES, OUTCOMES)
def test_two_classes_are_as_good_as_the_worse(one: Outcome, other: Outcome) -> None:
    both = of_both(one, other)
    present = [status for status in (one.status, other.status) if status != "absent"]
    assert both.status == max(present, key=STATUSES.index, default="absent")
    if one == other:
        assert both == one


def test_the_worse_class_is_named() -> None:
    assert of_both(Outcome("works"), Outcome("fails", "why")) == Outcome("fails", "`AsyncSandbox`: why")
