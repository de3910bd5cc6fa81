"""Spectra of one detector column, centred and whitened: what mag1c starts from.

Single precision is enough where no covariance is solved against any more: the spectra are whitened once.  Where the
process has 64-bit types that is one Cholesky factor in double precision, which costs a CPU no more than the two in
single precision that an accelerator takes, by CholeskyQR2 (Yamamoto et al. 2015, ETNA 44, 306): the factor of a Gram
matrix in single precision is inexact where the bands are nearly dependent, and those of a spectrometer are; but the
spectra multiplied by its inverse are nearly white, and the factor of *their* Gram matrix is exact to rounding.  A small
shift keeps the first factor from breaking down; what the shift leaves, the next pass takes away.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_SHIFTS = (1e-5, 1e-7)
"""Added to the diagonals of the Gram matrices of the first and of later passes, whose diagonals are 1.  The first is
above the rounding errors of a Gram matrix of some hundred bands."""
_SHIFT_DOUBLE = 1e-12
"""The same in double precision: a ten-thousandth of the smallest eigenvalues that noise leaves."""
_WHITE_ENOUGH = 1e-2
"""Smallest squared pivot of the second factor after which two passes are exact to 1e-5: with less, a third follows."""
LEAST_CONTRAST = 1e-5
"""Relative scatter below which a band of a column is constant to the precision of a float32: a dead band."""
EXACT = lax.Precision.HIGHEST
"""Single precision that is single precision: accelerators would take fewer bits for products by default."""


class White(NamedTuple):
    """One column; N pixels, S bands, float32.  ``spectra = z @ inv(transform) + mean`` on the good pixels."""

    z: jax.Array
    """Whitened spectra less their mean, (N, S): over the good pixels their covariance (1/n) is the identity; 0 for
    the others."""
    mean: jax.Array
    """Mean spectrum of the good pixels, (S,)."""
    transform: jax.Array
    """(S, S): ``(x - mean) @ transform`` is white.  Rows of dead bands are zero."""
    good_pixels: jax.Array
    """Number of good pixels, ()."""
    alive: jax.Array
    """Bands that are neither constant nor dark, (S,), bool."""


def whiten(x: jax.Array, good: jax.Array) -> White:
    """Return the whitened spectra of one column.

    Args:
        x: Spectra (N, S), float32; whatever is not good must be finite.
        good: Weights (N,), 1 or 0, float32.
    """
    if jax.dtypes.canonicalize_dtype(jnp.float64) == jnp.float64:
        return _in_double_precision(x, good)
    weight = good[:, None]
    total = jnp.sum(good)
    n = jnp.maximum(total, 1.0)
    mean = jnp.sum(x * weight, axis=0) / n
    y = (x - mean) * weight
    # The mean of single-precision sums is off by some units of the last place; that of the small remainders is not.
    rest = jnp.sum(y, axis=0) / n
    mean, y = mean + rest, (y - rest) * weight
    variance = jnp.sum(y * y, axis=0) / n
    alive = (variance > (LEAST_CONTRAST * mean) ** 2) & (mean > 0.0)
    scale = jnp.where(alive, lax.rsqrt(jnp.where(alive, variance, 1.0)), 0.0)
    dead = jnp.diag(1.0 - alive.astype(x.dtype))
    z, transform = y * scale, jnp.diag(scale)

    def one_pass(z: jax.Array, transform: jax.Array, shift: float) -> tuple[jax.Array, jax.Array, jax.Array]:
        gram = jnp.matmul(z.T, z, precision=EXACT) / n + dead
        factor = jnp.linalg.cholesky(gram + shift * jnp.eye(gram.shape[0], dtype=gram.dtype))
        inverse = lax.linalg.triangular_solve(
            factor, jnp.eye(gram.shape[0], dtype=gram.dtype), left_side=True, lower=True
        ).T
        return (
            jnp.matmul(z, inverse, precision=EXACT),
            jnp.matmul(transform, inverse, precision=EXACT),
            jnp.min(jnp.diagonal(factor)) ** 2,
        )

    z, transform, _ = one_pass(z, transform, _SHIFTS[0])
    z, transform, pivot = one_pass(z, transform, _SHIFTS[1])
    z, transform = lax.cond(
        pivot > _WHITE_ENOUGH,
        lambda z, transform: (z, transform),
        lambda z, transform: one_pass(z, transform, _SHIFTS[1])[:2],
        z,
        transform,
    )
    return White(z=z, mean=mean, transform=transform, good_pixels=total, alive=alive)


def _in_double_precision(x: jax.Array, good: jax.Array) -> White:
    """Return the same by one factor in double precision."""
    wide, narrow = jnp.float64, x.dtype
    weight = good.astype(wide)[:, None]
    total = jnp.sum(weight)
    n = jnp.maximum(total, 1.0)
    spectra = x.astype(wide)
    mean = jnp.sum(spectra * weight, axis=0) / n
    y = (spectra - mean) * weight
    variance = jnp.sum(y * y, axis=0) / n
    alive = (variance > (LEAST_CONTRAST * mean) ** 2) & (mean > 0.0)
    scale = jnp.where(alive, lax.rsqrt(jnp.where(alive, variance, 1.0)), 0.0)
    gram = jnp.matmul(y.T, y, precision=EXACT) / n * scale[:, None] * scale + jnp.diag(
        1.0 - alive.astype(wide)
    )
    identity = jnp.eye(gram.shape[0], dtype=wide)
    factor = jnp.linalg.cholesky(gram + _SHIFT_DOUBLE * identity)
    inverse = lax.linalg.triangular_solve(factor, identity, left_side=True, lower=True).T
    transform = scale[:, None] * inverse
    z = jnp.matmul(y, transform, precision=EXACT)
    return White(
        z=z.astype(narrow),
        mean=mean.astype(narrow),
        transform=transform.astype(narrow),
        good_pixels=total.astype(narrow),
        alive=alive,
    )
