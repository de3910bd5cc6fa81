"""Multi-band single-pass and multi-pass signals of Sentinel-2 (Varon et al. 2021, AMT 14, 2771), in JAX.

Methane absorbs in B12 (2.2 um) about six times as much as in B11 (1.6 um).  The single-pass signal compares the two
bands of one scene, ``(c R12 - R11) / R11``; the multi-pass signal takes away what the same
ground showed on another date.  ``c`` is fitted over the scene by least squares through zero, and
pixels that stray from the fit (plumes, flares, odd surfaces) lose their say.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from geostack_pipeline.methane.robust import masked_median, masked_scatter

CLIP_SIGMA = 2.5
"""Residuals beyond this many robust standard deviations from their median leave the fit."""
CLIP_ROUNDS = 5
"""Rounds of clipping; the fit stands still after three or four."""


class Signal(NamedTuple):
    """A fractional signal and the fit behind it."""

    signal: jax.Array
    """Fractional signal, float32, shape (h, w); negative over plumes; NaN where not valid."""
    slope: jax.Array
    """The fitted factor c between the bands (scalar)."""
    sigma: jax.Array
    """Robust standard deviation of the signal over all valid pixels (scalar)."""


@partial(jax.jit, static_argnames=("rounds",))
def mbsp(r11: jax.Array, r12: jax.Array, valid: jax.Array, *, rounds: int = CLIP_ROUNDS) -> Signal:
    """Return the single-pass signal of two reflectance images, shape (h, w), where ``valid`` (bool).

    Reflectances are fractions above zero where valid, anything (also NaN) elsewhere.  With no valid pixel
    all of the result is NaN.
    """
    r11 = jnp.where(valid, r11, 1.0)
    r12 = jnp.where(valid, r12, 1.0)

    def fit(kept: jax.Array) -> jax.Array:
        weight = kept.astype(jnp.float32)
        # Rows first, then their sums: shorter chains of float32 additions lose fewer digits.
        product = jnp.sum(jnp.sum(weight * r11 * r12, axis=1))
        square = jnp.sum(jnp.sum(weight * r12 * r12, axis=1))
        return product / square

    def clip(_: int, slope: jax.Array) -> jax.Array:
        residual = (slope * r12 - r11) / r11
        median, sigma = masked_scatter(residual.reshape(-1), valid.reshape(-1))
        # <= keeps everything in a scene without scatter.
        return fit(valid & (jnp.abs(residual - median) <= CLIP_SIGMA * sigma))

    slope = lax.fori_loop(0, rounds, clip, fit(valid))
    signal = jnp.where(valid, (slope * r12 - r11) / r11, jnp.nan)
    _, sigma = masked_scatter(signal.reshape(-1), valid.reshape(-1))
    return Signal(signal, slope, sigma)


@jax.jit
def mbmp(target: jax.Array, reference: jax.Array) -> Signal:
    """Return the multi-pass signal, target minus reference; NaN where either single-pass signal is.

    ``slope`` is 1: nothing is fitted between the dates.
    """
    signal = target - reference
    _, sigma = masked_scatter(signal.reshape(-1), jnp.isfinite(signal).reshape(-1))
    return Signal(signal, jnp.float32(1.0), sigma)


@partial(jax.jit, static_argnames=("rounds",))
def absorbed_fraction(target: jax.Array, reference: jax.Array, *, rounds: int = CLIP_ROUNDS) -> jax.Array:
    """Return the share of light that methane took between the dates, from two single-pass signals.

    With a surface term ``e`` the target's signal is (1 + e)(1 + m) - 1 and the reference's is e, so that
    m = (target - reference) / (1 + reference); the plain difference is too large or small by the factor 1 + e, up
    to tens of per cent over surfaces unlike the scene's mean.

    The result is zero at its own clipped median.  A plume over a tenth of the scene draws the fit of c along, hidden
    in the surface's scatter; without the surface it stands out and can be clipped.
    """
    fraction = (target - reference) / (1.0 + reference)
    values = fraction.reshape(-1)
    known = jnp.isfinite(values)

    def clip(_: int, kept: jax.Array) -> jax.Array:
        median, sigma = masked_scatter(values, kept)
        return known & (jnp.abs(values - median) <= 2.0 * sigma)

    return fraction - masked_median(values, lax.fori_loop(0, rounds, clip, known))
