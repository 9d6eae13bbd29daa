"""Lists and dicts as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from hypothesis import strategies as st

from raybox_extractor import NotPlain, _limits, plain_or_none, to_plain

if TYPE_CHECKING:
    from tests.extractor.conftest import Shell

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@hypothesis.given(JSON)
def test_json_values_are_their_own_form(value: Any) -> None:
    assert to_plain(value) == value


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("[]", []),
        ("{}", {}),
        ("[1, 2.5, 'x', None, True]", [1, 2.5, "x", None, True]),
        ("[float('nan'), math.inf, -math.inf, np.float32('nan')]", [None, None, None, None]),
        ("{1: 'a', True + 1: 'b'}", {"1": "a", "2": "b"}),
        ("{True: 1, False: 0, None: 2, 1.5: 3}", {"true": 1, "false": 0, "null": 2, "1.5": 3}),
        ("{np.int64(3): np.bool_(True)}", {"3": True}),
        ("{datetime.date(2024, 1, 2): 1}", {"2024-01-02": 1}),
        ("[(1, 2), [3]]", [[1, 2], [3]]),
        ("[datetime.datetime(2024, 1, 2, 3, 4), datetime.time(5, 6)]", ["2024-01-02T03:04:00", "05:06:00"]),
        ("[pd.Timestamp('2024-01-02'), pd.NaT]", ["2024-01-02T00:00:00", None]),
        ("[np.int8(1), np.float64(1.5), np.str_('x'), np.longdouble(2)]", [1, 1.5, "x", 2.0]),
        ("{'m': np.arange(4).reshape(2, 2), 'n': np.array([1.0, np.nan])}", {"m": [[0, 1], [2, 3]], "n": [1.0, None]}),
        ("[np.array(['2024-01-02', 'NaT'], 'M8[D]'), np.array(7)]", [["2024-01-02", None], 7]),
        (
            "[np.datetime64('2024-01-02T03:04:05.123456789'), np.datetime64('NaT')]",
            ["2024-01-02T03:04:05.123456789", None],
        ),
        ("[enum.Enum('Color', {'RED': 'r'}).RED, enum.IntEnum('N', 'ONE').ONE]", ["r", 1]),
        ("[dataclasses.make_dataclass('P', ['x', 'y'])(1, [2])]", [{"x": 1, "y": [2]}]),
        ("[uuid.UUID(int=1)]", ["00000000-0000-0000-0000-000000000001"]),
        ("collections.OrderedDict(a=collections.defaultdict(list, b=[1]))", {"a": {"b": [1]}}),
        ("collections.Counter('aab')", {"a": 2, "b": 1}),
        ("[2**64 - 1, -2**63]", [2**64 - 1, -(2**63)]),
        ("['\\ud800 \\u2028']", ["\ud800 \u2028"]),
    ],
)
def test_lists_and_dicts_have_json(shell: Shell, expression: str, expected: Any) -> None:
    bundle = shell.run(expression).only
    assert bundle["application/json"] == expected
    assert bundle.keys() == {"text/plain", "application/json"}


@pytest.mark.parametrize(
    "expression",
    [
        "[object()]",
        "[{1, 2}]",
        "[b'x']",
        "[1j]",
        "[decimal.Decimal(1)]",
        "[2**64]",
        "[np.timedelta64(1)]",
        "[np.array([1j])]",
        "{(1, 2): 3}",
        "{1: 'a', '1': 'b'}",
        "[pd.DataFrame()]",
        "[int]",
        "(loop := [], loop.append(loop))[0]",
        "(loop := {}, loop.update(a=[loop, loop]))[0]",
        "type('Evil', (list,), {'__iter__': lambda self: 1 / 0, '__repr__': lambda self: 'evil'})([1])",
        "type('Evil', (dict,), {'items': lambda self: 1 / 0, '__repr__': lambda self: 'evil'})(a=1)",
    ],
)
def test_what_has_no_faithful_json_has_none(shell: Shell, expression: str) -> None:
    assert shell.run(expression).only.keys() == {"text/plain"}


@pytest.mark.parametrize("expression", ["(1, 2)", "'x'", "1", "{1}", "np.array([1])", "np.float64(1)"])
def test_only_lists_and_dicts_have_json(shell: Shell, expression: str) -> None:
    assert shell.run(expression).only.keys() == {"text/plain"}


def test_the_text_stays_what_ipython_gives(shell: Shell) -> None:
    assert shell.run("{'b': 1, 'a': [1, 'x']}").only["text/plain"] == "{'b': 1, 'a': [1, 'x']}"
    assert shell.run("list(range(1500))").only["text/plain"].endswith(" 1499]")


def test_a_subclass_that_knows_its_own_json_keeps_it(shell: Shell) -> None:
    code = "class Own(dict):\n    def _repr_json_(self): return {'own': 1}\nOwn(a=1)"
    assert shell.run(code).only["application/json"] == {"own": 1}
    code = "class Own(dict):\n    def _repr_mimebundle_(self, **_): return {'application/json': {'own': 2}}\nOwn(a=1)"
    assert shell.run(code).only["application/json"] == {"own": 2}


def test_a_display_of_json_stays_as_it_is(shell: Shell) -> None:
    code = "from IPython.display import JSON\ndisplay(JSON({'a': 1}))\ndisplay({'text/latex': 'x'}, raw=True)"
    outputs = shell.run(code).outputs
    assert outputs[0]["application/json"] == {"a": 1}
    assert outputs[1] == {"text/latex": "x"}


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_the_bound_on_items() -> None:
    assert plain_or_none([0] * _limits.JSON_ITEMS_MAX) is not None
    assert plain_or_none([0] * (_limits.JSON_ITEMS_MAX + 1)) is None
    row = [0] * 1000
    assert plain_or_none([row] * (_limits.JSON_ITEMS_MAX // 1000)) is None
    assert plain_or_none(dict.fromkeys(range(_limits.JSON_ITEMS_MAX // 2 + 1))) is None


def test_the_bound_on_text() -> None:
    assert plain_or_none(["x" * _limits.JSON_CHARS_MAX]) is not None
    assert plain_or_none(["x" * _limits.JSON_CHARS_MAX, "x"]) is None
    assert plain_or_none({"x" * (_limits.JSON_CHARS_MAX + 1): 1}) is None


def test_the_bound_on_depth() -> None:
    assert plain_or_none(nested(_limits.JSON_DEPTH_MAX)) is not None
    with pytest.raises(NotPlain, match="too deep"):
        to_plain(nested(_limits.JSON_DEPTH_MAX + 1))


def test_the_bound_on_items_counts_arrays(shell: Shell) -> None:
    assert "application/json" in shell.run(f"[np.zeros({_limits.JSON_ITEMS_MAX // 2 - 1})]").only
    assert "application/json" not in shell.run(f"[np.zeros({_limits.JSON_ITEMS_MAX})]").only
