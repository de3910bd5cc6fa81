"""The files of an EMIT granule: radiance and reflectance in sensor geometry, methane on a geographic grid."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from rasterio.features import shapes
from rasterio.transform import Affine
from scipy.ndimage import binary_dilation, gaussian_filter, label

from geostack_pipeline.sandbox.world import plume, sky
from geostack_pipeline.sandbox.world.emit import EmitGranule, EmitPass, EmitPlume
from geostack_pipeline.sandbox.world.emit_netcdf import MASK_BANDS, OBS_BANDS, write_netcdf
from geostack_pipeline.sandbox.world.grids import Floats
from geostack_pipeline.sandbox.world.ground import Ground
from geostack_pipeline.sandbox.world.noise import Field, generator
from geostack_pipeline.sandbox.world.plan import PlumePlan
from geostack_pipeline.sandbox.world.products import write_geotiff
from geostack_pipeline.sandbox.world.scene import PlumeTruth, doubled
from geostack_pipeline.sandbox.world.spectra import Bands, bands_of, cloud, surface
from geostack_pipeline.sandbox.world.truth import plume_truth

NODATA = -9999.0
_NAMES = {
    "CH4ENH": "EMIT_L2B_CH4ENH_002_{}.tif",
    "CH4UNCERT": "EMIT_L2B_CH4UNCERT_002_{}.tif",
    "CH4SENS": "EMIT_L2B_CH4SENS_002_{}.tif",
    "RAD": "EMIT_L1B_RAD_001_{}.nc",
    "OBS": "EMIT_L1B_OBS_001_{}.nc",
    "RFL": "EMIT_L2A_RFL_001_{}.nc",
    "MASK": "EMIT_L2A_MASK_001_{}.nc",
}
_FACTS = "granule.json"
_ELEVATION_M = {"korpezhe": -18.0, "hassi": 742.0}
_OUTLINE_PPM_M = 150.0
"""Smoothed column at which the analysts' outline runs."""


def load(planned: EmitPass, folder: Path) -> EmitGranule:
    """Return a rendered granule."""
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    return EmitGranule(
        area=planned.site.name,
        start=planned.start,
        end=planned.end,
        orbit=planned.orbit,
        scene=planned.scene,
        footprint=planned.swath.outline(),
        cloud_cover=facts["cloud_cover"],
        sun_zenith_deg=facts["sun_zenith"],
        sun_azimuth_deg=facts["sun_azimuth"],
        files={key: folder / name.format(planned.stem) for key, name in _NAMES.items()},
        plumes=tuple(
            EmitPlume(
                number=each["number"],
                single_date_time=planned.start,
                footprint=shapely.box(*each["bounds"]),
                scenes=(f"EMIT_L2B_CH4ENH_002_{planned.stem}",),
                files={key: folder / each["files"][key] for key in ("CH4PLM", "CH4PLMMETA")},
            )
            for each in facts["plumes"]
        ),
        truth=tuple(PlumeTruth.from_json(each) for each in facts["truth"]),
    )


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
        extra={"band_mask": np.zeros((*scene.column.shape, 36), np.uint8)},
        **everywhere,
    )
    layers = scene.methane()
    transform, _, _ = planned.swath.ortho
    affine = (transform[1], 0.0, transform[0], 0.0, transform[5], transform[3])
    laid = {key: planned.swath.laid_out(layer, NODATA) for key, layer in layers.items()}
    for key, layer in laid.items():
        write_geotiff(names[key], layer[None], epsg=4326, transform=affine, nodata=NODATA, block=64)
    plumes = [_outline(planned, scene, number, each, laid, affine, work) for number, each in planned.plumes]
    facts = {
        "cloud_cover": round(100.0 * float((scene.clouds > 0.25).mean())),
        "sun_zenith": scene.sun.zenith_deg,
        "sun_azimuth": scene.sun.azimuth_deg,
        "plumes": plumes,
        "truth": [
            replace(
                PlumeTruth.from_json(
                    plume_truth(seed, planned.site, _moment(planned), each, [[1, 1]]),
                ),
                time=planned.start,
                visible=1.0,
            ).to_json()
            for _, each in planned.plumes
        ],
    }
    (work / _FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")


def _moment(planned: EmitPass) -> Any:
    return type(planned.start).fromisoformat(planned.plumes_when)


class _Scene:
    """The physical quantities of a granule on its lines and samples."""

    def __init__(self, seed: int, planned: EmitPass) -> None:
        self._planned = planned
        self._key = f"emit/{planned.stem}"
        self._seed = seed
        swath, site = planned.swath, planned.site
        self.bands: Bands = bands_of("emit")
        self.sun = sky.sun_at(planned.start, site.longitude, site.latitude)
        self.air_mass = sky.air_mass_factor(self.sun.zenith_deg, planned.view_zenith_deg)
        ground = Ground(seed, site)
        patch = swath.patch(ground.grid)
        below = ground.below(patch)
        half = patch.coarser(2)
        reflectance = {
            band: swath.sample(values, patch if values.shape[0] == patch.height else half)
            for band, values in below.reflectance.items()
        }
        window = (
            slice(
                round((ground.grid.north - patch.north) / 10.0),
                round((ground.grid.north - patch.north) / 10.0) + patch.height,
            ),
            slice(
                round((patch.west - ground.grid.west) / 10.0),
                round((patch.west - ground.grid.west) / 10.0) + patch.width,
            ),
        )
        rock = Field(seed, f"{site.name}/carbonate", ground.grid, (320.0, 640.0, 1280.0), roughness=0.8)
        self._carbonate = swath.sample(np.clip(rock.evaluate(window) - 0.5, 0.0, 1.0), patch)
        vegetated = swath.sample(doubled(below.vegetated), patch)
        self._surface = surface(reflectance, vegetated, self._carbonate, self.bands.wavelength)
        self.columns = {
            each.name: swath.sample(
                plume.enhancement(seed, site, patch, each, when=planned.plumes_when), patch
            )
            for _, each in planned.plumes
        }
        shape = (swath.lines, swath.samples)
        self.column: Floats = sum(self.columns.values(), np.zeros(shape, np.float32))
        self.clouds: Floats = np.zeros(shape, np.float32)
        if planned.cloud_share > 0.0:
            field = Field(seed, f"{self._key}/cloud", ground.grid, (400.0, 1200.0)).evaluate(window)
            height = swath.sample(field, patch)
            level = np.quantile(height, 1.0 - planned.cloud_share)
            self.clouds = np.clip((height - level) / np.float32(0.35), 0.0, 1.0).astype(np.float32)
        slope = swath.centres[1] - swath.y
        self.elevation = (_ELEVATION_M.get(site.name, 100.0) + 0.004 * slope).astype(np.float64)
        jitter = generator(seed, self._key, "gain")
        # Columns of the detector differ by some tenths of a per cent.
        self._gain = 1.0 + 0.004 * jitter.standard_normal(swath.samples)
        flat = jitter.standard_normal((swath.samples, len(self.bands.wavelength)))
        self.flat_field = (1.0 + 2e-4 * flat).astype(np.float32)

    @property
    def good_wavelengths(self) -> npt.NDArray[np.bool_]:
        """Bands outside the two absorptions of water vapour, by the rule of the L2A product."""
        nm = self.bands.wavelength
        return ~(((nm > 1325) & (nm < 1435)) | ((nm > 1770) & (nm < 1962)))

    def _light(self) -> npt.NDArray[np.float64]:
        """Return the radiance of a white surface in each band, uW cm-2 sr-1 nm-1."""
        cosine = float(np.cos(np.radians(self.sun.zenith_deg)))
        air = self.bands.air ** (self.air_mass / 2.0)
        return np.asarray(self.bands.irradiance() * cosine / np.pi * air)

    def _noise(self, radiance: Floats, *names: str) -> Floats:
        assert self.bands.noise is not None
        a, b, c = self.bands.noise.T
        sigma = np.abs(a * np.sqrt(np.maximum(b + radiance, 0.0)) + c)
        stream = generator(self._seed, self._key, *names)
        return np.asarray(sigma * stream.standard_normal(radiance.shape, dtype=np.float32), np.float32)

    def _seen(self) -> Floats:
        """Return what the surface and clouds reflect, (lines, samples, bands)."""
        seen = self._surface * self.bands.transmittance(self.column, air_mass=self.air_mass, overlap=1.02)
        share = self.clouds[..., None]
        return np.asarray(seen * (1.0 - share) + cloud(self.bands.wavelength) * share, np.float32)

    def radiance(self) -> Floats:
        """Return the radiance at the sensor, uW cm-2 sr-1 nm-1."""
        haze = 2.6 * (450.0 / self.bands.wavelength) ** 4
        values = self._seen() * self._light().astype(np.float32) + haze.astype(np.float32)
        values *= self._gain.astype(np.float32)[None, :, None]
        return _rounded(np.asarray(values + self._noise(values, "radiance"), np.float32))

    def reflectance(self) -> Floats:
        """Return the surface reflectance as the ground segment estimates it; -0.01 in bands without light."""
        seen, light = self._seen(), self._light().astype(np.float32)
        error = self._noise(seen * light, "reflectance") / np.maximum(light, np.float32(1e-3))
        values = _rounded(np.asarray(seen + error, np.float32))
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
        cloudy = self.clouds > 0.25
        dilated = binary_dilation(cloudy, iterations=3)
        stream = generator(self._seed, self._key, "mask")
        aod = 0.12 + 0.01 * stream.standard_normal(cloudy.shape)
        water = 1.6 + 0.03 * stream.standard_normal(cloudy.shape)
        nothing = np.zeros(cloudy.shape)
        layers = (cloudy, nothing, nothing, nothing, dilated, aod, water, cloudy | dilated)
        return np.stack(layers, axis=-1).astype(np.float32)

    def methane(self) -> dict[str, Floats]:
        """Return enhancement and uncertainty (ppm m) and sensitivity (1) as the ground segment retrieves them."""
        stream = generator(self._seed, self._key, "methane")
        nearest = int(np.argmin(np.abs(self.bands.wavelength - 2300.0)))
        bright = np.clip(self._surface[..., nearest], 0.03, 1.0)
        uncertainty = (
            np.clip(82.0 * (0.36 / bright) ** 0.6, 55.0, 320.0) * np.sqrt(2.0 / self.air_mass) * 1.05
        )
        sensitivity: Floats = np.clip(0.98 + 0.10 * (bright - 0.36) - 0.2 * self.clouds, 0.2, 1.2)
        lines, samples = self.column.shape
        noise = uncertainty * stream.standard_normal((lines, samples))
        stripes = 14.0 * stream.standard_normal((1, samples))
        # Rock that absorbs where methane does looks a little like it.
        confused = 95.0 * (self._carbonate - self._carbonate.mean())
        visible = self.column * sensitivity * (1.0 - self.clouds)
        enhancement = 0.97 * visible + noise + stripes + confused
        return {
            "CH4ENH": enhancement.astype(np.float32),
            "CH4UNCERT": uncertainty.astype(np.float32),
            "CH4SENS": sensitivity.astype(np.float32),
        }


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


def _outline(
    planned: EmitPass,
    scene: _Scene,
    number: str,
    each: PlumePlan,
    laid: Mapping[str, Floats],
    affine: tuple[float, float, float, float, float, float],
    work: Path,
) -> dict[str, Any]:
    """Write one plume's raster and metadata; return what :func:`load` needs."""
    inside = _analyst(planned.swath.laid_out(scene.columns[each.name], 0.0), laid["CH4ENH"])
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    box = (slice(top, int(rows[-1]) + 1), slice(left, int(columns[-1]) + 1))
    values = np.where(inside[box], laid["CH4ENH"][box], np.float32(NODATA)).astype(np.float32)
    step = affine[0]
    corner = (affine[2] + step * left, affine[5] - step * top)
    transform = (step, 0.0, corner[0], 0.0, -step, corner[1])
    stem = f"{planned.start:%Y%m%dT%H%M%S}_{number}"
    files = {
        "CH4PLM": f"EMIT_L2B_CH4PLM_002_{stem}.tif",
        "CH4PLMMETA": f"EMIT_L2B_CH4PLMMETA_002_{stem}.json",
    }
    write_geotiff(work / files["CH4PLM"], values[None], epsg=4326, transform=transform, nodata=NODATA)
    metadata = _metadata(planned, scene, number, each, values, inside[box], transform)
    (work / files["CH4PLMMETA"]).write_text(json.dumps(metadata), encoding="utf-8")
    height, width = values.shape
    bounds = [corner[0], corner[1] - step * height, corner[0] + step * width, corner[1]]
    return {"number": number, "files": files, "bounds": bounds}


def _analyst(column: Floats, enhancement: Floats) -> npt.NDArray[np.bool_]:
    """Return the outline that a careful analyst would draw, a few pixels wide of the gas."""
    core = (gaussian_filter(column, 1.0) > _OUTLINE_PPM_M) & (enhancement != NODATA)
    regions, count = label(core, np.ones((3, 3)))
    if count > 1:
        core = regions == 1 + int(np.argmax(np.bincount(regions.ravel())[1:]))
    return np.asarray(binary_dilation(core, iterations=2) & (enhancement != NODATA))


def _metadata(
    planned: EmitPass,
    scene: _Scene,
    number: str,
    each: PlumePlan,
    values: Floats,
    inside: npt.NDArray[np.bool_],
    transform: tuple[float, float, float, float, float, float],
) -> dict[str, Any]:
    stream = generator(scene._seed, scene._key, number)  # noqa: SLF001 - the two belong together
    polygons = [
        shapely.geometry.shape(geometry)
        for geometry, value in shapes(inside.astype(np.uint8), mask=inside, transform=Affine(*transform))
        if value == 1
    ]
    outline = max(polygons, key=lambda part: part.area)
    row, column = np.unravel_index(int(np.argmax(values)), values.shape)
    peak = (transform[2] + transform[0] * (column + 0.5), transform[5] + transform[4] * (row + 0.5))
    wind = each.wind_m_s * (1.0 + 0.08 * float(stream.standard_normal()))
    rate = each.rate_kg_h * float(np.exp(0.12 * stream.standard_normal()))
    link = f"{planned.start:%Y%m%dT%H%M%S}_{number}"
    properties: dict[str, Any] = {
        "Plume ID": f"CH4_PlumeComplex-{int(number)}",
        "Scene FIDs": [f"emit{planned.start:%Y%m%dt%H%M%S}"],
        "Orbit": planned.orbit,
        "DCID": str(1_400_000_000 + int(number) * 97),
        "DAAC Scene Names": [f"EMIT_L2B_CH4ENH_002_{planned.stem}"],
        "Data Download": (
            "https://data.lpdaac.earthdatacloud.nasa.gov/lp-prod-protected/EMITL2BCH4PLM.002/"
            f"EMIT_L2B_CH4PLM_002_{link}/EMIT_L2B_CH4PLM_002_{link}.tif"
        ),
        "UTC Time Observed": f"{planned.start:%Y-%m-%dT%H:%M:%SZ}",
        "map_endtime": f"{planned.start.replace(second=(planned.start.second + 1) % 60):%Y-%m-%dT%H:%M:%SZ}",
        "Max Plume Concentration (ppm m)": float(np.round(values.max())),
        "Concentration Uncertainty (ppm m)": float(np.round(values[inside].std() / np.sqrt(inside.sum()), 1)),
        "Latitude of max concentration": round(float(peak[1]), 5),
        "Longitude of max concentration": round(float(peak[0]), 5),
        "Wind Speed (m/s)": round(wind, 4),
        "Wind Speed Std (m/s)": round(0.08 * wind, 4),
        "Wind Speed Source": "ERA5-Land",
        "Emissions Rate Estimate (kg/hr)": round(rate, 3),
        "Emissions Rate Estimate Uncertainty (kg/hr)": round(0.2 * rate, 3),
        "Fetch Length (m)": round(60.0 * float(np.hypot(*inside.shape)), 1),
        "style": {"maxZoom": 20, "minZoom": 0, "color": "white", "opacity": 1, "weight": 2, "fillOpacity": 0},
    }
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[list(point) for point in outline.exterior.coords]],
                },
                "properties": properties,
            },
            {
                "type": "Feature",
                "geometry": {"type": "Point", "coordinates": [float(peak[0]), float(peak[1]), 0.0]},
                "properties": {**properties, "style": {**properties["style"], "radius": 10}},
            },
        ],
    }
