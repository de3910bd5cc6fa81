"""The files of an EMIT granule: radiance and reflectance in sensor geometry, methane on a geographic grid."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation

from geostack_pipeline.sandbox.world import sky
from geostack_pipeline.sandbox.world.emit import EmitGranule, EmitPass
from geostack_pipeline.sandbox.world.emit_methane import NAMES, load_granule, write_methane
from geostack_pipeline.sandbox.world.emit_netcdf import MASK_BANDS, OBS_BANDS, write_netcdf
from geostack_pipeline.sandbox.world.grids import Floats
from geostack_pipeline.sandbox.world.noise import generator
from geostack_pipeline.sandbox.world.simple_filter import enhancement
from geostack_pipeline.sandbox.world.spectra import Bands, bands_of
from geostack_pipeline.sandbox.world.view import View

_NAMES = {
    **NAMES,
    "RAD": "EMIT_L1B_RAD_001_{}.nc",
    "OBS": "EMIT_L1B_OBS_001_{}.nc",
    "RFL": "EMIT_L2A_RFL_001_{}.nc",
    "MASK": "EMIT_L2A_MASK_001_{}.nc",
}
_ELEVATION_M = {"korpezhe": -18.0, "hassi": 742.0}
_DEAD_ELEMENTS = 1e-3
"""Share of the detector's elements."""
_SATURATED = 60.0
"""uW cm-2 sr-1 nm-1: no sunlit ground and no cloud is as bright at any wavelength."""


def load(planned: EmitPass, folder: Path) -> EmitGranule:
    """Return a rendered granule."""
    return load_granule(planned, folder, _NAMES)


def render(seed: int, planned: EmitPass, work: Path) -> None:
    """Write all files of a granule into ``work``."""
    scene = _Scene(seed, planned)
    root = _attributes(planned)
    everywhere: dict[str, Any] = {"swath": planned.swath, "elevation": scene.elevation}
    names = {key: work / name.format(planned.stem) for key, name in _NAMES.items()}
    spectral = {"wavelengths": scene.bands.wavelength, "fwhm": scene.bands.fwhm}
    write_netcdf(
        names["RAD"],
        "radiance",
        scene.radiance(),
        long_name="Radiance Data",
        units="uW/cm^2/SR/nm",
        root=root | {"title": "EMIT L1B At-Sensor Calibrated Radiance Data 60 m V001"},
        band_parameters=spectral,
        extra={"flat_field_update": scene.flat_field},
        **everywhere,
    )
    write_netcdf(
        names["OBS"],
        "obs",
        scene.observation(),
        long_name="Observation Data",
        units=None,
        root=root | {"title": "EMIT L1B Observation Data 60 m V001"},
        band_parameters={"observation_bands": OBS_BANDS},
        **everywhere,
    )
    good = scene.good_wavelengths
    write_netcdf(
        names["RFL"],
        "reflectance",
        scene.reflectance(),
        long_name="Surface Reflectance",
        units="unitless",
        root=root | {"title": "EMIT L2A Estimated Surface Reflectance 60 m V001"},
        band_parameters=spectral | {"good_wavelengths": good.astype(np.uint8)},
        **everywhere,
    )
    write_netcdf(
        names["MASK"],
        "mask",
        scene.mask(),
        long_name="Masks",
        units="unitless",
        root=root | {"title": "EMIT L2A Masks 60 m V001"},
        band_parameters={"mask_bands": MASK_BANDS},
        extra={"band_mask": scene.band_mask()},
        **everywhere,
    )
    write_methane(
        planned,
        work,
        scene.methane(),
        scene.columns,
        seed=seed,
        key=scene.key,
        facts={
            "cloud_cover": round(100.0 * float((scene.clouds > 0.25).mean())),
            "sun_zenith": scene.sun.zenith_deg,
            "sun_azimuth": scene.sun.azimuth_deg,
        },
    )


class _Scene:
    """The layers of a granule's products on its lines and samples."""

    def __init__(self, seed: int, planned: EmitPass) -> None:
        self._planned = planned
        self.key = f"emit/{planned.stem}"
        self._seed = seed
        swath, site = planned.swath, planned.site
        self.bands: Bands = bands_of("emit")
        self.sun = sky.sun_at(planned.start, site.longitude, site.latitude)
        self._view = View(
            seed,
            site,
            swath,
            key=self.key,
            bands=self.bands,
            sun=self.sun,
            view_zenith_deg=planned.view_zenith_deg,
            plumes=[each for _, each in planned.plumes],
            plumes_when=planned.plumes_when,
            cloud_share=planned.cloud_share,
        )
        self.columns = {
            each.name: column for (_, each), column in zip(planned.plumes, self._view.columns, strict=True)
        }
        self.clouds = self._view.clouds
        slope = swath.centres[1] - swath.y
        self.elevation = (_ELEVATION_M.get(site.name, 100.0) + 0.004 * slope).astype(np.float64)
        # The update that the product lists; what it leaves is in the radiance.
        flat = generator(seed, self.key, "flat").standard_normal((swath.samples, len(self.bands.wavelength)))
        self.flat_field = (1.0 + 2e-4 * flat).astype(np.float32)

    @property
    def good_wavelengths(self) -> npt.NDArray[np.bool_]:
        """Bands outside the two absorptions of water vapour, by the rule of the L2A product."""
        nm = self.bands.wavelength
        return ~(((nm > 1325) & (nm < 1435)) | ((nm > 1770) & (nm < 1962)))

    @cached_property
    def _radiance(self) -> Floats:
        return _rounded(self._view.radiance())

    @cached_property
    def _masks(self) -> dict[str, npt.NDArray[np.bool_]]:
        return self._view.masks(self._radiance)

    def radiance(self) -> Floats:
        """Return the radiance at the sensor, uW cm-2 sr-1 nm-1."""
        return self._radiance

    def reflectance(self) -> Floats:
        """Return the surface reflectance as the ground segment estimates it; -0.01 in bands without light."""
        seen, light = self._view.seen(humid=False), self._view.white().astype(np.float32)
        stream = generator(self._seed, self.key, "reflectance")
        noise = self._view.detector.sigma(seen * light) * stream.standard_normal(seen.shape, dtype=np.float32)
        values = _rounded(np.asarray(seen + noise / np.maximum(light, np.float32(1e-3)), np.float32))
        values[..., ~self.good_wavelengths] = -0.01
        return values

    def observation(self) -> Floats:
        """Return the eleven observation bands, in the order of their names."""
        planned, swath = self._planned, self._planned.swath
        shape = (swath.lines, swath.samples)
        across = (np.arange(swath.samples) - (swath.samples - 1) / 2.0) * (swath.pixel_m / 410_000.0)
        zenith = np.broadcast_to(planned.view_zenith_deg + np.degrees(across), shape)
        azimuth = (swath.heading_deg + 270.0) % 360.0
        sun = self.sun
        hours = planned.start.hour + planned.start.minute / 60.0 + planned.start.second / 3600.0
        line_hours = hours + np.arange(swath.lines) * (12.0 / 3600.0 / swath.lines)
        cosine = np.cos(np.radians(sun.zenith_deg)) * np.cos(np.radians(zenith)) + np.sin(
            np.radians(sun.zenith_deg)
        ) * np.sin(np.radians(zenith)) * np.cos(np.radians(sun.azimuth_deg - azimuth))
        day = planned.start.timetuple().tm_yday
        distance = 1.0 - 0.01672 * np.cos(np.radians(0.9856 * (day - 4)))
        layers = (
            410_000.0 / np.cos(np.radians(zenith)),
            azimuth,
            zenith,
            sun.azimuth_deg,
            sun.zenith_deg,
            np.degrees(np.arccos(cosine)),
            0.23,
            180.0,
            np.cos(np.radians(sun.zenith_deg)),
            line_hours[:, None],
            distance,
        )
        return np.stack([np.broadcast_to(layer, shape) for layer in layers], axis=-1).astype(np.float32)

    def mask(self) -> Floats:
        """Return the eight mask bands, in the order of their names."""
        cloudy, wet = self._masks["cloud"], self._masks["water"]
        dilated = binary_dilation(cloudy, iterations=3)
        stream = generator(self._seed, self.key, "mask")
        aod = 0.12 + 0.01 * stream.standard_normal(cloudy.shape)
        water = 1.6 * (1.0 + self._view.vapour_excess) + 0.03 * stream.standard_normal(cloudy.shape)
        nothing = np.zeros(cloudy.shape)
        layers = (cloudy, nothing, wet, nothing, dilated, aod, water, cloudy | wet | dilated)
        return np.stack(layers, axis=-1).astype(np.float32)

    def band_mask(self) -> npt.NDArray[np.uint8]:
        """Return the mask of single bands, (lines, samples, 36): bit 7 - b % 8 of byte b // 8 for band b, counted from 0.

        Marked are detector elements that the ground segment interpolates, along the whole track, and what flames saturate.
        """
        stream = generator(self._seed, self.key, "elements")
        dead = stream.random(self._radiance.shape[1:]) < _DEAD_ELEMENTS
        marked = dead | (self._radiance > _SATURATED)
        return np.packbits(marked, axis=-1)

    def methane(self) -> Mapping[str, Floats]:
        """Return enhancement and uncertainty (ppm m) and sensitivity (1), retrieved from the radiance.

        Clouds, water and flares are NaN.
        """
        good = ~np.logical_or.reduce(list(self._masks.values()))
        assert self.bands.noise is not None
        return enhancement(self._radiance, good, self.bands, self._view.air_mass, self.bands.noise)


def _rounded(values: Floats) -> Floats:
    """Return float32 with 14 bits of mantissa: beyond them there is only noise, which does not compress."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(1 << 8)) & np.uint32(0xFFFFFE00)).view(np.float32)


def _attributes(planned: EmitPass) -> dict[str, Any]:
    transform, height, width = planned.swath.ortho
    return {
        "ncei_template_version": "NCEI_NetCDF_Swath_Template_v2.0",
        "summary": "Synthetic granule in the form of the products of the Earth Surface Mineral Dust Source Investigation.",
        "keywords": "Imaging Spectroscopy, minerals, EMIT, dust, radiative forcing",
        "Conventions": "CF-1.63",
        "sensor": "EMIT (Earth Surface Mineral Dust Source Investigation)",
        "instrument": "EMIT",
        "platform": "ISS",
        "institution": "sandbox of geostack_pipeline",
        "naming_authority": "LPDAAC",
        "flight_line": f"emit{planned.start:%Y%m%dt%H%M%S}_o{planned.orbit[:5]}_s000_l1b_rdn_b0106_v01",
        "time_coverage_start": f"{planned.start:%Y-%m-%dT%H:%M:%S}+0000",
        "time_coverage_end": f"{planned.end:%Y-%m-%dT%H:%M:%S}+0000",
        "software_build_version": "010621",
        "software_delivery_version": "010621",
        "product_version": "V001",
        "crosstrack_orientation": "as seen on ground",
        "easternmost_longitude": transform[0] + transform[1] * width,
        "northernmost_latitude": transform[3],
        "westernmost_longitude": transform[0],
        "southernmost_latitude": transform[3] + transform[5] * height,
        "spatialResolution": transform[1],
        "spatial_ref": _WGS84,
        "geotransform": np.array(transform, np.float64),
        "day_night_flag": "Day",
    }


_WGS84 = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,AUTHORITY["EPSG","7030"]],'
    'AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],UNIT["degree",0.0174532925199433,'
    'AUTHORITY["EPSG","9122"]],AXIS["Latitude",NORTH],AXIS["Longitude",EAST],AUTHORITY["EPSG","4326"]]'
)
