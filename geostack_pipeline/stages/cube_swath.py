"""Cube of a swath provider: one Zarr tree per date, one node per granule (catalog item).

Node versions work as those of areas do: a granule whose files and settings are those of the version before is taken
over, not read again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from geostack_pipeline.learning.labels import About, names_scene, read_metadata
from geostack_pipeline.providers.contract import Provider
from geostack_pipeline.stages.tables import parquet_bytes
from geostack_pipeline.stages.wishes import joint_box
from geostack_pipeline.stages.workspace import Check, Workspace
from geostack_pipeline.storage.digest import version_of
from geostack_pipeline.storage.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr

    from geostack_pipeline.cube.swath import Granule, Node, Outline
    from geostack_pipeline.storage.artifacts import Attempt

CODE_VERSION = "4"
"""Counts changes of swath nodes; the code version of the stage counts with it."""
PLUME, PLUME_METADATA = "CH4PLM", "CH4PLMMETA"
ENHANCEMENT = "CH4ENH"
SAME_PASS_S = 60.0
"""A plume's time is the start of its earliest scene; scenes of a pass follow each other by 12 s."""

PHYSICAL_RANGES: Mapping[str, tuple[float, float]] = {
    "radiance": (-1.0, 150.0),
    "radiance_vnir": (-1.0, 150.0),
    "radiance_swir": (-1.0, 150.0),
    "reflectance": (-0.5, 2.0),
    "reflectance_uncertainty": (0.0, 5.0),
    "ch4_enhancement": (-10_000.0, 200_000.0),
    "ch4_uncertainty": (0.0, 50_000.0),
    "ch4_sensitivity": (-5.0, 5.0),
    "plume_enhancement": (-10_000.0, 200_000.0),
}
"""Main variable -> what noise and light allow, in its units: a reading of wrong bytes or a wrong scale lies outside."""

SUMMARY_SCHEMA: Mapping[str, Any] = {
    "area": pl.String,
    "node": pl.String,
    "variable": pl.String,
    "time": pl.String,
    "shape": pl.String,
    "valid_fraction": pl.Float64,
    "smallest": pl.Float64,
    "largest": pl.Float64,
    "scenes": pl.Int64,
}


def settings_of(ws: Workspace, provider: Provider) -> dict[str, Any]:
    """Return the settings that a version depends on besides the granules."""
    own = ws.provider_settings(provider.key)
    return {
        "swath": CODE_VERSION,
        "bands": list(own.bands),
        "wavelengths": [list(pair) for pair in own.wavelengths_nm],
        "areas": [[area.name, *area.bbox] for area in ws.areas],
    }


def nodes(ws: Workspace, provider: Provider, manifest: pl.DataFrame, code: str) -> dict[str, str]:
    """Return the version of each granule's node: the digest of the bytes and settings it is computed from."""
    from geostack_pipeline.cube.swath import node_name

    settings = settings_of(ws, provider)
    boxes = {area.name: list(area.bbox) for area in ws.areas}
    versions: dict[str, str] = {}
    for item_id, rows in _items(manifest):
        plumes = _plume_rows(item_id, rows, manifest)
        used = pl.concat([rows, plumes]).drop("blob", "source_etag", "source_size").sort("item_id", "asset")
        touched = rows.item(0, "area").split("+")
        versions[node_name(item_id)] = version_of(
            {
                "code": code,
                **settings,
                "areas": [[name, boxes.get(name)] for name in touched],
                "rows": used.rows(named=True),
            }
        )
    return versions


def _items(manifest: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    """Return the rows of each item that makes a node, by item id."""
    from geostack_pipeline.cube.swath import readable

    found = []
    for item_id in sorted(manifest["item_id"].unique()):
        rows = manifest.filter(pl.col("item_id") == item_id)
        if readable(rows["asset"].to_list()):
            found.append((item_id, rows))
    return found


def without_node(manifest: pl.DataFrame) -> list[str]:
    """Return the items of which nothing was fetched that makes a node: metadata or pictures alone."""
    there = {item_id for item_id, _ in _items(manifest)}
    return sorted(set(manifest["item_id"].unique()) - there)


def _plume_rows(item_id: str, rows: pl.DataFrame, manifest: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of plumes that may lie in a granule of methane: of the same pass."""
    if ENHANCEMENT not in rows["asset"].to_list():
        return manifest.clear()
    start = datetime.fromisoformat(rows.item(0, "datetime"))
    plumes = manifest.filter(pl.col("asset").is_in([PLUME, PLUME_METADATA]) & (pl.col("item_id") != item_id))
    near = [
        0.0 <= (start - datetime.fromisoformat(moment)).total_seconds() < SAME_PASS_S
        for moment in plumes["datetime"]
    ]
    return plumes.filter(pl.Series(near, dtype=pl.Boolean)) if plumes.height else plumes


def write_nodes(
    ws: Workspace,
    provider: Provider,
    day: str,
    manifest: pl.DataFrame,
    abouts: Mapping[str, About | str],
    attempt: Attempt,
    todo: set[str],
) -> dict[str, str]:
    """Write the nodes named in ``todo``; return those that do not reach the areas after all, with the reason.

    ``abouts`` is what `plume_metadata` returned.
    """
    from geostack_pipeline.cube.swath import DEFAULT_RANGES, OutsideError, node_name, open_granule

    areas = {area.name: area for area in ws.areas}
    ranges = ws.provider_settings(provider.key).wavelengths_nm or DEFAULT_RANGES
    outside: dict[str, str] = {}
    for item_id, rows in _items(manifest):
        name = node_name(item_id)
        if name not in todo:
            continue
        granule = _granule(ws, item_id, rows)
        bounds = joint_box([areas[area] for area in granule.area.split("+") if area in areas])
        outlines = _outlines(ws, item_id, _plume_rows(item_id, rows, manifest), abouts)
        try:
            with open_granule(granule, bounds=bounds, ranges=ranges, outlines=outlines) as node:
                _write(provider, day, attempt, name, node)
        except OutsideError as error:
            outside[name] = str(error)
    return outside


def _granule(ws: Workspace, item_id: str, rows: pl.DataFrame) -> Granule:
    from geostack_pipeline.cube.swath import IMAGES, Granule

    first = rows.row(0, named=True)
    image = next((row for row in rows.iter_rows(named=True) if row["asset"] in IMAGES), first)
    return Granule(
        item_id=item_id,
        scene=first["scene"],
        collection=first["collection"],
        datetime=datetime.fromisoformat(first["datetime"]),
        platform=first["platform"] or "",
        area=first["area"],
        files={row["asset"]: _file(ws, row) for row in rows.iter_rows(named=True)},
        scale=image["scale"],
        offset=image["offset"],
        nodata=image["nodata"],
    )


def _file(ws: Workspace, row: Mapping[str, Any]) -> Any:
    from geostack_pipeline.cube.swath import SourceFile

    return SourceFile(
        store=ws.artifacts.root.store, key=row["blob"], sha256=row["sha256"], canonical=row["canonical"]
    )


def _outlines(
    ws: Workspace, item_id: str, plumes: pl.DataFrame, abouts: Mapping[str, About | str]
) -> Sequence[Outline]:
    """Return the plumes that lie in a granule: those whose metadata name it or nothing, or that have no metadata.

    One whose metadata cannot be read may belong to any granule of the pass, so it is drawn in none.
    """
    from geostack_pipeline.cube.swath import Outline

    found = []
    for plume, rows in plumes.group_by("item_id", maintain_order=True):
        by_asset = {row["asset"]: row for row in rows.iter_rows(named=True)}
        if PLUME not in by_asset:
            continue
        about = abouts.get(str(plume[0]))
        if isinstance(about, str) or (about and about.scenes and not names_scene(about.scenes, item_id)):
            continue
        digits = str(plume[0]).rpartition("_")[2]
        found.append(
            Outline(number=int(digits) if digits.isdecimal() else 1, raster=_file(ws, by_asset[PLUME]))
        )
    return sorted(found, key=lambda outline: outline.number)


def plume_metadata(ws: Workspace, manifest: pl.DataFrame) -> dict[str, About | str]:
    """Return what the metadata of each plume tell, or why they cannot be read.  One small read per plume."""
    import obstore

    found: dict[str, About | str] = {}
    for row in manifest.filter(pl.col("asset") == PLUME_METADATA).iter_rows(named=True):
        data = bytes(obstore.get(ws.artifacts.root.store, row["blob"]).bytes())
        try:
            found[row["item_id"]] = read_metadata(data)
        except ValueError as error:
            found[row["item_id"]] = str(error)
    return found


class _Extent:
    """Smallest and largest valid value and the share of valid ones, block by block."""

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self._fill = attributes.get("_FillValue")
        self._scale = float(attributes.get("scale_factor", 1.0))
        self._offset = float(attributes.get("add_offset", 0.0))
        self._all = self._valid = 0
        self._low, self._high = np.inf, -np.inf

    def add(self, stored: npt.NDArray[np.generic]) -> None:
        """Count a block of stored numbers."""
        valid = np.isfinite(stored)
        if self._fill is not None:
            valid &= stored != self._fill
        self._all += valid.size
        count = int(valid.sum())
        if count:
            self._valid += count
            self._low = min(self._low, float(stored[valid].min()))
            self._high = max(self._high, float(stored[valid].max()))

    def row(self) -> dict[str, float | None]:
        """Return the columns of a summary."""
        known = self._valid > 0
        return {
            "valid_fraction": self._valid / self._all if self._all else 0.0,
            "smallest": self._low * self._scale + self._offset if known else None,
            "largest": self._high * self._scale + self._offset if known else None,
        }


def _write(provider: Provider, day: str, attempt: Attempt, name: str, node: Node) -> None:
    import xarray as xr

    from geostack_pipeline.cube.write import write_node
    from geostack_pipeline.publish.swath_quicklook import picture

    node.dataset.attrs.update({"provider": provider.key, "partition": day})
    main = node.dataset[node.main]
    extent = _Extent(main.attrs)

    def note(variable: str, values: npt.NDArray[np.generic]) -> None:
        if variable == node.main:
            extent.add(values)

    write_node(attempt.zarr_store(), name, node.dataset, chunks=node.chunks, apart=node.apart, on_block=note)
    if node.main not in node.chunks:
        extent.add(np.asarray(main.values))
    decoded = xr.decode_cf(node.dataset, decode_coords=False)
    attempt.put(f"quicklook-{name}.png", picture(decoded, node.main, title=f"{provider.key} {name}"))
    attempt.put(f"summary-{name}.parquet", _summary(name, node, main, extent))


def _summary(name: str, node: Node, main: xr.DataArray, extent: _Extent) -> bytes:
    row = {
        "area": node.dataset.attrs["area"],
        "node": name,
        "variable": node.main,
        "time": str(np.datetime_as_string(node.dataset["time"].values, unit="s")),
        "shape": "x".join(str(size) for size in main.shape),
        **extent.row(),
        "scenes": 1,
    }
    return parquet_bytes(pl.DataFrame([row], schema=SUMMARY_SCHEMA))


def checks(snapshot: Snapshot, table: pl.DataFrame) -> tuple[Check, ...]:
    """Judge the nodes of a date by their summaries; a date without any passes."""
    unread: Mapping[str, str] = snapshot.meta.get("outlines_not_read", {})
    if not table.height:
        table = pl.DataFrame(schema=SUMMARY_SCHEMA)
    empty = table.filter(pl.col("valid_fraction") == 0.0)
    wrong = []
    for row in table.iter_rows(named=True):
        low, high = PHYSICAL_RANGES.get(row["variable"], (-np.inf, np.inf))
        if row["smallest"] is not None and (row["smallest"] < low or row["largest"] > high):
            wrong.append(f"{row['node']} {row['variable']}: {row['smallest']:g} to {row['largest']:g}")
    limits = {
        name: PHYSICAL_RANGES[name] for name in table["variable"].unique().sort() if name in PHYSICAL_RANGES
    }
    return (
        Check(
            name="valid_fraction",
            passed=empty.height == 0,
            detail={
                "smallest share of valid pixels": table["valid_fraction"].min() if table.height else None,
                "granules without any": empty.height,
            },
        ),
        Check(
            name="physical_range",
            passed=not wrong,
            detail={
                "outside": "; ".join(wrong[:3]) or "none",
                "allowed": "; ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in limits.items()),
            },
        ),
        Check(
            name="outlines_read",
            passed=not unread,
            detail={
                "not drawn": "; ".join(f"{name}: {why}" for name, why in list(unread.items())[:3]) or "none",
                "outlines with unreadable metadata": len(unread),
            },
        ),
    )
