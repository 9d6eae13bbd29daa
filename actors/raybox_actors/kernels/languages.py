"""The languages that a sandbox can speak besides Python, and which kernel speaks them. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from raybox_actors.config import LanguageKernel
from raybox_actors.errors import BadRequest
from raybox_actors.kernels.base import Kernel
from raybox_actors.kernels.place import Place
from raybox_actors.kernels.program import ProgramKernel
from raybox_actors.kernels.stock import Dialect, StockKernel

#: What callers may say -> the language's name; a context keeps that name.
ALIASES = {
    "": "python",
    "py": "python",
    "python": "python",
    "python3": "python",
    "js": "javascript",
    "javascript": "javascript",
    "ts": "typescript",
    "typescript": "typescript",
    "r": "r",
    "sh": "bash",
    "bash": "bash",
    "java": "java",
}
#: Language -> the kernel that speaks it, where they differ: one takes types, and shares its default context.
KERNEL_OF = {"typescript": "javascript"}


def normal_language(language: str | None) -> str:
    """The name of the language. Raises BadRequest for one that raybox does not know."""
    asked = (language or "").strip().lower()
    if found := ALIASES.get(asked):
        return found
    known = ", ".join(dict.fromkeys(ALIASES.values()))
    raise BadRequest(f"language {asked[:40]!r} is not available; there are {known}")


def kernel_language(language: str) -> str:
    return KERNEL_OF.get(language, language)


def kernel_maker(
    language: str, installed: Mapping[str, LanguageKernel], place: Place, cwd: str
) -> Callable[[], Kernel]:
    """How to make kernels of `language`, a name but Python's. Raises BadRequest if this node has none for it."""
    name = kernel_language(language)
    found = installed.get(name)
    if found is None:
        raise _not_installed(language)
    if found.protocol == "frames":
        return lambda: ProgramKernel(place, cwd, found.command)
    dialect = DIALECTS[name]
    return lambda: StockKernel(place, cwd, list(found.command), dialect)


def _not_installed(language: str) -> BadRequest:
    return BadRequest(
        f"{language} is not installed on this sandbox's node: run `python -m raybox_template languages "
        f"{kernel_language(language)}` there, and start the pool again"
    )


@dataclass(frozen=True, slots=True)
class Program:
    """How a program of one language is started: `argv` (empty: by the zygote, as Python) runs the file `main`."""

    argv: list[str]
    main: str


def program_of(language: str, installed: Mapping[str, LanguageKernel]) -> Program:
    """Raises BadRequest for one that has no programs, or that this node has no kernel for. Pure."""
    if language == "python":
        return Program([], "main.py")
    if language not in PROGRAMS:
        raise BadRequest(f"{language} has no programs here, only cells; there are python, {', '.join(PROGRAMS)}")
    found = installed.get(language)
    if found is None:
        raise _not_installed(language)
    main, options = PROGRAMS[language]
    interpreter = "/bin/bash" if language == "bash" else found.command[0]
    return Program([interpreter, *options, main], main)


#: Language -> the program's file, and what its interpreter is told before that name.
PROGRAMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "javascript": ("main.js", ("--v8-pool-size=1", "--experimental-detect-module")),
    "r": ("main.R", ("--no-echo", "--no-save", "--no-restore", "-f")),
    "bash": ("main.sh", ()),
    "java": ("Main.java", ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xmx512m")),
}


def _r_assignments(env: dict[str, str]) -> str:
    return ", ".join(f"{_r_string(name)} = {_r_string(value)}" for name, value in env.items())


def _r_string(text: str) -> str:
    """R reads JSON's escapes but for surrogate pairs, so other characters stay as they are."""
    return json.dumps(text.replace("\0", ""), ensure_ascii=False)


def _r_set(env: dict[str, str]) -> str:
    return f"invisible(Sys.setenv({_r_assignments(env)}))"


def _r_set_for_cell(env: dict[str, str]) -> str:
    names = ", ".join(map(_r_string, env))
    return f".raybox_before <- Sys.getenv(c({names}), unset = NA, names = TRUE); {_r_set(env)}"


# Local: no name of the user's is overwritten.
RESTORE_R = """
local(for (name in names(.raybox_before)) {
  if (is.na(.raybox_before[[name]])) Sys.unsetenv(name) else do.call(Sys.setenv, as.list(.raybox_before[name]))
})
rm(.raybox_before)
"""
DIALECTS = {"r": Dialect(_r_set, _r_set_for_cell, lambda _env: RESTORE_R, prints_values=True, ends_itself=False)}
