"""The git helpers: the same shell lines as the E2B SDK's, and what they do to real repositories."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import e2b
import pytest
from hypothesis import given
from hypothesis import strategies as st

import raybox
from raybox._git_models import read_branches, read_status

pytestmark = pytest.mark.anyio

Call = Callable[[Any], Any]

GITS = {
    "sync": (importlib.import_module("raybox._git_sync").Git, importlib.import_module("e2b.sandbox_sync.git").Git),
    "async": (importlib.import_module("raybox._git_async").Git, importlib.import_module("e2b.sandbox_async.git").Git),
}


class Recorded:
    """In place of `commands`: keeps the lines, and answers with what it was given, success in the end."""

    def __init__(self, package: Any, colour: str, answers: list[Any]) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self._package = package
        self._colour = colour
        self._answers = list(answers)

    def run(self, line: str, **options: Any) -> Any:
        self.lines.append((line, options))
        answer = self._answers.pop(0) if self._answers else ""
        result: Any = None
        if isinstance(answer, str):
            result = self._package.CommandResult(stderr="", stdout=answer, exit_code=0, error=None)

        def told() -> Any:
            if result is None:
                raise self._package.CommandExitException(stderr=answer[0], stdout="", exit_code=128, error=None)
            return result

        async def told_async() -> Any:
            return told()

        return told_async() if self._colour == "async" else told()


async def outcome(package: Any, colour: str, call: Call, answers: list[Any]) -> tuple[Any, Any]:
    """The lines that were run, and the value or the name of the error."""
    commands = Recorded(package, colour, answers)
    git = GITS[colour][package is e2b](commands)
    try:
        value = call(git)
        if colour == "async":
            value = await value
    except (raybox.RayboxError, e2b.SandboxException, e2b.AuthenticationException) as error:
        return commands.lines, type(error).__name__
    if type(value).__name__ == "CommandResult":
        value = value.stdout
    return commands.lines, getattr(value, "__dict__", value)


HTTPS = "https://h/x.git"
AUTH = ["fatal: Authentication failed for 'https://h/x'"]
UPSTREAM = ["fatal: The current branch x has no upstream branch."]
STATUS = "## main...origin/main [ahead 1, behind 2]\n M a\nA  b\n?? c\nR  old -> new\nUU z\nD  gone\n T t\nC  x -> y\n"

CASES: list[tuple[Call, list[Any]]] = [
    (lambda git: git.clone(HTTPS, "/p q", branch="x", depth=1), []),
    (lambda git: git.clone("a'b", depth=0), []),
    (lambda git: git.clone(HTTPS, username="u", password="p"), []),
    (lambda git: git.clone(HTTPS + "/", "to", username="u", password="p"), []),
    (lambda git: git.clone(HTTPS, username="u", password="p", dangerously_store_credentials=True, timeout=3), []),
    (lambda git: git.clone(HTTPS, username="u", envs={"A": "1"}, user="root", cwd="/c", request_timeout=4), []),
    (lambda git: git.clone(HTTPS, password="p"), []),
    (lambda git: git.clone("ssh://x/a", username="u", password="p"), []),
    (lambda git: git.clone(HTTPS), [AUTH]),
    (lambda git: git.clone(HTTPS), [["remote: Invalid username or password."]]),
    (lambda git: git.clone(HTTPS), [["fatal: could not read Username: terminal prompts disabled"]]),
    (lambda git: git.clone(HTTPS), [["Permission denied (publickey)."]]),
    (lambda git: git.clone(HTTPS), [["fatal: repository not found"]]),
    (lambda git: git.init("/r"), []),
    (lambda git: git.init("/r", bare=True, initial_branch="main"), []),
    (lambda git: git.remote_add("/r", "origin", "u"), []),
    (lambda git: git.remote_add("/r", "origin", "u", fetch=True), []),
    (lambda git: git.remote_add("/r", "origin", "u", overwrite=True), []),
    (lambda git: git.remote_add("/r", "origin", "u", fetch=True, overwrite=True), []),
    (lambda git: git.remote_add("/r", "", "u"), []),
    (lambda git: git.remote_add("/r", "a", "u"), [AUTH]),
    (lambda git: git.remote_get("/r", "origin"), ["https://x\n"]),
    (lambda git: git.remote_get("/r", "origin"), ["\n"]),
    (lambda git: git.remote_get("/r", ""), []),
    (lambda git: git.branches("/r"), ["main\t*\ndev\t \n"]),
    (lambda git: git.create_branch("/r", "b c"), []),
    (lambda git: git.checkout_branch("/r", "b"), []),
    (lambda git: git.delete_branch("/r", "b"), []),
    (lambda git: git.delete_branch("/r", "b", force=True), []),
    (lambda git: git.add("/r"), []),
    (lambda git: git.add("/r", ["a", "b c"]), []),
    (lambda git: git.add("/r", [], all=False), []),
    (lambda git: git.commit("/r", "m s"), []),
    (lambda git: git.commit("/r", "m", author_name="A", author_email="e@x", allow_empty=True), []),
    (lambda git: git.commit("/r", "m", author_email="e@x"), []),
    (lambda git: git.reset("/r"), []),
    (lambda git: git.reset("/r", mode="hard", target="HEAD~1"), []),
    (lambda git: git.reset("/r", target="x", paths=["a"]), []),
    (lambda git: git.reset("/r", mode="zap"), []),
    (lambda git: git.restore("/r", ["."]), []),
    (lambda git: git.restore("/r", ["a"], staged=True), []),
    (lambda git: git.restore("/r", ["a"], staged=True, worktree=True, source="HEAD"), []),
    (lambda git: git.restore("/r", ["a"], staged=False), []),
    (lambda git: git.restore("/r", ["a"], worktree=False), []),
    (lambda git: git.restore("/r", []), []),
    (lambda git: git.push("/r"), []),
    (lambda git: git.push("/r", "origin", "main"), []),
    (lambda git: git.push("/r", "origin", "main", set_upstream=False), []),
    (lambda git: git.push("/r", branch="b"), []),
    (lambda git: git.push("/r"), [AUTH]),
    (lambda git: git.push("/r"), [UPSTREAM]),
    (lambda git: git.push("/r"), [["other"]]),
    (lambda git: git.push("/r", "o", "m", username="u", password="p"), [HTTPS + "\n"]),
    (lambda git: git.push("/r", "o", "m", username="u", password="p"), [HTTPS, "", ["other"]]),
    (lambda git: git.push("/r", username="u", password="p"), ["origin\n", HTTPS]),
    (lambda git: git.push("/r", username="u", password="p"), ["origin\nb\n"]),
    (lambda git: git.push("/r", "o", username="u", password="p"), [""]),
    (lambda git: git.push("/r", "o", username="u", password="p"), ["ssh://x"]),
    (lambda git: git.push("/r", "o", password="p"), []),
    (lambda git: git.pull("/r"), ["origin/main\n"]),
    (lambda git: git.pull("/r"), [""]),
    (lambda git: git.pull("/r"), [UPSTREAM]),
    (lambda git: git.pull("/r", "origin", "main"), []),
    (lambda git: git.pull("/r", "origin"), [UPSTREAM]),
    (lambda git: git.pull("/r", branch="main"), [AUTH]),
    (lambda git: git.pull("/r", "o", username="u", password="p"), [HTTPS]),
    (lambda git: git.pull("/r", username="u", password="p"), ["origin/main", "origin", HTTPS]),
    (lambda git: git.set_config("a.b", "v"), []),
    (lambda git: git.set_config("a.b", "v", scope=" Local ", path="/r"), []),
    (lambda git: git.set_config("a.b", "v", scope="local"), []),
    (lambda git: git.set_config("a.b", "v", scope="system", path="/r"), []),
    (lambda git: git.set_config("a.b", "v", scope="zap"), []),
    (lambda git: git.set_config("", "v"), []),
    (lambda git: git.get_config("a.b"), ["v\n"]),
    (lambda git: git.get_config("a.b", scope="local", path="/r"), ["\n"]),
    (lambda git: git.dangerously_authenticate("u", "p"), []),
    (lambda git: git.dangerously_authenticate("u", "p", host=" h ", protocol=" "), []),
    (lambda git: git.dangerously_authenticate("u", ""), []),
    (lambda git: git.configure_user("N", "e"), []),
    (lambda git: git.configure_user("N", "e", scope="local", path="/r"), []),
    (lambda git: git.configure_user("", "e"), []),
]

#: Where ours is not theirs, with the reason: what theirs is, and ours.
DIFFERENT = {
    "the password of a URL": "https://u:p@:/w@h/x.git cannot be a URL; ours is percent-encoded",
    "DD and AA": "git calls them conflicts",
    "a detached HEAD": "is no branch that could be checked out",
    "credentials that were refused": "are refused credentials, also when git was told them by us",
}


@pytest.mark.parametrize("colour", GITS)
@pytest.mark.parametrize("case", range(len(CASES)))
async def test_lines_and_values_are_those_of_the_e2b_sdk(case: int, colour: str) -> None:
    call, answers = CASES[case]
    ours = await outcome(raybox, colour, call, answers)
    theirs = await outcome(e2b, colour, call, answers)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("output", [STATUS, "## HEAD (no branch)\n", "## No commits yet on main\n", "## a.b...o/a.b\n"])
async def test_status_is_that_of_the_e2b_sdk(output: str) -> None:
    _, ours = await outcome(raybox, "sync", lambda git: git.status("/r"), [output])
    _, theirs = await outcome(e2b, "sync", lambda git: git.status("/r"), [output])
    assert repr(ours) == repr(theirs)
    counts = [name for name in dir(raybox.GitStatus) if name.endswith("_count") or name.startswith(("has_", "is_"))]
    one, other = raybox.GitStatus(**ours), e2b.GitStatus(**theirs)
    assert len(counts) == 10
    assert [getattr(one, name) for name in counts] == [getattr(other, name) for name in counts]


async def test_differences() -> None:
    lines, _ = await outcome(raybox, "sync", lambda git: git.clone(HTTPS, username="ü", password="p@:/w"), [])
    assert lines[0][0] == "'git' 'clone' 'https://%C3%BC:p%40%3A%2Fw@h/x.git'"
    status = read_status("## main\nDD k\nAA l\n")
    assert [file.status for file in status.file_status] == ["conflict", "conflict"]
    assert read_branches("(HEAD detached at 123)\t*\ndev\t \n") == raybox.GitBranches(["dev"], None)
    refused = [HTTPS, "", AUTH]
    call: Call = lambda git: git.push("/r", "o", username="u", password="p")  # noqa: E731
    lines, error = await outcome(raybox, "sync", call, refused)
    assert error == "GitAuthException"
    assert lines[-1][0].endswith(f"'{HTTPS}'")  # the credentials are gone
    assert (await outcome(e2b, "sync", call, refused))[1] == "CommandExitException"
    assert len(DIFFERENT) == 4


@given(st.text())
def test_any_output_is_read(output: str) -> None:
    read_status(output)
    read_branches(output)


class Local:
    """In place of `commands`: runs the lines here."""

    def __init__(self, home: Path) -> None:
        self._environment = {"HOME": str(home), "PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1"}

    def run(self, line: str, **options: Any) -> Any:
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, env=self._environment | options["envs"], check=False
        )
        if done.returncode:
            raise raybox.CommandExitException(done.stderr, done.stdout, done.returncode, None)
        return raybox.CommandResult(done.stderr, done.stdout, done.returncode, None)


class LocalAsync(Local):
    async def run(self, line: str, **options: Any) -> Any:
        return await asyncio.to_thread(super().run, line, **options)


@pytest.mark.parametrize("colour", GITS)
async def test_real_repositories(colour: str, tmp_path: Path, done: Callable[[Any], Awaitable[Any]]) -> None:
    git = GITS[colour][0]((LocalAsync if colour == "async" else Local)(tmp_path))
    bare, work, other = (str(tmp_path / name) for name in ("bare.git", "work it", "other"))
    await done(git.configure_user("Jo O'Neil", "jo@example.org"))
    assert await done(git.get_config("user.name")) == "Jo O'Neil"
    assert await done(git.get_config("user.nothing")) is None
    await done(git.init(bare, bare=True, initial_branch="main"))
    await done(git.clone(bare, work))
    (tmp_path / "work it" / "a.txt").write_text("one\n")
    (tmp_path / "work it" / "b b.txt").write_text("two\n")
    status = await done(git.status(work))
    assert (status.current_branch, status.untracked_count, status.has_staged) == ("main", 2, False)
    await done(git.add(work, ["a.txt"]))
    assert (await done(git.status(work))).staged_count == 1
    await done(git.add(work))
    await done(git.commit(work, 'it\'s "one"', author_name="Somebody Else"))
    assert (await done(git.status(work))).is_clean
    await done(git.push(work, "origin", "main"))
    await done(git.clone(bare, other, branch="main", depth=1))
    assert (tmp_path / "other" / "b b.txt").read_text() == "two\n"
    await done(git.create_branch(work, "dev"))
    assert await done(git.branches(work)) == raybox.GitBranches(["dev", "main"], "dev")
    with pytest.raises(raybox.GitUpstreamException):
        await done(git.push(work))
    with pytest.raises(raybox.GitUpstreamException):
        await done(git.pull(work))
    (tmp_path / "work it" / "a.txt").write_text("changed\n")
    await done(git.restore(work, ["."]))
    assert (tmp_path / "work it" / "a.txt").read_text() == "one\n"
    await done(git.checkout_branch(work, "main"))
    await done(git.delete_branch(work, "dev"))
    (tmp_path / "work it" / "a.txt").write_text("changed\n")
    await done(git.commit(work, "nothing", allow_empty=True))
    await done(git.push(work, "origin", "main"))
    await done(git.pull(other))
    await done(git.reset(work, mode="hard", target="HEAD~1"))
    assert (await done(git.status(work))).behind == 1
    assert await done(git.remote_get(work, "origin")) == bare
    await done(git.remote_add(work, "origin", other, overwrite=True))
    assert await done(git.remote_get(work, "origin")) == other
    assert await done(git.remote_get(work, "none")) is None
    await done(git.dangerously_authenticate("u", "p 'q'"))
    assert (tmp_path / ".git-credentials").read_text() == "https://u:p%20%27q%27@github.com\n"
    with pytest.raises(raybox.CommandExitException):
        await done(git.checkout_branch(work, "none"))
