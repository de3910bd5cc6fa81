"""Training set: tiles of EMIT's methane fields with what analysts outlined in them.

One tree with a node of tiles per granule that teaches something, ``members.parquet`` with every granule that has
cubes and its split, and ``dropped.parquet`` with the outlines and granules that are left out and why.  The version is the
digest of the sorted (item id, digest of its files, label revision) and of the settings; the cubes it was cut from
are its upstream, so ``gc`` keeps them as long as the set is kept, and :func:`rebuild` makes the same tiles again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import polars as pl

from geostack_pipeline.errors import ArtifactNotFoundError, GeostackError, IntegrityError
from geostack_pipeline.learning.labels import Joined, Member
from geostack_pipeline.settings import LearningSettings
from geostack_pipeline.stages import training_tiles
from geostack_pipeline.stages.progress import Event, emit
from geostack_pipeline.stages.tables import parquet_bytes
from geostack_pipeline.stages.training_inventory import Inventory, inventory, joined, providers
from geostack_pipeline.stages.training_members import MEMBERS_SCHEMA, of_place, stored_members, unchanged
from geostack_pipeline.stages.workspace import Check, Outcome, Workspace
from geostack_pipeline.storage.digest import version_of
from geostack_pipeline.storage.snapshot import Snapshot

__all__ = ["build", "checks", "labelled_now", "members_of", "problem", "providers", "rebuild"]

NAME = "training_set"
PARTITION = "all"
CODE_VERSION = "2"
TREE = "tree.zarr"


def labelled_now(ws: Workspace) -> set[tuple[str, str]]:
    """Return (item id, label revision) of every stored granule with usable outlines.

    Cheap enough for a sensor: one small read per date; what a cube's version holds is remembered by the process.
    """
    return {
        (member.granule.item_id, member.label_revision)
        for member in joined(ws, inventory(ws)).members
        if member.state == "labelled"
    }


def members_of(snapshot: Snapshot) -> set[tuple[str, str]]:
    """Return (item id, label revision) of the labelled granules of a training set, or of a champion's."""
    return {(str(item), str(revision)) for item, revision in snapshot.meta["labelled"]}


def recipe(own: LearningSettings) -> dict[str, Any]:
    """Return the settings that decide what a training set holds."""
    return {
        "code": CODE_VERSION,
        "product": own.product_version,
        "tile": own.tile,
        "overlap": own.overlap,
        "ring": own.ring_pixels,
        "cells": [own.site_degrees, own.test_share, own.validation_share],
    }


def content_version(own: LearningSettings, members: Sequence[Member]) -> str:
    """Return the version that granules, files and label revisions lead to."""
    return version_of(
        {
            **recipe(own),
            "members": sorted(
                [each.granule.item_id, each.granule.digest, each.label_revision] for each in members
            ),
        }
    )


def build(ws: Workspace, *, now: datetime | None = None) -> Outcome:
    """Cut the tiles of all that is known now.

    Args:
        now: Moment at which review windows are judged; the present one when not given.

    Raises:
        GeostackError: No provider of EMIT's methane products is configured.
    """
    if not providers(ws.settings):
        raise GeostackError(
            "no provider of EMIT's methane products is configured",
            subject=NAME,
            found=", ".join(ws.settings.providers) or "no provider",
            action="add cmr_stac or earthaccess under `providers:`",
        )
    own = ws.settings.learning
    stored = inventory(ws)
    found = joined(ws, stored, now=now)
    taught = [each for each in found.members if each.state in {"labelled", "weak_negative"}]
    target = content_version(own, taught)
    snapshot = ws.artifacts.find(NAME, PARTITION, target)
    reused = snapshot is not None
    stats: dict[str, Any] = {}
    if snapshot is None:
        snapshot, stats = _write(ws, target, taught, _drops(ws, stored, found), stored.cubes)
    ws.artifacts.point(snapshot, run_id=ws.run_id)
    return Outcome(snapshot=snapshot, reused=reused, checks=checks(snapshot), stats=stats)


def _drops(ws: Workspace, stored: Inventory, found: Joined) -> list[dict[str, str]]:
    """Return everything that is left out, with the reason."""
    wanted = ws.settings.learning.product_version
    rows = [
        {
            "item_id": each.item_id,
            "reason": "product_version",
            "detail": f"{each.version}, wanted is {wanted}",
        }
        for each in (*stored.granules, *stored.labels)
        if each.version != wanted
    ]
    rows += [
        {
            "item_id": item_id,
            "reason": "label_without_granule" if why == "no granule" else "label_unreadable",
            "detail": why,
        }
        for item_id, why in found.strays.items()
    ]
    for each in found.members:
        problems = [f"{label.item_id}: {label.problem}" for label in each.labels if label.problem is not None]
        if each.state == "unlabelled":
            rows.append(
                {
                    "item_id": each.granule.item_id,
                    "reason": "unlabelled",
                    "detail": f"no outline yet, and its review window of {ws.settings.learning.review_days} days is open",
                }
            )
        elif each.state == "unusable":
            rows.append(
                {"item_id": each.granule.item_id, "reason": "label_unreadable", "detail": "; ".join(problems)}
            )
    return sorted(rows, key=lambda row: (row["item_id"], row["reason"]))


DROPPED_SCHEMA: Mapping[str, Any] = {"item_id": pl.String, "reason": pl.String, "detail": pl.String}


def _write(
    ws: Workspace,
    target: str,
    taught: Sequence[Member],
    drops: list[dict[str, str]],
    cubes: Mapping[tuple[str, str], Snapshot],
) -> tuple[Snapshot, dict[str, Any]]:
    """Write a training set; return it and how many granules were cut.

    A granule whose files and outlines are those of the set before is taken over from there, not cut again.
    """
    from geostack_pipeline.cube.write import finish_tree, write_node

    own = ws.settings.learning
    labels = {label.item_id: label for member in taught for label in member.labels}
    used = {(each.granule.provider, each.granule.day) for each in taught}
    used |= {(label.provider, label.day) for label in labels.values()}
    upstream = {f"{cubes[key].asset}/{key[1]}": cubes[key].version for key in sorted(used)}
    previous = ws.stored(NAME, PARTITION)
    before = _rows(previous, recipe(own))
    rows: list[dict[str, Any]] = []
    taken: dict[str, str] = {}
    cut = 0
    with ws.artifacts.begin(
        NAME, PARTITION, target, kind="tree", code_version=CODE_VERSION, upstream=upstream
    ) as attempt:
        zarr = attempt.zarr_store(TREE)
        for number, member in enumerate(taught, start=1):
            place = of_place(member, cubes)
            row = before.get(member.granule.item_id)
            if row is not None and unchanged(place, row):
                if row["tiles_sha256"] is not None:
                    taken[f"{TREE}/{row['node']}"] = f"{TREE}/{member.granule.node}"
                row = {**row, **place}
            else:
                row, node = training_tiles.member_tiles(own, member, cubes)
                cut += 1
                if node is not None:
                    write_node(zarr, member.granule.node, node, chunks=training_tiles.chunks(node))
            if row["tiles_sha256"] is None and row["split"] != "test":
                drops.append(_without_tiles(row))
            rows.append(row)
            if number % 10 == 0 or number == len(taught):
                info = {"granules": number, "of": len(taught)}
                emit(Event(provider="", stage=NAME, day=PARTITION, status="moved", info=info))
        if previous is not None:
            attempt.reference_all(previous, taken)
        finish_tree(zarr, {"tile": own.tile, "overlap": own.overlap})
        table = pl.DataFrame(rows, schema=MEMBERS_SCHEMA)
        attempt.put("members.parquet", parquet_bytes(table))
        dropped = pl.DataFrame(drops, schema=DROPPED_SCHEMA).sort("item_id", "reason", "detail")
        attempt.put("dropped.parquet", parquet_bytes(dropped))
        blobs = sorted({blob for label in labels.values() for blob in label.blobs})
        snapshot = attempt.commit(meta=_meta(own, taught, table, drops), blobs=blobs)
    return snapshot, {"computed": cut, "taken_over": len(rows) - cut}


def _rows(previous: Snapshot | None, wanted: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the rows of an earlier set by item, if it was cut by the same recipe."""
    if previous is None or previous.meta["recipe"] != wanted:
        return {}
    return {row["item_id"]: row for row in previous.open("members").iter_rows(named=True)}


def _without_tiles(row: Mapping[str, Any]) -> dict[str, str]:
    """Return why a granule for learning gave no tile."""
    if row["split"] is None:
        why = "between_splits", "its place straddles cells for learning and for the test"
    else:
        why = "no_tile", "no tile of it has valid pixels within one split"
    return {"item_id": row["item_id"], "reason": why[0], "detail": why[1]}


def _meta(
    own: LearningSettings, taught: Sequence[Member], table: pl.DataFrame, drops: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    # All tiles of a granule for learning share one split, so its pixels are all to train on, or none of them.
    trained = table.filter(pl.col("tiles_train") > 0)
    return {
        "rows": table.height,
        "recipe": recipe(own),
        "labelled": sorted(
            [each.granule.item_id, each.label_revision] for each in taught if each.state == "labelled"
        ),
        "weak_negatives": int((table["state"] == "weak_negative").sum()),
        "tiles_train": int(table["tiles_train"].sum()),
        "tiles_validation": int(table["tiles_validation"].sum()),
        "plume_pixels": int(trained["plume_pixels"].sum()),
        "background_pixels": int(trained["background_pixels"].sum()),
        "test_granules": int((table["split"] == "test").sum()),
        "test_granules_with_plumes": table.filter(
            (pl.col("split") == "test") & (pl.col("state") == "labelled")
        ).height,
        "dropped": len(drops),
    }


def checks(snapshot: Snapshot) -> tuple[Check, ...]:
    """Judge a training set: whether something can be learnt from it, and tested."""
    meta = snapshot.meta
    learnable = problem(snapshot) is None
    return (
        Check(
            name="trainable",
            passed=learnable,
            detail={
                "tiles": meta["tiles_train"],
                "plume pixels to train on": meta["plume_pixels"],
                "background pixels to train on": meta["background_pixels"],
                "labelled granules": len(meta["labelled"]),
                "what is missing": problem(snapshot) or "nothing",
            },
        ),
        Check(
            name="testable",
            passed=meta["test_granules_with_plumes"] > 0,
            detail={
                "granules of the test set": meta["test_granules"],
                "with plumes": meta["test_granules_with_plumes"],
            },
        ),
    )


def problem(snapshot: Snapshot) -> str | None:
    """Return why nothing can be learnt from a training set; None where something can."""
    meta = snapshot.meta
    if not meta["labelled"] and not meta["weak_negatives"]:
        return "no granule has outlines yet, and no review window has ended"
    if not meta["labelled"]:
        return "no granule has an outline: all are weak negatives"
    if not meta["tiles_train"]:
        return "no tile lies in a cell for learning: all granules are for the test or between the splits"
    if not meta["plume_pixels"]:
        return "no pixel of the tiles to train on is plume"
    if not meta["background_pixels"]:
        return "every pixel of the tiles to train on is plume or ignored"
    return None


def rebuild(ws: Workspace, version: str) -> list[str]:
    """Cut a stored training set anew from its pinned cubes; return the granules whose tiles came out differently.

    Raises:
        ArtifactNotFoundError: The training set or one of its cubes is not stored.
        IntegrityError: It was cut by another release.
    """
    snapshot = ws.artifacts.find(NAME, PARTITION, version)
    if snapshot is None:
        raise ArtifactNotFoundError(
            "no such training set is stored",
            subject=f"{NAME} {version}",
            found=", ".join(ws.artifacts.versions(NAME, PARTITION)) or "none",
            action="choose one of these",
        )
    made = snapshot.meta["recipe"]
    if made["code"] != CODE_VERSION:
        raise IntegrityError(
            "the training set was cut by another release",
            subject=f"{NAME} {version}",
            found=f"code version {made['code']}, this one is {CODE_VERSION}",
            action="read its stored tiles, or use the release that cut it",
        )
    cells = dict(zip(("site_degrees", "test_share", "validation_share"), made["cells"], strict=True))
    own = ws.settings.learning.model_copy(
        update={"tile": made["tile"], "overlap": made["overlap"], "ring_pixels": made["ring"], **cells}
    )
    table = snapshot.open("members")
    expected = dict(zip(table["item_id"], table["tiles_sha256"], strict=True))
    differing = []
    for member, cubes in stored_members(ws, snapshot):
        row, _ = training_tiles.member_tiles(own, member, cubes)
        if row["tiles_sha256"] != expected[member.granule.item_id]:
            differing.append(member.granule.item_id)
    return differing
