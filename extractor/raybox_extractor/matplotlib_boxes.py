"""Box-and-whisker plots: matplotlib draws them as loose lines and patches, in an order that tells what is what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy
from matplotlib import rcParams

#: Of an outline: a closed rectangle, or one with notches, whose path may have an end of its own.
_CORNERS_MIN, _CORNERS_MAX = 5, 13


@dataclass(slots=True)
class Box:
    """One box. position: where it stands on the axis of the categories; the other numbers are on the other axis."""

    position: float
    half_width: float
    horizontal: bool
    low: float
    first_quartile: float
    third_quartile: float
    high: float
    median: float
    outliers: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """Coordinates across and along the box."""

    across: Any  #: arrays
    along: Any
    has_line: bool
    marker: str

    @property
    def is_upright(self) -> bool:
        return len(self.across) == 2 and bool(self.across[0] == self.across[1])

    @property
    def is_level(self) -> bool:
        return len(self.along) == 2 and bool(self.along[0] == self.along[1])

    def lies_at(self, position: float) -> bool:
        """Whether it is level, and of the box there; a whisker of no length is level, too, and may be another box's."""
        return self.is_level and bool(self.across.min() <= position <= self.across.max())

    def are_markers_at(self, position: float) -> bool:
        """Whether it is markers without a line, all of them there; also if there are none."""
        return not self.has_line and bool((self.across == position).all())


def find_boxes(lines: Sequence[Any], patches: Sequence[Any]) -> tuple[list[Box], set[int]]:
    """The boxes among an axes' lines and patches, and the ids of all artists that belong to them.

    What draws a box draws it as one outline, two whiskers, perhaps two caps, a median, perhaps a mean, perhaps
    outliers. The whiskers begin at the quartiles, so that all numbers are exact. Boxes without an outline are not
    recognised. A box that repeats one is left out, but is one of them: it says nothing new.
    """
    for horizontal in (False, True):
        read = [_read(line, horizontal) for line in lines]
        outlines = [patch for patch in patches if type(patch).__name__ == "PathPatch"]
        boxes: list[Box] = []
        used: set[int] = set()
        seen: set[tuple[Any, ...]] = set()
        at = 0
        while at + 2 < len(read):
            end, box, outline = _box_at(read, at, lines, outlines, horizontal)
            if box is None:
                at += 1
                continue
            used |= {id(line) for line in lines[at:end]} | {id(outline)}
            if outline in outlines:  # they come in the order of their boxes: the next one is the first again
                outlines.remove(outline)
            facts = (*astuple(box)[:-1], *box.outliers)
            if facts not in seen:
                seen.add(facts)
                boxes.append(box)
            at = end
        if boxes:
            return boxes, used
    return [], set()


def _box_at(
    read: list[_Line], at: int, lines: Sequence[Any], outlines: list[Any], horizontal: bool
) -> tuple[int, Box | None, Any]:
    """The box whose first whisker is `read[at]`: the index after its last line, itself, and its outline."""
    lower, upper = read[at], read[at + 1]
    if not (lower.is_upright and upper.is_upright and lower.across[0] == upper.across[0]):
        return at, None, None
    position, (first, low), (third, high) = float(lower.across[0]), lower.along.tolist(), upper.along.tolist()
    if not low <= first <= third <= high:
        return at, None, None
    outline, half_width = _outline(position, first, third, lines[at - 1] if at else None, outlines, horizontal)
    if outline is None:
        return at, None, None
    # Caps are there, or not: both at the ends of the whiskers, and one more line for the median after them.
    caps = [
        cap.lies_at(position) and cap.along[0] == edge
        for cap, edge in zip(read[at + 2 : at + 4], (low, high), strict=False)
    ]
    after_caps = (at + 4, at + 2) if caps == [True, True] else (at + 2,)
    medians = (end for end in after_caps if end < len(read) and read[end].lies_at(position))
    end = next((end for end in medians if first <= read[end].along[0] <= third), -1)
    if end < 0:
        return at, None, None
    box = Box(position, half_width, horizontal, low, first, third, high, median=float(read[end].along[0]))
    end += 1
    if end < len(read) and _is_mean(read[end], position, first, third, read, end):
        end += 1
    if end < len(read) and read[end].are_markers_at(position):
        box.outliers = read[end].along[numpy.isfinite(read[end].along)].tolist()
        end += 1
    return end, box, outline


def _is_mean(line: _Line, position: float, first: float, third: float, read: list[_Line], at: int) -> bool:
    """A line within the box, or one marker with another markers' line after it; alone, a marker is an outlier."""
    if line.has_line:
        return line.is_level and bool(line.across[0] < position < line.across[1])
    if len(line.across) != 1 or not line.are_markers_at(position):
        return False
    follows = at + 1 < len(read) and read[at + 1].are_markers_at(position)
    return follows or bool(first <= line.along[0] <= third) or line.marker == rcParams["boxplot.meanprops.marker"]


def _outline(
    position: float, first: float, third: float, before: Any, outlines: list[Any], horizontal: bool
) -> tuple[Any, float]:
    """The artist that draws the box, and half of its width."""
    for artist in (*([] if before is None else [before]), *outlines):
        vertices = artist.get_path().vertices
        if not _CORNERS_MIN <= len(vertices) <= _CORNERS_MAX:
            continue
        across, along = vertices[:, int(horizontal)], vertices[:, 1 - int(horizontal)]
        left, right = float(across.min()), float(across.max())
        # A notch may reach beyond the quartiles, but its corners are among the points.
        corners = {float(value) for value in along}
        if left < position < right and {first, third} <= corners and abs(left + right - 2 * position) < right - left:
            return artist, (right - left) / 2
    return None, 0.0


def _read(line: Any, horizontal: bool) -> _Line:
    x, y = (numpy.asarray(values, dtype=float) for values in line.get_data(orig=False))
    across, along = (y, x) if horizontal else (x, y)
    return _Line(across, along, str(line.get_linestyle()) not in ("None", "none", "", " "), str(line.get_marker()))
