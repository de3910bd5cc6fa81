"""Pixels of one band of one scene into a grid: only the tiles that wanted pixels need, each decoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from threading import Lock
from typing import Literal

import numpy as np
import numpy.typing as npt

from geostack_pipeline.areas import Resampling
from geostack_pipeline.cube import kernels, packing
from geostack_pipeline.cube.layers import BandLayer
from geostack_pipeline.cube.levels import overview_level
from geostack_pipeline.cube.warp import CoordinateMap
from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster.source import Raster, TileId, open_raster, paste

Meaning = Literal["reflectance", "classes"]
Method = Literal["nearest", "bilinear", "average"]
Boxes = npt.NDArray[np.int32]

AVERAGE_FROM_RATIO = 1.5
"""From this many source pixels per grid pixel on (along one axis) reflectance is averaged; below
the nearest pixel is taken, so that a source of the grid's own pixel size keeps its numbers."""

_TILES_PER_TASK = 4
_CACHE_BYTES = 64 << 20
_WHOLE_TURN = 1e-4
"""Columns by which a full turn may miss a whole number of them: less than coordinates are off anyway."""
_INTERPOLATED_UP_TO = 1 / 0.95
"""Up to so many source pixels per grid pixel GDAL interpolates between four of them; then it widens the weights."""


def method(resampling: Resampling, where: CoordinateMap, *, is_overview: bool = False) -> Method:
    """Return how a source's pixels come onto the grid; on the grid's own lattice they are copied.

    Args:
        where: The map to the source.
        is_overview: Whether the source is an overview: there are several pixels of the full image under one of the grid,
            however many of the overview's there are.
    """
    if where.is_lattice:
        return "nearest"
    if resampling == "auto":
        return "average" if is_overview or where.ratio >= AVERAGE_FROM_RATIO else "nearest"
    return resampling


def _pieces(left: int, right: int, turn: int) -> list[tuple[int, int, int]]:
    """Return (first, stop, column of the image) of each piece of a row of columns that lies in one turn."""
    if turn == 0:
        return [(left, right, left)]
    pieces = []
    for start in range(left // turn * turn, right, turn):
        first, stop = max(left, start), min(right, start + turn)
        pieces.append((first, stop, first - start))
    return pieces


@dataclass(frozen=True, kw_only=True)
class Need:
    """Which tiles of a source the wanted pixels of a grid need."""

    boxes: Boxes
    """Per tile the grid pixels that need it (see ``kernels``)."""
    cells: npt.NDArray[np.int32]
    """Per cell of the map what is wanted of it (see ``kernels``)."""
    any: bool
    """Whether a wanted pixel lies in the image at all."""

    @property
    def tiles(self) -> list[TileId]:
        """The tiles, by rows."""
        return [(int(i), int(j)) for i, j in np.argwhere(self.boxes[:, :, 1] >= 0)]


class Band:
    """One opened band, ready to give its pixels as packed numbers. Reads are thread-safe."""

    def __init__(self, layer: BandLayer, meaning: Meaning) -> None:
        self.raster: Raster = open_raster(layer.store, layer.key)
        self._whole: Raster | None = None
        self._layer = layer
        self._meaning = meaning
        self._nodata = self.raster.nodata if layer.nodata is None else layer.nodata
        numbers = packing.all_numbers(self.raster.dtype)
        self._table = None if numbers is None else self._packed(numbers)
        self._cache: OrderedDict[TileId, Future[npt.NDArray[np.uint16]]] = OrderedDict()
        self._lock = Lock()

    def close(self) -> None:
        """Release what is behind the band; may be called again."""
        self.raster.close()
        if self._whole is not None:
            self._whole.close()
        with self._lock:
            self._cache.clear()

    def rest(self) -> None:
        """Close files that the next read opens again."""
        self.raster.rest()
        if self._whole is not None:
            self._whole.rest()

    def take_overview(self, where: CoordinateMap) -> bool:
        """Go on with the overview that is to stand for the image on the grid; return whether there is one.

        Args:
            where: The map to the image at full resolution.
        """
        whole = self.raster
        level = overview_level(where, whole.width, whole.overviews)
        if level is None:
            return False
        self.raster, self._whole = whole.overview(level), whole
        return True

    @property
    def is_overview(self) -> bool:
        """Whether what is read is an overview of the source, out of the file or all that the file holds."""
        return self._layer.is_overview or self._whole is not None

    def need(self, where: CoordinateMap, owner: npt.NDArray[np.int16], wanted: int) -> Need:
        """Return which tiles the pixels need whose owner is ``wanted``."""
        raster = self.raster
        boxes = np.empty((*raster.tile_grid, 4), np.int32)
        boxes[...] = (np.iinfo(np.int32).max, -1, np.iinfo(np.int32).max, -1)
        height, width = where.rows.shape
        cells = np.empty((height - 1, width - 1), np.int32)
        found = kernels.needed_tiles(
            where.columns, where.rows, where.step, where.period, where.exact_columns, where.exact_rows, owner, wanted,
            raster.width, raster.height, raster.tile_width, raster.tile_height, boxes, cells,
        )  # fmt: skip
        return Need(boxes=boxes, cells=cells, any=bool(found))

    def place(
        self,
        where: CoordinateMap,
        owner: npt.NDArray[np.int16],
        wanted: int,
        need: Need,
        out: npt.NDArray[np.unsignedinteger],
        pool: Executor,
        *,
        claim: int = -1,
        how: Method = "nearest",
    ) -> list[Future[None]]:
        """Begin to place the pixels whose owner is ``wanted``; return what must be waited for.

        With ``claim`` only valid pixels are placed, which get that owner.
        """
        tiles = need.tiles
        work = _Placing(where, owner, wanted, claim, need, out, how)
        return [
            pool.submit(self._place, tiles[i : i + _TILES_PER_TASK], work)
            for i in range(0, len(tiles), _TILES_PER_TASK)
        ]

    def _place(self, tiles: Sequence[TileId], work: _Placing) -> None:
        if work.how == "nearest":
            self._nearest(tiles, work)
        else:
            assert work.claim < 0, "pixels are claimed by their nearest value"
            self._around(tiles, work)

    def _nearest(self, tiles: Sequence[TileId], work: _Placing) -> None:
        raster, where = self.raster, work.where
        across = raster.tile_grid[1]
        for (row, column), values, table in self._tiles(tiles, fleeting=True):
            kernels.place_nearest(
                where.columns, where.rows, where.step, where.period, where.exact_columns, where.exact_rows,
                where.affine, work.owner, work.wanted, work.claim,
                raster.width, raster.height, values, row, column, row * across + column, table,
                work.need.boxes[row, column], work.need.cells, work.out,
            )  # fmt: skip

    def _around(self, tiles: Sequence[TileId], work: _Placing) -> None:
        """Place pixels that several source pixels make, also of the tiles beside."""
        raster, where = self.raster, work.where
        th, tw, across = raster.tile_height, raster.tile_width, raster.tile_grid[1]
        reach_columns, reach_rows = -1.0, -1.0
        turn = self._turn(where)
        if work.how == "bilinear":
            reach_columns, reach_rows = (span if span > _INTERPOLATED_UP_TO else 1.0 for span in where.spans)
        for row, column in tiles:
            box, number = work.need.boxes[row, column], row * across + column
            top, bottom, left, right = kernels.window_needed(
                where.columns, where.rows, where.step, where.period, where.exact_columns, where.exact_rows,
                    work.owner, work.wanted,
                raster.width, raster.height, row, column, tw, th, number, reach_columns, reach_rows, turn,
                box, work.need.cells,
            )  # fmt: skip
            window = self._window(top, bottom, left, right, turn)
            if work.how == "average":
                kernels.place_average(
                    where.columns, where.rows, where.step, where.period, where.exact_columns, where.exact_rows,
                    work.owner, work.wanted,
                    raster.width, raster.height, row, column, tw, th, number, turn, window, top, left,
                    box, work.need.cells, work.out,
                )  # fmt: skip
            else:
                kernels.place_bilinear(
                    where.columns, where.rows, where.step, where.period, where.exact_columns, where.exact_rows,
                    work.owner, work.wanted,
                    raster.width, raster.height, row, column, tw, th, number, reach_columns, reach_rows, turn,
                    window, top, left, box, work.need.cells, work.out,
                )  # fmt: skip

    def _turn(self, where: CoordinateMap) -> int:
        """Return the columns of a full turn where the image has them all, so that its last column lies beside its first.

        Raises:
            RasterError: The image overlaps itself by a part of a column, so that no column lies beside its edges.
        """
        turn = round(where.period)
        if where.period == 0.0 or self.raster.width < where.period - _WHOLE_TURN:
            return 0
        if abs(where.period - turn) > _WHOLE_TURN:
            raise RasterError(
                "The image goes around the Earth more than once, by a part of a column",
                subject=self.raster.key,
                found=f"{self.raster.width} columns, {where.period:.4f} to a turn",
                action="take resampling: nearest for it, or cut the file at a longitude",
            )
        return turn

    def _window(self, top: int, bottom: int, left: int, right: int, turn: int) -> npt.NDArray[np.uint16]:
        """Return packed pixels; of an image that goes around, columns before the first and behind the last as well."""
        th, tw = self.raster.tile_height, self.raster.tile_width
        window = np.empty((bottom - top, right - left), np.uint16)
        for first, stop, column in _pieces(left, right, turn):
            part = window[:, first - left : stop - left]
            for i in range(top // th, -(-bottom // th)):
                for j in range(column // tw, -(-(column + stop - first) // tw)):
                    paste(self._packed_tile((i, j)), i * th, j * tw, part, top, column)
        return window

    def _kept(self) -> int:
        """Return how many tiles are kept for the rows of tiles beside."""
        tile_bytes = 2 * self.raster.tile_width * self.raster.tile_height
        return min(max(2 * (self.raster.tile_grid[1] + 1), 4), max(4, _CACHE_BYTES // tile_bytes))

    def _packed_tile(self, tile: TileId) -> npt.NDArray[np.uint16]:
        """Return a packed tile, decoded by the first of the threads that ask for it."""
        with self._lock:
            future = self._cache.get(tile)
            mine = future is None
            if future is None:
                future = self._cache[tile] = Future()
                while len(self._cache) > self._kept():
                    self._cache.popitem(last=False)
            else:
                self._cache.move_to_end(tile)
        if mine:
            try:
                for _, values, table in self._tiles([tile]):
                    future.set_result(np.take(table, values))
            except BaseException as error:
                future.set_exception(error)
                raise
        return future.result()

    def _tiles(
        self, tiles: Sequence[TileId], *, fleeting: bool = False
    ) -> Iterator[tuple[TileId, npt.NDArray[np.unsignedinteger], npt.NDArray[np.uint16]]]:
        """Yield unsigned tiles with the table that makes packed numbers of theirs."""
        band = self._layer.band
        if self.raster.has_mask:
            for tile, values, mask in self.raster.read_masked_tiles(tiles, band, fleeting=fleeting):
                packed = self._packed_values(values)
                packed[mask == 0] = packing.FILL
                yield tile, packed, packing.identity()
            return
        for tile, values in self.raster.read_tiles(tiles, band, fleeting=fleeting):
            if self._table is not None:
                yield tile, values.view(f"u{values.dtype.itemsize}"), self._table
            else:
                yield tile, self._packed(values), packing.identity()

    def _packed_values(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint16]:
        """Return a tile's packed numbers, by the table where there is one."""
        if self._table is None:
            return self._packed(values)
        return np.take(self._table, values.view(f"u{values.dtype.itemsize}"))

    def _packed(self, numbers: npt.NDArray[np.generic]) -> npt.NDArray[np.uint16]:
        if self._meaning == "classes":
            return packing.classes(numbers, nodata=self._nodata)
        return packing.packed(
            numbers, scale=self._layer.scale, offset=self._layer.offset, nodata=self._nodata
        )


@dataclass(frozen=True)
class _Placing:
    """What the tasks of one band have in common."""

    where: CoordinateMap
    owner: npt.NDArray[np.int16]
    wanted: int
    claim: int
    need: Need
    out: npt.NDArray[np.unsignedinteger]
    how: Method
