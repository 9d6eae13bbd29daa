"""docs/operations.md: every test that stands behind its table of faults exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_named_test_exists() -> None:
    page, file, found = (ROOT / "docs" / "operations.md").read_text(), "", 0
    for match in re.finditer(r"`(tests/[\w/]+\.py)?::(test_\w+)`", page):
        file = match[1] or file
        assert f"def {match[2]}(" in (ROOT / file).read_text(), match[0]
        found += 1
    assert found >= 9
