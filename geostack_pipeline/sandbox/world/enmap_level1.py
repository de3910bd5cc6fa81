"""EnMAP's radiance products of the sandbox's world: L1C on the map of L2A, L1B as the two detectors saw it.

Both show the ground and the gas of the L2A product of the same scene.  Of L1B, VNIR and SWIR look at the ground 600 m
apart along the track, as the instrument's two slits do, so that their pixels do not lie upon each other.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
import rasterio
from PIL import Image

from geostack_pipeline.sandbox.world import sky
from geostack_pipeline.sandbox.world.enmap import EnmapPass, EnmapScene, enmap_scenes, passes
from geostack_pipeline.sandbox.world.enmap_files import _grid, _reflectance, _seen
from geostack_pipeline.sandbox.world.grids import Floats, project
from geostack_pipeline.sandbox.world.products import appear, write_geotiff
from geostack_pipeline.sandbox.world.spectra import Bands, bands_of
from geostack_pipeline.sandbox.world.swath import Swath

if TYPE_CHECKING:
    from geostack_pipeline.sandbox.world.world import World

Level = Literal["L1B", "L1C"]
DATATAKES = ("DT0000077190",)
"""Those with products of level 1."""
VNIR_BANDS = 91
"""The rest of the 224 are SWIR's."""
NODATA = 0
LAND, BACKGROUND = 1, 3
INTERPOLATED_SWIR, INTERPOLATED_VNIR = 4, 8
"""Bits of the test flags."""
_BETWEEN_SLITS_M = 600.0
_ACROSS_M = 9.0
_NUMBERS = 45_000.0
"""Stored number of a white surface under the sun of the scene."""
_FLAT = ("CLASSES", "CLOUD", "CLOUDSHADOW", "HAZE", "CIRRUS", "SNOW")
_GROUND_M = 12.0
_SMILE_NM = 0.01
"""Shift of the band centres at the edges of the detectors against their middle."""
_DEFECT = (17, 40)
"""Band and sample of a defective detector element, both counted from 0, of either detector."""


@dataclass(frozen=True, kw_only=True)
class EnmapRadiance:
    """One scene as a product of level 1."""

    level: Level
    id: str
    scene: EnmapScene
    """The L2A product of the scene; what describes the acquisition is the same."""
    files: Mapping[str, Path]
    """Canonical asset -> file; the names are the product's."""


def radiance_products(world: World, level: Level) -> list[EnmapRadiance]:
    """Return the products of a level, by time; renders what is missing, which takes seconds the first time.

    There are such products of the scenes in :data:`DATATAKES` only: one shows the form as well as many.
    """
    found = []
    for planned, scene in zip(passes(world), enmap_scenes(world), strict=True):
        if scene.datatake not in DATATAKES:
            continue
        name = scene.id.replace("L2A-", f"{level}-")
        folder = world.folder / "enmap" / name
        appear(folder, partial(_render, world.seed, planned, level, name))
        files = {key: folder / file for key, file in _names(level, name).items()}
        found.append(EnmapRadiance(level=level, id=name, scene=scene, files=files))
    return found


def _names(level: Level, name: str) -> dict[str, str]:
    if level == "L1C":
        rasters = {
            "SPECTRAL_IMAGE": "SPECTRAL_IMAGE",
            "QUALITY_TESTFLAGS": "QL_QUALITY_TESTFLAGS",
            "QUALITY_PIXELMASK": "QL_PIXELMASK",
        }
    else:
        rasters = {
            f"{key}_{part}": f"{file}_{part}"
            for part in ("VNIR", "SWIR")
            for key, file in (
                ("SPECTRAL_IMAGE", "SPECTRAL_IMAGE"),
                ("QUALITY_TESTFLAGS", "QL_QUALITY_TESTFLAGS"),
                ("QUALITY_PIXELMASK", "QL_PIXELMASK"),
            )
        }
    rasters |= {f"QUALITY_{kind}": f"QL_QUALITY_{kind}" for kind in _FLAT}
    # What is not on a map is no cloud-optimised GeoTIFF either.
    ending = "_COG.TIF" if level == "L1C" else ".TIF"
    return {
        **{key: f"{name}-{file}{ending}" for key, file in rasters.items()},
        "METADATA": f"{name}-METADATA.XML",
        "THUMBNAIL": f"{name}-QL_VNIR_thumbnail.png",
    }


@dataclass(frozen=True, kw_only=True)
class _Calibration:
    """Of all bands, in W m-2 sr-1 nm-1."""

    light: npt.NDArray[np.float64]
    """Radiance of a white surface."""
    path: npt.NDArray[np.float64]
    """Radiance of the air itself."""
    gain: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]

    def numbers(self, reflectance: Floats, bands: slice) -> npt.NDArray[np.uint16]:
        """Return the stored numbers of reflectances (rows, columns, bands), none of them 0."""
        radiance = reflectance[..., bands] * self.light[bands] + self.path[bands]
        numbers = np.rint((radiance - self.offset[bands]) / self.gain[bands])
        return np.asarray(numbers.clip(1, 65_535), np.uint16)


def _calibration(bands: Bands, sun: sky.Sun, air_mass: float) -> _Calibration:
    cosine = np.cos(np.radians(sun.zenith_deg))
    # uW cm-2 -> W m-2; where the air lets nothing through there is still the dark signal to be stored
    light = np.maximum(bands.irradiance() * cosine / np.pi * bands.air ** (air_mass / 2.0) / 100.0, 1e-6)
    path = 0.026 * (450.0 / bands.wavelength) ** 4
    gain = np.array([float(f"{value:.6e}") for value in (light + path) / _NUMBERS])
    offset = np.array([float(f"{value:.6e}") for value in -60.0 * gain])
    return _Calibration(light=light, path=path, gain=gain, offset=offset)


def _render(seed: int, planned: EnmapPass, level: Level, name: str, work: Path) -> None:
    """Write all files of a product into ``work``."""
    bands = bands_of("enmap")
    sun = sky.sun_at(planned.start, planned.site.longitude, planned.site.latitude)
    air_mass = sky.air_mass_factor(sun.zenith_deg, abs(planned.across_off_nadir_deg))
    calibration = _calibration(bands, sun, air_mass)
    files = {key: work / file for key, file in _names(level, name).items()}
    if level == "L1C":
        shape = _on_map(seed, planned, bands, air_mass, calibration, files)
    else:
        shape = _by_detector(seed, planned, bands, air_mass, calibration, files)
    files["METADATA"].write_text(_metadata(planned, level, name, bands, calibration, sun, shape), "utf-8")


def _on_map(
    seed: int,
    planned: EnmapPass,
    bands: Bands,
    air_mass: float,
    calibration: _Calibration,
    files: Mapping[str, Path],
) -> tuple[int, int]:
    grid = _grid(planned)
    place: dict[str, Any] = {"epsg": grid.epsg, "transform": grid.transform}
    seen = _seen(planned, grid)
    reflectance = _reflectance(seed, planned, bands, air_mass)
    numbers = calibration.numbers(reflectance, slice(None))
    numbers[~seen] = NODATA
    write_geotiff(files["SPECTRAL_IMAGE"], np.moveaxis(numbers, -1, 0), nodata=NODATA, **place)
    defects = np.zeros((len(bands.wavelength), *seen.shape), np.uint8)
    defects[_DEFECT[0], :, _DEFECT[1]] = 1
    defects[:, ~seen] = 255
    write_geotiff(files["QUALITY_PIXELMASK"], defects, nodata=255, categorical=True, **place)
    for key, layer in _flat(seen).items():
        # Layers but the classes call the background 0, as recorded items have them.
        background = BACKGROUND if key == "QUALITY_CLASSES" else None
        layer[~seen] = background or 0
        write_geotiff(files[key], layer[None], nodata=background, categorical=True, **place)
    flags = np.where(seen & defects.any(axis=0), INTERPOLATED_VNIR, 0).astype(np.uint8)
    write_geotiff(files["QUALITY_TESTFLAGS"], flags[None], nodata=None, categorical=True, **place)
    _thumbnail(files["THUMBNAIL"], reflectance, bands)
    return seen.shape[0], seen.shape[1]


def _by_detector(
    seed: int,
    planned: EnmapPass,
    bands: Bands,
    air_mass: float,
    calibration: _Calibration,
    files: Mapping[str, Path],
) -> tuple[int, int]:
    for part, own in (("VNIR", slice(0, VNIR_BANDS)), ("SWIR", slice(VNIR_BANDS, None))):
        swath = sensor_swath(planned, part)
        sensor = replace(planned, raster=swath)
        # The columns of a map are turned by that function; here samples stay as the detector counts them.
        reflectance = _reflectance(seed, sensor, bands, air_mass)[:, ::-1]
        numbers = calibration.numbers(reflectance, own)
        _write_sensor(files[f"SPECTRAL_IMAGE_{part}"], np.moveaxis(numbers, -1, 0), nodata=NODATA)
        defects = np.zeros((numbers.shape[2], swath.lines, swath.samples), np.uint8)
        defects[_DEFECT[0], :, _DEFECT[1]] = 1
        _write_sensor(files[f"QUALITY_PIXELMASK_{part}"], defects)
        flags = np.zeros((1, swath.lines, swath.samples), np.uint8)
        flags[0, :, _DEFECT[1]] = INTERPOLATED_VNIR if part == "VNIR" else INTERPOLATED_SWIR
        _write_sensor(files[f"QUALITY_TESTFLAGS_{part}"], flags)
        if part == "VNIR":
            for key, layer in _flat(np.ones((swath.lines, swath.samples), bool)).items():
                _write_sensor(files[key], layer[None])
            _thumbnail(files["THUMBNAIL"], reflectance, bands)
    return planned.seen.lines, planned.seen.samples


def sensor_swath(planned: EnmapPass, part: str) -> Swath:
    """Return what a detector, ``VNIR`` or ``SWIR``, saw."""
    seen = planned.seen
    if part == "VNIR":
        return seen
    angle = np.radians(seen.heading_deg)
    along, across = _BETWEEN_SLITS_M, _ACROSS_M
    return replace(
        seen,
        x=float(seen.x + along * np.sin(angle) + across * np.cos(angle)),
        y=float(seen.y + along * np.cos(angle) - across * np.sin(angle)),
    )


def _flat(seen: npt.NDArray[np.bool_]) -> dict[str, npt.NDArray[np.uint8]]:
    """Return the quality layers of a clear scene over land."""
    return {
        f"QUALITY_{kind}": np.full(seen.shape, LAND if kind == "CLASSES" else 0, np.uint8) for kind in _FLAT
    }


def _write_sensor(path: Path, values: npt.NDArray[Any], *, nodata: float | None = None) -> None:
    """Write a tiled GeoTIFF without a place on the map, band after band."""
    count, height, width = values.shape
    with (
        _quiet(),
        rasterio.open(
            path, "w", driver="GTiff", width=width, height=height, count=count, dtype=values.dtype, nodata=nodata,
            tiled=True, blockxsize=128, blockysize=128, compress="DEFLATE", zlevel=1, predictor=2, interleave="band",
        ) as raster,
    ):  # fmt: skip
        raster.write(values)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), rasterio.Env(GDAL_NUM_THREADS="1"):
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


def _thumbnail(path: Path, reflectance: Floats, bands: Bands) -> None:
    planes = [reflectance[..., int(np.argmin(np.abs(bands.wavelength - nm)))] for nm in (660.0, 560.0, 480.0)]
    picture = np.clip(np.stack(planes, axis=-1) / 0.45, 0.0, 1.0)
    Image.fromarray((255.0 * picture).astype(np.uint8)).save(path, format="PNG")


def _metadata(
    planned: EnmapPass,
    level: Level,
    name: str,
    bands: Bands,
    calibration: _Calibration,
    sun: sky.Sun,
    shape: tuple[int, int],
) -> str:
    """Return the product's XML: the parts that tell where, when and what each band is."""
    longitude, latitude = planned.seen.outline().exterior.xy
    corners = ("upper_left", "lower_left", "lower_right", "upper_right")
    points = "".join(
        f"<point><frame>{corner}</frame><longitude>{lon:.6f}</longitude><latitude>{lat:.6f}</latitude></point>"
        for corner, lon, lat in zip(corners, longitude, latitude, strict=False)
    )
    rows = zip(bands.wavelength, bands.fwhm, calibration.gain, calibration.offset, strict=True)
    characterised = "\n".join(
        f'      <bandID number="{number}">\n'
        f"        <wavelengthCenterOfBand>{centre:g}</wavelengthCenterOfBand>\n"
        f"        <FWHMOfBand>{width:g}</FWHMOfBand>\n"
        f"        <GainOfBand>{gain:.6e}</GainOfBand>\n"
        f"        <OffsetOfBand>{offset:.6e}</OffsetOfBand>\n"
        f"      </bandID>"
        for number, (centre, width, gain, offset) in enumerate(rows, start=1)
    )
    counts = {"vnir": VNIR_BANDS, "swir": len(bands.wavelength) - VNIR_BANDS}
    if level == "L1C":
        images = _image_xml("merge", f"{name}-SPECTRAL_IMAGE.TIF", len(bands.wavelength), shape)
        navigation = (
            f"<ortho><projection>UTM_Zone{planned.raster.epsg % 100}_North</projection>"
            "<resolution>30</resolution></ortho>"
        )
    else:
        images = "\n".join(
            _image_xml(part, f"{name}-SPECTRAL_IMAGE_{part.upper()}.TIF", count, shape)
            for part, count in counts.items()
        )
        navigation = (
            f"<navigation><RPC>\n{_rpc(planned, counts)}\n    </RPC></navigation>\n"
            f"    <smileCorrection>\n{_smile(bands, counts, shape[1])}\n    </smileCorrection>"
        )
    quality = "".join(
        f"<{part}ProductQuality><numChannelsExpected>{count}</numChannelsExpected></{part}ProductQuality>"
        for part, count in counts.items()
    )
    end = planned.start + timedelta(seconds=4.49)
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<level_X xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <metadata>
    <schema><processingLevel>{level}</processingLevel><versionSchema>01.05.02</versionSchema></schema>
    <name>{escape(name)}</name>
    <comment>synthetic scene in the form of a product of the Environmental Mapping and Analysis Program</comment>
  </metadata>
  <base>
    <format>GeoTIFF</format>
    <level>{level}</level>
    <mission>ENMAP</mission>
    <temporalCoverage>
      <startTime>{planned.start:%Y-%m-%dT%H:%M:%S.%fZ}</startTime>
      <stopTime>{end:%Y-%m-%dT%H:%M:%S.%fZ}</stopTime>
    </temporalCoverage>
    <spatialCoverage><boundingPolygon>{points}</boundingPolygon></spatialCoverage>
  </base>
  <specific>
    <code>{level}</code>
    <datatakeID>{int(planned.datatake[2:])}</datatakeID>
    <tileID>{int(planned.tile)}</tileID>
    <sunElevationAngle><center>{90.0 - sun.zenith_deg:.6f}</center></sunElevationAngle>
    <sunAzimuthAngle><center>{sun.azimuth_deg:.6f}</center></sunAzimuthAngle>
    <sceneAzimuthAngle><center>{planned.seen.heading_deg - 180.0:.6f}</center></sceneAzimuthAngle>
    <acrossOffNadirAngle><center>{planned.across_off_nadir_deg:.6f}</center></acrossOffNadirAngle>
    <alongOffNadirAngle><center>0.04</center></alongOffNadirAngle>
    <qualityFlag>{quality}</qualityFlag>
    <meanGroundElevation>{_GROUND_M:g}</meanGroundElevation>
    <backgroundValue>{NODATA}</backgroundValue>
    <bandCharacterisation>
{characterised}
    </bandCharacterisation>
  </specific>
  <product>
    <image>
{images}
    </image>
    {navigation}
  </product>
</level_X>
"""


def _smile(bands: Bands, counts: Mapping[str, int], columns: int) -> str:
    """Return the shift of each band's centre as polynomials of the column, numbered per detector.

    It is a hundredth of what real detectors have: the radiance of all columns is that of the nominal centres.
    """
    listed = []
    first = 0
    for part, count in counts.items():
        listed.append(f"      <{part.upper()}>")
        for number, centre in enumerate(bands.wavelength[first : first + count], start=1):
            middle = (columns + 1) / 2.0
            bend = _SMILE_NM / middle**2
            coefficients = (bend * middle**2, -2.0 * bend * middle, bend, 0.0, 0.0)
            tags = "".join(f"<coeff{k}>{value:.9e}</coeff{k}>" for k, value in enumerate(coefficients))
            listed.append(f'<bandID number="{number}"><wavelength>{centre:g}</wavelength>{tags}</bandID>')
        listed.append(f"</{part.upper()}>")
        first += count
    return "\n".join(listed)


def _image_xml(part: str, file: str, channels: int, shape: tuple[int, int]) -> str:
    return (
        f"      <{part}><name>{escape(file)}</name><format>GeoTIFF</format><channels>{channels}</channels>"
        f"<dimension><rows>{shape[0]}</rows><columns>{shape[1]}</columns></dimension></{part}>"
    )


def _rpc(planned: EnmapPass, counts: Mapping[str, int]) -> str:
    """Return the rational polynomials of all bands, of which a plane swath needs the terms of first order only."""
    listed = []
    number = 0
    for part, count in counts.items():
        swath = sensor_swath(planned, part.upper())
        coefficients = _fitted(swath)
        for _ in range(count):
            number += 1
            listed.append(f'      <bandID number="{number}">{coefficients}</bandID>')
    return "\n".join(listed)


def _fitted(swath: Swath) -> str:
    lines, samples = np.meshgrid(np.arange(swath.lines), np.arange(swath.samples), indexing="ij")
    longitude, latitude = project(swath.epsg, 4326, *swath.centres)
    scaled: dict[str, tuple[Any, float, float]] = {}
    for key, values in (("row", lines), ("col", samples), ("lat", latitude), ("long", longitude)):
        offset, scale = float(values.mean()), float(np.ptp(values)) / 2.0 or 1.0
        scaled[key] = ((np.asarray(values, np.float64) - offset) / scale, offset, scale)
    terms = np.stack([np.ones(lines.size), scaled["long"][0].ravel(), scaled["lat"][0].ravel()], axis=1)
    tags = [("height_off", 0.0), ("height_scale", 500.0)]
    for key, (_, offset, scale) in scaled.items():
        tags += [(f"{key}_off", offset), (f"{key}_scale", scale)]
    for key in ("row", "col"):
        solved = np.linalg.lstsq(terms, scaled[key][0].ravel(), rcond=None)[0]
        # order of the terms: 1, longitude, latitude, height, …
        tags += [(f"{key}_num_{i:02d}", float(solved[i - 1]) if i <= 3 else 0.0) for i in range(1, 21)]
        tags += [(f"{key}_den_{i:02d}", 1.0 if i == 1 else 0.0) for i in range(1, 21)]
    return "".join(f"<{tag.upper()}>{value:.12g}</{tag.upper()}>" for tag, value in tags)
