"""What the stored cubes hold of EMIT's methane products: granules, outlines, and which belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import obstore
import polars as pl

from geostack_pipeline.errors import ArtifactNotFoundError
from geostack_pipeline.learning.labels import About, Joined, Label, Placed, join, read_metadata
from geostack_pipeline.settings import Settings
from geostack_pipeline.stages import cube as cube_stage
from geostack_pipeline.stages import granules as granules_stage
from geostack_pipeline.stages.workspace import Workspace, asset_name
from geostack_pipeline.storage.digest import version_of
from geostack_pipeline.storage.snapshot import Snapshot

ENHANCEMENT, PLUME, PLUME_METADATA = "CH4ENH", "CH4PLM", "CH4PLMMETA"


def providers(settings: Settings) -> tuple[str, ...]:
    """Return the configured providers whose cubes hold EMIT's methane fields, in order."""
    return tuple(
        key for key in sorted(settings.providers) if ENHANCEMENT in settings.provider_spec(key).product.bands
    )


def joined(ws: Workspace, stored: Inventory, *, now: datetime | None = None) -> Joined:
    """Return the granules of the wanted product version with their outlines; review windows are judged at ``now``."""
    own = ws.settings.learning
    return join(
        [each for each in stored.granules if each.version == own.product_version],
        [each for each in stored.labels if each.version == own.product_version],
        now=now or ws.now(),
        review=timedelta(days=own.review_days),
    )


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What the stored cubes hold of EMIT's methane products."""

    granules: tuple[Placed, ...]
    labels: tuple[Label, ...]
    cubes: Mapping[tuple[str, str], Snapshot]
    """(provider, date) -> cube."""


def inventory(ws: Workspace) -> Inventory:
    """Return granules and outlines of all current cubes; what two providers have is taken from the first."""
    granules: dict[str, Placed] = {}
    labels: dict[str, Label] = {}
    cubes: dict[tuple[str, str], Snapshot] = {}
    for key in providers(ws.settings):
        asset = asset_name(key, cube_stage.NAME)
        for day in ws.artifacts.partitions(asset):
            pointer = ws.artifacts.pointer(asset, day)
            version = ws.pins.get(f"{asset}/{day}") or (pointer.version if pointer else None)
            if version is None:
                continue
            found = _holdings(ws, key, day, version)
            if found is None:
                continue
            cubes[key, day] = found.cube
            for granule in found.granules:
                granules.setdefault(granule.item_id, granule)
            for label in found.labels:
                labels.setdefault(label.item_id, label)
    return Inventory(granules=tuple(granules.values()), labels=tuple(labels.values()), cubes=cubes)


@dataclass(frozen=True, kw_only=True)
class _Holdings:
    cube: Snapshot
    granules: tuple[Placed, ...]
    labels: tuple[Label, ...]


_REMEMBERED: dict[tuple[str, str, str, str], _Holdings | None] = {}
_MOST_REMEMBERED = 20_000


def _holdings(ws: Workspace, provider: str, day: str, version: str) -> _Holdings | None:
    """Return what one version of a cube holds; None where it is gone.  Versions never change: it is remembered."""
    key = (ws.artifacts.root.url, provider, day, version)
    if key not in _REMEMBERED:
        if len(_REMEMBERED) >= _MOST_REMEMBERED:
            _REMEMBERED.clear()
        cube = ws.artifacts.find(asset_name(provider, cube_stage.NAME), day, version)
        if cube is None:
            return None
        _REMEMBERED[key] = _read_holdings(ws, provider, day, cube)
    return _REMEMBERED[key]


def _read_holdings(ws: Workspace, provider: str, day: str, cube: Snapshot) -> _Holdings:
    granules: list[Placed] = []
    labels: list[Label] = []
    manifest: pl.DataFrame | None = None
    for node, about in _attributes(cube).items():
        assets = about.get("source_assets") or ()
        if ENHANCEMENT not in assets and PLUME not in assets:
            continue
        place: dict[str, Any] = {
            "item_id": str(about["item_id"]),
            "version": str(about["collection"])[-3:],
            "moment": datetime.fromisoformat(str(about["datetime"])),
            "box": tuple(float(side) for side in about["proj:bbox"]),
            "digest": version_of(sorted(zip(assets, about["source_sha256"], strict=True))),
            "provider": provider,
            "day": day,
            "node": node,
        }
        if PLUME not in assets:
            granules.append(Placed(**place))
            continue
        if manifest is None:
            manifest = _manifest(ws, provider, day, cube)
        labels.append(_label(ws, place, manifest))
    return _Holdings(cube=cube, granules=tuple(granules), labels=tuple(labels))


def _attributes(cube: Snapshot) -> dict[str, dict[str, Any]]:
    """Return the attributes of a cube's nodes; reads the tree's consolidated metadata alone."""
    if not cube.nodes:
        return {}
    return {name: dict(node.attrs) for name, node in cube.open().children.items()}


def _manifest(ws: Workspace, provider: str, day: str, cube: Snapshot) -> pl.DataFrame:
    asset = asset_name(provider, granules_stage.NAME)
    version = cube.upstream.get(f"{asset}/{day}", "")
    snapshot = ws.artifacts.find(asset, day, version) if version else None
    if snapshot is None:
        raise ArtifactNotFoundError(
            "the manifest that a cube was made from is not stored",
            subject=f"{asset} {day}",
            found=version or "the cube names none",
            action="run the date's granules and cube again",
        )
    table: pl.DataFrame = snapshot.open()
    return table


def _label(ws: Workspace, place: Mapping[str, Any], manifest: pl.DataFrame) -> Label:
    rows = manifest.filter((pl.col("item_id") == place["item_id"]) & (pl.col("asset") == PLUME_METADATA))
    if not rows.height:
        # Its raster alone tells where the plume is; it then belongs to every granule that it meets.
        return Label(**place)
    blob, digest = str(rows.item(0, "blob")), str(rows.item(0, "sha256"))
    revision = {**place, "digest": version_of([place["digest"], digest])}
    try:
        about = _read_blob(ws, blob)
    except ValueError as error:
        return Label(**revision, problem=f"its metadata are {error}", blobs=(blob,))
    return Label(**revision, scenes=about.scenes, rate_kg_h=about.rate_kg_h, blobs=(blob,))


def _read_blob(ws: Workspace, blob: str) -> About:
    return read_metadata(bytes(obstore.get(ws.artifacts.root.store, blob).bytes()))
