"""One job per provider, and the schedule that ingests it every day."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, timedelta
from typing import Any

import dagster as dg

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.orchestration.assets import StageConfig
from geostack_pipeline.providers.contract import Product
from geostack_pipeline.settings import Settings
from geostack_pipeline.stages.plan import ACROSS, stages_of


def provider_job(key: str, product: Product) -> dg.UnresolvedAssetJobDefinition:
    """Return the job that brings dates of a provider from the catalog to the last of its stages."""
    return dg.define_asset_job(
        name=f"{key}_daily",
        selection=dg.AssetSelection.assets(*_paths(key, product)),
        description=f"{key}: scene list, selection, cached bytes, cube"
        f"{', methane map, the plumes over all providers and what is published of them' if product.methane else ''} of the chosen dates.",
        tags={"geostack/provider": key},
        executor_def=dg.in_process_executor,
    )


def refreshing(key: str, product: Product) -> dict[str, Any]:
    """Return the run configuration of a provider's job that asks frozen lists and cached files again."""
    config = StageConfig(refresh=True).model_dump()
    return {"ops": {"__".join(path): {"config": config} for path in _paths(key, product)}}


def _paths(key: str, product: Product) -> list[list[str]]:
    """Return the parts of the keys of a provider's assets, and of those over all providers that they lead to."""
    across = [[stage] for stage in ACROSS] if product.methane else []
    return [[key, stage] for stage in stages_of(product)] + across


def provider_schedule(
    key: str, job: dg.UnresolvedAssetJobDefinition, settings: Settings
) -> dg.ScheduleDefinition:
    """Return the daily schedule: one run for each of the last days, so that one bad date stops no other.

    The dates within ``refresh_days`` are asked again (late and reprocessed scenes).  A date whose catalog did
    not change costs one search: its versions exist, and every later stage adopts them.
    """
    chosen = settings.provider(key).schedule
    first = settings.start_date

    def ingest(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        tick = context.scheduled_execution_time
        today = tick.astimezone(UTC).date()
        for back in range(settings.refresh_days + 1, 0, -1):
            day = today - timedelta(days=back)
            if day >= first:
                yield dg.RunRequest(
                    run_key=f"{key}/{tick.isoformat()}/{day}",
                    partition_key=day.isoformat(),
                    tags={"geostack/provider": key},
                )

    try:
        return dg.schedule(
            name=f"{key}_daily_ingest",
            job=job,
            cron_schedule=chosen.cron,
            execution_timezone=chosen.timezone,
            default_status=dg.DefaultScheduleStatus.RUNNING
            if settings.automation.running
            else dg.DefaultScheduleStatus.STOPPED,
            description=f"Ingests yesterday and asks again for the {settings.refresh_days} day(s) before.",
        )(ingest)
    except dg.DagsterInvalidDefinitionError as error:
        raise SettingsError(
            "the schedule is no cron expression",
            subject=f"setting providers.{key}.schedule.cron",
            found=repr(chosen.cron),
            action='write five fields, such as "30 4 * * *"',
        ) from error
