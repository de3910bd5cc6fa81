"""How the ground's pixels are seen on a tile's grid."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from geostack_pipeline.sandbox.world.grids import Floats, Grid, project


@numba.njit(nogil=True, cache=True)
def _interpolated(
    values: Floats,
    column_fit: npt.NDArray[np.float64],
    row_fit: npt.NDArray[np.float64],
    height: int,
    width: int,
) -> Floats:
    """Return ``values`` interpolated linearly at positions given by cubic polynomials of (u, v) in [0, 1]."""
    out = np.empty((height, width), np.float32)
    last_row, last_column = values.shape[0] - 1, values.shape[1] - 1
    for i in range(height):
        v = (i + 0.5) / height
        # Horner's scheme in u, with the coefficients for this row.
        c, r = column_fit, row_fit
        c0, r0 = c[0] + v * (c[1] + v * (c[2] + v * c[3])), r[0] + v * (r[1] + v * (r[2] + v * r[3]))
        c1, r1 = c[4] + v * (c[5] + v * c[6]), r[4] + v * (r[5] + v * r[6])
        c2, r2 = c[7] + v * c[8], r[7] + v * r[8]
        for j in range(width):
            u = (j + 0.5) / width
            x = min(max(c0 + u * (c1 + u * (c2 + u * c[9])), 0.0), float(last_column))
            y = min(max(r0 + u * (r1 + u * (r2 + u * r[9])), 0.0), float(last_row))
            x0, y0 = min(int(x), last_column - 1), min(int(y), last_row - 1)
            fx, fy = np.float32(x - x0), np.float32(y - y0)
            above = values[y0, x0] + fx * (values[y0, x0 + 1] - values[y0, x0])
            below = values[y0 + 1, x0] + fx * (values[y0 + 1, x0 + 1] - values[y0 + 1, x0])
            out[i, j] = above + fy * (below - above)
    return out


class Sampler:
    """Values of the ground's grid on a tile's grid.

    In the same zone both lattices coincide and the values are cut out; from another zone they are
    interpolated linearly, the positions by a cubic polynomial fitted to the projection (error below 0.01 m
    over 30 km).
    """

    def __init__(self, ground: Grid, tile: Grid) -> None:
        self._ground = ground
        self._tile = tile
        self._fits: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None = None
        if ground.epsg != tile.epsg:
            self._fits = self._fit()

    def _basis(self, u: npt.NDArray[np.float64], v: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
        return [u**i * v**j for i in range(4) for j in range(4 - i)]

    def _fit(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        tile, ground = self._tile, self._ground
        u, v = (axis.ravel() for axis in np.meshgrid(np.linspace(0, 1, 15), np.linspace(0, 1, 15)))
        west, _, _, north = tile.bounds
        x, y = project(
            tile.epsg,
            ground.epsg,
            west + u * tile.width * tile.pixel_m,
            north - v * tile.height * tile.pixel_m,
        )
        matrix = np.stack(self._basis(u, v), axis=1)
        column = np.linalg.lstsq(matrix, x - ground.west, rcond=None)[0]
        row = np.linalg.lstsq(matrix, ground.north - y, rcond=None)[0]
        return np.asarray(column, np.float64), np.asarray(row, np.float64)

    def window(self) -> tuple[slice, slice]:
        """Return rows and columns of the ground's 10 m grid that the tile needs, both ends even."""
        ground, tile = self._ground, self._tile
        west, south, east, north = tile.bounds
        edges = np.linspace(0.0, 1.0, 9)
        x = np.concatenate([west + edges * (east - west)] * 2 + [np.full(9, west), np.full(9, east)])
        y = np.concatenate([np.full(9, south), np.full(9, north)] + [south + edges * (north - south)] * 2)
        x, y = project(tile.epsg, ground.epsg, x, y)
        spare = 0 if self._fits is None else 4
        left = int(np.floor((x.min() - ground.west) / 20.0)) * 2 - spare
        right = int(np.ceil((x.max() - ground.west) / 20.0)) * 2 + spare
        top = int(np.floor((ground.north - y.max()) / 20.0)) * 2 - spare
        bottom = int(np.ceil((ground.north - y.min()) / 20.0)) * 2 + spare
        return slice(top, bottom), slice(left, right)

    def sample(self, values: Floats, window: tuple[slice, slice], factor: int) -> Floats:
        """Return ``values``, given on ``window`` of the ground at ``factor`` x 10 m, on the tile's pixels of that size."""
        grid = self._tile.coarser(factor)
        ground_pixel = self._ground.pixel_m * factor
        top, left = window[0].start // factor, window[1].start // factor
        if self._fits is None:
            row = round((self._ground.north - grid.north) / ground_pixel) - top
            column = round((grid.west - self._ground.west) / ground_pixel) - left
            return np.ascontiguousarray(values[row : row + grid.height, column : column + grid.width])
        column, row = (fit / ground_pixel for fit in self._fits)
        column[0] -= 0.5 + left
        row[0] -= 0.5 + top
        return _interpolated(np.ascontiguousarray(values), column, row, grid.height, grid.width)
