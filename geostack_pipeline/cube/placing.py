"""Pixels of one band of one scene into a grid: only the tiles that wanted pixels need, each decoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from threading import Lock
from typing import Literal

import numpy as np
import numpy.typing as npt

from geostack_pipeline.cube import kernels, packing
from geostack_pipeline.cube.layers import BandLayer
from geostack_pipeline.cube.warp import CoordinateMap
from geostack_pipeline.raster.source import Raster, TileId, open_raster, paste

Meaning = Literal["reflectance", "classes"]
Boxes = npt.NDArray[np.int32]

AVERAGE_FROM_RATIO = 1.5
"""From this many source pixels per grid pixel on (along one axis) reflectance is averaged; below
the nearest pixel is taken, so that a source of the grid's own pixel size keeps its numbers."""

_TILES_PER_TASK = 4
_CACHE_BYTES = 64 << 20


class Band:
    """One opened band, ready to give its pixels as packed numbers. Reads are thread-safe."""

    def __init__(self, layer: BandLayer, meaning: Meaning) -> None:
        self.raster: Raster = open_raster(layer.store, layer.key)
        self._layer = layer
        self._meaning = meaning
        self._nodata = self.raster.nodata if layer.nodata is None else layer.nodata
        numbers = packing.all_numbers(self.raster.dtype)
        self._table = None if numbers is None else self._packed(numbers)
        self._cache: OrderedDict[TileId, Future[npt.NDArray[np.uint16]]] = OrderedDict()
        self._lock = Lock()
        tile_bytes = 2 * self.raster.tile_width * self.raster.tile_height
        self._kept = max(2 * (self.raster.tile_grid[1] + 1), 4)
        self._kept = min(self._kept, max(4, _CACHE_BYTES // tile_bytes))

    def boxes(self, where: CoordinateMap, owner: npt.NDArray[np.int16], wanted: int) -> tuple[Boxes, int]:
        """Return which grid pixels need each tile (see ``kernels``), and how many wanted pixels lie in the image."""
        raster = self.raster
        boxes = np.empty((*raster.tile_grid, 4), np.int32)
        boxes[...] = (np.iinfo(np.int32).max, -1, np.iinfo(np.int32).max, -1)
        count = kernels.needed_tiles(
            where.columns, where.rows, where.step, where.period, owner, wanted,
            raster.width, raster.height, raster.tile_width, raster.tile_height, boxes,
        )  # fmt: skip
        return boxes, count

    def place(
        self,
        where: CoordinateMap,
        owner: npt.NDArray[np.int16],
        wanted: int,
        boxes: Boxes,
        out: npt.NDArray[np.unsignedinteger],
        pool: Executor,
        *,
        claim: int = -1,
        average: bool = False,
    ) -> None:
        """Place the pixels whose owner is ``wanted``; with ``claim`` only valid ones, which get that owner.

        Returns when all are placed; the first error of a tile is raised.
        """
        tiles = [(int(i), int(j)) for i, j in np.argwhere(boxes[:, :, 1] >= 0)]
        groups = [tiles[i : i + _TILES_PER_TASK] for i in range(0, len(tiles), _TILES_PER_TASK)]
        work = self._average if average else self._nearest
        futures = [pool.submit(work, group, where, owner, wanted, claim, boxes, out) for group in groups]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()
            wait(futures)  # nothing may read a raster that is closed after an error
        with self._lock:
            self._cache.clear()

    def _nearest(
        self,
        tiles: Sequence[TileId],
        where: CoordinateMap,
        owner: npt.NDArray[np.int16],
        wanted: int,
        claim: int,
        boxes: Boxes,
        out: npt.NDArray[np.unsignedinteger],
    ) -> None:
        raster = self.raster
        for (row, column), values, table in self._tiles(tiles):
            kernels.place_nearest(
                where.columns, where.rows, where.step, where.period, owner, wanted, claim,
                raster.width, raster.height, values, row, column, table, boxes[row, column], out,
            )  # fmt: skip

    def _average(
        self,
        tiles: Sequence[TileId],
        where: CoordinateMap,
        owner: npt.NDArray[np.int16],
        wanted: int,
        claim: int,
        boxes: Boxes,
        out: npt.NDArray[np.unsignedinteger],
    ) -> None:
        assert claim < 0, "pixels are claimed by their nearest value"
        raster = self.raster
        th, tw = raster.tile_height, raster.tile_width
        for row, column in tiles:
            box = boxes[row, column]
            top, bottom, left, right = kernels.window_needed(
                where.columns, where.rows, where.step, where.period, owner, wanted,
                raster.width, raster.height, row, column, tw, th, box,
            )  # fmt: skip
            window = self._window(top, bottom, left, right)
            kernels.place_average(
                where.columns, where.rows, where.step, where.period, owner, wanted,
                raster.width, raster.height, row, column, tw, th, window, top, left, box, out,
            )  # fmt: skip

    def _window(self, top: int, bottom: int, left: int, right: int) -> npt.NDArray[np.uint16]:
        th, tw = self.raster.tile_height, self.raster.tile_width
        tiles = [
            (i, j) for i in range(top // th, -(-bottom // th)) for j in range(left // tw, -(-right // tw))
        ]
        window = np.empty((bottom - top, right - left), np.uint16)
        for i, j in tiles:
            paste(self._packed_tile((i, j)), i * th, j * tw, window, top, left)
        return window

    def _packed_tile(self, tile: TileId) -> npt.NDArray[np.uint16]:
        """Return a packed tile, decoded by the first of the threads that ask for it."""
        with self._lock:
            future = self._cache.get(tile)
            mine = future is None
            if future is None:
                future = self._cache[tile] = Future()
                while len(self._cache) > self._kept:
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
        self, tiles: Sequence[TileId]
    ) -> Iterator[tuple[TileId, npt.NDArray[np.unsignedinteger], npt.NDArray[np.uint16]]]:
        """Yield unsigned tiles with the table that makes packed numbers of theirs."""
        band = self._layer.band
        masks = dict(self.raster.read_tiles(tiles, band, masks=True)) if self.raster.has_mask else {}
        for tile, values in self.raster.read_tiles(tiles, band):
            if self._table is not None and not masks:
                yield tile, values.view(f"u{values.dtype.itemsize}"), self._table
                continue
            packed = (
                self._packed(values)
                if self._table is None
                else np.take(self._table, values.view(f"u{values.dtype.itemsize}"))
            )
            if masks:
                packed[masks[tile] == 0] = packing.FILL
            yield tile, packed, packing.identity()

    def _packed(self, numbers: npt.NDArray[np.generic]) -> npt.NDArray[np.uint16]:
        if self._meaning == "classes":
            return packing.classes(numbers, nodata=self._nodata)
        return packing.packed(
            numbers, scale=self._layer.scale, offset=self._layer.offset, nodata=self._nodata
        )
