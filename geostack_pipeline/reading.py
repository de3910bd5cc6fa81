"""Reads stored versions for notebooks and for the command line."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import xarray as xr

from geostack_pipeline.errors import ArtifactNotFoundError
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages.workspace import Workspace, open_workspace, parse_day
from geostack_pipeline.storage.snapshot import Snapshot


def load_artifact(
    asset: str,
    partition: str,
    version: str | None = None,
    *,
    name: str | None = None,
    settings: str | Path | None = None,
) -> pl.DataFrame | xr.DataTree:
    """Return a stored table or tree; see :func:`geostack_pipeline.load`."""
    snapshot = find_artifact(open_workspace(load_settings(settings)), asset, partition, version)
    opened: pl.DataFrame | xr.DataTree = snapshot.open(name)
    return opened


def find_artifact(ws: Workspace, asset: str, partition: str, version: str | None = None) -> Snapshot:
    """Return a stored version's snapshot, or say what is stored instead."""
    known = ws.artifacts.assets()
    if asset not in known:
        raise ArtifactNotFoundError(
            "nothing is stored under this asset",
            subject=f"asset {asset!r}",
            found=f"stored assets: {', '.join(known) or 'none'}",
            action="name one of them, or run `geostack run` first",
        )
    partition = parse_day(partition).isoformat()
    snapshot = (
        ws.artifacts.current(asset, partition)
        if version is None
        else ws.artifacts.find(asset, partition, version)
    )
    if snapshot is None:
        versions = ws.artifacts.versions(asset, partition)
        raise ArtifactNotFoundError(
            "no such version is stored" if version else "nothing is stored for this date",
            subject=f"{asset} {partition}" + (f" version {version}" if version else ""),
            found=f"stored versions: {', '.join(versions) or 'none'}",
            action="choose one of them" if versions else "run the date with `geostack run`",
        )
    return snapshot
