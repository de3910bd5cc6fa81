"""The sensors against a catalog that changes, with Dagster's own contexts, instance and cursor."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from geostack_pipeline.errors import CatalogUnavailableError
from geostack_pipeline.orchestration import sensors
from geostack_pipeline.orchestration.build import build_definitions
from geostack_pipeline.orchestration.resources import WorkspaceResource, provider_resource
from geostack_pipeline.orchestration.sensors import failed_runs_sensor, new_labels_sensor
from geostack_pipeline.providers import cmr
from geostack_pipeline.sandbox.serve import Sandbox
from geostack_pipeline.settings import load_settings, parse_settings
from geostack_pipeline.stages import changes, retraining, scenes
from geostack_pipeline.stages.retraining import Known
from geostack_pipeline.stages.workspace import Workspace, open_workspace
from tests.providers.scripted_server import Server, serving

DAYS = ("2024-06-03", "2024-06-06", "2024-06-07", "2024-06-09")


@pytest.fixture(scope="module")
def nasa(swath_world: Any) -> Iterator[Sandbox]:
    # Rendered once for all tests that look at EMIT.
    with Sandbox.start(
        swath_world.folder.parent, small=True, providers=["cmr_stac"], held=["20240609"]
    ) as sandbox:
        yield sandbox


class Loop:
    """A catalog, a store and a code location of a test's own, and the daemon's part of a sensor."""

    def __init__(self, sandbox: Sandbox, folder: Path, instance: dg.DagsterInstance, **more: Any) -> None:
        content = {"root": "file:store", **sandbox.settings(), **more}
        content["providers"]["cmr_stac"]["collections"] = ["EMITL2BCH4ENH_002", "EMITL2BCH4PLM_002"]
        self.sandbox, self.instance = sandbox, instance
        self.file = folder / "geostack.yaml"
        self.file.write_text(yaml.safe_dump(content), encoding="utf-8")
        self.settings = load_settings(self.file)
        self.defs = build_definitions(self.settings, str(self.file))
        self.sensor = self.defs.resolve_sensor_def("new_emit_granules")
        self.cursor: str | None = None

    @property
    def ws(self) -> Workspace:
        return open_workspace(self.settings)

    def ingest(self, *days: str) -> None:
        provider = self.settings.build_provider("cmr_stac")
        for day in days:
            scenes.build(self.ws, provider, day, refresh=True)

    def listed(self, day: str) -> list[str]:
        snapshot = self.ws.current("cmr_stac/scenes", day)
        assert snapshot is not None
        return sorted(snapshot.open()["id"].to_list())

    def turn(self, *, commit: bool = True) -> list[dg.RunRequest]:
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            resources={
                "workspace": WorkspaceResource(settings_file=str(self.file)),
                "cmr_stac": provider_resource(self.settings, "cmr_stac", str(self.file)),
            },
            repository_def=self.defs.get_repository_def(),
        )
        with context:
            done = self.sensor.evaluate_tick(context)
        self.skipped = done.skip_message
        if commit:
            self.cursor = done.cursor
        return list(done.run_requests or [])

    def pending(self) -> dict[str, tuple[str, ...]]:
        return dict(changes.decode(self.cursor)["cmr_stac"].pending)


@pytest.fixture
def loop(nasa: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    # Resources are bound to what is set when the code location is built.
    for name, value in nasa.credentials().items():
        monkeypatch.setenv(name, value)
    nasa.clear_faults()
    nasa.take_back_changes()
    with dg.instance_for_test() as instance:
        yield Loop(nasa, tmp_path, instance)


def scene_run(loop: Loop, request: dg.RunRequest) -> None:
    """Do the first step of a requested run, as its job would."""
    job = loop.defs.resolve_job_def(request.job_name or "")
    dg.validate_run_config(job, request.run_config)
    ops = {"cmr_stac__scenes": request.run_config["ops"]["cmr_stac__scenes"]}
    done = job.execute_in_process(
        instance=loop.instance,
        asset_selection=[dg.AssetKey(["cmr_stac", "scenes"])],
        partition_key=request.partition_key,
        run_config={"ops": ops},
        tags=request.tags,
    )
    assert done.success


def test_changes_lead_to_runs_of_exactly_their_dates(loop: Loop) -> None:
    loop.ingest(*DAYS[:3])
    assert loop.turn() == []
    assert "0 new change(s)" in (loop.skipped or "")
    # A scene and its plume are listed late, a label is corrected, a scene is withdrawn; one date stays as it is.
    loop.sandbox.change("release", "20240609")
    loop.sandbox.change("revise", "CH4PLM_002_20240607", label="wider")
    loop.sandbox.change("delete", "CH4ENH_002_20240603")
    # Other collections are nobody's business here.
    loop.sandbox.change("revise", "RAD_001_20240606")
    assert loop.turn() == []
    assert set(loop.pending()) == {"2024-06-03", "2024-06-07", "2024-06-09"}
    assert len(loop.pending()["2024-06-09"]) == 2

    # The turn is repeated when the commit is lost, also when more has changed by then: the same keys, nothing else.
    lost = loop.turn(commit=False)
    loop.sandbox.change("revise", "CH4ENH_002_20240607")
    requests = loop.turn()
    assert [request.run_key for request in requests] == [request.run_key for request in lost]
    assert [request.partition_key for request in requests] == ["2024-06-03", "2024-06-07", "2024-06-09"]
    assert len({request.run_key for request in requests}) == 3
    (again,) = loop.turn()
    assert again.partition_key == "2024-06-07"
    assert again.run_key not in {request.run_key for request in requests}
    assert loop.turn() == []
    assert loop.pending() == {}

    # The runs ask frozen lists again.
    before = {day: loop.listed(day) for day in DAYS[:3]}
    for request in requests:
        assert request.tags["geostack/trigger"] == "new_emit_granules"
        assert request.tags["dagster/max_retries"] == "2"
        scene_run(loop, request)
    assert [name for name in before["2024-06-03"] if "CH4ENH" in name] != []
    assert loop.listed("2024-06-03") == []
    assert [name[9:19] for name in loop.listed("2024-06-09")] == ["CH4ENH_002", "CH4PLM_002"]
    # What the runs did is no change.
    assert loop.turn() == []


def test_a_failed_page_stops_the_turn_and_loses_nothing(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cmr, "ATTEMPTS", 1)
    monkeypatch.setattr(cmr, "PAGE_SIZE", 1)
    loop.turn()
    before = loop.cursor
    loop.sandbox.change("release", "20240609")
    # The second page of the scenes, the plumes, the deletions.
    for fault in (
        "503@cmr_stac?skip=1&count=1",
        "cut@cmr_stac?skip=2&count=1",
        "503@cmr_stac?path=deleted&count=1",
    ):
        loop.sandbox.fault(fault)
        with pytest.raises(CatalogUnavailableError):
            loop.turn()
        loop.sandbox.clear_faults()
        assert loop.cursor == before
    assert loop.turn() == []
    (request,) = loop.turn()
    assert request.partition_key == "2024-06-09"
    assert len(json.loads(loop.cursor or "")["providers"]["cmr_stac"]["seen"]) == 2


def test_a_poisoned_label_is_other_bytes_under_the_same_name(loop: Loop) -> None:
    """CMR-STAC shows no revision: the run has to compare the cached files with their sources."""
    from geostack_pipeline.stages import granules, selected

    provider = loop.settings.build_provider("cmr_stac")

    def files(*, refresh: bool) -> dict[str, str]:
        found = scenes.build(loop.ws, provider, "2024-06-07", refresh=refresh)
        chosen = selected.build(loop.ws, provider, "2024-06-07", found.snapshot)
        done = granules.build(loop.ws, provider, "2024-06-07", chosen.snapshot, refresh=refresh)
        rows = done.snapshot.open().to_dicts()
        return {row["asset"]: row["sha256"] for row in rows if "CH4PLM" in row["item_id"]}

    before = files(refresh=False)
    assert before
    loop.sandbox.change("revise", "CH4PLM_002_20240607", label="wrong")
    assert files(refresh=False) == before
    after = files(refresh=True)
    assert set(after) == set(before)
    assert all(after[asset] != before[asset] for asset in before)
    loop.sandbox.change("revise", "CH4PLM_002_20240607", label="true")
    assert files(refresh=True) == before


# -- retraining ---------------------------------------------------------------------------------------


@dg.op
def train() -> None:
    """Stand for a training."""


@dg.job(name="retrain")
def retrain() -> None:
    """Stand for the job."""
    train()


def test_a_training_waits_for_the_one_that_runs(tmp_path: Path) -> None:
    file = tmp_path / "geostack.yaml"
    file.write_text("automation: {new_labels: {granules: 2}}", encoding="utf-8")
    stored: set[tuple[str, str]] = {("a", "1")}
    learnt: dict[str, set[tuple[str, str]] | None] = {"champion": None, "judged": None}
    sensor = new_labels_sensor(
        retrain,
        load_settings(file),
        lambda _: Known(labelled=stored, **learnt),  # type: ignore[arg-type]
    )
    defs = dg.Definitions(jobs=[retrain], sensors=[sensor])
    with dg.instance_for_test() as instance:

        def turn(cursor: str | None) -> Any:
            resources = {"workspace": WorkspaceResource(settings_file=str(file))}
            with dg.build_sensor_context(
                instance=instance,
                cursor=cursor,
                resources=resources,
                repository_def=defs.get_repository_def(),
            ) as context:
                return sensor.evaluate_tick(context)

        done = turn(None)
        assert "1 of 2" in (done.skip_message or "")
        stored.add(("b", "1"))
        meant = turn(done.cursor)
        assert not meant.run_requests
        # Somebody trains by hand in the meantime.
        run = instance.create_run_for_job(retrain)
        assert "a training runs" in (turn(meant.cursor).skip_message or "")
        instance.report_run_canceled(run)
        started = turn(meant.cursor)
        (request,) = started.run_requests
        assert request.tags[sensors.RETRAIN_TAG[0]] == sensors.RETRAIN_TAG[1]
        assert request.tags["dagster/max_retries"] == "2"
        assert request.tags["dagster/retry_strategy"] == "ALL_STEPS"
        assert turn(meant.cursor).run_requests[0].run_key == request.run_key
        # The daemon died when it had created the run and not launched it: the request has it launched.
        tags = {**request.tags, "dagster/run_key": request.run_key or ""}
        created = instance.create_run_for_job(retrain, tags=tags)
        assert turn(meant.cursor).run_requests[0].run_key == request.run_key
        instance.delete_run(created.run_id)
        # It fails: the daemon tries it again, which is waited for.
        failing = instance.create_run_for_job(retrain, tags=tags, status=dg.DagsterRunStatus.STARTED)
        instance.report_run_failed(failing)
        instance.add_run_tags(failing.run_id, {"dagster/will_retry": "true"})
        again = instance.create_run_for_job(retrain, tags=tags, status=dg.DagsterRunStatus.STARTED)
        for _ in range(2):
            assert retraining.decode(turn(started.cursor).cursor).intent is None
            instance.delete_run(again.run_id)
        # For good: the same labels are meant again under another key, after a while.
        instance.add_run_tags(failing.run_id, {"dagster/will_retry": "false"})
        waits = turn(started.cursor)
        assert "the last training failed" in (waits.skip_message or "")
        assert not turn(waits.cursor).run_requests
        file.write_text("automation: {new_labels: {granules: 2, every_minutes: 0.01}}", encoding="utf-8")
        time.sleep(1.0)
        (other,) = turn(turn(started.cursor).cursor).run_requests
        assert other.run_key != request.run_key
        file.write_text("automation: {new_labels: {granules: 2}}", encoding="utf-8")
        # Refused or promoted: the same labels start nothing more.
        done_ = instance.create_run_for_job(retrain, tags=tags, status=dg.DagsterRunStatus.SUCCESS)
        learnt["judged"] = set(stored)
        assert not turn(turn(started.cursor).cursor).run_requests
        learnt["champion"] = set(stored)
        assert not turn(turn(started.cursor).cursor).run_requests
        # A run that was deleted, or cancelled by hand, is not started again by itself.
        learnt["judged"] = learnt["champion"] = None
        for each in (done_, failing):
            instance.delete_run(each.run_id)
        assert "no label since" in (turn(started.cursor).skip_message or "")


def test_the_daemon_lets_one_training_run_at_a_time(tmp_path: Path) -> None:
    project = Path(__file__).parents[2]
    (tmp_path / "dagster.yaml").write_text((project / "dagster.yaml").read_text("utf-8"), encoding="utf-8")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        limits = instance.get_concurrency_config().run_queue_config
        assert limits is not None
        key, value = sensors.RETRAIN_TAG
        assert {"key": key, "value": value, "limit": 1} in limits.tag_concurrency_limits
        assert instance.run_retries_enabled
        assert instance.run_retries_max_retries == 0
        # A run is left a week; the launcher knows no sign of life, so there is nothing to resume.
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_max_runtime_seconds == 7 * 86400
        assert instance.run_monitoring_max_resume_run_attempts == 0
        assert not instance.run_launcher.supports_check_run_worker_health
        assert instance.freshness_enabled


# -- notices ------------------------------------------------------------------------------------------


@dg.op
def break_off() -> None:
    """Fail as a stage does."""
    raise dg.Failure("1 of 2 date(s) failed:\n- 2024-06-07: cmr_stac: CMR is not available.")


@dg.job(name="cmr_stac_daily", tags={"geostack/provider": "cmr_stac"})
def breaking() -> None:
    """Stand for a provider's job."""
    break_off()


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as server:
        monkeypatch.setenv("HOOK", f"{server.url}/very-secret-part")
        yield server


def failed(instance: dg.DagsterInstance, **tags: str) -> dg.RunFailureSensorContext:
    done = breaking.execute_in_process(instance=instance, raise_on_error=False, tags=tags)
    event = next(each for each in done.all_events if each.event_type_value == "PIPELINE_FAILURE")
    return dg.build_run_status_sensor_context(
        sensor_name="failed_runs",
        dagster_event=event,
        dagster_instance=instance,
        dagster_run=done.dagster_run,
    ).for_run_failure()


def test_a_failed_run_is_told(hook: Server, capsys: pytest.CaptureFixture[str]) -> None:
    settings = parse_settings({"automation": {"notify": {"webhook": "env:HOOK"}}})
    with dg.instance_for_test() as instance:
        context = failed(
            instance,
            **{
                "dagster/asset_partition_range_start": "2024-06-06",
                "dagster/asset_partition_range_end": "2024-06-07",
            },
        )
        failed_runs_sensor(settings)(context)
    (asked,) = hook.asked
    content = json.loads(asked.body)["geostack"]
    assert content["job"] == "cmr_stac_daily"
    assert content["provider"] == "cmr_stac"
    assert content["dates"] == "2024-06-06 to 2024-06-07"
    assert "CMR is not available" in content["error"]
    assert content["will_retry"] is False
    shown = capsys.readouterr()
    assert "CMR is not available" in shown.err + shown.out
    assert "very-secret" not in shown.err + shown.out


def test_without_a_webhook_nothing_leaves_the_machine(
    hook: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    with dg.instance_for_test() as instance:
        failed_runs_sensor(parse_settings({}))(failed(instance))
    shown = capsys.readouterr()
    assert "cmr_stac_daily failed" in shown.err + shown.out
    assert hook.asked == []


# -- what there is ------------------------------------------------------------------------------------


def test_what_runs_by_itself_and_what_may_become_old() -> None:
    base = {"providers": {"cmr_stac": {}, "earthaccess": {}, "earth_search": {}}}
    defs = build_definitions(parse_settings(base))
    sensor = defs.resolve_sensor_def("new_emit_granules")
    assert {job.name for job in sensor.jobs} == {"cmr_stac_daily", "earthaccess_daily"}
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    assert sensor.minimum_interval_seconds == 900
    graph = defs.resolve_asset_graph()
    for key in defs.resolve_all_asset_keys():
        policy = graph.get(key).freshness_policy
        assert policy is not None, key
        assert policy.fail_window.to_timedelta() == timedelta(hours=54)

    on = {"running": True, "freshness": None, "new_granules": {"every_minutes": 0.5}}
    defs = build_definitions(parse_settings({**base, "automation": on}))
    for name in ("new_emit_granules", "failed_runs"):
        assert defs.resolve_sensor_def(name).default_status is dg.DefaultSensorStatus.RUNNING
    schedule = defs.resolve_schedule_def("cmr_stac_daily_ingest")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert defs.resolve_sensor_def("new_emit_granules").minimum_interval_seconds == 30
    assert defs.resolve_asset_graph().get(dg.AssetKey(["cmr_stac", "scenes"])).freshness_policy is None
    # A closed world has no next day.
    closed = build_definitions(parse_settings({**base, "end_date": datetime.now(UTC).date()}))
    assert closed.resolve_asset_graph().get(dg.AssetKey(["cmr_stac", "scenes"])).freshness_policy is None


# -- schedules ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_unchanged_date_costs_one_search_and_no_work(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    # Today is long after the world: as if the date were one of the last days.
    monkeypatch.setattr(scenes, "is_due", lambda *_: "asked within 7 days of its date")
    schedule = loop.defs.resolve_schedule_def("cmr_stac_daily_ingest")
    with dg.build_schedule_context(
        instance=loop.instance,
        scheduled_execution_time=datetime(2024, 6, 8, 4, 30, tzinfo=UTC),
        repository_def=loop.defs.get_repository_def(),
    ) as context:
        (request, *_) = [
            each
            for each in schedule.evaluate_tick(context).run_requests or []
            if each.partition_key == "2024-06-07"
        ]

    def run() -> tuple[dict[str, str], list[bool]]:
        done = loop.defs.resolve_job_def("cmr_stac_daily").execute_in_process(
            instance=loop.instance, partition_key=request.partition_key, run_config=request.run_config
        )
        assert done.success
        reused = [
            bool(event.materialization.metadata["reused"].value)
            for event in done.all_events
            if event.event_type_value == "ASSET_MATERIALIZATION"
            and "reused" in event.materialization.metadata
        ]
        ws = loop.ws
        pointers = {asset: ws.artifacts.pointer(asset, "2024-06-07") for asset in ws.artifacts.assets()}
        return {
            asset: pointer.version
            for asset, pointer in pointers.items()
            if pointer is not None and not asset.endswith("/ledger")
        }, reused

    before, built = run()
    loop.sandbox.clear_log()
    after, reused = run()
    assert after == before
    assert len(before) >= 4
    assert not any(built)
    assert reused == [True] * len(built)
    asked = [(each["method"], each["path"]) for each in loop.sandbox.log()["entries"]]
    # One search: a request for each area.
    assert asked == [("POST", "/cmr/stac/LPCLOUD/search")] * len(loop.settings.areas)
