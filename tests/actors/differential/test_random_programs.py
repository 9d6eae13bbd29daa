"""Random small programs tell the same through both kernels."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.actors.differential.normal import normal
from tests.actors.differential.pair import LoopThread, Pair

names = st.sampled_from("abcd")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    texts,
    st.binary(max_size=8),
    st.lists(st.integers(), max_size=4),
    st.dictionaries(texts, st.integers(), max_size=3),
).map(repr)
values = values.map(lambda text: text.replace("nan", "float('nan')").replace("inf", "float('inf')"))

statements = st.one_of(
    st.builds("{} = {}".format, names, values),
    st.builds("print({})".format, values),
    st.builds("print({}, end='')".format, values),
    st.builds("print({}, file=__import__('sys').stderr)".format, values),
    st.builds("display({})".format, values),
    st.builds("print({})".format, names),
    st.builds("raise ValueError({})".format, values),
    st.builds("if {}: print('true')".format, names),
    st.builds("for i in range(3): print(i, {})".format, values),
    st.builds("del {}".format, names),
    st.builds("await __import__('asyncio').sleep(0, {})".format, values),
    st.builds("try: {0}.x\nexcept Exception as e: print(type(e).__name__)".format, names),
    st.builds("{}".format, names),
    st.builds("{}".format, values),
    st.builds("{};".format, values),
    st.builds("{} + {}".format, names, values),
)
cells = st.lists(statements, min_size=1, max_size=5).map("\n".join)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(program=st.lists(cells, min_size=1, max_size=4))
def test_same_events(program: list[str], pair: Pair, on_loop: LoopThread) -> None:
    for cell in program:
        ours, stock = on_loop.run(pair.run(cell))
        assert normal(*ours) == normal(*stock), cell
