"""Runs a range of dates from the command line: plan, launch what would change, go on with what finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import dagster as dg
from dagster import DagsterInstance

from geostack_pipeline.errors import BusyError
from geostack_pipeline.orchestration.assets import StageConfig
from geostack_pipeline.orchestration.processes import describe, process_tag, put_dead_aside, running
from geostack_pipeline.orchestration.sensors import RETRAIN
from geostack_pipeline.providers.contract import Provider
from geostack_pipeline.stages.plan import ACROSS, STAGES, Plan, contiguous, make_plan, stages_of
from geostack_pipeline.stages.progress import Event, listening
from geostack_pipeline.stages.workspace import Workspace

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"


@dataclass(frozen=True, kw_only=True)
class LaunchReport:
    """What a range came to."""

    provider: str
    days: tuple[str, ...]
    launched: int
    """Dagster runs started; 0 when nothing would have changed."""
    run_ids: tuple[str, ...]
    built: Mapping[str, tuple[str, ...]]
    """Stage -> dates computed."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Date -> error of the first stage that failed for it."""
    stats: Mapping[str, float] = field(default_factory=dict)
    """Numbers of this call summed over its dates, such as ``granules/bytes_moved``."""


class Launcher:
    """Starts runs of one provider's job in this process and follows them.

    Args:
        defs: The code location.
        instance: Where the runs are recorded.
        ws: Workspace, for planning.
        provider: Catalog to run.
    """

    def __init__(
        self, defs: dg.Definitions, instance: DagsterInstance, ws: Workspace, provider: Provider
    ) -> None:
        self._instance = instance
        self._ws = ws
        self._provider = provider
        self._job = defs.resolve_job_def(f"{provider.key}_daily")

    def run(
        self,
        days: Sequence[str],
        *,
        until: str | None = None,
        refresh: bool = False,
        on_plan: Callable[[Plan], None] | None = None,
    ) -> LaunchReport:
        """Bring the dates up to date: ask what is due, then build what changed, until nothing is left to do.

        A date that fails is left out of the rounds that follow; its stages before the failure stay stored.
        """
        put_dead_aside(self._instance)
        failed: dict[str, str] = {}
        chain = stages_of(self._provider.product, until)
        if until is None and self._provider.product.methane:
            chain = (*chain, *ACROSS)
        built: dict[str, set[str]] = {stage: set() for stage in (*STAGES, *ACROSS)}
        stats: dict[str, float] = {}
        run_ids: list[str] = []

        def follow(event: Event) -> None:
            if event.status == "failed":
                failed.setdefault(event.day, event.error or "unknown error")
            elif event.status == "built":
                built[event.stage].add(event.day)
            if event.status in {"built", "reused"}:
                for name, value in event.info.items():
                    if isinstance(value, int | float) and not name.startswith("meta/"):
                        key = f"{event.stage}/{name}"
                        stats[key] = stats.get(key, 0) + value

        with listening(follow):
            plan = make_plan(self._ws, self._provider, days, until=until, refresh=refresh)
            if on_plan is not None:
                on_plan(plan)
            # A list within its refresh window is due at any time; this call asks it once.
            due = plan.days("ask")
            run_ids += self._launch([STAGES[0]], due, failed, refresh=refresh)
            recheck = refresh and len(chain) > 1
            while True:
                live = [day for day in days if day not in failed]
                plan = make_plan(self._ws, self._provider, live, until=until, frozen=due)
                pending = plan.pending()
                stages = [stage for stage in chain if any(step.stage == stage for step in pending)]
                touched = sorted({step.day for step in pending})
                if recheck:
                    # Etags are asked again for every date, whether or not its list changed.
                    recheck = False
                    stages, touched = list(chain[1:]), live
                if not touched:
                    break
                before = len(failed)
                run_ids += self._launch(stages, touched, failed, refresh=refresh)
                if len(failed) == before:
                    break
        return LaunchReport(
            provider=self._provider.key,
            days=tuple(days),
            launched=len(run_ids),
            run_ids=tuple(run_ids),
            built={stage: tuple(sorted(chosen)) for stage, chosen in built.items()},
            failed=dict(sorted(failed.items())),
            stats=stats,
        )

    def _launch(
        self, stages: Sequence[str], days: Sequence[str], failed: dict[str, str], *, refresh: bool
    ) -> list[str]:
        run_ids = []
        for first, last in contiguous(days, blocked=failed):
            before = set(failed)
            run_id = str(uuid4())
            result = self._job.execute_in_process(
                instance=self._instance,
                asset_selection=[dg.AssetKey(self._path(stage)) for stage in stages],
                run_id=run_id,
                tags={
                    RANGE_START: first,
                    RANGE_END: last,
                    "geostack/provider": self._provider.key,
                    **process_tag(run_id),
                },
                run_config=self._config(stages, refresh=refresh),
                raise_on_error=False,
            )
            run_ids.append(result.run_id)
            if not result.success and _interrupted(result):
                raise KeyboardInterrupt
            if not result.success and set(failed) == before:
                # The step failed before it came to its dates.
                for day in days:
                    if first <= day <= last:
                        failed[day] = _reason(result)
        return run_ids

    def _path(self, stage: str) -> list[str]:
        """Return the parts of the key of a stage's asset."""
        return [stage] if stage in ACROSS else [self._provider.key, stage]

    def _config(self, stages: Sequence[str], *, refresh: bool) -> dict[str, Any]:
        config = StageConfig(refresh=refresh, pins=dict(self._ws.pins)).model_dump()
        return {
            "ops": {"__".join(self._path(stage)): {"config": config} for stage in stages},
            # The command line tells its own story; errors reach it through the report.
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        }


def run_retrain(defs: dg.Definitions, instance: DagsterInstance) -> str | None:
    """Run the job that trains, judges and perhaps promotes a model; return why it failed, None where it did not.

    Raises:
        BusyError: Another training runs.
    """
    put_dead_aside(instance)
    other = running(instance, RETRAIN)
    if other is not None:
        raise BusyError(
            "another training of the model runs",
            subject=f"job {RETRAIN}",
            found=f"run {other.run_id}, {other.status.value.lower()}, {describe(other)}",
            action="wait for its end, or end it: in the UI, or with Ctrl-C where it was started",
            retryable=True,
        )
    run_id = str(uuid4())
    result = defs.resolve_job_def(RETRAIN).execute_in_process(
        instance=instance,
        run_id=run_id,
        tags=process_tag(run_id),
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
    )
    if result.success:
        return None
    if _interrupted(result):
        raise KeyboardInterrupt
    return _reason(result)


def _interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether the run ended by Ctrl-C, which Dagster turns into a failure of the step."""
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None:
                if error.cls_name in {"DagsterExecutionInterruptedError", "KeyboardInterrupt"}:
                    return True
                error = error.cause
    return False


def _reason(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None and error.cause is not None:
                error = error.cause
            if error is not None:
                return f"{event.step_key}: {error.message.strip()}"
    return "the run failed before any date was tried; see the run's log in the UI"
