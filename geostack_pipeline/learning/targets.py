"""From outlines to what a pixel teaches: plume, no plume, or nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation, binary_erosion, label

Mask = npt.NDArray[np.bool_]
NO_PLUME, PLUME, IGNORED = 0, 1, 255
_EIGHT = np.ones((3, 3), bool)


def target(outline: Mask, valid: Mask, ring_pixels: int) -> npt.NDArray[np.uint8]:
    """Return 1 in plumes, 0 outside, 255 where nothing can be learnt or scored.

    Analysts draw their outlines with a margin of some pixels: a ring on both sides of the edge is ignored.  A plume that is
    nothing but ring keeps all its pixels.

    Args:
        outline: Pixels inside an outline.
        valid: Pixels with values.
        ring_pixels: Half width of the ring.
    """
    out = outline.astype(np.uint8)
    if ring_pixels:
        wide = binary_dilation(outline, _EIGHT, iterations=ring_pixels)
        core = _core(outline, ring_pixels)
        out[wide & ~core] = IGNORED
    out[~valid] = IGNORED
    return out


def _core(outline: Mask, ring_pixels: int) -> Mask:
    """Return each outline without its edge; those that have nothing left stay whole."""
    regions, count = label(outline, _EIGHT)
    core = binary_erosion(outline, _EIGHT, iterations=ring_pixels, border_value=1)
    kept = np.bincount(regions[core], minlength=count + 1) > 0
    lost = ~kept
    lost[0] = False
    return np.asarray(core | lost[regions])


def placed(shape: tuple[int, int], part: npt.NDArray[np.generic], row: int, column: int) -> Mask:
    """Return a mask of ``shape`` with a smaller one pasted in at (row, column), cut at the edges."""
    out = np.zeros(shape, bool)
    top, left = max(row, 0), max(column, 0)
    bottom, right = min(row + part.shape[0], shape[0]), min(column + part.shape[1], shape[1])
    if bottom > top and right > left:
        out[top:bottom, left:right] = part[top - row : bottom - row, left - column : right - column]
    return out


def numbered(masks: Sequence[Mask], shape: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Return the number, from 1, of the mask that has each pixel; the later one where two do."""
    out = np.zeros(shape, np.int32)
    for number, mask in enumerate(masks, start=1):
        out[mask] = number
    return out
