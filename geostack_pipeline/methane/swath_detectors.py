"""What EnMAP tells of its detectors: their defective pixels, and masks that were made in the geometry of the other one.

Clouds are told in the geometry of VNIR, methane is seen by SWIR, and at L1B the two look at the ground some hundred
metres apart.  Both have longitudes and latitudes, by which a mask comes to the pixels of the other detector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geostack_pipeline.cube.swath_conventions import QUALITY
from geostack_pipeline.methane.swath_quality import (
    INTERPOLATED_SHARE,
    MASK_NO_DATA,
    MASKS,
    SwathQuality,
    blue_band,
)

REACH_PIXELS = 1.5
"""A pixel without a counterpart closer than this gets no mask; where the detectors overlap one is within 0.8."""
_EARTH_M = 6_371_000.0
_SENSOR = ("downtrack", "crosstrack")
_TEST_FLAGS = {
    "saturated_swir": SwathQuality.SATURATED,
    "artefact_swir": SwathQuality.DEFECTIVE_OR_DARK,
}
"""Interpolated bands count by the pixel mask, which says how many they are."""
_LINES_AT_ONCE = 256


def from_detector(
    shape: tuple[int, int], dims: tuple[str, str], bands: list[int], node: xr.Dataset
) -> NDArray[np.uint16]:
    """Return the bits that a product's own test flags and mask of defective pixels set.

    A pixel is defective with more than `INTERPOLATED_SHARE` of the window's bands, or by a mask that has one plane.

    Args:
        shape: That of a plane.
        dims: The plane's dimensions.
        bands: The window's bands in the node.
        node: A node of EnMAP, or one detector of it; others have no such layers.
    """
    flags = np.zeros(shape, np.uint16)
    if "quality_testflags" in node and set(node["quality_testflags"].dims) == set(dims):
        tests = node["quality_testflags"].transpose(*dims)
        about: dict[str, Any] = {**QUALITY["QUALITY_TESTFLAGS"], **tests.attrs}
        meanings = str(about["flag_meanings"]).split()
        masks, values = np.atleast_1d(about["flag_masks"]), np.atleast_1d(about["flag_values"])
        told = np.asarray(tests.values)
        for name, flag in _TEST_FLAGS.items():
            place = meanings.index(name)
            flags[(told & int(masks[place])) == int(values[place])] |= np.uint16(flag)
    if "quality_pixelmask" in node:
        defects = node["quality_pixelmask"]
        if set(defects.dims) == set(dims):
            defects = defects.expand_dims("wavelength")
        elif set(defects.dims) == {*dims, "wavelength"}:
            defects = defects.isel(wavelength=bands)
        else:
            return flags
        defects = defects.transpose(*dims, "wavelength")
        for start in range(0, shape[0], _LINES_AT_ONCE):
            part = slice(start, start + _LINES_AT_ONCE)
            numbers = np.asarray(defects[part].values)
            bad = (numbers != 0) & (numbers != MASK_NO_DATA)
            flags[part][bad.mean(axis=-1) > INTERPOLATED_SHARE] |= np.uint16(SwathQuality.DEFECTIVE_OR_DARK)
    return flags


def carried(node: xr.Dataset, swir: xr.Dataset) -> xr.Dataset | None:
    """Return the masks of VNIR, and its radiance in blue, at the pixels of SWIR that show the same ground.

    ``MASK_NO_DATA`` (masks) and NaN (``radiance(downtrack, crosstrack, wavelength)``, one band) where VNIR did not look.

    Args:
        node: A node of L1B with both detectors.
        swir: The detector SWIR of it, as :func:`~geostack_pipeline.cube.swath_enmap.detector` gives it.

    Returns:
        None where the product has no VNIR, or does not tell where the pixels of both lie.
    """
    from geostack_pipeline.cube.swath_enmap import detector  # noqa: PLC0415 - it brings rasterio

    if "radiance_vnir" not in node:
        return None
    vnir = detector(node, "vnir")
    if not all(name in part.coords for part in (vnir, swir) for name in ("lon", "lat")):
        return None
    line, sample, there = _counterparts(vnir, swir)
    variables: dict[str, Any] = {}
    for name in MASKS:
        if name in vnir and set(vnir[name].dims) == set(_SENSOR):
            values = np.asarray(vnir[name].transpose(*_SENSOR).values)[line, sample]
            variables[name] = (_SENSOR, np.where(there, values, MASK_NO_DATA))
    coords: dict[str, Any] = {}
    blue = blue_band(vnir)
    if blue is not None:
        band = vnir["radiance"].transpose(*_SENSOR, "wavelength").isel(wavelength=blue)
        seen = np.asarray(band.values, np.float32)[line, sample]
        variables["radiance"] = (
            (*_SENSOR, "wavelength"),
            np.where(there, seen, np.float32(np.nan))[..., None],
        )
        coords["wavelength"] = ("wavelength", vnir["wavelength"].values[[blue]])
    return xr.Dataset(variables, coords=coords, attrs=dict(node.attrs))


def _counterparts(
    vnir: xr.Dataset, swir: xr.Dataset
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Return line and sample of VNIR nearest to each pixel of SWIR, and where one is near; 0 elsewhere."""
    from scipy.spatial import cKDTree  # noqa: PLC0415 - a retrieval of EMIT does not need it

    sources, pixels = _metres(vnir), _metres(swir)
    known = np.isfinite(sources).all(axis=-1)
    wanted = np.isfinite(pixels).all(axis=-1)
    there = np.zeros(wanted.shape, bool)
    line, sample = np.zeros(wanted.shape, np.intp), np.zeros(wanted.shape, np.intp)
    steps = [np.linalg.norm(np.diff(sources, axis=axis), axis=-1) for axis in (0, 1) if known.shape[axis] > 1]
    if not known.any() or not wanted.any() or not steps:
        return line, sample, there
    reach = REACH_PIXELS * max(float(np.nanmedian(each)) for each in steps)
    lines, samples = np.nonzero(known)
    distance, nearest = cKDTree(sources[known]).query(pixels[wanted], distance_upper_bound=reach)
    near = np.isfinite(distance)
    there[wanted] = near
    line[there], sample[there] = lines[nearest[near]], samples[nearest[near]]
    return line, sample, there


def _metres(part: xr.Dataset) -> NDArray[np.float64]:
    """Return places in space (lines, samples, 3), m: distances hold at any latitude and across the antimeridian."""
    longitude, latitude = (
        np.radians(np.asarray(part[name].transpose(*_SENSOR).values, np.float64)) for name in ("lon", "lat")
    )
    ground = np.cos(latitude)
    axes = (ground * np.cos(longitude), ground * np.sin(longitude), np.sin(latitude))
    return _EARTH_M * np.stack(axes, axis=-1)
