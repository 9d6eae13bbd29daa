"""Values of the git helpers, and how git's output is read. Same names and fields as the E2B SDK has them. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

GitResetMode = Literal["soft", "mixed", "hard", "merge", "keep"]

#: Both sides changed it, in one way or another: see git-status(1).
_CONFLICTS = frozenset({"DD", "AU", "UD", "UA", "DU", "AA", "UU"})
_WORDS = (
    ("R", "renamed"),
    ("C", "copied"),
    ("D", "deleted"),
    ("A", "added"),
    ("M", "modified"),
    ("T", "typechange"),
)


@dataclass
class GitFileStatus:
    """One changed file. name: path within the repository. index_status, working_tree_status: git's letters."""

    name: str
    status: str
    index_status: str
    working_tree_status: str
    staged: bool
    renamed_from: str | None = None


@dataclass
class GitStatus:
    """State of a repository; ahead, behind: commits, compared with the upstream branch."""

    current_branch: str | None
    upstream: str | None
    ahead: int
    behind: int
    detached: bool
    file_status: list[GitFileStatus]

    @property
    def is_clean(self) -> bool:
        """Whether nothing is changed and nothing untracked."""
        return not self.file_status

    @property
    def has_changes(self) -> bool:
        """Whether anything is changed or untracked."""
        return bool(self.file_status)

    @property
    def has_staged(self) -> bool:
        """Whether anything is staged."""
        return self.staged_count > 0

    @property
    def has_untracked(self) -> bool:
        """Whether there are untracked files."""
        return self.untracked_count > 0

    @property
    def has_conflicts(self) -> bool:
        """Whether there are merge conflicts."""
        return self.conflict_count > 0

    @property
    def total_count(self) -> int:
        """Number of changed and untracked files."""
        return len(self.file_status)

    @property
    def staged_count(self) -> int:
        """Number of files with something staged."""
        return sum(file.staged for file in self.file_status)

    @property
    def unstaged_count(self) -> int:
        """Number of files with nothing staged."""
        return sum(not file.staged for file in self.file_status)

    @property
    def untracked_count(self) -> int:
        """Number of untracked files."""
        return sum(file.status == "untracked" for file in self.file_status)

    @property
    def conflict_count(self) -> int:
        """Number of files with merge conflicts."""
        return sum(file.status == "conflict" for file in self.file_status)


@dataclass
class GitBranches:
    """The local branches; current_branch is None where no branch is checked out."""

    branches: list[str]
    current_branch: str | None


def read_status(output: str) -> GitStatus:
    """`git status --porcelain=1 -b`."""
    status = GitStatus(None, None, 0, 0, False, [])
    for line in output.splitlines():
        if line.startswith("## "):
            _read_branch(line[3:], status)
        elif len(line) > 3:
            status.file_status.append(_read_file(line))
    return status


def _read_branch(line: str, status: GitStatus) -> None:
    found = re.fullmatch(r"(.*?)(?: \[(.*)\])?", line)
    assert found is not None  # it matches every line
    names, counts = found.group(1), found.group(2) or ""
    for word in ("ahead", "behind"):
        if number := re.search(rf"{word} (\d+)", counts):
            setattr(status, word, int(number.group(1)))
    if names.startswith("HEAD (") or names == "HEAD":
        status.detached = True
        return
    for start in ("No commits yet on ", "Initial commit on "):
        names = names.removeprefix(start)
    branch, _, upstream = names.partition("...")
    status.current_branch, status.upstream = branch or None, upstream or None


def _read_file(line: str) -> GitFileStatus:
    index, tree, name = line[0], line[1], line[3:]
    renamed_from = None
    if index in "RC" or tree in "RC":
        old, arrow, new = name.partition(" -> ")
        if arrow:
            renamed_from, name = old, new
    if index == "?":
        word = "untracked"
    elif index + tree in _CONFLICTS:
        word = "conflict"
    else:
        word = next((word for letter, word in _WORDS if letter in (index, tree)), "unknown")
    return GitFileStatus(name, word, index, tree, index not in " ?", renamed_from)


def read_branches(output: str) -> GitBranches:
    """`git branch` with the name, a tab and `*` for the current one."""
    branches, current = [], None
    for line in output.splitlines():
        name, _, mark = line.partition("\t")
        name = name.strip()
        if not name or name.startswith("("):  # "(HEAD detached at ...)" is no branch
            continue
        branches.append(name)
        if mark.strip() == "*":
            current = name
    return GitBranches(branches, current)
