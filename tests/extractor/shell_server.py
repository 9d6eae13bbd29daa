"""A real IPython shell behind JSON lines, run by the template's Python with the template's kernel start-up files.

A request is `{"code": ..., "fork": bool}`, an answer `{"outputs": [MIME bundle], "stdout", "stderr", "error"}`.
`fork` runs the cell in a forked child, as a zygote does. Not imported by tests.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type
from traitlets.config.loader import PyFileConfigLoader

#: The MIME bundles of the cell that runs.
outputs: list[dict[str, Any]] = []


class Publisher(DisplayPublisher):  # type: ignore[misc]  # IPython is not in the environment that is type-checked
    def publish(self, data: dict[str, Any], *_: Any, **__: Any) -> None:
        outputs.append(data)


class Hook(DisplayHook):  # type: ignore[misc]  # as above
    def write_output_prompt(self) -> None:
        pass

    def write_format_data(self, format_dict: dict[str, Any], md_dict: Any = None) -> None:
        outputs.append(format_dict)

    def finish_displayhook(self) -> None:
        self._is_active = False


class Shell(InteractiveShell):  # type: ignore[misc]  # as above
    displayhook_class = Type(Hook)
    display_pub_class = Type(Publisher)


def make_shell() -> InteractiveShell:
    folder = Path(sys.prefix) / "etc" / "ipython"
    config = PyFileConfigLoader("ipython_kernel_config.py", path=str(folder)).load_config()
    config.HistoryManager.enabled = False
    shell = Shell.instance(config=config)
    for extension in config.InteractiveShellApp.extensions:
        shell.extension_manager.load_extension(extension)
    return shell


def run(shell: InteractiveShell, code: str) -> dict[str, Any]:
    outputs.clear()
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        result = shell.run_cell(code, store_history=True)
    error = result.error_in_exec or result.error_before_exec
    return {
        "outputs": [{mime: as_text(value) for mime, value in bundle.items()} for bundle in outputs],
        "stdout": stdout.getvalue(),
        "stderr": stderr.getvalue(),
        "error": f"{type(error).__name__}: {error}" if error else None,
    }


def as_text(value: Any) -> Any:
    """Images as ipykernel sends them."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def run_forked(shell: InteractiveShell, code: str) -> dict[str, Any]:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read_end)
            with os.fdopen(write_end, "w") as pipe:
                json.dump(run(shell, code), pipe, allow_nan=False)
            status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        answer: dict[str, Any] = json.load(pipe)
    os.waitpid(child, 0)
    return answer


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    shell = make_shell()
    for line in sys.stdin:
        request = json.loads(line)
        answer = (run_forked if request["fork"] else run)(shell, request["code"])
        answers.write(json.dumps(answer, allow_nan=False) + "\n")  # NaN is no JSON, so an output with it fails here
        answers.flush()


if __name__ == "__main__":
    main()
