"""``geostack run``: brings a range of dates of one provider up to date."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from geostack_pipeline.commands.console import Exit, console, errors, print_json, size, table
from geostack_pipeline.orchestration.build import build_definitions
from geostack_pipeline.orchestration.instance import shared_instance
from geostack_pipeline.orchestration.launch import Launcher, LaunchReport
from geostack_pipeline.settings import SETTINGS_VARIABLE, Settings, load_settings, settings_path
from geostack_pipeline.stages import cube
from geostack_pipeline.stages.plan import ACROSS, STAGES, Plan, day_range, stages_of
from geostack_pipeline.stages.progress import Event, listening
from geostack_pipeline.stages.workspace import Workspace, asset_name, open_workspace, parse_day


def run_range(
    provider: str,
    first: str,
    last: str,
    *,
    settings_file: Path | None = None,
    until: str | None = None,
    refresh: bool = False,
    pins: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> tuple[LaunchReport, Workspace]:
    """Run the dates and return what came of them, and the workspace to read the results from."""
    settings = load_settings(settings_file)
    file = str(settings_path(settings_file).resolve())
    settings.provider(provider)
    ws = open_pinned(settings, pins)
    days = day_range(ws, first, last)
    catalog = settings.build_provider(provider)
    stages = stages_of(catalog.product, until)
    defs = build_definitions(settings, file)
    if until is None and catalog.product.methane:
        stages = (*stages, *ACROSS)
    with shared_instance() as instance, _progress(provider, days, stages, quiet=quiet) as on_plan:
        report = Launcher(defs, instance, ws, catalog).run(
            days, until=until, refresh=refresh, on_plan=on_plan
        )
    return report, ws


def open_pinned(settings: Settings, pins: Mapping[str, str] | None) -> Workspace:
    """Open the stores, and hear of a pin that names nothing stored before anything is asked or built."""
    ws = open_workspace(settings, pins=pins)
    for name in ws.pins:
        asset, _, day = name.rpartition("/")
        parse_day(day)
        ws.current(asset, day)
    return ws


@contextmanager
def _progress(provider: str, days: Sequence[str], stages: Sequence[str], *, quiet: bool) -> Iterator[Any]:
    """Show one bar per stage on a terminal; yield the callback for the plan."""
    shown = quiet is False and errors.is_terminal
    progress = Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=errors,
        disable=not shown,
        transient=True,
    )
    tasks = {stage: progress.add_task(stage, total=len(days), note="") for stage in stages}
    finished: dict[str, set[str]] = {stage: set() for stage in stages}
    moved = 0

    def on_plan(plan: Plan) -> None:
        for step in plan.steps:
            if step.action == "fresh":
                finished[step.stage].add(step.day)
        for stage, task in tasks.items():
            progress.update(task, completed=len(finished[stage]))

    def follow(event: Event) -> None:
        nonlocal moved
        if event.provider not in {provider, ""} or event.stage not in tasks:
            return
        if event.status == "moved":
            moved += int(event.info.get("bytes", 0))
            progress.update(tasks[event.stage], note=size(moved))
        elif event.status in {"built", "reused", "failed"}:
            finished[event.stage].add(event.day)
            progress.update(tasks[event.stage], completed=len(finished[event.stage]))

    with listening(follow), progress:
        yield on_plan


def summary_rows(ws: Workspace, provider: str, days: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row per date that has any scene: counts, bytes, cube shape and plumes, read from the store."""
    rows = []
    for day in days:
        stored = {
            stage: ws.artifacts.current(asset_name(provider, stage), day)
            for stage in stages_of(ws.settings.provider_spec(provider).product)
        }
        scenes = stored["scenes"]
        if scenes is None or not scenes.meta["rows"] + scenes.meta["rejected"]:
            continue
        selected, granules, cubes, methane = (stored.get(stage) for stage in STAGES[1:])
        shapes = cube.summary(cubes) if cubes is not None else None
        rows.append(
            {
                "date": day,
                "scenes": scenes.meta["rows"],
                "rejected": scenes.meta["rejected"],
                "selected": selected.meta["rows"] if selected else None,
                "cached_bytes": granules.meta["cached_bytes"] if granules else None,
                "whole_bytes": granules.meta["whole_bytes"] if granules else None,
                "cube": [f"{row['area']} {row['shape']}" for row in shapes.iter_rows(named=True)]
                if shapes is not None
                else [],
                "plumes": methane.meta["plumes"] if methane else None,
                "versions": {
                    stage: snapshot.version for stage, snapshot in stored.items() if snapshot is not None
                },
            }
        )
    return rows


def print_summary(report: LaunchReport, rows: Sequence[Mapping[str, Any]], seconds: float) -> None:
    """Print the summary table of a run and the errors of the dates that failed."""
    shown = table(
        f"{report.provider}  {report.days[0]} to {report.days[-1]}",
        "date", "scenes", "selected", "cached", "whole files", "cube (band x y x x)", "plumes",
        right=("scenes", "selected", "cached", "whole files", "plumes"),
    )  # fmt: skip
    for row in rows:
        shown.add_row(
            row["date"],
            _count(row["scenes"]),
            _count(row["selected"]),
            size(row["cached_bytes"]) if row["cached_bytes"] is not None else "-",
            size(row["whole_bytes"]) if row["whole_bytes"] is not None else "-",
            ", ".join(row["cube"]) or "-",
            _count(row["plumes"]),
        )
    console.print(shown)
    empty = len(report.days) - len(rows) - len(set(report.failed) - {row["date"] for row in rows})
    console.print(f"{empty} further date(s) without a scene", style="dim")
    moved, requests = report.stats.get("granules/bytes_moved", 0), report.stats.get("granules/requests", 0)
    if report.launched:
        console.print(
            f"{report.launched} run(s) launched, {size(moved)} moved in {requests:.0f} request(s), "
            f"{report.stats.get('granules/cache_hits', 0):.0f} cache hit(s), {seconds:.1f} s"
        )
    else:
        console.print(
            f"nothing to do: every version is what its inputs lead to; nothing was launched, {seconds:.1f} s"
        )
    for day, error in report.failed.items():
        errors.print(f"[red]failed[/red] {day}: ", end="")
        errors.print(error, markup=False)


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def run_command(
    provider: str,
    first: str,
    last: str,
    *,
    settings_file: Path | None,
    until: str | None,
    refresh: bool,
    pins: Mapping[str, str],
    as_json: bool,
) -> Exit:
    """Run, report, and return the exit code."""
    started = time.monotonic()
    if settings_file is not None:
        os.environ[SETTINGS_VARIABLE] = str(settings_file.resolve())
    report, ws = run_range(
        provider,
        first,
        last,
        settings_file=settings_file,
        until=until,
        refresh=refresh,
        pins=pins,
        quiet=as_json,
    )
    rows = summary_rows(ws, provider, report.days)
    seconds = time.monotonic() - started
    if as_json:
        print_json({**asdict(report), "dates": rows, "seconds": round(seconds, 3)})
    else:
        print_summary(report, rows, seconds)
    return Exit.FAILED if report.failed else Exit.OK
