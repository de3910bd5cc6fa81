"""The air-mass factor: how much longer the light's way through the plume is than straight up once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_SUN_ZENITH_DEG = 80.0
"""Beyond it the plane-parallel formula is off by more than a few per cent, and Sentinel-2 L2A is not made."""


def air_mass_factor(sun_zenith: ArrayLike, view_zenith: ArrayLike) -> NDArray[np.float64]:
    """Return 1/cos(sun) + 1/cos(view), broadcast, float64; NaN where no factor can be given.

    Plane-parallel atmosphere, light reflected once by the ground (Varon et al. 2021, AMT 14, 2771).  Zenith angles in
    degrees.  NaN where an angle is missing, negative, or the sun is lower than `MAX_SUN_ZENITH_DEG` allows.
    """
    sun = np.asarray(sun_zenith, dtype=np.float64)
    view = np.asarray(view_zenith, dtype=np.float64)
    usable = (sun >= 0.0) & (sun <= MAX_SUN_ZENITH_DEG) & (view >= 0.0) & (view < 80.0)
    sun = np.where(usable, sun, 0.0)
    view = np.where(usable, view, 0.0)
    factor = 1.0 / np.cos(np.radians(sun)) + 1.0 / np.cos(np.radians(view))
    return np.where(usable, factor, np.nan)
