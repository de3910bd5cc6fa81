"""Georeferencing of a TIFF, as GDAL reads it.

The GeoTIFF keys have too many dialects to be read twice.  The tags are put, unchanged, into a
TIFF of one pixel in memory, and GDAL says what they mean: the same answer as for the whole
file, for a fraction of a millisecond and without its pixels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster import tiff
from geostack_pipeline.raster.tiff import ByteOrder, Directory, Tag
from geostack_pipeline.raster.tiff_layout import EncodedImage, lay_out

Affine6 = tuple[float, float, float, float, float, float]
"""Affine transform (a, b, c, d, e, f): x = a*column + b*row + c, y = d*column + e*row + f;
(0, 0) is the outer corner of the first pixel."""

MODEL_PIXEL_SCALE = 33550
MODEL_TIEPOINT = 33922
MODEL_TRANSFORMATION = 34264
GEO_KEYS = 34735
GEO_DOUBLES = 34736
GEO_ASCII = 34737
GDAL_METADATA = 42112
GDAL_NODATA = 42113
RPC_COEFFICIENTS = 50844

_GEO_TAGS = (
    MODEL_PIXEL_SCALE,
    MODEL_TIEPOINT,
    MODEL_TRANSFORMATION,
    GEO_KEYS,
    GEO_DOUBLES,
    GEO_ASCII,
    GDAL_METADATA,
    GDAL_NODATA,
)
_LENGTHS = {
    MODEL_PIXEL_SCALE: (2, 1),
    MODEL_TIEPOINT: (6, 6),
    MODEL_TRANSFORMATION: (16, 16),
    RPC_COEFFICIENTS: (92, 92),
}
"""Fewest values of a tag, and the number its length is a multiple of; all are doubles."""
_IDENTITY: Affine6 = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Georeference:
    """What the tags of an image say about its place and its numbers."""

    crs: str | None
    """``EPSG:…`` where the CRS is one, else its WKT; None where the file has none."""
    transform: Affine6 | None
    """Pixel corner to CRS coordinates; None where the file has none (or only control points)."""
    nodata: float | None
    """No-data value of the first band."""
    scales: tuple[float, ...]
    """Scale per band as stored in the file, 1 where it has none."""
    offsets: tuple[float, ...]
    """Offset per band as stored in the file, 0 where it has none."""


def georeference(directory: Directory) -> Georeference:
    """Return the georeferencing of an image; reads nothing but its tags.

    Raises:
        RasterError: The tags are malformed, or GDAL cannot make sense of them.
    """
    for code, (smallest, multiple) in _LENGTHS.items():
        tag = directory.tags.get(code)
        if tag is not None and (tag.kind != 12 or tag.count < smallest or tag.count % multiple):
            raise _malformed(directory, f"tag {code} with {tag.count} values of type {tag.kind}")
    tags = tuple(directory.tags[code] for code in _GEO_TAGS if code in directory.tags)
    bits = directory.number(tiff.BITS_PER_SAMPLE, 1)
    sample_format = directory.number(tiff.SAMPLE_FORMAT, 1)
    try:
        place = _read_by_gdal(tags, directory.order, directory.samples, bits, sample_format)
    except RasterioError as error:
        raise RasterError(
            "The georeferencing cannot be read",
            subject=directory.source.key,
            found=str(error),
            action="look at the file with gdalinfo",
        ) from error
    if place.transform is not None:
        a, b, _, d, e, _ = place.transform
        determinant = a * e - b * d
        if determinant == 0.0 or not all(map(math.isfinite, (*place.transform, 1.0 / determinant))):
            raise _malformed(directory, f"the transform {place.transform}, which has no inverse")
    return place


def _malformed(directory: Directory, found: str) -> RasterError:
    return RasterError(
        "The georeferencing is malformed",
        subject=directory.source.key,
        found=found,
        action="fetch the object again; if it stays so, the source is corrupt",
    )


@lru_cache(maxsize=512)
def _read_by_gdal(
    tags: tuple[Tag, ...], order: ByteOrder, samples: int, bits: int, sample_format: int
) -> Georeference:
    short, long = 3, 4
    plain = {
        tiff.IMAGE_WIDTH: Tag.of(tiff.IMAGE_WIDTH, long, 1, order),
        tiff.IMAGE_LENGTH: Tag.of(tiff.IMAGE_LENGTH, long, 1, order),
        tiff.BITS_PER_SAMPLE: Tag.of(tiff.BITS_PER_SAMPLE, short, [bits] * samples, order),
        tiff.COMPRESSION: Tag.of(tiff.COMPRESSION, short, 1, order),
        tiff.PHOTOMETRIC: Tag.of(tiff.PHOTOMETRIC, short, 1, order),
        tiff.SAMPLES_PER_PIXEL: Tag.of(tiff.SAMPLES_PER_PIXEL, short, samples, order),
        tiff.PLANAR_CONFIGURATION: Tag.of(tiff.PLANAR_CONFIGURATION, short, 1, order),
        tiff.TILE_WIDTH: Tag.of(tiff.TILE_WIDTH, long, 16, order),
        tiff.TILE_LENGTH: Tag.of(tiff.TILE_LENGTH, long, 16, order),
        tiff.SAMPLE_FORMAT: Tag.of(tiff.SAMPLE_FORMAT, short, [sample_format] * samples, order),
    }
    if samples > 1:
        plain[tiff.EXTRA_SAMPLES] = Tag.of(tiff.EXTRA_SAMPLES, short, [0] * (samples - 1), order)
    one_pixel = lay_out(
        [
            EncodedImage(
                tags={**plain, **{tag.code: tag for tag in tags}},
                identities=np.full(1, -1, np.int64),
                byte_counts=np.zeros(1, np.int64),
            )
        ],
        order=order,
        big=any(tag.kind in {16, 17, 18} for tag in tags),
    )
    with warnings.catch_warnings(), rasterio.Env(GDAL_PAM_ENABLED="NO"):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with MemoryFile(one_pixel.header) as memory, memory.open(driver="GTiff") as dataset:
            transform: Affine6 = tuple(dataset.transform)[:6]
            crs = dataset.crs
            return Georeference(
                crs=None if not crs else name_of(crs),
                transform=None if transform == _IDENTITY else transform,
                nodata=dataset.nodata,
                scales=tuple(dataset.scales),
                offsets=tuple(dataset.offsets),
            )


def name_of(crs: rasterio.crs.CRS) -> str:
    """Return ``EPSG:…`` only where the code stands for exactly this CRS, else WKT: GDAL's code may be of a similar one."""
    code = crs.to_epsg()
    if code is not None and rasterio.crs.CRS.from_epsg(code) == crs:
        return f"EPSG:{code}"
    return str(crs.to_wkt())


def shifted_tags(directory: Directory, transform: Affine6, column: int, row: int) -> dict[int, Tag]:
    """Return the georeferencing tags of a window that begins at (column, row) of an image.

    Pixel scale and keys stay; the tie point moves with the corner, control points and the
    rational polynomial keep the ground and move the image; a full matrix gets a new origin.
    """
    order = directory.order
    tags: dict[int, Tag] = {}
    points = directory.tags.get(MODEL_TIEPOINT)
    scale = directory.tags.get(MODEL_PIXEL_SCALE)
    if points is not None:
        values = points.values(order).astype(np.float64).reshape(-1, 6)
        if scale is not None and len(values) == 1:
            # by the transform as read, for GDAL takes a negative vertical scale as positive
            values[0, 3] += column * transform[0]
            values[0, 4] += row * transform[4]
        else:
            values[:, 0] -= column
            values[:, 1] -= row
        tags[MODEL_TIEPOINT] = Tag.of(MODEL_TIEPOINT, 12, values.ravel(), order)
    matrix = directory.tags.get(MODEL_TRANSFORMATION)
    if matrix is not None:
        values = matrix.values(order).astype(np.float64)
        if values.size == 16:
            values[3] += column * values[0] + row * values[1]
            values[7] += column * values[4] + row * values[5]
            tags[MODEL_TRANSFORMATION] = Tag.of(MODEL_TRANSFORMATION, 12, values, order)
    polynomial = directory.tags.get(RPC_COEFFICIENTS)
    if polynomial is not None:
        values = polynomial.values(order).astype(np.float64)
        values[2] -= row  # line offset
        values[3] -= column  # sample offset
        tags[RPC_COEFFICIENTS] = Tag.of(RPC_COEFFICIENTS, 12, values, order)
    return tags


def placed_tags(directory: Directory, transform: Affine6) -> dict[int, Tag]:
    """Return the georeferencing tags that put an image of a file's own CRS where ``transform`` says.

    An overview has none of its own: it lies on the ground of the full image.

    Args:
        directory: The full image, whose CRS, no-data value, scales and offsets are taken over.
        transform: Pixel corner to CRS coordinates.

    Raises:
        RasterError: The tags are malformed.
    """
    order = directory.order
    kept = (GEO_KEYS, GEO_DOUBLES, GEO_ASCII, GDAL_METADATA, GDAL_NODATA)
    tags = {code: directory.tags[code] for code in kept if code in directory.tags}
    a, b, c, d, e, f = transform

    def at(x: float, y: float) -> dict[int, Tag]:
        matrix = (a, b, 0.0, x, d, e, 0.0, y, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
        return {**tags, MODEL_TRANSFORMATION: Tag.of(MODEL_TRANSFORMATION, 12, matrix, order)}

    read = georeference(replace(directory, tags={**_without_place(directory.tags), **at(c, f)})).transform
    assert read is not None
    # Keys may say that places are those of pixels' centres: then they are read half a pixel from what was written.
    return at(c + (c - read[2]), f + (f - read[5]))


def _without_place(tags: Mapping[int, Tag]) -> dict[int, Tag]:
    place = {MODEL_PIXEL_SCALE, MODEL_TIEPOINT, MODEL_TRANSFORMATION, RPC_COEFFICIENTS}
    return {code: tag for code, tag in tags.items() if code not in place}


def shifted(transform: Affine6, column: int, row: int) -> Affine6:
    """Return the transform of a window that begins at (column, row)."""
    a, b, c, d, e, f = transform
    return (a, b, c + a * column + b * row, d, e, f + d * column + e * row)


def scaled(transform: Affine6, x: float, y: float) -> Affine6:
    """Return the transform of the same ground in pixels ``x`` times as wide and ``y`` times as high."""
    a, b, c, d, e, f = transform
    return (a * x, b * y, c, d * x, e * y, f)


def inverse(transform: Affine6) -> Affine6:
    """Return the transform from CRS coordinates to pixel corners.

    Raises:
        ValueError: The transform maps the image onto a line.
    """
    a, b, c, d, e, f = transform
    determinant = a * e - b * d
    if determinant == 0.0:
        raise ValueError(f"the transform {transform} has no inverse")
    ia, ib, id_, ie = e / determinant, -b / determinant, -d / determinant, a / determinant
    return (ia, ib, -(ia * c + ib * f), id_, ie, -(id_ * c + ie * f))
