"""Where a careful analyst draws the outline of a plume, and which plumes he notices at all."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation, gaussian_filter, label

from geostack_pipeline.sandbox.world.grids import Floats

OUTLINE_PPM_M = 150.0
"""Smoothed column at which the outline runs."""
REVIEWED_SIGMA = 3.0
"""A plume is marked whose smoothed enhancement stands out by so many of its standard deviations."""


def core(column: Floats, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the largest connected part of a plume's column (ppm m) above the outline, among the known pixels."""
    inside = (gaussian_filter(column, 1.0) > OUTLINE_PPM_M) & known
    regions, count = label(inside, np.ones((3, 3)))
    if count > 1:
        inside = regions == 1 + int(np.argmax(np.bincount(regions.ravel())[1:]))
    return np.asarray(inside)


def outline(column: Floats, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the pixels inside the outline, which is a few pixels wide of the gas; none where there is no gas."""
    return np.asarray(binary_dilation(core(column, known), iterations=2) & known)


class Noticing:
    """Which plumes stand out of one granule's measured enhancement.

    Args:
        measured: Enhancement, ppm m; whatever is not known counts for nothing.
        known: Pixels with data.
    """

    def __init__(self, measured: Floats, known: npt.NDArray[np.bool_]) -> None:
        self._smooth = gaussian_filter(np.where(known, measured, 0.0), 1.0)
        seen = self._smooth[known]
        self._middle = np.median(seen) if seen.size else 0.0
        self._scatter = 1.4826 * np.median(np.abs(seen - self._middle)) if seen.size else np.inf

    def notices(self, inside: npt.NDArray[np.bool_]) -> bool:
        """Return whether a plume whose core is ``inside`` is marked."""
        if not inside.any():
            return False
        return bool(np.quantile(self._smooth[inside], 0.9) - self._middle > REVIEWED_SIGMA * self._scatter)
