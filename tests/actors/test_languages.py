"""The same program in every language but Python, each through a real kernel in real walls."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest

from raybox_actors.config import LanguageKernel
from raybox_actors.contexts import TimeoutPolicy
from raybox_actors.errors import BadRequest, InternalError, NotFound
from raybox_actors.session import SessionOptions
from raybox_template.languages import RECIPES, install
from tests.actors.conftest import OpenSession
from tests.actors.driving import Cell, Driver, eventually, inside

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Speech:
    """How to say in a language what the tests want to say. `{0}` and so on are filled in."""

    keep: str  #: have `x` be 41
    tell: str  #: print x + 1
    result: str  #: the text of a result, for what was printed
    value: str  #: a cell whose value is x + 1; empty where there are no values
    variable: str  #: print the environment variable {0}, an empty line or a word for nothing if there is none
    unset: str  #: what that word is
    here: str  #: print the working directory
    fail: str
    failure: tuple[str, str]  #: its name, and a part of its value
    broken: str  #: what cannot be parsed
    wait: str  #: print "up", then do nothing for a minute
    spin: str  #: print "up", then be busy for ever
    await_file: str  #: print "up", then wait until the file {0} exists
    make_file: str
    leave: str  #: end the kernel


JAVASCRIPT = Speech(
    keep="let x = 41",
    tell="console.log(x + 1)",
    value="x + 1",
    result="42",
    variable="console.log(process.env.{0})",
    unset="undefined",
    here="console.log(process.cwd())",
    fail="throw new RangeError('too far')",
    failure=("RangeError", "too far"),
    broken="let y = ;",
    wait="console.log('up'); await new Promise(done => setTimeout(done, 60_000))",
    spin="console.log('up'); for (;;) {}",
    await_file="const fs = require('fs'); console.log('up');\n"
    "while (!fs.existsSync('{0}')) await new Promise(done => setTimeout(done, 5))",
    make_file="require('fs').writeFileSync('{0}', '')",
    leave="process.exit(3)",
)
SPEECH = {
    "javascript": JAVASCRIPT,
    "typescript": dataclasses.replace(JAVASCRIPT, keep="let x: number = 41"),
    "bash": Speech(
        keep="x=41",
        tell="echo $((x + 1))",
        value="",
        result="",
        variable="echo ${0}",
        unset="",
        here="pwd",
        fail="(exit 7)",
        failure=("ExitStatus", "7"),
        broken="if true",
        wait="echo up; sleep 60",
        spin="echo up; while :; do :; done",
        await_file="echo up; until [ -e {0} ]; do sleep 0.005; done",
        make_file=": > {0}",
        leave="exit 3",
    ),
    "r": Speech(
        keep="x <- 41",
        tell="cat(x + 1, fill = TRUE)",
        value="x + 1",
        result="[1] 42",
        variable='cat(Sys.getenv("{0}"), fill = TRUE)',
        unset="",
        here="cat(getwd(), fill = TRUE)",
        fail='stop("too far")',
        failure=("ERROR", "too far"),
        broken="y <- (",
        wait='cat("up\\n"); Sys.sleep(60)',
        spin='cat("up\\n"); while (TRUE) {}',
        await_file='cat("up\\n"); while (!file.exists("{0}")) Sys.sleep(0.005)',
        make_file='invisible(file.create("{0}"))',
        leave="quit(status = 3)",
    ),
    "java": Speech(
        keep="int x = 41;",
        tell="System.out.println(x + 1);",
        value="x + 1",
        result="42",
        variable='System.out.println(System.getProperty("{0}"));',
        unset="null",
        here='System.out.println(System.getProperty("user.dir"));',
        fail='throw new IllegalStateException("too far");',
        failure=("IllegalStateException", "too far"),
        broken="int y = ;",
        wait='System.out.println("up"); Thread.sleep(60_000);',
        spin='System.out.println("up"); while (true) {}',
        await_file='System.out.println("up");\nwhile (!Files.exists(Path.of("{0}"))) Thread.sleep(5);',
        make_file='Files.createFile(Path.of("{0}"));',
        leave="System.exit(3);",
    ),
}


@pytest.fixture(params=SPEECH)
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def speech(language: str) -> Speech:
    return SPEECH[language]


@pytest.fixture(scope="session")
def language_options(base_options: SessionOptions) -> SessionOptions:
    """As a node agent would have them on a machine that has every language."""
    runtimes = {name: install(name) for name in RECIPES}
    folders = [str(folder) for runtime in runtimes.values() for folder in runtime.folders]
    policy = dataclasses.replace(base_options.policy, read_only=(*base_options.policy.read_only, *folders))
    kernels = {name: LanguageKernel(runtime.command, runtime.protocol) for name, runtime in runtimes.items()}
    return dataclasses.replace(base_options, policy=policy, languages=kernels)


@pytest.fixture
async def driver(session: OpenSession, language_options: SessionOptions) -> Driver:
    return await session(policy=language_options.policy, languages=language_options.languages)


def count_of(cell: Cell) -> int:
    return next(int(event["execution_count"]) for event in cell.events if event["type"] == "number_of_executions")


async def until_up(driver: Driver, cell: Cell) -> Cell:
    while "up" not in cell.text():
        assert not cell.done, cell.events
        await driver.poll(cell)
    return cell


async def test_state_and_value(driver: Driver, language: str, speech: Speech) -> None:
    assert (await driver.run(speech.keep, language=language)).error is None
    told = await driver.run(speech.tell, language=language)
    assert (told.text(), told.text("stderr"), told.result, told.error) == ("42\n", "", None, None)
    if speech.value:
        valued = await driver.run(speech.value, language=language)
        (result,) = [event for event in valued.events if event["type"] == "result"]
        assert (result["text"], result["is_main_result"]) == (speech.result, True)


async def test_environment(driver: Driver, language: str, speech: Speech) -> None:
    value = 'it\'s "quoted" $HOME \\n é 😀'

    async def told(name: str, **fields: object) -> tuple[int, str]:
        cell = await driver.run(speech.variable.replace("{0}", name), language=language, **fields)
        assert (cell.error, cell.text("stderr")) == (None, ""), cell.events
        return count_of(cell), cell.text().rstrip("\n")

    await driver.session.configure({"GLOBAL": "before"})  # the kernel is not there yet
    assert await told("GLOBAL") == (1, "before")
    await driver.session.configure({"GLOBAL": value})
    assert await told("GLOBAL") == (2, value)
    assert await told("OWN", env_vars={"OWN": value, "GLOBAL": "now"}) == (3, value)
    assert await told("GLOBAL", env_vars={"GLOBAL": "now"}) == (4, "now")
    assert await told("OWN") == (5, speech.unset)
    assert await told("GLOBAL") == (6, value)
    failed = await driver.run(speech.fail, language=language, env_vars={"OWN": "1"})
    assert failed.error is not None
    assert await told("OWN") == (8, speech.unset)


async def test_working_folder_and_restart(driver: Driver, language: str, speech: Speech) -> None:
    info = await driver.session.create_context(language, "/var/tmp")
    assert (info.language, info.cwd) == (language, "/var/tmp")
    assert driver.session.contexts()[-1] == info
    here = {"context_id": info.context_id}
    assert (await driver.run(speech.here, **here)).text().strip() in ("/var/tmp", "/tmp")  # the one is the other
    await driver.run(speech.keep, **here)
    await driver.session.restart_context(info.context_id)
    again = await driver.run(speech.here, **here)
    assert (count_of(again), again.text().strip() in ("/var/tmp", "/tmp")) == (1, True)
    assert "42" not in (await driver.run(speech.tell, **here)).text()
    default = await driver.run(speech.here, language=language)
    assert default.text() == "/home/user\n"
    await driver.session.remove_context(info.context_id)
    with pytest.raises(NotFound):
        await driver.run(speech.here, **here)


async def test_errors(driver: Driver, language: str, speech: Speech) -> None:
    await driver.run(speech.keep, language=language)
    failed = await driver.run(speech.fail, language=language)
    (error,) = [event for event in failed.events if event["type"] == "error"]
    name, part = speech.failure
    assert error["name"] == name
    assert part in error["value"]
    assert part in error["traceback"]
    assert "\x1b" not in error["traceback"]
    broken = await driver.run(speech.broken, language=language)
    assert broken.error is not None
    assert (await driver.run(speech.tell, language=language)).text() == "42\n"


async def test_streaming_and_interrupt(driver: Driver, language: str, speech: Speech) -> None:
    await driver.run(speech.keep, language=language)
    for busy in (speech.wait, speech.spin):
        cell = await until_up(driver, await driver.start(busy, language=language))
        waiting = await driver.start(speech.tell, language=language)
        driver.session.interrupt(cell.execution_id)
        await driver.finish(cell)
        assert cell.error == ("KeyboardInterrupt", "")
        assert cell.text() == "up\n"
        assert (await driver.finish(waiting)).text() == "42\n"  # in its turn, with the state that was there
    cell = await driver.run(speech.wait, language=language, timeout_s=0.3)
    assert cell.error is not None
    assert cell.error[0] == "ExecutionTimeout"
    assert "is kept" in cell.error[1]
    assert (await driver.run(speech.tell, language=language)).text() == "42\n"


async def test_contexts_run_at_the_same_time(driver: Driver, language: str, speech: Speech) -> None:
    other = await driver.session.create_context(language, None)
    cell = await driver.start(speech.await_file.replace("{0}", "/tmp/flag"), language=language)
    await until_up(driver, cell)
    made = await driver.run(speech.make_file.replace("{0}", "/tmp/flag"), context_id=other.context_id)
    assert (made.error, (await driver.finish(cell)).error) == (None, None)


async def test_a_kernel_that_ends_is_replaced(driver: Driver, language: str, speech: Speech) -> None:
    await driver.run(speech.keep, language=language)
    left = await driver.run(speech.leave, language=language)
    assert left.error is not None
    assert left.error[0] == "UnexpectedEndOfExecution"
    assert "is gone" in left.error[1]
    again = await driver.run(speech.here, language=language)
    assert (count_of(again), again.text()) == (1, "/home/user\n")


MODERN = [
    ("import { basename } from 'path'\nimport * as all from 'node:path'\nbasename(all.join('a', 'b'))", "b"),
    ("import os, { EOL } from 'os'; typeof os.cpus + EOL.length", "function1"),
    ("os.EOL === EOL", "true"),
    ("import { type Stats } from 'fs'; import type { Dirent } from 'fs'; 1", "1"),
    ("(await import('node:url')).URL.name", "URL"),
    ("require('os').EOL.length", "1"),
    ("const a: Map<string, number> = new Map(); interface B { c?: any }; enum D { E = 4 }; D.E as number", "4"),
    ("await Promise.resolve(7)", "7"),
    ("(async () => { await null; return 8 })()", "8"),
    ("const twice = 1", None),
    ("const twice = 2; twice", "2"),
    ("export const f = (n: number): number => n + 1; f(1)", "2"),
    ("[1, 2].map((n) => n * 2)", "[ 2, 4 ]"),
    ("'it\\'s \"x\"'", 'it\'s "x"'),
    ("let nothing", None),
    ("null", "null"),
]


async def test_javascript_is_modern(driver: Driver) -> None:
    for number, (code, text) in enumerate(MODERN, 1):
        cell = await driver.run(code, language=("js", "ts")[number % 2])
        assert (cell.error, cell.result, cell.text("stderr"), count_of(cell)) == (None, text, "", number), code


async def test_javascript_errors_and_displays(driver: Driver) -> None:
    cell = await driver.run("function f() {\n  null.x\n}\nf()", language="js")
    (error,) = [event for event in cell.events if event["type"] == "error"]
    assert [line.strip() for line in error["traceback"].splitlines()[1:]] == ["at f (cell-1:2:8)", "at cell-1:4:1"]
    assert (await driver.run("await Promise.reject(new TypeError('no'))", language="js")).error == ("TypeError", "no")
    assert (await driver.run("throw { a: 1 }", language="js")).error == ("Uncaught", "{ a: 1 }")
    late = "setTimeout(() => { throw new Error('late') }); await new Promise(done => setTimeout(done, 50))"
    cell = await driver.run(late, language="js")
    assert cell.error is None
    assert "Error: late" in cell.text("stderr")
    cell = await driver.run("await display({ 'text/html': '<b>' }, { raw: true }); 'end'", language="js")
    shown = [(event.get("html"), event.get("text")) for event in cell.events if event["type"] == "result"]
    assert shown == [("<b>", None), (None, "end")]
    big = await driver.run("'x'.repeat(9 << 20)", language="js")
    assert big.result is not None
    assert big.result.endswith("[cut: 9437186 characters]")


async def test_interrupts_hit_the_cell_alone(driver: Driver, language: str, speech: Speech) -> None:
    """Whatever the moment, the cell that is interrupted ends, and the next one does not notice."""
    await driver.run(speech.keep, language=language)
    cells = [speech.spin, speech.wait]
    if language == "javascript":
        cells.append("require('child_process').execSync('sleep 60')")
    for number in range(12):
        cell = await driver.start(cells[number % len(cells)], language=language)
        await asyncio.sleep(0.003 * number)
        driver.session.interrupt(cell.execution_id)
        await driver.finish(cell)
        assert cell.error is not None
        assert cell.error[0] in ("KeyboardInterrupt", "ExecutionAborted"), (number, cell.events)
        assert (await driver.run(speech.tell, language=language)).text() == "42\n", number


async def test_output_of_children_comes_in_its_order(driver: Driver) -> None:
    cells = {
        "js": "console.log('a'); require('child_process').execSync('echo b', { stdio: 'inherit' }); console.log('c')",
        "java": 'System.out.println("a");\nnew ProcessBuilder("echo", "b").inheritIO().start().waitFor();\n'
        'System.out.println("c");',
        "bash": "echo a; (echo b); echo c",
    }
    for language, code in cells.items():
        cell = await driver.run(code, language=language)
        assert (cell.error, cell.text()) == (None, "a\nb\nc\n"), language
    assert (await driver.run("system('echo b')", language="r")).text() == "b\n"


async def test_much_output_arrives_whole(driver: Driver) -> None:
    cells = {
        "js": "for (let i = 0; i < 4000; i++) console.log(i)",
        "java": "for (int i = 0; i < 4000; i++) System.out.println(i);",
        "bash": "seq 0 3999",
        "r": "cat(0:3999, sep = '\\n'); cat('\\n')",
    }
    for language, code in cells.items():
        cell = await driver.run(code, language=language)
        assert cell.text().split() == [str(number) for number in range(4000)], language


async def test_java_cells(driver: Driver) -> None:
    cell = await driver.run(
        "int twice(int n) {\n  return 2 * n;\n}\nvar list = List.of(1, 2);\ntwice(list.size())", language="java"
    )
    assert (cell.error, cell.result) == (None, "4")
    assert (await driver.run('"a\\nb"', language="java")).result == "a\\nb"
    assert (await driver.run("// nothing", language="java")).events[1:] == [{"type": "end_of_execution"}]
    half = await driver.run("for (int i = 0; i < 3; i++) {", language="java")
    assert half.error == ("CompilationError", "the cell ends in the middle of a statement")
    wrong = await driver.run("int a = 1;\nint b = missing;", language="java")
    assert wrong.error == ("CompilationError", "cannot find symbol")
    assert (await driver.run("a", language="java")).result == "1"
    cell = await driver.run("int zero(int n) {\n  return n / 0;\n}\nzero(1)", language="java")
    (error,) = [event for event in cell.events if event["type"] == "error"]
    assert error["name"] == "ArithmeticException"
    assert ".zero(" in error["traceback"]
    main = (
        'public class Main { public static void main(String[] a) { System.out.print("in main"); } }\nMain.main(null);'
    )
    assert (await driver.run(main, language="java")).text() == "in main"


async def test_r_results(driver: Driver) -> None:
    cell = await driver.run("1\nprint('x')\ndata.frame(a = 1:2)", language="r")
    results = [event for event in cell.events if event["type"] == "result"]
    assert [event["is_main_result"] for event in results] == [False, True]
    assert "<table" in results[1]["html"]
    assert cell.text() == '[1] "x"\n'
    cell = await driver.run("plot(1:3)", language="r")
    (result,) = [event for event in cell.events if event["type"] == "result"]
    assert (result["is_main_result"], result["png"][:8]) == (False, "iVBORw0K")


async def test_r_output_beyond_bounds(driver: Driver) -> None:
    cell = await driver.run("for (i in 1:3000) cat(i, '\\n')", language="r")
    assert cell.text().split() == [str(number) for number in range(1, 3001)]
    huge = "IRdisplay::publish_mimebundle(list('text/plain' = strrep('x', 70 * 2^20))); cat('after')"
    lost = await driver.run(huge, language="r")
    assert lost.error is not None
    assert "a message over the limit" in lost.error[1]
    assert (await driver.run("1 + 1", language="r")).result == "[1] 2"


async def test_bash_cells(driver: Driver) -> None:
    cell = await driver.run('cat <<END\nhere\nEND\nread line; echo "[$line]" >&2; yes | head -1', language="bash")
    assert (cell.text(), cell.text("stderr"), cell.error) == ("here\ny\n", "[]\n", None)
    assert (await driver.run('f() { echo "f $1"; }', language="bash")).error is None
    assert (await driver.run("f a; alias", language="bash")).text() == "f a\n"


async def test_a_cell_that_shrugs_off_interrupts_loses_its_kernel(
    session: OpenSession, language_options: SessionOptions
) -> None:
    driver = await session(
        policy=language_options.policy,
        languages=language_options.languages,
        timeouts=TimeoutPolicy(interrupt_grace_s=0.3),
    )
    stubborn = "x=1; trap '' INT; while :; do :; done"
    cell = await driver.run(stubborn, language="bash", timeout_s=0.2)
    assert cell.error is not None
    assert cell.error[0] == "ExecutionTimeout"
    assert "is gone" in cell.error[1]
    assert (await driver.run("echo [$x]", language="bash")).text() == "[]\n"


async def test_the_default_javascript_context_is_listed_before_its_kernel_is_there(driver: Driver) -> None:
    languages = [one.language for one in driver.session.contexts()]
    assert languages == ["python", "javascript"]
    before = len(processes_of(driver))
    listed = driver.session.contexts()[1].context_id
    assert (await driver.run("x = 5", context_id=listed)).result == "5"
    assert len(processes_of(driver)) == before + 1
    assert (await driver.run("x", language="typescript")).result == "5"  # one kernel for both


async def test_a_slow_start_holds_up_nobody(session: OpenSession, language_options: SessionOptions) -> None:
    slow = {**language_options.languages, "r": LanguageKernel(("/bin/sleep", "100"), "frames")}
    driver = await session(policy=language_options.policy, languages=slow)
    waiting = await driver.start("1", language="r")
    assert (await driver.run("1 + 1")).result == "2"
    assert (await driver.run("1 + 1", language="js")).result == "2"
    assert (await driver.session.create_context("bash", None)).language == "bash"
    assert not waiting.done
    driver.session.interrupt(waiting.execution_id)


async def test_a_kernel_that_cannot_start_is_our_fault(session: OpenSession, language_options: SessionOptions) -> None:
    broken = {**language_options.languages, "java": LanguageKernel(("/bin/false",), "frames")}
    driver = await session(policy=language_options.policy, languages=broken)
    with pytest.raises(InternalError, match="could not start"):
        await driver.run("1", language="java")
    with pytest.raises(BadRequest, match="could not be created"):
        await driver.session.create_context("java", None)


async def test_a_missing_language_says_what_to_run(session: OpenSession) -> None:
    driver = await session()
    assert [one.language for one in driver.session.contexts()] == ["python"]
    for language in ("javascript", "ts", "r", "bash", "java"):
        name = {"ts": "javascript"}.get(language, language)
        with pytest.raises(BadRequest, match=f"`python -m raybox_template languages {name}`"):
            await driver.run("1", language=language)
        with pytest.raises(BadRequest, match="is not installed"):
            await driver.session.create_context(language, None)
    with pytest.raises(BadRequest, match="there are python, javascript, typescript, r, bash, java"):
        await driver.run("1", language="cobol")


async def test_warm_kernels_are_there_before_they_are_asked_for(driver: Driver) -> None:
    before = processes_of(driver)
    driver.session.warm(["bash", "javascript", "typescript", "cobol"])
    await eventually(lambda: len(processes_of(driver)) >= len(before) + 3, 20)  # bash is two
    warm = processes_of(driver)
    await driver.session.configure({"GLOBAL": "set"})
    assert (await driver.run("echo $GLOBAL", language="bash")).text() == "set\n"
    assert (await driver.run("process.env.GLOBAL", language="js")).result == "set"
    assert processes_of(driver) == warm


async def test_variables_given_while_a_kernel_starts_reach_it(driver: Driver) -> None:
    driver.session.warm(["java"])
    await eventually(lambda: any(b"java" in command_of(pid) for pid in processes_of(driver)), 20)
    await driver.session.configure({"GLOBAL": "late"})
    assert (await driver.run('System.getProperty("GLOBAL")', language="java")).result == "late"


def processes_of(driver: Driver) -> set[int]:
    """Of the sandbox, but for the kernels that the zygote has forked for others."""
    first = driver.session._walls.first_pid
    namespace = Path(f"/proc/{first}/ns/pid").stat().st_ino
    return inside(namespace)


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
