"""What Dagster says is out of date, against what the versions say: per date, after whole, unchanged and broken runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import (
    CachingStaleStatusResolver,
    StaleStatus,
    extract_data_version_from_entry,
)
from dagster._core.loader import LoadingContextForTest

from geostack_pipeline.errors import SelectionError
from geostack_pipeline.orchestration import assets as asset_module
from geostack_pipeline.orchestration.build import build_definitions
from geostack_pipeline.orchestration.launch import RANGE_END, RANGE_START, Launcher, LaunchReport
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages import selected
from geostack_pipeline.stages.plan import day_range
from geostack_pipeline.stages.workspace import open_workspace

DAYS = ("2024-06-06", "2024-06-07", "2024-06-08")
STAGES = ("scenes", "selected", "granules")


class World:
    """A store and an instance of a test's own."""

    def __init__(self, file: Path, instance: dg.DagsterInstance) -> None:
        self.file, self.instance = file, instance
        self.settings = load_settings(file)
        self.ws = open_workspace(self.settings)
        self.defs = build_definitions(self.settings, str(file))

    def launch(self, **options: Any) -> LaunchReport:
        """Run as the command line does."""
        provider = load_settings(self.file).build_provider("earth_search")
        launcher = Launcher(self.defs, self.instance, self.ws, provider)
        return launcher.run(day_range(self.ws, DAYS[0], DAYS[-1]), until=STAGES[-1], **options)

    def from_ui(self, *stages: str, refresh: bool = False) -> bool:
        """Run a range as the UI does: nothing is planned, every date is tried."""
        result = self.defs.resolve_job_def("earth_search_daily").execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(["earth_search", stage]) for stage in stages],
            tags={RANGE_START: DAYS[0], RANGE_END: DAYS[-1]},
            run_config={
                "ops": {f"earth_search__{stage}": {"config": {"refresh": refresh}} for stage in stages}
            },
            raise_on_error=False,
        )
        return result.success

    def statuses(self) -> dict[tuple[str, str], StaleStatus]:
        """Return what Dagster says of each stage and date."""
        loading = LoadingContextForTest(self.instance)
        resolver = CachingStaleStatusResolver(self.instance, self.defs.resolve_asset_graph(), loading)
        return {
            (stage, day): resolver.get_status(dg.AssetKey(["earth_search", stage]), day)
            for stage in STAGES
            for day in DAYS
        }

    def expected(self, **other: StaleStatus) -> dict[tuple[str, str], StaleStatus]:
        """Return the statuses of dates that are fresh, but for those named ``<stage>_<index of the date>``."""
        return {
            (stage, day): other.get(f"{stage}_{index}", FRESH)
            for stage in STAGES
            for index, day in enumerate(DAYS)
        }

    def recorded(self, stage: str, day: str) -> str | None:
        """Return the data version that Dagster has of a date."""
        found = self.instance.get_latest_data_version_record(
            dg.AssetKey(["earth_search", stage]), partition_key=day
        )
        version = extract_data_version_from_entry(found.event_log_entry) if found else None
        return version.value if version else None

    def stored(self, stage: str, day: str) -> str | None:
        """Return the current version of a date."""
        snapshot = self.ws.artifacts.current(f"earth_search/{stage}", day)
        return snapshot.version if snapshot else None


FRESH, MISSING, STALE = StaleStatus.FRESH, StaleStatus.MISSING, StaleStatus.STALE


@pytest.fixture
def world(sandbox_settings: Callable[..., Path], small_sandbox: Any) -> Iterator[World]:
    file = sandbox_settings(earth_search={"bands": ["B12"]})
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(file, instance)
    small_sandbox.clear_faults()


def _breaking(monkeypatch: pytest.MonkeyPatch, day: str) -> None:
    real = selected.build

    def build(ws: Any, provider: Any, wanted: str, scenes: Any) -> Any:
        if wanted == day:
            raise SelectionError("broken on purpose", subject=day)
        return real(ws, provider, wanted, scenes)

    monkeypatch.setattr(selected, "build", build)


def test_a_whole_run_is_fresh_and_records_each_dates_own_version(world: World) -> None:
    assert set(world.statuses().values()) == {MISSING}
    assert world.launch().failed == {}
    assert world.statuses() == world.expected()
    for stage in STAGES:
        for day in DAYS:
            assert world.recorded(stage, day) == world.stored(stage, day)
    assert len({world.recorded("granules", day) for day in DAYS}) == len(DAYS)


def test_an_unchanged_run_leaves_everything_fresh(world: World) -> None:
    world.launch()
    before = {(stage, day): world.recorded(stage, day) for stage in STAGES for day in DAYS}
    assert world.from_ui(*STAGES)
    assert world.statuses() == world.expected()
    assert world.from_ui("scenes")
    assert world.statuses() == world.expected()
    assert {key: world.recorded(*key) for key in before} == before


def test_a_changed_list_makes_what_was_made_from_it_stale_until_it_is_made_anew(
    world: World, small_sandbox: Any
) -> None:
    small_sandbox.fault("wrong-offset-flag@earth_search?count=always")
    world.launch()
    old = {day: world.recorded("scenes", day) for day in DAYS}
    small_sandbox.clear_faults()
    assert world.from_ui("scenes", refresh=True)
    changed = [index for index, day in enumerate(DAYS) if world.recorded("scenes", day) != old[day]]
    assert len(changed) > 0
    # Only what reads the list itself: Dagster calls the next stage stale once this one was made anew.
    stale = {f"selected_{index}": STALE for index in changed}
    assert world.statuses() == world.expected(**stale)
    assert world.launch().failed == {}
    assert world.statuses() == world.expected()


def test_a_range_with_one_broken_date_is_fresh_for_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _breaking(monkeypatch, DAYS[1])
    assert not world.from_ui(*STAGES)
    # One failed date fails the step, and what is downstream waits.
    waiting = {f"granules_{index}": MISSING for index in range(3)}
    assert world.statuses() == world.expected(selected_1=MISSING, **waiting)
    # The command line goes on with the finished dates.
    report = world.launch()
    assert set(report.failed) == {DAYS[1]}
    assert "broken on purpose" in report.failed[DAYS[1]]
    assert world.statuses() == world.expected(selected_1=MISSING, granules_1=MISSING)
    monkeypatch.undo()
    assert world.launch().failed == {}
    assert world.statuses() == world.expected()


def test_checks_are_evaluated_for_each_date(world: World) -> None:
    world.launch()
    key = dg.AssetCheckKey(dg.AssetKey(["earth_search", "selected"]), "one_row_per_scene")
    records = world.instance.event_log_storage.get_asset_check_execution_history(key, limit=20)
    judged = {record.event.dagster_event.asset_check_evaluation_data.partition for record in records}
    assert judged >= set(DAYS)


def test_metadata_that_cannot_be_made_is_the_failure_of_its_date_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = asset_module.day_metadata

    def broken(stage: str, outcome: Any) -> Any:
        if stage == "selected" and outcome.snapshot.partition == DAYS[0]:
            raise OSError("no picture")
        return real(stage, outcome)

    monkeypatch.setattr(asset_module, "day_metadata", broken)
    report = world.launch()
    assert set(report.failed) == {DAYS[0]}
    assert "no picture" in report.failed[DAYS[0]]
    assert world.statuses() == world.expected(selected_0=MISSING, granules_0=MISSING)


def test_a_damaged_input_stops_its_own_date_alone(world: World) -> None:
    world.launch()
    version = world.stored("scenes", DAYS[1])
    assert world.ws.artifacts.root.path is not None
    shutil.rmtree(world.ws.artifacts.root.path / f"artifacts/earth_search/scenes/{DAYS[1]}/{version}")
    assert not world.from_ui("selected")
    failures = [
        event
        for event in world.instance.all_logs(world.instance.get_runs(limit=1)[0].run_id)
        if event.is_dagster_event and event.get_dagster_event().is_step_failure
    ]
    text = str(failures[0].get_dagster_event().event_specific_data)
    assert "1 of 3 date(s) failed" in text
    assert "its pointer leads to a version that is not there" in text
    # The command line asks the catalog for it anew.
    assert world.launch().failed == {}
    assert world.stored("scenes", DAYS[1]) == version
    assert world.statuses() == world.expected()
