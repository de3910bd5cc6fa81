"""What is asked: one date and a few boxes, cut into windows that neither overlap nor leave a gap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta

from geostack_pipeline.areas import Area
from geostack_pipeline.providers.contract import SearchWindow

Box = tuple[float, float, float, float]
"""West, south, east, north with west <= east; degrees, WGS 84."""

CLUSTER_SPAN = 3.0
"""Largest side, in degrees, of a box that joins separate areas: about three Sentinel-2 tiles."""


def cluster(areas: Iterable[Area], *, span: float = CLUSTER_SPAN) -> list[Box]:
    """Return boxes that together cover all areas; nearby areas share one.

    Requests then grow with the clusters, not with the areas.  An area across the
    antimeridian gives a box on each side.  Deterministic, whatever the order of the areas.

    Args:
        areas: Areas of interest.
        span: Two boxes are joined when neither side of the joint box exceeds this many degrees,
            or when one lies within the other.
    """
    boxes: list[Box] = []
    for part in sorted({part for area in areas for part in area.parts}):
        boxes = _join(boxes, part, span)
    return sorted(boxes)


def day_bounds(day: date) -> tuple[datetime, datetime]:
    """Return the first instant of a UTC day and the first instant after it."""
    start = datetime.combine(day, time(), UTC)
    return start, start + timedelta(days=1)


def windows(day: date, boxes: Iterable[Box]) -> list[SearchWindow]:
    """Return one window for each box: the half-open UTC day."""
    start, end = day_bounds(day)
    return [SearchWindow(start=start, end=end, bbox=box) for box in boxes]


def halve(window: SearchWindow, *, floor: timedelta) -> Sequence[SearchWindow] | None:
    """Return two halves of a window's time on a whole second; None when they would be shorter than ``floor``."""
    half = timedelta(seconds=(window.end - window.start) // timedelta(seconds=2))
    if half < floor or half <= timedelta(0):
        return None
    middle = window.start + half
    return (
        SearchWindow(start=window.start, end=middle, bbox=window.bbox),
        SearchWindow(start=middle, end=window.end, bbox=window.bbox),
    )


def _join(boxes: list[Box], box: Box, span: float) -> list[Box]:
    """Add a box, joined with the first that takes it; a joint box may then take others in."""
    for index, other in enumerate(boxes):
        joint = (min(box[0], other[0]), min(box[1], other[1]), max(box[2], other[2]), max(box[3], other[3]))
        small = joint[2] - joint[0] <= span and joint[3] - joint[1] <= span
        if small or joint in {box, other}:
            return _join(boxes[:index] + boxes[index + 1 :], joint, span)
    return [*boxes, box]
