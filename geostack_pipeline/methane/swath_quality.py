"""Which pixels of an imaging spectrometer's granule take part, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray


class SwathQuality(IntFlag):
    """Bits of ``quality_flags`` (uint16) of a granule.  Meanings shared with Sentinel-2 have the same bits."""

    NO_DATA = 1
    """No radiance, or bands without a number."""
    CLOUD = 2
    """Cloud or cirrus by the product's mask; without one, too bright in blue for any ground."""
    CLOUD_SHADOW = 4
    NEAR_CLOUD = 8
    """Close to a cloud."""
    WATER = 16
    """Standing water."""
    SNOW = 32
    DEFECTIVE_OR_DARK = 64
    """Marked as defective, a spacecraft in the view, or too dark for a ratio."""
    FLARE = 128
    """A flame: it shines at 2.39 um more than sunlit ground does."""
    SATURATED = 256
    """At the end of the detector's range in the window of methane."""
    COLUMN_NOT_RETRIEVED = 512
    """Its detector column, or its cluster, has too few good pixels or dead bands."""
    NO_CLOUD_MASK = 1024
    """The granule came without a mask; the pixel is used, but only a coarse test looked for clouds."""


EXCLUDED = (
    SwathQuality.NO_DATA
    | SwathQuality.CLOUD
    | SwathQuality.CLOUD_SHADOW
    | SwathQuality.NEAR_CLOUD
    | SwathQuality.WATER
    | SwathQuality.SNOW
    | SwathQuality.DEFECTIVE_OR_DARK
    | SwathQuality.FLARE
    | SwathQuality.SATURATED
)
"""Pixels with one of these bits neither count for the background nor get a value."""

FLARE_NM, FLARE_RADIANCE = 2389.486, 1.5
"""emit-ghg: above this radiance (uW cm-2 sr-1 nm-1) there it burns."""
SATURATION_RADIANCE = 9.0
"""No sunlit ground and no cloud reaches it at 2.1 um; columns next to flames do."""
DARK_RADIANCE = 0.05
"""Median radiance in the window below which there is deep shadow, or water that no mask names."""
CLOUD_BLUE_REFLECTANCE = 0.42
"""Apparent reflectance in blue of thick cloud and snow, and of no bare ground."""
_BLUE_IRRADIANCE = 203.0
"""Of the sun at 480 nm, uW cm-2 nm-1."""
_BLUE_NM = (470.0, 490.0)

_MASKS: Mapping[str, SwathQuality] = {
    "mask_cloud": SwathQuality.CLOUD,
    "mask_cirrus": SwathQuality.CLOUD,
    "mask_spectf_cloud": SwathQuality.CLOUD,
    "mask_dilated_cloud": SwathQuality.NEAR_CLOUD,
    "mask_water": SwathQuality.WATER,
    "mask_spacecraft": SwathQuality.DEFECTIVE_OR_DARK,
    "quality_cloud": SwathQuality.CLOUD,
    "quality_cirrus": SwathQuality.CLOUD,
    "quality_haze": SwathQuality.NEAR_CLOUD,
    "quality_cloudshadow": SwathQuality.CLOUD_SHADOW,
    "quality_snow": SwathQuality.SNOW,
}
"""Variable of a cube node -> the bit that its pixels with value 1 get; masks of EMIT (L2A) and of EnMAP."""
_CLOUD_MASKS = ("mask_cloud", "mask_spectf_cloud", "quality_cloud")
_MASK_NO_DATA = 255


def quality_attributes() -> dict[str, Any]:
    """Return the CF attributes of ``quality_flags``: masks (uint16) and meanings in the same order."""
    return {
        "long_name": "quality of the methane retrieval",
        "standard_name": "quality_flag",
        "flag_masks": np.array([int(flag) for flag in SwathQuality], dtype=np.uint16),
        "flag_meanings": " ".join(str(flag.name).lower() for flag in SwathQuality),
    }


def from_masks(shape: tuple[int, int], *nodes: xr.Dataset) -> NDArray[np.uint16]:
    """Return the bits that masks set, those of the first node that has a mask; shape is that of a plane.

    Without any mask of clouds all pixels get ``NO_CLOUD_MASK``.
    """
    flags = np.zeros(shape, np.uint16)
    for name, flag in _MASKS.items():
        plane = next((node[name] for node in nodes if name in node and node[name].shape == shape), None)
        if plane is not None:
            values = np.asarray(plane.values)
            flags[(values != 0) & (values != _MASK_NO_DATA)] |= np.uint16(flag)
    classes = next(
        (
            node["quality_classes"]
            for node in nodes
            if "quality_classes" in node and node["quality_classes"].shape == shape
        ),
        None,
    )
    if classes is not None:
        values = np.asarray(classes.values)
        flags[values == 2] |= np.uint16(SwathQuality.WATER)
        flags[values == 3] |= np.uint16(SwathQuality.NO_DATA)
    if not any(name in node for node in nodes for name in _CLOUD_MASKS):
        flags |= np.uint16(SwathQuality.NO_CLOUD_MASK)
    return flags


def from_radiance(radiance: NDArray[np.float32], wavelength: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Return the bits that radiances (…, S) of the window of methane set, uW cm-2 sr-1 nm-1; NaN is no data."""
    flags = np.zeros(radiance.shape[:-1], np.uint16)
    known: NDArray[np.bool_] = np.asarray(np.isfinite(radiance).all(axis=-1))
    values = np.where(known[..., None], radiance, np.float32(1.0))
    flags[~known] |= np.uint16(SwathQuality.NO_DATA)
    flame = int(np.argmin(np.abs(wavelength - FLARE_NM)))
    if abs(wavelength[flame] - FLARE_NM) < 10.0:
        flags[values[..., flame] > FLARE_RADIANCE] |= np.uint16(SwathQuality.FLARE)
    flags[values.max(axis=-1) > SATURATION_RADIANCE] |= np.uint16(SwathQuality.SATURATED)
    middle = np.asarray(np.median(values, axis=-1))
    flags[middle < DARK_RADIANCE] |= np.uint16(SwathQuality.DEFECTIVE_OR_DARK)
    return flags


def bright_in_blue(node: xr.Dataset, sun_zenith_deg: float) -> NDArray[np.bool_] | None:
    """Return where a radiance node is as bright in blue as only clouds and snow are; None without a blue band."""
    wavelength = np.asarray(node["wavelength"].values, np.float64)
    blue = np.flatnonzero((wavelength >= _BLUE_NM[0]) & (wavelength <= _BLUE_NM[1]))
    if not blue.size or not np.isfinite(sun_zenith_deg):
        return None
    radiance = np.asarray(node["radiance"].isel(wavelength=int(blue[0])).values, np.float32)
    apparent = np.pi * radiance / (_BLUE_IRRADIANCE * max(np.cos(np.radians(sun_zenith_deg)), 0.1))
    with np.errstate(invalid="ignore"):
        bright: NDArray[np.bool_] = apparent > CLOUD_BLUE_REFLECTANCE
    return bright


def bright_reflectance(node: xr.Dataset) -> NDArray[np.bool_]:
    """Return where a reflectance node on a map is as bright in blue as only clouds and snow are; nowhere without blue."""
    wavelength = np.asarray(node["wavelength"].values, np.float64)
    blue = np.flatnonzero((wavelength >= _BLUE_NM[0]) & (wavelength <= _BLUE_NM[1]))
    if not blue.size:
        return np.zeros((node.sizes["y"], node.sizes["x"]), bool)
    values = np.asarray(node["reflectance"].isel(wavelength=int(blue[0])).values, np.float32)
    with np.errstate(invalid="ignore"):
        bright: NDArray[np.bool_] = values > CLOUD_BLUE_REFLECTANCE
    return bright


def is_good(flags: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Return where no excluding bit is set."""
    good: NDArray[np.bool_] = (flags & np.uint16(EXCLUDED)) == 0
    return good
