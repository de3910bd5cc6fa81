"""The reduced images (overviews) of a TIFF that may stand for its full one."""

from __future__ import annotations

from geostack_pipeline.raster import tiff
from geostack_pipeline.raster.codecs import decodable, pixel_type
from geostack_pipeline.raster.tiff import Directory, TiffFile


def reduced_images(file: TiffFile) -> list[tuple[Directory, Directory | None]]:
    """Return the reduced images with their masks, finest first: those that can be read as the full one is."""
    masks = {
        (d.width, d.height): d
        for d in file.directories[1:]
        if d.subfile_type & tiff.SUBFILE_MASK and d.subfile_type & tiff.SUBFILE_OVERVIEW
    }
    found = []
    for directory in file.overviews:
        mask = masks.get((directory.width, directory.height)) if file.mask is not None else None
        if file.mask is not None and mask is None:
            continue
        if directory.samples != file.main.samples or pixel_type(directory) != pixel_type(file.main):
            continue
        if decodable(directory) and (mask is None or decodable(mask)):
            found.append((directory, mask))
    return found
