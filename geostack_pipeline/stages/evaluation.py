"""Evaluation: the candidate, the champion and the blurred matched filter on the whole granules of the test set.

The test granules are those of the candidate's training set: places that no model ever learnt from.  All methods see the
same granules in one go; the verdict of the gate is part of the artifact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from geostack_pipeline.errors import ArtifactNotFoundError
from geostack_pipeline.stages import candidate_model, training_set
from geostack_pipeline.stages.compiling import prepare_kernels
from geostack_pipeline.stages.tables import parquet_bytes
from geostack_pipeline.stages.workspace import Check, Outcome, Workspace
from geostack_pipeline.storage.digest import version_of
from geostack_pipeline.storage.snapshot import Snapshot

if TYPE_CHECKING:
    from geostack_pipeline.learning.judging import Method, Result

NAME = "evaluation"
PARTITION = "all"
CODE_VERSION = "1"
CHAMPION = "champion_model"


def version(ws: Workspace, candidate: Snapshot, champion: Snapshot | None) -> str:
    """Return the version that a candidate and the champion of the moment lead to."""
    own = ws.settings.learning
    return version_of(
        {
            "code": CODE_VERSION,
            "candidate": candidate.version,
            "training_set": candidate.meta["training_set"],
            "champion": None if champion is None else champion.version,
            "bootstrap": own.bootstrap,
        }
    )


def build(ws: Workspace, candidate: Snapshot | None = None) -> Outcome:
    """Judge a candidate, the current one when none is given.

    Raises:
        ArtifactNotFoundError: There is no candidate, or its training set is gone.
        IntegrityError: The weights of a model are not of its architecture.
    """
    candidate = candidate or ws.current(candidate_model.NAME, candidate_model.PARTITION)
    if candidate is None:
        raise ArtifactNotFoundError(
            "no candidate is stored",
            subject=candidate_model.NAME,
            action=f"materialise {candidate_model.NAME} first",
        )
    champion = ws.current(CHAMPION, PARTITION)
    target = version(ws, candidate, champion)
    snapshot = ws.artifacts.find(NAME, PARTITION, target)
    reused = snapshot is not None
    if snapshot is None:
        snapshot = _write(ws, candidate, champion, target)
    ws.artifacts.point(snapshot, run_id=ws.run_id)
    return Outcome(snapshot=snapshot, reused=reused, checks=checks(snapshot))


def training_set_of(ws: Workspace, model: Snapshot) -> Snapshot:
    """Return the training set that a model learnt from."""
    wanted = str(model.meta["training_set"])
    snapshot = ws.artifacts.find(training_set.NAME, training_set.PARTITION, wanted)
    if snapshot is None:
        raise ArtifactNotFoundError(
            "the training set of a model is not stored any more",
            subject=f"{model.asset} {model.version}",
            found=f"no {training_set.NAME} {wanted}",
            action="train again",
        )
    return snapshot


def _write(ws: Workspace, candidate: Snapshot, champion: Snapshot | None, target: str) -> Snapshot:
    from geostack_pipeline.learning.gate import verdict
    from geostack_pipeline.learning.judging import BASELINE, baseline, difference, interval_of, judge
    from geostack_pipeline.publish.learning_figures import precision_recall

    prepare_kernels(ws)
    own = ws.settings.learning
    source = training_set_of(ws, candidate)
    methods = [_method("candidate", candidate), baseline(candidate.meta["baseline_threshold"])]
    upstream = {
        f"{candidate.asset}/{PARTITION}": candidate.version,
        f"{source.asset}/{PARTITION}": source.version,
    }
    if champion is not None:
        upstream[f"{champion.asset}/{PARTITION}"] = champion.version
        methods.append(_method("champion", champion))
    with ws.artifacts.begin(
        NAME, PARTITION, target, kind="table", code_version=CODE_VERSION, upstream=upstream
    ) as attempt:
        results = judge(methods, candidate_model.granules_of(ws, source, ["test"]), seed=own.seed)
        mine = results["candidate"]
        paired = {
            name: difference(mine, other, count=own.bootstrap, seed=own.seed)
            for name, other in results.items()
            if name != "candidate" and mine.item_ids
        }
        reference = "champion" if champion is not None else BASELINE
        said = (
            _nothing(reference)
            if not mine.item_ids
            else verdict(mine, results[reference], paired[reference]).as_dict()
        )
        meta: dict[str, Any] = {
            "rows": len(mine.item_ids),
            "candidate": candidate.version,
            "champion": None if champion is None else champion.version,
            "training_set": source.version,
            "results": {
                name: {
                    **result.as_dict(),
                    "intervals": {
                        key: value.as_dict()
                        for key, value in interval_of(result, count=own.bootstrap, seed=own.seed).items()
                    }
                    if result.item_ids
                    else {},
                }
                for name, result in results.items()
            },
            "differences": {name: each.as_dict() for name, each in paired.items()},
            "verdict": said,
        }
        attempt.put("evaluation.parquet", parquet_bytes(_table(results)))
        attempt.put("report.json", json.dumps(meta, indent=1).encode())
        curves = {name: result.curve for name, result in results.items()}
        bins = meta["results"]["candidate"]["reliability"]
        attempt.put(
            "quicklook-curves.png", precision_recall(curves, bins, f"{len(mine.item_ids)} test granules")
        )
        return attempt.commit(meta=meta)


def _method(name: str, snapshot: Snapshot) -> Method:
    from geostack_pipeline.learning.judging import Method

    model = candidate_model.load(snapshot)
    return Method(name=name, score=model.probabilities, threshold=model.threshold)


def _nothing(reference: str) -> dict[str, Any]:
    """Return the verdict where there is nothing to judge on."""
    detail = {"granules": 0, "reason": "no granule lies in a cell of the test set"}
    return {
        "against": reference,
        "promoted": False,
        "criteria": [{"name": "auprc_better", "passed": False, "detail": detail}],
    }


def _table(results: Mapping[str, Result]) -> pl.DataFrame:
    """Return one row per granule and method."""
    rows = [
        {
            "method": name,
            "item_id": item_id,
            "plumes": len(counts.found),
            "found": int(counts.found.sum()),
            "candidates": counts.matched + counts.false,
            "false": counts.false,
        }
        for name, result in results.items()
        for item_id, counts in zip(result.item_ids, result.counts, strict=True)
    ]
    schema = {
        "method": pl.String,
        "item_id": pl.String,
        "plumes": pl.Int64,
        "found": pl.Int64,
        "candidates": pl.Int64,
        "false": pl.Int64,
    }
    return pl.DataFrame(rows, schema=schema)


def checks(snapshot: Snapshot) -> tuple[Check, ...]:
    """Judge the judgement: whether there was enough to judge on."""
    mine = snapshot.meta["results"]["candidate"]
    return (
        Check(
            name="enough_test_granules",
            passed=mine["granules"] >= TRUSTED_FROM and mine["plumes"] > 0,
            detail={
                "granules": mine["granules"],
                "plumes": mine["plumes"],
                "wanted granules": TRUSTED_FROM,
            },
        ),
    )


TRUSTED_FROM = 20
"""Below so many granules chance decides the bootstrap."""
