"""True colours of the ground under a spectrometer's methane: from whichever node of the scene has them, on the fields' grid."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyproj
import xarray as xr
from numpy.typing import NDArray

_COLOURS_NM = (660.0, 560.0, 480.0)
_NEAR_NM = 60.0
"""A band further from a colour does not stand for it."""
_LEAST_SHARE = 0.05
"""Of the fields' pixels with a value, that colours must lie under: a node of another place shows nothing of them."""
_PAPER = 0.93


def ground_colours(nodes: Iterable[xr.Dataset], fields: xr.Dataset) -> NDArray[np.float32] | None:
    """Return red, green and blue (rows, columns, 3) from 0 to 1 of the ground under the fields; None where no node has them.

    A product of methane has no colours of its own, and the detector of methane none of EnMAP's L1B: the scene's radiance
    or reflectance, and the other detector, lie on grids of their own, of which the nearest pixel is taken.

    Args:
        nodes: Cube nodes of the scene, decoded; the first that shows colours under the fields is taken.
        fields: Methane fields on a map grid.
    """
    for node in nodes:
        planes = _planes(node)
        if planes is None:
            continue
        colours = _at(planes, fields)
        known: NDArray[np.bool_] = np.asarray(np.isfinite(colours).all(axis=-1))
        seen = np.isfinite(fields["ch4_enhancement"].values).reshape(-1, *known.shape).any(axis=0)
        if (known & seen).sum() > _LEAST_SHARE * seen.sum():
            return _stretched(colours, known)
    return None


def _planes(node: xr.Dataset) -> xr.DataArray | None:
    """Return red, green and blue of a node on its own map, (y, x, wavelength); None where it has no such bands or no map."""
    if "radiance_vnir" in node:
        from geostack_pipeline.cube.swath_enmap import detector  # noqa: PLC0415 - it brings rasterio

        node = detector(node, "vnir")
    name = next((each for each in ("radiance", "reflectance", "spectra") if each in node.data_vars), None)
    if name is None or "wavelength" not in node[name].dims:
        return None
    wavelength = np.asarray(node["wavelength"].values, np.float64)
    bands = [int(np.argmin(np.abs(wavelength - nm))) for nm in _COLOURS_NM] if wavelength.size else []
    if not bands or any(
        abs(wavelength[band] - nm) > _NEAR_NM for band, nm in zip(bands, _COLOURS_NM, strict=True)
    ):
        return None
    planes = node[name].isel(wavelength=bands)
    if "downtrack" in planes.dims:
        if "glt_x" not in node:
            return None
        from geostack_pipeline.cube.ortho import orthorectify  # noqa: PLC0415 - it compiles

        planes = orthorectify(planes.transpose("downtrack", "crosstrack", "wavelength"), node)[name]
    if not {"x", "y"} <= set(planes.dims) or "spatial_ref" not in planes.coords:
        return None
    return planes.transpose("y", "x", "wavelength")


def _at(planes: xr.DataArray, fields: xr.Dataset) -> NDArray[np.float32]:
    """Return the nearest pixel of planes for each pixel of the fields; NaN beside them."""
    crs, wanted = (pyproj.CRS.from_wkt(each["spatial_ref"].attrs["crs_wkt"]) for each in (planes, fields))
    x, y = np.meshgrid(fields["x"].values.astype(np.float64), fields["y"].values.astype(np.float64))
    if crs != wanted:
        x, y = pyproj.Transformer.from_crs(wanted, crs, always_xy=True).transform(x, y)
    own_x, own_y = (planes[axis].values.astype(np.float64) for axis in ("x", "y"))
    if crs.is_geographic:
        # Across the antimeridian one map runs on beyond 180, and another one begins at -180.
        x = x + 360.0 * np.round((own_x[own_x.size // 2] - x) / 360.0)
    rows, row_known = _nearest(own_y, y)
    columns, column_known = _nearest(own_x, x)
    values = np.asarray(planes.values, np.float32)
    return np.where((row_known & column_known)[..., None], values[rows, columns], np.float32("nan"))


def _nearest(
    axis: NDArray[np.float64], place: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the number of the nearest pixel along an even axis, and where there is one."""
    step = (axis[-1] - axis[0]) / (axis.size - 1) if axis.size > 1 else 1.0
    number = np.floor((place - axis[0]) / step + 0.5)
    inside = (number >= 0) & (number < axis.size)
    return np.where(inside, number, 0).astype(np.intp), inside


def _stretched(colours: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    # Each colour by itself: radiance is bluer than the ground, by the air above it.
    low, high = np.percentile(colours[known], [1.0, 99.0], axis=0)
    low *= 0.6
    stretched = np.clip((np.nan_to_num(colours) - low) / np.maximum(high - low, 1e-6), 0.0, 1.0) ** 0.9
    stretched[~known] = _PAPER
    return np.asarray(stretched, np.float32)
