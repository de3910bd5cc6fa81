"""What Dagster loads in the project's folder, by the same path as the UI, without a browser."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
import yaml
from dagster._cli.workspace.cli_target import workspace_opts_to_load_target
from dagster._core.test_utils import environ
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster_dev import PROJECT, project_folder
from dagster_graphql.test.utils import execute_dagster_graphql
from dagster_shared.cli import WorkspaceOpts

from geostack_pipeline.orchestration.build import build_definitions
from geostack_pipeline.orchestration.instance import shared_instance
from geostack_pipeline.settings import parse_settings

STAGES = ("scenes", "selected", "granules", "cube", "methane")
ACROSS = ("plumes", "published")
KINDS = {
    "scenes": {"stac", "parquet"},
    "selected": {"duckdb", "parquet"},
    "granules": {"cog", "parquet"},
    "cube": {"zarr", "xarray"},
    "methane": {"jax", "zarr"},
    "plumes": {"parquet", "geospatial"},
    "published": {"stac", "cog", "zarr"},
}
CHECKS = {
    "scenes": {"scene_list_schema", "scene_list_count"},
    "selected": {"one_row_per_scene", "drops_have_reasons"},
    "granules": {"cache_integrity", "assets_complete"},
    "cube": {"valid_fraction", "physical_range"},
    "methane": {"enhancement_range", "reference_found"},
    "plumes": {"rates_or_reasons", "one_row_per_plume", "members_accounted_for"},
    "published": {"stac_valid", "assets_present", "every_plume_published", "sources_named"},
}
SECRET = "hunter2-of-the-object-store"
SELECTOR = {"repositoryLocationName": "geostack_pipeline", "repositoryName": "__repository__"}
Ask = Callable[..., dict[str, Any]]


def settings_of(**changes: Any) -> dict[str, Any]:
    return {
        "start_date": "2024-06-01",
        "refresh_days": 3,
        "areas": {"korpezhe": {"bbox": [53.9, 38.4, 54.1, 38.6]}},
        "providers": {"earth_search": {"schedule": {"cron": "15 5 * * *", "timezone": "Pacific/Auckland"}}},
        **changes,
    }


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Answer GraphQL queries as the UI's server does, over the code location that a bare `dagster dev` finds."""
    folder = project_folder(tmp_path_factory.mktemp("location"))
    # pyproject.toml comes first when Dagster looks for code locations, then workspace.yaml.
    shutil.copy(PROJECT / "pyproject.toml", folder / "pyproject.toml")
    options = {"aws_access_key_id": "someone", "aws_secret_access_key": "env:GEOSTACK_TEST_SECRET"}
    settings = settings_of(root="s3://results/store", root_options=options)
    (folder / "geostack.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    # The module reads the settings once, when it is imported.
    imported = sys.modules.pop("geostack_pipeline.definitions", None)
    with (
        contextlib.chdir(folder),
        environ({"GEOSTACK_SETTINGS": None, "GEOSTACK_TEST_SECRET": SECRET, "DAGSTER_HOME": None}),
        shared_instance() as instance,
        WorkspaceProcessContext(
            instance, workspace_opts_to_load_target(WorkspaceOpts(), allow_in_process=True)
        ) as context,
    ):

        def answer(query: str, **variables: Any) -> dict[str, Any]:
            result = execute_dagster_graphql(context.create_request_context(), query, variables)
            return dict(result.data)

        yield answer
    sys.modules.pop("geostack_pipeline.definitions", None)
    if imported is not None:
        sys.modules["geostack_pipeline.definitions"] = imported


@pytest.fixture(scope="module")
def repository(ask: Ask) -> dict[str, Any]:
    query = """query($selector: RepositorySelector!) { repositoryOrError(repositorySelector: $selector) {
        ... on PythonError { message }
        ... on Repository {
          location { name }
          jobs { name isAssetJob description }
          schedules { name cronSchedule executionTimezone description pipelineName scheduleState { status } }
          sensors { name }
          allTopLevelResourceDetails { name configuredValues { key value type } }
          assetNodes {
            assetKey { path } groupName kinds description hasMaterializePermission
            owners { ... on TeamAssetOwner { team } }
            tags { key value }
            backfillPolicy { policyType }
            partitionDefinition { description }
            dependencies { asset { assetKey { path } } partitionMapping { className } }
            assetChecksOrError { ... on AssetChecks { checks {
              name description blocking partitionDefinition { description } } } }
          } } } }"""
    found: dict[str, Any] = ask(query, selector=SELECTOR)["repositoryOrError"]
    assert "message" not in found, found["message"]
    return found


@pytest.fixture(scope="module")
def nodes(repository: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {node["assetKey"]["path"][-1]: node for node in repository["assetNodes"]}


def test_the_project_file_does_not_hide_workspace_yaml() -> None:
    tools = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tools.keys().isdisjoint({"dg", "dagster"})


def test_workspace_yaml_is_what_loads(repository: dict[str, Any]) -> None:
    assert repository["location"]["name"] == "geostack_pipeline"
    assert {tuple(node["assetKey"]["path"]) for node in repository["assetNodes"]} == {
        *(("earth_search", stage) for stage in STAGES),
        *((stage,) for stage in ACROSS),
    }
    named = [job for job in repository["jobs"] if not job["name"].startswith("__")]
    assert [job["name"] for job in named] == ["earth_search_daily"]
    assert named[0]["isAssetJob"]
    assert "methane" in named[0]["description"]
    # Earth Search tells no changes, so that there is nothing to listen to.
    assert repository["sensors"] == [{"name": "failed_runs"}]
    (schedule,) = repository["schedules"]
    assert schedule["description"]
    del schedule["description"]
    assert schedule == {
        "name": "earth_search_daily_ingest",
        "cronSchedule": "15 5 * * *",
        "executionTimezone": "Pacific/Auckland",
        "pipelineName": "earth_search_daily",
        "scheduleState": {"status": "STOPPED"},
    }


@pytest.mark.parametrize("stage", [*STAGES, *ACROSS])
def test_an_asset_says_what_it_is(stage: str, nodes: dict[str, dict[str, Any]]) -> None:
    node = nodes[stage]
    assert set(node["kinds"]) == KINDS[stage]
    assert node["owners"] == [{"team": "earth-observation"}]
    assert len(node["description"]) > 60
    provider = {"key": "geostack/provider", "value": "earth_search"}
    assert (provider in node["tags"]) == (stage not in ACROSS)
    assert node["backfillPolicy"]["policyType"] == "SINGLE_RUN"
    assert (
        node["partitionDefinition"]["description"]
        == "Daily, starting 2024-06-01 UTC. End offsetted by 1 partition."
    )
    checks = {check["name"]: check for check in node["assetChecksOrError"]["checks"]}
    assert set(checks) == CHECKS[stage]
    for check in checks.values():
        assert check["description"]
        # Only so does the UI show the evaluations of a check under their dates.
        assert check["partitionDefinition"] == node["partitionDefinition"]


def test_a_stage_depends_on_the_one_before_date_by_date(nodes: dict[str, dict[str, Any]]) -> None:
    assert nodes["scenes"]["dependencies"] == []
    for before, stage in itertools.pairwise([*STAGES, "plumes"]):
        (dependency,) = nodes[stage]["dependencies"]
        assert dependency["asset"]["assetKey"]["path"] == ["earth_search", before]
    before_publication = {
        tuple(one["asset"]["assetKey"]["path"]) for one in nodes["published"]["dependencies"]
    }
    assert before_publication == {("plumes",), ("earth_search", "methane")}
    # A mapping with an offset would make a backfill of one date launch the dates after it as well.
    for node in nodes.values():
        for dependency in node["dependencies"]:
            assert dependency["partitionMapping"] is None


def test_every_group_holds_assets_of_the_graph(nodes: dict[str, dict[str, Any]]) -> None:
    assert {stage: node["groupName"] for stage, node in nodes.items()} == {
        stage: stage for stage in [*STAGES, *ACROSS]
    }


def test_no_secret_is_shown(repository: dict[str, Any]) -> None:
    resources = {resource["name"]: resource for resource in repository["allTopLevelResourceDetails"]}
    assert {"workspace", "wind", "tables", "trees", "earth_search"} <= set(resources)
    for resource in resources.values():
        assert {entry["key"] for entry in resource["configuredValues"]} <= {
            "settings_file",
            "provider_key",
            "source",
        }
    shown = json.dumps(repository)
    assert SECRET not in shown
    assert "GEOSTACK_TEST_SECRET" not in shown


def tick(when: str, **changes: Any) -> list[dg.RunRequest]:
    """Return the run requests of the daily schedule at an instant."""
    definitions = build_definitions(parse_settings(settings_of(**changes)))
    schedule = definitions.resolve_schedule_def("earth_search_daily_ingest")
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=datetime.fromisoformat(when),
            repository_def=definitions.get_repository_def(),
        )
        requests = schedule.evaluate_tick(context).run_requests
    assert requests is not None
    return list(requests)


def test_a_tick_asks_for_each_of_the_last_days() -> None:
    # 05:15 in Auckland on the 12th is 17:15 UTC on the 11th: the last whole UTC date is the 10th.
    requests = tick("2024-06-12T05:15:00+12:00")
    assert [request.partition_key for request in requests] == [
        "2024-06-07",
        "2024-06-08",
        "2024-06-09",
        "2024-06-10",
    ]
    assert len({request.run_key for request in requests}) == 4
    assert {request.tags["geostack/provider"] for request in requests} == {"earth_search"}


def test_a_tick_across_a_clock_change_counts_utc_dates() -> None:
    zone = ZoneInfo("Pacific/Auckland")
    # New Zealand turned its clocks forward on 2024-09-29.
    before = tick(datetime(2024, 9, 28, 5, 15, tzinfo=zone).isoformat())
    after = tick(datetime(2024, 9, 30, 5, 15, tzinfo=zone).isoformat())
    assert [request.partition_key for request in before][-1] == "2024-09-26"
    assert [request.partition_key for request in after][-1] == "2024-09-28"


def test_a_tick_does_not_ask_before_the_first_date() -> None:
    requests = tick("2024-06-03T05:15:00+00:00")
    assert [request.partition_key for request in requests] == ["2024-06-01", "2024-06-02"]
    assert tick("2024-06-01T05:15:00+00:00") == []


def test_two_ticks_never_share_a_run_key() -> None:
    first = {request.run_key for request in tick("2024-06-12T05:15:00+12:00")}
    second = {request.run_key for request in tick("2024-06-13T05:15:00+12:00")}
    assert first.isdisjoint(second)
    # The same tick evaluated twice launches nothing twice.
    assert first == {request.run_key for request in tick("2024-06-12T05:15:00+12:00")}
