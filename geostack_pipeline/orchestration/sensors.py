"""What runs by itself besides the schedules: changes of EMIT's catalogs, new labels, and notices of failed runs.

The decisions are plain functions (``stages/changes.py``, ``stages/retraining.py``, ``stages/notices.py``); docs/automation.md
tells what happens when something crashes in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from geostack_pipeline.orchestration.jobs import refreshing
from geostack_pipeline.orchestration.processes import put_dead_aside, unfinished
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
_STRATEGY_TAG = "dagster/retry_strategy"
_KEY_TAG = "dagster/run_key"
_RETRY_WITHIN = timedelta(minutes=10)
"""The daemon tries a failed run again within seconds; if it has not by then, it does not."""
_LONGEST_TAG = 500

Job = Any
"""A job of assets, whose type Dagster does not export, or any other."""
LabelState = Callable[[Workspace], retraining.Known]
"""Returns the labels that are stored, and those that the champion and the last candidate learnt from."""


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
        _put_aside(context)
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
        _put_aside(context)
        ws: Workspace = context.resources.workspace.open()
        own = ws.settings.automation.new_labels
        attempts = retraining.decode(context.cursor)
        # The runs before the store: a training that ends in between is waited for once more, never repeated.
        busy, last = _trainings(context.instance, name, attempts, ws.now())
        decision = retraining.decide(
            state(ws),
            attempts,
            busy=busy,
            last=last,
            now=ws.now(),
            granules=own.granules,
            days=own.days,
            pause=timedelta(minutes=own.every_minutes),
        )
        context.log.info("%s", decision.reason)
        requests = []
        if decision.start is not None:
            tags = {
                RETRAIN_TAG[0]: RETRAIN_TAG[1],
                TRIGGER_TAG: NEW_LABELS,
                "geostack/new_labels": str(decision.new),
            }
            if own.retries:
                # From the beginning: what is stored is adopted, and the training learns from what is there by then.
                tags |= {_RETRIES_TAG: str(own.retries), _STRATEGY_TAG: "ALL_STEPS"}
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


def _put_aside(context: dg.SensorEvaluationContext) -> None:
    """Report runs as failed whose process was killed: they would hold up everything that waits for their end."""
    for run_id in put_dead_aside(context.instance):
        context.log.warning("run %s: its process is dead, the run is reported as failed", run_id)


def _trainings(
    instance: dg.DagsterInstance, job: str, attempts: retraining.Attempts, now: datetime
) -> tuple[bool, retraining.Last | None]:
    """Return whether a training is under way, by whomever it was started, and what became of the last one of ours."""
    # A daemon that died may have created the run of our own intent; the request under its key has it launched.
    busy = any(
        run.status is not dg.DagsterRunStatus.NOT_STARTED or run.tags.get(_KEY_TAG) != attempts.intent
        for run in unfinished(instance, job)
    )
    if attempts.started is None:
        return busy, None
    # The newest first; a run that tries another one again has its key.
    records = instance.get_run_records(dg.RunsFilter(job_name=job, tags={_KEY_TAG: attempts.started}))
    if any(each.dagster_run.status is dg.DagsterRunStatus.SUCCESS for each in records):
        return busy, retraining.Last(learnt=True)
    if not records or records[0].dagster_run.status is not dg.DagsterRunStatus.FAILURE:
        return busy, retraining.Last()
    newest = records[0]
    ended = newest.end_time or newest.update_timestamp.timestamp()
    failed_at = datetime.fromtimestamp(ended, UTC)
    if newest.dagster_run.is_complete_and_waiting_to_retry and now - failed_at < _RETRY_WITHIN:
        return True, retraining.Last()
    return busy, retraining.Last(failed_at=failed_at)
