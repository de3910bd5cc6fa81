"""Puts the graph together for the providers that the settings name."""

from __future__ import annotations

import warnings

import dagster as dg

from geostack_pipeline.orchestration.assets import partitions, plumes_asset, provider_assets, published_asset
from geostack_pipeline.orchestration.automation import sensors, with_freshness
from geostack_pipeline.orchestration.io_managers import ModelIOManager, TableIOManager, TreeIOManager
from geostack_pipeline.orchestration.jobs import provider_job, provider_schedule
from geostack_pipeline.orchestration.learning_assets import learning_assets
from geostack_pipeline.orchestration.learning_job import label_state, retrain_job
from geostack_pipeline.orchestration.resources import WindResource, WorkspaceResource, provider_resource
from geostack_pipeline.orchestration.sensors import new_labels_sensor
from geostack_pipeline.settings import Settings
from geostack_pipeline.stages import training_set


def build_definitions(settings: Settings, settings_file: str = "") -> dg.Definitions:
    """Return assets, jobs, schedules and resources.

    Args:
        settings: Decides which providers and partitions there are.
        settings_file: File that resources read at run time; empty takes the environment's or the working folder's.
    """
    days = partitions(settings.start_date, settings.end_date)
    keys = list(settings.providers)
    products = {key: settings.provider_spec(key).product for key in keys}
    jobs = {key: provider_job(key, products[key]) for key in keys}
    with warnings.catch_warnings():
        # Backfill policies are beta, partitions of checks a preview; the constraints file pins the Dagster that both
        # were tested with.
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        judged = training_set.providers(settings) if settings.learning.enabled else ()
        assets = [
            asset for key in keys for asset in provider_assets(key, days, products[key], judged=key in judged)
        ]
        detecting = [key for key in keys if products[key].methane]
        if detecting:
            assets += [plumes_asset(detecting, days), published_asset(detecting, days)]
        training = learning_assets(settings)
    retrain = retrain_job() if training else None
    return dg.Definitions(
        # The learning loop runs when there are labels, not every day.
        assets=[*with_freshness(assets, settings), *training],
        jobs=[*jobs.values(), *([] if retrain is None else [retrain])],
        schedules=[provider_schedule(key, job, settings) for key, job in jobs.items()],
        sensors=[
            *sensors(settings, jobs),
            *([] if retrain is None else [new_labels_sensor(retrain, settings, label_state)]),
        ],
        resources={
            "workspace": WorkspaceResource(settings_file=settings_file),
            "wind": WindResource(settings_file=settings_file),
            "tables": TableIOManager(settings_file=settings_file),
            "trees": TreeIOManager(settings_file=settings_file),
            "models": ModelIOManager(settings_file=settings_file),
            # Anything that names no manager stores tables: nothing may end in Dagster's pickles.
            "io_manager": TableIOManager(settings_file=settings_file),
            **{key: provider_resource(settings, key, settings_file) for key in keys},
        },
        executor=dg.in_process_executor,
    )
