"""``geostack show``: what is stored, from the list of assets down to the rows of one version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from geostack_pipeline.commands.console import Exit, console, print_json, size, table
from geostack_pipeline.reading import find_artifact
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages.columns import first_columns
from geostack_pipeline.stages.workspace import Workspace, open_workspace
from geostack_pipeline.storage.snapshot import Snapshot


def show_command(
    asset: str | None,
    partition: str | None,
    version: str | None,
    name: str | None,
    *,
    settings_file: Path | None,
    as_json: bool,
) -> Exit:
    """Show the assets, one asset's dates, or one date's version."""
    ws = open_workspace(load_settings(settings_file))
    if asset is None:
        _assets(ws, as_json=as_json)
    elif partition is None:
        _partitions(ws, asset, as_json=as_json)
    else:
        _version(ws, find_artifact(ws, asset, partition, version), name, as_json=as_json)
    return Exit.OK


def _assets(ws: Workspace, *, as_json: bool) -> None:
    rows: list[dict[str, Any]] = []
    for asset in ws.artifacts.assets():
        days = ws.artifacts.partitions(asset)
        rows.append(
            {
                "asset": asset,
                "dates": len(days),
                "first": min(days, default=None),
                "last": max(days, default=None),
            }
        )
    if as_json:
        print_json(rows)
        return
    shown = table(f"stored in {ws.artifacts.root.url}", "asset", "dates", "first", "last", right=("dates",))
    for row in rows:
        shown.add_row(row["asset"], str(row["dates"]), row["first"] or "-", row["last"] or "-")
    console.print(
        shown if rows else f"nothing is stored yet in {ws.artifacts.root.url}; run `geostack run` first"
    )


def _partitions(ws: Workspace, asset: str, *, as_json: bool) -> None:
    rows: list[dict[str, Any]] = []
    for day in sorted(ws.artifacts.partitions(asset)):
        snapshot = ws.artifacts.current(asset, day)
        if snapshot is not None:
            rows.append(
                {
                    "date": day,
                    "version": snapshot.version,
                    "rows": snapshot.meta.get("rows"),
                    "bytes": sum(entry.size for entry in snapshot.files.values()),
                    "versions": len(ws.artifacts.versions(asset, day)),
                }
            )
    if not rows:
        find_artifact(ws, asset, "2000-01-01")
    if as_json:
        print_json(rows)
        return
    shown = table(
        asset, "date", "version", "rows", "size", "versions kept", right=("rows", "size", "versions kept")
    )
    for row in rows:
        shown.add_row(row["date"], row["version"], str(row["rows"]), size(row["bytes"]), str(row["versions"]))
    console.print(shown)


def _version(ws: Workspace, snapshot: Snapshot, name: str | None, *, as_json: bool) -> None:
    current = ws.artifacts.current(snapshot.asset, snapshot.partition)
    described = {
        "asset": snapshot.asset,
        "partition": snapshot.partition,
        "version": snapshot.version,
        "current": current is not None and current.version == snapshot.version,
        "kind": snapshot.kind,
        "code_version": snapshot.code_version,
        "url": snapshot.url(),
        "upstream": dict(snapshot.upstream),
        "nodes": dict(snapshot.nodes),
        "meta": dict(snapshot.meta),
        "files": len(snapshot.files),
        "bytes": sum(entry.size for entry in snapshot.files.values()),
    }
    if as_json:
        print_json(described)
        return
    shown = table(f"{snapshot.asset} {snapshot.partition}", "", "")
    for key, value in described.items():
        text = (
            "\n".join(f"{left}: {right}" for left, right in value.items())
            if isinstance(value, dict)
            else str(value)
        )
        shown.add_row(key, text or "-")
    console.print(shown)
    opened = snapshot.open(name)
    if isinstance(opened, pl.DataFrame):
        flat = first_columns(opened, name or snapshot.asset.rpartition("/")[2])
        with pl.Config(
            tbl_width_chars=console.width,
            tbl_rows=20,
            tbl_cols=10,
            tbl_hide_dataframe_shape=False,
            fmt_str_lengths=60,
        ):
            console.print(str(flat), markup=False)
    else:
        console.print(str(opened), markup=False)
