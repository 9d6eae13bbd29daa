"""The bash kernel: one interactive bash, its cells and their exit statuses. Runs inside sandboxes; stdlib only.

Interactive, because only such a shell survives SIGINT with its state: it gives up the command and reads the next line.
It reads from a pipe, prints straight to descriptors 1 and 2, and tells us each cell's status on a pipe of its own. The
wire is descriptor 3, with JSON arrays `[kind, content]`, one a line, in both directions.
"""

import json
import os
import re
import secrets
import select
import shlex
import signal
import subprocess
import sys

WIRE = 3
#: Where bash tells statuses; a number that scripts leave alone.
STATUS = 63
STDERR = 62
#: How long an interrupted bash may take to say so before it is asked again.
PATIENCE_S = 0.3
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SETTINGS = "PS1= PS2= PROMPT_COMMAND=; set +H +m; unset HISTFILE"


class Bash:
    def __init__(self):
        status, write = os.pipe()
        os.dup2(write, STATUS, inheritable=True)
        os.close(write)
        self.statuses, self.said = status, b""
        self.interrupted = 0  #: how often, while a line runs
        # A terminal that nobody looks at: bash sets modes of the one it started with, and complains there of its kind.
        self.terminal, slave = os.openpty()
        os.dup2(2, STDERR, inheritable=True)
        command = ["/bin/bash", "--noprofile", "--norc", "--noediting", "-i"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=slave, pass_fds=[STATUS, STDERR])
        for fd in (STATUS, STDERR, slave):
            os.close(fd)
        self.ask(f"{SETTINGS}; exec 2>&{STDERR} {STDERR}>&-")

    def ask(self, command):
        """Run one line; its exit status, or None if the shell has ended."""
        mark = secrets.token_hex(8)
        tell = f"printf '%s %s\\n' {mark} $? >&{STATUS}\n"
        self.interrupted = heard = 0
        try:
            self.write(f"{command}\n{tell}")
            while True:
                while b"\n" not in self.said:
                    if select.select([self.statuses], [], [], PATIENCE_S)[0]:
                        words = os.read(self.statuses, 4096)
                        if not words:
                            return None
                        self.said += words
                    elif self.interrupted > heard:  # SIGINT may have ended the very line that was to tell
                        heard = self.interrupted
                        self.write(tell)
                line, _, self.said = self.said.partition(b"\n")
                word, _, status = line.decode("ascii", "replace").partition(" ")
                if word == mark and status.isdigit():
                    return int(status)
        except BrokenPipeError:
            return None

    def write(self, lines):
        self.process.stdin.write(lines.encode("utf-8", "replace"))
        self.process.stdin.flush()

    def interrupt(self, *_):
        self.interrupted += 1

    def end(self):
        """As bash ended."""
        code = self.process.wait()
        if code < 0:
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        os._exit(code)


def exports(variables):
    return "; ".join(f"export {name}={shlex.quote(value)}" for name, value in valid(variables))


def valid(variables):
    """What bash can export: names of other kinds it cannot even say."""
    return [(name, value) for name, value in variables.items() if NAME.fullmatch(name)]


def set_for_a_cell(variables):
    keep = "; ".join(f"if [[ -v {name} ]]; then __raybox_{name}=${name}; fi" for name, _ in valid(variables))
    return f"{keep}; {exports(variables)}" if keep else ":"


def restore(variables):
    return "; ".join(
        f"if [[ -v __raybox_{name} ]]; then export {name}=$__raybox_{name}; unset __raybox_{name}; "
        f"else unset {name}; fi"
        for name, _ in valid(variables)
    )


def send(kind, content):
    data = json.dumps([kind, content]).encode() + b"\n"
    while data:
        data = data[os.write(WIRE, data) :]


def main():
    bash = Bash()
    signal.signal(signal.SIGINT, bash.interrupt)  # which bash hears as well
    send("ready", {})
    count = 0
    for line in os.fdopen(os.dup(WIRE), "rb"):
        kind, content = json.loads(line)
        if kind == "configure" and valid(content["env"]):
            bash.ask(exports(content["env"]))
        elif kind == "execute":
            count += 1
            send("input", [count, content["number"]])
            bash.ask(set_for_a_cell(content["env"])) if content["env"] else None
            code = content["code"].replace("\0", "")
            status = bash.ask(f"eval {shlex.quote(code)} </dev/null")
            if status is None:
                bash.end()
            interrupted = bash.interrupted
            if interrupted:
                send("error", {"ename": "KeyboardInterrupt", "evalue": "", "traceback": ["KeyboardInterrupt"]})
            elif status:
                text = f"exit status {status}"
                send("error", {"ename": "ExitStatus", "evalue": str(status), "traceback": [text]})
            bash.ask(restore(content["env"])) if valid(content["env"]) else None
            send("done", {"status": "error" if status or interrupted else "ok", "number": content["number"]})
    bash.process.kill()


if __name__ == "__main__":
    main()
    sys.exit()
