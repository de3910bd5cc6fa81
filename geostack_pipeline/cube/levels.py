"""Which overview of an image stands for it on a coarser grid: the rule of ``gdalwarp -ovr AUTO``.

GDAL compares the pixels of the whole image's diagonal, which says little where image and grid are turned to each other or a
degree is longer in one direction: there an overview is chosen whose pixels are larger than the grid's, or two images that
lie side by side come from different ones.  Here they are compared over the grid, along the axis where its pixels are finer.
In the image's own CRS that is the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.cube.warp import CoordinateMap, coordinate_map
from geostack_pipeline.raster.crop import ChooseImage, Cut, FullImage

_NEARLY = 0.1
"""Pixels of the full image by which an overview's pixel may exceed the grid's and still count as its size, as in GDAL
since 3.9: on a grid of 19.5 m the overview of 20 m stands for an image of 10 m, on one of 19 m it does not."""
_ROUNDING = 1e-9
"""A grid on that very boundary counts as below it, however its pixel size was computed (in GDAL rounding decides)."""


def overview_level(where: CoordinateMap, width: int, overviews: Sequence[tuple[int, int]]) -> int | None:
    """Return the place of the coarsest overview whose pixels are not larger than the grid's, or hardly; None for none of them.

    Args:
        where: The map from the grid to the full image.
        width: Columns of the full image.
        overviews: (width, height) of the reduced images.
    """
    ratio = min(where.spans)
    if ratio <= 1.0:
        return None
    best: int | None = None
    factor = 1.0
    for level, (columns, _) in enumerate(overviews):
        own = width / columns
        if factor < own < ratio + _NEARLY - _ROUNDING:
            best, factor = level, own
    return best


def image_for(grid: GridSpec) -> ChooseImage:
    """Return what chooses the image of a file that a grid is to be made of."""

    def choose(image: FullImage) -> Cut:
        where = coordinate_map(grid, image.crs, image.transform, image.width, image.height)
        level = overview_level(where, image.width, image.overviews)
        factor = 1.0 if level is None else image.width / image.overviews[level][0]
        return Cut(level=level, margin=_margin(where, factor))

    return choose


def whole_image_for(grid: GridSpec) -> ChooseImage:
    """Return what chooses the full image of a file, with the margin that weights on a grid's edge reach into."""

    def choose(image: FullImage) -> Cut:
        where = coordinate_map(grid, image.crs, image.transform, image.width, image.height)
        return Cut(level=None, margin=_margin(where, 1.0))

    return choose


def _margin(where: CoordinateMap, factor: float) -> int:
    """Return the pixels to have around a grid, of an image reduced by ``factor``.

    Weights reach as far from a pixel's centre as it is wide, so beyond the grid's edge by half of that.
    """
    return math.ceil(max(where.spans) / factor / 2.0) + 1
