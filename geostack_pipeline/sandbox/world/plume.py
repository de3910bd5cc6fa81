"""Planted plumes: a meandering, patchy Gaussian plume that carries exactly its emission rate downwind."""

from __future__ import annotations

import numpy as np

from geostack_pipeline.sandbox.world.gas import ppm_m_per_kg_m2
from geostack_pipeline.sandbox.world.grids import Floats, Grid, site_centre
from geostack_pipeline.sandbox.world.noise import generator
from geostack_pipeline.sandbox.world.plan import PlumePlan, SitePlan

SOURCE_WIDTH_M = 28.0
"""Initial spread: leaks come from vents, tanks and pits, not from a point."""
REACH = 1.35
"""Length of a plume in units of the half size of the area of interest."""


def _line_noise(rng: np.random.Generator, length_m: float, spacing_m: float, at: Floats) -> Floats:
    nodes = rng.standard_normal(int(np.ceil(length_m / spacing_m)) + 3)
    position = np.arange(len(nodes)) * spacing_m
    fine = np.linspace(0.0, position[-1], 4 * len(nodes))
    smooth = np.interp(fine, position, nodes)
    smooth = np.convolve(np.pad(smooth, 4, mode="edge"), np.hanning(9) / np.hanning(9).sum(), mode="valid")
    return np.interp(at, fine, smooth).astype(np.float32)


def enhancement(seed: int, site: SitePlan, ground: Grid, plume: PlumePlan, *, when: str) -> Floats:
    """Return the plume's vertical column above the background on the ground's 10 m grid, ppm m, float32.

    Across the wind the column integrates to rate / wind, as mass conservation wants: gusts and patches vary
    it by some tenths around that mean.  The spread grows as in slightly unstable air (Briggs, open country,
    class C).  Downwind the plume ends where the emission began.
    """
    rng = generator(seed, site.name, when, plume.name)
    x, y = site_centre(site)
    columns = np.arange(ground.width)
    rows = np.arange(ground.height)
    east = (ground.west + (columns + 0.5) * ground.pixel_m - x - plume.east_m).astype(np.float32)
    north = (ground.north - (rows + 0.5) * ground.pixel_m - y - plume.north_m).astype(np.float32)
    reach = REACH * site.half_size_m
    out: Floats = np.zeros((ground.height, ground.width), np.float32)
    near_rows = np.flatnonzero(np.abs(north) < 1.3 * reach)
    near_columns = np.flatnonzero(np.abs(east) < 1.3 * reach)
    if not len(near_rows) or not len(near_columns):
        return out
    box = (slice(near_rows[0], near_rows[-1] + 1), slice(near_columns[0], near_columns[-1] + 1))
    angle = np.radians(plume.wind_to_deg)
    e, n = east[None, box[1]], north[box[0], None]
    along = np.sin(angle) * e + np.cos(angle) * n
    across = np.cos(angle) * e - np.sin(angle) * n
    downwind = np.arange(0.0, 1.3 * reach, 10.0, dtype=np.float32)
    spread = np.sqrt(SOURCE_WIDTH_M**2 + (0.11 * downwind / np.sqrt(1.0 + 1e-4 * downwind)) ** 2)
    sway = _line_noise(rng, 1.3 * reach, 420.0, downwind) * (0.07 * downwind)
    gusts = np.exp(0.22 * _line_noise(rng, 1.3 * reach, 180.0, downwind))
    gusts /= gusts[downwind < reach].mean()
    # Mixing upwind of the source within its own width; fading where the emission began.
    share = np.clip((reach - downwind) / (0.25 * reach), 0.0, 1.0)
    column_kg = plume.rate_kg_h / 3600.0 / plume.wind_m_s * gusts * share
    distance = np.maximum(along, 0.0)
    sigma = np.interp(distance, downwind, spread).astype(np.float32)
    middle = np.interp(distance, downwind, sway).astype(np.float32)
    flux = np.interp(distance, downwind, column_kg).astype(np.float32)
    offset = across - middle
    patches = 1.0 + 0.35 * np.sin(along / 97.0 + rng.uniform(0, 6)) * np.sin(
        offset / (0.8 * sigma) + along / 61.0
    )
    profile = np.exp(-0.5 * (offset / sigma) ** 2) * patches
    upwind = np.exp(-0.5 * (np.minimum(along, 0.0) / SOURCE_WIDTH_M) ** 2)
    values = flux * profile * upwind / (np.sqrt(2.0 * np.pi) * sigma) * ppm_m_per_kg_m2()
    out[box] = np.where(values > 0.5, values, 0.0)
    return out
