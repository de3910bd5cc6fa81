"""What runs by itself besides the schedules: changes of EMIT's catalogs, new labels, and notices of failed runs.

The decisions are plain functions (``stages/changes.py``, ``stages/retraining.py``, ``stages/notices.py``); docs/automation.md
tells what happens when something crashes in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from geostack_pipeline.orchestration.jobs import refreshing
from geostack_pipeline.providers.contract import Product
from geostack_pipeline.providers.revisions import RevisionSource
from geostack_pipeline.settings import Settings
from geostack_pipeline.stages import changes, notices, retraining
from geostack_pipeline.stages.workspace import Workspace

NEW_GRANULES = "new_emit_granules"
NEW_LABELS = "enough_new_labels"
FAILED_RUNS = "failed_runs"
RETRAIN = "retrain"
"""Name of the job that trains, judges and perhaps promotes a model."""
RETRAIN_TAG = ("geostack/job", RETRAIN)
"""Tag of its runs, of which dagster.yaml lets one run at a time."""
CHANGES_TAG = "geostack/changes"
TRIGGER_TAG = "geostack/trigger"
_RETRIES_TAG = "dagster/max_retries"
_LONGEST_TAG = 500

Job = Any
"""A job of assets, whose type Dagster does not export, or any other."""
LabelState = Callable[[Workspace], tuple[set[tuple[str, str]], set[tuple[str, str]] | None, datetime | None]]
"""Returns the labels that are stored, those that the champion learnt from (None without one), and when it was made."""


def switched(settings: Settings) -> dg.DefaultSensorStatus:
    """Return whether a sensor is on before anyone switches it."""
    return dg.DefaultSensorStatus.RUNNING if settings.automation.running else dg.DefaultSensorStatus.STOPPED


def new_granules_sensor(
    jobs: Mapping[str, Job], products: Mapping[str, Product], settings: Settings
) -> dg.SensorDefinition:
    """Return the sensor that asks catalogs what changed and requests a run for each date that it concerns.

    Args:
        jobs: Provider that is a :class:`RevisionSource` -> its daily job.
        products: Provider -> what its scenes are.
        settings: How often; everything else is read anew at each turn.
    """

    def turn(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        ws: Workspace = context.resources.workspace.open()
        own = ws.settings.automation.new_granules
        before = changes.decode(context.cursor)
        # A provider that is not configured any more has nothing to wait for; one that fails stops the turn for all, so
        # that it is seen: no cursor moves, and nothing is lost.
        after: dict[str, changes.Cursor] = {}
        requests: list[dg.RunRequest] = []
        told: list[str] = []
        for key in jobs:
            provider: RevisionSource = getattr(context.resources, key).provider()
            done = changes.take_turn(
                ws,
                provider,
                before.get(key),
                overlap=timedelta(hours=own.overlap_hours),
                most=own.runs_per_turn,
            )
            after[key] = done.cursor
            requests += [_request(key, products[key], wanted, own.retries) for wanted in done.runs]
            told.append(_summary(key, done))
            context.log.info("%s", told[-1])
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else dg.SkipReason("; ".join(told)),
            cursor=changes.encode(after),
        )

    return dg.sensor(
        name=NEW_GRANULES,
        jobs=list(jobs.values()),
        minimum_interval_seconds=round(settings.automation.new_granules.every_minutes * 60),
        default_status=switched(settings),
        required_resource_keys={"workspace", *jobs},
        description="Asks CMR by revision date what was added, revised or deleted, and runs exactly the dates "
        "that this concerns: each change once, also after a crash.",
    )(turn)


def new_labels_sensor(job: Job, settings: Settings, state: LabelState) -> dg.SensorDefinition:
    """Return the sensor that starts a training when enough labels are stored that no training was meant for.

    Args:
        job: The job that trains.
        settings: How often; the numbers are read anew at each turn.
        state: Tells what is stored and what the champion learnt from.
    """
    name = job.name

    def turn(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        ws: Workspace = context.resources.workspace.open()
        own = ws.settings.automation.new_labels
        labelled, champion, trained_at = state(ws)
        decision = retraining.decide(
            labelled,
            champion,
            retraining.decode(context.cursor),
            busy=_unfinished(context.instance, name) > 0,
            now=ws.now(),
            granules=own.granules,
            days=own.days,
            trained_at=trained_at,
        )
        context.log.info("%s", decision.reason)
        requests = []
        if decision.start is not None:
            tags = {
                RETRAIN_TAG[0]: RETRAIN_TAG[1],
                TRIGGER_TAG: NEW_LABELS,
                "geostack/new_labels": str(decision.new),
            }
            requests.append(dg.RunRequest(run_key=decision.start, job_name=name, tags=tags))
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else dg.SkipReason(decision.reason),
            cursor=retraining.encode(decision.attempts),
        )

    return dg.sensor(
        name=NEW_LABELS,
        job=job,
        minimum_interval_seconds=round(settings.automation.new_labels.every_minutes * 60),
        default_status=switched(settings),
        required_resource_keys={"workspace"},
        description="Starts a training once enough labels, or any after a long time, separate the model in use from what is "
        "stored: never two at once, never twice from the same labels.",
    )(turn)


def failed_runs_sensor(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor that tells of each failed run: in its log, and to the webhook of the settings."""

    @dg.run_failure_sensor(
        name=FAILED_RUNS,
        default_status=switched(settings),
        minimum_interval_seconds=30,
        description="Tells of each failed run of this code location: in this log, and to the webhook that the settings name.",
    )
    def failed_runs(context: dg.RunFailureSensorContext) -> None:
        notice = notice_of(context)
        # A webhook that fails is an error of this sensor's turn, which says so in the UI; the log has the notice by then.
        for notifier in notices.notifiers(settings.automation.notify, context.log.error):
            notifier.notify(notice)

    return failed_runs


def notice_of(context: dg.RunFailureSensorContext) -> notices.Notice:
    """Return what is told of a failed run."""
    run = context.dagster_run
    causes = []
    for event in context.get_step_failure_events():
        error = event.step_failure_data.error
        while error is not None and error.cause is not None:
            error = error.cause
        if error is not None:
            causes.append(f"{event.step_key}: {error.message.strip()}")
    told = "\n".join(causes) or (context.failure_event.message or "no error was recorded").strip()
    first, last = (
        run.tags.get(f"dagster/asset_partition_range_{end}", run.tags.get("dagster/partition"))
        for end in ("start", "end")
    )
    # The tag may have been written after the event.
    now = context.instance.get_run_by_id(run.run_id) or run
    return notices.Notice(
        run_id=run.run_id,
        job=run.job_name,
        error=told[: notices.LONGEST_ERROR],
        provider=run.tags.get("geostack/provider"),
        dates=first if first == last else f"{first} to {last}",
        will_retry=now.tags.get("dagster/will_retry") == "true",
    )


def _request(key: str, product: Product, wanted: changes.RunWanted, retries: int) -> dg.RunRequest:
    named = ", ".join(wanted.changes)
    tags = {
        "geostack/provider": key,
        TRIGGER_TAG: NEW_GRANULES,
        CHANGES_TAG: named if len(named) <= _LONGEST_TAG else f"{named[:_LONGEST_TAG]}…",
    }
    if retries:
        tags[_RETRIES_TAG] = str(retries)
    return dg.RunRequest(
        run_key=f"{key}/{wanted.key}",
        partition_key=wanted.day,
        job_name=f"{key}_daily",
        # Frozen lists are asked again, and cached files compared with their sources: CMR-STAC shows no revisions.
        run_config=refreshing(key, product),
        tags=tags,
    )


def _summary(key: str, done: changes.Turn) -> str:
    parts = [f"{key}: {done.found} new change(s)", f"{len(done.runs)} run(s) requested"]
    if done.cursor.pending:
        parts.append(f"{len(done.cursor.pending)} date(s) run at the next turns")
    parts += [f"{count} {reason}" for reason, count in sorted(done.ignored.items())]
    return ", ".join(parts) + f"; looked at since {done.cursor.since:%Y-%m-%dT%H:%M:%SZ}"


def _unfinished(instance: dg.DagsterInstance, job: str) -> int:
    """Return how many runs of a job are queued or running, by whomever they were started."""
    from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES  # noqa: PLC0415 - no public name

    return instance.get_runs_count(dg.RunsFilter(job_name=job, statuses=list(NOT_FINISHED_STATUSES)))
