"""The classic matched filter per detector column, with leave-one-out shrinkage of the covariance, as in emit-ghg.

``a = (x - mu) C^-1 t / (t C^-1 t)`` with the target ``t = s mu`` (Thompson et al. 2015, AMT 8, 4383), and the covariance
``C = (1 - alpha) S + alpha diag S`` whose alpha makes left-out pixels most likely (Theiler 2012, Proc. SPIE 8390), out
of 201 from 1e-10 to 1 (emit-sds/emit-ghg).

emit-ghg inverts a matrix for each of the 201; here one eigen decomposition of the correlation matrix serves all of
them, because the diagonal is the same in all.  That is double precision: the smallest eigenvalues decide.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from geostack_pipeline.methane.mag1c import SCALING, Filtered
from geostack_pipeline.methane.whitening import EXACT, LEAST_CONTRAST

_LEAST = float(np.finfo(np.float64).tiny)
ALPHAS = 10.0 ** np.arange(-10.0, 0.0 + 0.025, 0.05)
"""Shrinkages that are tried, (201,)."""


def cmf_column(x: jax.Array, good: jax.Array, unit: jax.Array) -> Filtered:
    """Return the matched filter's answer for one column; call it with 64-bit types enabled.

    Args:
        x: Radiances (N, S), float32, finite.
        good: Weights (N,), 1 or 0, float32.
        unit: Unit absorptions (S,), per ppm m.
    """
    wide = jnp.float64
    weight = good.astype(wide)[:, None]
    total = jnp.sum(weight)
    n = jnp.maximum(total, 2.0)
    spectra = x.astype(wide)
    mean = jnp.sum(spectra * weight, axis=0) / n
    y = (spectra - mean) * weight
    variance = jnp.sum(y * y, axis=0) / (n - 1.0)
    alive = (variance > (LEAST_CONTRAST * mean) ** 2) & (mean > 0.0)
    scale = jnp.where(alive, lax.rsqrt(jnp.where(alive, variance, 1.0)), 0.0)
    y = y * scale
    dead = jnp.diag(1.0 - alive.astype(wide))
    correlation = jnp.matmul(y.T, y, precision=EXACT) / (n - 1.0) + dead
    eigenvalues, vectors = jnp.linalg.eigh(correlation)
    eigenvalues = jnp.maximum(eigenvalues, 0.0)
    power = jnp.matmul(y, vectors, precision=EXACT) ** 2
    alpha = _most_likely(power, eigenvalues, good, n)

    target = (unit.astype(wide) * SCALING) * mean * scale
    along = jnp.matmul(target, vectors, precision=EXACT)
    damped = jnp.maximum((1.0 - alpha) * eigenvalues + alpha, _LEAST)
    weights = jnp.matmul(vectors, along / damped, precision=EXACT)
    strength = jnp.sum(along**2 / damped)
    found = jnp.matmul(y, weights, precision=EXACT) / strength
    usable = (
        (total >= 2.0 * x.shape[1])
        & (jnp.sum(alive) * 2 >= x.shape[1])
        & jnp.all(jnp.isfinite(found))
        & (strength > 0.0)
    )
    # What lies along the target is methane; the rest of the distance to the background is not.
    unexplained = jnp.matmul(power, 1.0 / damped, precision=EXACT) - found**2 * strength
    freedom = jnp.maximum(jnp.sum(alive) - 1, 1).astype(wide)
    narrow = x.dtype
    return Filtered(
        enhancement=(found * SCALING).astype(narrow),
        linear=(found * SCALING).astype(narrow),
        weights=(weights * scale / strength).astype(narrow),
        gain=jnp.ones_like(good),
        usable=usable,
        shrinkage=alpha.astype(narrow),
        misfit=(jnp.maximum(unexplained, 0.0) / freedom).astype(narrow),
    )


def _most_likely(power: jax.Array, eigenvalues: jax.Array, good: jax.Array, n: jax.Array) -> jax.Array:
    """Return the shrinkage with the least negative log-likelihood of left-out pixels.

    ``G = n beta S + alpha diag S`` with ``beta = (1 - alpha) / (n - 1)``; in the eigenvectors of the correlation matrix
    it is diagonal, up to the determinant of the diagonal, which is the same for all.
    """
    alphas = jnp.asarray(ALPHAS, power.dtype)
    beta = (1.0 - alphas) / (n - 1.0)
    damped = n * beta[:, None] * eigenvalues + alphas[:, None]
    r = jnp.matmul(power, 1.0 / damped.T, precision=EXACT)
    q = 1.0 - beta * r
    inside = good[:, None] > 0.0
    possible = jnp.all((q > 0.0) | ~inside, axis=0)
    q = jnp.where(inside & (q > 0.0), q, 1.0)
    cost = jnp.sum(jnp.log(q) + jnp.where(inside, r / q, 0.0), axis=0) / (2.0 * n)
    likelihood = 0.5 * jnp.sum(jnp.log(damped), axis=1) + cost
    return alphas[jnp.argmin(jnp.where(possible & jnp.isfinite(likelihood), likelihood, jnp.inf))]
