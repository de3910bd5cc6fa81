"""Cube: one Zarr tree per date, one node per area, each on the area's own grid; of a swath one node per granule.

A node has its own input-addressed version.  A new version of a date's tree takes unchanged nodes over from the
version before (a server-side copy, a hard link on a local disk) and computes only the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from geostack_pipeline.areas import Resampling
from geostack_pipeline.cube.layers import BandLayer, SceneLayer
from geostack_pipeline.providers.contract import Provider
from geostack_pipeline.stages import cube_swath
from geostack_pipeline.stages.fetching import OVERVIEW
from geostack_pipeline.stages.tables import parquet_bytes
from geostack_pipeline.stages.workspace import Check, Outcome, Workspace, asset_name
from geostack_pipeline.storage.artifacts import Attempt
from geostack_pipeline.storage.digest import version_of
from geostack_pipeline.storage.snapshot import Snapshot

if TYPE_CHECKING:
    from geostack_pipeline.cube.stream import Seen

NAME = "cube"
CODE_VERSION = "4"
TREE = "tree.zarr"

PHYSICAL_RANGE = (-0.05, 1.6)
"""Bottom-of-atmosphere reflectance: a little below zero over dark targets by over-correction, above one on
clouds and snow facing the sun."""


def version(ws: Workspace, provider: Provider, granules_version: str) -> str:
    """Return the version that a granule manifest leads to under the present settings."""
    if provider.product.kind == "swath":
        own = cube_swath.settings_of(ws, provider)
        return version_of({"code": CODE_VERSION, "granules": granules_version, **own})
    return version_of(
        {
            "code": CODE_VERSION,
            "granules": granules_version,
            "bands": list(ws.provider_settings(provider.key).bands),
            "grids": [ws.grid(area).as_dict() for area in ws.areas],
            **_said({area.name: ws.resampling(provider.key, area) for area in ws.areas}),
            **_overviews(ws, provider),
            **_read(area.name for area in ws.areas if ws.reads_overviews(provider.key, area)),
        }
    )


def _said(resampling: Mapping[str, Resampling]) -> dict[str, Any]:
    """Return what versions hold of the resampling: nothing of the default, so that what is stored with it stays valid."""
    other = {name: how for name, how in resampling.items() if how != "auto"}
    return {"resampling": other} if other else {}


def _overviews(ws: Workspace, provider: Provider) -> dict[str, Any]:
    """Return the setting of overviews as a part of versions; of those without it, nothing."""
    wanted = ws.provider_settings(provider.key).overviews
    return {"overviews": wanted} if wanted else {}


def _read(areas: Iterable[str]) -> dict[str, Any]:
    """Return what versions hold of the areas whose cubes are made of overviews in the files; of none, nothing."""
    names = list(areas)
    return {"read_overviews": names} if names else {}


def build(ws: Workspace, provider: Provider, day: str, granules: Snapshot) -> Outcome:
    """Build one date's tree from its granules."""
    if provider.product.kind == "surface":
        ws.settle_grids()
    asset = asset_name(provider.key, NAME)
    target = version(ws, provider, granules.version)
    snapshot = ws.artifacts.find(asset, day, target)
    reused = snapshot is not None
    stats: dict[str, Any] = {}
    if snapshot is None:
        snapshot, stats = _write(ws, provider, day, target, granules)
    ws.artifacts.point(snapshot, run_id=ws.run_id)
    return Outcome(
        snapshot=snapshot, reused=reused, checks=_checks(snapshot, provider.product.kind), stats=stats
    )


def nodes(ws: Workspace, provider: Provider, manifest: pl.DataFrame) -> dict[str, str]:
    """Return the version of each area's node: the digest of the bytes and settings it is computed from."""
    if provider.product.kind == "swath":
        return cube_swath.nodes(ws, provider, manifest, CODE_VERSION)
    bands = list(ws.provider_settings(provider.key).bands)
    versions: dict[str, str] = {}
    for area in ws.areas:
        rows = manifest.filter(pl.col("area") == area.name)
        if rows.height:
            used = rows.drop("blob", "source_etag", "source_size").sort("item_id", "asset")
            versions[area.name] = version_of(
                {
                    "code": CODE_VERSION,
                    "bands": bands,
                    "grid": ws.grid(area).as_dict(),
                    "rows": used.rows(named=True),
                    **_said({area.name: ws.resampling(provider.key, area)}),
                    **_overviews(ws, provider),
                    **_read([area.name] if ws.reads_overviews(provider.key, area) else []),
                }
            )
    return versions


def take_over(
    attempt: Attempt, previous: Snapshot | None, wanted: Mapping[str, str], paths: Callable[[str], list[str]]
) -> set[str]:
    """Reference the nodes that an earlier version has already; return their names."""
    taken = set()
    for name, version in wanted.items():
        if previous is not None and previous.nodes.get(name) == version:
            for path in paths(name):
                attempt.reference(previous, path)
            taken.add(name)
    return taken


def node_paths(name: str) -> list[str]:
    """Return the files and folders of a node inside the artifact."""
    return [f"{TREE}/{name}", f"quicklook-{name}.png", f"summary-{name}.parquet"]


def _write(
    ws: Workspace, provider: Provider, day: str, target: str, granules: Snapshot
) -> tuple[Snapshot, dict[str, Any]]:
    # Compilers and plotting are loaded where something is computed: planning and adopting need none of them.
    import xarray as xr

    from geostack_pipeline.cube.overviews import write_overviews
    from geostack_pipeline.cube.stream import write_cube
    from geostack_pipeline.cube.write import finish_tree
    from geostack_pipeline.publish.quicklook import true_colour

    asset = asset_name(provider.key, NAME)
    manifest = granules.open()
    wanted = nodes(ws, provider, manifest)
    previous = ws.stored(asset, day)
    bands = list(ws.provider_settings(provider.key).bands)
    overviews = ws.provider_settings(provider.key).overviews
    with ws.artifacts.begin(
        asset,
        day,
        target,
        kind="tree",
        code_version=CODE_VERSION,
        upstream={f"{granules.asset}/{day}": granules.version},
    ) as attempt:
        taken = take_over(attempt, previous, wanted, node_paths)
        zarr = attempt.zarr_store(TREE)
        if provider.product.kind == "swath":
            meta, wanted = _write_swath(ws, provider, day, manifest, attempt, wanted, taken)
            finish_tree(zarr, {"provider": provider.key, "partition": day})
            snapshot = attempt.commit(meta=meta, nodes=wanted)
            return snapshot, {"computed": len(wanted) - len(taken), "taken_over": len(taken)}
        for area in ws.areas:
            if area.name not in wanted or area.name in taken:
                continue
            rows = manifest.filter(pl.col("area") == area.name)
            seen = write_cube(
                zarr,
                area.name,
                ws.grid(area),
                scene_layers(ws, rows, [*bands, *_classes(provider)]),
                bands,
                attributes={"area": area.name, "provider": provider.key, "partition": day},
                resampling=ws.resampling(provider.key, area),
                overviews=ws.reads_overviews(provider.key, area),
            )
            if overviews:
                write_overviews(zarr, area.name, ws.grid(area), overviews)
            stored = xr.open_zarr(zarr, group=area.name, chunks=None, consolidated=False, zarr_format=3)
            attempt.put(
                f"quicklook-{area.name}.png", true_colour(stored, title=f"{provider.key} {area.name}")
            )
            attempt.put(f"summary-{area.name}.parquet", _summary(area.name, seen))
        finish_tree(zarr, {"provider": provider.key, "partition": day})
        snapshot = attempt.commit(
            meta={"rows": len(wanted), "areas": sorted(wanted), "bands": bands}, nodes=wanted
        )
    return snapshot, {"computed": len(wanted) - len(taken), "taken_over": len(taken)}


def _classes(provider: Provider) -> list[str]:
    return [provider.product.classification] if provider.product.classification else []


def _write_swath(
    ws: Workspace,
    provider: Provider,
    day: str,
    manifest: pl.DataFrame,
    attempt: Attempt,
    wanted: Mapping[str, str],
    taken: set[str],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Write the nodes that were not taken over; return the artifact's facts and the versions of all its nodes."""
    abouts = cube_swath.plume_metadata(ws, manifest)
    outside = cube_swath.write_nodes(ws, provider, day, manifest, abouts, attempt, set(wanted) - taken)
    there = {name: version for name, version in wanted.items() if name not in outside}
    meta = {
        "rows": len(there),
        "areas": sorted(
            {name for area in manifest["area"].unique().to_list() for name in str(area).split("+")}
        ),
        "bands": list(ws.provider_settings(provider.key).bands),
        "outside": dict(sorted(outside.items())),
        "without_node": cube_swath.without_node(manifest),
        # They are drawn in no granule.
        "outlines_not_read": {
            item_id: about for item_id, about in sorted(abouts.items()) if isinstance(about, str)
        },
    }
    return meta, there


def scene_layers(ws: Workspace, rows: pl.DataFrame, assets: Sequence[str]) -> list[SceneLayer]:
    """Return an area's scenes in mosaic priority: most of the area covered, then least cloud, then item id."""
    layers = []
    ranked = (
        rows.select("item_id", "coverage", "cloud_cover")
        .unique()
        .sort("coverage", "cloud_cover", "item_id", descending=[True, False, False], nulls_last=True)
    )
    for item_id in ranked["item_id"]:
        own = rows.filter(pl.col("item_id") == item_id)
        first = own.row(0, named=True)
        layers.append(
            SceneLayer(
                item_id=item_id,
                scene=first["scene"],
                datetime=datetime.fromisoformat(first["datetime"]),
                platform=first["platform"] or "",
                relative_orbit=first["relative_orbit"],
                sun_zenith=first["sun_zenith"],
                view_zenith=first["view_zenith"],
                bands={
                    row["asset"]: BandLayer(
                        store=ws.artifacts.root.store,
                        key=row["blob"],
                        scale=row["scale"],
                        offset=row["offset"],
                        nodata=row["nodata"],
                        band=row["band"],
                        is_overview=row["form"] == OVERVIEW,
                    )
                    for row in own.iter_rows(named=True)
                    if row["asset"] in assets
                },
            )
        )
    return layers


SUMMARY_SCHEMA: Mapping[str, Any] = {
    "area": pl.String,
    "time": pl.String,
    "shape": pl.String,
    "valid_fraction": pl.Float64,
    "smallest": pl.Float64,
    "largest": pl.Float64,
    "scenes": pl.Int64,
}


def _summary(name: str, seen: Sequence[Seen]) -> bytes:
    rows = [
        {
            "area": name,
            "time": str(np.datetime_as_string(each.time, unit="s")),
            "shape": "x".join(str(size) for size in each.shape),
            "valid_fraction": each.valid_fraction,
            "smallest": each.smallest,
            "largest": each.largest,
            "scenes": each.scenes,
        }
        for each in seen
    ]
    return parquet_bytes(pl.DataFrame(rows, schema=SUMMARY_SCHEMA))


def summary(snapshot: Snapshot) -> pl.DataFrame:
    """Return one row per area and time: shape, share of valid pixels, smallest and largest reflectance."""
    frames = [
        pl.read_parquet(snapshot.read(path))
        for path in sorted(snapshot.files)
        if PurePosixPath(path).match("summary-*.parquet")
    ]
    return pl.concat(frames) if frames else pl.DataFrame(schema=SUMMARY_SCHEMA)


def _checks(snapshot: Snapshot, kind: str) -> tuple[Check, ...]:
    table = summary(snapshot)
    if kind == "swath":
        return cube_swath.checks(snapshot, table)
    low, high = PHYSICAL_RANGE
    empty = table.filter(pl.col("valid_fraction") == 0.0)
    outside = table.filter((pl.col("smallest") < low) | (pl.col("largest") > high))
    return (
        Check(
            name="valid_fraction",
            passed=empty.height == 0,
            detail={
                "smallest share of valid pixels": table["valid_fraction"].min() if table.height else None,
                "times without any": empty.height,
            },
        ),
        Check(
            name="physical_range",
            passed=outside.height == 0,
            detail={
                "smallest": table["smallest"].min() if table.height else None,
                "largest": table["largest"].max() if table.height else None,
                "allowed": f"{low} to {high}",
            },
        ),
    )
