"""Where each pixel of a grid lies in a source image: exact on a coarse lattice, bilinear between.

The lattice is refined until the interpolation is within :data:`TOLERANCE_PX` of PROJ.  Where even the corners of
single pixels do not get it to :data:`PROMISED_PX`, as around a pole in degrees, each centre is projected by itself.  The
projection is shared by all sources of one CRS, whatever their pixel size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.cube.kernels import CUT_PX, CUT_SHARE
from geostack_pipeline.raster.geo import Affine6, inverse
from geostack_pipeline.raster.window import centre_x, parsed_crs, projected, same_crs, unwrapped

TOLERANCE_PX = 1e-4
"""Largest error of the interpolated coordinates, in source pixels. An error of that size moves
about one pixel in 10,000 to its neighbour, no more than the approximations of other warpers."""

PROMISED_PX = 0.01
"""Largest error that is ever left, in source pixels."""

_COARSEST = 128
_AFFINE = 16
"""Exact at any step; small cells are less often cut by the edge of a tile, which is what costs time."""
Nodes = npt.NDArray[np.float64]


def _none() -> Nodes:
    return np.empty((0, 0))


@dataclass(frozen=True, kw_only=True, eq=False)
class CoordinateMap:
    """Source pixel coordinates on a lattice over the grid's pixel corners.

    Node (n, m) belongs to the corner of grid row n*step and column m*step.  Coordinates count
    source pixels from the outer corner of the first one; NaN or infinite where there is no map.
    """

    columns: Nodes
    """Source columns, shaped (node rows, node columns)."""
    rows: Nodes
    """Source rows, likewise."""
    step: int
    """Grid pixels between two nodes."""
    period: float
    """Source columns in a full turn of longitude; 0 where columns do not repeat."""
    affine: bool = False
    """Whether one affine transform is exact for the whole grid."""
    exact_columns: Nodes = field(default_factory=_none)
    """Source columns of the pixels' centres, shaped as the grid, where the lattice is not fine enough; else empty."""
    exact_rows: Nodes = field(default_factory=_none)
    """Source rows, likewise."""

    @property
    def spans(self) -> tuple[float, float]:
        """Source columns and source rows that one grid pixel's side spans, on average over the grid."""
        cut = self._cut()
        return _span(self.columns, self.step, cut), _span(self.rows, self.step, cut)

    @property
    def is_lattice(self) -> bool:
        """Whether the grid's pixels are pixels of the source, one for one, so that nothing is to be resampled."""
        right, down = np.diff(self.columns, axis=1), np.diff(self.rows, axis=0)
        whole = np.all(np.mod(self.columns[:1, :1], 1.0) == 0.0) and np.all(
            np.mod(self.rows[:1, :1], 1.0) == 0.0
        )
        straight = np.all(right == self.step) and np.all(down == self.step)
        across = np.all(np.diff(self.columns, axis=0) == 0.0) and np.all(np.diff(self.rows, axis=1) == 0.0)
        return bool(whole and straight and across and self.period == 0.0)

    @property
    def ratio(self) -> float:
        """Source pixels per grid pixel, along one axis, on average over the grid."""
        height, width = self.columns.shape
        if height < 2 or width < 2:
            return 1.0
        cx, cy = np.diff(self.columns, axis=1)[:-1], np.diff(self.columns, axis=0)[:, :-1]
        rx, ry = np.diff(self.rows, axis=1)[:-1], np.diff(self.rows, axis=0)[:, :-1]
        area = np.abs(cx * ry - cy * rx) / self.step**2
        area = area[np.isfinite(area) & ~self._cut()]
        return float(np.sqrt(area.mean())) if area.size else 1.0

    def _cut(self) -> npt.NDArray[np.bool_]:
        """Return in which cells the source's projection is cut, as Mercator at the antimeridian: see ``kernels``."""
        cut = np.zeros((self.columns.shape[0] - 1, self.columns.shape[1] - 1), np.bool_)
        if self.period > 0.0 or not self.exact_columns.size:
            return cut
        for nodes, centres in ((self.columns, self.exact_columns), (self.rows, self.exact_rows)):
            corners = (nodes[:-1, :-1], nodes[:-1, 1:], nodes[1:, :-1], nodes[1:, 1:])
            low, high = np.minimum.reduce(corners), np.maximum.reduce(corners)
            with np.errstate(invalid="ignore"):
                apart = np.abs(centres - (low + high) / 2.0) > CUT_SHARE * (high - low)
                cut |= apart & (high - low > CUT_PX)
        return cut


def coordinate_map(
    grid: GridSpec, source_crs: str, source_transform: Affine6, source_width: int, source_height: int
) -> CoordinateMap:
    """Return where the grid's pixels lie in a source image.

    In the same CRS the map is one affine transform, with coefficients freed from rounding, so
    that aligned pixels are copied and never resampled.

    Args:
        grid: The target.
        source_crs: CRS of the source.
        source_transform: Pixel corner to CRS coordinates of the source.
        source_width: Columns of the source.
        source_height: Rows of the source.
    """
    a, b, c, d, e, f = inverse(source_transform)
    definition = parsed_crs(source_crs)
    turn = 2 * np.pi / definition.axis_info[0].unit_conversion_factor if definition.is_geographic else 0.0
    period = turn * abs(a) if b == 0.0 and d == 0.0 else 0.0
    if same_crs(grid.crs, source_crs) and not turn:
        columns, rows = _affine_nodes(grid, inverse(source_transform), _AFFINE)
        return CoordinateMap(columns=columns, rows=rows, step=_AFFINE, period=0.0, affine=True)
    middle = centre_x(source_transform, source_width, source_height)

    def nodes(step: int, first: float = 0.0) -> tuple[Nodes, Nodes]:
        x, y = _projected_nodes(grid, source_crs, step, first)
        if turn:
            # whole turns for the grid as one, so that it stays in one piece
            centre = x[x.shape[0] // 2, x.shape[1] // 2]
            if np.isfinite(centre):
                x = x - turn * np.round((centre - middle) / turn)
        return a * x + b * y + c, d * x + e * y + f

    step, error = _COARSEST, np.inf
    columns, rows = nodes(step)
    while step > 1:
        finer_columns, finer_rows = nodes(step // 2)
        # of bilinear interpolation between smooth nodes: half the step, a quarter of the error
        error = max(_error(columns, finer_columns), _error(rows, finer_rows)) / 4.0
        columns, rows, step = finer_columns, finer_rows, step // 2
        if error <= TOLERANCE_PX / 2:
            break
    exact_columns, exact_rows = _none(), _none()
    if error > PROMISED_PX:
        exact_columns, exact_rows = (each[:-1, :-1] for each in nodes(step, first=0.5))
        # a pixel whose corners have no place has none, as before: a mean needs them
        unplaced = ~(_has_corners(columns) & _has_corners(rows))
        exact_columns, exact_rows = (np.where(unplaced, np.nan, each) for each in (exact_columns, exact_rows))
    return CoordinateMap(
        columns=columns,
        rows=rows,
        step=step,
        period=period,
        exact_columns=exact_columns,
        exact_rows=exact_rows,
    )


def _has_corners(nodes: Nodes) -> npt.NDArray[np.bool_]:
    """Whether the four corners of each pixel are finite, of a lattice of all corners."""
    finite = np.isfinite(nodes)
    return np.asarray(finite[:-1, :-1] & finite[1:, :-1] & finite[:-1, 1:] & finite[1:, 1:])


def _span(nodes: Nodes, step: int, cut: npt.NDArray[np.bool_]) -> float:
    down, right = np.diff(nodes, axis=0)[:, :-1], np.diff(nodes, axis=1)[:-1]
    length = np.hypot(down, right)
    length = length[np.isfinite(length) & ~cut]
    return float(length.mean()) / step if length.size else 1.0


def _error(coarse: Nodes, fine: Nodes) -> float:
    """Return the largest difference between nodes and what the next coarser ones give between them."""
    height, width = coarse.shape
    between = np.empty((2 * height - 1, 2 * width - 1))
    between[::2, ::2] = coarse
    between[1::2, ::2] = (coarse[1:] + coarse[:-1]) / 2
    between[:, 1::2] = (between[:, 2::2] + between[:, :-2:2]) / 2
    # the coarser lattice may reach further behind the grid's edge
    shared_rows, shared_columns = min(between.shape[0], fine.shape[0]), min(between.shape[1], fine.shape[1])
    with np.errstate(invalid="ignore"):
        difference = np.abs(between[:shared_rows, :shared_columns] - fine[:shared_rows, :shared_columns])
    return float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0))


def _corner_positions(grid: GridSpec, step: int) -> tuple[Nodes, Nodes]:
    columns = np.arange(0, -(-grid.width // step) + 1, dtype=np.float64) * step
    rows = np.arange(0, -(-grid.height // step) + 1, dtype=np.float64) * step
    return columns, rows


def _affine_nodes(grid: GridSpec, to_source: Affine6, step: int) -> tuple[Nodes, Nodes]:
    ga, _, gc, _, ge, gf = grid.transform
    a, b, c, d, e, f = to_source
    extent = max(grid.width, grid.height)
    ca, cb, cc = _clean(a * ga, extent), _clean(b * ge, extent), _clean(a * gc + b * gf + c, 1)
    ra, rb, rc = _clean(d * ga, extent), _clean(e * ge, extent), _clean(d * gc + e * gf + f, 1)
    columns, rows = _corner_positions(grid, step)
    x, y = columns[None, :], rows[:, None]
    return ca * x + cb * y + cc, ra * x + rb * y + rc


def _clean(value: float, extent: float) -> float:
    """Return the nearest multiple of 1/64 where rounding alone keeps a value from it, else the value."""
    near = round(value * 64) / 64
    return near if abs(value - near) * extent < 1e-6 else value


def _projected_nodes(grid: GridSpec, source_crs: str, step: int, first: float = 0.0) -> tuple[Nodes, Nodes]:
    """Return the lattice in the source's CRS; ``first``: where it begins, in pixels.

    Scenes of one CRS share it, but for fine ones, which are as large as the cube: those of a map around a pole would
    stay in memory long after it.
    """
    make = _shared_nodes if step >= _SHARED_STEP else _nodes
    return make(grid, source_crs, step, first)


def _nodes(grid: GridSpec, source_crs: str, step: int, first: float) -> tuple[Nodes, Nodes]:
    a, _, c, _, e, f = grid.transform
    columns, rows = _corner_positions(grid, step)
    x, y = np.meshgrid(c + a * (columns + first), f + e * (rows + first))
    px, py = projected(x.ravel(), y.ravel(), grid.crs, source_crs)
    middle = px.size // 2
    if np.isfinite(px[middle]):
        px = unwrapped(px, source_crs, float(px[middle]))
    shape = x.shape
    return px.reshape(shape), py.reshape(shape)


_SHARED_STEP = 4
_shared_nodes = lru_cache(maxsize=64)(_nodes)
