"""The corpus: cells of code in `corpus/*.cells`, read into sequences that share a kernel.

`#== name` begins a sequence, `#--` its next cell. Both may be followed by words for the comparison:
`racy: reason` (stock's own order of stdout, stderr and displays is by chance there, so each is compared by itself) and
`differs: key` (of the table in differences.py). Between the lines is the code, untouched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True, slots=True)
class Cell:
    code: str
    racy: str = ""  #: why the order between streams is not compared
    differs: str = ""  #: key of the table of differences


@dataclass(frozen=True, slots=True)
class Sequence:
    topic: str
    name: str
    cells: tuple[Cell, ...]

    def __str__(self) -> str:
        return f"{self.topic}/{self.name}"


def read_sequences(path: Path) -> list[Sequence]:
    """The sequences of one file. Raises ValueError for a word that is none."""
    sequences: list[Sequence] = []
    name, cells, words, lines = "", list[Cell](), "", list[str]()

    def end_cell() -> None:
        code = "\n".join(lines).rstrip("\n")
        lines.clear()
        if name:
            cells.append(Cell(code, **_options(words, path)))

    def end_sequence() -> None:
        end_cell()
        if name:
            sequences.append(Sequence(path.stem, name, tuple(cells)))
            cells.clear()

    for line in path.read_text().split("\n"):
        if line.startswith("#== "):
            end_sequence()
            name, words = line[4:].strip(), ""
        elif line.startswith("#--"):
            end_cell()
            words = line[3:].strip()
        else:
            lines.append(line)
    end_sequence()
    return sequences


def _options(words: str, path: Path) -> dict[str, str]:
    if not words:
        return {}
    key, _, value = words.partition(":")
    if key not in ("racy", "differs") or not value:
        raise ValueError(f"{path.name}: {words!r} is none of `racy: reason`, `differs: key`")
    return {key: value.strip()}


def corpus() -> list[Sequence]:
    return [sequence for path in sorted(CORPUS.glob("*.cells")) for sequence in read_sequences(path)]
