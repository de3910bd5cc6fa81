"""Between a fractional signal of Sentinel-2 and a methane enhancement, by a monotone table.

A plume that lets the shares T11 and T12 of the light through turns the band ratio R12/R11 into R12/R11 * T12/T11;
the fractional signal is ``m = T12/T11 - 1``, negative for a plume.  The table
(``data/ch4_sentinel2.csv``, made by ``scripts/build_ch4_sentinel2_table.py``) gives T per platform, because the 2.2 um
bands of the three satellites differ by up to 25 % in methane.

Air mass: line by line, absorption depends on enhancement x air-mass factor alone, so one table serves all angles:
``m(dOmega, A) = m_table(dOmega * A / A_table)``.  That leaves two simplifications, both second order: the curvature of
the band average in A (the light that background methane and water vapour leave is that of the table's own path),
and the plume's place in the profile.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

TABLE_AIR_MASS = 2.0
"""Assumed air-mass factor of the radiance table: sun and sensor at the zenith, the light twice through the plume."""
TABLE_AIR_MASS_BIAS = 0.15
"""Relative 1-sigma of that assumption, a common factor of all enhancements.  The table does not document its angles;
its band-integrated methane absorption fits a path of about two vertical columns."""
INTERPOLATED_UP_TO_PPM_M = 16000.0
"""Above it the table continues the optical depth of each wavelength linearly (within 2 % over four times the range);
below zero as well, which only noise and methane in the reference reach."""
PLATFORMS = ("S2A", "S2B", "S2C")
_NAMES = {
    alias: short
    for short in PLATFORMS
    for alias in (short.lower(), f"sentinel-2{short[-1].lower()}", f"sentinel2{short[-1].lower()}")
}


@dataclass(frozen=True, kw_only=True)
class BandTable:
    """One platform's table, ordered by rising fractional signal (as interpolation wants it)."""

    platform: str
    """``S2A``, ``S2B`` or ``S2C``."""
    fraction: NDArray[np.float64]
    """T12/T11 - 1, strictly rising, shape (n,); negative where methane is added."""
    enhancement: NDArray[np.float64]
    """ppm m in the table's geometry, strictly falling, shape (n,)."""
    slope: NDArray[np.float64]
    """d enhancement / d fraction, ppm m, negative, shape (n,)."""


class Converted(NamedTuple):
    """Enhancements and how far they can be trusted; all arrays have the shape of the signal."""

    enhancement: jax.Array
    """Methane enhancement, ppm m, float32; NaN where the signal or the air mass is NaN."""
    slope: jax.Array
    """|d enhancement / d signal|, ppm m, float32: times a signal's sigma it gives the enhancement's."""
    extrapolated: jax.Array
    """True above the strongest radiance that the table was computed from."""
    clipped: jax.Array
    """True where the signal lies outside the table and the enhancement is the table's end."""


def platform_name(name: str) -> str | None:
    """Return the short name (``S2A``) of a platform as catalogs spell it (``sentinel-2a``), None for others."""
    return _NAMES.get(name.strip().lower().replace("_", "-"))


@cache
def _columns() -> dict[str, NDArray[np.float64]]:
    text = resources.files("geostack_pipeline").joinpath("data", "ch4_sentinel2.csv").read_text("utf-8")
    rows = list(
        csv.DictReader(io.StringIO("".join(ln for ln in text.splitlines(keepends=True) if ln[0] != "#")))
    )
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


@cache
def band_table(platform: str) -> BandTable:
    """Return the table of ``platform`` (``S2A``, ``S2B``, ``S2C``); reads a file of 7 KB once per process."""
    columns = _columns()
    enhancement = columns["enhancement_ppm_m"]
    fraction = columns[f"{platform}_B12"] / columns[f"{platform}_B11"] - 1.0
    slope = np.gradient(enhancement, fraction)
    return BandTable(
        platform=platform,
        fraction=np.ascontiguousarray(fraction[::-1]),
        enhancement=np.ascontiguousarray(enhancement[::-1]),
        slope=np.ascontiguousarray(slope[::-1]),
    )


def fraction_from_enhancement(enhancement: jax.Array, air_mass: jax.Array, table: BandTable) -> jax.Array:
    """Return the fractional signal of ``enhancement`` (ppm m) at ``air_mass``; float32, broadcast; clipped to the table."""
    rising = jnp.asarray(table.enhancement[::-1], dtype=jnp.float32)
    values = jnp.asarray(table.fraction[::-1], dtype=jnp.float32)
    return jnp.interp(enhancement * air_mass / TABLE_AIR_MASS, rising, values)


def enhancement_from_fraction(fraction: jax.Array, air_mass: jax.Array, table: BandTable) -> Converted:
    """Return the enhancement that gives ``fraction`` at ``air_mass`` (shapes broadcast); NaN stays NaN.

    Signals outside the table become the table's end and are marked ``clipped``: -32,000 and 64,000 ppm m at
    the table's air mass.  Positive signals (retrieval noise, or methane in the reference) become negative
    enhancements, so that noise averages to zero.
    """
    converted: Converted = _invert(
        fraction,
        air_mass,
        jnp.asarray(table.fraction, dtype=jnp.float32),
        jnp.asarray(table.enhancement, dtype=jnp.float32),
        jnp.asarray(table.slope, dtype=jnp.float32),
    )
    return converted


@jax.jit
def _invert(
    fraction: jax.Array, air_mass: jax.Array, nodes: jax.Array, values: jax.Array, slopes: jax.Array
) -> Converted:
    scale = TABLE_AIR_MASS / air_mass
    known = jnp.isfinite(fraction) & jnp.isfinite(air_mass)
    slant = jnp.interp(fraction, nodes, values)
    slope = jnp.abs(jnp.interp(fraction, nodes, slopes))
    return Converted(
        enhancement=jnp.where(known, slant * scale, jnp.nan),
        slope=jnp.where(known, slope * scale, jnp.nan),
        extrapolated=known & (slant > INTERPOLATED_UP_TO_PPM_M),
        clipped=known & ((fraction < nodes[0]) | (fraction > nodes[-1])),
    )
