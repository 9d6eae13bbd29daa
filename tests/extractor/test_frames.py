"""Data frames as `e2b/data`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from raybox_extractor import _limits

if TYPE_CHECKING:
    from tests.extractor.conftest import Shell


def data(shell: Shell, expression: str) -> dict[str, list[Any]]:
    bundle = shell.run(expression).only
    assert {"text/plain", "text/html", "e2b/data"} == bundle.keys()
    found: dict[str, list[Any]] = bundle["e2b/data"]
    assert len({len(values) for values in found.values()}) <= 1, "columns of different lengths"
    return found


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("[1, 2]", [1, 2]),
        ("[1.5, float('nan')]", [1.5, None]),
        ("[float('inf'), -float('inf')]", [None, None]),
        ("['x', None]", ["x", None]),
        ("[True, False]", [True, False]),
        ("pd.to_datetime(['2024-01-02', None])", ["2024-01-02T00:00:00", None]),
        ("pd.to_datetime(['2024-01-02T03:04:05.000006Z'])", ["2024-01-02T03:04:05.000006+00:00"]),
        ("[datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2, 3)]", ["2024-01-02", "2024-01-02T03:00:00"]),
        ("pd.array([1, None], 'Int64')", [1, None]),
        ("pd.array([True, None], 'boolean')", [True, None]),
        ("pd.array(['x', None], 'string')", ["x", None]),
        ("pd.array([1.5, None], 'float64[pyarrow]')", [1.5, None]),
        ("pd.Categorical(['x', None, 'x'])", ["x", None, "x"]),
        ("pd.to_timedelta(['1D', None])", ["1 days 00:00:00", None]),
        ("pd.period_range('2024-01', periods=1, freq='M')", ["2024-01"]),
        ("pd.interval_range(0, 1)", ["(0, 1]"]),
        ("pd.arrays.SparseArray([0, 1])", [0, 1]),
        ("[decimal.Decimal('1.50'), 1j]", ["1.50", "1j"]),
        ("[np.int64(1), np.float64('nan'), np.float64('inf')]", [1.0, None, None]),
        (
            "pd.Series([np.float64('inf'), np.datetime64('2024-01-02'), pd.NaT, pd.NA], dtype=object)",
            [None, "2024-01-02", None, None],
        ),
        ("[2**64, -1]", [str(2**64), -1]),
        ("[[1, 2], {'a': np.int8(1)}, (), {3}]", [[1, 2], {"a": 1}, [], "{3}"]),
        ("[np.zeros(2), [float('nan')]]", [[0.0, 0.0], [None]]),
        ("[b'ab', int]", ["b'ab'", "<class 'int'>"]),
        ("[enum.Enum('Color', {'RED': 'r'}).RED]", ["r"]),
        ("[]", []),
    ],
)
def test_every_kind_of_column(shell: Shell, values: str, expected: list[Any]) -> None:
    assert data(shell, f"pd.DataFrame({{'c': {values}}})") == {"c": expected}


@pytest.mark.parametrize("method", ["__str__", "__len__"])
def test_a_value_whose_own_methods_fail_is_named_by_its_type(shell: Shell, method: str) -> None:
    evil = f"type('Evil', (), {{{method!r}: lambda self: 1 / 0}})()"  # of which pandas itself has no text
    frame = f"pd.DataFrame({{'c': pd.Series([{evil}], dtype=object)}})"
    assert shell.value(f"__import__('raybox_extractor').extract_frame({frame})") == {"c": ["<Evil>"]}


@pytest.mark.parametrize(
    ("frame", "names"),
    [
        ("pd.DataFrame([[1, 2, 3]])", ["0", "1", "2"]),
        ("pd.DataFrame([[1, 2, 3]], columns=['a', 'a', 'a.1'])", ["a", "a.1", "a.1.1"]),
        ("pd.DataFrame([[1, 2]], columns=[1, '1'])", ["1", "1.1"]),
        ("pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([('a', 'x'), ('b', '')]))", ["a / x", "b"]),
        ("pd.DataFrame([[1]], columns=pd.to_datetime(['2024-01-02']))", ["2024-01-02T00:00:00"]),
        ("pd.DataFrame([[1, 2]], columns=[None, np.float64(1.5)])", ["nan", "1.5"]),
        ("pd.DataFrame({'x': [1]}, index=['row'])", ["x"]),
        ("pd.DataFrame()", []),
    ],
)
def test_columns_have_distinct_text_names(shell: Shell, frame: str, names: list[str]) -> None:
    assert list(data(shell, frame)) == names


def test_a_subclass_is_a_frame_and_a_series_is_not(shell: Shell) -> None:
    assert data(shell, "type('Sub', (pd.DataFrame,), {})({'a': [1]})") == {"a": [1]}
    assert shell.run("pd.Series([1])").only.keys() == {"text/plain"}


def test_the_frame_itself_is_not_touched(shell: Shell) -> None:
    shell.run("frame = pd.DataFrame({'t': pd.to_datetime(['2024-01-02'])}); before = frame.copy()\nframe")
    assert shell.value("frame.equals(before)") is True


def test_a_frame_that_cannot_be_read_still_has_its_text(shell: Shell) -> None:
    code = (
        "class Broken(pd.DataFrame):\n    iloc = property(lambda self: 1 / 0)\n    __repr__ = lambda self: 'broken'\n"
    )
    cell = shell.run(f"{code}Broken({{'a': [1]}})")
    assert cell.error is None
    assert cell.only["text/plain"] == "broken"
    assert "e2b/data" not in cell.only


def test_too_many_rows_are_cut_with_a_marker(shell: Shell) -> None:
    rows = _limits.FRAME_ROWS_MAX
    assert data(shell, f"pd.DataFrame({{'a': range({rows})}})").keys() == {"a"}
    cut = data(shell, f"pd.DataFrame({{'a': range({rows + 1})}})")
    assert cut["a"] == list(range(rows))
    assert cut["__truncated__"][:2] == [f"{rows} of {rows + 1} rows, 1 of 1 columns", None]


def test_too_many_columns_are_cut_with_a_marker(shell: Shell) -> None:
    columns = _limits.FRAME_COLUMNS_MAX
    cut = data(shell, f"pd.DataFrame(np.zeros((1, {columns + 1})))")
    assert len(cut) == columns + 1
    assert cut["__truncated__"] == [f"1 of 1 rows, {columns} of {columns + 1} columns"]


def test_too_many_cells_are_cut_with_a_marker(shell: Shell) -> None:
    rows = _limits.FRAME_CELLS_MAX // 100
    cut = data(shell, f"pd.DataFrame(np.zeros(({rows + 1}, 100)))")
    assert cut["__truncated__"][0] == f"{rows} of {rows + 1} rows, 100 of 100 columns"


def test_too_many_bytes_are_cut_with_a_marker(shell: Shell) -> None:
    cut = data(shell, "pd.DataFrame({'a': ['é' * 5000] * 1000})")  # six bytes each, as ASCII JSON
    assert 0.9 * _limits.FRAME_BYTES_MAX < len(json.dumps(cut)) < 1.01 * _limits.FRAME_BYTES_MAX
    assert cut["__truncated__"][0] == f"{len(cut['a'])} of 1000 rows, 1 of 1 columns"


def test_long_values_and_names_are_cut_with_a_marker(shell: Shell) -> None:
    chars, items = _limits.FRAME_CELL_CHARS_MAX, _limits.FRAME_CELL_ITEMS_MAX
    cells = f"['x' * {chars}, 'x' * {chars + 7}, [0] * {items + 1}, np.zeros({items}), b'x' * 10**7]"
    fits, text, array, fitting_array, raw = data(shell, f"pd.DataFrame({{'c': {cells}}})")["c"]
    assert fits == "x" * chars
    assert text == "x" * chars + "... [7 characters more]"
    assert array == f"<list of {items + 1} items>"
    assert len(fitting_array) == items
    assert len(raw) < chars + 100
    (name,) = data(shell, f"pd.DataFrame({{'n' * {_limits.FRAME_KEY_CHARS_MAX + 3}: [1]}})")
    assert name == "n" * _limits.FRAME_KEY_CHARS_MAX + "... [3 characters more]"


def test_a_frame_of_many_large_containers_stays_cheap(shell: Shell) -> None:
    cells = data(shell, f"pd.DataFrame({{'c': [[0] * {_limits.FRAME_CELL_ITEMS_MAX}] * 200}})")["c"]
    assert cells[0] == [0] * _limits.FRAME_CELL_ITEMS_MAX
    assert cells[-1] == f"<list of {_limits.FRAME_CELL_ITEMS_MAX} items>"
