"""The part of a product on a map that the areas need, read lazily on the product's own grid."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geostack_pipeline.cube.granule import OutsideError, SourceFile
from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster.geo import shifted
from geostack_pipeline.raster.source import Raster, open_raster
from geostack_pipeline.raster.window import Bounds, Window, window_of_bounds


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The part of a raster that the areas need."""

    raster: Raster
    window: Window
    grid: GridSpec


def open_cut(file: SourceFile, bounds: Bounds, stack: ExitStack) -> Cut | None:
    """Open a raster and return its part inside the bounds; None where they do not meet."""
    raster = stack.enter_context(open_raster(file.store, file.key))
    if raster.crs is None or raster.transform is None:
        raise RasterError(
            "The image has no georeferencing",
            subject=file.key,
            found="no CRS" if raster.crs is None else "no affine transform",
            action="fetch the object again; if it stays so, the source is another product",
        )
    window = window_of_bounds(
        bounds,
        "EPSG:4326",
        crs=raster.crs,
        transform=raster.transform,
        width=raster.width,
        height=raster.height,
    )
    if window is None:
        return None
    grid = GridSpec(
        crs=raster.crs,
        transform=shifted(raster.transform, window.column, window.row),
        width=window.width,
        height=window.height,
    )
    return Cut(raster=raster, window=window, grid=grid)


def required_cut(file: SourceFile, bounds: Bounds, stack: ExitStack, subject: str) -> Cut:
    """Return the part of a raster inside the bounds.

    Raises:
        OutsideError: They do not meet.
        RasterError: The raster is not georeferenced.
    """
    cut = open_cut(file, bounds, stack)
    if cut is None:
        raise OutsideError(
            "The raster does not reach the areas",
            subject=subject,
            found=f"areas within {bounds}",
            action="nothing: the granule's footprint is larger than its raster",
        )
    return cut


def window_in(cut: Cut, box: tuple[slice, ...]) -> Window:
    """Return the window of the raster that a box of the cut is."""
    rows, columns = box
    return Window(
        cut.window.column + columns.start,
        cut.window.row + rows.start,
        columns.stop - columns.start,
        rows.stop - rows.start,
    )


def plane_reader(cut: Cut) -> Callable[[tuple[slice, ...]], npt.NDArray[Any]]:
    """Return what reads boxes of the cut's first band."""

    def read(box: tuple[slice, ...]) -> npt.NDArray[Any]:
        if any(side.stop <= side.start for side in box):
            return np.empty([side.stop - side.start for side in box], cut.raster.dtype)
        return cut.raster.read(window_in(cut, box))

    return read


def same_grid(one: GridSpec, other: GridSpec) -> bool:
    """Return whether two grids have their pixels at the same places, to a thousandth of a pixel."""
    close = np.allclose(one.transform, other.transform, rtol=0.0, atol=1e-3 * abs(other.transform[0]))
    return one.crs == other.crs and one.shape == other.shape and bool(close)
