"""The filters in NumPy float64, as their papers and programs write them: slow, plain, and the measure of ours.

`mag1c_twin` is compared with the mag1c program itself by ``python -m benchmarks filters``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SCALING = 1e5


def mag1c_twin(
    x: Floats, good: NDArray[np.bool_], unit: Floats, *, iterations: int = 30
) -> tuple[Floats, Floats, Floats]:
    """Return enhancement (N,), ppm m, the filter (S,) and its denominators R n (N,) of one column (Foote et al. 2020).

    ``unit`` is per ppm m.  Pixels that are not ``good`` are NaN.
    """
    template = unit * SCALING
    spectra = x[good].astype(np.float64)
    mu = spectra.mean(axis=0)
    albedo = spectra @ mu / (mu @ mu)
    target = template * mu
    covariance = np.cov(spectra.T, ddof=0)
    weights = np.linalg.solve(covariance, target)
    found = np.maximum((spectra - mu) @ weights / (albedo * (target @ weights)), 0.0)
    normalizer = target @ weights
    for _ in range(iterations):
        regularizer = 1.0 / (albedo * (found + 1e-9))
        background = spectra - (albedo * found)[:, None] * target
        mu = background.mean(axis=0)
        target = template * mu
        weights = np.linalg.solve(np.cov(background.T, ddof=0), target)
        normalizer = max(target @ weights, 1.0)
        found = np.maximum(((spectra - mu) @ weights - regularizer) / (albedo * normalizer), 0.0)
    enhancement, denominator = np.full(len(x), np.nan), np.full(len(x), np.nan)
    enhancement[good], denominator[good] = found * SCALING, albedo * normalizer
    return enhancement, weights, denominator


ALPHAS = 10.0 ** np.arange(-10.0, 0.0 + 0.025, 0.05)
"""The 201 shrinkages that emit-ghg tries."""


def loo_shrinkage(spectra: Floats) -> tuple[Floats, float]:
    """Return the shrunk covariance and its shrinkage (Theiler 2012), as emit-ghg computes it, one alpha at a time."""
    n, bands = spectra.shape
    x = spectra - spectra.mean(axis=0)
    sample = np.cov(x.T, ddof=1)
    diagonal = np.diag(np.diag(sample))
    best, chosen = np.inf, 0.0
    for alpha in ALPHAS:
        beta = (1.0 - alpha) / (n - 1.0)
        trial = n * beta * sample + alpha * diagonal
        sign, logarithm = np.linalg.slogdet(trial)
        if sign <= 0:
            continue
        r = np.einsum("ij,ij->i", x @ np.linalg.inv(trial), x)
        q = 1.0 - beta * r
        with np.errstate(invalid="ignore", divide="ignore"):
            likelihood = 0.5 * (bands * np.log(2.0 * np.pi) + logarithm) + (np.log(q) + r / q).sum() / (
                2.0 * n
            )
        if likelihood < best:
            best, chosen = likelihood, alpha
    return (1.0 - chosen) * sample + chosen * diagonal, chosen


def cmf_twin(x: Floats, good: NDArray[np.bool_], unit: Floats) -> tuple[Floats, Floats, float]:
    """Return enhancement (N,), ppm m, the filter (S,) and the shrinkage of one column (Thompson et al. 2015)."""
    spectra = x[good].astype(np.float64)
    mu = spectra.mean(axis=0)
    target = unit * mu
    covariance, alpha = loo_shrinkage(spectra)
    weights = np.linalg.solve(covariance, target)
    enhancement = np.full(len(x), np.nan)
    enhancement[good] = (spectra - mu) @ weights / (target @ weights)
    return enhancement, weights / (target @ weights), alpha
