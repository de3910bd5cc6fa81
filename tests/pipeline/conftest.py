"""Runs of the whole pipeline against the small sandbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from geostack_pipeline.orchestration.build import build_definitions
from geostack_pipeline.orchestration.launch import Launcher, LaunchReport
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages.plan import day_range
from geostack_pipeline.stages.workspace import Workspace, open_workspace

PROVIDER = "earth_search"

Run = Callable[..., tuple[LaunchReport, Workspace]]


@pytest.fixture(scope="session")
def instance() -> Iterator[dg.DagsterInstance]:
    """One instance that forgets everything at the end."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def run(instance: dg.DagsterInstance, small_sandbox: Any) -> Iterator[Run]:
    """Run dates as the command line does; faults that a test switched on end with it."""

    def go(file: Path, first: str, last: str, **options: Any) -> tuple[LaunchReport, Workspace]:
        settings = load_settings(file)
        ws = open_workspace(settings, pins=options.pop("pins", None))
        provider = load_settings(file).build_provider(PROVIDER)
        launcher = Launcher(build_definitions(settings, str(file)), instance, ws, provider)
        return launcher.run(day_range(ws, first, last), **options), ws

    yield go
    small_sandbox.clear_faults()


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait milliseconds, not seconds, between tries."""
    from geostack_pipeline.catalog import retry, search

    quick = retry.RetryPolicy(attempts=3, base_s=0.01, cap_s=0.05)
    monkeypatch.setattr(search, "RetryPolicy", lambda: quick)
