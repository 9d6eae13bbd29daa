"""Other languages than Python, through both clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import CLIENTS, where

#: language -> keep a state, print it changed, the text of the same as a value
PROGRAMS = {
    "javascript": ("let x = 41", "console.log(x + 1)", "x + 1", "42"),
    "typescript": ("const y: number = 41", "console.log(y as number + 1)", "y + 1", "42"),
    "r": ("x <- 41", "cat(x + 1, fill = TRUE)", "x + 1", "[1] 42"),
    "bash": ("x=41", "echo $((x + 1))", "echo $((x + 1))", None),
    "java": ("int x = 41;", "System.out.println(x + 1);", "x + 1", "42"),
}
VARIABLES = {
    "javascript": "console.log(process.env.NAME)",
    "r": 'cat(Sys.getenv("NAME"), fill = TRUE)',
    "bash": "echo $NAME",
    "java": 'System.out.println(System.getProperty("NAME"));',
}
ERRORS = {
    "javascript": ("throw new RangeError('far')", "RangeError"),
    "r": ("stop('far')", "ERROR"),
    "bash": ("exit_with() { return 3; }; exit_with", "ExitStatus"),
    "java": ('throw new IllegalStateException("far");', "IllegalStateException"),
}
FOREVER = {
    "javascript": "for (;;) {}",
    "r": "while (TRUE) {}",
    "bash": "while :; do :; done",
    "java": "while (true) {}",
}


@pytest.fixture(scope="module", params=CLIENTS)
def speaker(request: pytest.FixtureRequest, running_pool: Any) -> Iterator[Any]:
    """One sandbox of either client for all of this module: kernels of other languages take their time to start."""
    with pytest.MonkeyPatch.context() as patch:
        where(running_pool, patch)
        sandbox = CLIENTS[request.param].create(timeout=120, envs={"NAME": "global"})
        yield sandbox
        sandbox.kill()


def test_python_and_javascript_are_listed_from_the_start(speaker: Any) -> None:
    assert [context.language for context in speaker.list_code_contexts()][:2] == ["python", "javascript"]


@pytest.mark.parametrize("language", PROGRAMS)
def test_state_and_value(speaker: Any, language: str) -> None:
    keep, tell, value, text = PROGRAMS[language]
    assert speaker.run_code(keep, language=language).error is None
    told: list[str] = []
    execution = speaker.run_code(tell, language=language, on_stdout=lambda message: told.append(message.line))
    assert ("".join(told), execution.logs.stdout, execution.error) == ("42\n", ["42\n"], None)
    assert speaker.run_code(value, language=language).text == text


@pytest.mark.parametrize("language", VARIABLES)
def test_environment(speaker: Any, language: str) -> None:
    def told(**envs: str) -> tuple[str, int]:
        execution = speaker.run_code(VARIABLES[language], language=language, envs=envs)
        return execution.logs.stdout[0], execution.execution_count

    first, count = told()
    assert (first, told(NAME="own"), told()) == ("global\n", ("own\n", count + 1), ("global\n", count + 2))


@pytest.mark.parametrize("language", ERRORS)
def test_errors_and_timeouts(speaker: Any, language: str) -> None:
    code, name = ERRORS[language]
    error = speaker.run_code(code, language=language).error
    assert error is not None
    assert error.name == name
    assert isinstance(error.traceback, str)


@pytest.mark.parametrize("language", FOREVER)
def test_a_cell_that_its_client_gave_up_is_interrupted(speaker: Any, language: str) -> None:
    keep, tell, *_ = PROGRAMS[language]
    context = speaker.create_code_context(language=language, cwd="/tmp")
    assert (context.language, context.cwd) == (language, "/tmp")
    speaker.run_code(keep, context=context)
    with pytest.raises(Exception, match=r"(?i)time"):
        speaker.run_code(FOREVER[language], context=context, timeout=1)
    assert speaker.run_code(tell, context=context).logs.stdout == ["42\n"]
    speaker.restart_code_context(context)
    assert speaker.run_code(tell, context=context).logs.stdout != ["42\n"]
    speaker.remove_code_context(context)


def test_imports_and_promises_in_javascript(speaker: Any) -> None:
    code = "import { basename } from 'path'\nconst name: string = basename('/a/b')\nPromise.resolve(name)"
    assert speaker.run_code(code, language="ts").text == "b"


def test_an_unknown_language(create: Callable[..., Any]) -> None:
    with pytest.raises(Exception, match="there are python, javascript, typescript, r, bash, java"):
        create().run_code("1", language="cobol")


#: File of examples/languages -> what it prints, and its value.
EXAMPLES = {
    "python.py": ("1 4 4 2\n", "4"),
    "javascript.js": ("7692c3ad 3fc4ccfe 8b5b9db0\n", "3"),
    "typescript.ts": ("5 10\n", "2"),
    "r.R": ("1.5 6\n", "[1] 2"),
    "bash.sh": ("one three two \n", None),
    "java.java": ("3 3 5 \n", "11"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(speaker: Any, name: str) -> None:
    code = (Path(__file__).parents[2] / "examples" / "languages" / name).read_text()
    execution = speaker.run_code(code, language=name.partition(".")[0])
    assert execution.error is None
    assert ("".join(execution.logs.stdout), execution.text) == EXAMPLES[name]


def test_there_is_an_example_for_every_language() -> None:
    folder = Path(__file__).parents[2] / "examples" / "languages"
    assert {path.name for path in folder.iterdir()} == EXAMPLES.keys()
