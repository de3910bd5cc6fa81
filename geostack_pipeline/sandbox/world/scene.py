"""One physical scene: what a satellite measured of one tile in one overpass, whoever publishes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from scipy.ndimage import shift as shifted

from geostack_pipeline.sandbox.world import gas, plume, sky
from geostack_pipeline.sandbox.world.grids import (
    Floats,
    Grid,
    Sampler,
    ground_grid,
    project,
    site_centre,
    tile_grid,
)
from geostack_pipeline.sandbox.world.ground import FACTOR, TileGround
from geostack_pipeline.sandbox.world.noise import Field, generator
from geostack_pipeline.sandbox.world.plan import PassPlan, PlumePlan, ProcessingPlan, SitePlan, TilePlan

FOOTPRINT_PPM_M = 1000.0
"""A plume's footprint in the truth: pixels of 20 m with at least this column."""
_SWATH_LEAN = 0.21
"""Metres east per metre north along which a descending swath's edge leans."""
_SNR = {"B02": 214.0, "B03": 249.0, "B04": 230.0, "B08": 221.0, "B11": 159.0, "B12": 167.0}
"""Signal to noise at the reference reflectance, as measured in orbit."""
_REFERENCE = {"B02": 0.13, "B03": 0.15, "B04": 0.16, "B08": 0.29, "B11": 0.24, "B12": 0.23}
_STRIPE = {"B02": 4e-4, "B03": 4e-4, "B04": 4e-4, "B08": 4e-4, "B11": 8e-4, "B12": 8e-4}
"""Gain differences between detector columns, relative."""
_CLOUD_TOP_M = 1800.0


@dataclass(frozen=True, kw_only=True)
class PhysicalScene:
    """One tile of one overpass.  Everything here is known without rendering a pixel."""

    id: str
    """``<platform>_<datatake start>_T<tile>``; the same through whichever catalog."""
    site: SitePlan
    tile: TilePlan
    overpass: PassPlan
    datetime: datetime
    """Sensing time of the tile, UTC (naive), milliseconds."""
    sun: sky.Sun
    view_zenith_deg: float
    view_azimuth_deg: float

    @property
    def grid(self) -> Grid:
        """The 10 m pixel grid."""
        return tile_grid(self.site, self.tile)

    @property
    def platform(self) -> str:
        """``S2A`` or ``S2B``."""
        return self.overpass.platform

    @property
    def newest(self) -> ProcessingPlan:
        """The newest processing."""
        return self.overpass.processings[0]

    @property
    def air_mass_factor(self) -> float:
        """Light path through the air in vertical columns."""
        return gas.air_mass_factor(self.sun.zenith_deg, self.view_zenith_deg)

    def footprint(self) -> shapely.Polygon:
        """Return the seen part of the tile as a polygon in longitude and latitude, from the north-west corner."""
        west, south, east, north = self.grid.bounds
        outline = shapely.Polygon([(west, north), (west, south), (east, south), (east, north)])
        if self.overpass.swath_edge_m is not None:
            x, y = site_centre(self.site, self.tile.epsg)
            edge = [
                (x + self.overpass.swath_edge_m + _SWATH_LEAN * (at - y), at) for at in (south - 1e4, north + 1e4)
            ]
            seen = shapely.Polygon([(west - 1e6, south - 1e4), *edge, (west - 1e6, north + 1e4)])
            outline = shapely.orient_polygons(shapely.intersection(outline, seen))
        corners = list(outline.exterior.coords)[:-1]
        first = min(range(len(corners)), key=lambda i: (corners[i][0] - west) ** 2 + (corners[i][1] - north) ** 2)
        ring = np.array([*corners[first:], *corners[: first + 1]])
        longitude, latitude = project(self.tile.epsg, 4326, ring[:, 0], ring[:, 1])
        return shapely.Polygon(np.stack([longitude, latitude], axis=1))

    def seen(self, factor: int) -> npt.NDArray[np.bool_]:
        """Return which pixels of ``factor`` x 10 m the swath covers, (rows, columns)."""
        grid = self.grid.coarser(factor)
        if self.overpass.swath_edge_m is None:
            return np.ones((grid.height, grid.width), bool)
        x, y = site_centre(self.site, self.tile.epsg)
        # Both pixel sizes share one edge on the 20 m lattice, as in real products.
        coarse = self.grid.coarser(2)
        north = coarse.north - (np.arange(coarse.height) + 0.5) * coarse.pixel_m - y
        east = coarse.west + (np.arange(coarse.width) + 0.5) * coarse.pixel_m - x
        inside = east[None, :] <= self.overpass.swath_edge_m + _SWATH_LEAN * north[:, None]
        return inside if factor == 2 else _doubled(inside)


def scenes_of(site: SitePlan, overpass: PassPlan) -> Iterator[PhysicalScene]:
    """Yield the scenes of an overpass, one per tile."""
    sun = sky.sun_at(overpass.start, site.longitude, site.latitude)
    for number, tile in enumerate(site.tiles):
        start = overpass.start
        yield PhysicalScene(
            id=f"{overpass.platform}_{start:%Y%m%dT%H%M%S}_T{tile.mgrs}",
            site=site,
            tile=tile,
            overpass=overpass,
            datetime=start + timedelta(seconds=412, milliseconds=587 - 4688 * number),
            sun=sun,
            view_zenith_deg=overpass.view_zenith_deg,
            view_azimuth_deg=104.0,
        )


class SceneRenderer:
    """Pixels of a scene, from the seed alone: the same whichever scenes were rendered before."""

    def __init__(self, seed: int, scene: PhysicalScene, ground: TileGround) -> None:
        self._seed = seed
        self._scene = scene
        self._ground = ground
        self._ground_grid = ground_grid(scene.site)
        self._sampler = Sampler(self._ground_grid, scene.grid)
        self._window = self._sampler.window()
        self._pass_key = f"{scene.site.name}/{scene.overpass.start.isoformat()}"
        self._clouds = self._cloud_cover()
        coarse = self._clouds.reshape(scene.grid.height // 2, 2, scene.grid.width // 2, 2).mean(axis=(1, 3))
        self._clouds20: Floats = coarse.astype(np.float32)
        self._shadow20 = self._shadows()
        span = scene.site.tile_pixels * 10.0
        haze = Field(seed, f"{self._pass_key}/haze", self._ground_grid, (span / 6, span / 3))
        self._haze20 = self._sampler.sample(haze.evaluate(self._window, 2), self._window, 2)

    def enhancement(self, plumes: tuple[PlumePlan, ...] | None = None) -> Floats:
        """Return the methane column of the scene's plumes on its 10 m pixels, ppm m, float32."""
        scene = self._scene
        total: Floats = np.zeros((scene.grid.height, scene.grid.width), np.float32)
        for planted in scene.overpass.plumes if plumes is None else plumes:
            part = plume.enhancement(
                self._seed, scene.site, self._window_grid(), planted, when=scene.overpass.start.isoformat()
            )
            total += self._sampler.sample(part, self._window, 1)
        return total

    def classification(self) -> npt.NDArray[np.uint8]:
        """Return the scene classification on 20 m pixels."""
        return sky.classify(
            self._clouds20, self._shadow20 & (self._clouds20 < 0.02), self._ground.vegetated, self._scene.seen(2)
        )

    def reflectance(self, band: str, gas_column: Floats) -> Floats:
        """Return the measured surface reflectance of a band on its own pixels, NaN where nothing was seen."""
        scene, factor = self._scene, FACTOR[band]
        stream = generator(self._seed, scene.id, band)
        common = generator(self._seed, self._pass_key)
        brightness = 1.0 + 0.010 * common.standard_normal()
        offset_m = common.uniform(-1.8, 1.8, 2)
        pixel = 10.0 * factor
        values = _displaced(self._ground.reflectance[band], offset_m[0] / pixel, offset_m[1] / pixel)
        band_pass = generator(self._seed, self._pass_key, band)
        values *= np.float32(brightness * (1.0 + 0.004 * band_pass.standard_normal()))
        weight = {"B02": 0.006, "B03": 0.005, "B04": 0.004, "B08": 0.004, "B11": 0.003, "B12": 0.0035}[band]
        drift = 1.0 + np.float32(weight) * self._haze20
        values *= _doubled(drift) if factor == 1 else drift
        if band in {"B11", "B12"} and gas_column.any():
            self._absorb(values, band, gas_column)
        self._shade(values, band, factor)
        return self._measure(values, band, stream)

    def _absorb(self, values: Floats, band: str, gas_column: Floats) -> None:
        """Dim a 20 m band by the mean transmittance of the 10 m columns below each pixel."""
        scene = self._scene
        rows, columns = (np.flatnonzero(gas_column.any(axis=axis)) for axis in (1, 0))
        box = (
            slice(rows[0] // 2 * 2, rows[-1] // 2 * 2 + 2),
            slice(columns[0] // 2 * 2, columns[-1] // 2 * 2 + 2),
        )
        overlap = 1.0 + 0.03 * generator(self._seed, self._pass_key, "overlap").uniform(-1.0, 1.0)
        passed = gas.transmittance(
            gas_column[box],
            platform=scene.platform,
            band=band,
            air_mass=scene.air_mass_factor,
            overlap=float(overlap),
        )
        passed = passed.reshape(passed.shape[0] // 2, 2, passed.shape[1] // 2, 2).mean(axis=(1, 3))
        values[box[0].start // 2 : box[0].stop // 2, box[1].start // 2 : box[1].stop // 2] *= passed

    def _shade(self, values: Floats, band: str, factor: int) -> None:
        """Lay clouds and their shadows over the ground."""
        if self._scene.overpass.cloud_cover <= 0.0:
            return
        shadow = self._shadow20
        clouds = self._clouds20
        if factor == 1:
            shadow = _doubled(shadow)
            clouds = self._clouds
        values[shadow] *= np.float32(0.45)
        values *= 1.0 - clouds
        values += np.float32(sky.CLOUD_REFLECTANCE[band]) * clouds * (0.85 + 0.15 * clouds)

    def _measure(self, values: Floats, band: str, stream: np.random.Generator) -> Floats:
        """Add detector stripes and noise: half of it constant, half growing with the signal."""
        columns = 1.0 + _STRIPE[band] * stream.standard_normal(values.shape[1])
        values *= columns.astype(np.float32)
        noise = stream.standard_normal(values.shape, dtype=np.float32)
        at_reference = _REFERENCE[band] / _SNR[band]
        noise *= np.sqrt(0.5 + (0.5 / _REFERENCE[band]) * np.maximum(values, 0.0)) * np.float32(at_reference)
        values += noise
        values[~self._scene.seen(FACTOR[band])] = np.nan
        return values

    def _window_grid(self) -> Grid:
        ground, (rows, columns) = self._ground_grid, self._window
        return Grid(
            epsg=ground.epsg,
            west=ground.west + columns.start * ground.pixel_m,
            north=ground.north - rows.start * ground.pixel_m,
            pixel_m=ground.pixel_m,
            width=columns.stop - columns.start,
            height=rows.stop - rows.start,
        )

    def _cloud_cover(self) -> Floats:
        """Return the opacity of clouds on the tile's 10 m pixels."""
        scene, overpass = self._scene, self._scene.overpass
        if overpass.cloud_cover <= 0.0:
            return np.zeros((scene.grid.height, scene.grid.width), np.float32)
        span = scene.site.tile_pixels * 10.0
        fields = (
            Field(self._seed, f"{self._pass_key}/cloud", self._ground_grid, (span / 20, span / 8), 0.5),
            Field(self._seed, f"{self._pass_key}/fringe", self._ground_grid, (120.0, 300.0)),
        )

        def height(window: tuple[slice, slice], factor: int) -> Floats:
            parts = (fields[0].evaluate(window, factor), fields[1].evaluate(window, factor))
            x, y = site_centre(scene.site)
            ground, pixel = self._ground_grid, 10.0 * factor
            north = ground.north - window[0].start * 10.0 - (np.arange(parts[0].shape[0]) + 0.5) * pixel - y
            east = ground.west + window[1].start * 10.0 + (np.arange(parts[0].shape[1]) + 0.5) * pixel - x
            distance = np.hypot(north[:, None], east[None, :]).astype(np.float32)
            return sky.cloud_height(parts, distance, overpass.clear_radius_m)

        whole = (slice(0, self._ground_grid.height), slice(0, self._ground_grid.width))
        level = np.float32(np.quantile(height(whole, 8), 1.0 - overpass.cloud_cover))
        opacity = np.clip((height(self._window, 1) - level) / np.float32(0.35), 0.0, 1.0)
        return self._sampler.sample(opacity, self._window, 1)

    def _shadows(self) -> npt.NDArray[np.bool_]:
        """Return where clouds shade the ground, on 20 m pixels: the cloud cover moved away from the sun."""
        if self._scene.overpass.cloud_cover <= 0.0:
            return np.zeros(self._clouds20.shape, bool)
        length = _CLOUD_TOP_M * np.tan(np.radians(self._scene.sun.zenith_deg)) / 20.0
        azimuth = np.radians(self._scene.sun.azimuth_deg)
        move = (round(length * np.cos(azimuth)), round(-length * np.sin(azimuth)))
        return np.asarray(shifted(self._clouds20, move, order=0, mode="nearest") > 0.3)


def _doubled(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return each 20 m pixel as four of 10 m."""
    return np.repeat(np.repeat(values, 2, axis=0), 2, axis=1)


def _displaced(values: Floats, columns: float, rows: float) -> Floats:
    """Return a copy moved by a fraction of a pixel, linearly: no two overpasses register exactly."""
    moved = values.copy()
    step = np.float32(abs(columns))
    if columns >= 0:
        moved[:, :-1] += step * (values[:, 1:] - values[:, :-1])
    else:
        moved[:, 1:] += step * (values[:, :-1] - values[:, 1:])
    step, before = np.float32(abs(rows)), moved.copy()
    if rows >= 0:
        moved[:-1] += step * (before[1:] - before[:-1])
    else:
        moved[1:] += step * (before[:-1] - before[1:])
    return moved


def numbers_from(reflectance: Floats, *, gain: float = 1.0, offset: int = 0) -> npt.NDArray[np.uint16]:
    """Return digital numbers, ``reflectance * gain * 10000 + offset``; 0 is nodata, so the least is 1."""
    with np.errstate(invalid="ignore"):
        scaled = np.rint(reflectance * np.float32(gain * 1e4)) + np.float32(offset)
        numbers = np.clip(scaled, 1.0, 65535.0).astype(np.uint16)
    numbers[np.isnan(reflectance)] = 0
    return numbers


def percentages(classification: npt.NDArray[np.uint8]) -> Mapping[str, Any]:
    """Return shares of the classes in percent of the seen pixels, and of unseen pixels in the tile."""
    counts = np.bincount(classification.ravel(), minlength=12)
    seen = max(int(counts[1:].sum()), 1)

    def share(*codes: int) -> float:
        return round(100.0 * float(sum(counts[code] for code in codes)) / seen, 6)

    return {
        "cloud_cover": share(8, 9, 10),
        "nodata": round(100.0 * float(counts[0]) / classification.size, 6),
        "shadow": share(3),
        "vegetation": share(4),
        "soil": share(5),
        "medium": share(8),
        "high": share(9),
        "cirrus": share(10),
    }
