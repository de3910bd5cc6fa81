"""One physical scene: what a satellite measured of one tile in one overpass, whoever publishes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from geostack_pipeline.sandbox.world import sky
from geostack_pipeline.sandbox.world.grids import Grid, project, site_centre, tile_grid
from geostack_pipeline.sandbox.world.plan import PassPlan, ProcessingPlan, SitePlan, TilePlan

FOOTPRINT_PPM_M = 1000.0
"""A plume's footprint in the truth: pixels of 20 m with at least this column."""
_SWATH_LEAN = 0.21
"""Metres east per metre north along which a descending swath's edge leans."""


@dataclass(frozen=True, kw_only=True)
class PlumeTruth:
    """One planted plume of one overpass."""

    name: str
    area: str
    time: datetime
    """Start of the datatake, UTC."""
    longitude: float
    """Of the source, degrees."""
    latitude: float
    rate_kg_h: float
    wind_m_s: float
    """Speed with which the plume drifts; also the wind to hand to a retrieval."""
    wind_to_deg: float
    mass_kg: float
    """Methane in the air above the background."""
    peak_ppm_m: float
    threshold_ppm_m: float
    footprint: Mapping[str, Any]
    """GeoJSON MultiPolygon, longitude and latitude, of the columns of at least the threshold."""
    visible: float
    """Share of the footprint that some scene of the overpass saw without cloud or shadow."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            **self.__dict__,
            "time": self.time.isoformat().replace("+00:00", "Z"),
            "footprint": dict(self.footprint),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> PlumeTruth:
        """Return what :meth:`to_json` wrote."""
        return cls(**{**fields, "time": datetime.fromisoformat(fields["time"])})


@dataclass(frozen=True, kw_only=True)
class PhysicalScene:
    """One tile of one overpass.  Everything here is known without rendering a pixel."""

    id: str
    """``<platform>_<datatake start>_T<tile>``; the same through whichever catalog."""
    site: SitePlan
    tile: TilePlan
    overpass: PassPlan
    datetime: datetime
    """Sensing time of the tile, UTC, milliseconds."""
    sun: sky.Sun
    view_zenith_deg: float
    view_azimuth_deg: float

    @property
    def grid(self) -> Grid:
        """The 10 m pixel grid."""
        return tile_grid(self.site, self.tile)

    @property
    def platform(self) -> str:
        """``S2A`` or ``S2B``."""
        return self.overpass.platform

    @property
    def newest(self) -> ProcessingPlan:
        """The newest processing."""
        return self.overpass.processings[0]

    @property
    def air_mass_factor(self) -> float:
        """Light path through the air in vertical columns."""
        return sky.air_mass_factor(self.sun.zenith_deg, self.view_zenith_deg)

    def footprint(self) -> shapely.Polygon:
        """Return the seen part of the tile as a polygon in longitude and latitude, from the north-west corner."""
        west, south, east, north = self.grid.bounds
        outline = shapely.Polygon([(west, north), (west, south), (east, south), (east, north)])
        if self.overpass.swath_edge_m is not None:
            x, y = site_centre(self.site, self.tile.epsg)
            edge = [
                (x + self.overpass.swath_edge_m + _SWATH_LEAN * (at - y), at)
                for at in (south - 1e4, north + 1e4)
            ]
            seen = shapely.Polygon([(west - 1e6, south - 1e4), *edge, (west - 1e6, north + 1e4)])
            outline = shapely.orient_polygons(shapely.intersection(outline, seen))
        corners = list(outline.exterior.coords)[:-1]
        first = min(
            range(len(corners)), key=lambda i: (corners[i][0] - west) ** 2 + (corners[i][1] - north) ** 2
        )
        ring = np.array([*corners[first:], *corners[: first + 1]])
        longitude, latitude = project(self.tile.epsg, 4326, ring[:, 0], ring[:, 1])
        return shapely.Polygon(np.stack([longitude, latitude], axis=1))

    def seen(self, factor: int) -> npt.NDArray[np.bool_]:
        """Return which pixels of ``factor`` x 10 m the swath covers, (rows, columns)."""
        grid = self.grid.coarser(factor)
        if self.overpass.swath_edge_m is None:
            return np.ones((grid.height, grid.width), bool)
        x, y = site_centre(self.site, self.tile.epsg)
        # Both pixel sizes share one edge on the 20 m lattice, as in real products.
        coarse = self.grid.coarser(2)
        north = coarse.north - (np.arange(coarse.height) + 0.5) * coarse.pixel_m - y
        east = coarse.west + (np.arange(coarse.width) + 0.5) * coarse.pixel_m - x
        inside = east[None, :] <= self.overpass.swath_edge_m + _SWATH_LEAN * north[:, None]
        return inside if factor == 2 else doubled(inside)


def scenes_of(site: SitePlan, overpass: PassPlan) -> Iterator[PhysicalScene]:
    """Yield the scenes of an overpass, one per tile."""
    sun = sky.sun_at(overpass.start, site.longitude, site.latitude)
    for number, tile in enumerate(site.tiles):
        start = overpass.start
        yield PhysicalScene(
            id=f"{overpass.platform}_{start:%Y%m%dT%H%M%S}_T{tile.mgrs}",
            site=site,
            tile=tile,
            overpass=overpass,
            datetime=start + timedelta(seconds=412, milliseconds=587 - 4688 * number),
            sun=sun,
            view_zenith_deg=overpass.view_zenith_deg,
            view_azimuth_deg=104.0,
        )


def doubled(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return each 20 m pixel as four of 10 m."""
    return np.repeat(np.repeat(values, 2, axis=0), 2, axis=1)
