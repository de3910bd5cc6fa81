"""One overpass of a cube, read into padded arrays ready for the kernels."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pyproj
import xarray as xr
from numpy.typing import NDArray

from geostack_pipeline.errors import GeostackError
from geostack_pipeline.methane.masking import classify, is_clear
from geostack_pipeline.methane.mbmp import mbsp
from geostack_pipeline.methane.padding import pad_image
from geostack_pipeline.methane.transmittance import platform_name

NEEDED = ("reflectance", "scl", "source_scene")
UNKNOWN_ORBIT = -1
_TRUE_TO_SCALE = 0.01
"""A map whose metres are within this share of metres on the ground is taken at its word: all of UTM is within 0.1 %."""


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """What a cube says about its scenes, one entry each, in the order of ``source_scene``."""

    ids: list[str]
    """Item ids."""
    orbit: NDArray[np.int64]
    """Relative orbit numbers; -1 where unknown."""
    platform: list[str | None]
    """``S2A``, ``S2B``, ``S2C``; None for any other."""
    sun_zenith: NDArray[np.float64]
    """Degrees; NaN where unknown."""
    view_zenith: NDArray[np.float64]
    """Degrees; NaN where unknown."""


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """One time step of a cube; images are padded to (H, W), the first (height, width) are real."""

    time: np.datetime64
    """Time of the mosaic, UTC."""
    shape: tuple[int, int]
    """Height and width before padding."""
    scenes: Scenes
    """Scenes of the whole cube node."""
    source: NDArray[np.int64]
    """Index into ``scenes`` per pixel, -1 where none."""
    r11: NDArray[np.float32]
    """Reflectance of B11."""
    flags: NDArray[np.uint16]
    """Quality bits of the scene itself."""
    clear: NDArray[np.bool_]
    """Pixels without an excluding bit."""
    signal: NDArray[np.float32]
    """Single-pass signal; NaN where not clear."""

    @property
    def orbit(self) -> NDArray[np.int64]:
        """Relative orbit per pixel, -1 where unknown."""
        return np.append(self.scenes.orbit, UNKNOWN_ORBIT)[self.source]

    @property
    def used(self) -> list[int]:
        """Indices of the scenes that gave at least one pixel."""
        return [int(index) for index in np.unique(self.source) if index >= 0]


def check_cube(cube: xr.Dataset, subject: str) -> None:
    """Raise a `GeostackError` when ``cube`` lacks what the retrieval reads."""
    missing = [name for name in NEEDED if name not in cube]
    if missing:
        raise GeostackError(
            "the cube lacks variables that the methane retrieval reads",
            subject=subject,
            found=f"no {', '.join(missing)} among {', '.join(map(str, cube.data_vars)) or 'none'}",
            action="build the cube node with the cube stage",
        )
    bands = [str(band) for band in cube["band"].values]
    absent = [band for band in ("B11", "B12") if band not in bands]
    if absent:
        raise GeostackError(
            "the cube lacks bands that the methane retrieval needs",
            subject=subject,
            found=f"no {', '.join(absent)} among {', '.join(bands) or 'none'}",
            action="add B11 and B12 to the provider's bands in the settings and build the cube again",
        )


def pixel_size(cube: xr.Dataset) -> tuple[float, float]:
    """Return width and height of a pixel, positive, in the units of the CRS; an axis of one pixel takes the other's."""
    sizes = [
        abs(float(cube[axis].values[-1] - cube[axis].values[0])) / (cube.sizes[axis] - 1)
        if cube.sizes[axis] > 1
        else None
        for axis in ("x", "y")
    ]
    width, height = sizes[0] or sizes[1] or 20.0, sizes[1] or sizes[0] or 20.0
    return width, height


def pixel_metres(grid: xr.Dataset) -> tuple[float, float]:
    """Return width and height of a pixel on the ground in the middle of a grid, metres.

    A degree is as long as the latitude makes it, and so is a metre of Mercator's map: at 60 degrees it is half a metre on
    the ground, and a pixel a quarter of its area.  Without a CRS the axes are taken to be in metres.
    """
    width, height = pixel_size(grid)
    wkt = grid["spatial_ref"].attrs.get("crs_wkt") if "spatial_ref" in grid.coords else None
    if not wkt:
        return width, height
    crs = pyproj.CRS.from_wkt(wkt)
    geod = crs.get_geod() or pyproj.Geod(ellps="WGS84")
    if crs.is_geographic:
        middle = float(grid["y"].values[grid.sizes["y"] // 2])
        east = geod.inv(0.0, middle, width, middle)[2]
        north = geod.inv(0.0, middle - height / 2.0, 0.0, middle + height / 2.0)[2]
        return float(east), float(north)
    metre = crs.axis_info[0].unit_conversion_factor or 1.0
    x, y = (float(grid[axis].values[[0, -1]].mean()) for axis in ("x", "y"))
    to_degrees = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    # From the left edge to the right one, and from the lower to the upper.
    longitude, latitude = to_degrees.transform(
        [x - width / 2.0, x + width / 2.0, x, x], [y, y, y - height / 2.0, y + height / 2.0]
    )
    _, _, ground = geod.inv(longitude[::2], latitude[::2], longitude[1::2], latitude[1::2])
    nominal = width * metre, height * metre
    if all(abs(true / said - 1.0) <= _TRUE_TO_SCALE for true, said in zip(ground, nominal, strict=True)):
        return nominal
    return float(ground[0]), float(ground[1])


def read_scenes(cube: xr.Dataset) -> Scenes:
    """Return the scene table of a cube node; coordinates that are absent count as unknown."""
    count = cube.sizes.get("scene", 0)

    def numbers(name: str) -> NDArray[np.float64]:
        if name not in cube.coords:
            return np.full(count, np.nan)
        return np.asarray(cube[name].values, dtype=np.float64)

    orbit = numbers("relative_orbit")
    known = np.isfinite(orbit) & (orbit > 0)
    platforms = cube["platform"].values if "platform" in cube.coords else [""] * count
    return Scenes(
        ids=[str(name) for name in cube["scene"].values] if count else [],
        orbit=np.where(known, np.where(known, orbit, 0), UNKNOWN_ORBIT).astype(np.int64),
        platform=[platform_name(str(name)) for name in platforms],
        sun_zenith=numbers("sun_zenith"),
        view_zenith=numbers("view_zenith"),
    )


def read_acquisition(cube: xr.Dataset, index: int) -> Acquisition:
    """Return time step ``index`` of ``cube`` with its single-pass signal; reads B11, B12, scl and source_scene of it.

    The factor between the bands is fitted once per satellite and orbit among the scenes of the mosaic.
    """
    step = cube.isel(time=index)
    bands = [str(band) for band in cube["band"].values]

    def band(name: str) -> NDArray[np.float32]:
        return np.asarray(step["reflectance"].isel(band=bands.index(name)).values, dtype=np.float32)

    r11, r12 = band("B11"), band("B12")
    shape = (r11.shape[0], r11.shape[1])
    scl = np.asarray(step["scl"].values, dtype=np.uint8)
    source = np.asarray(step["source_scene"].values, dtype=np.int64)
    flags = classify(scl, r11, r12, source >= 0, pixel_size_m=min(pixel_metres(cube)))
    scenes = read_scenes(cube)
    source, flags = pad_image(source, -1), pad_image(flags, 1)
    r11, r12 = pad_image(r11, np.nan), pad_image(r12, np.nan)
    clear = is_clear(flags)
    return Acquisition(
        time=cube["time"].values[index].astype("datetime64[ns]"),
        shape=shape,
        scenes=scenes,
        source=source,
        r11=r11,
        flags=flags,
        clear=clear,
        signal=_single_pass(r11, r12, clear, source, scenes),
    )


def _single_pass(
    r11: NDArray[np.float32],
    r12: NDArray[np.float32],
    clear: NDArray[np.bool_],
    source: NDArray[np.int64],
    scenes: Scenes,
) -> NDArray[np.float32]:
    """Return the signal of the mosaic, each satellite and orbit fitted on its own pixels."""
    keys = list(zip(scenes.platform, scenes.orbit.tolist(), strict=True))
    groups = sorted(set(keys), key=str)
    group_of_scene = np.array([*(groups.index(key) for key in keys), -1], dtype=np.int64)
    group = group_of_scene[source]
    signal = np.full(r11.shape, np.nan, dtype=np.float32)
    for number in np.unique(group[clear]).tolist():
        members = clear & (group == number)
        fitted = mbsp(jnp.asarray(r11), jnp.asarray(r12), jnp.asarray(members)).signal
        signal = np.where(members, np.asarray(fitted), signal)
    return signal
