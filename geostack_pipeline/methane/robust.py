"""Medians and scatters of masked images in JAX: exact counts, static shapes, no sorting.

Masks are arguments, not indices, so shapes stay static.  A median is found by bisecting the value range
and counting; counts are integers, so the result does not depend on the order in which a device adds
them up, and a bisection step is one pass where a sort is many.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

MAD_TO_SIGMA = 1.4826
"""1 / Phi^-1(3/4): the median absolute deviation of a Gaussian times this is its standard deviation."""
_STEPS = 30


def masked_median(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Return the lower median of the valid values along the last axis; NaN where none is valid.

    ``values`` and ``valid`` (bool) have shape (…, n), the result (…).  Exact to 2**-30 of the range of the values.
    Invalid values may be NaN.
    """
    safe = jnp.where(valid, values, 0.0)
    low = jnp.min(jnp.where(valid, values, jnp.inf), axis=-1)
    high = jnp.max(jnp.where(valid, values, -jnp.inf), axis=-1)
    count = jnp.sum(valid, axis=-1, dtype=jnp.int32)
    half = (count + 1) // 2

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) * 0.5
        below = jnp.sum(valid & (safe <= middle[..., None]), axis=-1, dtype=jnp.int32)
        enough = below >= half
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    _, result = lax.fori_loop(0, _STEPS, halve, (low, high))
    return jnp.where(count > 0, result, jnp.nan)


def masked_scatter(values: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return median and robust standard deviation (scaled MAD) of the valid values along the last axis."""
    median = masked_median(values, valid)
    sigma = MAD_TO_SIGMA * masked_median(jnp.abs(values - median[..., None]), valid)
    return median, sigma


@partial(jax.jit, static_argnames=("block", "min_count"))
def local_scatter(
    values: jax.Array, valid: jax.Array, *, block: int, min_count: int
) -> tuple[jax.Array, jax.Array]:
    """Return the local median and robust standard deviation of an image, both of its shape (h, w).

    Each ``block`` x ``block`` tile gives one median and one scaled MAD, interpolated bilinearly between tile
    centres.  Tiles with fewer than ``min_count`` valid pixels take the whole image's numbers.  ``h`` and ``w`` must be
    multiples of ``block`` (pad with invalid pixels).  NaN everywhere when no pixel is valid.
    """
    height, width = values.shape
    rows, columns = height // block, width // block

    def tiles(image: jax.Array) -> jax.Array:
        split = image.reshape(rows, block, columns, block).transpose(0, 2, 1, 3)
        return split.reshape(rows, columns, block * block)

    median, sigma = masked_scatter(tiles(values), tiles(valid))
    whole_median, whole_sigma = masked_scatter(values.reshape(-1), valid.reshape(-1))
    enough = jnp.sum(tiles(valid), axis=-1, dtype=jnp.int32) >= min_count
    median = jnp.where(enough, median, whole_median)
    sigma = jnp.where(enough, sigma, whole_sigma)
    return (
        jax.image.resize(median, (height, width), "linear"),
        jax.image.resize(sigma, (height, width), "linear"),
    )
