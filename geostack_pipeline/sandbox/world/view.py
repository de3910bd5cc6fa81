"""What a spectrometer sees of a site: ground, confusers, gas and sky on its lines and samples, and their radiance.

This is the sandbox's forward model.  It differs from what a retrieval assumes on purpose: light paths on a spherical
Earth, plumes of 2 % more depth than the table's, water vapour that varies, absorption that saturates, band centres
that shift across the track, and surfaces with absorptions of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.ndimage import shift as shifted

from geostack_pipeline.sandbox.world import plume, sky
from geostack_pipeline.sandbox.world.detector import Detector, detector
from geostack_pipeline.sandbox.world.flames import Flame, add, burning
from geostack_pipeline.sandbox.world.grids import Floats
from geostack_pipeline.sandbox.world.ground import Ground, TileGround
from geostack_pipeline.sandbox.world.light import Light, light_in
from geostack_pipeline.sandbox.world.noise import Field, generator
from geostack_pipeline.sandbox.world.plan import PlumePlan, SitePlan
from geostack_pipeline.sandbox.world.scene import doubled
from geostack_pipeline.sandbox.world.spectra import Bands, cloud, surface
from geostack_pipeline.sandbox.world.swath import Swath

OVERLAP = 1.02
"""Factor on the optical depth of a plume: it is warm and near the ground, where lines are broad."""
FLARE_BAND_NM, FLARE_RADIANCE = 2389.0, 1.5
"""Beyond this radiance (uW cm-2 sr-1 nm-1) in this band, a pixel is taken for a flare (emit-sds/emit-ghg)."""
CLOUDY = 0.25
"""Share of a pixel under clouds from which it is taken for one."""
_CLOUD_TOP_M = 1800.0
_AIR_ABOVE_CLOUDS = 0.75
"""Share of the air's depth that lies above clouds."""
_SHADE = 0.55
"""Share of the light that a cloud's shadow takes."""


class View:
    """One granule of a spectrometer, from the seed alone.

    Args:
        seed: Of the world.
        site: What lies below.
        swath: Where the pixels are.
        key: Names the granule: of its noise, clouds and air.
        bands: Of the instrument, with its noise.
        sun: Where the sun stands.
        view_zenith_deg: Angle of the view in the middle.
        plumes: Leaks.
        plumes_when: Moment that fixes their shapes.
        cloud_share: Share of the ground under clouds.
    """

    def __init__(
        self,
        seed: int,
        site: SitePlan,
        swath: Swath,
        *,
        key: str,
        bands: Bands,
        sun: sky.Sun,
        view_zenith_deg: float,
        plumes: Sequence[PlumePlan] = (),
        plumes_when: str = "",
        cloud_share: float = 0.0,
    ) -> None:
        self._seed, self._site, self._key = seed, site, key
        self.ground = Ground(seed, site)
        self.swath, self.bands, self.sun = swath, bands, sun
        self._plumes, self._plumes_when, self._cloud_share = tuple(plumes), plumes_when, cloud_share
        self.air_mass = sky.air_mass_factor(sun.zenith_deg, view_zenith_deg)
        self._patch = swath.patch(self.ground.grid)

    @property
    def shape(self) -> tuple[int, int]:
        """Lines and samples."""
        return self.swath.lines, self.swath.samples

    # --- what is there -------------------------------------------------------------------------------------

    @cached_property
    def _window(self) -> tuple[slice, slice]:
        grid, patch = self.ground.grid, self._patch
        top = round((grid.north - patch.north) / 10.0)
        left = round((patch.west - grid.west) / 10.0)
        return slice(top, top + patch.height), slice(left, left + patch.width)

    def _field(self, name: str, spacings_m: tuple[float, ...], roughness: float = 0.6) -> Floats:
        """Return a random field of about unit variance on the swath."""
        field = Field(self._seed, name, self.ground.grid, spacings_m, roughness)
        return self.swath.sample(field.evaluate(self._window), self._patch)

    @cached_property
    def _below(self) -> TileGround:
        return self.ground.below(self._patch)

    @cached_property
    def covers(self) -> dict[str, Floats]:
        """Confuser -> share of each pixel."""
        return {name: self.swath.sample(share, self._patch) for name, share in self._below.covers.items()}

    @cached_property
    def surface(self) -> Floats:
        """Reflectance of the ground, (lines, samples, bands)."""
        half = self._patch.coarser(2)
        rock = self._field(f"{self._site.name}/carbonate", (320.0, 640.0, 1280.0), 0.8)
        return surface(
            {
                band: self.swath.sample(
                    values, self._patch if values.shape[0] == self._patch.height else half
                )
                for band, values in self._below.reflectance.items()
            },
            self.swath.sample(doubled(self._below.vegetated), self._patch),
            np.clip(rock - 0.5, 0.0, 1.0),
            self.bands.wavelength,
            self.covers,
        )

    @cached_property
    def columns(self) -> tuple[Floats, ...]:
        """Methane of each plume above the background, ppm m, (lines, samples)."""
        return tuple(
            self.swath.sample(
                plume.enhancement(self._seed, self._site, self._patch, each, when=self._plumes_when),
                self._patch,
            )
            for each in self._plumes
        )

    @cached_property
    def column(self) -> Floats:
        """Methane of all plumes, ppm m, (lines, samples)."""
        return np.asarray(sum(self.columns, np.zeros(self.shape, np.float32)))

    @cached_property
    def clouds(self) -> Floats:
        """Share of each pixel under clouds: thick in the middle, thin at the edges."""
        if self._cloud_share <= 0.0:
            return np.zeros(self.shape, np.float32)
        height = self._field(f"{self._key}/cloud", (400.0, 1200.0))
        level = np.quantile(height, 1.0 - self._cloud_share)
        return np.asarray(np.clip((height - level) / np.float32(0.35), 0.0, 1.0), np.float32)

    @cached_property
    def shadows(self) -> Floats:
        """Share of each pixel in the shadow of clouds."""
        if self._cloud_share <= 0.0:
            return np.zeros(self.shape, np.float32)
        length = _CLOUD_TOP_M * np.tan(np.radians(self.sun.zenith_deg)) / self.swath.pixel_m
        away = np.radians(self.sun.azimuth_deg + 180.0 - self.swath.heading_deg)
        moved = shifted(self.clouds, (length * np.cos(away), length * np.sin(away)), order=1, mode="nearest")
        return np.asarray(moved * (1.0 - self.clouds), np.float32)

    @cached_property
    def vapour_excess(self) -> Floats:
        """Water vapour over that of the table, relative: one amount for the granule, and eddies of some per cent."""
        mean = generator(self._seed, self._key, "vapour").uniform(-0.3, 0.4)
        eddies = self._field(f"{self._key}/vapour", (300.0, 900.0, 2700.0))
        return np.asarray(mean + 0.015 * eddies, np.float32)

    @cached_property
    def flames(self) -> tuple[Flame, ...]:
        """Flares that burn now."""
        return burning(self._seed, self._site, self.ground, self.swath, self._key, self.bands.wavelength)

    @cached_property
    def _light(self) -> Light:
        return light_in(self.bands)

    @cached_property
    def detector(self) -> Detector:
        """The detector's state."""
        assert self.bands.noise is not None
        return detector(self._seed, self._key, self.shape[1], self.bands.noise)

    # --- what is measured ----------------------------------------------------------------------------------

    def white(self) -> npt.NDArray[np.float64]:
        """Return the radiance of a white surface in clear air, (samples, bands), uW cm-2 sr-1 nm-1."""
        cosine = float(np.cos(np.radians(self.sun.zenith_deg)))
        air = self._light.air(self.air_mass, self.detector.shift_nm)
        return np.asarray(self.bands.irradiance() * cosine / np.pi * air)

    def seen(self, *, humid: bool = True) -> Floats:
        """Return what ground and clouds reflect of the light that reaches the ground in clear air.

        ``humid``: with the water vapour of the day, which a ground segment takes out of its reflectance.
        """
        light, shift = self._light, self.detector.shift_nm
        values = self.surface.copy()
        light.absorb(values, self.column, self.air_mass, shift, overlap=OVERLAP)
        if humid:
            light.moisten(values, self.vapour_excess, self.air_mass, shift)
        if self._cloud_share > 0.0:
            values *= 1.0 - np.float32(_SHADE) * self.shadows[..., None]
            # The light that clouds reflect has not gone through the air below them, nor through plumes.
            above = light.air(self.air_mass * (_AIR_ABOVE_CLOUDS - 1.0), shift).astype(np.float32)
            share = self.clouds[..., None]
            values *= 1.0 - share
            values += cloud(self.bands.wavelength) * above * share
        return np.asarray(values, np.float32)

    def true_radiance(self) -> Floats:
        """Return the radiance at the sensor before it is measured, uW cm-2 sr-1 nm-1."""
        haze = 2.6 * (450.0 / self.bands.wavelength) ** 4
        values = self.seen() * self.white().astype(np.float32) + haze.astype(np.float32)
        up = self._light.air(self.air_mass / 2.0, self.detector.shift_nm)
        add(values, self.flames, pixel_m=self.swath.pixel_m, factor=up)
        return np.asarray(values, np.float32)

    def radiance(self) -> Floats:
        """Return the measured radiance, uW cm-2 sr-1 nm-1, (lines, samples, bands)."""
        return self.detector.measured(self.true_radiance(), generator(self._seed, self._key, "radiance"))

    def masks(self, radiance: Floats) -> dict[str, npt.NDArray[np.bool_]]:
        """Return ``cloud``, ``water`` and ``flare`` as a ground segment would flag them, thin cloud edges not."""
        nearest = int(np.argmin(np.abs(self.bands.wavelength - FLARE_BAND_NM)))
        water = self.covers.get("water")
        return {
            "cloud": self.clouds > CLOUDY,
            "water": np.zeros(self.shape, bool) if water is None else water > 0.5,
            "flare": radiance[..., nearest] > FLARE_RADIANCE,
        }
