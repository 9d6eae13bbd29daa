"""What sandbox actors remember of callers that left over Ray."""

from __future__ import annotations

from raybox_actors.plain import Left


def test_who_left_is_known_of_each_sandbox_apart() -> None:
    left = Left(2)
    left.add("first", "step-1")
    assert left.has("first", "step-1")
    assert not left.has("second", "step-1"), "the next sandbox of the same actor may use the same names"
    left.add("first", "step-2")
    left.add("first", "step-3")
    assert [left.has("first", f"step-{n}") for n in (1, 2, 3)] == [False, True, True]
