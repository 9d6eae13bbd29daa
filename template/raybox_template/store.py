"""Built templates on disk.

    <root>/versions/<digest>/env/            the environment; a venv is not relocatable, so it is built in place
    <root>/versions/<digest>/complete.json   written last, atomically: without it the folder is garbage
    <root>/locks/<digest>.lock               held by the one process that builds that version
    <root>/aliases/<name>:<tag>              a file with the digest

A reader needs no lock: it believes the marker. Only a builder that holds the version's lock removes garbage.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybox_template.errors import InvalidSpec

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ALIAS = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?")
_MARKER = "complete.json"


@dataclass(frozen=True, slots=True)
class BuiltTemplate:
    """One built version.

    digest: its name, 64 hexadecimal digits. root: the environment, what `sys.prefix` says inside.
    python: the environment's interpreter. prefixes: the folders that must be visible, read-only, wherever that
    interpreter runs: `root`, then the prefix of the interpreter it was made from.
    """

    digest: str
    root: Path
    python: Path
    prefixes: tuple[Path, ...]


def default_root() -> Path:
    """`$RAYBOX_HOME/templates`, or `~/.cache/raybox/templates`; always absolute."""
    home = os.environ.get("RAYBOX_HOME")
    return (Path(home).absolute() if home else Path.home() / ".cache" / "raybox") / "templates"


class Store:
    """Content-addressed folders of built templates. Safe to use from many processes and threads at once."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or default_root()).absolute()

    def folder(self, digest: str) -> Path:
        """Where a version lives, or would live."""
        return self.root / "versions" / _checked(digest)

    def environment(self, digest: str) -> Path:
        return self.folder(digest) / "env"

    def get(self, digest: str) -> BuiltTemplate | None:
        """The version, if it is completely built and its base interpreter still exists; a few file reads."""
        folder = self.folder(digest)
        try:
            marker = json.loads((folder / _MARKER).read_text())
            root, base = Path(marker["root"]), Path(marker["base_prefix"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        # A store that was moved holds environments whose scripts point to the old place.
        if root != self.environment(digest) or not (root / "bin" / "python").exists():
            return None
        prefixes = (root,) if base == root else (root, base)
        return BuiltTemplate(digest, root, root / "bin" / "python", prefixes)

    def versions(self) -> Iterator[tuple[BuiltTemplate, dict[str, Any]]]:
        """Every complete version with the definition it was built from, in no particular order."""
        folder = self.root / "versions"
        for path in folder.iterdir() if folder.is_dir() else ():
            built = self.get(path.name) if _DIGEST.fullmatch(path.name) else None
            if built:
                with contextlib.suppress(OSError, ValueError):
                    yield built, json.loads((path / _MARKER).read_text())["definition"]

    def definition(self, digest: str) -> dict[str, Any]:
        """The definition that the version was built from; empty for one that is not there or that cannot be read."""
        try:
            plain = json.loads((self.folder(digest) / _MARKER).read_text())["definition"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return plain if isinstance(plain, dict) else {}

    def publish(self, digest: str, *, base_prefix: Path, definition: dict[str, Any]) -> BuiltTemplate:
        """Declare the version complete. The caller holds its lock. definition: JSON values, kept for people."""
        folder = self.folder(digest)
        root = self.environment(digest)
        marker = {"root": str(root), "base_prefix": str(base_prefix), "definition": definition}
        _write_atomically(folder / _MARKER, json.dumps(marker, indent=1) + "\n")
        built = self.get(digest)
        assert built is not None, f"{folder} was published and does not read back"
        return built

    @contextlib.contextmanager
    def building(self, digest: str, *, on_wait: Callable[[], None] | None = None) -> Iterator[int]:
        """Hold the version's lock, waiting for another builder if there is one; on_wait is called once before that.

        Yields the lock's file descriptor. Pass it on to child processes that write into the folder: should this
        process be killed, the lock is then held until the last of them has ended too.
        """
        path = self.root / "locks" / f"{_checked(digest)}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait:
                    on_wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)  # not LOCK_UN: that would also unlock for a surviving child

    def clear(self, digest: str) -> Path:
        """An empty folder for the version, whatever half-built thing was there. The caller holds its lock."""
        folder = self.folder(digest)
        # The marker goes first: an interrupted removal must not leave it on a folder with holes.
        (folder / _MARKER).unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        return folder

    def set_alias(self, alias: str, digest: str) -> None:
        """Point `name` or `name:tag` at a version, atomically; the last writer wins."""
        path = self._alias_path(alias)
        if self.resolve(alias) != digest:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_atomically(path, f"{_checked(digest)}\n")

    def resolve(self, alias: str) -> str | None:
        """The digest behind `name` (meaning `name:latest`), `name:tag` or a digest; None if there is no such alias."""
        if _DIGEST.fullmatch(alias):
            return alias
        try:
            digest = self._alias_path(alias).read_text().strip()
        except FileNotFoundError:
            return None
        return digest if _DIGEST.fullmatch(digest) else None

    def aliases(self) -> dict[str, str]:
        """Every alias with its digest, sorted by alias."""
        folder = self.root / "aliases"
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        found = {name: self.resolve(name) for name in names if _ALIAS.fullmatch(name)}
        return {name: digest for name, digest in found.items() if digest}

    def _alias_path(self, alias: str) -> Path:
        if not _ALIAS.fullmatch(alias):
            raise InvalidSpec("alias", f"must be name or name:tag, not {alias!r}")
        return self.root / "aliases" / (alias if ":" in alias else f"{alias}:latest")


def _checked(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise InvalidSpec("digest", f"must be 64 hexadecimal digits, not {digest!r}")
    return digest


def _write_atomically(path: Path, text: str) -> None:
    # Hidden, so that no listing takes it for an entry; the process id and thread make it this writer's own.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
    try:
        with temporary.open("x") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
