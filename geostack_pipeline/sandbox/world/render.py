"""Pixels of a scene: ground, gas and sky as a detector measures them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import shift as shifted

from geostack_pipeline.sandbox.world import gas, plume, sky
from geostack_pipeline.sandbox.world.confusers import FLICKER, Confusers, spread
from geostack_pipeline.sandbox.world.grids import Floats, Grid, ground_grid, project, site_centre
from geostack_pipeline.sandbox.world.ground import TileGround
from geostack_pipeline.sandbox.world.noise import Field, generator
from geostack_pipeline.sandbox.world.plan import FACTOR, PlumePlan
from geostack_pipeline.sandbox.world.sampling import Sampler
from geostack_pipeline.sandbox.world.scene import PhysicalScene, doubled

_SNR = {"B02": 214.0, "B03": 249.0, "B04": 230.0, "B08": 221.0, "B11": 159.0, "B12": 167.0}
"""Signal to noise at the reference reflectance, as measured in orbit."""
_REFERENCE = {"B02": 0.13, "B03": 0.15, "B04": 0.16, "B08": 0.29, "B11": 0.24, "B12": 0.23}
_STRIPE = {"B02": 4e-4, "B03": 4e-4, "B04": 4e-4, "B08": 4e-4, "B11": 8e-4, "B12": 8e-4}
"""Gain differences between detector columns, relative."""
_CLOUD_TOP_M = 1800.0
_FLARE_NM = {"B11": 1614.0, "B12": 2202.0}
"""Bands in which flares outshine the ground, and their middle."""
_SUN_KELVIN, _SUN_STERADIAN = 5772.0, 6.794e-5
_SATURATED = 1.7
"""Reflectance that fills the detector's range in the short-wave infrared."""


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
            self._clouds20,
            self._shadow20 & (self._clouds20 < 0.02),
            self._ground.vegetated,
            self._scene.seen(2),
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
        values *= doubled(drift) if factor == 1 else drift
        if band in {"B11", "B12"} and gas_column.any():
            self._absorb(values, band, gas_column)
        if band in _FLARE_NM:
            self._burn(values, band)
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

    def _burn(self, values: Floats, band: str) -> None:
        """Add flares: what shines is taken for what reflects the sun, up to the detector's largest number."""
        scene, ground = self._scene, self._ground_grid
        grid = scene.grid.coarser(FACTOR[band])
        metres = _FLARE_NM[band] * 1e-9
        solar = (
            1.191042972e-16 / metres**5 / np.expm1(1.438776877e-2 / (metres * _SUN_KELVIN)) * _SUN_STERADIAN
        )
        # W m-2 m-1 -> uW cm-2 nm-1, as the flares' radiance
        white = solar * 1e-7 * np.cos(np.radians(scene.sun.zenith_deg)) / np.pi
        x, y = site_centre(scene.site)
        stream = generator(self._seed, self._pass_key, "flares")
        for flare in Confusers(self._seed, scene.site, ground).flares:
            size = float(np.exp(FLICKER * stream.standard_normal()))
            east, north = project(ground.epsg, grid.epsg, x + flare.east_m, y + flare.north_m)
            column = (float(east) - grid.west) / grid.pixel_m - 0.5
            row = (grid.north - float(north)) / grid.pixel_m - 0.5
            shine = size * float(flare.radiance(np.array([_FLARE_NM[band]]))[0]) / grid.pixel_m**2 / white
            for i in range(max(int(row) - 1, 0), min(int(row) + 3, grid.height)):
                for j in range(max(int(column) - 1, 0), min(int(column) + 3, grid.width)):
                    lit = float(values[i, j]) + shine * spread(i - row, j - column)
                    values[i, j] = min(lit, _SATURATED)

    def _shade(self, values: Floats, band: str, factor: int) -> None:
        """Lay clouds and their shadows over the ground."""
        if self._scene.overpass.cloud_cover <= 0.0:
            return
        shadow = self._shadow20
        clouds = self._clouds20
        if factor == 1:
            shadow = doubled(shadow)
            clouds = self._clouds
        values[shadow] *= np.float32(0.45)
        values *= 1.0 - clouds
        values += np.float32(sky.CLOUD_REFLECTANCE[band]) * clouds * (0.85 + 0.15 * clouds)

    def _measure(self, values: Floats, band: str, stream: np.random.Generator) -> Floats:
        """Add detector stripes and noise: half of it constant, half growing with the signal."""
        stripes = stream.standard_normal(values.shape[1], dtype=np.float32)
        values *= 1.0 + np.float32(_STRIPE[band]) * stripes
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
        numbers: npt.NDArray[np.uint16] = np.clip(scaled, 1.0, 65535.0).astype(np.uint16)
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


def halved(values: Floats) -> Floats:
    """Return 20 m pixels as the means of four of 10 m."""
    rows, columns = values.shape
    return np.asarray(values.reshape(rows // 2, 2, columns // 2, 2).mean(axis=(1, 3)), np.float32)
