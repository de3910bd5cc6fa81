"""Evaluation: the candidate, the champion and the blurred matched filter on the whole granules of the test set.

The test granules are those of the candidate's training set: places that no model of these splits ever learnt from.  All
methods see the same granules in one go; the verdict of the gate is part of the artifact.  A champion that learnt from
another product version, or under other splits, cannot be judged on them: it counts as none, and the verdict says why.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
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
CODE_VERSION = "4"
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
            "min_test_granules": own.min_test_granules,
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


def not_comparable(ws: Workspace, source: Snapshot, champion: Snapshot) -> str | None:
    """Return why a champion cannot be judged on the test granules of a training set; None where it can.

    A hash decides of every cell whether it is for the test, so under cells of another size, or another share of them, the
    champion may have learnt from these very granules.
    """
    learnt = ws.artifacts.find(training_set.NAME, training_set.PARTITION, str(champion.meta["training_set"]))
    if learnt is None:
        return "the training set that it learnt from is not stored any more"
    mine, theirs = source.meta["recipe"], learnt.meta["recipe"]
    if theirs["product"] != mine["product"]:
        return f"it learnt from product version {theirs['product']}, the test is of {mine['product']}"
    (degrees, share, _), (now_degrees, now_share, _) = theirs["cells"], mine["cells"]
    if (degrees, share) != (now_degrees, now_share):
        return (
            "it may have learnt from places of this test: its site_degrees and test_share were "
            f"{degrees:g} and {share:g}, now they are {now_degrees:g} and {now_share:g}"
        )
    return None


def _write(ws: Workspace, candidate: Snapshot, champion: Snapshot | None, target: str) -> Snapshot:
    from geostack_pipeline.learning.gate import verdict
    from geostack_pipeline.learning.judging import BASELINE, LEVELS, baseline, difference, interval_of, judge
    from geostack_pipeline.publish.learning_figures import precision_recall

    prepare_kernels(ws)
    own = ws.settings.learning
    source = training_set_of(ws, candidate)
    methods = [_method("candidate", candidate, LEVELS), baseline(candidate.meta["baseline_threshold"])]
    upstream = {
        f"{candidate.asset}/{PARTITION}": candidate.version,
        f"{source.asset}/{PARTITION}": source.version,
    }
    left_out: str | None = None
    if champion is not None:
        upstream[f"{champion.asset}/{PARTITION}"] = champion.version
        left_out = not_comparable(ws, source, champion)
        if left_out is None:
            methods.append(_method("champion", champion))
    with ws.artifacts.begin(
        NAME, PARTITION, target, kind="table", code_version=CODE_VERSION, upstream=upstream
    ) as attempt:
        results = judge(
            methods,
            partial(candidate_model.granules_of, ws, source, ["test"]),
            seed=own.seed,
            folder=candidate_model.scratch_folder(ws),
        )
        mine = results["candidate"]
        paired = {
            name: difference(mine, other, count=own.bootstrap, seed=own.seed)
            for name, other in results.items()
            if name != "candidate" and mine.item_ids
        }
        reference = "champion" if "champion" in results else BASELINE
        said = (
            _nothing(reference)
            if not mine.item_ids
            else verdict(mine, results[reference], paired[reference], fewest=own.min_test_granules).as_dict()
        )
        meta: dict[str, Any] = {
            "rows": len(mine.item_ids),
            "candidate": candidate.version,
            "champion": None if champion is None else champion.version,
            "champion_left_out": left_out,
            "min_test_granules": own.min_test_granules,
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


def _method(name: str, snapshot: Snapshot, levels: tuple[float, ...] = ()) -> Method:
    from geostack_pipeline.learning.judging import Method

    model = candidate_model.load(snapshot)
    return Method(name=name, score=model.probabilities, threshold=model.threshold, levels=levels)


def _nothing(reference: str) -> dict[str, Any]:
    """Return the verdict where there is nothing to judge on."""
    detail = {"granules": 0, "reason": "no granule lies in a cell of the test set"}
    return {
        "against": reference,
        "promoted": False,
        "criteria": [{"name": "auprc_better", "passed": False, "detail": detail}],
    }


def _table(results: Mapping[str, Result]) -> pl.DataFrame:
    """Return one row per granule and method; what was injected is null where no plume was laid into the granule."""
    rows = []
    for name, result in results.items():
        injected = {each.item_id: each for each in result.injected}
        for item_id, counts in zip(result.item_ids, result.counts, strict=True):
            planted = injected.get(item_id)
            rows.append(
                {
                    "method": name,
                    "item_id": item_id,
                    "plumes": len(counts.found),
                    "found": int(counts.found.sum()),
                    "candidates": counts.matched + counts.false,
                    "false": counts.false,
                    "injected_kg_h": planted and planted.rate_kg_h,
                    "injected_beside_outlines": planted and planted.beside_outlines,
                    "injected_found": planted and planted.found,
                }
            )
    schema = {
        "method": pl.String,
        "item_id": pl.String,
        "plumes": pl.Int64,
        "found": pl.Int64,
        "candidates": pl.Int64,
        "false": pl.Int64,
        "injected_kg_h": pl.Float64,
        "injected_beside_outlines": pl.Boolean,
        "injected_found": pl.Boolean,
    }
    return pl.DataFrame(rows, schema=schema)


def checks(snapshot: Snapshot) -> tuple[Check, ...]:
    """Judge the judgement: whether there was enough to judge on."""
    mine, fewest = snapshot.meta["results"]["candidate"], snapshot.meta["min_test_granules"]
    return (
        Check(
            name="enough_test_granules",
            passed=mine["granules"] >= fewest and mine["plumes"] > 0,
            detail={
                "granules": mine["granules"],
                "plumes": mine["plumes"],
                "wanted granules": fewest,
            },
        ),
    )
