"""Reads stored versions for notebooks and for the command line."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import xarray as xr

from geostack_pipeline.errors import ArtifactNotFoundError, SettingsError
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages.workspace import Workspace, asset_name, open_workspace, parse_day
from geostack_pipeline.storage.parallel import in_threads
from geostack_pipeline.storage.snapshot import Snapshot

if TYPE_CHECKING:
    from geostack_pipeline.cube.grid import GridSpec

CUBE = "cube"


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


def load_timeline(
    provider: str,
    area: str,
    start: str | date,
    end: str | date,
    *,
    versions: Mapping[str, str] | None = None,
    mask_and_scale: bool = True,
    settings: str | Path | None = None,
) -> xr.Dataset:
    """Return an area's cubes of many dates as one lazy dataset; see :func:`geostack_pipeline.load_timeline`."""
    from geostack_pipeline.cube.timeline import open_timeline  # noqa: PLC0415 - `load` of a table needs no zarr

    loaded = load_settings(settings)
    asset = asset_name(provider, CUBE)
    if loaded.provider_spec(provider).product.kind == "swath":
        raise SettingsError(
            "a swath has no timeline: every granule is a node of its own, in the geometry of its own pass",
            subject=asset,
            action=f'open its dates with load("{asset}", date)',
        )
    days = _days(asset, start, end)
    pins = {parse_day(day).isoformat(): version for day, version in (versions or {}).items()}
    strangers = sorted(set(pins) - set(days))
    if strangers:
        raise SettingsError(
            "a version is named for a date outside the range",
            subject=f"{asset} {days[0]} to {days[-1]}",
            found=strangers[0],
            action="widen the range, or leave the version out",
        )
    ws = open_workspace(loaded, pins={f"{asset}/{day}": version for day, version in pins.items()})
    serial = 2 if ws.artifacts.root.path is None else len(days) + 1
    found = in_threads(lambda day: ws.current(asset, day), days, serial_below=serial)
    stored = [snapshot for snapshot in found if snapshot is not None]
    with_node = [snapshot for snapshot in stored if area in snapshot.nodes]
    if not with_node:
        raise ArtifactNotFoundError(
            "no date of the range has a cube of this area",
            subject=f"{asset} {area}, {days[0]} to {days[-1]}",
            found=f"{len(stored)} stored dates; areas on them: "
            + (", ".join(sorted({name for snapshot in stored for name in snapshot.nodes})) or "none"),
            action="choose another range or area, or run the dates with `geostack run`",
        )
    return open_timeline(with_node, area, mask_and_scale=mask_and_scale)


def load_grid(area: str, *, settings: str | Path | None = None) -> GridSpec:
    """Return the stored grid of an area; see :func:`geostack_pipeline.load_grid`."""
    from geostack_pipeline.cube.grid_store import definitions, stored_grid  # noqa: PLC0415 - see `load_timeline`

    ws = open_workspace(load_settings(settings))
    known = {one.name: one for one in ws.areas}
    if area not in known:
        raise SettingsError(
            "the area is not configured",
            subject=f"area {area!r}",
            found=f"configured areas: {', '.join(known) or 'none'}",
            action="name one of them, or add it under `areas:`",
        )
    root = ws.artifacts.root
    grid = stored_grid(root, known[area])
    if grid is None:
        others = len(definitions(root, area))
        raise ArtifactNotFoundError(
            "no grid is stored for the area as the settings define it",
            subject=f"area {area}",
            found=f"{others} grid(s) of other definitions (bbox, resolution_m, crs)"
            if others
            else "none at all",
            action="run a date of a provider whose cubes lie on grids with `geostack run`: the first one stores it",
        )
    return grid


def _day(day: str | date) -> date:
    """Return the date of an end of a range; partitions are dates in UTC."""
    if isinstance(day, datetime):  # a date to Python, and pandas' Timestamp is one too
        return (day if day.tzinfo is None else day.astimezone(UTC)).date()
    return day if isinstance(day, date) else parse_day(day)


def _days(asset: str, start: str | date, end: str | date) -> list[str]:
    """Return the dates of a range, both ends included."""
    first, last = (_day(day) for day in (start, end))
    if last < first:
        raise SettingsError(
            "the range of dates ends before it starts",
            subject=asset,
            found=f"{first} to {last}",
            action="write the earlier date first",
        )
    return [(first + timedelta(days=i)).isoformat() for i in range((last - first).days + 1)]
