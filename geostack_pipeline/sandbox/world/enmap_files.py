"""The files of an EnMAP scene: reflectance of all bands as one GeoTIFF, and the XML that says what they are."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
from PIL import Image

from geostack_pipeline.sandbox.world import plume, sky
from geostack_pipeline.sandbox.world.enmap import EnmapPass, EnmapScene
from geostack_pipeline.sandbox.world.flames import add, burning
from geostack_pipeline.sandbox.world.grids import Floats, Grid
from geostack_pipeline.sandbox.world.ground import Ground
from geostack_pipeline.sandbox.world.noise import Field, generator
from geostack_pipeline.sandbox.world.products import write_geotiff
from geostack_pipeline.sandbox.world.scene import PlumeTruth, doubled
from geostack_pipeline.sandbox.world.spectra import Bands, bands_of, surface
from geostack_pipeline.sandbox.world.truth import plume_truth

NODATA = -32768
GAIN = 1e-4
_NAMES = {
    "SPECTRAL_IMAGE": "{}-SPECTRAL_IMAGE_COG.TIF",
    "METADATA": "{}-METADATA.XML",
    "QUALITY_CLASSES": "{}-QL_QUALITY_CLASSES_COG.TIF",
    "THUMBNAIL": "{}-QL_VNIR_COG_thumbnail.png",
}
_FACTS = "scene.json"
_SECONDS = 4.49
LAND, BACKGROUND = 1, 3
"""Codes of the quality classes; 2 is water."""
EMPTY_BANDS = 6
"""Bands without any data: water vapour leaves no light in them."""


def load(planned: EnmapPass, folder: Path) -> EnmapScene:
    """Return a rendered scene."""
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    grid = _grid(planned)
    return EnmapScene(
        id=planned.id,
        area=planned.site.name,
        datatake=planned.datatake,
        tile=planned.tile,
        version=planned.version,
        start=planned.start,
        end=planned.start + timedelta(seconds=_SECONDS),
        processed=planned.processed,
        footprint=planned.seen.outline(),
        epsg=grid.epsg,
        transform=grid.transform,
        shape=(grid.height, grid.width),
        cloud_cover=0,
        sun_elevation_deg=90.0 - facts["sun_zenith"],
        sun_azimuth_deg=facts["sun_azimuth"],
        files={key: folder / name.format(planned.id) for key, name in _NAMES.items()},
        truth=tuple(PlumeTruth.from_json(each) for each in facts["truth"]),
    )


def render(seed: int, planned: EnmapPass, work: Path) -> None:
    """Write all files of a scene into ``work``."""
    bands = bands_of("enmap")
    grid = _grid(planned)
    sun = sky.sun_at(planned.start, planned.site.longitude, planned.site.latitude)
    air_mass = sky.air_mass_factor(sun.zenith_deg, abs(planned.across_off_nadir_deg))
    seen = _seen(planned, grid)
    values = _reflectance(seed, planned, bands, air_mass)
    numbers = np.rint(values / GAIN).clip(-2000, 32767).astype(np.int16)
    numbers[~seen] = NODATA
    empty = np.argsort(bands.air)[:EMPTY_BANDS]
    numbers[..., empty] = NODATA
    names = {key: work / name.format(planned.id) for key, name in _NAMES.items()}
    place: dict[str, Any] = {"epsg": grid.epsg, "transform": grid.transform}
    write_geotiff(names["SPECTRAL_IMAGE"], np.moveaxis(numbers, -1, 0), nodata=NODATA, **place)
    classes = np.where(seen, LAND, BACKGROUND).astype(np.uint8)
    write_geotiff(names["QUALITY_CLASSES"], classes[None], nodata=BACKGROUND, categorical=True, **place)
    _thumbnail(names["THUMBNAIL"], values, seen, bands)
    names["METADATA"].write_text(_metadata(planned, bands, sun, grid), encoding="utf-8")
    moment = datetime.fromisoformat(planned.plumes_when)
    truth = [
        PlumeTruth.from_json(plume_truth(seed, planned.site, moment, each, [[1, 1]]))
        for each in planned.plumes
    ]
    facts = {
        "sun_zenith": sun.zenith_deg,
        "sun_azimuth": sun.azimuth_deg,
        "truth": [replace(each, time=planned.start, visible=1.0).to_json() for each in truth],
    }
    (work / _FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")


def _grid(planned: EnmapPass) -> Grid:
    """Return the product's 30 m grid."""
    raster = planned.raster
    half = raster.lines * raster.pixel_m / 2.0
    return Grid(
        epsg=raster.epsg,
        west=raster.x - half,
        north=raster.y + half,
        pixel_m=raster.pixel_m,
        width=raster.samples,
        height=raster.lines,
    )


def _seen(planned: EnmapPass, grid: Grid) -> npt.NDArray[np.bool_]:
    """Return which pixels of the map lie inside the swath."""
    swath = planned.seen
    x = grid.west + (np.arange(grid.width) + 0.5) * grid.pixel_m - swath.x
    y = grid.north - (np.arange(grid.height) + 0.5) * grid.pixel_m - swath.y
    angle = np.radians(swath.heading_deg)
    forth = x[None, :] * np.sin(angle) + y[:, None] * np.cos(angle)
    right = x[None, :] * np.cos(angle) - y[:, None] * np.sin(angle)
    half = swath.lines * swath.pixel_m / 2.0
    return np.asarray((np.abs(forth) <= half) & (np.abs(right) <= half))


def _reflectance(seed: int, planned: EnmapPass, bands: Bands, air_mass: float) -> Floats:
    """Return the reflectance that the ground segment estimates, (rows, columns, bands), columns eastwards."""
    site, raster = planned.site, planned.raster
    ground = Ground(seed, site)
    patch = raster.patch(ground.grid)
    below = ground.below(patch)
    half = patch.coarser(2)

    def on_map(values: Floats, grid: Grid) -> Floats:
        # A swath flown southwards counts its samples westwards.
        return raster.sample(values, grid)[:, ::-1]

    reflectance = {
        band: on_map(values, patch if values.shape[0] == patch.height else half)
        for band, values in below.reflectance.items()
    }
    top = round((ground.grid.north - patch.north) / 10.0)
    left = round((patch.west - ground.grid.west) / 10.0)
    window = (slice(top, top + patch.height), slice(left, left + patch.width))
    rock = Field(seed, f"{site.name}/carbonate", ground.grid, (320.0, 640.0, 1280.0), roughness=0.8)
    carbonate = on_map(np.clip(rock.evaluate(window) - 0.5, 0.0, 1.0), patch)
    covers = {name: on_map(share, patch) for name, share in below.covers.items()}
    values = surface(
        reflectance, on_map(doubled(below.vegetated), patch), carbonate, bands.wavelength, covers
    )
    column: Floats = np.zeros(values.shape[:2], np.float32)
    for each in planned.plumes:
        column += on_map(plume.enhancement(seed, site, patch, each, when=planned.plumes_when), patch)
    values *= bands.transmittance(column, air_mass=air_mass, overlap=0.98)
    # What shines is taken for what reflects the sun.
    key = f"enmap/{planned.start.isoformat()}"
    flames = burning(seed, site, ground, raster, key, bands.wavelength)
    sunlight = bands.irradiance() * np.cos(
        np.radians(sky.sun_at(planned.start, site.longitude, site.latitude).zenith_deg)
    )
    shine = np.broadcast_to(np.pi / sunlight, (raster.samples, len(sunlight)))
    add(values[:, ::-1], flames, pixel_m=raster.pixel_m, factor=shine)
    # Signal to noise falls from 500 in the visible to 150 at 2.2 um for a reflectance of 0.3.
    ratio = np.interp(
        bands.wavelength, [420.0, 600.0, 1000.0, 1600.0, 2200.0, 2450.0], [300, 500, 350, 220, 150, 90]
    )
    sigma = (0.3 / ratio / np.maximum(bands.air / 0.8, 0.05)).astype(np.float32)
    noise = generator(seed, "enmap", planned.id).standard_normal(values.shape, dtype=np.float32)
    return np.asarray(values + sigma * noise, np.float32)


def _thumbnail(path: Path, values: Floats, seen: npt.NDArray[np.bool_], bands: Bands) -> None:
    planes = [values[..., int(np.argmin(np.abs(bands.wavelength - nm)))] for nm in (660.0, 560.0, 480.0)]
    picture = np.clip(np.stack(planes, axis=-1) / 0.45, 0.0, 1.0) * seen[..., None]
    Image.fromarray((255.0 * picture).astype(np.uint8)).save(path, format="PNG")


def _metadata(planned: EnmapPass, bands: Bands, sun: sky.Sun, grid: Grid) -> str:
    """Return the product's XML: the parts that tell where, when and what each band is."""
    longitude, latitude = planned.seen.outline().exterior.xy
    points = "".join(
        f"<point><frame>{name}</frame><longitude>{lon:.6f}</longitude><latitude>{lat:.6f}</latitude></point>"
        for name, lon, lat in zip(
            ("upper_left", "lower_left", "lower_right", "upper_right"), longitude, latitude, strict=False
        )
    )
    characterised = "\n".join(
        f'      <bandID number="{number}">\n'
        f"        <wavelengthCenterOfBand>{centre:g}</wavelengthCenterOfBand>\n"
        f"        <FWHMOfBand>{width:g}</FWHMOfBand>\n"
        f"        <GainOfBand>{GAIN:g}</GainOfBand>\n"
        f"        <OffsetOfBand>0</OffsetOfBand>\n"
        f"      </bandID>"
        for number, (centre, width) in enumerate(zip(bands.wavelength, bands.fwhm, strict=True), start=1)
    )
    # The product lists the bands once more, with the quality of each: not what a reader looks for.
    quality = "".join(
        f'<bandID number="{number}"><deadPixels>0</deadPixels></bandID>'
        for number in range(1, len(bands.fwhm) + 1)
    )
    end = planned.start + timedelta(seconds=_SECONDS)
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<level_X xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <metadata>
    <schema><processingLevel>L2A</processingLevel><versionSchema>01.05.02</versionSchema></schema>
    <name>{escape(planned.id)}</name>
    <comment>synthetic scene in the form of a product of the Environmental Mapping and Analysis Program</comment>
  </metadata>
  <base>
    <format>COG</format>
    <level>L2A</level>
    <mission>ENMAP</mission>
    <temporalCoverage>
      <startTime>{planned.start:%Y-%m-%dT%H:%M:%S.%fZ}</startTime>
      <stopTime>{end:%Y-%m-%dT%H:%M:%S.%fZ}</stopTime>
    </temporalCoverage>
    <spatialCoverage><boundingPolygon>{points}</boundingPolygon></spatialCoverage>
  </base>
  <specific>
    <code>L2A</code>
    <datatakeID>{int(planned.datatake[2:])}</datatakeID>
    <tileID>{int(planned.tile)}</tileID>
    <sunElevationAngle><center>{90.0 - sun.zenith_deg:.6f}</center></sunElevationAngle>
    <sunAzimuthAngle><center>{sun.azimuth_deg:.6f}</center></sunAzimuthAngle>
    <sceneAzimuthAngle><center>{planned.seen.heading_deg - 180.0:.6f}</center></sceneAzimuthAngle>
    <acrossOffNadirAngle><center>{planned.across_off_nadir_deg:.6f}</center></acrossOffNadirAngle>
    <alongOffNadirAngle><center>0.04</center></alongOffNadirAngle>
    <qualityFlag><deadPixelMap>{quality}</deadPixelMap></qualityFlag>
    <backgroundValue>{NODATA}</backgroundValue>
    <bandCharacterisation>
{characterised}
    </bandCharacterisation>
  </specific>
  <product>
    <image>
      <merge>
        <name>{escape(planned.id)}-SPECTRAL_IMAGE.TIF</name>
        <format>COG</format>
        <channels>{len(bands.wavelength)}</channels>
        <dimension><rows>{grid.height}</rows><columns>{grid.width}</columns></dimension>
      </merge>
    </image>
    <ortho><projection>UTM_Zone{grid.epsg % 100}_North</projection><resolution>30</resolution></ortho>
  </product>
</level_X>
"""
