"""Puts together what runs by itself: sensors, and how old an asset may become."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta

import dagster as dg

from geostack_pipeline.orchestration.sensors import failed_runs_sensor, new_granules_sensor
from geostack_pipeline.settings import Settings


def sensors(
    settings: Settings, jobs: Mapping[str, dg.UnresolvedAssetJobDefinition]
) -> list[dg.SensorDefinition]:
    """Return the sensors of the configured providers; ``jobs`` are their daily ones."""
    specs = {key: settings.provider_spec(key) for key in jobs}
    listening = {key: job for key, job in jobs.items() if specs[key].tells_revisions}
    found = [failed_runs_sensor(settings)]
    if listening:
        products = {key: specs[key].product for key in listening}
        found.append(new_granules_sensor(listening, products, settings))
    return found


def with_freshness(
    assets: Sequence[dg.AssetsDefinition], settings: Settings
) -> Sequence[dg.AssetsDefinition]:
    """Return the assets with a policy of how old their newest materialization may be.

    The daily schedule materializes every asset, also where nothing changed.  With an ``end_date`` there is no next day.
    """
    limits = settings.automation.freshness
    if limits is None or settings.end_date is not None:
        return assets
    policy = dg.FreshnessPolicy.time_window(
        fail_window=timedelta(hours=limits.fail_hours), warn_window=timedelta(hours=limits.warn_hours)
    )
    with warnings.catch_warnings():
        # A preview in this Dagster, which the constraints file pins.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        warnings.simplefilter("ignore", dg.BetaWarning)
        return [
            asset.map_asset_specs(lambda spec: dg.apply_freshness_policy(spec, policy)) for asset in assets
        ]
