"""The bash kernel: one interactive bash, its cells and their exit statuses. Runs inside sandboxes; stdlib only.

Interactive, because only such a shell survives SIGINT with its state: it gives up the command and reads the next line.
It reads from a pipe, prints straight to descriptors 1 and 2, and tells us each cell's status on a pipe of its own. The
wire is descriptor 3, with JSON arrays `[kind, content]`, one a line, in both directions.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import select
import shlex
import signal
import subprocess
from typing import Any, NoReturn

WIRE = 3
#: Where bash tells statuses, and where it finds its stderr at the start; numbers that scripts leave alone.
STATUS, STDERR = 63, 62
#: How long an interrupted bash may take to say so before it is asked again.
PATIENCE_S = 0.3
COMMAND = ("/bin/bash", "--noprofile", "--norc", "--noediting", "-i")
SETTINGS = "PS1= PS2= PROMPT_COMMAND=; set +H +m; unset HISTFILE"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Bash:
    """One shell. Its end is ours."""

    def __init__(self) -> None:
        self.statuses, write = os.pipe()
        self.said = b""
        self.interrupted = 0  #: how often, while a line runs
        os.dup2(write, STATUS, inheritable=True)
        os.dup2(2, STDERR, inheritable=True)
        # A terminal that nobody looks at: bash sets modes of the one it started with, and complains of any other file.
        self.terminal, other_end = os.openpty()
        self.process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stderr=other_end, pass_fds=[STATUS, STDERR], bufsize=0
        )
        for fd in (write, STATUS, STDERR, other_end):
            os.close(fd)
        self.ask(f"{SETTINGS}; exec 2>&{STDERR} {STDERR}>&-")

    def ask(self, command: str) -> int:
        """Run one line; its exit status. Does not return if the shell ends."""
        mark = secrets.token_hex(8).encode()
        tell = f"printf '%s %s\\n' {mark.decode()} $? >&{STATUS}\n"
        heard = 0
        self.write(f"{command}\n{tell}")
        while True:
            while b"\n" not in self.said:
                if select.select([self.statuses], [], [], PATIENCE_S)[0]:
                    words = os.read(self.statuses, 4096)
                    if not words:
                        self.end()
                    self.said += words
                elif self.interrupted > heard:
                    heard = self.interrupted
                    self.interrupt_again()
                    self.write(tell)
            line, _, self.said = self.said.partition(b"\n")
            word, _, status = line.partition(b" ")
            if word == mark and status.isdigit():
                return int(status)

    def write(self, lines: str) -> None:
        assert self.process.stdin is not None
        rest = memoryview(lines.encode("utf-8", "replace"))
        try:
            while rest:
                rest = rest[self.process.stdin.write(rest) or 0 :]
        except BrokenPipeError:
            self.end()

    def interrupt(self, *_: object) -> None:
        self.interrupted += 1

    def interrupt_again(self) -> None:
        """The first may have come before bash had read the cell, or have ended the line that was to tell its status."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.killpg(0, signal.SIGINT)
        signal.signal(signal.SIGINT, self.interrupt)

    def end(self) -> NoReturn:
        """As bash ended."""
        code = self.process.wait()
        if code < 0:
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        os._exit(code)


def exportable(variables: dict[str, str]) -> dict[str, str]:
    """Names of other kinds bash cannot even say."""
    return {name: value for name, value in variables.items() if NAME.fullmatch(name)}


def exports(variables: dict[str, str]) -> str:
    return "; ".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def remembering(variables: dict[str, str]) -> str:
    return "; ".join(f"if [[ -v {name} ]]; then __raybox_{name}=${name}; fi" for name in variables)


def restoring(variables: dict[str, str]) -> str:
    return "; ".join(
        f"if [[ -v __raybox_{name} ]]; then export {name}=$__raybox_{name}; unset __raybox_{name}; "
        f"else unset {name}; fi"
        for name in variables
    )


def execute(bash: Bash, code: str, variables: dict[str, str], begins: list[int]) -> dict[str, Any] | None:
    """Run a cell; what it failed with, None if it did not."""
    bash.interrupted = 0
    if variables:
        bash.ask(f"{remembering(variables)}; {exports(variables)}")
    send("input", begins)
    status = 0 if bash.interrupted else bash.ask(f"eval {shlex.quote(code)} </dev/null")
    interrupted, bash.interrupted = bash.interrupted, 0
    if variables:
        bash.ask(restoring(variables))
    if interrupted:
        return {"ename": "KeyboardInterrupt", "evalue": "", "traceback": ["KeyboardInterrupt"]}
    if status:
        return {"ename": "ExitStatus", "evalue": str(status), "traceback": [f"exit status {status}"]}
    return None


def send(kind: str, content: object) -> None:
    rest = json.dumps([kind, content]).encode() + b"\n"
    while rest:
        rest = rest[os.write(WIRE, rest) :]


def main() -> None:
    bash = Bash()
    signal.signal(signal.SIGINT, bash.interrupt)  # which bash hears as well
    send("ready", {})
    count = 0
    for line in os.fdopen(os.dup(WIRE), "rb"):
        kind, content = json.loads(line)
        variables = exportable(content.get("env", {}))
        if kind == "configure" and variables:
            bash.ask(exports(variables))
        elif kind == "execute":
            count += 1
            error = execute(bash, content["code"].replace("\0", ""), variables, [count, content["number"]])
            if error:
                send("error", error)
            send("done", {"status": "error" if error else "ok", "number": content["number"]})
    bash.process.kill()


if __name__ == "__main__":
    main()
