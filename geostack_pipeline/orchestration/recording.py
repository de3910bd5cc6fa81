"""One event per date: Dagster gives a ranged step one version for all its dates, users need each date's own.

The events carry the tags that Dagster itself writes for provenance, so that its staleness is true per date,
also when some dates of a run failed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from dagster import AssetCheckEvaluation


@dataclass(frozen=True, kw_only=True)
class DayResult:
    """What is recorded of one finished date."""

    value: Any
    """The snapshot handed on."""
    version: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, tuple[bool, Mapping[str, Any]]] = field(default_factory=dict)


def input_tags(context: dg.AssetExecutionContext) -> dict[str, str]:
    """Return the provenance tags of the inputs as they are now; call it when the step starts."""
    tags: dict[str, str] = {}
    for upstream in context.assets_def.asset_deps[context.asset_key]:
        name = upstream.to_user_string()
        for record in context.instance.fetch_materializations(upstream, limit=1).records:
            materialization = record.asset_materialization
            version = (materialization.tags or {}).get("dagster/data_version") if materialization else None
            tags[f"dagster/input_event_pointer/{name}"] = str(record.storage_id)
            if version is not None:
                tags[f"dagster/input_data_version/{name}"] = version
    return tags


def record_days(
    context: dg.AssetExecutionContext,
    inputs: Mapping[str, str],
    code_version: str,
    done: Mapping[str, DayResult],
    failed: Mapping[str, str],
) -> Iterator[dg.Output[Any] | dg.AssetCheckResult]:
    """Record the finished dates, then fail the step when any other date did not finish.

    Args:
        inputs: The tags of :func:`input_tags`.
        done: Finished dates.
        failed: Date -> the error, in one line.
    """
    for day, result in done.items():
        _log_checks(context, day, result)
    if failed:
        _log_materializations(context, inputs, code_version, done)
        lines = "\n".join(f"- {day}: {error}" for day, error in sorted(failed.items()))
        raise dg.Failure(
            description=f"{len(failed)} of {len(failed) + len(done)} date(s) failed, the others are stored:\n{lines}",
            metadata={
                "failed dates": dg.MetadataValue.text(lines),
                "finished dates": ", ".join(sorted(done)) or "none",
            },
            allow_retries=False,
        )
    yield dg.Output({day: result.value for day, result in done.items()})
    for name in sorted({name for result in done.values() for name in result.checks}):
        judged = {day: result.checks[name] for day, result in done.items() if name in result.checks}
        bad = sorted(day for day, (passed, _) in judged.items() if not passed)
        yield dg.AssetCheckResult(
            check_name=name,
            passed=not bad,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{len(judged) - len(bad)} of {len(judged)} date(s) pass"
            + (f"; not {', '.join(bad[:5])}" if bad else ""),
            metadata={"dates": len(judged), "dates that did not pass": ", ".join(bad) or "none"},
        )
    # Dagster's own event for the range comes with the output above; ours follow, because the last one counts.
    _log_materializations(context, inputs, code_version, done)


def _log_materializations(
    context: dg.AssetExecutionContext,
    inputs: Mapping[str, str],
    code_version: str,
    done: Mapping[str, DayResult],
) -> None:
    for day, result in done.items():
        context.log_event(
            dg.AssetMaterialization(
                asset_key=context.asset_key,
                partition=day,
                metadata=dict(result.metadata),
                tags={
                    **inputs,
                    "dagster/code_version": code_version,
                    "dagster/data_version": result.version,
                    "dagster/data_version_is_user_provided": "true",
                },
            )
        )


def _log_checks(context: dg.AssetExecutionContext, day: str, result: DayResult) -> None:
    for name, (passed, detail) in result.checks.items():
        context.log_event(
            AssetCheckEvaluation(
                asset_key=context.asset_key,
                check_name=name,
                passed=passed,
                severity=dg.AssetCheckSeverity.WARN,
                description="; ".join(f"{key}: {value}" for key, value in detail.items()),
                metadata={key: dg.MetadataValue.text(str(value)) for key, value in detail.items()},
                partition=day,
            )
        )
