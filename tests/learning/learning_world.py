"""Stored cubes of made-up EMIT granules with outlines: what the learning stages start from, without servers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import xarray as xr
import yaml
from scipy.ndimage import gaussian_filter

from geostack_pipeline.cube.conventions import group_attributes, spatial_coordinates
from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.cube.swath_conventions import TIME
from geostack_pipeline.cube.write import finish_tree, write_node
from geostack_pipeline.learning.injection import column
from geostack_pipeline.learning.profiles import PROFILES, Architecture, Recipe
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages.granules import MANIFEST_SCHEMA
from geostack_pipeline.stages.tables import parquet_bytes
from geostack_pipeline.stages.workspace import Workspace, open_workspace
from geostack_pipeline.storage.digest import sha256_bytes, version_of

STEP = 0.00054
"""Pixel of EMIT's map products, degrees."""
START = datetime(2024, 6, 1, 7, 0, 0, tzinfo=UTC)
TINY = {
    "tile": 32,
    "overlap": 16,
    "steps": 6,
    "batch": 4,
    "profile": "demo",
    "site_degrees": 0.5,
    "bootstrap": 200,
    "min_test_granules": 1,
}
"""Settings."""
TINY_RECIPE: Recipe = replace(
    PROFILES["demo"],
    architecture=Architecture(widths=(4, 8), groups=2),
    steps=6,
    batch=4,
    crop=16,
    checkpoint_every=2,
)
"""A network and a training that take seconds."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A granule, and the outline of its plume if anybody drew one."""

    number: int
    start: datetime
    west: float
    north: float
    fields: dict[str, np.ndarray]
    truth: np.ndarray
    """Pixels of the plume."""
    rate: float
    outlined: bool
    version: str = "002"
    plume_id: int = 0
    metadata: bytes | None = None
    """GeoJSON of the outline in place of a proper one."""
    revision: int = 0
    outline_moved: tuple[int, int] = (0, 0)
    """Rows and columns by which the outline is wrong."""
    label_start: datetime | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def item_id(self) -> str:
        return f"EMIT_L2B_CH4ENH_{self.version}_{self.start:%Y%m%dT%H%M%S}_{2415000 + self.number:07d}_{self.number % 1000:03d}"

    @property
    def label_id(self) -> str:
        when = self.label_start or self.start
        return (
            f"EMIT_L2B_CH4PLM_{self.version}_{when:%Y%m%dT%H%M%S}_{self.plume_id or 9000 - self.number:06d}"
        )

    @property
    def day(self) -> str:
        return f"{self.start:%Y-%m-%d}"


def made(
    number: int,
    *,
    plume: bool = True,
    outlined: bool = True,
    size: int = 48,
    rate: float | None = None,
    noise: float = 150.0,
) -> Made:
    """Return a granule at a place and time of its own; everything follows from its number."""
    rng = np.random.default_rng([7, number])
    shape = (size, size)
    rate = rate or float(np.exp(rng.uniform(np.log(800.0), np.log(8000.0))))
    gas = column(
        shape, size * rng.uniform(0.3, 0.7), size * rng.uniform(0.3, 0.7), rng.uniform(0, 6.28), rate
    )
    if not plume:
        gas = np.zeros(shape)
    # Ground that looks like gas to a filter: small bright spots, and stripes.
    spots = np.zeros(shape)
    spots[tuple(rng.integers(0, size, (2, 6)))] = rng.uniform(1500.0, 4000.0, 6)
    measured = np.minimum(gas, 4000.0) + noise * rng.standard_normal(shape) + gaussian_filter(spots, 0.5)
    measured += 60.0 * gaussian_filter(rng.standard_normal(shape), 4.0) * 4.0
    fields = {
        "ch4_enhancement": measured.astype(np.float32),
        "ch4_uncertainty": (noise * rng.uniform(0.9, 1.1, shape)).astype(np.float32),
        "ch4_sensitivity": rng.uniform(0.9, 1.1, shape).astype(np.float32),
    }
    fields["ch4_enhancement"][0, :3] = -9999.0
    return Made(
        number=number,
        start=START + timedelta(days=number % 20, minutes=number),
        west=50.0 + 0.6 * (number % 9),
        north=38.0 - 0.6 * (number // 9 % 9),
        fields=fields,
        truth=gas > 200.0,
        rate=rate,
        outlined=plume and outlined,
    )


def workspace(folder: Path, **learning: Any) -> Workspace:
    """Return a workspace whose store lies in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "geostack.yaml"
    settings = {
        "root": "file:store",
        "start_date": "2024-06-01",
        "areas": {"east": {"bbox": [50.0, 30.0, 60.0, 40.0]}},
        "providers": {"cmr_stac": {}},
        "learning": {"enabled": True, **TINY, **learning},
    }
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return open_workspace(load_settings(file))


def store(ws: Workspace, granules: Iterable[Made], provider: str = "cmr_stac") -> None:
    """Store manifests and cubes of granules, one version for each of their dates."""
    by_day: dict[str, list[Made]] = {}
    for granule in granules:
        by_day.setdefault(granule.day, []).append(granule)
    for day, those in by_day.items():
        _store_day(ws, provider, day, those)


def _store_day(ws: Workspace, provider: str, day: str, granules: Sequence[Made]) -> None:
    nodes: dict[str, xr.Dataset] = {}
    rows: list[dict[str, Any]] = []
    blobs = []
    for granule in granules:
        fill = np.float32(-9999.0)
        nodes[granule.item_id] = _dataset(
            granule, granule.item_id, granule.fields, 0, 0, "CH4ENH", fill, granule.start
        )
        if not granule.outlined:
            continue
        down, right = granule.outline_moved
        outline = np.roll(granule.truth, (down, right), axis=(0, 1))
        inside = np.argwhere(outline)
        (top, left), (bottom, end) = inside.min(axis=0), inside.max(axis=0) + 1
        values = np.where(outline, granule.fields["ch4_enhancement"], fill)[top:bottom, left:end]
        when = granule.label_start or granule.start
        nodes[granule.label_id] = _dataset(
            granule,
            granule.label_id,
            {"plume_enhancement": values.astype(np.float32)},
            top,
            left,
            "CH4PLM",
            fill,
            when,
        )
        document = granule.metadata if granule.metadata is not None else geojson(granule)
        digest = sha256_bytes(document)
        blob = f"blobs/{digest[:2]}/{digest}"
        ws.artifacts.root.put(blob, document)
        blobs.append(blob)
        rows.append({"item_id": granule.label_id, "asset": "CH4PLMMETA", "blob": blob, "sha256": digest})
    manifest = pl.DataFrame(
        rows, schema={name: MANIFEST_SCHEMA[name] for name in ("item_id", "asset", "blob", "sha256")}
    )
    version = version_of(
        [day, sorted((name, node.attrs["source_sha256"]) for name, node in nodes.items()), sorted(blobs)]
    )
    with ws.artifacts.begin(
        f"{provider}/granules", day, version, kind="table", code_version="1", upstream={}
    ) as attempt:
        attempt.put("granules.parquet", parquet_bytes(manifest))
        snapshot = attempt.commit(meta={}, blobs=blobs)
    ws.artifacts.point(snapshot)
    upstream = {f"{provider}/granules/{day}": version}
    with ws.artifacts.begin(
        f"{provider}/cube", day, version, kind="tree", code_version="1", upstream=upstream
    ) as attempt:
        zarr = attempt.zarr_store()
        for name, node in nodes.items():
            write_node(zarr, name, node)
        finish_tree(zarr, {})
        snapshot = attempt.commit(meta={}, nodes=dict.fromkeys(nodes, version))
    ws.artifacts.point(snapshot)


def _dataset(
    granule: Made,
    item_id: str,
    fields: dict[str, np.ndarray],
    top: int,
    left: int,
    asset: str,
    fill: Any,
    when: datetime,
) -> xr.Dataset:
    shape = next(iter(fields.values())).shape
    transform = (STEP, 0.0, granule.west + left * STEP, 0.0, -STEP, granule.north - top * STEP)
    grid = GridSpec(crs="EPSG:4326", transform=transform, width=shape[1], height=shape[0])
    digest = sha256_bytes(
        b"".join(np.ascontiguousarray(v).tobytes() for v in fields.values()) + bytes([granule.revision])
    )
    return xr.Dataset(
        {name: (("y", "x"), values, {"_FillValue": fill}) for name, values in fields.items()},
        coords={
            **spatial_coordinates(grid),
            "time": xr.Variable((), np.datetime64(when.replace(tzinfo=None), "ns"), TIME),
        },
        attrs={
            **group_attributes(grid),
            "item_id": item_id,
            "scene": f"EMIT_{when:%Y%m%dT%H%M%S}",
            "area": "east",
            "platform": "iss",
            "collection": f"EMITL2B{asset}_{granule.version}",
            "datetime": when.isoformat().replace("+00:00", "Z"),
            "source_assets": [asset],
            "source_sha256": [digest],
        },
    )


def geojson(granule: Made, **changes: Any) -> bytes:
    """Return the metadata of an outline as NASA writes them."""
    ring = [
        [granule.west, granule.north],
        [granule.west + 0.01, granule.north],
        [granule.west, granule.north - 0.01],
    ]
    properties = {
        "Plume ID": f"CH4_PlumeComplex-{granule.number}",
        "DAAC Scene Names": [granule.item_id],
        "Emissions Rate Estimate (kg/hr)": granule.rate,
        "revision": granule.revision,
        **changes,
    }
    outline = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    return json.dumps(
        {
            "type": "FeatureCollection",
            "features": [{"type": "Feature", "geometry": outline, "properties": properties}],
        }
    ).encode()


def some(count: int, *, first: int = 0, without: int = 3) -> list[Made]:
    """Return granules of which every ``without``-th has no plume."""
    return [made(number, plume=bool(number % without)) for number in range(first, first + count)]


__all__ = ["START", "TINY", "TINY_RECIPE", "Made", "geojson", "made", "replace", "some", "store", "workspace"]
