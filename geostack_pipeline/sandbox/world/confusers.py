"""Where the things stand that a methane retrieval takes for plumes: by the seed, like everything on the ground.

Objects with edges (solar parks, greenhouses, ponds) are rectangles and discs; outcrops of carbonate and of
magnesium-bearing rock and spills of oil are patches with ragged edges.  Flares burn at fixed places and flicker.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from geostack_pipeline.sandbox.world.grids import Floats, Grid
from geostack_pipeline.sandbox.world.noise import Field, generator
from geostack_pipeline.sandbox.world.plan import SitePlan

PATCHES = {"carbonate": (120.0, 360.0), "magnesium": (90.0, 270.0), "tar": (40.0, 120.0)}
"""Material -> spacings of the field whose highest parts are its patches, metres."""
OBJECTS = {"solar": (180.0, 420.0), "plastic": (60.0, 200.0), "water": (70.0, 260.0)}
"""Material -> least and largest half size, metres."""
_OPAQUE = {"solar": 0.75, "plastic": 0.85, "water": 1.0}
"""Share of its outline that an object covers."""
FLARE_KELVIN = (1600.0, 2000.0)
FLARE_AREA_M2 = (0.4, 12.0)
FLICKER = 0.5
"""Scatter of the logarithm of a flame's size between two moments."""
SPREAD_PIXELS = 0.45
"""Width of the optics' response to a point, 1 sigma."""


@dataclass(frozen=True, kw_only=True)
class Flare:
    """A flame."""

    east_m: float
    """Metres east of the site's centre."""
    north_m: float
    kelvin: float
    area_m2: float
    """Size of the black body that shines as it does."""

    def radiance(self, wavelength: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return its radiance times its area, uW cm-2 sr-1 nm-1 m2 (Planck)."""
        metres = wavelength * 1e-9
        watts = 1.191042972e-16 / metres**5 / np.expm1(1.438776877e-2 / (metres * self.kelvin))
        return np.asarray(watts * 1e-9 * 100.0 * self.area_m2)


class Confusers:
    """All of them at one site."""

    def __init__(self, seed: int, site: SitePlan, ground: Grid) -> None:
        self._seed, self._site = seed, site
        self._span_m = site.tile_pixels * 10.0
        mix = site.mix
        self._fields = {
            name: (Field(seed, f"{site.name}/{name}-patches", ground, spacings, roughness=0.5), share)
            for name, spacings in PATCHES.items()
            if (share := getattr(mix, name)) > 0.0
        }

    @property
    def flares(self) -> tuple[Flare, ...]:
        """The site's flares, mean flame."""
        rng = generator(self._seed, self._site.name, "flares")
        reach = 0.45 * self._span_m
        return tuple(
            Flare(
                east_m=float(rng.uniform(-reach, reach)),
                north_m=float(rng.uniform(-reach, reach)),
                kelvin=float(rng.uniform(*FLARE_KELVIN)),
                area_m2=float(np.exp(rng.uniform(*np.log(FLARE_AREA_M2)))),
            )
            for _ in range(self._site.mix.flares)
        )

    def covers(self, window: tuple[slice, slice], north: Floats, east: Floats) -> dict[str, Floats]:
        """Return material -> share of each 10 m pixel; what is drawn later hides the others, so they sum to at most 1.

        Args:
            window: Rows and columns of the ground's grid.
            north: Metres north of the site's centre, of the rows.
            east: Metres east of it, of the columns.
        """
        covers: dict[str, Floats] = {}
        for name, (field, share) in self._fields.items():
            # A normal field exceeds this level on the wanted share of the ground; edges are ragged and mixed.
            level = np.float32(_normal_quantile(1.0 - share))
            cover = np.clip((field.evaluate(window) - level) / np.float32(0.5), 0.0, 1.0)
            covers = _laid_over(covers, name, cover)
        for name, sizes in OBJECTS.items():
            count = getattr(self._site.mix, name)
            if count:
                covers = _laid_over(covers, name, self._objects(name, count, sizes, north, east))
        return covers

    def _objects(
        self, name: str, count: int, sizes: tuple[float, float], north: Floats, east: Floats
    ) -> Floats:
        cover: Floats = np.zeros((len(north), len(east)), np.float32)
        rng = generator(self._seed, self._site.name, name)
        reach = 0.48 * self._span_m
        for _ in range(count):
            x, y = rng.uniform(-reach, reach, 2)
            half_x, half_y = np.exp(rng.uniform(np.log(sizes[0]), np.log(sizes[1]), 2))
            share = np.float32(_OPAQUE[name] * rng.uniform(0.8, 1.0))
            rows = np.flatnonzero(np.abs(north - y) <= half_y)
            columns = np.flatnonzero(np.abs(east - x) <= half_x)
            if not len(rows) or not len(columns):
                continue
            part = cover[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            if name == "water":
                inside = ((north[rows, None] - y) / half_y) ** 2 + (
                    (east[None, columns] - x) / half_x
                ) ** 2 <= 1.0
                np.maximum(part, inside * share, out=part)
            else:
                np.maximum(part, share, out=part)
        return cover


def spread(rows: float, columns: float) -> float:
    """Return the share of a point's light that falls on a pixel so many pixels away."""
    away = (rows**2 + columns**2) / SPREAD_PIXELS**2
    return float(np.exp(-0.5 * away) / (2.0 * np.pi * SPREAD_PIXELS**2))


def _laid_over(covers: dict[str, Floats], name: str, cover: Floats) -> dict[str, Floats]:
    """Return the covers with one more on top, so that they sum to at most 1."""
    return {below: share * (1.0 - cover) for below, share in covers.items()} | {name: cover}


def _normal_quantile(probability: float) -> float:
    return float(ndtri(probability))
