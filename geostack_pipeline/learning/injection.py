"""Plumes of known strength, laid into granules without any: what a model must find whatever the labels say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geostack_pipeline.learning.fields import Floats

RATES_KG_H = (500.0, 1000.0, 2000.0, 4000.0, 8000.0)
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


def inject(stack: Floats, rate_kg_h: float, seed: int) -> Injected | None:
    """Return a granule with a plume at a place that the seed decides; None where too little of it has values."""
    rng = np.random.default_rng(seed)
    good = np.isfinite(stack[0])
    high, wide = good.shape
    for _ in range(20):
        row, col = rng.uniform(0.2, 0.8) * high, rng.uniform(0.2, 0.8) * wide
        values = column((high, wide), row, col, rng.uniform(0.0, 2.0 * np.pi), rate_kg_h)
        outline = values > OUTLINE_PPM_M
        plume = outline & good
        if outline.any() and plume.sum() >= 0.8 * outline.sum():
            changed = stack.copy()
            # The filter shows of an enhancement what its sensitivity says.
            changed[0] += (values * stack[2]).astype(np.float32)
            return Injected(stack=changed, plume=plume, rate_kg_h=rate_kg_h)
    return None
