"""The job that trains a candidate on what is stored and lets it meet the champion."""

from __future__ import annotations

from datetime import datetime

import dagster as dg

from geostack_pipeline.orchestration.sensors import RETRAIN, RETRAIN_TAG
from geostack_pipeline.stages import candidate_model, champion_model, evaluation, training_set
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


def label_state(
    ws: Workspace,
) -> tuple[set[tuple[str, str]], set[tuple[str, str]] | None, datetime | None]:
    """Return the labels that are stored, those that the champion learnt from, and when it was made."""
    champion = champion_model.champion(ws)
    if champion is None:
        return training_set.labelled_now(ws), None, None
    made = datetime.fromisoformat(champion.completed_at)
    return training_set.labelled_now(ws), training_set.members_of(champion), made
