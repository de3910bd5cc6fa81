"""The rows of a training set: what is written of each granule, and how a granule is found again from its row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from geostack_pipeline.errors import ArtifactNotFoundError
from geostack_pipeline.learning.labels import Label, Member, Placed
from geostack_pipeline.stages import cube as cube_stage
from geostack_pipeline.stages.workspace import Workspace, asset_name
from geostack_pipeline.storage.snapshot import Snapshot

MEMBERS_SCHEMA: Mapping[str, Any] = {
    "item_id": pl.String,
    "state": pl.String,
    "label_revision": pl.String,
    "labels": pl.List(pl.String),
    "rates_kg_h": pl.List(pl.Float64),
    "split": pl.String,
    "tiles_train": pl.Int64,
    "tiles_validation": pl.Int64,
    "plume_pixels": pl.Int64,
    "background_pixels": pl.Int64,
    "datetime": pl.String,
    "west": pl.Float64,
    "south": pl.Float64,
    "east": pl.Float64,
    "north": pl.Float64,
    "digest": pl.String,
    "provider": pl.String,
    "day": pl.String,
    "node": pl.String,
    "cube": pl.String,
    "label_nodes": pl.List(pl.String),
    "tiles_sha256": pl.String,
}


def of_place(member: Member, cubes: Mapping[tuple[str, str], Snapshot]) -> dict[str, Any]:
    """Return what a row says of a granule besides its tiles: what is known of it, and which cubes hold it now."""
    return {
        "item_id": member.granule.item_id,
        "state": member.state,
        "label_revision": member.label_revision,
        "labels": [label.item_id for label in member.labels],
        "rates_kg_h": [label.rate_kg_h for label in member.labels],
        "datetime": member.granule.moment.isoformat(),
        **dict(zip(("west", "south", "east", "north"), member.granule.box, strict=True)),
        "digest": member.granule.digest,
        "provider": member.granule.provider,
        "day": member.granule.day,
        "node": member.granule.node,
        "cube": cubes[member.granule.provider, member.granule.day].version,
        "label_nodes": [
            f"{label.provider}/{label.day}/{cubes[label.provider, label.day].version}/{label.node}"
            for label in member.labels
        ],
    }


_MADE_FROM = ("item_id", "state", "label_revision", "datetime", "west", "south", "east", "north", "digest")


def unchanged(place: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Return whether a granule (:func:`of_place`) has the tiles of a row that was cut by the same recipe.

    Its files and outlines are those of the row; which cubes hold them is no matter.
    """
    return all(place[name] == row[name] for name in _MADE_FROM)


def stored_members(ws: Workspace, snapshot: Snapshot) -> list[tuple[Member, dict[tuple[str, str], Snapshot]]]:
    """Return the members of a stored training set, each with the versions of the cubes that it was cut from."""
    return [stored_member(ws, row) for row in snapshot.open("members").iter_rows(named=True)]


def stored_member(ws: Workspace, row: Mapping[str, Any]) -> tuple[Member, dict[tuple[str, str], Snapshot]]:
    """Return the member of a stored row, and the versions of the cubes that it was cut from."""
    cubes: dict[tuple[str, str], Snapshot] = {}
    moment = datetime.fromisoformat(row["datetime"])
    place: dict[str, Any] = {
        "version": "",
        "moment": moment,
        "box": (row["west"], row["south"], row["east"], row["north"]),
    }
    labels = []
    for item_id, reference, rate in zip(row["labels"], row["label_nodes"], row["rates_kg_h"], strict=True):
        provider, day, version, node = reference.split("/")
        cubes[provider, day] = _cube(ws, provider, day, version)
        where = {"provider": provider, "day": day, "node": node}
        labels.append(Label(item_id=item_id, digest="", rate_kg_h=rate, **place, **where))
    cubes[row["provider"], row["day"]] = _cube(ws, row["provider"], row["day"], row["cube"])
    granule = Placed(
        item_id=row["item_id"],
        digest=row["digest"],
        provider=row["provider"],
        day=row["day"],
        node=row["node"],
        **place,
    )
    return _Stored(
        granule=granule, labels=tuple(labels), state=row["state"], revision=row["label_revision"]
    ), cubes


@dataclass(frozen=True, kw_only=True)
class _Stored(Member):
    """A member whose label revision is what was stored."""

    revision: str

    @property
    def label_revision(self) -> str:
        """The stored revision."""
        return self.revision


def _cube(ws: Workspace, provider: str, day: str, version: str) -> Snapshot:
    asset = asset_name(provider, cube_stage.NAME)
    snapshot = ws.artifacts.find(asset, day, version)
    if snapshot is None:
        raise ArtifactNotFoundError(
            "a cube that a training set was cut from is not stored any more",
            subject=f"{asset} {day} {version}",
            action="restore the root from a copy; gc keeps the cubes of every pinned or current training set",
        )
    return snapshot
