"""Pixel grids of tiles and of the ground below them, and how one is sampled on the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt
from pyproj import Transformer

from geostack_pipeline.areas import Area
from geostack_pipeline.sandbox.world.plan import SitePlan, TilePlan

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A north-up pixel grid in a UTM zone."""

    epsg: int
    west: float
    """Easting of the outer west edge, metres."""
    north: float
    """Northing of the outer north edge, metres."""
    pixel_m: float
    width: int
    height: int

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """Affine coefficients a, b, c, d, e, f of (column, row) -> (easting, northing)."""
        return (self.pixel_m, 0.0, self.west, 0.0, -self.pixel_m, self.north)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north in metres."""
        return (
            self.west,
            self.north - self.height * self.pixel_m,
            self.west + self.width * self.pixel_m,
            self.north,
        )

    def coarser(self, factor: int) -> Grid:
        """Return the grid of pixels ``factor`` times as large over the same ground."""
        return Grid(
            epsg=self.epsg,
            west=self.west,
            north=self.north,
            pixel_m=self.pixel_m * factor,
            width=self.width // factor,
            height=self.height // factor,
        )


@lru_cache(maxsize=64)
def _transformer(source: int, target: int) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)


def project(source: int, target: int, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[npt.NDArray, npt.NDArray]:  # type: ignore[type-arg]
    """Return coordinates in another CRS (EPSG codes; 4326 is longitude, latitude)."""
    projected = _transformer(source, target).transform(np.asarray(x, float), np.asarray(y, float))
    return np.asarray(projected[0]), np.asarray(projected[1])


def site_centre(site: SitePlan, epsg: int | None = None) -> tuple[float, float]:
    """Return the site's centre in a UTM zone, by default in that of its first tile; metres on the 20 m lattice."""
    x, y = project(4326, epsg or site.tiles[0].epsg, site.longitude, site.latitude)
    return float(np.round(x / 20.0) * 20.0), float(np.round(y / 20.0) * 20.0)


def tile_grid(site: SitePlan, tile: TilePlan) -> Grid:
    """Return the 10 m grid of a tile."""
    x, y = site_centre(site, tile.epsg)
    size = site.tile_pixels
    west = round((x + tile.west_m) / 20.0) * 20.0
    south = round((y + tile.south_m) / 20.0) * 20.0
    return Grid(
        epsg=tile.epsg, west=west, north=south + size * 10.0, pixel_m=10.0, width=size, height=size
    )


def ground_grid(site: SitePlan) -> Grid:
    """Return the 10 m grid, in the zone of the first tile, that covers all tiles of a site with a margin."""
    epsg = site.tiles[0].epsg
    corners = []
    for tile in site.tiles:
        west, south, east, north = tile_grid(site, tile).bounds
        x, y = project(tile.epsg, epsg, [west, west, east, east], [south, north, south, north])
        corners.append((x.min(), y.min(), x.max(), y.max()))
    box = np.array(corners)
    margin = 400.0
    west = np.floor((box[:, 0].min() - margin) / 20.0) * 20.0
    south = np.floor((box[:, 1].min() - margin) / 20.0) * 20.0
    width = int(np.ceil((box[:, 2].max() + margin - west) / 20.0)) * 2
    height = int(np.ceil((box[:, 3].max() + margin - south) / 20.0)) * 2
    return Grid(
        epsg=epsg, west=float(west), north=float(south + height * 10.0), pixel_m=10.0, width=width, height=height
    )


def area_of(site: SitePlan) -> Area:
    """Return the site's area of interest, its corners rounded to 1e-4 degrees (about 10 m)."""
    x, y = site_centre(site)
    half = site.half_size_m
    west, south = project(site.tiles[0].epsg, 4326, x - half, y - half)
    east, north = project(site.tiles[0].epsg, 4326, x + half, y + half)
    box = tuple(round(float(value), 4) for value in (west, south, east, north))
    return Area(name=site.name, bbox=box, resolution_m=20.0)  # type: ignore[arg-type]


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
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
        return column, row

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
