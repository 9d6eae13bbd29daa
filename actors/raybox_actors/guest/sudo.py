"""`sudo` of a sandbox. Nothing in there can gain rights by executing a file, so the sandbox's agent is asked instead.

Hands it the command, the folder and the three standard descriptors, passes signals on, and ends as the command did.
A program of its own: `python -I -S`, knows none of its neighbours.
"""

from __future__ import annotations

import array
import contextlib
import getopt
import json
import os
import signal
import socket
import sys
from typing import Any, NoReturn

ADDRESS = "/run/raybox-sudo.sock"
SHORT = "ABbEHikKlnPSsvVhu:g:p:D:C:T:"
LONG = [
    "askpass", "background", "chdir=", "group=", "help", "list", "login", "non-interactive", "preserve-env",
    "prompt=", "remove-timestamp", "reset-timestamp", "set-home", "shell", "stdin", "user=", "validate", "version",
]  # fmt: skip
USAGE = "usage: sudo [-bEHins] [-D folder] [-u user] [VAR=value] command [argument ...]"
#: Of the caller's environment, what a command keeps without -E.
KEPT = ("COLORTERM", "COLUMNS", "DISPLAY", "LANG", "LANGUAGE", "LINES", "TERM", "TZ")
FORWARDED = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCONT", "SIGWINCH")
MAX_ANSWER_BYTES = 1 << 20


def fail(words: str) -> NoReturn:
    print(f"sudo: {words}", file=sys.stderr)
    sys.exit(1)


def main(arguments: list[str]) -> None:
    asked = parse(arguments)
    folder = os.open(asked.pop("folder") or ".", os.O_PATH | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as agent:
        try:
            agent.connect(ADDRESS)
            header = json.dumps(asked).encode()
            rights = array.array("i", [0, 1, 2, folder])
            with contextlib.suppress(BrokenPipeError):  # refused already; the answer says why
                agent.sendmsg([b"H" + len(header).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                agent.sendall(header)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, range(1, 32))
            for name in FORWARDED:
                signal.signal(getattr(signal, name), lambda number, _: pass_on(agent, number))
            attend(agent, asked["background"])
        except OSError as error:
            fail(f"the sandbox's agent cannot be asked: {error.strerror}")


def parse(arguments: list[str]) -> dict[str, Any]:
    """What to ask for; ends the program for what needs no agent, or makes no sense."""
    preserved: list[str] = []
    plain = []
    for position, word in enumerate(arguments):
        if word == "--" or not word.startswith("-"):
            plain += arguments[position:]
            break
        if word.startswith("--preserve-env="):
            preserved += word.partition("=")[2].split(",")
        else:
            plain.append(word)
            if word in ("-u", "-g", "-p", "-D", "-C", "-T", "--user", "--group", "--prompt", "--chdir"):
                plain += arguments[position + 1 :]
                break
    try:
        options, rest = getopt.getopt(plain, SHORT, LONG)
    except getopt.GetoptError as error:
        fail(f"{error}\n{USAGE}")
    given = dict(options)
    flags = set(given)
    if flags & {"-V", "--version"}:
        print("Sudo version 1.9 (raybox)")
        sys.exit(0)
    if flags & {"-h", "--help"}:
        print(USAGE)
        sys.exit(0)
    if flags & {"-l", "--list"}:
        print("User may run the following commands on this host:\n    (ALL : ALL) NOPASSWD: ALL")
        sys.exit(0)
    variables: dict[str, str] = {}
    while rest and "=" in rest[0] and not rest[0].startswith("/"):
        name, _, value = rest.pop(0).partition("=")
        variables[name] = value
    login, shell = bool(flags & {"-i", "--login"}), bool(flags & {"-s", "--shell"})
    if not rest and not login and not shell:
        if flags & {"-k", "-K", "-v", "--validate", "--remove-timestamp", "--reset-timestamp"}:
            sys.exit(0)
        print(USAGE, file=sys.stderr)
        sys.exit(1)
    every = bool(flags & {"-E", "--preserve-env"})
    environment = {
        name: value
        for name, value in os.environ.items()
        if every or name in KEPT or name in preserved or name.startswith("LC_")
    }
    return {
        "user": given.get("-u", given.get("--user", "root")),
        "argv": rest,
        "environment": environment,
        "variables": variables,
        "login": login,
        "shell": os.environ.get("SHELL", "") if shell else None,
        "background": bool(flags & {"-b", "--background"}),
        "folder": given.get("-D", given.get("--chdir", "")),
    }


def pass_on(agent: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):
        agent.sendall(b"K" + (1).to_bytes(4, "big") + bytes([number]))


def attend(agent: socket.socket, background: bool) -> None:
    """Until the command has ended, and then as it did."""
    while True:
        kind, payload = receive(agent)
        if kind == b"S" and background:
            sys.exit(0)
        if kind == b"E":
            fail(str(json.loads(payload)["message"]))
        if kind == b"X":
            status = int(json.loads(payload)["status"])
            if status < 0:
                signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
                os.kill(os.getpid(), -status)
            sys.exit(status if status >= 0 else 128 - status)


def receive(agent: socket.socket) -> tuple[bytes, bytes]:
    head = read(agent, 5)
    return head[:1], read(agent, min(int.from_bytes(head[1:], "big"), MAX_ANSWER_BYTES))


def read(agent: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = agent.recv(count - len(data))
        if not piece:
            fail("the sandbox's agent went away")
        data += piece
    return data


if __name__ == "__main__":
    main(sys.argv[1:])
