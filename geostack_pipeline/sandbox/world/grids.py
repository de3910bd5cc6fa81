"""Pixel grids of tiles and of the ground below them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

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
    height, width = site.tile_shape or (site.tile_pixels, site.tile_pixels)
    west = round((x + tile.west_m) / 20.0) * 20.0
    south = round((y + tile.south_m) / 20.0) * 20.0
    return Grid(
        epsg=tile.epsg, west=west, north=south + height * 10.0, pixel_m=10.0, width=width, height=height
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
    # Swaths of spectrometers lie aslant on the tiles and reach beyond them.
    margin = 1600.0
    west = np.floor((box[:, 0].min() - margin) / 20.0) * 20.0
    south = np.floor((box[:, 1].min() - margin) / 20.0) * 20.0
    width = int(np.ceil((box[:, 2].max() + margin - west) / 20.0)) * 2
    height = int(np.ceil((box[:, 3].max() + margin - south) / 20.0)) * 2
    return Grid(
        epsg=epsg,
        west=float(west),
        north=float(south + height * 10.0),
        pixel_m=10.0,
        width=width,
        height=height,
    )


def area_of(site: SitePlan) -> Area:
    """Return the site's area of interest, its corners rounded to 1e-4 degrees (about 10 m)."""
    x, y = site_centre(site)
    half = site.half_size_m
    west, south = project(site.tiles[0].epsg, 4326, x - half, y - half)
    east, north = project(site.tiles[0].epsg, 4326, x + half, y + half)
    box = tuple(round(float(value), 4) for value in (west, south, east, north))
    return Area(name=site.name, bbox=box, resolution_m=20.0)  # type: ignore[arg-type]
