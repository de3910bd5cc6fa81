"""The ground segment's retrieval in the sandbox: a plain matched filter of its own.

It imports nothing of the pipeline and works in another way than the pipeline's filters: radiance is divided by the mean of
its detector column, and one covariance serves a block of columns, so that also short granules have pixels enough.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from geostack_pipeline.sandbox.world.grids import Floats
from geostack_pipeline.sandbox.world.spectra import NODES_PPM_M, Bands

FIRST_NM, LAST_NM = 2137.0, 2455.0
_PIXELS = 2500
"""A covariance is taken over at least so many pixels, where the granule has them."""
_LINEAR_UP_TO_PPM_M = 2000.0
_SHRINKAGE = 1e-4


def unit_absorption(bands: Bands, air_mass: float) -> npt.NDArray[np.float64]:
    """Return the change of the logarithm of radiance per ppm m of vertical column, (bands,), at most 0."""
    used = (NODES_PPM_M > 0) & (NODES_PPM_M <= _LINEAR_UP_TO_PPM_M)
    nodes = NODES_PPM_M[used]
    slope = bands.depth[:, used] @ nodes / (nodes @ nodes)
    return np.asarray(-slope * air_mass / 2.0)


def enhancement(
    radiance: Floats,
    good: npt.NDArray[np.bool_],
    bands: Bands,
    air_mass: float,
    noise: npt.NDArray[np.float64],
) -> Mapping[str, Floats]:
    """Return ``CH4ENH`` and ``CH4UNCERT`` (ppm m) and ``CH4SENS`` (1), each (lines, samples), NaN where not good.

    Args:
        radiance: uW cm-2 sr-1 nm-1, (lines, samples, bands).
        good: Pixels to use, (lines, samples).
        bands: Their bands.
        air_mass: Light path in vertical columns.
        noise: Coefficients of the noise, (bands, 3).
    """
    inside = (bands.wavelength >= FIRST_NM) & (bands.wavelength <= LAST_NM)
    x = radiance[..., inside].astype(np.float64)
    target = unit_absorption(bands, air_mass)[inside]
    a, b, c = noise[inside].T
    lines, samples, _ = x.shape
    out = {name: np.full((lines, samples), np.nan, np.float32) for name in ("CH4ENH", "CH4UNCERT", "CH4SENS")}
    block = min(samples, max(1, -(-_PIXELS // max(lines, 1))))
    for first in range(0, samples, block):
        here = slice(max(0, min(first, samples - block)), min(first + block, samples))
        mask = good[:, here]
        if mask.sum() < 2 * len(target):
            continue
        weight = mask[..., None].astype(np.float64)
        mean = (x[:, here] * weight).sum(axis=0) / np.maximum(weight.sum(axis=0), 1.0)
        mean = np.where(mean > 0.0, mean, 1.0)
        y = x[:, here] / mean
        spread = (y - 1.0)[mask]
        covariance = spread.T @ spread / len(spread)
        covariance += _SHRINKAGE * np.diag(np.diag(covariance))
        q = np.linalg.solve(covariance, target)
        sensitivity = (y * target) @ q / (target @ q)
        sigma = np.abs(a * np.sqrt(np.maximum(b + x[:, here], 0.0)) + c) / mean
        uncertainty = np.sqrt(sigma**2 @ q**2) / np.maximum(np.abs((y * target) @ q), 1e-12)
        for name, values in (
            ("CH4ENH", (y - 1.0) @ q / (target @ q)),
            ("CH4UNCERT", uncertainty),
            ("CH4SENS", sensitivity),
        ):
            out[name][:, here] = np.where(mask, values, np.nan)
    return out
