"""Methane: enhancement fields and plume candidates from a date's cube and its reference dates.

Of a swath there is one node per granule (`methane_swath`).  Of a surface there is one per area, and it has references:
the cubes of the dates before, within the look-back; their versions are part of this stage's version, so that a date
whose reference appears or changes later is known to be out of date.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from geostack_pipeline.providers.contract import Provider
from geostack_pipeline.stages import cube as cube_stage
from geostack_pipeline.stages import methane_swath
from geostack_pipeline.stages.tables import parquet_bytes
from geostack_pipeline.stages.workspace import Check, Outcome, Workspace, asset_name, parse_day
from geostack_pipeline.storage.digest import version_of
from geostack_pipeline.storage.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr

NAME = "methane"
CODE_VERSION = "5"
TREE = cube_stage.TREE

ENHANCEMENT_RANGE = (-35_000.0, 70_000.0)
"""Column enhancement in ppm m that a Sentinel-2 retrieval can return at all: beyond it, a field is broken."""


def detection(ws: Workspace) -> dict[str, Any]:
    """Return the detection settings that the file gives; the others are the method's own."""
    return ws.settings.methane.detection.model_dump(exclude_none=True)


def lookback(ws: Workspace, day: str) -> list[str]:
    """Return the dates before ``day`` that may hold its reference, oldest first."""
    first = parse_day(day)
    return [
        (first - timedelta(days=back)).isoformat()
        for back in range(ws.settings.methane.lookback_days, 0, -1)
        if first - timedelta(days=back) >= ws.settings.start_date
    ]


def references(
    ws: Workspace,
    provider: Provider,
    day: str,
    cube_of: Callable[[str], Snapshot | None] | None = None,
) -> dict[str, Snapshot]:
    """Return the stored cubes of the look-back that hold any node, by date.

    Args:
        cube_of: Returns the current cube of a date; a planner's remembers them, since its dates share their look-back.
    """
    if provider.product.kind == "swath":
        return {}
    read = cube_of or (lambda earlier: ws.current(asset_name(provider.key, cube_stage.NAME), earlier))
    found = {}
    for earlier in lookback(ws, day):
        snapshot = read(earlier)
        if snapshot is not None and snapshot.nodes:
            found[earlier] = snapshot
    return found


def version(ws: Workspace, provider: Provider, cube_version: str, earlier: Mapping[str, str]) -> str:
    """Return the version that a cube and its references (date -> version) lead to."""
    if provider.product.kind == "swath":
        return methane_swath.version(ws, cube_version, CODE_VERSION)
    return version_of(
        {
            "code": CODE_VERSION,
            "cube": cube_version,
            "references": dict(earlier),
            "detection": detection(ws),
        }
    )


def build(
    ws: Workspace, provider: Provider, day: str, cube: Snapshot, earlier: Mapping[str, Snapshot] | None = None
) -> Outcome:
    """Retrieve one date; ``earlier`` are the cubes of the look-back, read from the store when not given."""
    asset = asset_name(provider.key, NAME)
    if earlier is None:
        earlier = references(ws, provider, day)
    # A date without a scene has no use for references: its version must not change when they do.
    used = {name: snapshot for name, snapshot in earlier.items() if snapshot.nodes} if cube.nodes else {}
    target = version(ws, provider, cube.version, {name: snapshot.version for name, snapshot in used.items()})
    snapshot = ws.artifacts.find(asset, day, target)
    reused = snapshot is not None
    stats: dict[str, Any] = {}
    if snapshot is None:
        if provider.product.kind == "swath":
            snapshot, stats = methane_swath.write(ws, provider, day, target, cube, CODE_VERSION)
        else:
            snapshot, stats = _write(ws, provider, day, target, cube, used)
    ws.artifacts.point(snapshot, run_id=ws.run_id)
    return Outcome(snapshot=snapshot, reused=reused, checks=_checks(snapshot, provider), stats=stats)


def nodes(ws: Workspace, cube: Snapshot, earlier: Mapping[str, Snapshot]) -> dict[str, str]:
    """Return the version of each area's node: its cube node, the reference nodes and the settings."""
    return {
        name: version_of(
            {
                "code": CODE_VERSION,
                "cube": node,
                "references": {
                    day: snapshot.nodes[name] for day, snapshot in earlier.items() if name in snapshot.nodes
                },
                "detection": detection(ws),
            }
        )
        for name, node in cube.nodes.items()
    }


def node_paths(name: str) -> list[str]:
    """Return the files and folders of a node inside the artifact."""
    return [f"{TREE}/{name}", f"plumes-{name}.parquet", f"quicklook-{name}.png", f"summary-{name}.parquet"]


def _write(
    ws: Workspace, provider: Provider, day: str, target: str, cube: Snapshot, earlier: Mapping[str, Snapshot]
) -> tuple[Snapshot, dict[str, Any]]:
    # Loaded where something is computed, as in the cube stage.
    from geostack_pipeline.cube.write import finish_tree, write_node
    from geostack_pipeline.methane.detection import DetectionSettings
    from geostack_pipeline.methane.plume_table import plume_rows, to_geoparquet
    from geostack_pipeline.methane.plumes import detect
    from geostack_pipeline.methane.retrieve import retrieve
    from geostack_pipeline.publish import quicklook
    from geostack_pipeline.stages.compiling import prepare_kernels

    prepare_kernels(ws)
    asset = asset_name(provider.key, NAME)
    wanted = nodes(ws, cube, earlier)
    previous = ws.stored(asset, day)
    upstream = {f"{cube.asset}/{day}": cube.version}
    upstream |= {f"{snapshot.asset}/{name}": snapshot.version for name, snapshot in earlier.items()}
    tree = cube.open()
    past = {name: snapshot.open() for name, snapshot in earlier.items()}
    with ws.artifacts.begin(
        asset, day, target, kind="tree", code_version=CODE_VERSION, upstream=upstream
    ) as attempt:
        taken = cube_stage.take_over(attempt, previous, wanted, node_paths)
        zarr = attempt.zarr_store(TREE)
        plumes = 0
        for name in wanted:
            if name in taken:
                continue
            node: xr.Dataset = tree[name].to_dataset()
            candidates = [other[name].to_dataset() for other in past.values() if name in other.children]
            fields = retrieve(node, candidates)
            fields.attrs.update({"area": name, "provider": provider.key, "partition": day})
            table = detect(
                fields, area=name, settings=DetectionSettings(**detection(ws)), provider=provider.key
            )
            write_node(zarr, name, fields)
            attempt.put(f"plumes-{name}.parquet", to_geoparquet(table))
            attempt.put(
                f"quicklook-{name}.png",
                quicklook.methane(node, fields, table, title=f"{provider.key} {name}"),
            )
            attempt.put(f"summary-{name}.parquet", _summary(name, fields))
            plumes += table.num_rows
        if not wanted:
            attempt.put("plumes.parquet", to_geoparquet(plume_rows([])))
        finish_tree(zarr, {"provider": provider.key, "partition": day, "maturity": "screening"})
        total = (
            sum(
                pq.ParquetFile(io.BytesIO(previous.read(f"plumes-{name}.parquet"))).metadata.num_rows
                for name in taken
            )
            if previous is not None
            else 0
        )
        snapshot = attempt.commit(
            meta={"rows": len(wanted), "areas": sorted(wanted), "plumes": plumes + total}, nodes=wanted
        )
    return snapshot, {"computed": len(wanted) - len(taken), "taken_over": len(taken)}


SUMMARY_SCHEMA: Mapping[str, Any] = {
    "area": pl.String,
    "time": pl.String,
    "multi_pass_fraction": pl.Float64,
    "reference_time": pl.String,
    "finite_fraction": pl.Float64,
    "background_std": pl.Float64,
    "smallest": pl.Float64,
    "largest": pl.Float64,
}


def _summary(name: str, fields: xr.Dataset) -> bytes:
    rows = []
    for index, time in enumerate(fields["time"].values):
        here = fields.isel(time=index)
        values = here["ch4_enhancement"].values
        finite = values[np.isfinite(values)]
        uncertainty = here["ch4_uncertainty"].values
        known = uncertainty[np.isfinite(uncertainty)]
        reference = here["reference_time"].values
        rows.append(
            {
                "area": name,
                "time": str(np.datetime_as_string(time, unit="s")),
                "multi_pass_fraction": float(np.isfinite(here["mbmp"].values).mean()),
                "reference_time": None
                if np.isnat(reference)
                else str(np.datetime_as_string(reference, unit="s")),
                "finite_fraction": float(np.isfinite(values).mean()),
                "background_std": float(np.median(known)) if known.size else None,
                "smallest": float(finite.min()) if finite.size else None,
                "largest": float(finite.max()) if finite.size else None,
            }
        )
    return parquet_bytes(pl.DataFrame(rows, schema=SUMMARY_SCHEMA))


def summary(snapshot: Snapshot) -> pl.DataFrame:
    """Return one row per area and time: signal used, reference, noise and range of the enhancement (ppm m)."""
    frames = [
        pl.read_parquet(snapshot.read(path))
        for path in sorted(snapshot.files)
        if PurePosixPath(path).match("summary-*.parquet")
    ]
    return pl.concat(frames) if frames else pl.DataFrame(schema=SUMMARY_SCHEMA)


def _checks(snapshot: Snapshot, provider: Provider) -> tuple[Check, ...]:
    table = summary(snapshot)
    if provider.product.kind == "swath":
        return methane_swath.checks(snapshot, table)
    without = table.filter(pl.col("reference_time").is_null())
    return (
        methane_swath.within(table, ENHANCEMENT_RANGE),
        Check(
            name="reference_found",
            passed=without.height == 0,
            detail={"times": table.height, "without a reference": without.height},
        ),
    )
