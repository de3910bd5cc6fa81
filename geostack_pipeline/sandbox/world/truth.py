"""What was planted: sources, rates, winds and footprints, for scoring what a retrieval finds."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from rasterio.features import shapes
from rasterio.transform import Affine

from geostack_pipeline.sandbox.world import plume
from geostack_pipeline.sandbox.world.gas import ppm_m_per_kg_m2
from geostack_pipeline.sandbox.world.grids import Grid, ground_grid, project, site_centre
from geostack_pipeline.sandbox.world.plan import PlumePlan, SitePlan
from geostack_pipeline.sandbox.world.render import halved
from geostack_pipeline.sandbox.world.scene import FOOTPRINT_PPM_M, PlumeTruth


def plume_truth(
    seed: int, site: SitePlan, start: datetime, planted: PlumePlan, seen: list[list[int]]
) -> dict[str, Any]:
    """Return one plume's truth as JSON; ``seen`` are [clear, all] footprint pixels of each tile."""
    ground = _around(ground_grid(site), site, planted)
    column = plume.enhancement(seed, site, ground, planted, when=start.isoformat())
    x, y = site_centre(site)
    longitude, latitude = project(ground.epsg, 4326, x + planted.east_m, y + planted.north_m)
    coarse = halved(column)
    inside = coarse >= FOOTPRINT_PPM_M
    transform = Affine(*ground.coarser(2).transform)
    polygons = [
        shapely.geometry.shape(geometry)
        for geometry, value in shapes(inside.astype(np.uint8), mask=inside, transform=transform)
        if value == 1
    ]

    def to_degrees(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.stack(project(ground.epsg, 4326, points[:, 0], points[:, 1]), axis=1).round(7)

    outline = shapely.transform(shapely.MultiPolygon(polygons), to_degrees)
    # A kilogram per square metre is so many ppm m; a pixel has 100 square metres.
    mass = float(column.sum(dtype=np.float64)) * 100.0 / ppm_m_per_kg_m2()
    pixels = max(int(inside.sum()), 1)
    return PlumeTruth(
        name=planted.name,
        area=site.name,
        time=start,
        longitude=round(float(longitude), 6),
        latitude=round(float(latitude), 6),
        rate_kg_h=planted.rate_kg_h,
        wind_m_s=planted.wind_m_s,
        wind_to_deg=planted.wind_to_deg,
        mass_kg=round(mass, 2),
        peak_ppm_m=round(float(coarse.max()), 1),
        threshold_ppm_m=FOOTPRINT_PPM_M,
        footprint=json.loads(shapely.to_geojson(outline)),
        visible=round(min(1.0, max((clear for clear, _ in seen), default=0) / pixels), 3),
    ).to_json()


def _around(ground: Grid, site: SitePlan, planted: PlumePlan) -> Grid:
    """Return the part of the ground's grid that a plume can reach, on the 20 m lattice."""
    x, y = site_centre(site)
    cells = int(1.3 * plume.REACH * site.half_size_m / 20.0) + 2
    column = round((x + planted.east_m - ground.west) / 20.0) - cells
    row = round((ground.north - y - planted.north_m) / 20.0) - cells
    return Grid(
        epsg=ground.epsg,
        west=ground.west + 20.0 * column,
        north=ground.north - 20.0 * row,
        pixel_m=ground.pixel_m,
        width=4 * cells,
        height=4 * cells,
    )
