"""Compiled loops over the pixels of a grid. They hold no interpreter lock and allocate nothing.

All of them walk the cells of a coordinate map: inside a cell the source coordinates of a row
are linear in the column.  Pixels are those whose ``owner`` is ``wanted``.  A pixel belongs to
the source tile in which its centre lies, so tiles can be worked on at the same time: no two
write the same pixel.

``EDGE`` is the tolerance with which GDAL rounds a centre on the edge of two source pixels to
the second one.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

EDGE = 1e-10

Nodes = npt.NDArray[np.float64]
Owner = npt.NDArray[np.int16]
Boxes = npt.NDArray[np.int32]
"""(tile rows, tile columns, 4): first row, last row, first column, last column of the grid pixels
that need the tile; last < first where none does."""


@njit(nogil=True, cache=True)
def needed_tiles(
    columns: Nodes,
    rows: Nodes,
    step: int,
    period: float,
    owner: Owner,
    wanted: int,
    width: int,
    height: int,
    tile_width: int,
    tile_height: int,
    boxes: Boxes,
) -> int:
    """Fill the boxes of the source tiles that wanted pixels lie in; return how many pixels that are."""
    grid_height, grid_width = owner.shape
    count = 0
    for n in range(rows.shape[0] - 1):
        for m in range(rows.shape[1] - 1):
            if period == 0.0 and _cell_is_outside(columns, rows, n, m, width, height):
                continue
            left = m * step
            right = min(left + step, grid_width)
            if period == 0.0:
                ti, tj = _tile_of_cell(columns, rows, n, m, width, height, tile_width, tile_height)
                if ti >= 0:
                    for i in range(n * step, min((n + 1) * step, grid_height)):
                        count += _add_row(owner, wanted, i, left, right, boxes[ti, tj])
                    continue
            for i in range(n * step, min((n + 1) * step, grid_height)):
                v = (i - n * step + 0.5) / step
                c0 = columns[n, m] + v * (columns[n + 1, m] - columns[n, m])
                c1 = columns[n, m + 1] + v * (columns[n + 1, m + 1] - columns[n, m + 1])
                r0 = rows[n, m] + v * (rows[n + 1, m] - rows[n, m])
                r1 = rows[n, m + 1] + v * (rows[n + 1, m + 1] - rows[n, m + 1])
                dc, dr = (c1 - c0) / step, (r1 - r0) / step
                for j in range(left, right):
                    if owner[i, j] != wanted:
                        continue
                    t = j - left + 0.5
                    c = c0 + t * dc + EDGE
                    r = r0 + t * dr + EDGE
                    if period > 0.0:
                        c -= period * math.floor(c / period)
                    if c >= 0.0 and r >= 0.0 and c < width and r < height:
                        ti, tj = int(r) // tile_height, int(c) // tile_width
                        count += 1
                        boxes[ti, tj, 0] = min(boxes[ti, tj, 0], i)
                        boxes[ti, tj, 1] = max(boxes[ti, tj, 1], i)
                        boxes[ti, tj, 2] = min(boxes[ti, tj, 2], j)
                        boxes[ti, tj, 3] = max(boxes[ti, tj, 3], j)
    return count


@njit(nogil=True, cache=True)
def _tile_of_cell(
    columns: Nodes,
    rows: Nodes,
    n: int,
    m: int,
    width: int,
    height: int,
    tile_width: int,
    tile_height: int,
) -> tuple[int, int]:
    """Return the source tile that a whole cell of the map lies in, (-1, -1) where it is not one."""
    c = (columns[n, m], columns[n, m + 1], columns[n + 1, m], columns[n + 1, m + 1])
    r = (rows[n, m], rows[n, m + 1], rows[n + 1, m], rows[n + 1, m + 1])
    for k in range(4):
        if not (c[k] >= 0.0 and r[k] >= 0.0 and c[k] < width - EDGE and r[k] < height - EDGE):
            return -1, -1
    first_row, first_column = int(min(r)) // tile_height, int(min(c)) // tile_width
    # the pixels' centres lie inside the corners, which are taken with the same tolerance
    if int(max(r) + EDGE) // tile_height != first_row or int(max(c) + EDGE) // tile_width != first_column:
        return -1, -1
    return first_row, first_column


@njit(nogil=True, cache=True)
def _add_row(owner: Owner, wanted: int, i: int, left: int, right: int, box: npt.NDArray[np.int32]) -> int:
    """Widen a tile's box by the wanted pixels of one row between two columns; return how many they are."""
    found = 0
    for j in range(left, right):
        found += owner[i, j] == wanted
    if found == 0:
        return 0
    first, last = left, right - 1
    while owner[i, first] != wanted:
        first += 1
    while owner[i, last] != wanted:
        last -= 1
    box[0] = min(box[0], i)
    box[1] = max(box[1], i)
    box[2] = min(box[2], first)
    box[3] = max(box[3], last)
    return found


@njit(nogil=True, cache=True)
def _cell_is_outside(columns: Nodes, rows: Nodes, n: int, m: int, width: int, height: int) -> bool:
    """Whether a whole cell of the map lies beside the source; a pixel of tolerance. False for NaN."""
    c = (columns[n, m], columns[n, m + 1], columns[n + 1, m], columns[n + 1, m + 1])
    r = (rows[n, m], rows[n, m + 1], rows[n + 1, m], rows[n + 1, m + 1])
    beside = max(c) < -1.0 or min(c) > width + 1.0
    return bool(beside or max(r) < -1.0 or min(r) > height + 1.0)


@njit(nogil=True, cache=True)
def place_nearest(
    columns: Nodes,
    rows: Nodes,
    step: int,
    period: float,
    owner: Owner,
    wanted: int,
    claim: int,
    width: int,
    height: int,
    tile: npt.NDArray[np.unsignedinteger],
    tile_row: int,
    tile_column: int,
    table: npt.NDArray[np.uint16],
    box: npt.NDArray[np.int32],
    out: npt.NDArray[np.unsignedinteger],
) -> None:
    """Give the wanted pixels of a tile their nearest value, through a table from stored to packed numbers.

    With ``claim`` >= 0 only values other than 0 are placed, and their pixels get ``claim`` as owner.
    """
    tile_height, tile_width = tile.shape
    top, left_edge = tile_row * tile_height, tile_column * tile_width
    for n in range(box[0] // step, box[1] // step + 1):
        for m in range(box[2] // step, box[3] // step + 1):
            left = max(m * step, box[2])
            right = min((m + 1) * step, box[3] + 1)
            for i in range(max(n * step, box[0]), min((n + 1) * step, box[1] + 1)):
                v = (i - n * step + 0.5) / step
                c0 = columns[n, m] + v * (columns[n + 1, m] - columns[n, m])
                c1 = columns[n, m + 1] + v * (columns[n + 1, m + 1] - columns[n, m + 1])
                r0 = rows[n, m] + v * (rows[n + 1, m] - rows[n, m])
                r1 = rows[n, m + 1] + v * (rows[n + 1, m + 1] - rows[n, m + 1])
                dc, dr = (c1 - c0) / step, (r1 - r0) / step
                for j in range(left, right):
                    if owner[i, j] != wanted:
                        continue
                    t = j - m * step + 0.5
                    c = c0 + t * dc + EDGE
                    r = r0 + t * dr + EDGE
                    if period > 0.0:
                        c -= period * math.floor(c / period)
                    if c >= 0.0 and r >= 0.0 and c < width and r < height:
                        ci, ri = int(c) - left_edge, int(r) - top
                        if ci >= 0 and ri >= 0 and ci < tile_width and ri < tile_height:
                            value = table[tile[ri, ci]]
                            if claim < 0:
                                out[i, j] = value
                            elif value != 0:
                                out[i, j] = value
                                owner[i, j] = claim


@njit(nogil=True, cache=True)
def _at(nodes: Nodes, step: int, i: int, j: int) -> float:
    """The coordinate at the corner (i, j) of the grid."""
    n, m = min(i // step, nodes.shape[0] - 2), min(j // step, nodes.shape[1] - 2)
    v, u = (i - n * step) / step, (j - m * step) / step
    upper = nodes[n, m] + u * (nodes[n, m + 1] - nodes[n, m])
    lower = nodes[n + 1, m] + u * (nodes[n + 1, m + 1] - nodes[n + 1, m])
    return float(upper + v * (lower - upper))


@njit(nogil=True, cache=True)
def _footprint(
    columns: Nodes, rows: Nodes, step: int, period: float, i: int, j: int
) -> tuple[float, float, float, float]:
    """Source extent of a grid pixel between its first and its last corner: first and last column, first and last row."""
    c0, c1 = _at(columns, step, i, j), _at(columns, step, i + 1, j + 1)
    r0, r1 = _at(rows, step, i, j), _at(rows, step, i + 1, j + 1)
    c_low, c_high = min(c0, c1), max(c0, c1)
    if period > 0.0:
        turns = period * math.floor((c_low + c_high) / (2.0 * period))
        c_low -= turns
        c_high -= turns
    return c_low, c_high, min(r0, r1), max(r0, r1)


@njit(nogil=True, cache=True)
def window_needed(
    columns: Nodes,
    rows: Nodes,
    step: int,
    period: float,
    owner: Owner,
    wanted: int,
    width: int,
    height: int,
    tile_row: int,
    tile_column: int,
    tile_width: int,
    tile_height: int,
    box: npt.NDArray[np.int32],
) -> tuple[int, int, int, int]:
    """Return (row, stop row, column, stop column) of the source pixels under the wanted pixels of a tile."""
    row, stop_row, column, stop_column = height, 0, width, 0
    for i in range(box[0], box[1] + 1):
        for j in range(box[2], box[3] + 1):
            if owner[i, j] != wanted:
                continue
            if not _in_tile(
                columns, rows, step, period, i, j, tile_row, tile_column, tile_width, tile_height
            ):
                continue
            c0, c1, r0, r1 = _footprint(columns, rows, step, period, i, j)
            column = min(column, max(0, math.floor(c0 + EDGE)))
            stop_column = max(stop_column, min(width, math.ceil(c1 - EDGE)))
            row = min(row, max(0, math.floor(r0 + EDGE)))
            stop_row = max(stop_row, min(height, math.ceil(r1 - EDGE)))
    return row, stop_row, column, stop_column


@njit(nogil=True, cache=True)
def _in_tile(
    columns: Nodes,
    rows: Nodes,
    step: int,
    period: float,
    i: int,
    j: int,
    tile_row: int,
    tile_column: int,
    tile_width: int,
    tile_height: int,
) -> bool:
    """Whether the centre of a grid pixel lies in a tile, by the same arithmetic as :func:`needed_tiles`."""
    n, m = i // step, j // step
    v = (i - n * step + 0.5) / step
    t = j - m * step + 0.5
    c0 = columns[n, m] + v * (columns[n + 1, m] - columns[n, m])
    c1 = columns[n, m + 1] + v * (columns[n + 1, m + 1] - columns[n, m + 1])
    r0 = rows[n, m] + v * (rows[n + 1, m] - rows[n, m])
    r1 = rows[n, m + 1] + v * (rows[n + 1, m + 1] - rows[n, m + 1])
    c = c0 + t * ((c1 - c0) / step) + EDGE
    r = r0 + t * ((r1 - r0) / step) + EDGE
    if period > 0.0:
        c -= period * math.floor(c / period)
    if not (c >= 0.0 and r >= 0.0 and c < 2147483647.0 and r < 2147483647.0):
        return False
    return int(r) // tile_height == tile_row and int(c) // tile_width == tile_column


@njit(nogil=True, cache=True)
def place_average(
    columns: Nodes,
    rows: Nodes,
    step: int,
    period: float,
    owner: Owner,
    wanted: int,
    width: int,
    height: int,
    tile_row: int,
    tile_column: int,
    tile_width: int,
    tile_height: int,
    packed: npt.NDArray[np.uint16],
    window_row: int,
    window_column: int,
    box: npt.NDArray[np.int32],
    out: npt.NDArray[np.uint16],
) -> None:
    """Give the wanted pixels of a tile the mean of the source pixels under them, weighted by overlap.

    Packed values of 0 (no data) do not count; the mean is rounded half up, as GDAL's.
    """
    for i in range(box[0], box[1] + 1):
        for j in range(box[2], box[3] + 1):
            if owner[i, j] != wanted:
                continue
            if not _in_tile(
                columns, rows, step, period, i, j, tile_row, tile_column, tile_width, tile_height
            ):
                continue
            c0, c1, r0, r1 = _footprint(columns, rows, step, period, i, j)
            column, stop_column = max(0, math.floor(c0 + EDGE)), min(width, math.ceil(c1 - EDGE))
            row, stop_row = max(0, math.floor(r0 + EDGE)), min(height, math.ceil(r1 - EDGE))
            total, weights = 0.0, 0.0
            for r in range(row, stop_row):
                wr = min(r + 1.0, r1) - max(float(r), r0)
                for c in range(column, stop_column):
                    value = packed[r - window_row, c - window_column]
                    if value != 0:
                        weight = wr * (min(c + 1.0, c1) - max(float(c), c0))
                        total += weight * value
                        weights += weight
            if weights > 0.0:
                out[i, j] = np.uint16(math.floor(total / weights + 0.5))
