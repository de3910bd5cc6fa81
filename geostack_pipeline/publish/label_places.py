"""Where the numbers of a map stand: beside their points, and never upon one another.

Greedy: in the order given, each label takes the first free place out of many directions at growing distances.  One
that had to move away is tied to its point by a line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
_CORNERS = (225.0, 315.0, 45.0, 135.0)
_DIRECTIONS = (*_CORNERS, *(angle for angle in range(0, 360, 15) if angle not in _CORNERS))
"""Degrees from the right, clockwise as y grows downwards; upper left first."""
_GAPS = (3.0, 12.0, 24.0, 38.0, 56.0, 76.0, 100.0)
"""From the point's own circle to the label, pixels."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Of one label."""

    box: Box
    moved: bool
    """Whether it stands so far from its point that a line must lead there."""

    @property
    def middle(self) -> tuple[float, float]:
        """Centre of the label."""
        left, top, right, bottom = self.box
        return (left + right) / 2.0, (top + bottom) / 2.0


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    *,
    frame: Box,
    blocked: Sequence[Box] = (),
    radius: float = 5.0,
) -> list[Place]:
    """Return where each label stands, in the order of the points.

    Labels keep off each other, off the circles of all points and off what is ``blocked``, and stay within the ``frame``.
    Where no place is free, the one with the least overlap is taken.

    Args:
        points: Where the labels belong, pixels.
        sizes: Width and height of each label.
        frame: What must hold all labels.
        blocked: Boxes that are taken already.
        radius: Of the circle around each point that stays free.
    """
    circles = [(x - radius, y - radius, x + radius, y + radius) for x, y in points]
    taken = [*blocked, *circles]
    placed = []
    for point, size in zip(points, sizes, strict=True):
        best, least = None, math.inf
        for place in _around(point, size, radius):
            shared = _overlap(place.box, taken, frame)
            if shared < least:
                best, least = place, shared
            if shared == 0.0:
                break
        assert best is not None
        placed.append(best)
        taken.append(best.box)
    return placed


def _around(point: tuple[float, float], size: tuple[float, float], radius: float) -> Iterator[Place]:
    """Yield the places beside a point, the nearest first."""
    (x, y), (width, height) = point, size
    for number, gap in enumerate(_GAPS):
        for degrees in _DIRECTIONS:
            along, down = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            # The label's near edge or corner lies at that distance, whatever the direction.
            middle_x = x + (radius + gap) * along + math.copysign(width / 2.0, along) * (abs(along) > 0.1)
            middle_y = y + (radius + gap) * down + math.copysign(height / 2.0, down) * (abs(down) > 0.1)
            box = (
                middle_x - width / 2.0,
                middle_y - height / 2.0,
                middle_x + width / 2.0,
                middle_y + height / 2.0,
            )
            yield Place(box=box, moved=number > 0)


def _overlap(box: Box, taken: Sequence[Box], frame: Box) -> float:
    """Return the area that a box shares with others, and by which it leaves the frame."""
    own = (box[2] - box[0]) * (box[3] - box[1])
    return sum(_shared(box, other) for other in taken) + own - _shared(box, frame)


def _shared(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return wide * high if wide > 0.0 and high > 0.0 else 0.0
