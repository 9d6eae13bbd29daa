"""Git. Its twin is `_git_async.py`: same methods, same order, same docstrings."""

from __future__ import annotations

from typing import TypeVar

from . import _git
from ._commands_sync import Commands
from ._envd_models import CommandExitException, CommandResult
from ._git_models import GitBranches, GitResetMode, GitStatus

T = TypeVar("T")


class Git:
    """Runs git in a sandbox, which must have it: `sandbox.git`.

    path: the repository. envs, user, cwd, timeout, request_timeout: as for `commands.run`, but timeout has no default.
    Raises CommandExitException when git fails, and InvalidArgumentException.
    """

    def __init__(self, commands: Commands) -> None:
        """For `Sandbox` alone."""
        self._commands = commands

    def clone(
        self,
        url: str,
        path: str | None = None,
        branch: str | None = None,
        depth: int | None = None,
        username: str | None = None,
        password: str | None = None,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
        dangerously_store_credentials: bool = False,
    ) -> CommandResult[str]:
        """Clone a repository; `path` is where to, default the name of the repository.

        username, password: for http and https; they are taken out of the clone's configuration again, unless
        dangerously_store_credentials. Raises GitAuthException.
        """
        plan = _git.clone(url, path, branch, depth, username, password, dangerously_store_credentials)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def init(
        self,
        path: str,
        bare: bool = False,
        initial_branch: str | None = None,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> CommandResult[str]:
        """Make a repository."""
        plan = _git.init(path, bare, initial_branch)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def remote_add(
        self,
        path: str,
        name: str,
        url: str,
        fetch: bool = False,
        overwrite: bool = False,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> CommandResult[str]:
        """Add a remote; `overwrite` changes its URL where there is one, `fetch` fetches from it."""
        plan = _git.remote_add(path, name, url, fetch, overwrite)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def remote_get(
        self,
        path: str,
        name: str,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> str | None:
        """URL of a remote; None when there is none."""
        plan = _git.remote_get(path, name)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def status(
        self,
        path: str,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> GitStatus:
        """What is changed, staged, untracked, and how the branch stands to its upstream."""
        plan = _git.status(path)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def branches(
        self,
        path: str,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> GitBranches:
        """The local branches."""
        plan = _git.branches(path)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def create_branch(
        self,
        path: str,
        branch: str,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> CommandResult[str]:
        """Make a branch and check it out."""
        plan = _git.create_branch(path, branch)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def checkout_branch(
        self,
        path: str,
        branch: str,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> CommandResult[str]:
        """Check a branch out."""
        plan = _git.checkout_branch(path, branch)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def delete_branch(
        self,
        path: str,
        branch: str,
        force: bool = False,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> CommandResult[str]:
        """Delete a branch; with `force` also when it was not merged."""
        plan = _git.delete_branch(path, branch, force)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def add(
        self,
        path: str,
        files: list[str] | None = None,
        all: bool = True,  # noqa: A002  # the E2B SDK's name
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> CommandResult[str]:
        """Stage these files; without any: everything, or with `all=False` what is below `path`."""
        plan = _git.add(path, files, all)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def commit(
        self,
        path: str,
        message: str,
        author_name: str | None = None,
        author_email: str | None = None,
        allow_empty: bool = False,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> CommandResult[str]:
        """Commit what is staged; `author_name` and `author_email` hold for this commit alone."""
        plan = _git.commit(path, message, author_name, author_email, allow_empty)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def reset(
        self,
        path: str,
        mode: GitResetMode | None = None,
        target: str | None = None,
        paths: list[str] | None = None,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> CommandResult[str]:
        """Reset the branch to `target` (default HEAD), or the index of these paths."""
        plan = _git.reset(path, mode, target, paths)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def restore(
        self,
        path: str,
        paths: list[str],
        staged: bool | None = None,
        worktree: bool | None = None,
        source: str | None = None,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> CommandResult[str]:
        """Restore paths in the working tree, which is the default, in the index (`staged`), or both; from `source`."""
        plan = _git.restore(path, paths, staged, worktree, source)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def push(
        self,
        path: str,
        remote: str | None = None,
        branch: str | None = None,
        set_upstream: bool = True,
        username: str | None = None,
        password: str | None = None,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> CommandResult[str]:
        """Push commits.

        username, password: for http and https; they are in the repository's configuration only while it pushes.
        Raises GitAuthException, GitUpstreamException.
        """
        plan = _git.push(path, remote, branch, set_upstream, username, password)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def pull(
        self,
        path: str,
        remote: str | None = None,
        branch: str | None = None,
        username: str | None = None,
        password: str | None = None,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> CommandResult[str]:
        """Pull commits.

        username, password: for http and https; they are in the repository's configuration only while it pulls.
        Raises GitAuthException, GitUpstreamException.
        """
        plan = _git.pull(path, remote, branch, username, password)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def set_config(
        self,
        key: str,
        value: str,
        scope: str = "global",
        path: str | None = None,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> CommandResult[str]:
        """Set a value; scope: `global`, `system`, or `local` to the repository at `path`."""
        plan = _git.set_config(key, value, scope, path)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def get_config(
        self,
        key: str,
        scope: str = "global",
        path: str | None = None,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> str | None:
        """A value, None when it is not set; scope: `global`, `system`, or `local` to the repository at `path`."""
        plan = _git.get_config(key, scope, path)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def dangerously_authenticate(
        self,
        username: str,
        password: str,
        host: str = "github.com",
        protocol: str = "https",
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> CommandResult[str]:
        """Keep credentials for a host in the sandbox, in clear text, where all that runs there can read them."""
        plan = _git.authenticate(username, password, host, protocol)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def configure_user(
        self,
        name: str,
        email: str,
        scope: str = "global",
        path: str | None = None,
        envs: dict[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> CommandResult[str]:
        """Set who commits; scope: `global`, `system`, or `local` to the repository at `path`."""
        plan = _git.configure_user(name, email, scope, path)
        return self._carry_out(plan, envs, user, cwd, timeout, request_timeout)

    def _carry_out(
        self,
        plan: _git.Plan[T],
        envs: dict[str, str] | None,
        user: str | None,
        cwd: str | None,
        timeout: float | None,
        request_timeout: float | None,
    ) -> T:
        environment = _git.ENVIRONMENT | (envs or {})
        try:
            line = next(plan)
            while True:
                try:
                    result = self._commands.run(
                        line, envs=environment, user=user, cwd=cwd, timeout=timeout, request_timeout=request_timeout
                    )
                except CommandExitException as error:
                    line = plan.throw(error)
                else:
                    line = plan.send(result)
        except StopIteration as end:
            value: T = end.value
            return value
