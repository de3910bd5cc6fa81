"""The plumes over two catalogs of one world: kept up to date by either one's run, each plume once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from typer.testing import CliRunner

import geostack_pipeline as gp
from geostack_pipeline.cli import app
from geostack_pipeline.orchestration.build import build_definitions
from geostack_pipeline.orchestration.launch import Launcher, LaunchReport
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages.plan import make_plan
from geostack_pipeline.stages.workspace import Workspace, open_workspace
from geostack_pipeline.storage.snapshot import Snapshot

pytestmark = pytest.mark.slow  # the tests build on one another: the first brings both catalogs up to date

DAYS = ("2024-06-02", "2024-06-07")
"""The second date has plumes, the first is its reference."""
DAY = DAYS[1]


class Two:
    """Two providers that list the same scenes, in one store."""

    def __init__(self, file: Path, instance: dg.DagsterInstance) -> None:
        self.file, self.instance = file, instance
        self.settings = load_settings(file)
        self.ws: Workspace = open_workspace(self.settings)
        self.defs = build_definitions(self.settings, str(file))

    def launch(self, provider: str) -> LaunchReport:
        """Run the dates of a provider as the command line does, one by one; return the last one's report."""
        launcher = Launcher(self.defs, self.instance, self.ws, self.settings.build_provider(provider))
        earlier, report = (launcher.run([day]) for day in DAYS)
        assert earlier.failed == {}
        return report

    def stored(self, asset: str) -> Snapshot:
        """Return the current version of the date."""
        snapshot = self.ws.artifacts.current(asset, DAY)
        assert snapshot is not None
        return snapshot

    def rows(self, name: str | None = None) -> pl.DataFrame:
        """Return the plumes of the date."""
        frame = gp.load("plumes", DAY, name=name, settings=self.file)
        assert isinstance(frame, pl.DataFrame)
        return frame


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, small_sandbox: Any) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("two")
    raw = {"root": "file:store", **small_sandbox.settings()}
    first = raw["providers"]["earth_search"]
    raw["providers"] = {"earth_search": first, "mirror": {**first, "kind": "earth_search"}}
    file = folder / "geostack.yaml"
    file.write_text(yaml.safe_dump(raw), encoding="utf-8")
    with dg.DagsterInstance.ephemeral() as instance:
        yield Two(file, instance)


def test_a_plume_of_two_catalogs_is_one_row(two: Two) -> None:
    report = two.launch("earth_search")
    assert report.failed == {}
    assert report.built["plumes"] == (DAY,)
    alone = two.rows()
    found = gp.load("earth_search/methane", DAY, name="plumes", settings=two.file)
    assert isinstance(found, pl.DataFrame)
    assert alone.height == found.height > 0
    assert two.stored("plumes").meta["missing"] == ["mirror"]

    assert two.launch("mirror").failed == {}
    both = two.rows()
    assert both.height == alone.height
    assert set(both["members"]) == {2}
    assert both["plume_id"].to_list() == alone["plume_id"].to_list()
    members = two.rows("members")
    assert members.height == 2 * found.height
    assert set(members["provider"]) == {"earth_search", "mirror"}
    stored = {key: two.stored(f"{key}/methane").version for key in ("earth_search", "mirror")}
    assert dict(members.select("provider", "version").unique().iter_rows()) == stored
    snapshot = two.stored("plumes")
    assert snapshot.upstream == {f"{key}/methane/{DAY}": version for key, version in stored.items()}
    # The physical scene comes from the manifest of granules.
    manifest = gp.load("earth_search/granules", DAY, settings=two.file)
    assert {scene for scenes in both["scenes"] for scene in scenes} <= set(manifest["scene"])
    assert snapshot.verify() == []


def test_a_second_run_of_either_launches_nothing(two: Two) -> None:
    for provider in ("earth_search", "mirror"):
        assert two.launch(provider).launched == 0


def test_the_run_of_a_provider_brings_lost_plumes_back_and_computes_nothing_else(two: Two) -> None:
    plan = make_plan(two.ws, two.settings.build_provider("mirror"), DAYS)
    assert plan.pending() == []
    stricter = two.file.with_name("stricter.yaml")
    raw = yaml.safe_load(two.file.read_text(encoding="utf-8"))
    del raw["providers"]["mirror"]
    stricter.write_text(yaml.safe_dump(raw), encoding="utf-8")
    # One provider less: another version, which exists already.
    other = Two(stricter, two.instance)
    assert {
        step.stage
        for step in make_plan(other.ws, other.settings.build_provider("earth_search"), DAYS).pending()
    } == {"plumes", "published"}
    report = other.launch("earth_search")
    assert (report.failed, report.built["methane"], report.built["plumes"]) == ({}, (), ())
    assert set(other.rows()["members"]) == {1}
    assert two.launch("earth_search").failed == {}
    assert set(two.rows()["members"]) == {2}


def test_the_asset_depends_on_every_methane_and_says_its_checks(two: Two) -> None:
    node = two.defs.resolve_asset_graph().get(dg.AssetKey(["plumes"]))
    assert {key.to_user_string() for key in node.parent_keys} == {"earth_search/methane", "mirror/methane"}
    assert node.group_name == "plumes"
    for name in ("one_row_per_plume", "members_accounted_for"):
        key = dg.AssetCheckKey(dg.AssetKey(["plumes"]), name)
        records = two.instance.event_log_storage.get_asset_check_execution_history(key, limit=20)
        judged = {
            evaluation.partition: evaluation.passed
            for record in records
            if record.event is not None
            and record.event.dagster_event is not None
            and (evaluation := record.event.dagster_event.asset_check_evaluation_data) is not None
        }
        assert {day: judged.get(day) for day in DAYS} == dict.fromkeys(DAYS, True)


def test_a_job_of_one_date_brings_its_plumes_along(two: Two) -> None:
    for provider in ("earth_search", "mirror"):
        keys = two.defs.resolve_job_def(f"{provider}_daily").asset_layer.executable_asset_keys
        assert dg.AssetKey(["plumes"]) in keys
    result = two.defs.resolve_job_def("mirror_daily").execute_in_process(
        instance=two.instance, partition_key=DAY, raise_on_error=False
    )
    assert result.success
    record = two.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(["plumes"]), asset_partitions=[DAY]), limit=1
    ).records[0]
    materialization = record.asset_materialization
    assert materialization is not None
    assert (materialization.tags or {})["dagster/data_version"] == two.stored("plumes").version
    resolver = CachingStaleStatusResolver(
        two.instance, two.defs.resolve_asset_graph(), LoadingContextForTest(two.instance)
    )
    assert resolver.get_status(dg.AssetKey(["plumes"]), DAY) == StaleStatus.FRESH
    table = str(materialization.metadata["table"].value)
    assert "earth\\_search, mirror" in table


def test_a_date_without_methane_says_what_to_do(two: Two) -> None:
    result = two.defs.resolve_job_def("mirror_daily").execute_in_process(
        instance=two.instance,
        partition_key="2024-06-05",
        asset_selection=[dg.AssetKey(["plumes"])],
        raise_on_error=False,
    )
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert "no provider has methane for this date" in str(failure.event_specific_data)


def test_show_prints_the_plumes(two: Two) -> None:
    shown = CliRunner().invoke(app, ["show", "plumes", DAY, "--settings", str(two.file)])
    assert shown.exit_code == 0, shown.output
    assert "members" in shown.output
    shown = CliRunner().invoke(app, ["show", "--settings", str(two.file)])
    assert "plumes" in {line.split()[0] for line in shown.output.splitlines() if line.strip()}
