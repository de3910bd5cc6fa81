"""Which pixels of an imaging spectrometer's granule take part, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntFlag
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geostack_pipeline.raster.band_mask import band_flags


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
    """Marked as defective, many of its bands interpolated, a spacecraft in the view, or too dark for a ratio."""
    FLARE = 128
    """A flame: it shines at 2.39 um more than sunlit ground does."""
    SATURATED = 256
    """At the end of the detector's range in the window of methane."""
    COLUMN_NOT_RETRIEVED = 512
    """Its detector column, or its cluster, has too few good pixels or dead bands."""
    NO_CLOUD_MASK = 1024
    """No mask of clouds tells of the pixel; it is used, but only a coarse test looked for clouds."""


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
INTERPOLATED_SHARE = 0.1
"""A pixel in which more of the window's bands are interpolated is left out; a few of fifty change a filter little, and
dropping every column with one of them would cost a fifth of a granule."""
_LINES_AT_ONCE = 256
_CLOUD_MASKS = ("mask_cloud", "mask_spectf_cloud", "quality_cloud")
MASKS = (*_MASKS, "quality_classes")
"""Variables of a node that tell something of a pixel as a whole."""
MASK_NO_DATA = 255


def quality_attributes() -> dict[str, Any]:
    """Return the CF attributes of ``quality_flags``: masks (uint16) and meanings in the same order."""
    return {
        "long_name": "quality of the methane retrieval",
        "standard_name": "quality_flag",
        "flag_masks": np.array([int(flag) for flag in SwathQuality], dtype=np.uint16),
        "flag_meanings": " ".join(str(flag.name).lower() for flag in SwathQuality),
    }


def from_masks(shape: tuple[int, int], dims: tuple[str, str], *nodes: xr.Dataset) -> NDArray[np.uint16]:
    """Return the bits that masks set; of several nodes, a pixel's is that of the first one that tells something of it.

    Pixels of which no mask of clouds tells anything get ``NO_CLOUD_MASK``: there is none, it has another size, or it has
    no data there.

    Args:
        shape: That of a plane.
        dims: The plane's dimensions; a mask may have them in the other order.
        nodes: Nodes of one scene.
    """
    flags = np.zeros(shape, np.uint16)
    unknown = np.ones(shape, bool)
    for name, flag in _MASKS.items():
        values = _plane(name, shape, dims, nodes)
        if values is None:
            continue
        told = values != MASK_NO_DATA
        flags[told & (values != 0)] |= np.uint16(flag)
        if name in _CLOUD_MASKS:
            unknown &= ~told
    classes = _plane("quality_classes", shape, dims, nodes)
    if classes is not None:
        flags[classes == 2] |= np.uint16(SwathQuality.WATER)
        flags[classes == 3] |= np.uint16(SwathQuality.NO_DATA)
    flags[unknown] |= np.uint16(SwathQuality.NO_CLOUD_MASK)
    return flags


def unfit_masks(shape: tuple[int, int], dims: tuple[str, str], *nodes: xr.Dataset) -> list[str]:
    """Return which nodes hold masks of another size than the plane, in words; they are not used."""
    found = []
    for node in nodes:
        named = (node[name] for name in MASKS if name in node and set(node[name].dims) == set(dims))
        size = next((each.transpose(*dims).shape for each in named), shape)
        if size != shape:
            sizes = " beside ".join("x".join(map(str, each)) for each in (size, shape))
            found.append(f"{node.attrs.get('item_id', 'a companion')}: {sizes}")
    return found


def _plane(
    name: str, shape: tuple[int, int], dims: tuple[str, str], nodes: Iterable[xr.Dataset]
) -> NDArray[Any] | None:
    """Return a mask of these dimensions, what one node does not tell taken from the next; None without any that fits."""
    found: NDArray[Any] | None = None
    for node in nodes:
        if name not in node or set(node[name].dims) != set(dims):
            continue
        values = np.asarray(node[name].transpose(*dims).values)
        if values.shape != shape:
            continue
        if values.dtype.kind == "f":
            values = np.where(np.isnan(values), MASK_NO_DATA, values)
        found = values if found is None else np.where(found == MASK_NO_DATA, values, found)
        if not (found == MASK_NO_DATA).any():
            break
    return found


def from_band_mask(
    shape: tuple[int, int], numbers: NDArray[np.int64], *nodes: xr.Dataset
) -> NDArray[np.uint16]:
    """Return the bits that the mask of single bands sets, that of the first node that has one of these bands.

    Args:
        shape: Lines and samples.
        numbers: The window's bands in the product, counted from 1.
        nodes: Nodes of one scene; the mask is unpacked on the wavelengths of the node, or packed.
    """
    flags = np.zeros(shape, np.uint16)
    for node in nodes:
        mask, places = _band_mask(node, numbers)
        if mask is None or mask.shape[:2] != shape:
            continue
        for start in range(0, shape[0], _LINES_AT_ONCE):
            part = slice(start, start + _LINES_AT_ONCE)
            if places is None:
                marked = band_flags(np.asarray(mask[part].values), (numbers - 1).tolist()) == 1
            else:
                marked = np.asarray(mask[part].values)[..., places] == 1
            flags[part][marked.mean(axis=-1) > INTERPOLATED_SHARE] |= np.uint16(
                SwathQuality.DEFECTIVE_OR_DARK
            )
        break
    return flags


def _band_mask(
    node: xr.Dataset, numbers: NDArray[np.int64]
) -> tuple[xr.Variable | None, NDArray[np.intp] | None]:
    """Return a node's mask of single bands, and where the bands lie in it; None for those of a packed one."""
    if "band_mask" in node and "band_number" in node:
        there = np.asarray(node["band_number"].values, np.int64)
        if np.isin(numbers, there).all():
            places = np.argsort(there)[np.searchsorted(np.sort(there), numbers)]
            return node["band_mask"].variable.transpose("downtrack", "crosstrack", "wavelength"), places
    if "band_mask_packed" in node and 8 * node.sizes["packed_band"] >= numbers.max():
        return node["band_mask_packed"].variable.transpose("downtrack", "crosstrack", "packed_band"), None
    return None, None


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


def blue_band(node: xr.Dataset) -> int | None:
    """Return the place of a node's first band in blue; None without one."""
    if "wavelength" not in node.coords:
        return None
    wavelength = np.asarray(node["wavelength"].values, np.float64)
    blue = np.flatnonzero((wavelength >= _BLUE_NM[0]) & (wavelength <= _BLUE_NM[1]))
    return int(blue[0]) if blue.size else None


def bright_in_blue(node: xr.Dataset, sun_zenith_deg: float) -> NDArray[np.bool_] | None:
    """Return where a radiance node is as bright in blue as only clouds and snow are; None without a blue band."""
    blue = blue_band(node)
    if blue is None or not np.isfinite(sun_zenith_deg):
        return None
    radiance = np.asarray(node["radiance"].isel(wavelength=blue).values, np.float32)
    apparent = np.pi * radiance / (_BLUE_IRRADIANCE * max(np.cos(np.radians(sun_zenith_deg)), 0.1))
    with np.errstate(invalid="ignore"):
        bright: NDArray[np.bool_] = apparent > CLOUD_BLUE_REFLECTANCE
    return bright


def bright_reflectance(node: xr.Dataset) -> NDArray[np.bool_]:
    """Return where a reflectance node on a map is as bright in blue as only clouds and snow are; nowhere without blue."""
    blue = blue_band(node)
    if blue is None:
        return np.zeros((node.sizes["y"], node.sizes["x"]), bool)
    values = np.asarray(node["reflectance"].isel(wavelength=blue).values, np.float32)
    with np.errstate(invalid="ignore"):
        bright: NDArray[np.bool_] = values > CLOUD_BLUE_REFLECTANCE
    return bright


def is_good(flags: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Return where no excluding bit is set."""
    good: NDArray[np.bool_] = (flags & np.uint16(EXCLUDED)) == 0
    return good
