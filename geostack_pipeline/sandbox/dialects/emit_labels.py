"""Outlines of plumes as they could be drawn otherwise: more generously, or in the wrong place."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.features
import shapely
from scipy.ndimage import binary_dilation

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.sandbox.dialects.base import StoredObject
from geostack_pipeline.sandbox.dialects.emit_granules import Record
from geostack_pipeline.sandbox.world.products import write_geotiff

KINDS = ("true", "wider", "wrong")
"""``true``: as first drawn; ``wider``: one pixel more all around; ``wrong``: beside the plume, where there is no gas."""


def redraw(record: Record, kind: str, room: shapely.Geometry | None) -> Record:
    """Return a plume's granule with its raster, its outline and its footprint drawn otherwise.

    Args:
        record: Granule of a plume as first drawn.
        kind: One of :data:`KINDS`.
        room: Where a wrong outline is put, as far as it fits: the part of its scene that users look at.

    Raises:
        SettingsError: The granule is no plume.
    """
    rasters = [name for name in record.files if name.endswith(".tif")]
    outlines = [name for name in record.files if name.endswith(".json")]
    if record.plume is None or len(rasters) != 1 or len(outlines) != 1:
        raise SettingsError(
            "only a plume has an outline",
            subject=f"sandbox change label of {record.name}",
            action="name a granule of CH4PLM",
        )
    if kind == "true":
        return record
    with rasterio.MemoryFile(_bytes(record.files[rasters[0]])) as memory, memory.open() as raster:
        values, nodata = raster.read(1), float(raster.nodata)
        affine = tuple(raster.transform)[:6]
    if kind == "wider":
        values, affine = _wider(values, nodata, affine)
    else:
        affine = _aside(values.shape, affine, room)
    inside = values != nodata
    metadata = json.loads(_bytes(record.files[outlines[0]]))
    for feature in metadata["features"]:
        if feature["geometry"]["type"] == "Polygon":
            feature["geometry"] = _outline(inside, affine)
        elif kind == "wrong":
            x, y = _middle(inside, affine)
            feature["geometry"]["coordinates"][:2] = [x, y]
    height, width = values.shape
    west, north, step = affine[2], affine[5], affine[0]
    return replace(
        record,
        footprint=shapely.box(west, north - step * height, west + step * width, north),
        files={
            rasters[0]: _stored(_raster(values, nodata, affine), record.files[rasters[0]]),
            outlines[0]: _stored(json.dumps(metadata).encode(), record.files[outlines[0]]),
        },
    )


def _wider(
    values: npt.NDArray[Any], nodata: float, affine: tuple[float, ...]
) -> tuple[npt.NDArray[Any], tuple[float, ...]]:
    """Return the raster with one more pixel all around, which takes the value of the outline's edge."""
    padded = np.pad(values, 1, constant_values=nodata)
    inside = padded != nodata
    grown = binary_dilation(inside, np.ones((3, 3)))
    edge = float(values[values != nodata].min())
    padded = np.where(grown & ~inside, np.asarray(edge, padded.dtype), padded)
    a, b, c, d, e, f = affine
    return padded, (a, b, c - a, d, e, f - e)


def _aside(
    shape: tuple[int, ...], affine: tuple[float, ...], room: shapely.Geometry | None
) -> tuple[float, ...]:
    """Return where the raster lies when it is moved by more than its own size, in the room as far as it fits."""
    height, width = shape[0], shape[1]
    a, b, c, d, e, f = affine
    moved = [
        (a, b, c + dx * a * (width + 2), d, e, f + dy * e * (height + 2))
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1))
    ]
    if room is None:
        return moved[0]

    def covered(place: tuple[float, ...]) -> float:
        west, north = place[2], place[5]
        box = shapely.box(west, north + e * height, west + a * width, north)
        return float(shapely.area(shapely.intersection(box, room)))

    return max(moved, key=covered)


def _outline(inside: npt.NDArray[np.bool_], affine: tuple[float, ...]) -> dict[str, Any]:
    polygons = [
        shapely.geometry.shape(geometry)
        for geometry, value in rasterio.features.shapes(
            inside.astype(np.uint8), mask=inside, transform=rasterio.Affine(*affine)
        )
        if value == 1
    ]
    largest = max(polygons, key=lambda part: part.area)
    return {"type": "Polygon", "coordinates": [[list(point) for point in largest.exterior.coords]]}


def _middle(inside: npt.NDArray[np.bool_], affine: tuple[float, ...]) -> tuple[float, float]:
    rows, columns = np.nonzero(inside)
    x, y = rasterio.Affine(*affine) @ (float(columns.mean()) + 0.5, float(rows.mean()) + 0.5)
    return float(x), float(y)


def _raster(values: npt.NDArray[Any], nodata: float, affine: tuple[float, ...]) -> bytes:
    a, b, c, d, e, f = affine
    with tempfile.TemporaryDirectory(prefix="geostack-sandbox-") as folder:
        path = Path(folder) / "plume.tif"
        write_geotiff(path, values[None], epsg=4326, transform=(a, b, c, d, e, f), nodata=nodata)
        return path.read_bytes()


def _bytes(stored: StoredObject) -> bytes:
    return stored.data if stored.path is None else stored.path.read_bytes()


def _stored(data: bytes, before: StoredObject) -> StoredObject:
    return StoredObject(
        content_type=before.content_type,
        size=len(data),
        md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
        data=data,
    )
