"""Orchestration: what Dagster adds to a date, and how long it takes to find out that a year has nothing to do."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.orchestration_tasks import write_settings
from benchmarks.report import Report, Table, Target, middle
from benchmarks.web import running
from benchmarks.worker import Measured, measure

_TASKS = "benchmarks.orchestration_tasks"
_STAGES = 5


def run(*, quick: bool, repeat: int) -> Report:
    """Return the figures; ``quick`` takes two dates."""
    days, year = (2, 3) if quick else (90, 365)
    with (
        running("benchmarks.catalog_server", "--items", "0") as url,
        tempfile.TemporaryDirectory(prefix="geostack-bench-") as name,
    ):
        ranged, plain = [], []
        for number in range(repeat):
            for task, found in (("ranged_run", ranged), ("plain_stages", plain)):
                folder = Path(name, f"{task}-{number}")
                write_settings(folder, url)
                found.append(_checked(measure(f"{_TASKS}:{task}", folder=str(folder), days=days), days))
        stored = Path(name, "year")
        write_settings(stored, url)
        filled = _checked(measure(f"{_TASKS}:plain_stages", folder=str(stored), days=year), year)
        plans = [measure(f"{_TASKS}:plan", folder=str(stored), days=year) for _ in range(repeat)]
        idle = [measure(f"{_TASKS}:ranged_run", folder=str(stored), days=year) for _ in range(repeat)]
    if any(one.facts != {"asset_partitions": _STAGES * year, "pending": 0} for one in plans):
        raise RuntimeError(f"a plan of {_STAGES * year} fresh steps expected, found {plans[0].facts}")
    if any(one.facts != {"asset_partitions": 0, "launched": 0} for one in idle):
        raise RuntimeError(f"nothing to launch expected, found {idle[0].facts}")
    count = _STAGES * days
    added = (middle([one.wall_s for one in ranged]) - middle([one.wall_s for one in plain])) / count
    tables = [
        Table(
            title=f"{days} dates without a scene, {_STAGES} stages each",
            columns=_COLUMNS,
            rows=[
                _row("geostack run: plan, Dagster runs, events, checks", ranged, count),
                _row("the stages as functions, without Dagster", plain, count),
            ],
            note=f"Dagster adds {added * 1000:.1f} ms to an asset partition; {ranged[-1].facts['launched']} run(s) launched",
        ),
        Table(
            title=f"{year} dates, all stored ({filled.wall_s:.0f} s to store them without Dagster)",
            columns=_COLUMNS,
            rows=[
                _row("make_plan: compare the versions", plans, _STAGES * year),
                _row("geostack run: nothing launched", idle, _STAGES * year),
            ],
        ),
    ]
    return Report(
        name="orchestration",
        about=f"{days} and {year} dates of a catalog without items; medians of {repeat}",
        tables=tables,
        targets=[
            _at_most("a ranged run per asset partition, work included", tables[0].rows[0][4] / 1000, 0.1),
            _at_most("finding out that nothing is to do", middle([one.wall_s for one in plans]), 10),
        ],
    )


_COLUMNS = ["way", "wall s", "CPU s", "peak MB", "ms per asset partition", "asset partitions"]


def _row(text: str, runs: list[Measured], count: int) -> list[Any]:
    wall = middle([one.wall_s for one in runs])
    return [
        text,
        wall,
        middle([one.cpu_s for one in runs]),
        middle([one.peak_mb for one in runs]),
        wall / count * 1000,
        count,
    ]


def _checked(measured: Measured, days: int) -> Measured:
    if measured.facts.get("asset_partitions") != _STAGES * days:
        raise RuntimeError(f"{_STAGES * days} asset partitions expected, found {measured.facts}")
    return measured


def _at_most(what: str, found: float, limit: float) -> Target:
    return Target(what=what, found=found, unit="s", limit=limit, at_most=True)
