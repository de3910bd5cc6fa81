"""Compiled loops over the pixels of a grid. They hold no interpreter lock and allocate nothing.

All of them walk the cells of a coordinate map: inside a cell the source coordinates of a row
are linear in the column.  Pixels are those whose ``owner`` is ``wanted``.  A pixel belongs to
the source tile in which its centre lies, so tiles can be worked on at the same time: no two
write the same pixel.

Where no lattice is fine enough the coordinates of the centres come by themselves (``exact_columns``, ``exact_rows``,
shaped as the grid; empty where the lattice says it all), and all cells are looked at pixel by pixel.

Most cells lie in one tile and are wanted as a whole; :func:`needed_tiles` says once, for all bands on
a lattice, which ones, and no other loop looks at their owners again.

Where the columns of an image go once around the Earth (``turn``), bilinear and average look beyond its first and last
column: column -1 is the last one.  ``turn`` is 0 elsewhere.

``EDGE`` is the tolerance with which GDAL rounds a centre on the edge of two source pixels to
the second one.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

EDGE = 1e-10
CUT_PX, CUT_SHARE = 4.0, 0.4
"""A pixel is cut whose corners are more than so many source pixels apart, and its centre more than this share of that
from their middle: where the map is smooth the centre is about the middle."""
NOTHING, MIXED = -1, 0
"""Cells without a wanted pixel in the image, and cells that must be looked at pixel by pixel."""

Nodes = npt.NDArray[np.float64]
Owner = npt.NDArray[np.int16]
Boxes = npt.NDArray[np.int32]
"""(tile rows, tile columns, 4): first row, last row, first column, last column of the grid pixels
that need the tile; last < first where none does."""
Cells = npt.NDArray[np.int32]
"""What each cell of the map is: NOTHING, MIXED, or 1 + the number of the tile (counted by rows) that it lies in
where all its pixels are wanted."""


@njit(nogil=True, cache=True)
def present(owner: Owner, found: npt.NDArray[np.bool_]) -> None:
    """Mark the indices that are owners of any pixel."""
    for i in range(owner.shape[0]):
        for j in range(owner.shape[1]):
            if owner[i, j] >= 0:
                found[owner[i, j]] = True


@njit(nogil=True, cache=True)
def needed_tiles(
    columns: Nodes,
    rows: Nodes,
    step: int,
    period: float,
    exact_columns: Nodes,
    exact_rows: Nodes,
    owner: Owner,
    wanted: int,
    width: int,
    height: int,
    tile_width: int,
    tile_height: int,
    boxes: Boxes,
    cells: Cells,
) -> bool:
    """Fill the boxes of the source tiles that wanted pixels lie in, and the cells; return whether there are any."""
    grid_height, grid_width = owner.shape
    exact = exact_rows.shape[0] > 0
    smooth = period == 0.0 and not exact
    any_pixel = False
    for n in range(rows.shape[0] - 1):
        top, bottom = n * step, min((n + 1) * step, grid_height)
        for m in range(rows.shape[1] - 1):
            cells[n, m] = NOTHING
            if smooth and _cell_is_outside(columns, rows, n, m, width, height):
                continue
            left = m * step
            right = min(left + step, grid_width)
            if smooth:
                ti, tj = _tile_of_cell(columns, rows, n, m, width, height, tile_width, tile_height)
                if ti >= 0:
                    if _all_wanted(owner, wanted, top, bottom, left, right):
                        _widen(boxes[ti, tj], top, bottom - 1, left, right - 1)
                        cells[n, m] = 1 + ti * boxes.shape[1] + tj
                    else:
                        for i in range(top, bottom):
                            if _add_row(owner, wanted, i, left, right, boxes[ti, tj]):
                                cells[n, m] = MIXED
                    any_pixel = any_pixel or cells[n, m] != NOTHING
                    continue
            for i in range(top, bottom):
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
                    if exact:
                        c, r = exact_columns[i, j] + EDGE, exact_rows[i, j] + EDGE
                    if period > 0.0:
                        c -= period * math.floor(c / period)
                    if c >= 0.0 and r >= 0.0 and c < width and r < height:
                        _widen(boxes[int(r) // tile_height, int(c) // tile_width], i, i, j, j)
                        cells[n, m] = MIXED
                        any_pixel = True
    return any_pixel


@njit(nogil=True, cache=True)
def _widen(box: npt.NDArray[np.int32], top: int, bottom: int, left: int, right: int) -> None:
    box[0] = min(box[0], top)
    box[1] = max(box[1], bottom)
    box[2] = min(box[2], left)
    box[3] = max(box[3], right)


@njit(nogil=True, cache=True)
def _all_wanted(owner: Owner, wanted: int, top: int, bottom: int, left: int, right: int) -> bool:
    for i in range(top, bottom):
        differs = np.int16(0)
        for j in range(left, right):  # without a branch: compiled to many pixels at once
            differs |= owner[i, j] ^ np.int16(wanted)
        if differs != 0:
            return False
    return True


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
def _add_row(owner: Owner, wanted: int, i: int, left: int, right: int, box: npt.NDArray[np.int32]) -> bool:
    """Widen a tile's box by the wanted pixels of one row between two columns; return whether there are any."""
    first, last = left, right - 1
    while first <= last and owner[i, first] != wanted:
        first += 1
    if first > last:
        return False
    while owner[i, last] != wanted:
        last -= 1
    _widen(box, i, i, first, last)
    return True


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
    exact_columns: Nodes,
    exact_rows: Nodes,
    affine: bool,  # noqa: FBT001  numba has no arguments by keyword alone
    owner: Owner,
    wanted: int,
    claim: int,
    width: int,
    height: int,
    tile: npt.NDArray[np.unsignedinteger],
    tile_row: int,
    tile_column: int,
    number: int,
    table: npt.NDArray[np.uint16],
    box: npt.NDArray[np.int32],
    cells: Cells,
    out: npt.NDArray[np.unsignedinteger],
) -> None:
    """Give the wanted pixels of a tile their nearest value, through a table from stored to packed numbers.

    With ``claim`` >= 0 only values other than 0 are placed, and their pixels get ``claim`` as owner.
    ``number`` is the tile's, counted by rows.
    """
    exact = exact_rows.shape[0] > 0
    tile_height, tile_width = tile.shape
    top, left_edge = tile_row * tile_height, tile_column * tile_width
    last = box[3] // step
    for n in range(box[0] // step, box[1] // step + 1):
        first_row, stop_row = max(n * step, box[0]), min((n + 1) * step, box[1] + 1)
        m = box[2] // step
        while m <= last:
            state = cells[n, m]
            here = m
            m += 1
            if state == NOTHING or (state != MIXED and state != number + 1):
                continue
            if state != MIXED:
                while affine and m <= last and cells[n, m] == state:
                    m += 1  # coordinates are linear in the whole row: all cells of the run are one
                left, right = max(here * step, box[2]), min(m * step, box[3] + 1)
                _place_whole(
                    columns, rows, step, claim, owner, tile, top, left_edge, table,
                    n, here, first_row, stop_row, left, right, out,
                )  # fmt: skip
                continue
            left, right = max(here * step, box[2]), min(m * step, box[3] + 1)
            for i in range(first_row, stop_row):
                v = (i - n * step + 0.5) / step
                c0 = columns[n, here] + v * (columns[n + 1, here] - columns[n, here])
                c1 = columns[n, here + 1] + v * (columns[n + 1, here + 1] - columns[n, here + 1])
                r0 = rows[n, here] + v * (rows[n + 1, here] - rows[n, here])
                r1 = rows[n, here + 1] + v * (rows[n + 1, here + 1] - rows[n, here + 1])
                dc, dr = (c1 - c0) / step, (r1 - r0) / step
                for j in range(left, right):
                    if owner[i, j] != wanted:
                        continue
                    t = j - here * step + 0.5
                    c = c0 + t * dc + EDGE
                    r = r0 + t * dr + EDGE
                    if exact:
                        c, r = exact_columns[i, j] + EDGE, exact_rows[i, j] + EDGE
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
def _place_whole(
    columns: Nodes,
    rows: Nodes,
    step: int,
    claim: int,
    owner: Owner,
    tile: npt.NDArray[np.unsignedinteger],
    top: int,
    left_edge: int,
    table: npt.NDArray[np.uint16],
    n: int,
    m: int,
    first_row: int,
    stop_row: int,
    left: int,
    right: int,
    out: npt.NDArray[np.unsignedinteger],
) -> None:
    """Place pixels that are all wanted and lie in the tile; cell (n, m) says where the first column of each row is.

    Indices are unsigned: signed ones are looked at for counting from the end, which takes twice the time.
    """
    part = 1.0 / step
    start, count = left - m * step + 0.5, np.uint64(right - left)
    for i in range(first_row, stop_row):
        v = (i - n * step + 0.5) * part
        c0 = columns[n, m] + v * (columns[n + 1, m] - columns[n, m])
        c1 = columns[n, m + 1] + v * (columns[n + 1, m + 1] - columns[n, m + 1])
        r0 = rows[n, m] + v * (rows[n + 1, m] - rows[n, m])
        r1 = rows[n, m + 1] + v * (rows[n + 1, m + 1] - rows[n, m + 1])
        dc, dr = (c1 - c0) * part, (r1 - r0) * part
        c, r = c0 + start * dc + EDGE - left_edge, r0 + start * dr + EDGE - top
        row, column = np.uint64(i), np.uint64(left)
        ri, ci = np.uint64(np.int64(r)), np.uint64(np.int64(c))
        if dc == 1.0 and dr == 0.0:
            if claim < 0:
                for k in range(count):
                    out[row, column + k] = table[tile[ri, ci + k]]
                continue
            for k in range(count):
                value = table[tile[ri, ci + k]]
                if value != 0:
                    out[row, column + k] = value
                    owner[row, column + k] = claim
            continue
        if claim < 0:
            for k in range(count):
                ri, ci = np.uint64(np.int64(r + k * dr)), np.uint64(np.int64(c + k * dc))
                out[row, column + k] = table[tile[ri, ci]]
            continue
        for k in range(count):
            ri, ci = np.uint64(np.int64(r + k * dr)), np.uint64(np.int64(c + k * dc))
            value = table[tile[ri, ci]]
            if value != 0:
                out[row, column + k] = value
                owner[row, column + k] = claim


@njit(nogil=True, cache=True)
def window_needed(
    columns: Nodes,
    rows: Nodes,
    step: int,
    period: float,
    exact_columns: Nodes,
    exact_rows: Nodes,
    owner: Owner,
    wanted: int,
    width: int,
    height: int,
    tile_row: int,
    tile_column: int,
    tile_width: int,
    tile_height: int,
    number: int,
    reach_columns: float,
    reach_rows: float,
    turn: int,
    box: npt.NDArray[np.int32],
    cells: Cells,
) -> tuple[int, int, int, int]:
    """Return (row, stop row, column, stop column) of the source pixels under the wanted pixels of a tile.

    Columns of an image that goes around count on beyond its edges.

    With a reach they are those whose centre is nearer to a pixel's than that, in source pixels; with a negative
    one those that the pixel covers.
    """
    exact = exact_rows.shape[0] > 0
    row, stop_row, column, stop_column = height, 0, 2 * width, -width
    for n in range(box[0] // step, box[1] // step + 1):
        for m in range(box[2] // step, box[3] // step + 1):
            state = cells[n, m]
            if state == NOTHING or (state != MIXED and state != number + 1):
                continue
            left = max(m * step, box[2])
            right = min((m + 1) * step, box[3] + 1)
            for i in range(max(n * step, box[0]), min((n + 1) * step, box[1] + 1)):
                for j in range(left, right):
                    # of a row without gaps the ends say it all: inside a cell coordinates are linear
                    if state != MIXED and left < j < right - 1:
                        continue
                    if state == MIXED and owner[i, j] != wanted:
                        continue
                    if exact:
                        c, r = _exact_centre(exact_columns, exact_rows, period, i, j)
                    else:
                        c, r = _centre(columns, rows, step, period, n, m, i, j)
                    if state == MIXED and not _inside(
                        c, r, tile_row, tile_column, tile_width, tile_height, width, height
                    ):
                        continue
                    if reach_columns < 0.0:
                        c0, c1, r0, r1 = _footprint(columns, rows, step, period, n, m, i, j)
                        if exact and period == 0.0:
                            c0, c1 = _uncut(c, c0, c1)
                            r0, r1 = _uncut(r, r0, r1)
                        first, stop = _columns_in(math.floor(c0 + EDGE), math.ceil(c1 - EDGE), width, turn)
                        column, stop_column = min(column, first), max(stop_column, stop)
                        row = min(row, max(0, math.floor(r0 + EDGE)))
                        stop_row = max(stop_row, min(height, math.ceil(r1 - EDGE)))
                    else:
                        first, stop = _columns_in(
                            math.floor(c - reach_columns + 0.5),
                            math.floor(c + reach_columns - 0.5) + 1,
                            width,
                            turn,
                        )
                        column, stop_column = min(column, first), max(stop_column, stop)
                        row = min(row, max(0, math.floor(r - reach_rows + 0.5)))
                        stop_row = max(stop_row, min(height, math.floor(r + reach_rows - 0.5) + 1))
    return row, stop_row, column, stop_column


@njit(nogil=True, cache=True)
def _columns_in(first: int, stop: int, width: int, turn: int) -> tuple[int, int]:
    """Return columns cut to the image; where it goes around they stay as they are."""
    return (first, stop) if turn > 0 else (max(0, first), min(width, stop))


@njit(nogil=True, cache=True)
def _centre(
    columns: Nodes, rows: Nodes, step: int, period: float, n: int, m: int, i: int, j: int
) -> tuple[float, float]:
    """Source column and row of the centre of a pixel in the cell (n, m), by the same arithmetic as :func:`needed_tiles`."""
    part = 1.0 / step  # exact: a step is a power of two
    v, t = (i - n * step + 0.5) * part, j - m * step + 0.5
    c0 = columns[n, m] + v * (columns[n + 1, m] - columns[n, m])
    c1 = columns[n, m + 1] + v * (columns[n + 1, m + 1] - columns[n, m + 1])
    r0 = rows[n, m] + v * (rows[n + 1, m] - rows[n, m])
    r1 = rows[n, m + 1] + v * (rows[n + 1, m + 1] - rows[n, m + 1])
    c = c0 + t * ((c1 - c0) * part) + EDGE
    r = r0 + t * ((r1 - r0) * part) + EDGE
    if period > 0.0:
        c -= period * math.floor(c / period)
    return c, r


@njit(nogil=True, cache=True)
def _exact_centre(
    exact_columns: Nodes, exact_rows: Nodes, period: float, i: int, j: int
) -> tuple[float, float]:
    """Source column and row of a centre that was projected by itself."""
    c, r = exact_columns[i, j] + EDGE, exact_rows[i, j] + EDGE
    if period > 0.0:
        c -= period * math.floor(c / period)
    return c, r


@njit(nogil=True, cache=True)
def _inside(
    c: float,
    r: float,
    tile_row: int,
    tile_column: int,
    tile_width: int,
    tile_height: int,
    width: int,
    height: int,
) -> bool:
    """Whether a centre lies in a tile of the image. False for NaN."""
    if not (c >= 0.0 and r >= 0.0 and c < width and r < height):
        return False
    return int(r) // tile_height == tile_row and int(c) // tile_width == tile_column


@njit(nogil=True, cache=True)
def _at(nodes: Nodes, n: int, m: int, v: float, u: float) -> float:
    """The coordinate in the cell (n, m), ``v`` of its height and ``u`` of its width from its first corner."""
    upper = nodes[n, m] + u * (nodes[n, m + 1] - nodes[n, m])
    lower = nodes[n + 1, m] + u * (nodes[n + 1, m + 1] - nodes[n + 1, m])
    return float(upper + v * (lower - upper))


@njit(nogil=True, cache=True)
def _footprint(
    columns: Nodes, rows: Nodes, step: int, period: float, n: int, m: int, i: int, j: int
) -> tuple[float, float, float, float]:
    """Source extent of a pixel of the cell (n, m) between its first and its last corner.

    First and last column, first and last row.  Where the source is turned by 45 degrees the two corners share a
    column or a row: the extent is then that whole column or row, as GDAL has it, not a line that covers nothing.
    """
    part = 1.0 / step
    v0, u0 = (i - n * step) * part, (j - m * step) * part
    v1, u1 = v0 + part, u0 + part
    c0, c1 = _at(columns, n, m, v0, u0), _at(columns, n, m, v1, u1)
    if period > 0.0:
        # around a pole the corners of a pixel may be numbered by different turns
        c1 -= period * math.floor((c1 - c0) / period + 0.5)
    r0, r1 = _at(rows, n, m, v0, u0), _at(rows, n, m, v1, u1)
    c_low, c_high = min(c0, c1), max(c0, c1)
    if period > 0.0:
        turns = period * math.floor((c_low + c_high) / (2.0 * period))
        c_low -= turns
        c_high -= turns
    r_low, r_high = min(r0, r1), max(r0, r1)
    # wider ones, less the tolerance on both sides, always hold a part of a source pixel
    if c_high - c_low <= 2.0 * EDGE:
        c_low = math.floor(c_low + EDGE)
        c_high = c_low + 1.0
    if r_high - r_low <= 2.0 * EDGE:
        r_low = math.floor(r_low + EDGE)
        r_high = r_low + 1.0
    return c_low, c_high, r_low, r_high


@njit(nogil=True, cache=True)
def _uncut(centre: float, low: float, high: float) -> tuple[float, float]:
    """Return the extent of a pixel on its centre's side, where the source's projection is cut inside the pixel.

    Mercator is cut at the antimeridian: corners on both sides of it are the whole Earth apart, and the centre is beside
    one of them instead of between them.  The corner on its side has a counterpart at the same distance from it.
    """
    if high - low <= CUT_PX or abs(centre - 0.5 * (low + high)) <= CUT_SHARE * (high - low):
        return low, high
    half = min(abs(centre - low), abs(high - centre))
    if half <= EDGE:
        return math.floor(centre), math.floor(centre) + 1.0
    return centre - half, centre + half


@njit(nogil=True, cache=True)
def place_average(
    columns: Nodes,
    rows: Nodes,
    step: int,
    period: float,
    exact_columns: Nodes,
    exact_rows: Nodes,
    owner: Owner,
    wanted: int,
    width: int,
    height: int,
    tile_row: int,
    tile_column: int,
    tile_width: int,
    tile_height: int,
    number: int,
    turn: int,
    packed: npt.NDArray[np.uint16],
    window_row: int,
    window_column: int,
    box: npt.NDArray[np.int32],
    cells: Cells,
    out: npt.NDArray[np.uint16],
) -> None:
    """Give the wanted pixels of a tile the mean of the source pixels under them, weighted by overlap.

    Packed values of 0 (no data) do not count; the mean is rounded half up, as GDAL's.
    """
    exact = exact_rows.shape[0] > 0
    for n in range(box[0] // step, box[1] // step + 1):
        for m in range(box[2] // step, box[3] // step + 1):
            state = cells[n, m]
            if state == NOTHING or (state != MIXED and state != number + 1):
                continue
            left = max(m * step, box[2])
            right = min((m + 1) * step, box[3] + 1)
            for i in range(max(n * step, box[0]), min((n + 1) * step, box[1] + 1)):
                for j in range(left, right):
                    if state == MIXED:
                        if owner[i, j] != wanted:
                            continue
                        if exact:
                            c, r = _exact_centre(exact_columns, exact_rows, period, i, j)
                        else:
                            c, r = _centre(columns, rows, step, period, n, m, i, j)
                        if not _inside(c, r, tile_row, tile_column, tile_width, tile_height, width, height):
                            continue
                    c0, c1, r0, r1 = _footprint(columns, rows, step, period, n, m, i, j)
                    if exact and period == 0.0:
                        c0, c1 = _uncut(c, c0, c1)
                        r0, r1 = _uncut(r, r0, r1)
                    column, stop_column = _columns_in(
                        math.floor(c0 + EDGE), math.ceil(c1 - EDGE), width, turn
                    )
                    row, stop_row = max(0, math.floor(r0 + EDGE)), min(height, math.ceil(r1 - EDGE))
                    total, weights = 0.0, 0.0
                    for rr in range(row, stop_row):
                        wr = min(rr + 1.0, r1) - max(float(rr), r0)
                        line = np.uint64(rr - window_row)
                        for cc in range(column, stop_column):
                            value = packed[line, np.uint64(cc - window_column)]
                            if value != 0:
                                weight = wr * (min(cc + 1.0, c1) - max(float(cc), c0))
                                total += weight * value
                                weights += weight
                    if weights > 0.0:
                        out[i, j] = np.uint16(math.floor(total / weights + 0.5))


@njit(nogil=True, cache=True)
def place_bilinear(
    columns: Nodes,
    rows: Nodes,
    step: int,
    period: float,
    exact_columns: Nodes,
    exact_rows: Nodes,
    owner: Owner,
    wanted: int,
    width: int,
    height: int,
    tile_row: int,
    tile_column: int,
    tile_width: int,
    tile_height: int,
    number: int,
    reach_columns: float,
    reach_rows: float,
    turn: int,
    packed: npt.NDArray[np.uint16],
    window_row: int,
    window_column: int,
    box: npt.NDArray[np.int32],
    cells: Cells,
    out: npt.NDArray[np.uint16],
) -> None:
    """Give the wanted pixels of a tile the mean of the source pixels around their centres, weighted by nearness.

    The weight falls linearly to 0 at the reach: at one pixel it is bilinear interpolation, and a wider reach is its
    form for a coarser grid, as GDAL has it.  Packed values of 0 (no data) do not count; where the source pixel under
    the centre has no data the pixel has none.  Rounded half up.
    """
    exact = exact_rows.shape[0] > 0
    row_part, column_part = 1.0 / reach_rows, 1.0 / reach_columns
    for n in range(box[0] // step, box[1] // step + 1):
        for m in range(box[2] // step, box[3] // step + 1):
            state = cells[n, m]
            if state == NOTHING or (state != MIXED and state != number + 1):
                continue
            left = max(m * step, box[2])
            right = min((m + 1) * step, box[3] + 1)
            for i in range(max(n * step, box[0]), min((n + 1) * step, box[1] + 1)):
                for j in range(left, right):
                    if state == MIXED and owner[i, j] != wanted:
                        continue
                    if exact:
                        c, r = _exact_centre(exact_columns, exact_rows, period, i, j)
                    else:
                        c, r = _centre(columns, rows, step, period, n, m, i, j)
                    if state == MIXED and not _inside(
                        c, r, tile_row, tile_column, tile_width, tile_height, width, height
                    ):
                        continue
                    if packed[int(r) - window_row, int(c) - window_column] == 0:
                        continue
                    column, stop_column = _columns_in(
                        math.floor(c - reach_columns + 0.5),
                        math.floor(c + reach_columns - 0.5) + 1,
                        width,
                        turn,
                    )
                    row = max(0, math.floor(r - reach_rows + 0.5))
                    stop_row = min(height, math.floor(r + reach_rows - 0.5) + 1)
                    total, weights = 0.0, 0.0
                    for rr in range(row, stop_row):
                        wr = 1.0 - abs(rr + 0.5 - r) * row_part
                        line = np.uint64(rr - window_row)
                        for cc in range(column, stop_column):
                            value = packed[line, np.uint64(cc - window_column)]
                            if value != 0:
                                weight = wr * (1.0 - abs(cc + 0.5 - c) * column_part)
                                total += weight * value
                                weights += weight
                    out[i, j] = np.uint16(math.floor(total / weights + 0.5))
