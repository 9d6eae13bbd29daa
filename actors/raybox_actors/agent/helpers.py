"""What the agent needs of a sandbox's /etc: `sudo`, and login shells that keep the environment they are given."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from raybox_actors.errors import InternalError

SUDO_ADDRESS = "/run/raybox-sudo.sock"
SUDO_SOURCE = Path(__file__).parents[1] / "guest" / "sudo.py"
#: Below /etc, where PATH leads.
SUDO_PLACE = "raybox/bin/sudo"
BACKLOG = 128

PROFILE = r"""# PATH stays what it is: the template's programs come first.
if [ "${PS1-}" ]; then
  if [ "${BASH-}" ] && [ "$BASH" != /bin/sh ] && [ -f /etc/bash.bashrc ]; then
    . /etc/bash.bashrc
  elif [ "$(id -u)" -eq 0 ]; then
    PS1='# '
  else
    PS1='$ '
  fi
fi
if [ -d /etc/profile.d ]; then
  for i in /etc/profile.d/*.sh; do
    [ -r "$i" ] && . "$i"
  done
  unset i
fi
"""
BASHRC = r"""[ -z "${PS1-}" ] && return
shopt -s checkwinsize
PS1='\u@\h:\w\$ '
"""


def write_helpers(skeleton: Path, python: str) -> None:
    """Put them into the folder that sandboxes see as /etc (isolation/walls.py). Idempotent; each appears as a whole.

    python: the template's interpreter, which runs them.
    """
    sudo = f"#!{python} -IS\n{SUDO_SOURCE.read_text()}"
    for name, text, mode in (("profile", PROFILE, 0o644), ("bash.bashrc", BASHRC, 0o644), (SUDO_PLACE, sudo, 0o755)):
        target = skeleton / name
        for folder in reversed(target.relative_to(skeleton).parents):
            (skeleton / folder).mkdir(mode=0o755, exist_ok=True)
        making = target.with_name(f"{target.name}.{os.getpid()}")
        making.write_text(text)
        making.chmod(mode)
        making.rename(target)


def listen_for_sudo(first_pid: int) -> socket.socket:
    """The socket that `sudo` connects to, inside the walls of which this is the first process.

    Before any code of a user runs inside, who might lay a link there. Raises InternalError.
    """
    listener = socket.socket(socket.AF_UNIX)
    path = f"/proc/{first_pid}/root{SUDO_ADDRESS}"
    try:
        listener.bind(path)
        Path(path).chmod(0o666)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise InternalError(f"there is no place for the sandbox's sudo: {error}") from error
    return listener
