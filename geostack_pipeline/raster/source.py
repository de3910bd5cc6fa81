"""Rasters opened on an object store: windows and tiles as arrays.

Tiled TIFFs are read by ranges and decoded here; everything else that GDAL knows (strips,
JPEG, JPEG 2000 …) is read through rasterio from a local file, which is fetched first where
the store is remote.
"""

from __future__ import annotations

import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
import rasterio
from obstore.store import LocalStore
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterioWindow

from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster.codecs import TileDecoder, decodable
from geostack_pipeline.raster.fetch import SourceObject, looks_like_text, merged, not_a_raster
from geostack_pipeline.raster.geo import Affine6, Georeference, georeference
from geostack_pipeline.raster.tiff import Directory, TiffFile, is_tiff, read_structure
from geostack_pipeline.raster.window import Window

if TYPE_CHECKING:
    from obstore.store import ObjectStore

Array = npt.NDArray[np.generic]
TileId = tuple[int, int]
"""Row and column of a tile."""

_STRIP_ROWS = 256
"""Rows of the tiles that a file without tiles is read in."""


class Raster(ABC):
    """An image on a map. Bands are counted from 1. Reads are thread-safe.

    Use as a context manager, or call :meth:`close`: a temporary file may be behind it.
    """

    key: str
    """Name shown in errors."""
    crs: str | None
    """``EPSG:…`` or WKT; None where the file has none."""
    transform: Affine6 | None
    """Pixel corner to CRS coordinates; None where the file has none."""
    width: int
    """Columns."""
    height: int
    """Rows."""
    count: int
    """Bands."""
    dtype: np.dtype[np.generic]
    """Type of a sample."""
    nodata: float | None
    """No-data value stored in the file; None where it has none."""
    scales: tuple[float, ...]
    """Scale per band stored in the file; not applied."""
    offsets: tuple[float, ...]
    """Offset per band stored in the file; not applied."""
    tile_width: int
    """Columns of the tiles that reads are made of."""
    tile_height: int
    """Rows of the tiles."""
    overviews: tuple[tuple[int, int], ...]
    """(width, height) of the reduced images, finest first."""
    has_mask: bool
    """Whether an internal mask says which pixels are valid."""

    @property
    def tile_grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return (-(-self.height // self.tile_height), -(-self.width // self.tile_width))

    @property
    @abstractmethod
    def bytes_moved(self) -> int:
        """Bytes read from the store so far."""

    @abstractmethod
    def read_tiles(
        self, tiles: Sequence[TileId], band: int = 1, *, masks: bool = False
    ) -> Iterator[tuple[TileId, Array]]:
        """Yield tiles as (rows, columns) arrays of full tile size, in any order.

        Pixels behind the image's edge hold anything.  With ``masks`` the internal mask is
        read instead: non-zero is valid.
        """

    def read(self, window: Window, band: int = 1) -> Array:
        """Return a window of one band, shaped (window.height, window.width), in the file's numbers.

        Raises:
            RasterError: The window is not inside the image, the band does not exist, or a tile is corrupt.
        """
        column, row, width, height = window
        inside = (
            column >= 0 and row >= 0 and window.stop_column <= self.width and window.stop_row <= self.height
        )
        if not inside or width <= 0 or height <= 0:
            raise RasterError(
                "The window is not inside the image",
                subject=self.key,
                found=f"columns {column}-{window.stop_column}, rows {row}-{window.stop_row} of {self.width} x {self.height}",
                action="cut the window to the image first",
            )
        if not 1 <= band <= self.count:
            raise RasterError(
                "The band does not exist",
                subject=self.key,
                found=f"band {band} of {self.count}",
                action="bands are counted from 1",
            )
        out = np.empty((height, width), self.dtype)
        th, tw = self.tile_height, self.tile_width
        tiles = [
            (i, j)
            for i in range(row // th, -(-window.stop_row // th))
            for j in range(column // tw, -(-window.stop_column // tw))
        ]
        for (i, j), tile in self.read_tiles(tiles, band):
            paste(tile, i * th, j * tw, out, row, column)
        return out

    @abstractmethod
    def close(self) -> None:
        """Release what is behind the raster."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def paste(tile: Array, tile_row: int, tile_column: int, out: Array, row: int, column: int) -> None:
    """Copy the part of a tile at (tile_row, tile_column) that lies in ``out``, which begins at (row, column)."""
    top, left = max(tile_row, row), max(tile_column, column)
    bottom = min(tile_row + tile.shape[0], row + out.shape[0])
    right = min(tile_column + tile.shape[1], column + out.shape[1])
    if bottom > top and right > left:
        out[top - row : bottom - row, left - column : right - column] = tile[
            top - tile_row : bottom - tile_row, left - tile_column : right - tile_column
        ]


def open_raster(store: ObjectStore, key: str) -> Raster:
    """Return a raster; reads its header only, unless GDAL must read the file (then a remote one is fetched whole).

    Raises:
        RasterError: The object is no raster, or corrupt; says what was found.
        TransferError: The bytes could not be moved.
        AuthError: The store refuses.
    """
    source = SourceObject(store, key)
    if is_tiff(source.head):
        file = read_structure(source)
        if decodable(file.main) and (file.mask is None or decodable(file.mask)):
            return _TiledTiff(source, file)
    elif looks_like_text(source.head):
        raise not_a_raster(key, source.head)
    return _ThroughGdal(source)


class _TiledTiff(Raster):
    def __init__(self, source: SourceObject, file: TiffFile) -> None:
        main = file.main
        place = georeference(main)
        self.key = source.key
        self._take(place)
        self.width, self.height, self.count = main.width, main.height, main.samples
        self.tile_width, self.tile_height = main.tile_width, main.tile_height
        self.overviews = tuple((d.width, d.height) for d in file.overviews)
        self._source = source
        self._image = _Tiles(main)
        assert self._image.decoder.dtype is not None
        self.dtype = self._image.decoder.dtype
        self._fill = self.dtype.type(0)
        if place.nodata is not None:
            self._fill = _as_type(place.nodata, self.dtype)
        self._mask = None if file.mask is None else _Tiles(file.mask)
        self.has_mask = file.mask is not None
        if self._mask is not None and (
            (self._mask.decoder.width, self._mask.decoder.height) != (self.tile_width, self.tile_height)
        ):
            raise RasterError(
                "The internal mask has other tiles than the image",
                subject=self.key,
                found=f"{self._mask.decoder.width} x {self._mask.decoder.height}",
                action="write the file again with one tile size",
            )

    def _take(self, place: Georeference) -> None:
        self.crs, self.transform, self.nodata = place.crs, place.transform, place.nodata
        self.scales, self.offsets = place.scales, place.offsets

    @property
    def bytes_moved(self) -> int:
        return self._source.bytes_moved

    def read_tiles(
        self, tiles: Sequence[TileId], band: int = 1, *, masks: bool = False
    ) -> Iterator[tuple[TileId, Array]]:
        image = self._image
        if masks:
            if self._mask is None:
                raise ValueError(f"{self.key} has no internal mask")
            image, band = self._mask, 1
        plane, sample = (band - 1, 0) if image.planar else (0, band - 1)
        shape = (image.decoder.height, image.decoder.width)
        wanted: list[tuple[int, int, TileId]] = []
        for tile in tiles:
            start, count = int(image.offsets[plane, *tile]), int(image.counts[plane, *tile])
            if count:
                wanted.append((start, start + count, tile))
            else:
                fill = np.uint8(0) if masks else self._fill
                yield tile, np.full(shape, fill, image.decoder.dtype)
        wanted.sort()
        i = 0
        for first, last in merged([(start, stop) for start, stop, _ in wanted]):
            data = self._source.cached(first, last) or self._source.read_many([(first, last)])[0]
            while i < len(wanted) and wanted[i][1] <= last:
                start, stop, tile = wanted[i]
                decoded = image.decoder.decode(data[start - first : stop - first])
                yield tile, np.ascontiguousarray(decoded[:, :, sample])
                i += 1

    def close(self) -> None:
        """Nothing is held."""


class _Tiles:
    """The tile index and the decoder of one image."""

    def __init__(self, directory: Directory) -> None:
        self.offsets, self.counts = directory.tile_index()
        self.planar = directory.is_planar
        self.decoder = TileDecoder(directory)


class _ThroughGdal(Raster):
    overviews: tuple[tuple[int, int], ...] = ()

    def __init__(self, source: SourceObject) -> None:
        self.key = source.key
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._moved = source.bytes_moved
        self._lock = Lock()
        path = self._local(source)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                self._dataset = rasterio.open(path)
        except RasterioError as error:
            self._release()
            raise RasterError(
                "GDAL cannot open the raster",
                subject=self.key,
                found=str(error).replace(str(path), self.key)[:200],
                action="fetch the object again; if it stays so, the source is corrupt or of an unknown format",
            ) from None
        data = self._dataset
        self.crs = None
        if data.crs:
            code = data.crs.to_epsg()
            self.crs = f"EPSG:{code}" if code else data.crs.to_wkt()
        transform = tuple(data.transform)[:6]
        self.transform = None if transform == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0) else transform
        self.width, self.height, self.count = data.width, data.height, data.count
        self.dtype = np.dtype(data.dtypes[0])
        self.nodata = data.nodata
        self.scales, self.offsets = tuple(data.scales), tuple(data.offsets)
        block_rows, block_columns = data.block_shapes[0]
        self.tile_width = block_columns
        self.tile_height = block_rows if block_columns < data.width else max(block_rows, _STRIP_ROWS)
        flags = data.mask_flag_enums[0]
        self.has_mask = rasterio.enums.MaskFlags.per_dataset in flags

    def _local(self, source: SourceObject) -> Path:
        store = source.store
        if isinstance(store, LocalStore):
            return Path(store.prefix or "/") / source.key
        self._folder = tempfile.TemporaryDirectory(prefix="geostack-raster-")
        path = Path(self._folder.name) / Path(source.key).name
        with path.open("wb") as file:
            for start, stop in _pieces(source.size):
                file.write(source.read_many([(start, stop)])[0])
        source.confirm_unchanged()
        self._moved = source.bytes_moved
        return path

    @property
    def bytes_moved(self) -> int:
        return self._moved

    def read_tiles(
        self, tiles: Sequence[TileId], band: int = 1, *, masks: bool = False
    ) -> Iterator[tuple[TileId, Array]]:
        for row, column in tiles:
            top, left = row * self.tile_height, column * self.tile_width
            height = min(self.tile_height, self.height - top)
            width = min(self.tile_width, self.width - left)
            window = RasterioWindow(left, top, width, height)
            try:
                with self._lock:
                    part = (
                        self._dataset.read_masks(band, window=window)
                        if masks
                        else self._dataset.read(band, window=window)
                    )
            except RasterioError as error:
                raise RasterError(
                    "GDAL cannot read the raster",
                    subject=self.key,
                    found=str(error)[:200],
                    action="fetch the object again; if it stays so, the source is corrupt",
                ) from None
            tile = np.zeros((self.tile_height, self.tile_width), part.dtype)
            tile[:height, :width] = part
            yield (row, column), tile

    def close(self) -> None:
        with self._lock:
            self._dataset.close()
        self._release()

    def _release(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def _pieces(size: int, step: int = 8 << 20) -> Iterator[tuple[int, int]]:
    for start in range(0, size, step):
        yield start, min(size, start + step)


def _as_type(value: float, dtype: np.dtype[np.generic]) -> np.generic:
    """Return a no-data value in the raster's type; 0 where the type cannot hold it, as GDAL does."""
    if dtype.kind == "f":
        return dtype.type(value)
    typed = np.array(value).astype(dtype, casting="unsafe") if np.isfinite(value) else None
    return dtype.type(0) if typed is None or float(typed) != value else dtype.type(typed)
