"""The geometry of a pushbroom swath: lines and samples that lie aslant on the map."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import shapely
from scipy.ndimage import map_coordinates, uniform_filter

from geostack_pipeline.sandbox.world.grids import Floats, Grid, project

ORTHO_STEP_DEG = 0.000542232520256367
"""Pixel of the geographic grid onto which the products are laid, about 60 m."""


@dataclass(frozen=True, kw_only=True)
class Swath:
    """A part of a swath: ``lines`` along the track, ``samples`` across it."""

    epsg: int
    """UTM zone in which its pixels are square."""
    x: float
    """Its centre, metres."""
    y: float
    heading_deg: float
    """Direction of flight, degrees clockwise from north; samples count to the right of it."""
    lines: int
    samples: int
    pixel_m: float = 60.0

    def _to_map(
        self, line: npt.NDArray[np.float64], sample: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray, npt.NDArray]:  # type: ignore[type-arg]
        angle = np.radians(self.heading_deg)
        forth = (line - (self.lines - 1) / 2.0) * self.pixel_m
        right = (sample - (self.samples - 1) / 2.0) * self.pixel_m
        return (
            self.x + forth * np.sin(angle) + right * np.cos(angle),
            self.y + forth * np.cos(angle) - right * np.sin(angle),
        )

    @cached_property
    def centres(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Easting and northing of pixel centres, (lines, samples)."""
        line, sample = np.meshgrid(np.arange(self.lines), np.arange(self.samples), indexing="ij")
        return self._to_map(line.astype(float), sample.astype(float))

    @cached_property
    def degrees(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Longitude and latitude of pixel centres, (lines, samples)."""
        return project(self.epsg, 4326, *self.centres)

    def outline(self) -> shapely.Polygon:
        """Return the outer edge as a polygon in longitude and latitude, counter-clockwise."""
        line = np.array([-0.5, -0.5, self.lines - 0.5, self.lines - 0.5])
        sample = np.array([-0.5, self.samples - 0.5, self.samples - 0.5, -0.5])
        longitude, latitude = project(self.epsg, 4326, *self._to_map(line, sample))
        corners = np.stack([longitude, latitude], axis=1).round(7)
        return shapely.Polygon(shapely.orient_polygons(shapely.Polygon(corners)).exterior)

    def patch(self, ground: Grid) -> Grid:
        """Return the 10 m grid below the swath, on the 20 m lattice, as far as ``ground`` reaches."""
        x, y = self.centres
        spare = 2.0 * self.pixel_m
        west, south, east, north = ground.bounds
        left = max(np.floor((x.min() - spare) / 20.0) * 20.0, west)
        right = min(np.ceil((x.max() + spare) / 20.0) * 20.0, east)
        bottom = max(np.floor((y.min() - spare) / 20.0) * 20.0, south)
        top = min(np.ceil((y.max() + spare) / 20.0) * 20.0, north)
        return Grid(
            epsg=self.epsg,
            west=float(left),
            north=float(top),
            pixel_m=10.0,
            width=round((right - left) / 20.0) * 2,
            height=round((top - bottom) / 20.0) * 2,
        )

    def sample(self, values: Floats, grid: Grid) -> Floats:
        """Return the mean of a north-up field over each pixel's size, (lines, samples); beyond its edge, the edge."""
        size = max(1, round(self.pixel_m / grid.pixel_m))
        smooth = uniform_filter(values.astype(np.float32), size, mode="nearest") if size > 1 else values
        x, y = self.centres
        shift = 0.5 if size % 2 == 0 else 0.0  # an even window's middle lies between two pixels
        rows = (grid.north - y) / grid.pixel_m - 0.5 + shift
        columns = (x - grid.west) / grid.pixel_m - 0.5 + shift
        return np.asarray(
            map_coordinates(smooth, [rows, columns], order=1, mode="nearest", output=np.float32)
        )

    @cached_property
    def ortho(self) -> tuple[tuple[float, float, float, float, float, float], int, int]:
        """The geographic grid around the swath: GDAL geotransform, height, width."""
        west, south, east, north = self.outline().bounds
        step = ORTHO_STEP_DEG
        left, top = np.floor(west / step) * step, np.ceil(north / step) * step
        width = int(np.ceil((east - left) / step))
        height = int(np.ceil((top - south) / step))
        return (float(left), step, 0.0, float(top), 0.0, -step), height, width

    @cached_property
    def glt(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Sample and line seen by each pixel of the geographic grid, counted from 1; 0 outside the swath."""
        transform, height, width = self.ortho
        longitude = transform[0] + transform[1] * (np.arange(width) + 0.5)
        latitude = transform[3] + transform[5] * (np.arange(height) + 0.5)
        x, y = project(4326, self.epsg, *np.meshgrid(longitude, latitude))
        angle = np.radians(self.heading_deg)
        east, north = x - self.x, y - self.y
        forth = east * np.sin(angle) + north * np.cos(angle)
        right = east * np.cos(angle) - north * np.sin(angle)
        line = np.rint(forth / self.pixel_m + (self.lines - 1) / 2.0).astype(np.int32)
        sample = np.rint(right / self.pixel_m + (self.samples - 1) / 2.0).astype(np.int32)
        inside = (line >= 0) & (line < self.lines) & (sample >= 0) & (sample < self.samples)
        return np.where(inside, sample + 1, 0).astype(np.int32), np.where(inside, line + 1, 0).astype(
            np.int32
        )

    def laid_out(self, values: Floats, nodata: float) -> Floats:
        """Return a field of the swath on the geographic grid, by the nearest pixel."""
        glt_x, glt_y = self.glt
        out = np.full(glt_x.shape, nodata, np.float32)
        inside = glt_x > 0
        out[inside] = values[glt_y[inside] - 1, glt_x[inside] - 1]
        return out
