"""The schema of plume tables and their GeoParquet 1.1 form."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import shapely

FIELDS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("plume_id", pa.string(), "deterministic: area, time, source position and provider"),
    ("provider", pa.string(), "key of the provider whose scene shows the plume"),
    ("instrument", pa.string(), "sentinel-2, emit or enmap: decides the effective wind speed"),
    ("area", pa.string(), "area of interest"),
    ("time", pa.timestamp("us", tz="UTC"), "time of the acquisition"),
    (
        "method",
        pa.string(),
        "mbmp, mbsp or a spectrometer's filter; joined by + where parts of a plume differ",
    ),
    ("maturity", pa.string(), "screening: a candidate that nobody has reviewed"),
    ("geometry", pa.binary(), "outline along pixel edges, WKB, OGC:CRS84"),
    (
        "bbox",
        pa.struct([(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")]),
        "least and largest coordinates of the geometry, degrees: -180 and 180 of one that the antimeridian cuts",
    ),
    ("source_longitude", pa.float64(), "degrees"),
    ("source_latitude", pa.float64(), "degrees"),
    ("source_method", pa.string(), "how the source was placed"),
    ("area_m2", pa.float64(), "area of the outline"),
    ("pixels", pa.int64(), "number of pixels"),
    ("max_enhancement_ppm_m", pa.float64(), "largest enhancement above the background, ppm m"),
    ("mean_enhancement_ppm_m", pa.float64(), "mean enhancement above the background, ppm m"),
    ("background_ppm_m", pa.float64(), "mean of the local median that was taken away, ppm m"),
    ("noise_ppm_m", pa.float64(), "median 1-sigma of one pixel, ppm m"),
    ("ime_kg", pa.float64(), "integrated mass enhancement, kg"),
    (
        "ime_noise_kg",
        pa.float64(),
        "1-sigma of it from the noise of the map, kg; null when it cannot be estimated",
    ),
    ("ime_sigma_kg", pa.float64(), "1-sigma of it from noise and the air-mass bias, kg; null as above"),
    ("peak_z", pa.float64(), "largest z-score of the smoothed enhancement"),
    ("significance", pa.float64(), "sum of z-scores over the pixels"),
    ("negative_controls", pa.int64(), "sign-flipped candidates in the same scene that are as significant"),
    ("elongation", pa.float64(), "length over mean width"),
    ("clipped_fraction", pa.float64(), "share of pixels at the end of the conversion table"),
    ("emission_rate_kg_h", pa.float64(), "3600 u_eff_m_s ime_kg / plume_length_m; null without a wind"),
    (
        "emission_rate_sigma_kg_h",
        pa.float64(),
        "1-sigma of it from wind, mass and calibration; null without a rate, or where ime_sigma_kg is null",
    ),
    ("u_eff_m_s", pa.float64(), "effective wind speed of the instrument; null without a rate"),
    ("plume_length_m", pa.float64(), "square root of the area; null without a rate"),
    ("wind_speed_m_s", pa.float64(), "10 m wind speed; null without a wind"),
    ("wind_sigma_m_s", pa.float64(), "1-sigma of the wind speed: the source's, else a share of the speed"),
    ("wind_from_deg", pa.float64(), "direction from which it blows, degrees clockwise from north"),
    ("wind_time", pa.timestamp("us", tz="UTC"), "time of the wind record that was nearest"),
    ("wind_longitude", pa.float64(), "its place, degrees"),
    ("wind_latitude", pa.float64(), "its place, degrees"),
    ("wind_distance_km", pa.float64(), "from the source as the map shows it to that place"),
    (
        "wind_source",
        pa.string(),
        "file of the wind and digest of the records of the date; null without a wind",
    ),
    ("rate_missing_reason", pa.string(), "why there is no emission rate; null where there is one"),
    ("reference_time", pa.timestamp("us", tz="UTC"), "time of the reference; null for mbsp"),
    ("item_ids", pa.list_(pa.string()), "items under the outline"),
    ("reference_item_ids", pa.list_(pa.string()), "items of the reference; empty for mbsp"),
)
"""Name, type and meaning of each column."""
MODEL_FIELDS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("probability_max", pa.float64(), "largest probability of plume under the outline; null without a model"),
    ("probability_mean", pa.float64(), "mean of it; null without a model"),
    (
        "model_name",
        pa.string(),
        "plume model that gave the probability and drew the outline; null without one",
    ),
    ("model_version", pa.string(), "its version: that of the stored champion_model"),
)
"""Columns of candidates that a plume model found."""


def plume_schema(*, judged: bool = False) -> pa.Schema:
    """Return the schema, each field with a ``description`` in its metadata.

    Args:
        judged: Whether the columns of the plume model are among them, as in every table over providers.
    """
    fields = (*FIELDS, *MODEL_FIELDS) if judged else FIELDS
    return pa.schema(
        [pa.field(name, kind, metadata={"description": meaning}) for name, kind, meaning in fields]
    )


def plume_rows(
    rows: Iterable[Mapping[str, Any]], *, rejected: Mapping[str, int] | None = None, judged: bool = False
) -> pa.Table:
    """Return ``rows`` as a table with `plume_schema` and the ``geo`` metadata of GeoParquet 1.1.

    Each row holds every column but ``bbox``, which follows from ``geometry`` (WKB), and those of the plume model, null
    where it has none.  ``rejected`` (reason to number) goes into the metadata under ``geostack:rejected``.  Zero rows
    give the full schema.
    """
    complete = [{**row, "bbox": _bounds(row["geometry"])} for row in rows]
    table = pa.Table.from_pylist(complete, schema=plume_schema(judged=judged))
    metadata = {
        "geo": json.dumps(geo_metadata([row["geometry"] for row in complete])),
        "geostack:rejected": json.dumps(dict(sorted((rejected or {}).items()))),
    }
    return table.replace_schema_metadata(metadata)


def geo_metadata(geometries: list[bytes]) -> dict[str, Any]:
    """Return the GeoParquet 1.1 ``geo`` object for WKB geometries in OGC:CRS84 (the format's default CRS)."""
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": [],
        "edges": "planar",
        "orientation": "counterclockwise",
        "covering": {"bbox": {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}},
    }
    if geometries:
        shapes = shapely.from_wkb(geometries)
        column["geometry_types"] = sorted({shape.geom_type for shape in shapes})
        column["bbox"] = [float(value) for value in shapely.total_bounds(shapes)]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def concat_plumes(tables: Iterable[pa.Table]) -> pa.Table:
    """Return several plume tables as one with the columns of the plume model, metadata made anew; none gives an empty one."""
    kept = list(tables)
    rejected: dict[str, int] = {}
    for table in kept:
        for reason, number in json.loads(
            (table.schema.metadata or {}).get(b"geostack:rejected", b"{}")
        ).items():
            rejected[reason] = rejected.get(reason, 0) + number
    rows = (row for table in kept for row in table.to_pylist())
    return plume_rows(rows, rejected=rejected, judged=True)


def to_geoparquet(table: pa.Table) -> bytes:
    """Return ``table`` as one GeoParquet file; the same table gives the same bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", version="2.6")
    return sink.getvalue()


# No xmin > xmax across the antimeridian: readers compare numbers with this column, and would miss the row.
def _bounds(geometry: bytes) -> dict[str, float]:
    return dict(zip(("xmin", "ymin", "xmax", "ymax"), shapely.from_wkb(geometry).bounds, strict=True))
