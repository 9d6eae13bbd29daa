"""docs/security.md: every test that it names exists, and every security test stands behind a claim."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
TESTS = ROOT / "tests" / "security"


def named() -> set[tuple[str, str]]:
    """(file, test) of every name on the page; `::test` belongs to the file that was named last before it."""
    found, file = set(), ""
    for match in re.finditer(r"`(test_\w+\.py)?::(test_\w+)`", PAGE.read_text()):
        file = match[1] or file
        found.add((file, match[2]))
    return found


def existing() -> set[tuple[str, str]]:
    return {
        (path.name, node.name)
        for path in TESTS.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_named_test_exists() -> None:
    assert named()
    assert named() - existing() == set()


def test_every_security_test_stands_behind_a_claim() -> None:
    assert existing() - named() == set()
