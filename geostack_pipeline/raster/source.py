"""Rasters opened on an object store: windows and tiles as arrays.

Tiled TIFFs are read by ranges and decoded here; strips, JPEG 2000, PNG and JPEG are read through
rasterio, window by window, from a local file, which is fetched first where the store is remote.
"""

from __future__ import annotations

import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from geostack_pipeline.raster import tiff
from geostack_pipeline.raster.codecs import TileDecoder, decodable, pixel_type
from geostack_pipeline.raster.fetch import SourceObject, looks_like_text, merged, not_a_raster
from geostack_pipeline.raster.geo import Affine6, Georeference, georeference, name_of, scaled
from geostack_pipeline.raster.reduced import reduced_images
from geostack_pipeline.raster.tiff import Directory, TiffFile, is_tiff, read_structure
from geostack_pipeline.raster.window import Window

if TYPE_CHECKING:
    from obstore.store import ObjectStore

Array = npt.NDArray[np.generic]
TileId = tuple[int, int]
"""Row and column of a tile."""

_STRIP_ROWS = 256
"""Rows of the tiles that a file without tiles is read in."""
_ALPHA_SAMPLES = frozenset({1, 2})
"""What a TIFF's extra samples say of an alpha band: colours are multiplied by it, or not."""
_CACHE_BYTES = 32 << 20
"""Decoded blocks that GDAL keeps: a block of a Sentinel-2 file has 2 MiB, and its default is a twentieth of the memory."""
_DRIVERS: Mapping[bytes, str] = {
    b"II*\0": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0*": "GTiff",
    b"MM\0+": "GTiff",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JP2OpenJPEG",
    b"\xff\x4f\xff\x51": "JP2OpenJPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
}
"""First bytes -> GDAL's driver.  It does not choose by itself: others (VRT and the like) may name files and addresses
to be read instead."""


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
    """Whether an internal mask or an alpha band says which pixels are valid."""
    holds_files: bool = False
    """Whether files are open, or lie on the local disk, until it is closed."""

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
        self, tiles: Sequence[TileId], band: int = 1, *, masks: bool = False, fleeting: bool = False
    ) -> Iterator[tuple[TileId, Array]]:
        """Yield tiles as (rows, columns) arrays of full tile size, in any order.

        Pixels behind the image's edge hold anything.  With ``masks`` the band's mask is
        read instead: non-zero is valid.  With ``fleeting`` an array may hold only until the next one is asked for:
        its memory is used again.
        """

    def read_masked_tiles(
        self, tiles: Sequence[TileId], band: int = 1, *, fleeting: bool = False
    ) -> Iterator[tuple[TileId, Array, Array]]:
        """Yield tiles of a raster that :attr:`has_mask` with their masks; see :meth:`read_tiles`."""
        masks = dict(self.read_tiles(tiles, band, masks=True))
        for tile, values in self.read_tiles(tiles, band, fleeting=fleeting):
            yield tile, values, masks[tile]

    @abstractmethod
    def overview(self, level: int) -> Raster:
        """Return one of the reduced images as a raster; ``level`` is its place in :attr:`overviews`.

        It shares what is behind this raster, so this one must be closed last.
        """

    def read(self, window: Window, band: int = 1) -> Array:
        """Return a window of one band, shaped (window.height, window.width), in the file's numbers.

        Raises:
            RasterError: The window is not inside the image, the band does not exist, or a tile is corrupt.
        """
        self._check(window, band)
        column, row, width, height = window
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

    def _check(self, window: Window, band: int) -> None:
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

    def read_bands(self, window: Window, bands: Sequence[int]) -> Array:
        """Return a window of several bands, shaped (bands, window.height, window.width), in the file's numbers.

        Where all bands of a pixel lie together each tile is decoded once, whatever the number of bands.

        Raises:
            RasterError: See :meth:`read`.
        """
        return np.stack([self.read(window, band) for band in bands])

    @abstractmethod
    def close(self) -> None:
        """Release what is behind the raster; may be called again."""

    def rest(self) -> None:
        """Close files that the next read opens again."""
        return

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
    def __init__(self, source: SourceObject, file: TiffFile, level: int | None = None) -> None:
        place = georeference(file.main)
        main, mask = (file.main, file.mask) if level is None else reduced_images(file)[level]
        self.key = source.key
        self._take(place)
        if level is not None and self.transform is not None:
            self.transform = scaled(
                self.transform, file.main.width / main.width, file.main.height / main.height
            )
        self.width, self.height, self.count = main.width, main.height, main.samples
        self.tile_width, self.tile_height = main.tile_width, main.tile_height
        self.overviews = tuple((d.width, d.height) for d, _ in reduced_images(file)) if level is None else ()
        self._source = source
        self._file = file
        self._image = _Tiles(main)
        assert self._image.decoder.dtype is not None
        self.dtype = self._image.decoder.dtype
        self._fill = self.dtype.type(0)
        if place.nodata is not None:
            self._fill = _as_type(place.nodata, self.dtype)
        self._mask = None if mask is None else _Tiles(mask)
        self._alpha = None if mask is not None or self.nodata is not None else _alpha(file.main)
        self.has_mask = self._mask is not None or self._alpha is not None
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

    def overview(self, level: int) -> Raster:
        return _TiledTiff(self._source, self._file, level)

    def read_tiles(
        self, tiles: Sequence[TileId], band: int = 1, *, masks: bool = False, fleeting: bool = False
    ) -> Iterator[tuple[TileId, Array]]:
        image, fill = self._image, self._fill
        if masks:
            image, band, fill = self._masks_of(band)
            if band == 0:
                yield from (
                    (tile, np.full((self.tile_height, self.tile_width), 255, np.uint8)) for tile in tiles
                )
                return
        plane, sample = (band - 1, 0) if image.planar else (0, band - 1)
        for tile, decoded in self._decoded(image, plane, tiles, fleeting=fleeting):
            if decoded is None:
                yield tile, np.full((self.tile_height, self.tile_width), fill, image.decoder.dtype)
            else:
                yield tile, np.ascontiguousarray(decoded[:, :, sample])

    def _masks_of(self, band: int) -> tuple[_Tiles, int, np.generic]:
        """Return which image's band is the mask of a band (0: all is valid), and what a sparse tile of it holds."""
        if self._mask is not None:
            return self._mask, 1, np.uint8(0)
        if self._alpha is None:
            raise ValueError(f"{self.key} has no mask")
        # the alpha band itself is valid everywhere, as GDAL has it
        return self._image, 0 if band == self._alpha else self._alpha, self._fill

    def read_masked_tiles(
        self, tiles: Sequence[TileId], band: int = 1, *, fleeting: bool = False
    ) -> Iterator[tuple[TileId, Array, Array]]:
        alpha = self._alpha
        if alpha is None or band == alpha or self._image.planar:
            yield from super().read_masked_tiles(tiles, band, fleeting=fleeting)
            return
        # both lie in one tile, which is fetched and decoded once
        for tile, decoded in self._decoded(self._image, 0, tiles, fleeting=fleeting):
            if decoded is None:
                sparse = np.full((self.tile_height, self.tile_width), self._fill, self.dtype)
                yield tile, sparse, sparse
            else:
                yield tile, np.ascontiguousarray(decoded[:, :, band - 1]), decoded[:, :, alpha - 1]

    def _decoded(
        self, image: _Tiles, plane: int, tiles: Sequence[TileId], *, fleeting: bool
    ) -> Iterator[tuple[TileId, Array | None]]:
        """Yield tiles of one plane, shaped (rows, columns, samples); None for one that is not stored."""
        wanted: list[tuple[int, int, TileId]] = []
        for tile in tiles:
            start, count = int(image.offsets[plane, *tile]), int(image.counts[plane, *tile])
            if count:
                wanted.append((start, start + count, tile))
            else:
                yield tile, None
        wanted.sort()
        scratch = np.empty(image.decoder.size, np.uint8) if fleeting else None
        i = 0
        for first, last in merged([(start, stop) for start, stop, _ in wanted]):
            data = memoryview(self._source.cached(first, last) or self._source.read_many([(first, last)])[0])
            while i < len(wanted) and wanted[i][1] <= last:
                start, stop, tile = wanted[i]
                yield tile, image.decoder.decode(data[start - first : stop - first], scratch)
                i += 1

    def read_bands(self, window: Window, bands: Sequence[int]) -> Array:
        image = self._image
        if image.planar or not bands:
            return super().read_bands(window, bands)
        column, row, width, height = window
        for band in bands:
            self._check(window, band)
        out = np.full((len(bands), height, width), self._fill, self.dtype)
        th, tw = self.tile_height, self.tile_width
        samples = np.array(bands) - 1
        for i in range(row // th, -(-window.stop_row // th)):
            for j in range(column // tw, -(-window.stop_column // tw)):
                start, count = int(image.offsets[0, i, j]), int(image.counts[0, i, j])
                if not count:
                    continue
                data = (
                    self._source.cached(start, start + count)
                    or self._source.read_many([(start, start + count)])[0]
                )
                decoded = image.decoder.decode(data)
                top, left = max(i * th, row), max(j * tw, column)
                bottom = min((i + 1) * th, window.stop_row)
                right = min((j + 1) * tw, window.stop_column)
                part = decoded[top - i * th : bottom - i * th, left - j * tw : right - j * tw]
                # samples chosen one by one: a tile of all bands is not copied as a whole
                for k, sample in enumerate(samples):
                    out[k, top - row : bottom - row, left - column : right - column] = part[:, :, sample]
        return out

    def close(self) -> None:
        """Nothing is held."""


def _alpha(directory: Directory) -> int | None:
    """Return the band that says how much of each pixel is to be seen, by GDAL's rule; None where there is none.

    It is the last one of two or of four unsigned ones.  GDAL reads the files that are not decoded here: where it
    knows no alpha band, as among five, none is known here either.  Beside a no-data value it counts for nothing.
    """
    kind, extra = pixel_type(directory), directory.array(tiff.EXTRA_SAMPLES)
    known = kind is not None and kind.kind == "u" and kind.itemsize <= 2 and directory.samples in {2, 4}
    return directory.samples if known and extra.size and int(extra[-1]) in _ALPHA_SAMPLES else None


class _Tiles:
    """The tile index and the decoder of one image."""

    def __init__(self, directory: Directory) -> None:
        self.offsets, self.counts = directory.tile_index()
        self.planar = directory.is_planar
        self.decoder = TileDecoder(directory)


class _ThroughGdal(Raster):
    """A local file that GDAL decodes, one of its blocks at a time.

    A JPEG 2000 file of 10980 x 10980 pixels is never in memory as a whole: each tile read is one tile of the file,
    decoded by a handle that no other thread uses meanwhile (handles are opened as threads need them), and GDAL keeps
    few decoded blocks, since nobody asks it for the same block twice.
    """

    holds_files = True

    def __init__(self, source: SourceObject, *, level: int | None = None, path: Path | None = None) -> None:
        self.key = source.key
        self._source = source
        self._level = level
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._moved = source.bytes_moved
        self._idle: list[rasterio.DatasetReader] = []
        self._closed = False
        self._lock = Lock()
        driver = next((name for start, name in _DRIVERS.items() if source.head.startswith(start)), None)
        if driver is None:
            raise not_a_raster(source.key, source.head)
        self._driver = driver
        self._path = path or self._local(source)
        self._begin()

    def overview(self, level: int) -> Raster:
        return _ThroughGdal(self._source, level=level, path=self._path)

    def _begin(self) -> None:
        """Open the file once and keep what it says."""
        try:
            data = self._open()
        except BaseException:
            self._release()
            raise
        self._idle.append(data)
        self.crs = name_of(data.crs) if data.crs else None
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
        factors = data.overviews(1) if self._level is None else []
        self.overviews = tuple((-(-self.width // f), -(-self.height // f)) for f in factors)

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

    def _open(self) -> rasterio.DatasetReader:
        try:
            with _gdal(), warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                level = {} if self._level is None else {"overview_level": self._level}
                return rasterio.open(self._path, driver=self._driver, **level)
        except RasterioError as error:
            raise RasterError(
                "GDAL cannot open the raster",
                subject=self.key,
                found=str(error).replace(str(self._path), self.key)[:200],
                action="fetch the object again; if it stays so, the source is corrupt or of an unknown format",
            ) from None

    @contextmanager
    def _handle(self) -> Iterator[rasterio.DatasetReader]:
        """Lend an open file to one thread."""
        with self._lock:
            if self._closed:
                raise ValueError(f"{self.key} is closed")
            data = self._idle.pop() if self._idle else None
        if data is None:
            data = self._open()
        try:
            yield data
        finally:
            with self._lock:
                kept = not self._closed
                if kept:
                    self._idle.append(data)
            if not kept:
                data.close()

    @property
    def bytes_moved(self) -> int:
        return self._moved

    def read_tiles(
        self, tiles: Sequence[TileId], band: int = 1, *, masks: bool = False, fleeting: bool = False
    ) -> Iterator[tuple[TileId, Array]]:
        del fleeting  # GDAL gives new memory anyway
        for row, column in tiles:
            top, left = row * self.tile_height, column * self.tile_width
            height = min(self.tile_height, self.height - top)
            width = min(self.tile_width, self.width - left)
            window = RasterioWindow(left, top, width, height)
            tile: Array = np.zeros((self.tile_height, self.tile_width), np.uint8 if masks else self.dtype)
            try:
                with self._handle() as data, _gdal():
                    part = data.read_masks(band, window=window) if masks else data.read(band, window=window)
            except RasterioError as error:
                raise RasterError(
                    "GDAL cannot read the raster",
                    subject=self.key,
                    found=str(error)[:200],
                    action="fetch the object again; if it stays so, the source is corrupt",
                ) from None
            tile[:height, :width] = part
            yield (row, column), tile

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self.rest()
        self._release()

    def rest(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for data in idle:
            data.close()

    def _release(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def _gdal() -> rasterio.Env:
    """Return GDAL's settings for a file that came from elsewhere: a small cache, one thread, no neighbouring files.

    The cache is GDAL's only one, of the whole process; it stays this small afterwards.
    """
    return rasterio.Env(
        GDAL_CACHEMAX=_CACHE_BYTES,
        GDAL_NUM_THREADS="1",
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",
        GDAL_PAM_ENABLED="NO",
    )


def _pieces(size: int, step: int = 8 << 20) -> Iterator[tuple[int, int]]:
    for start in range(0, size, step):
        yield start, min(size, start + step)


def _as_type(value: float, dtype: np.dtype[np.generic]) -> np.generic:
    """Return a no-data value in the raster's type; 0 where the type cannot hold it, as GDAL does."""
    if dtype.kind == "f":
        return dtype.type(value)
    typed = np.array(value).astype(dtype, casting="unsafe") if np.isfinite(value) else None
    return dtype.type(0) if typed is None or float(typed) != value else dtype.type(typed)
