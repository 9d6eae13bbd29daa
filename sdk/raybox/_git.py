"""What the git helpers run, and what they make of its output. No I/O.

Each helper is a plan: a generator that yields shell lines, is sent the result of each (or thrown its
CommandExitException), and returns the value of the call.
"""

from __future__ import annotations

import shlex
from collections.abc import Generator, Sequence
from typing import Any, TypeVar, get_args
from urllib.parse import quote, urlsplit, urlunsplit

from ._envd_models import CommandExitException, CommandResult
from ._errors import GitAuthException, GitUpstreamException, InvalidArgumentException
from ._git_models import GitBranches, GitResetMode, GitStatus, read_branches, read_status

T = TypeVar("T")
Result = CommandResult[Any]
Plan = Generator[str, Result, T]

#: Given to every command: git must fail rather than ask.
ENVIRONMENT = {"GIT_TERMINAL_PROMPT": "0"}

_AUTH_SIGNS = (
    "access denied",
    "authentication failed",
    "could not read password",
    "could not read username",
    "invalid credentials",
    "invalid username or password",
    "not authorized",
    "permission denied",
    "terminal prompts disabled",
)
_UPSTREAM_SIGNS = (
    "has no upstream branch",
    "no tracking information",
    "no upstream branch",
    "no upstream configured",
    "set the remote as upstream",
)

# --- lines -----------------------------------------------------------------------------------------------------------


def _git(*words: str, path: str | None = None) -> str:
    """One command line; every word is quoted, as each may come from anywhere."""
    placed = ("git", *(() if path is None else ("-C", path)), *words)
    return " ".join("'" + word.replace("'", "'\"'\"'") + "'" for word in placed)


def _run(line: str) -> Plan[Result]:
    return (yield line)


def _explained(operation: str, plan: Plan[Result]) -> Plan[Result]:
    """With the errors that users can do something about, told from git's words: it has no other way to say them."""
    try:
        return (yield from plan)
    except CommandExitException as error:
        said = f"{error.stderr or ''}\n{error.stdout or ''}".lower()
        if any(sign in said for sign in _AUTH_SIGNS):
            raise GitAuthException(
                f"git {operation}: the server refused access; give username and password (or a token)"
            ) from error
        if any(sign in said for sign in _UPSTREAM_SIGNS):
            raise GitUpstreamException(_no_upstream(operation)) from error
        raise


def _no_upstream(operation: str) -> str:
    return f"git {operation}: the branch has no upstream; name remote and branch, or push once with set_upstream=True"


# --- repositories ----------------------------------------------------------------------------------------------------


def clone(
    url: str,
    path: str | None,
    branch: str | None,
    depth: int | None,
    username: str | None,
    password: str | None,
    keep_credentials: bool,
) -> Plan[Result]:
    secret_url = _with_credentials("clone", url, username, password)
    words = ["clone", secret_url or url]
    if branch:
        words += ["--branch", branch, "--single-branch"]
    if depth:
        words += ["--depth", str(depth)]
    result = yield from _explained("clone", _run(_git(*words, *([path] if path else []))))
    if secret_url is not None and not keep_credentials:
        yield _git("remote", "set-url", "origin", _without_credentials(url), path=path or _folder_of(url))
    return result


def init(path: str, bare: bool, initial_branch: str | None) -> Plan[Result]:
    words = ["init", *(["--initial-branch", initial_branch] if initial_branch else []), *(["--bare"] if bare else [])]
    return (yield _git(*words, path))


def remote_add(path: str, name: str, url: str, fetch: bool, overwrite: bool) -> Plan[Result]:
    if not name or not url:
        raise InvalidArgumentException("git remote add: name and url are needed")
    line = _git("remote", "add", *(["-f"] if fetch else []), name, url, path=path)
    if overwrite:
        line += " || " + _git("remote", "set-url", name, url, path=path)
        if fetch:
            line = f"({line}) && " + _git("fetch", name, path=path)
    return (yield line)


def remote_get(path: str, name: str) -> Plan[str | None]:
    if not name:
        raise InvalidArgumentException("git remote get-url: name is needed")
    result = yield _git("remote", "get-url", name, path=path) + " || true"
    return result.stdout.strip() or None


def status(path: str) -> Plan[GitStatus]:
    return read_status((yield _git("status", "--porcelain=1", "-b", path=path)).stdout)


def branches(path: str) -> Plan[GitBranches]:
    return read_branches((yield _git("branch", "--format=%(refname:short)\t%(HEAD)", path=path)).stdout)


def create_branch(path: str, branch: str) -> Plan[Result]:
    return (yield _git("checkout", "-b", branch, path=path))


def checkout_branch(path: str, branch: str) -> Plan[Result]:
    return (yield _git("checkout", branch, path=path))


def delete_branch(path: str, branch: str, force: bool) -> Plan[Result]:
    return (yield _git("branch", "-D" if force else "-d", branch, path=path))


# --- changes ---------------------------------------------------------------------------------------------------------


def add(path: str, files: Sequence[str] | None, all_files: bool) -> Plan[Result]:
    words = ["--", *files] if files else ["-A" if all_files else "."]
    return (yield _git("add", *words, path=path))


def commit(
    path: str, message: str, author_name: str | None, author_email: str | None, allow_empty: bool
) -> Plan[Result]:
    words = []
    for key, value in (("user.name", author_name), ("user.email", author_email)):
        if value:
            words += ["-c", f"{key}={value}"]
    words += ["commit", "-m", message, *(["--allow-empty"] if allow_empty else [])]
    return (yield _git(*words, path=path))


def reset(path: str, mode: GitResetMode | None, target: str | None, paths: Sequence[str] | None) -> Plan[Result]:
    if mode and mode not in get_args(GitResetMode):
        raise InvalidArgumentException(f"git reset: mode must be one of {get_args(GitResetMode)}, got {mode!r}")
    words = ["reset", *([f"--{mode}"] if mode else []), *([target] if target else [])]
    return (yield _git(*words, *(["--", *paths] if paths else []), path=path))


def restore(
    path: str, paths: Sequence[str], staged: bool | None, worktree: bool | None, source: str | None
) -> Plan[Result]:
    if not paths:
        raise InvalidArgumentException("git restore: at least one path is needed")
    if staged is None and worktree is None:
        worktree = True
    elif worktree is False and not staged:
        raise InvalidArgumentException("git restore: staged or worktree must be true")
    words = ["restore", *(["--worktree"] if worktree else []), *(["--staged"] if staged else [])]
    return (yield _git(*words, *(["--source", source] if source else []), "--", *paths, path=path))


# --- remotes ---------------------------------------------------------------------------------------------------------


def push(
    path: str,
    remote: str | None,
    branch: str | None,
    set_upstream: bool,
    username: str | None,
    password: str | None,
) -> Plan[Result]:
    _check_password("push", username, password)
    target = remote
    if username and password:
        target = remote or (yield from _only_remote(path))
    words = ["push", *(["--set-upstream"] if set_upstream and target else [])]
    line = _git(*words, *(word for word in (target, branch) if word), path=path)
    return (yield from _explained("push", _authenticated("push", line, path, target, username, password)))


def pull(path: str, remote: str | None, branch: str | None, username: str | None, password: str | None) -> Plan[Result]:
    _check_password("pull", username, password)
    if not remote and not branch:
        yield from _check_upstream(path)
    target = remote
    if username and password:
        target = remote or (yield from _only_remote(path))
    line = _git("pull", *(word for word in (target, branch) if word), path=path)
    return (yield from _explained("pull", _authenticated("pull", line, path, target, username, password)))


def _check_upstream(path: str) -> Plan[None]:
    line = _git("rev-parse", "--abbrev-ref", "--symbolic-full-name", "@{u}", path=path)
    try:
        found = (yield line).stdout.strip()
    except CommandExitException as error:
        raise GitUpstreamException(_no_upstream("pull")) from error
    if not found:
        raise GitUpstreamException(_no_upstream("pull"))


def _only_remote(path: str) -> Plan[str]:
    remotes = (yield _git("remote", path=path)).stdout.split()
    if len(remotes) != 1:
        raise InvalidArgumentException(f"git: which remote are the credentials for? The repository has {remotes}")
    return str(remotes[0])


def _authenticated(
    operation: str, line: str, path: str, remote: str | None, username: str | None, password: str | None
) -> Plan[Result]:
    """Runs `line` while the remote's URL holds the credentials, and takes them out again whatever comes of it."""
    if not (username and password and remote):
        return (yield line)
    url = (yield _git("remote", "get-url", remote, path=path)).stdout.strip()
    if not url:
        raise InvalidArgumentException(f"git {operation}: the remote {remote!r} has no URL")
    secret_url = _with_credentials(operation, url, username, password)
    assert secret_url is not None  # both were given
    try:
        yield _git("remote", "set-url", remote, secret_url, path=path)
        result = yield line
    except CommandExitException:
        yield _git("remote", "set-url", remote, url, path=path)
        raise
    yield _git("remote", "set-url", remote, url, path=path)
    return result


def _check_password(operation: str, username: str | None, password: str | None) -> None:
    if password and not username:
        raise InvalidArgumentException(f"git {operation}: a password needs a username")


def _with_credentials(operation: str, url: str, username: str | None, password: str | None) -> str | None:
    """None unless both were given."""
    _check_password(operation, username, password)
    if not (username and password):
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidArgumentException(f"git {operation}: credentials are for http and https URLs only")
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(username, safe='')}:{quote(password, safe='')}@{host}"))


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _folder_of(url: str) -> str:
    """Where `git clone` puts it unless told otherwise."""
    return urlsplit(url).path.rstrip("/").rpartition("/")[2].removesuffix(".git")


# --- configuration ---------------------------------------------------------------------------------------------------


def set_config(key: str, value: str, scope: str, path: str | None) -> Plan[Result]:
    flag, where = _scope(key, scope, path)
    return (yield _git("config", flag, key, value, path=where))


def get_config(key: str, scope: str, path: str | None) -> Plan[str | None]:
    flag, where = _scope(key, scope, path)
    result = yield _git("config", flag, "--get", key, path=where) + " || true"
    return result.stdout.strip() or None


def configure_user(name: str, email: str, scope: str, path: str | None) -> Plan[Result]:
    if not name or not email:
        raise InvalidArgumentException("git config: name and email are needed")
    yield from set_config("user.name", name, scope, path)
    return (yield from set_config("user.email", email, scope, path))


def authenticate(username: str, password: str, host: str, protocol: str) -> Plan[Result]:
    if not username or not password:
        raise InvalidArgumentException("git: username and password are needed")
    asked = {
        "protocol": protocol.strip() or "https",
        "host": host.strip() or "github.com",
        "username": username,
        "password": password,
    }
    if any("\n" in value or "\0" in value for value in asked.values()):
        raise InvalidArgumentException("git: credentials cannot hold a line break")
    yield from set_config("credential.helper", "store", "global", None)
    lines = "".join(f"{name}={value}\n" for name, value in asked.items()) + "\n"
    return (yield f"printf %s {shlex.quote(lines)} | " + _git("credential", "approve"))


def _scope(key: str, scope: str, path: str | None) -> tuple[str, str | None]:
    """The flag that names the scope, and the repository if it matters."""
    if not key:
        raise InvalidArgumentException("git config: key is needed")
    scope = scope.strip().lower()
    if scope not in ("global", "local", "system"):
        raise InvalidArgumentException(f"git config: scope must be 'global', 'local' or 'system', got {scope!r}")
    if scope == "local" and not path:
        raise InvalidArgumentException("git config: scope 'local' needs the path of the repository")
    return f"--{scope}", path if scope == "local" else None
