"""The job that trains a candidate on what is stored and lets it meet the champion."""

from __future__ import annotations

import dagster as dg

from geostack_pipeline.stages import candidate_model, champion_model, evaluation, training_set

RETRAIN = "retrain"
"""Name of the job, and of the pool that keeps two trainings apart."""
STAGES = (training_set.NAME, candidate_model.NAME, evaluation.NAME, champion_model.NAME)


def retrain_job() -> dg.UnresolvedAssetJobDefinition:
    """Return the job."""
    return dg.define_asset_job(
        name=RETRAIN,
        selection=dg.AssetSelection.assets(*([name] for name in STAGES)),
        description="Cuts the training set, trains a candidate, evaluates it and promotes it, or says why not.",
        tags={"geostack/job": RETRAIN},
        executor_def=dg.in_process_executor,
    )
