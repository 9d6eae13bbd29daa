"""Names for template versions: the digest of everything that decides what a sandbox of the template contains."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from raybox_template.errors import ExtractorNotFound
from raybox_template.spec import TemplateSpec

#: Raise it when the builder lays environments out differently: the same definition then is another version.
LAYOUT = 1


def canonical_bytes(spec: TemplateSpec, sources: Mapping[str, bytes]) -> bytes:
    """The bytes whose digest names the version: one unambiguous encoding of the definition and the sources.

    The name is left out: it is an alias, and the same content under two names is built once.
    """
    definition = spec.canonical()
    del definition["name"]
    whole = {
        "layout": LAYOUT,
        "definition": definition,
        "extractor": {path: hashlib.sha256(content).hexdigest() for path, content in sources.items()},
    }
    return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode("ascii")


def digest_of(spec: TemplateSpec, sources: Mapping[str, bytes]) -> str:
    """64 lower-case hexadecimal digits. sources: the extractor's files, relative path -> content."""
    return hashlib.sha256(canonical_bytes(spec, sources)).hexdigest()


def read_sources(folder: Path) -> dict[str, bytes]:
    """The files of a package folder that an environment needs, relative POSIX path -> content, sorted.

    Compiled and hidden files are left out. Raises ExtractorNotFound when the folder is not a package.
    """
    if not (folder / "__init__.py").is_file():
        raise ExtractorNotFound(f"{folder} has no __init__.py")
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if "__pycache__" in relative.parts or any(part.startswith(".") for part in relative.parts):
            continue
        if path.is_file():
            found[relative.as_posix()] = path.read_bytes()
    return found
