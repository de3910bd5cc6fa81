"""Integrated mass enhancement: how many kilograms of methane a plume's pixels hold above their surroundings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

KG_PER_PPM_M_M2 = 1e-6 * 0.01604 / 22.4e-3
"""1 ppm m over 1 m2 in kg: molar mass 0.01604 kg/mol, molar volume 22.4e-3 m3/mol (the convention of ppm m products,
EMIT L2B greenhouse-gas ATBD)."""


@dataclass(frozen=True, kw_only=True)
class Mass:
    """Integrated mass enhancement."""

    ime_kg: float
    """Sum of enhancement times area."""
    noise_kg: float
    """1-sigma from the noise of the map, its correlation included."""
    sigma_kg: float
    """1-sigma of noise and of the common bias, added in quadrature."""


def integrated_mass(
    excess: NDArray[np.float32],
    inside: NDArray[np.bool_],
    outside: NDArray[np.bool_],
    *,
    pixel_area_m2: float,
    bias_relative: float,
) -> Mass:
    """Return the mass of ``excess`` (ppm m above the background) over ``inside``.

    Noise: the scatter of means over boxes with the plume's number of pixels, taken where ``outside`` (valid and
    of no plume) fills the box.  Neighbouring pixels vary together over natural surfaces, so sigma sqrt(n)
    would be several times too small.
    """
    count = int(inside.sum())
    total = float(np.sum(excess[inside], dtype=np.float64))
    unit = KG_PER_PPM_M_M2 * pixel_area_m2
    noise = unit * count * _box_scatter(excess, outside, count)
    ime = unit * total
    return Mass(ime_kg=ime, noise_kg=noise, sigma_kg=float(np.hypot(noise, bias_relative * ime)))


def _box_scatter(excess: NDArray[np.float32], outside: NDArray[np.bool_], count: int) -> float:
    """Return the robust standard deviation of means over boxes of about ``count`` pixels, ppm m; NaN without boxes."""
    filled = np.where(outside, excess, 0.0).astype(np.float64)
    # Down to single pixels, which a striped background still has where no box of it is whole.
    for side in (*range(max(1, round(np.sqrt(count))), 1, -2), 1):
        share = ndimage.uniform_filter(outside.astype(np.float64), side, mode="constant")
        means = ndimage.uniform_filter(filled, side, mode="constant")
        good = share > 0.8
        if good.sum() >= 30 * side * side:
            values = means[good] / share[good]
            scatter = 1.4826 * float(np.median(np.abs(values - np.median(values))))
            # A box too large for the scene is replaced by a smaller one, whose noise averages as independent.
            return float(scatter * side / max(side, np.sqrt(count)))
    return float("nan")
