"""mag1c: the albedo-corrected matched filter with reweighted-L1 sparsity, per detector column (Foote et al. 2020).

Foote et al. 2020, IEEE TGRS 58(9), 6480, and its program (PyPI ``mag1c`` 1.2.0).  With spectra x_i, their mean mu, unit
absorption s, target t = s mu, and albedo R_i = x_i mu / mu mu (of the first mean), one iteration takes the methane
found so far out of the spectra, takes mean, target and covariance C of what is left, and filters again::

    m_i = x_i - R_i a_i t;  mu = mean m;  t = s mu;  C = cov m
    a_i = relu(((x_i - mu) C^-1 t - 1 / (R_i (a_i + 1e-9))) / (R_i max(t C^-1 t, 1)))

The program forms and factors C anew in each of 30 iterations.  But C differs from the covariance of the spectra by a
matrix of rank two, exactly: with b_i = R_i a_i, ``C = S - c t' - t c' + var(b) t t'`` and ``c = cov(x, b)``.  On spectra
whitened once (`whitening`) S is the identity, c is one product, and C^-1 t is a 2 x 2 system (Woodbury): 4 N S operations
an iteration instead of 2 N S^2, and no solution against an ill-conditioned matrix, so that single precision gives
the answers of double precision.

That matters because the iteration is bistable: a pixel near the edge of the support settles at zero or at a value,
and rounding errors of a float32 covariance decide which.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from geostack_pipeline.methane.whitening import EXACT, White, whiten

ITERATIONS = 30
SCALING = 1e5
"""Enhancements are in 1e5 ppm m inside: the two constants below have no meaning in other units."""
_EPSILON = 1e-9
_LEAST_NORMALIZER = 1.0


class Filtered(NamedTuple):
    """What a filter says of one column; float32, whatever stands at pixels that are not good is to be masked."""

    enhancement: jax.Array
    """ppm m, (N,)."""
    linear: jax.Array
    """ppm m, (N,): the same filter without non-negativity and sparsity, so that its noise has two sides."""
    weights: jax.Array
    """(S,): the response of ``enhancement * gain`` to the radiance, 1e5 ppm m per unit of radiance."""
    gain: jax.Array
    """(N,): what the filtered radiance is divided by."""
    usable: jax.Array
    """Whether the column could be filtered at all: enough pixels, living bands, finite numbers; ()."""
    shrinkage: jax.Array
    """Share of the diagonal in the covariance, ()."""
    misfit: jax.Array
    """(N,): squared distance of the spectrum from the background, in units of the column's covariance, that methane does
    not explain, over the bands less one: about 1 for ground like the rest of the column."""


def mag1c_column(x: jax.Array, good: jax.Array, unit: jax.Array, *, iterations: int = ITERATIONS) -> Filtered:
    """Return mag1c's answer for one column.

    Args:
        x: Radiances (N, S), float32, finite.
        good: Weights (N,), 1 or 0, float32.
        unit: Unit absorptions (S,), per ppm m.
        iterations: Number of reweightings.
    """
    white = whiten(x, good)
    z, n = white.z, jnp.maximum(white.good_pixels, 1.0)
    unit = (unit * SCALING).astype(x.dtype)
    albedo = jnp.where(good > 0.0, _albedo(x, white), 1.0)

    def whitened(spectrum: jax.Array) -> jax.Array:
        return jnp.matmul(spectrum, white.transform, precision=EXACT)

    first = unit * white.mean
    q = whitened(first)
    start = jnp.maximum(_times(z, q) / (albedo * jnp.dot(q, q, precision=EXACT)), 0.0) * good

    def iterate(_: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        found, target, t, _, _, _ = state
        removed = albedo * found
        mean = jnp.sum(removed) / n
        apart = (removed - mean) * good
        c = jnp.matmul(apart, z, precision=EXACT) / n
        variance = jnp.sum(apart * apart) / n
        new_target = first - mean * unit * target
        b = whitened(new_target)
        # C = I + U K U', U = [c t], K = [[0, -1], [-1, v]]; C^-1 b = b - U (K^-1 + U'U)^-1 U'b
        cc, ct, tt = (jnp.dot(*pair, precision=EXACT) for pair in ((c, c), (c, t), (t, t)))
        cb, tb = jnp.dot(c, b, precision=EXACT), jnp.dot(t, b, precision=EXACT)
        upper, side = cc - variance, ct - 1.0
        determinant = upper * tt - side * side
        q = b - (c * (tt * cb - side * tb) + t * (upper * tb - side * cb)) / determinant
        normalizer = jnp.maximum(jnp.dot(b, q, precision=EXACT), _LEAST_NORMALIZER)
        shift = mean * jnp.dot(t, q, precision=EXACT)
        filtered = _times(z, q) + shift
        penalty = 1.0 / (albedo * (found + _EPSILON))
        found = jnp.maximum((filtered - penalty) / (albedo * normalizer), 0.0) * good
        return found, new_target, b, q, normalizer, shift

    strength = jnp.maximum(jnp.dot(q, q, precision=EXACT), _LEAST_NORMALIZER)
    state = (start, first, q, q, strength, jnp.zeros((), x.dtype))
    found, _, b, q, normalizer, shift = lax.fori_loop(0, iterations, iterate, state)
    explained = _times(z, b) ** 2 / jnp.dot(b, b, precision=EXACT)
    freedom = jnp.maximum(jnp.sum(white.alive) - 1, 1).astype(x.dtype)
    weights = jnp.matmul(white.transform, q, precision=EXACT)
    enhancement = found * SCALING
    usable = (
        (white.good_pixels >= 2.0 * x.shape[1])
        & (jnp.sum(white.alive) * 2 >= x.shape[1])
        & jnp.all(jnp.isfinite(enhancement))
        & jnp.all(jnp.isfinite(weights))
    )
    return Filtered(
        enhancement=enhancement,
        linear=(_times(z, q) + shift) / (albedo * normalizer) * SCALING,
        weights=weights,
        gain=albedo * normalizer,
        usable=usable,
        shrinkage=jnp.zeros((), x.dtype),
        misfit=jnp.maximum(jnp.sum(z * z, axis=1) - explained, 0.0) / freedom,
    )


def _albedo(x: jax.Array, white: White) -> jax.Array:
    """Return x mu / mu mu; in mag1c every pixel's brightness relative to the mean spectrum."""
    return jnp.matmul(x, white.mean, precision=EXACT) / jnp.dot(white.mean, white.mean, precision=EXACT)


def _times(z: jax.Array, q: jax.Array) -> jax.Array:
    return jnp.matmul(z, q, precision=EXACT)
