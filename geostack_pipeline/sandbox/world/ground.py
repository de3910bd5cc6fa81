"""The ground: a desert with gravel plains, dunes, salt flats, roads, well pads and irrigated fields.

Six materials with their own reflectance in each band are mixed by random fields.  Their B12/B11 ratio
differs (salt and clay absorb at 2.2 um), which is what a methane retrieval from two bands has to live with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from geostack_pipeline.sandbox.world.confusers import Confusers
from geostack_pipeline.sandbox.world.grids import Floats, Grid, ground_grid, site_centre, tile_grid
from geostack_pipeline.sandbox.world.noise import Field, generator
from geostack_pipeline.sandbox.world.plan import FACTOR, SitePlan, TilePlan
from geostack_pipeline.sandbox.world.sampling import Sampler
from geostack_pipeline.sandbox.world.surfaces import in_sentinel2

BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
# Rounded from the look of desert spectra in public spectral libraries; no single sample is copied.
_MATERIALS = {
    "sand": (0.18, 0.25, 0.33, 0.42, 0.52, 0.485),
    "gravel": (0.13, 0.17, 0.21, 0.26, 0.33, 0.312),
    "salt": (0.34, 0.39, 0.43, 0.46, 0.40, 0.345),
    "clay": (0.16, 0.22, 0.28, 0.35, 0.46, 0.405),
    "field": (0.05, 0.08, 0.07, 0.38, 0.24, 0.13),
    "road": (0.08, 0.09, 0.10, 0.11, 0.15, 0.145),
    "pad": (0.29, 0.33, 0.37, 0.40, 0.45, 0.428),
}


@dataclass(frozen=True, kw_only=True)
class TileGround:
    """What lies below one tile."""

    reflectance: dict[str, Floats]
    """Band -> reflectance on the band's own pixels of the tile."""
    vegetated: Floats
    """Share of irrigated fields on 20 m pixels."""
    covers: Mapping[str, Floats] = field(default_factory=dict)
    """Material with absorptions of its own -> share of each 10 m pixel; empty where only reflectance was asked for."""


def _halved(values: Floats) -> Floats:
    rows, columns = values.shape
    blocks = values.reshape(rows // 2, 2, columns // 2, 2)
    return np.ascontiguousarray(blocks.mean(axis=(1, 3), dtype=np.float32))


class Ground:
    """The ground of one site, from the seed alone; evaluated tile by tile."""

    def __init__(self, seed: int, site: SitePlan) -> None:
        self._seed = seed
        self._site = site
        self.grid: Grid = ground_grid(site)
        self._span_m = site.tile_pixels * 10.0
        broad = [s for s in (320.0, 640.0, 1280.0, 2560.0, 5120.0) if s < self._span_m]
        self._soil = {
            name: Field(seed, f"{site.name}/{name}", self.grid, broad, roughness=0.8)
            for name in ("gravel", "salt", "clay")
        }
        self._texture = Field(seed, f"{site.name}/texture", self.grid, (20.0, 60.0, 160.0), roughness=0.25)
        self._tint = Field(seed, f"{site.name}/tint", self.grid, (40.0, 240.0, 960.0), roughness=0.3)
        self._bend = Field(seed, f"{site.name}/bend", self.grid, (640.0, 1920.0), roughness=1.0)
        self._confusers = Confusers(seed, site, self.grid)

    def tile(self, tile: TilePlan) -> TileGround:
        """Return the ground below a tile; the overlap of two tiles shows the same ground."""
        return self.below(tile_grid(self._site, tile), covers=False)

    def below(self, grid: Grid, *, covers: bool = True) -> TileGround:
        """Return the ground below a 10 m grid of even width and height on the 20 m lattice, inside :attr:`grid`.

        ``covers``: also tell which materials with absorptions of their own lie where, for spectrometers.
        """
        sampler = Sampler(self.grid, grid)
        window = sampler.window()
        shares, found = self._shares(window)
        brightness = 1.0 + 0.045 * self._texture.evaluate(window)
        tint = 0.010 * self._tint.evaluate(window)
        dunes = self._dunes(window) * shares["sand"]
        brightness += 0.05 * dunes
        reflectance = {}
        for index, band in enumerate(BANDS):
            mixed = sum(np.float32(_MATERIALS[name][index]) * share for name, share in shares.items()) + sum(
                np.float32(in_sentinel2(name)[band]) * share for name, share in found.items()
            )
            # Slopes of dunes and the tint of soils change the colour a little, most in the short waves.
            slope = np.float32((1.2, 0.8, 0.4, 0.0, -0.35, -0.6)[index])
            values = np.asarray(mixed * brightness * (1.0 + slope * (tint + 0.006 * dunes)), np.float32)
            if FACTOR[band] == 2:
                values = _halved(values)
            reflectance[band] = np.clip(sampler.sample(values, window, FACTOR[band]), 0.01, 1.2)
        vegetated = sampler.sample(_halved(shares["field"]), window, 2)
        on_tile = {name: sampler.sample(share, window, 1) for name, share in found.items()} if covers else {}
        return TileGround(reflectance=reflectance, vegetated=vegetated, covers=on_tile)

    def _shares(self, window: tuple[slice, slice]) -> tuple[dict[str, Floats], dict[str, Floats]]:
        """Return desert material -> share of each 10 m pixel, and confuser -> share; all shares sum to 1."""
        logits = {name: 2.2 * soil.evaluate(window) for name, soil in self._soil.items()}
        logits["salt"] += self._site.mix.salt
        logits["clay"] += self._site.mix.clay
        weights = {name: np.exp(logit) for name, logit in logits.items()}
        weights["sand"] = np.ones_like(weights["salt"])
        total = sum(weights.values())
        shares: dict[str, Floats] = {
            name: (weight / total).astype(np.float32) for name, weight in weights.items()
        }
        for name, cover in (
            ("field", self._fields(window)),
            ("road", self._roads(window)),
            ("pad", self._pads(window)),
        ):
            shares = {below: share * (1.0 - cover) for below, share in shares.items()}
            shares[name] = cover
        found = self._confusers.covers(window, *self._axes(window))
        if found:
            left = 1.0 - np.minimum(sum(found.values()), np.float32(1.0))
            shares = {below: share * left for below, share in shares.items()}
        return shares, found

    def _axes(self, window: tuple[slice, slice]) -> tuple[Floats, Floats]:
        """Return metres north (rows) and east (columns) of the site's centre, at pixel centres."""
        x, y = site_centre(self._site)
        rows = np.arange(window[0].start, window[0].stop)
        columns = np.arange(window[1].start, window[1].stop)
        north = self.grid.north - (rows + 0.5) * self.grid.pixel_m - y
        east = self.grid.west + (columns + 0.5) * self.grid.pixel_m - x
        return north.astype(np.float32), east.astype(np.float32)

    def _dunes(self, window: tuple[slice, slice]) -> Floats:
        north, east = self._axes(window)
        phase = (0.8 * east[None, :] + 0.6 * north[:, None]) / 260.0 + 0.9 * self._bend.evaluate(window)
        return np.sin(2.0 * np.pi * phase, dtype=np.float32)

    def _fields(self, window: tuple[slice, slice]) -> Floats:
        """Return the share of centre-pivot fields: discs of one shade each, none near the site's centre."""
        north, east = self._axes(window)
        cover: Floats = np.zeros((len(north), len(east)), np.float32)
        rng = generator(self._seed, self._site.name, "fields")
        for _ in range(14):
            angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0.30, 0.75) * self._span_m
            radius, green = rng.uniform(0.008, 0.018) * self._span_m, rng.uniform(0.3, 0.9)
            self._stamp(
                cover, north, east, away * np.sin(angle), away * np.cos(angle), radius, green, round_=True
            )
        return cover

    def _pads(self, window: tuple[slice, slice]) -> Floats:
        """Return the share of well pads: squares of 50 to 110 m, denser near the centre."""
        north, east = self._axes(window)
        cover: Floats = np.zeros((len(north), len(east)), np.float32)
        rng = generator(self._seed, self._site.name, "pads")
        for _ in range(60):
            x, y = rng.normal(0.0, 0.16 * self._span_m, 2)
            self._stamp(cover, north, east, y, x, rng.uniform(25.0, 55.0), 0.85, round_=False)
        return cover

    @staticmethod
    def _stamp(
        cover: Floats,
        north: Floats,
        east: Floats,
        y: float,
        x: float,
        radius: float,
        value: float,
        *,
        round_: bool,
    ) -> None:
        rows = np.flatnonzero(np.abs(north - y) <= radius)
        columns = np.flatnonzero(np.abs(east - x) <= radius)
        if not len(rows) or not len(columns):
            return
        part = cover[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if round_:
            inside = (north[rows, None] - y) ** 2 + (east[None, columns] - x) ** 2 <= radius**2
            np.maximum(part, inside * np.float32(value), out=part)
        else:
            np.maximum(part, np.float32(value), out=part)

    def _roads(self, window: tuple[slice, slice]) -> Floats:
        """Return the share of roads: gently winding lines 14 m wide, edges mixed."""
        north, east = self._axes(window)
        cover: Floats = np.zeros((len(north), len(east)), np.float32)
        rng = generator(self._seed, self._site.name, "roads")
        for number in range(5):
            offset = rng.uniform(-0.3, 0.3) * self._span_m
            slope, wave, length = (
                rng.uniform(-0.5, 0.5),
                rng.uniform(60.0, 250.0),
                rng.uniform(2500.0, 6000.0),
            )
            along, across = (east, north) if number % 2 == 0 else (north, east)
            centre = offset + slope * along + wave * np.sin(2 * np.pi * along / length)
            reach = 12.0 * np.sqrt(1.0 + slope**2) + 20.0
            # Only the few pixels around the line in each row or column are touched.
            step = across[1] - across[0]
            first = np.floor((centre - across[0]) / step - reach / 10.0).astype(np.int64)
            for shift in range(int(2 * reach / 10.0) + 2):
                index = first + shift
                inside = np.flatnonzero((index >= 0) & (index < len(across)))
                distance = np.abs(across[index[inside]] - centre[inside]) / np.sqrt(1.0 + slope**2)
                share = np.clip((12.0 - distance) / 10.0, 0.0, 1.0).astype(np.float32)
                where = (index[inside], inside) if number % 2 == 0 else (inside, index[inside])
                cover[where] = np.maximum(cover[where], share)
        return cover
