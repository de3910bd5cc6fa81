"""Champion: the model that the daily inference uses.

A candidate becomes the champion when the evaluation's verdict says so; otherwise the champion stays, and the refusal
with its numbers is the result of the check ``promotion_gate``.  Every champion is pinned with all it was made from, so
:func:`rollback` always works and any of them can be reproduced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from geostack_pipeline.errors import ArtifactNotFoundError, GeostackError, StorageError
from geostack_pipeline.stages import candidate_model, evaluation
from geostack_pipeline.stages.workspace import Check, Outcome, Workspace
from geostack_pipeline.storage.pins import pin
from geostack_pipeline.storage.snapshot import Snapshot

NAME = "champion_model"
PARTITION = "all"
CODE_VERSION = "3"


def champion(ws: Workspace) -> Snapshot | None:
    """Return the model in use, None where none was promoted yet.  Two small reads.

    Its ``meta`` tells ``training_set`` (the version it learnt from) and ``labelled`` ([item id, label revision] of
    the labelled granules in it, see :func:`~geostack_pipeline.stages.training_set.members_of`).
    """
    return ws.current(NAME, PARTITION)


def build(ws: Workspace, judged: Snapshot | None = None) -> Outcome | None:
    """Promote the candidate of an evaluation (the current one when none is given), or keep the champion.

    Returns:
        The champion, new or not, with the check ``promotion_gate``; None where the very first candidate was refused.

    Raises:
        ArtifactNotFoundError: There is no evaluation.
        GeostackError: The champion changed since the evaluation.
    """
    judged = judged or ws.current(evaluation.NAME, evaluation.PARTITION)
    if judged is None:
        raise ArtifactNotFoundError(
            "no evaluation is stored", subject=evaluation.NAME, action=f"materialise {evaluation.NAME} first"
        )
    before = ws.artifacts.pointer(NAME, PARTITION)
    wanted = str(judged.meta["candidate"])
    now = None if before is None else before.version
    if now == wanted:
        # This evaluation, or an earlier one, promoted it already.
        snapshot = ws.current(NAME, PARTITION)
        assert snapshot is not None
        return Outcome(snapshot=snapshot, reused=True, checks=(gate_check(judged),))
    if judged.meta["champion"] != now:
        raise GeostackError(
            "the champion changed since the evaluation",
            subject=f"{evaluation.NAME} {judged.version}",
            found=f"judged against {judged.meta['champion'] or 'no champion'}, now it is {now or 'none'}",
            action=f"materialise {evaluation.NAME} again",
        )
    if not judged.meta["verdict"]["promoted"]:
        snapshot = ws.current(NAME, PARTITION)
        if snapshot is None:
            return None
        return Outcome(snapshot=snapshot, reused=True, checks=(gate_check(judged),))
    snapshot = ws.artifacts.find(NAME, PARTITION, wanted)
    reused = snapshot is not None
    if snapshot is None:
        snapshot = _write(ws, judged, wanted)
    _keep(ws, snapshot)
    if not ws.artifacts.replace(snapshot, before, run_id=ws.run_id):
        raise StorageError(
            "another run changed the champion meanwhile",
            subject=f"{NAME} {snapshot.version}",
            action=f"materialise {evaluation.NAME} again",
            retryable=True,
        )
    return Outcome(snapshot=snapshot, reused=reused, checks=(gate_check(judged),))


def gate_check(judged: Snapshot) -> Check:
    """Return the verdict of an evaluation as a check with its numbers."""
    said: Mapping[str, Any] = judged.meta["verdict"]
    detail: dict[str, Any] = {"candidate": judged.meta["candidate"], "against": said["against"]}
    left_out = judged.meta.get("champion_left_out")
    if left_out is not None:
        detail["champion_left_out"] = f"{judged.meta['champion']}: {left_out}"
    for each in said["criteria"]:
        numbers = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in each["detail"].items()
        )
        detail[each["name"]] = f"{'passed' if each['passed'] else 'NOT passed'}: {numbers}"
    return Check(name="promotion_gate", passed=bool(said["promoted"]), detail=detail)


def _keep(ws: Workspace, snapshot: Snapshot) -> None:
    pin(
        ws.artifacts.root,
        f"champion-{snapshot.version}",
        asset=NAME,
        partition=PARTITION,
        version=snapshot.version,
        reason="was promoted: rolling back to it must work",
    )


def _write(ws: Workspace, judged: Snapshot, wanted: str) -> Snapshot:
    from geostack_pipeline.learning.model_card import CARD, CONFIG, ITEM, WEIGHTS, card

    candidate = ws.artifacts.find(candidate_model.NAME, candidate_model.PARTITION, wanted)
    if candidate is None:
        raise ArtifactNotFoundError(
            "the candidate that was judged is not stored any more",
            subject=f"{candidate_model.NAME} {wanted}",
            action="train again",
        )
    source = evaluation.training_set_of(ws, candidate)
    upstream = {
        f"{candidate.asset}/{PARTITION}": candidate.version,
        f"{judged.asset}/{PARTITION}": judged.version,
        f"{source.asset}/{PARTITION}": source.version,
    }
    results = judged.meta["results"]
    with ws.artifacts.begin(
        NAME, PARTITION, wanted, kind="model", code_version=CODE_VERSION, upstream=upstream
    ) as attempt:
        for path in (WEIGHTS, CONFIG, "quicklook-loss.png"):
            attempt.reference(candidate, path)
        item = json.loads(candidate.read(ITEM))
        item["properties"]["geostack:scores"] = {
            name: results["candidate"][name]
            for name in ("auprc", "f1", "false_per_granule", "calibration_error")
        }
        item["properties"]["geostack:evaluation"] = judged.version
        attempt.put(ITEM, json.dumps(item, indent=1).encode())
        text = card(
            version=wanted,
            training_set=source.version,
            meta=candidate_model.card_facts(source, candidate.meta),
            parameters=candidate.meta["parameters"],
            evaluation=judged.meta,
            verdict=judged.meta["verdict"],
        )
        attempt.put(CARD, text.encode())
        return attempt.commit(
            meta={
                **candidate.meta,
                "candidate": wanted,
                "evaluation": judged.version,
                "auprc": results["candidate"]["auprc"],
                "f1": results["candidate"]["f1"],
                "replaced": judged.meta["champion"],
            }
        )


def champions(ws: Workspace) -> list[Snapshot]:
    """Return all models that were ever promoted, the oldest first."""
    found = (
        ws.artifacts.find(NAME, PARTITION, version) for version in ws.artifacts.versions(NAME, PARTITION)
    )
    return [snapshot for snapshot in found if snapshot is not None]


def rollback(ws: Workspace, version: str) -> Snapshot:
    """Make an earlier champion the one in use; dates are brought up to date by their next run.

    Args:
        ws: The stores.
        version: Version, or the beginning of one that only one champion has.

    Raises:
        ArtifactNotFoundError: No champion, or several, have such a version.
        IntegrityError: Its weights are damaged.
    """
    there = champions(ws)
    chosen = [snapshot for snapshot in there if snapshot.version.startswith(version)]
    if len(chosen) != 1 or not version:
        raise ArtifactNotFoundError(
            "no champion has this version" if not chosen else "several champions begin like this",
            subject=f"{NAME} {version}",
            found=", ".join(snapshot.version for snapshot in chosen or there) or "no champion at all",
            action="choose one that `geostack model list` shows",
        )
    candidate_model.load(chosen[0])
    ws.artifacts.point(chosen[0], run_id=ws.run_id)
    return chosen[0]
