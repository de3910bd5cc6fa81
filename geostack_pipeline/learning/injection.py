"""Plumes of known strength, laid into granules: what a model must find whatever the labels say.

Granules without outlines come first.  Where there are too few of them (NASA publishes the products of version 001 for
scenes with plumes alone) plumes are laid beside the outlines of others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation

from geostack_pipeline.learning.fields import Floats

RATES_KG_H = (500.0, 1000.0, 2000.0, 4000.0, 8000.0)
STRONG_KG_H = 2000.0
"""Plumes at or above this rate are the ones that must be found."""
STRONG_RATES_KG_H = tuple(rate for rate in RATES_KG_H if rate >= STRONG_KG_H)
ENOUGH_STRONG = 10
"""As long as fewer strong plumes lie in granules without outlines, more are laid beside outlines."""
BESIDE_PIXELS = 5
"""Free pixels between a plume and whatever an outline or its ignored ring covers: a few widths of the blur."""
WIND_M_S = 3.5
PIXEL_M = 60.0
OUTLINE_PPM_M = 150.0
_SPREAD = 0.14
"""Half width of a plume per distance, of a neutral boundary layer (Briggs' open country, class C-D)."""
_FIRST_M = 45.0
_PPM_M_PER_KG_M2 = 22.4e-3 / 0.01604 * 1e6
"""Column of methane in ppm m at standard pressure and temperature per kg m-2."""


@dataclass(frozen=True, kw_only=True)
class Injected:
    """A granule with a plume laid into it."""

    stack: Floats
    """(3, y, x)."""
    plume: npt.NDArray[np.bool_]
    """Where its column exceeds 150 ppm m."""
    rate_kg_h: float


def column(
    shape: tuple[int, int], row: float, col: float, angle: float, rate_kg_h: float, wind_m_s: float = WIND_M_S
) -> npt.NDArray[np.float64]:
    """Return the vertical column of a Gaussian plume, ppm m, (y, x).

    Q / (sqrt(2 pi) sigma u) exp(-y^2 / 2 sigma^2): the plume integrated over height, in kg m-2.

    Args:
        shape: Of the granule, pixels of 60 m.
        row: Of the source.
        col: Of the source.
        angle: Where the wind blows to, radians from the x axis.
        rate_kg_h: Emission rate.
        wind_m_s: Wind speed.
    """
    y, x = np.mgrid[: shape[0], : shape[1]]
    east, south = (x - col) * PIXEL_M, (y - row) * PIXEL_M
    along = east * np.cos(angle) + south * np.sin(angle)
    across = -east * np.sin(angle) + south * np.cos(angle)
    sigma = _FIRST_M + _SPREAD * np.maximum(along, 0.0)
    mass = rate_kg_h / 3600.0 / (np.sqrt(2.0 * np.pi) * sigma * wind_m_s)
    return np.where(along >= 0.0, mass * np.exp(-0.5 * (across / sigma) ** 2), 0.0) * _PPM_M_PER_KG_M2


def inject(
    stack: Floats, rate_kg_h: float, seed: int, taken: npt.NDArray[np.bool_] | None = None
) -> Injected | None:
    """Return a granule with a plume at a place that the seed decides; None where it has no room for one.

    Args:
        stack: (3, y, x).
        rate_kg_h: Emission rate.
        seed: Decides where the plume is and where its wind blows to.
        taken: Pixels of outlines and their rings, from which the plume keeps away; none when not given.
    """
    rng = np.random.default_rng(seed)
    good = np.isfinite(stack[0])
    high, wide = good.shape
    near = None if taken is None else binary_dilation(taken, np.ones((3, 3)), iterations=BESIDE_PIXELS)
    for _ in range(20 if near is None else 100):
        row, col = rng.uniform(0.2, 0.8) * high, rng.uniform(0.2, 0.8) * wide
        angle = rng.uniform(0.0, 2.0 * np.pi)
        if near is not None and near[int(row), int(col)]:
            continue
        values = column((high, wide), row, col, angle, rate_kg_h)
        outline = values > OUTLINE_PPM_M
        plume = outline & good
        if near is not None and (outline & near).any():
            continue
        if outline.any() and plume.sum() >= 0.8 * outline.sum():
            changed = stack.copy()
            # The filter shows of an enhancement what its sensitivity says.
            changed[0] += (values * stack[2]).astype(np.float32)
            return Injected(stack=changed, plume=plume, rate_kg_h=rate_kg_h)
    return None
