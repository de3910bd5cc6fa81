"""The trail of a model in both directions: item versions -> training set -> model -> methane of a date."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from geostack_pipeline.errors import ArtifactNotFoundError
from geostack_pipeline.stages import candidate_model, champion_model, evaluation, methane, training_set
from geostack_pipeline.stages.workspace import Workspace, asset_name
from geostack_pipeline.storage.snapshot import Snapshot


def models(ws: Workspace) -> list[dict[str, Any]]:
    """Return one row per model that was ever promoted, the oldest first."""
    now = ws.artifacts.pointer(champion_model.NAME, champion_model.PARTITION)
    return [
        {
            "version": each.version,
            "current": now is not None and now.version == each.version,
            "promoted": each.completed_at,
            "training_set": each.meta["training_set"],
            "labelled": len(each.meta["labelled"]),
            "auprc": each.meta["auprc"],
            "f1": each.meta["f1"],
            "replaced": each.meta["replaced"],
        }
        for each in champion_model.champions(ws)
    ]


def refusals(ws: Workspace) -> list[dict[str, Any]]:
    """Return one row per evaluation whose candidate was refused, with the criteria that did not hold."""
    rows = []
    for version in ws.artifacts.versions(evaluation.NAME, evaluation.PARTITION):
        judged = ws.artifacts.find(evaluation.NAME, evaluation.PARTITION, version)
        if judged is None or judged.meta["verdict"]["promoted"]:
            continue
        against = judged.meta["verdict"]["against"]
        failed = [each["name"] for each in judged.meta["verdict"]["criteria"] if not each["passed"]]
        rows.append(
            {
                "candidate": judged.meta["candidate"],
                "against": judged.meta["champion"] if against == "champion" else against,
                "judged": judged.completed_at,
                "failed": ", ".join(failed),
            }
        )
    return rows


def back(ws: Workspace, version: str | None = None) -> dict[str, Any]:
    """Return what a champion was made from, down to the items and label revisions.

    Args:
        ws: The stores.
        version: Version of a champion or the beginning of one; the current one when not given.
    """
    model = _model(ws, version)
    source = evaluation.training_set_of(ws, model)
    table = source.open("members")
    return {
        "model": model.version,
        "name": model.meta["model"],
        "evaluation": model.meta["evaluation"],
        "training_set": source.version,
        "cubes": dict(source.upstream),
        "items": [
            {
                "item_id": row["item_id"],
                "digest": row["digest"],
                "state": row["state"],
                "label_revision": row["label_revision"],
                "labels": row["labels"],
                "split": row["split"],
                "cube": f"{row['provider']}/cube/{row['day']} {row['cube']}",
            }
            for row in table.iter_rows(named=True)
        ],
    }


def forth(ws: Workspace, item_id: str) -> dict[str, Any]:
    """Return which training sets and models an item or a label went into, and the methane made with these models."""
    sets = {snapshot.version for snapshot in _all(ws, training_set.NAME) if _holds(snapshot, item_id)}
    candidates = [each for each in _all(ws, candidate_model.NAME) if each.meta["training_set"] in sets]
    known = {each.version for each in candidates}
    promoted = [each.version for each in champion_model.champions(ws) if each.version in known]
    return {
        "item": item_id,
        "training_sets": sorted(sets),
        "candidates": sorted(known),
        "models": promoted,
        "methane": list(inferences(ws, set(promoted))),
    }


def inferences(ws: Workspace, versions: set[str]) -> Iterator[dict[str, Any]]:
    """Yield the current methane of each date that was made with one of these models."""
    name = f"{champion_model.NAME}/{champion_model.PARTITION}"
    for key in training_set.providers(ws.settings):
        asset = asset_name(key, methane.NAME)
        for day in ws.artifacts.partitions(asset):
            snapshot = ws.stored(asset, day)
            used = None if snapshot is None else snapshot.upstream.get(name)
            # The model counts for the version of a date also where no granule of it could be judged.
            if snapshot is not None and used in versions and "model_version" in snapshot.meta:
                yield {
                    "methane": f"{asset}/{day}",
                    "version": snapshot.version,
                    "model": used,
                    "plumes": snapshot.meta.get("plumes"),
                }


def _holds(snapshot: Snapshot, item_id: str) -> bool:
    table = snapshot.open("members")
    return item_id in table["item_id"] or item_id in table["labels"].explode().drop_nulls()


def _all(ws: Workspace, asset: str) -> Iterator[Snapshot]:
    for version in ws.artifacts.versions(asset, "all"):
        snapshot = ws.artifacts.find(asset, "all", version)
        if snapshot is not None:
            yield snapshot


def _model(ws: Workspace, version: str | None) -> Snapshot:
    there = champion_model.champions(ws)
    if version is None:
        current = champion_model.champion(ws)
        chosen = [] if current is None else [current]
    else:
        chosen = [each for each in there if version and each.version.startswith(version)]
    if len(chosen) != 1:
        raise ArtifactNotFoundError(
            "no model was promoted yet" if not there else "no single model has this version",
            subject=f"{champion_model.NAME} {version or ''}".strip(),
            found=", ".join(each.version for each in there) or "no model at all",
            action="choose one that `geostack model list` shows, or run the job `retrain`",
        )
    return chosen[0]
