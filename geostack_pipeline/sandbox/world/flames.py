"""Flares that burn during a granule, and how their light falls on its pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geostack_pipeline.sandbox.world.confusers import FLICKER, Confusers, spread
from geostack_pipeline.sandbox.world.grids import Floats, site_centre
from geostack_pipeline.sandbox.world.ground import Ground
from geostack_pipeline.sandbox.world.noise import generator
from geostack_pipeline.sandbox.world.plan import SitePlan
from geostack_pipeline.sandbox.world.swath import Swath


@dataclass(frozen=True, kw_only=True)
class Flame:
    """A flare as a spectrometer sees it."""

    line: float
    sample: float
    shine: npt.NDArray[np.float64]
    """Radiance times area in each band, uW cm-2 sr-1 nm-1 m2."""


def burning(
    seed: int, site: SitePlan, ground: Ground, swath: Swath, key: str, wavelength: npt.NDArray[np.float64]
) -> tuple[Flame, ...]:
    """Return the flares of a site inside a swath; ``key`` names the moment, which fixes how large they burn."""
    x, y = site_centre(site)
    angle = np.radians(swath.heading_deg)
    stream = generator(seed, key, "flares")
    flames = []
    for flare in Confusers(seed, site, ground.grid).flares:
        flicker = float(np.exp(FLICKER * stream.standard_normal()))
        east, north = x + flare.east_m - swath.x, y + flare.north_m - swath.y
        forth = east * np.sin(angle) + north * np.cos(angle)
        right = east * np.cos(angle) - north * np.sin(angle)
        line = float(forth / swath.pixel_m + (swath.lines - 1) / 2.0)
        sample = float(right / swath.pixel_m + (swath.samples - 1) / 2.0)
        if -0.5 < line < swath.lines - 0.5 and -0.5 < sample < swath.samples - 0.5:
            flames.append(Flame(line=line, sample=sample, shine=flicker * flare.radiance(wavelength)))
    return tuple(flames)


def add(
    values: Floats, flames: tuple[Flame, ...], *, pixel_m: float, factor: npt.NDArray[np.float64]
) -> None:
    """Add flames to ``values`` (lines, samples, bands) in place.

    Args:
        values: Radiance, or what it is after multiplication with ``factor``.
        flames: What burns.
        pixel_m: Edge of a pixel.
        factor: (samples, bands): what becomes of a radiance on its way.
    """
    lines, samples, _ = values.shape
    for flame in flames:
        for i in range(max(int(flame.line) - 1, 0), min(int(flame.line) + 3, lines)):
            for j in range(max(int(flame.sample) - 1, 0), min(int(flame.sample) + 3, samples)):
                share = spread(i - flame.line, j - flame.sample)
                values[i, j] += (share / pixel_m**2 * flame.shine * factor[j]).astype(np.float32)
