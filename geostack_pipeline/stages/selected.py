"""Selection: the scenes that survive the filter, the coverage and the de-duplication; every drop keeps its reason."""

from __future__ import annotations

import io
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from geostack_pipeline.catalog.selection import Selection, select
from geostack_pipeline.errors import IntegrityError
from geostack_pipeline.providers.contract import Provider
from geostack_pipeline.stages.tables import Tables, parquet_bytes
from geostack_pipeline.stages.workspace import Check, Outcome, Workspace, asset_name
from geostack_pipeline.storage.digest import version_of
from geostack_pipeline.storage.snapshot import Snapshot

NAME = "selected"
CODE_VERSION = "1"


def version(ws: Workspace, provider: Provider, scenes_version: str) -> str:
    """Return the version that a scene list leads to under the present settings."""
    settings = ws.provider_settings(provider.key)
    return version_of(
        {
            "code": CODE_VERSION,
            "scenes": scenes_version,
            "where": settings.where,
            "min_coverage": settings.min_coverage,
            "areas": [[area.name, *area.bbox] for area in ws.areas],
        }
    )


def build(ws: Workspace, provider: Provider, day: str, scenes: Snapshot) -> Outcome:
    """Select from one date's scene list."""
    asset = asset_name(provider.key, NAME)
    target = version(ws, provider, scenes.version)
    snapshot = ws.artifacts.find(asset, day, target)
    reused = snapshot is not None
    if snapshot is None:
        snapshot = _write(ws, provider, day, target, scenes)
    ws.artifacts.point(snapshot, run_id=ws.run_id)
    return Outcome(snapshot=snapshot, reused=reused, checks=_checks(snapshot))


def choose(ws: Workspace, provider: Provider, day: str, rows: pa.Table) -> Selection:
    """Return what the settings select of a scene list; nothing is stored.

    Raises:
        IntegrityError: A scene is neither selected nor dropped.
        SelectionError: The filter cannot be read.
    """
    settings = ws.provider_settings(provider.key)
    selection = select(rows, where=settings.where, areas=ws.areas, min_coverage=settings.min_coverage)
    if selection.selected.num_rows + selection.dropped.height != rows.num_rows:
        raise IntegrityError(
            "scenes were lost in the selection",
            subject=f"{asset_name(provider.key, NAME)} {day}",
            found=f"{rows.num_rows} scenes, {selection.selected.num_rows} selected, {selection.dropped.height} dropped",
            action="report this as a defect of the selection",
        )
    return selection


def files_of(selection: Selection) -> dict[str, bytes]:
    """Return the tables of a selection: file name -> parquet."""
    buffer = io.BytesIO()
    pq.write_table(selection.selected, buffer, compression="zstd")
    return {
        "selected.parquet": buffer.getvalue(),
        "coverage.parquet": parquet_bytes(selection.coverage),
        "dropped.parquet": parquet_bytes(selection.dropped),
    }


def scene_rows(snapshot: Tables, name: str) -> pa.Table:
    """Return the stac-geoparquet rows of an artifact's table, with their metadata."""
    tables = [
        pq.read_table(io.BytesIO(snapshot.read(path)))
        for path in sorted(snapshot.files)
        if path == f"{name}.parquet" or (path.startswith(f"{name}-") and path.endswith(".parquet"))
    ]
    if len(tables) == 1:
        return tables[0]
    # Files of one list differ where items of one date differ in structure; a column that a file lacks is null.
    return pa.concat_tables(tables, promote_options="permissive").replace_schema_metadata(
        tables[0].schema.metadata
    )


def _write(ws: Workspace, provider: Provider, day: str, target: str, scenes: Snapshot) -> Snapshot:
    rows = scene_rows(scenes, "scenes")
    selection = choose(ws, provider, day, rows)
    from geostack_pipeline.publish.figures import footprint_map

    with ws.artifacts.begin(
        asset_name(provider.key, NAME),
        day,
        target,
        kind="table",
        code_version=CODE_VERSION,
        upstream={f"{scenes.asset}/{day}": scenes.version},
    ) as attempt:
        for name, data in files_of(selection).items():
            attempt.put(name, data)
        if rows.num_rows:
            attempt.put("preview.png", footprint_map(_footprints(rows, selection.selected), ws.areas))
        reasons = dict(selection.dropped.group_by("reason").len().sort("reason").iter_rows())
        return attempt.commit(
            meta={
                "rows": selection.selected.num_rows,
                "dropped": selection.dropped.height,
                "reasons": reasons,
            }
        )


def _footprints(rows: pa.Table, selected: pa.Table) -> list[dict[str, Any]]:
    kept = set(selected.column("id").to_pylist())
    clouds = (
        rows.column("eo:cloud_cover").to_pylist()
        if "eo:cloud_cover" in rows.column_names
        else [None] * len(rows)
    )
    return [
        {"geometry": geometry, "label": name, "kept": name in kept, "cloud_cover": cloud}
        for geometry, name, cloud in zip(
            rows.column("geometry").to_pylist(), rows.column("id").to_pylist(), clouds, strict=True
        )
    ]


def _checks(snapshot: Snapshot) -> tuple[Check, ...]:
    selected = snapshot.open("selected")
    dropped: pl.DataFrame = snapshot.open("dropped")
    unexplained = dropped.filter(pl.col("reason").is_null() | (pl.col("reason") == "")).height
    scenes = selected["geostack:scene"]
    repeated = selected.height - scenes.n_unique()
    return (
        Check(
            name="one_row_per_scene",
            passed=repeated == 0,
            detail={"selected": selected.height, "repeated scenes": repeated},
        ),
        Check(
            name="drops_have_reasons",
            passed=unexplained == 0,
            detail={"dropped": dropped.height, "without a reason": unexplained},
        ),
    )
