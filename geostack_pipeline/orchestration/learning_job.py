"""The job that trains a candidate on what is stored and lets it meet the champion."""

from __future__ import annotations

from datetime import datetime

import dagster as dg

from geostack_pipeline.orchestration.sensors import RETRAIN, RETRAIN_TAG
from geostack_pipeline.stages import candidate_model, champion_model, evaluation, training_set
from geostack_pipeline.stages.retraining import Known
from geostack_pipeline.stages.workspace import Workspace

STAGES = (training_set.NAME, candidate_model.NAME, evaluation.NAME, champion_model.NAME)


def retrain_job() -> dg.UnresolvedAssetJobDefinition:
    """Return the job."""
    return dg.define_asset_job(
        name=RETRAIN,
        selection=dg.AssetSelection.assets(*([name] for name in STAGES)),
        description="Cuts the training set, trains a candidate, evaluates it and promotes it, or says why not.",
        tags=dict([RETRAIN_TAG]),
        executor_def=dg.in_process_executor,
    )


def label_state(ws: Workspace) -> Known:
    """Return the labels that are stored, and those that the champion and the last candidate learnt from."""
    champion = champion_model.champion(ws)
    judged = ws.stored(evaluation.NAME, evaluation.PARTITION)
    candidate = (
        None
        if judged is None
        else ws.artifacts.find(candidate_model.NAME, candidate_model.PARTITION, str(judged.meta["candidate"]))
    )
    return Known(
        labelled=training_set.labelled_now(ws),
        champion=None if champion is None else training_set.members_of(champion),
        trained_at=None if champion is None else datetime.fromisoformat(champion.completed_at),
        judged=None if candidate is None else training_set.members_of(candidate),
        judged_at=None if judged is None else datetime.fromisoformat(judged.completed_at),
    )
