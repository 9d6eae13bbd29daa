"""The same cells through our kernel and through stock ipykernel tell the same, but for the table of differences."""

from __future__ import annotations

import pytest

from tests.actors.differential.cells import Cell, Sequence, corpus
from tests.actors.differential.differences import DIFFERENCES
from tests.actors.differential.normal import by_kind, normal
from tests.actors.differential.pair import LoopThread, Pair, Told

SEQUENCES = corpus()
CANARY = "print('canary')\n'canary'"
CANARY_TOLD = [("stdout", "canary\n"), ("result", {"text/plain": "'canary'"}, {}), ("end", "ok", "")]


@pytest.mark.parametrize("sequence", SEQUENCES, ids=str)
def test_same_events(sequence: Sequence, pair: Pair, on_loop: LoopThread) -> None:
    troubles = []
    for number, cell in enumerate(sequence.cells):
        ours, stock = on_loop.run(pair.run(cell.code))
        if trouble := compare(cell, ours, stock):
            troubles.append(f"cell {number}:\n{cell.code}\n{trouble}")
    ours, stock = on_loop.run(pair.run(CANARY))
    if normal(*ours)[1:] != CANARY_TOLD or normal(*stock)[1:] != CANARY_TOLD:
        on_loop.run(pair.start())
        troubles.append("the sequence leaves a kernel behind that the next one cannot use")
    assert not troubles, "\n\n".join(troubles)


def compare(cell: Cell, ours: Told, stock: Told) -> str:
    """What is wrong, or nothing."""
    left, right = normal(*ours), normal(*stock)
    same = by_kind(left) == by_kind(right) if cell.racy else left == right
    if not cell.differs:
        return "" if same else f"ours:  {left}\nstock: {right}"
    difference = DIFFERENCES[cell.differs]
    if same:
        return f"the difference {cell.differs!r} has vanished: {left}"
    if difference.ours not in str(left) or difference.stock not in str(right):
        return f"not the difference {cell.differs!r}:\nours:  {left}\nstock: {right}"
    return ""


def test_every_difference_is_shown_by_a_cell() -> None:
    shown = {cell.differs for sequence in SEQUENCES for cell in sequence.cells if cell.differs}
    assert shown == DIFFERENCES.keys()


def test_names_are_unique() -> None:
    names = [str(sequence) for sequence in SEQUENCES]
    assert len(names) == len(set(names))
