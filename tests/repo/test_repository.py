"""Promises of the repository as a whole."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
MEMBERS = ("sdk", "extractor", "template", "actors", "cluster")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_one_version_everywhere() -> None:
    versions = {
        member: tomllib.loads((ROOT / member / "pyproject.toml").read_text())["project"]["version"]
        for member in MEMBERS
    }
    assert len(set(versions.values())) == 1, versions


def test_every_member_is_typed_and_says_what_it_is() -> None:
    for member in MEMBERS:
        (package,) = [path.parent for path in (ROOT / member).glob("raybox*/__init__.py")]
        assert (package / "py.typed").exists()
        assert (ROOT / member / "README.md").read_text().startswith("# ")


def test_pins_have_hashes_and_no_addresses() -> None:
    for lock in (
        *ROOT.glob("*.lock"),
        *ROOT.glob("template/**/*.lock"),
        *ROOT.glob("examples/*.lock"),
        *ROOT.glob("tests/**/*.lock"),
    ):
        text = lock.read_text()
        assert "--hash=sha256:" in text, lock
        assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links", text), lock


def test_what_git_must_not_hold_is_not_there() -> None:
    names = {path.name for path in tracked()}
    assert "uv.lock" not in names
    for path in tracked():
        if path.suffix in (".py", ".md", ".toml", ".yaml", "") and path.is_file() and path.name != Path(__file__).name:
            text = path.read_text(errors="ignore")
            assert not re.search(r"(^|[\s\"'(])/(work|farm)/", text), path


def test_changelog_has_the_usual_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert text.startswith("# Changelog\n")
    headings = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert set(headings) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
