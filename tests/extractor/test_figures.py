"""Figures as charts: what each library draws, and what a chart says of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from raybox_extractor import _limits, charts

if TYPE_CHECKING:
    from tests.extractor.conftest import Shell


def chart(shell: Shell, code: str) -> dict[str, Any]:
    """What the last output of a cell carries as its chart. The cell draws with pyplot, or ends with a figure."""
    shell.run("plt.close('all')")
    cell = shell.run(code)
    assert (cell.error, cell.stderr) == (None, "")
    found: dict[str, Any] = cell.outputs[-1]["e2b/chart"]
    return found


def no_chart(shell: Shell, code: str) -> dict[str, Any]:
    """The last output, which has none."""
    shell.run("plt.close('all')")
    cell = shell.run(code)
    assert cell.error is None
    assert "e2b/chart" not in cell.outputs[-1]
    return cell.outputs[-1]


def kinds(chart: dict[str, Any]) -> list[str]:
    return [element["type"] for element in chart["elements"]]


def groups(chart: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Bars by group and label."""
    found: dict[str, dict[str, Any]] = {}
    for bar in chart["elements"]:
        found.setdefault(bar["group"], {})[bar["label"]] = bar["value"]
    return found


def series(chart: dict[str, Any]) -> dict[str, list[list[Any]]]:
    return {element["label"]: element["points"] for element in chart["elements"]}


@pytest.mark.parametrize(
    ("label", "unit"),
    [
        ("Time (s)", "s"),
        ("Amplitude [Hz]", "Hz"),
        ("Energy[kWh]", "kWh"),
        ("Rate (1/(m s))", "1/(m s)"),
        ("Y-axis (log scale)", "log scale"),
        ("f(x)", None),
        ("Price ()", None),
        ("plain", None),
        ("", None),
        (None, None),
    ],
)
def test_a_unit_is_what_stands_in_parentheses_or_brackets(label: str | None, unit: str | None) -> None:
    assert charts.unit_of(label) == unit


def test_lines_of_the_e2b_documentation(shell: Shell) -> None:
    found = chart(
        shell,
        "x = np.linspace(0, 2 * np.pi, 100)\nplt.figure(figsize=(10, 6))\n"
        "plt.plot(x, np.sin(x), label='sin(x)'); plt.plot(x, np.cos(x), label='cos(x)')\n"
        "plt.xlabel('Time (s)'); plt.ylabel('Amplitude (Hz)'); plt.title('Plot of sin(x) and cos(x)'); plt.show()",
    )
    assert (found["type"], found["title"]) == ("line", "Plot of sin(x) and cos(x)")
    assert (found["x_label"], found["x_unit"], found["y_label"], found["y_unit"]) == (
        "Time (s)",
        "s",
        "Amplitude (Hz)",
        "Hz",
    )
    assert [element["label"] for element in found["elements"]] == ["sin(x)", "cos(x)"]
    assert all(len(element["points"]) == 100 for element in found["elements"])
    assert found["x_tick_labels"] == ["−1", "0", "1", "2", "3", "4", "5", "6", "7"]
    assert found["x_ticks"] == [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def test_boxes_that_are_drawn_twice_are_there_once(shell: Shell) -> None:
    found = chart(
        shell,
        "data = {'A': [85, 90, 78, 92, 88], 'B': [95, 89, 76, 91, 84, 87], 'C': [75, 82, 88, 79, 86]}\n"
        "fig, ax = plt.subplots(); ax.boxplot(data.values(), tick_labels=data.keys())\n"
        "b = ax.boxplot(data.values(), tick_labels=data.keys(), patch_artist=True); plt.show()",
    )
    assert [(box["label"], box["median"]) for box in found["elements"]] == [("A", 88.0), ("B", 88.0), ("C", 82.0)]


@pytest.mark.parametrize(
    "code",
    [
        "plt.figure(); plt.show()",
        "plt.subplots(); plt.show()",
        "plt.subplots(2, 2); plt.show()",
    ],
)
def test_a_figure_without_content_has_no_chart(shell: Shell, code: str) -> None:
    no_chart(shell, code)


@pytest.mark.parametrize(
    "code",
    [
        "plt.imshow([[1, 2], [3, 4]])",
        "plt.pcolormesh([[1, 2], [3, 4]])",
        "plt.contourf([[1, 2], [3, 4]])",
        "plt.gca().add_artist(plt.Circle((0, 0), 1))",
        "plt.violinplot([1, 2, 4])",
        "plt.hexbin([1, 2], [3, 4])",
        "plt.quiver([1], [2], [3], [4])",
        "plt.axes(projection='3d').plot([1, 2], [3, 4], [5, 6])",
        "plt.table([['a']])",
    ],
)
def test_what_has_no_form_is_unknown(shell: Shell, code: str) -> None:
    found = chart(shell, f"_ = {code}; plt.title('t'); plt.show()")
    assert found == {"type": "unknown", "title": "t", "elements": []}


def test_several_axes_are_a_superchart(shell: Shell) -> None:
    found = chart(
        shell,
        "fig, (a, b, c) = plt.subplots(1, 3); fig.suptitle('All'); a.plot([1, 2]); a.set_title('A'); a.grid(True)\n"
        "b.scatter([1], [2], label='s'); b.set_xlabel('X'); _ = c.pie([1, 3], labels=['p', 'q']); plt.show()",
    )
    assert (found["type"], found["title"]) == ("superchart", "All")
    assert set(found) == {"type", "title", "elements"}
    assert kinds(found) == ["line", "scatter", "pie"]
    assert [element["title"] for element in found["elements"]] == ["A", None, None]
    assert found["elements"][1]["x_label"] == "X"
    assert [wedge["angle"] for wedge in found["elements"][2]["elements"]] == [90.0, 270.0]


def test_axes_that_share_a_place_and_marks_that_share_axes(shell: Shell) -> None:
    bars = "fig, ax = plt.subplots(); _ = ax.bar(['a', 'b'], [3, 1])"
    for other in ("ax.twinx()", "ax"):
        found = chart(shell, f"{bars}; {other}.plot(['a', 'b'], [75, 100], label='%'); plt.show()")
        assert kinds(found) == ["bar", "line"]
        assert series(found["elements"][1]) == {"%": [["a", 75.0], ["b", 100.0]]}


def test_a_colour_bar_is_no_chart_and_the_title_of_the_figure_is_that_of_its_only_axes(shell: Shell) -> None:
    found = chart(shell, "s = plt.scatter([1, 2], [3, 4], c=[5, 6]); plt.colorbar(s); plt.suptitle('T'); plt.show()")
    assert (found["type"], found["title"]) == ("scatter", "T")
    assert series(found) == {"Scatter 0": [[1.0, 3.0], [2.0, 4.0]]}


def test_what_only_decorates_is_left_out(shell: Shell) -> None:
    found = chart(
        shell,
        "fig, ax = plt.subplots(); ax.plot([1, 2], [3, 3], label='flat'); ax.grid(True); ax.axhline(3); ax.axvline(1)\n"
        "ax.axline((0, 0), slope=1); ax.axvspan(1, 2); ax.fill_between([1, 2], [1, 2], [3, 4])\n"
        "ax.annotate('x', (1, 2)); ax.plot([], [], label='for the legend'); ax.plot([9], [9], visible=False)\n"
        "ax.legend(); plt.show()",
    )
    assert series(found) == {"flat": [[1.0, 3.0], [2.0, 3.0]]}


def test_error_bars_and_stems_are_their_points(shell: Shell) -> None:
    found = chart(shell, "plt.errorbar([1, 2], [3, 4], yerr=1, capsize=3, label='e'); plt.show()")
    assert series(found) == {"e": [[1.0, 3.0], [2.0, 4.0]]}
    found = chart(shell, "plt.stem([1, 2], [3, 4], label='s'); plt.show()")
    assert series(found) == {"s": [[1.0, 3.0], [2.0, 4.0]]}
    found = chart(shell, "plt.bar(['a', 'b'], [3, 4], yerr=1, capsize=3, label='b'); plt.show()")
    assert groups(found) == {"b": {"a": 3.0, "b": 4.0}}


def test_missing_and_infinite_values_are_null(shell: Shell) -> None:
    found = chart(
        shell, "plt.plot([1, 2, 3], [float('nan'), np.ma.masked, float('inf')][:1] + [2, float('inf')]); plt.show()"
    )
    assert series(found) == {"Line 0": [[1.0, None], [2.0, 2.0], [3.0, None]]}
    found = chart(shell, "plt.plot(np.ma.array([1, 2], mask=[True, False])); plt.show()")
    assert series(found) == {"Line 0": [[0.0, None], [1.0, 2.0]]}


@pytest.mark.parametrize(
    ("code", "scale"),
    [
        ("", "linear"),
        ("plt.xscale('log')", "log"),
        ("plt.xscale('symlog')", "symlog"),
        ("plt.xscale('logit')", "logit"),
        ("plt.xscale('asinh')", "asinh"),
        ("plt.xscale('function', functions=(np.sqrt, np.square))", "function"),
        ("plt.xscale('functionlog', functions=(np.sqrt, np.square))", "functionlog"),
        ("plt.xticks([0, 1], ['low', 'high'])", "categorical"),
        ("plt.xticks([0, 1], ['0', '1'])", "linear"),
        ("plt.xticks([0, 5], ['low', 'high'])", "linear"),
        ("import matplotlib.dates as d; plt.gca().xaxis.set_major_formatter(d.DateFormatter('%H'))", "datetime"),
    ],
)
def test_scales(shell: Shell, code: str, scale: str) -> None:
    found = chart(shell, f"plt.plot([0.1, 0.9], [1, 2]); {code or 'pass'}; plt.show()")
    assert (found["x_scale"], found["y_scale"]) == (scale, "linear")
    assert len(found["x_ticks"]) == len(found["x_tick_labels"]) > 0


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ("[datetime.date(2023, 9, 1), datetime.date(2023, 9, 2)]", ["2023-09-01", "2023-09-02"]),
        (
            "pd.to_datetime(['2023-09-01T00:00:00', '2023-09-02T03:04:05'])",
            ["2023-09-01T00:00:00", "2023-09-02T03:04:05"],
        ),
        ("np.array(['2023-09', '2023-10'], 'datetime64[D]')", ["2023-09-01", "2023-10-01"]),
        (
            "np.array(['2023-09-01T00:00:00.000000001', '2023-09-02'], 'datetime64[ns]')",
            ["2023-09-01T00:00:00.000000001", "2023-09-02T00:00:00.000000000"],
        ),
        (
            "pd.to_datetime(['2023-09-01', '2023-09-02']).tz_localize('Europe/Berlin').to_pydatetime()",
            ["2023-09-01T00:00:00+02:00", "2023-09-02T00:00:00+02:00"],
        ),
    ],
)
def test_dates_are_iso_8601(shell: Shell, x: str, expected: list[str]) -> None:
    found = chart(shell, f"plt.plot({x}, [1, 2]); plt.show()")
    assert found["x_scale"] == "datetime"
    assert [point[0] for point in found["elements"][0]["points"]] == expected
    assert all(isinstance(tick, str) and tick.startswith("2023-") for tick in found["x_ticks"])


def test_a_scatter_of_dates_with_a_time_zone(shell: Shell) -> None:
    moments = "pd.to_datetime(['2023-09-01', '2023-09-02']).tz_localize('Europe/Berlin').to_pydatetime()"
    found = chart(shell, f"plt.scatter({moments}, [1, 2]); plt.show()")
    assert [x for x, _ in found["elements"][0]["points"]] == ["2023-09-01T00:00:00+02:00", "2023-09-02T00:00:00+02:00"]


def test_bars_are_named_by_tick_date_or_number(shell: Shell) -> None:
    named = "plt.bar([10, 20], [1, 2]); {}; plt.show()"
    assert groups(chart(shell, named.format("plt.xticks([10, 20], ['x', 'y'])"))) == {"Group 0": {"x": 1.0, "y": 2.0}}
    assert groups(chart(shell, named.format("pass"))) == {"Group 0": {"10": 1.0, "20": 2.0}}
    dates = "plt.bar([datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)], [1, 2]); plt.show()"
    assert groups(chart(shell, dates)) == {"Group 0": {"2024-01-01T00:00:00": 1.0, "2024-01-02T00:00:00": 2.0}}
    colours = "plt.bar(['a', 'b'], [1, 2], label=['k', 'l']); plt.show()"
    assert groups(chart(shell, colours)) == {"k": {"a": 1.0}, "l": {"b": 2.0}}
    bins = "_ = plt.hist([1, 1, 2, 4], bins=[0, 2, 4]); plt.show()"
    assert groups(chart(shell, bins)) == {"Group 0": {"1": 2.0, "3": 2.0}}


def test_bars_that_lie_have_their_names_on_x_all_the_same(shell: Shell) -> None:
    found = chart(shell, "plt.barh(['a', 'b'], [1, -2]); plt.xlabel('Sales (EUR)'); plt.ylabel('Who'); plt.show()")
    assert (found["x_label"], found["y_label"], found["y_unit"]) == ("Who", "Sales (EUR)", "EUR")
    assert groups(found) == {"Group 0": {"a": 1.0, "b": -2.0}}


def test_bars_that_stand_on_others_have_their_own_length(shell: Shell) -> None:
    code = "plt.bar(['a'], [0.1], label='x'); plt.bar(['a'], [0.2], bottom=[0.1], label='y'); plt.show()"
    assert groups(chart(shell, code)) == {"x": {"a": 0.1}, "y": {"a": 0.2}}


def test_pandas_plots(shell: Shell) -> None:
    shell.run("frame = pd.DataFrame({'k': ['p', 'q'], 'a': [1, 2], 'b': [3.5, 4]})")
    assert groups(chart(shell, "frame.plot.bar(x='k').figure")) == {
        "a": {"p": 1.0, "q": 2.0},
        "b": {"p": 3.5, "q": 4.0},
    }
    stacked = chart(shell, "frame.plot.barh(x='k', stacked=True).figure")
    assert groups(stacked) == {"a": {"p": 1.0, "q": 2.0}, "b": {"p": 3.5, "q": 4.0}}
    assert series(chart(shell, "frame.plot(x='a', y='b').figure")) == {"b": [[1.0, 3.5], [2.0, 4.0]]}
    pie = chart(shell, "frame.set_index('k').a.plot.pie().figure")
    assert [(wedge["label"], wedge["angle"]) for wedge in pie["elements"]] == [("p", 120.0), ("q", 240.0)]
    boxes = chart(shell, "frame[['a', 'b']].plot.box().figure")
    assert [(box["label"], box["median"]) for box in boxes["elements"]] == [("a", 1.5), ("b", 3.75)]


@pytest.mark.parametrize(("freq", "second"), [("D", "2024-01-02"), ("MS", "2024-02-01"), ("h", "2024-01-01T01:00:00")])
def test_pandas_series_over_time(shell: Shell, freq: str, second: str) -> None:
    found = chart(shell, f"pd.Series([1, 2, 3], pd.date_range('2024-01-01', periods=3, freq={freq!r})).plot().figure")
    assert found["x_scale"] == "datetime"
    assert found["elements"][0]["points"][1] == [second if "T" in second else f"{second}T00:00:00", 2.0]
    assert all(tick.startswith(("2023-", "2024-")) for tick in found["x_ticks"])


def test_seaborn_plots(shell: Shell) -> None:
    shell.run(
        "import seaborn as sns\n"
        "tips = pd.DataFrame({'day': ['a', 'b', 'a', 'b'] * 2, 'who': ['u', 'u', 'v', 'v'] * 2,"
        " 'x': [1., 2, 3, 4] * 2, 'y': [1., 2, 3, 4] * 2})"
    )
    bars = chart(shell, "sns.barplot(tips, x='day', y='y', hue='who').figure")
    assert groups(bars) == {"u": {"a": 1.0, "b": 2.0}, "v": {"a": 3.0, "b": 4.0}}
    lines = chart(shell, "sns.lineplot(tips, x='x', y='y', hue='who').figure")
    assert series(lines) == {"u": [[1.0, 1.0], [2.0, 2.0]], "v": [[3.0, 3.0], [4.0, 4.0]]}
    points = chart(shell, "sns.scatterplot(tips[:4], x='x', y='y', hue='who').figure")
    assert series(points) == {"u": [[1.0, 1.0], [2.0, 2.0]], "v": [[3.0, 3.0], [4.0, 4.0]]}
    boxes = chart(shell, "sns.boxplot(tips, x='day', y='y').figure")
    assert [(box["label"], box["median"]) for box in boxes["elements"]] == [("a", 2.0), ("b", 3.0)]
    assert kinds(chart(shell, "sns.regplot(tips, x='x', y='y').figure")) == ["scatter", "line"]
    assert kinds(chart(shell, "sns.relplot(tips, x='x', y='y', col='who').figure")) == ["scatter", "scatter"]


def test_a_figure_as_the_last_expression_has_its_chart(shell: Shell) -> None:
    cell = shell.run("figure, axes = plt.subplots(); axes.plot([1, 2]); plt.close(); figure")
    assert cell.only.keys() == {"text/plain", "image/png", "e2b/chart"}


def test_extract_figure_takes_whatever_has_a_figure(shell: Shell) -> None:
    shell.run("from raybox_extractor import extract_figure\nfigure, axes = plt.subplots(1, 2); axes[0].plot([1, 2])")
    for expression in ("figure", "axes", "axes[0]"):
        assert shell.value(f"extract_figure({expression})['type']") == "line", expression
    for expression in ("None", "3", "[]", "{}", "'text'", "plt", "pd.DataFrame()", "np.zeros(0)"):
        assert shell.value(f"extract_figure({expression})") is None, expression
    shell.run("plt.close('all')")


def test_the_figure_is_as_it_was(shell: Shell) -> None:
    code = (
        "from raybox_extractor import extract_figure\nimport io\n"
        "def picture(look):\n    fig, ax = plt.subplots(); ax.plot(['a', 'b'], [1, 10])\n"
        "    ax.set_yscale('log'); ax.legend(['l'])\n"
        "    look(fig); file = io.BytesIO(); fig.savefig(file, format='rgba'); plt.close(fig); return file.getvalue()"
    )
    assert shell.run(code).error is None
    assert shell.value("picture(lambda figure: None) == picture(extract_figure)") is True


@pytest.mark.parametrize(
    "code",
    [
        "ax.xaxis.set_major_locator(type('L', (type(ax.xaxis.get_major_locator()),), {'__call__': lambda s: 1 / 0})())",
        "type(line).get_data = lambda self, orig=True: 1 / 0",
    ],
)
def test_what_the_user_broke_costs_the_data_and_nothing_else(fresh_shell: Shell, code: str) -> None:
    fresh_shell.run("import matplotlib.pyplot as plt; from raybox_extractor import extract_figure")
    fresh_shell.run("fig, ax = plt.subplots(); (line,) = ax.plot([1, 2]); plt.close()")
    fresh_shell.run(code)
    cell = fresh_shell.run("found = extract_figure(fig); 'after'")
    assert (cell.error, cell.outputs[-1]["text/plain"]) == (None, "'after'")
    assert fresh_shell.value("found and found['x_ticks']") in (None, [])


# ---- bounds ----


def test_too_many_points_are_cut_with_a_marker(shell: Shell) -> None:
    limit = _limits.CHART_POINTS_MAX
    found = chart(shell, f"plt.plot(range({limit}), label='fits'); plt.show()")
    assert [(element["label"], len(element["points"])) for element in found["elements"]] == [("fits", limit)]
    found = chart(
        shell, f"plt.plot(range({limit - 1}), label='a'); plt.scatter([1, 2, 3], [1, 2, 3], label='b'); plt.show()"
    )
    scatter, line = found["elements"]
    assert [element["label"] for element in scatter["elements"]] == ["b"]
    assert [element["label"] for element in line["elements"]] == [f"a [{limit - 3} of {limit - 1} points]"]
    assert len(line["elements"][0]["points"]) == limit - 3


def test_too_many_elements_are_cut_with_a_marker(shell: Shell) -> None:
    limit = _limits.CHART_ELEMENTS_MAX
    cell = shell.run(
        "from raybox_extractor import extract_figure\nfrom matplotlib.figure import Figure\n"
        f"figure = Figure(); bars = figure.add_subplot().bar(range({limit + 5}), 1)\nfound = extract_figure(figure)"
    )
    assert cell.error is None
    assert shell.value("len(found['elements'])") == limit
    assert shell.value("found['title']") == f"[{limit} of {limit + 5} elements]"


def test_long_texts_and_many_ticks_are_cut_with_a_marker(shell: Shell) -> None:
    chars, ticks = _limits.CHART_TEXT_CHARS_MAX, _limits.CHART_TICKS_MAX
    cell = shell.run(
        "from raybox_extractor import extract_figure\nfrom matplotlib.figure import Figure\n"
        f"figure = Figure(); axes = figure.add_subplot(); axes.plot([1]); axes.set_title('t' * {chars + 3})\n"
        f"_ = axes.set_xticks(range({ticks + 2}))\nfound = extract_figure(figure)"
    )
    assert cell.error is None
    assert shell.value("found['title']") == "t" * chars + "... [3 characters more]"
    assert shell.value("[len(found['x_ticks']), len(found['x_tick_labels'])]") == [ticks, ticks]
    assert shell.value("found['x_tick_labels'][-1]") == "... [2 ticks more]"


# ---- plotly and altair ----


def test_a_plotly_figure_is_its_own_json_html_and_a_chart(shell: Shell) -> None:
    shell.run("import plotly.graph_objects as go, plotly.express as px")
    code = "go.Figure(go.Scatter(x=[1, 2], y=np.array([3, 4.5]), name='a'), dict(title='T', xaxis_title='Time (s)'))"
    for shown in (code, f"({code}).show()"):
        bundle = shell.run(shown).only
        assert bundle.keys() == {"application/vnd.plotly.v1+json", "text/html", "e2b/chart"}
        assert bundle["application/vnd.plotly.v1+json"]["data"][0]["name"] == "a"
        assert len(bundle["text/html"]) < 20_000, "plotly.js itself is in it"
        found = bundle["e2b/chart"]
        assert (found["type"], found["title"], found["x_unit"]) == ("line", "T", "s")
        assert series(found) == {"a": [[1.0, 3.0], [2.0, 4.5]]}


@pytest.mark.parametrize(
    ("figure", "elements"),
    [
        ("go.Figure(go.Bar(x=['p', 'q'], y=[1, 2], name='b'))", [["p", 1.0, "b"], ["q", 2.0, "b"]]),
        ("go.Figure(go.Bar(y=['p', 'q'], x=[1, 2], orientation='h'))", [["p", 1.0, "Group 0"], ["q", 2.0, "Group 0"]]),
        ("px.bar(x=['p', 'q'], y=[1, 2])", [["p", 1.0, "Group 0"], ["q", 2.0, "Group 0"]]),
        ("go.Figure(go.Pie(labels=['p', 'q', 'p'], values=[1, 2, 1]))", [["p", 180.0, 1.0], ["q", 180.0, 1.0]]),
        ("px.scatter(x=[1, 2], y=[3, 4])", [["Scatter 0", [[1.0, 3.0], [2.0, 4.0]]]]),
        ("px.line(x=pd.to_datetime(['2024-01-01']), y=[3])", [["Line 0", [["2024-01-01T00:00:00", 3.0]]]]),
        ("go.Figure(go.Scatter(y=[3, None]))", [["Line 0", [[0.0, 3.0], [1.0, None]]]]),
    ],
)
def test_plotly_traces_whose_numbers_are_drawn(shell: Shell, figure: str, elements: list[Any]) -> None:
    found = shell.value(f"extract_figure({figure})")
    assert [list(element.values()) for element in found["elements"]] == elements


def test_plotly_scales_and_subplots(shell: Shell) -> None:
    scale = "extract_figure({})['x_scale']"
    assert shell.value(scale.format("px.scatter(x=[1, 10], y=[1, 2], log_x=True)")) == "log"
    assert shell.value(scale.format("px.scatter(x=['2024-01-01'], y=[1])")) == "datetime"
    assert shell.value(scale.format("px.scatter(x=['a'], y=[1])")) == "categorical"
    made = "__import__('plotly.subplots').subplots.make_subplots(1, 2)"
    cell = shell.run(f"f = {made}; f.add_bar(y=[1], row=1, col=1); f.add_scatter(y=[1], row=1, col=2); 0")
    assert cell.error is None
    assert kinds(shell.value("extract_figure(f)")) == ["bar", "line"]


@pytest.mark.parametrize(
    "figure", ["go.Histogram(x=[1, 2])", "go.Box(y=[1, 2])", "go.Heatmap(z=[[1]])", "go.Scatter(y=[1], stackgroup='s')"]
)
def test_plotly_figures_that_the_browser_computes_have_no_chart(shell: Shell, figure: str) -> None:
    assert shell.value(f"extract_figure(go.Figure({figure}))") is None


def test_an_altair_chart_is_its_own_json_and_a_chart(shell: Shell) -> None:
    shell.run("import altair as alt; rows = pd.DataFrame({'x': [2, 1], 'y': [3, 4.5], 'c': ['u', 'u']})")
    bundle = shell.run("alt.Chart(rows, title='T').mark_line().encode(x='x', y='y', color='c')").only
    assert bundle.keys() >= {"text/plain", "text/html", "application/vnd.vegalite.v6+json", "e2b/chart"}
    assert bundle["application/vnd.vegalite.v6+json"]["mark"] == {"type": "line"}
    found = bundle["e2b/chart"]
    assert (found["type"], found["title"], found["x_label"]) == ("line", "T", "x")
    assert series(found) == {"u": [[1.0, 4.5], [2.0, 3.0]]}  # joined along x


@pytest.mark.parametrize(
    ("code", "elements"),
    [
        ("mark_bar().encode(x='c:N', y='y')", [["u", 3.0, "y"], ["u", 4.5, "y"]]),
        ("mark_bar().encode(y='c:N', x='y')", [["u", 3.0, "y"], ["u", 4.5, "y"]]),
        ("mark_point().encode(x='x', y='y')", [["y", [[2.0, 3.0], [1.0, 4.5]]]]),
        ("mark_arc().encode(theta='x', color='x:N')", [["2", 240.0, 1.0], ["1", 120.0, 1.0]]),
    ],
)
def test_altair_marks_whose_numbers_are_drawn(shell: Shell, code: str, elements: list[Any]) -> None:
    found = shell.value(f"extract_figure(alt.Chart(rows).{code})")
    assert [list(element.values()) for element in found["elements"]] == elements


@pytest.mark.parametrize(
    "code",
    [
        "mark_bar().encode(x='c', y='mean(y)')",
        "mark_bar().encode(x=alt.X('x', bin=True), y='count()')",
        "mark_area().encode(x='x', y='y')",
        "mark_point().encode(x='x', y='y').transform_filter('datum.x > 1')",
        "mark_point().encode(x='x', y='y').facet('c')",
    ],
)
def test_altair_charts_that_the_browser_computes_have_no_chart(shell: Shell, code: str) -> None:
    assert shell.value(f"extract_figure(alt.Chart(rows).{code})") is None


# ---- fonts ----


def test_fonts_for_cjk_text_are_added_if_there_are_some_and_nobody_chose_others(fresh_shell: Shell) -> None:
    fresh_shell.run("import matplotlib; from matplotlib import font_manager as m; from raybox_extractor import fonts")
    family = "list(matplotlib.rcParams['font.family'])"
    installed = fresh_shell.value("fonts.installed(font.name for font in m.fontManager.ttflist)")
    assert fresh_shell.value(family) == ["sans-serif", *installed]
    # A font of that name: matplotlib's own, renamed.
    made = fresh_shell.run(
        "from fontTools.ttLib import TTFont\nmatplotlib.rcParams['font.family'] = 'sans-serif'\n"
        "font = TTFont(m.findfont('DejaVu Sans'))\n"
        "for record in font['name'].names:\n    if record.nameID in (1, 4, 16): record.string = 'NanumGothic'\n"
        "font.save('cjk.ttf'); m.fontManager.addfont('cjk.ttf'); fonts.add_fallbacks(m)"
    )
    assert made.error is None, made.error
    assert "NanumGothic" in fresh_shell.value(family)
    cell = fresh_shell.run("import matplotlib.pyplot as plt; plt.title('x'); plt.show()")
    assert (cell.error, cell.stderr) == (None, "")
    fresh_shell.run("matplotlib.rcParams['font.family'] = 'serif'; fonts.add_fallbacks(m)")
    assert fresh_shell.value(family) == ["serif"]


def test_every_chart_is_json(shell: Shell) -> None:
    """NaN is none: the shell refuses to send it."""
    found = chart(shell, "plt.scatter([float('nan'), 1], [1, float('inf')]); plt.show()")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
