"""The methane files of an EMIT granule on a geographic grid: the three fields, and each plume as analysts outline it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from rasterio.features import shapes
from rasterio.transform import Affine

from geostack_pipeline.sandbox.world.emit import EmitGranule, EmitPass, EmitPlume
from geostack_pipeline.sandbox.world.grids import Floats
from geostack_pipeline.sandbox.world.noise import generator
from geostack_pipeline.sandbox.world.outlines import Noticing, core, outline
from geostack_pipeline.sandbox.world.plan import PlumePlan
from geostack_pipeline.sandbox.world.products import write_geotiff
from geostack_pipeline.sandbox.world.scene import PlumeTruth
from geostack_pipeline.sandbox.world.truth import plume_truth

NODATA = -9999.0
NAMES: Mapping[str, str] = {
    "CH4ENH": "EMIT_L2B_CH4ENH_002_{}.tif",
    "CH4UNCERT": "EMIT_L2B_CH4UNCERT_002_{}.tif",
    "CH4SENS": "EMIT_L2B_CH4SENS_002_{}.tif",
}
"""Product -> name of its file."""
_FACTS = "granule.json"


def load_granule(planned: EmitPass, folder: Path, names: Mapping[str, str] = NAMES) -> EmitGranule:
    """Return a rendered granule with the files of the products in ``names``."""
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    return EmitGranule(
        area=planned.site.name,
        start=planned.start,
        end=planned.end,
        orbit=planned.orbit,
        scene=planned.scene,
        footprint=planned.swath.outline(),
        cloud_cover=facts["cloud_cover"],
        sun_zenith_deg=facts["sun_zenith"],
        sun_azimuth_deg=facts["sun_azimuth"],
        files={key: folder / name.format(planned.stem) for key, name in names.items()},
        plumes=tuple(
            EmitPlume(
                number=each["number"],
                single_date_time=planned.start,
                footprint=shapely.box(*each["bounds"]),
                scenes=(f"EMIT_L2B_CH4ENH_002_{planned.stem}",),
                files={key: folder / each["files"][key] for key in ("CH4PLM", "CH4PLMMETA")},
            )
            for each in facts["plumes"]
        ),
        truth=tuple(PlumeTruth.from_json(each) for each in facts["truth"]),
    )


def write_methane(
    planned: EmitPass,
    work: Path,
    layers: Mapping[str, Floats],
    columns: Mapping[str, Floats],
    *,
    seed: int,
    key: str,
    facts: Mapping[str, Any],
    weak_too: bool = True,
) -> None:
    """Write the fields, the outlines, and what :func:`load_granule` needs besides.

    Args:
        planned: The granule.
        work: Folder to write into.
        layers: ``CH4ENH CH4UNCERT CH4SENS`` in sensor geometry, (lines, samples); not finite where there are no data.
        columns: Truth of each plume by its name, ppm m, (lines, samples).
        seed: Of the estimates that come with an outline.
        key: Names their random stream.
        facts: ``cloud_cover``, ``sun_zenith`` and ``sun_azimuth``.
        weak_too: Outline every plume; else only those that an analyst notices.
    """
    transform, _, _ = planned.swath.ortho
    affine = (transform[1], 0.0, transform[0], 0.0, transform[5], transform[3])
    laid = {
        name: planned.swath.laid_out(np.where(np.isfinite(layer), layer, np.float32(NODATA)), NODATA)
        for name, layer in layers.items()
    }
    for name, layer in laid.items():
        write_geotiff(
            work / NAMES[name].format(planned.stem),
            layer[None],
            epsg=4326,
            transform=affine,
            nodata=NODATA,
            block=64,
        )
    known = laid["CH4ENH"] != NODATA
    analyst = Noticing(laid["CH4ENH"], known)
    plumes = []
    for number, each in planned.plumes:
        column = planned.swath.laid_out(columns[each.name], 0.0)
        if weak_too or analyst.notices(core(column, known)):
            stream = generator(seed, key, number)
            inside = outline(column, known)
            plumes.append(_outline(planned, stream, number, each, laid["CH4ENH"], inside, affine, work))
    moment = type(planned.start).fromisoformat(planned.plumes_when)
    truth = [
        replace(
            PlumeTruth.from_json(plume_truth(seed, planned.site, moment, each, [[1, 1]])),
            time=planned.start,
            visible=1.0,
        ).to_json()
        for _, each in planned.plumes
    ]
    content = {**facts, "plumes": plumes, "truth": truth}
    (work / _FACTS).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _outline(
    planned: EmitPass,
    stream: np.random.Generator,
    number: str,
    each: PlumePlan,
    enhancement: Floats,
    inside: npt.NDArray[np.bool_],
    affine: tuple[float, float, float, float, float, float],
    work: Path,
) -> dict[str, Any]:
    """Write one plume's raster and metadata; return what :func:`load_granule` needs."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    box = (slice(top, int(rows[-1]) + 1), slice(left, int(columns[-1]) + 1))
    values = np.where(inside[box], enhancement[box], np.float32(NODATA)).astype(np.float32)
    step = affine[0]
    corner = (affine[2] + step * left, affine[5] - step * top)
    transform = (step, 0.0, corner[0], 0.0, -step, corner[1])
    stem = f"{planned.start:%Y%m%dT%H%M%S}_{number}"
    files = {
        "CH4PLM": f"EMIT_L2B_CH4PLM_002_{stem}.tif",
        "CH4PLMMETA": f"EMIT_L2B_CH4PLMMETA_002_{stem}.json",
    }
    write_geotiff(work / files["CH4PLM"], values[None], epsg=4326, transform=transform, nodata=NODATA)
    metadata = _metadata(planned, stream, number, each, values, inside[box], transform)
    (work / files["CH4PLMMETA"]).write_text(json.dumps(metadata), encoding="utf-8")
    height, width = values.shape
    bounds = [corner[0], corner[1] - step * height, corner[0] + step * width, corner[1]]
    return {"number": number, "files": files, "bounds": bounds}


def _metadata(
    planned: EmitPass,
    stream: np.random.Generator,
    number: str,
    each: PlumePlan,
    values: Floats,
    inside: npt.NDArray[np.bool_],
    transform: tuple[float, float, float, float, float, float],
) -> dict[str, Any]:
    polygons = [
        shapely.geometry.shape(geometry)
        for geometry, value in shapes(inside.astype(np.uint8), mask=inside, transform=Affine(*transform))
        if value == 1
    ]
    largest = max(polygons, key=lambda part: part.area)
    row, column = np.unravel_index(int(np.argmax(values)), values.shape)
    peak = (transform[2] + transform[0] * (column + 0.5), transform[5] + transform[4] * (row + 0.5))
    wind = each.wind_m_s * (1.0 + 0.08 * float(stream.standard_normal()))
    rate = each.rate_kg_h * float(np.exp(0.12 * stream.standard_normal()))
    link = f"{planned.start:%Y%m%dT%H%M%S}_{number}"
    properties: dict[str, Any] = {
        "Plume ID": f"CH4_PlumeComplex-{int(number)}",
        "Scene FIDs": [f"emit{planned.start:%Y%m%dt%H%M%S}"],
        "Orbit": planned.orbit,
        "DCID": str(1_400_000_000 + int(number) * 97),
        "DAAC Scene Names": [f"EMIT_L2B_CH4ENH_002_{planned.stem}"],
        "Data Download": (
            "https://data.lpdaac.earthdatacloud.nasa.gov/lp-prod-protected/EMITL2BCH4PLM.002/"
            f"EMIT_L2B_CH4PLM_002_{link}/EMIT_L2B_CH4PLM_002_{link}.tif"
        ),
        "UTC Time Observed": f"{planned.start:%Y-%m-%dT%H:%M:%SZ}",
        "map_endtime": f"{planned.start.replace(second=(planned.start.second + 1) % 60):%Y-%m-%dT%H:%M:%SZ}",
        "Max Plume Concentration (ppm m)": float(np.round(values.max())),
        "Concentration Uncertainty (ppm m)": float(np.round(values[inside].std() / np.sqrt(inside.sum()), 1)),
        "Latitude of max concentration": round(float(peak[1]), 5),
        "Longitude of max concentration": round(float(peak[0]), 5),
        "Wind Speed (m/s)": round(wind, 4),
        "Wind Speed Std (m/s)": round(0.08 * wind, 4),
        "Wind Speed Source": "ERA5-Land",
        "Emissions Rate Estimate (kg/hr)": round(rate, 3),
        "Emissions Rate Estimate Uncertainty (kg/hr)": round(0.2 * rate, 3),
        "Fetch Length (m)": round(60.0 * float(np.hypot(*inside.shape)), 1),
        "style": {"maxZoom": 20, "minZoom": 0, "color": "white", "opacity": 1, "weight": 2, "fillOpacity": 0},
    }
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[list(point) for point in largest.exterior.coords]],
                },
                "properties": properties,
            },
            {
                "type": "Feature",
                "geometry": {"type": "Point", "coordinates": [float(peak[0]), float(peak[1]), 0.0]},
                "properties": {**properties, "style": {**properties["style"], "radius": 10}},
            },
        ],
    }
