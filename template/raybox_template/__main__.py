"""`python -m raybox_template build|path [NAME]`, `python -m raybox_template languages [LANGUAGE...]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from raybox_template import TemplateError, ensure, find

USAGE = """usage: python -m raybox_template build [NAME]   build it if it is missing; prints its digest and folder
       python -m raybox_template path [NAME]    print its Python interpreter, or fail if it is not built
       python -m raybox_template languages [LANGUAGE...]   install kernels: javascript, r, bash, java (all by default)
NAME is `default` (the default), a template's name, name:tag or digest."""


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 done, 1 it failed and stderr says why, 2 wrong usage, 130 interrupted. Results go to stdout."""
    if arguments and arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"{USAGE}\n")
        return 0
    if arguments and arguments[0] == "languages":
        return _report(lambda: _languages(arguments[1:]))
    if len(arguments) not in (1, 2) or arguments[0] not in ("build", "path"):
        sys.stderr.write(f"{USAGE}\n")
        return 2
    name = arguments[1] if len(arguments) == 2 else "default"

    def answer() -> None:
        if arguments[0] == "build":
            built = ensure(name, progress=_progress)
            sys.stdout.write(f"{built.digest} {built.root}\n")
        else:
            sys.stdout.write(f"{find(name).python}\n")

    return _report(answer)


def _languages(names: Sequence[str]) -> None:
    from raybox_template.languages import RECIPES, install

    for name in names or RECIPES:
        runtime = install(name, progress=_progress)
        sys.stdout.write(f"{name} {next(map(str, runtime.folders), runtime.command[0])}\n")


def _report(work: Callable[[], None]) -> int:
    try:
        work()
    except TemplateError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


def _progress(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
