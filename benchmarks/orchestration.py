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


def run(*, quick: bool, repeat: int) -> Report:
    """Return the figures; ``quick`` takes two dates and the first two stages, which load no compiler."""
    days, year, stages, until = (2, 2, 2, "selected") if quick else (90, 365, 5, "methane")
    with (
        running("benchmarks.catalog_server", "--items", "0") as url,
        tempfile.TemporaryDirectory(prefix="geostack-bench-") as name,
    ):

        def once(task: str, folder: str, count: int) -> Measured:
            path = Path(name, folder)
            if not path.exists():
                write_settings(path, url)
            return measure(f"{_TASKS}:{task}", folder=str(path), days=count, until=until)

        once("plain_stages", "warm", 1)
        once("ranged_run", "warm", 2)  # what is compiled once is not a part of any figure
        ranged, plain = [], []
        for number in range(repeat):
            ranged.append(_checked(once("ranged_run", f"ranged-{number}", days), stages * days))
            plain.append(_checked(once("plain_stages", f"plain-{number}", days), stages * days))
        _checked(once("plain_stages", "year", year), stages * year)
        plans = [once("plan", "year", year) for _ in range(repeat)]
        idle = [once("ranged_run", "year", year) for _ in range(repeat)]
    if any(one.facts != {"asset_partitions": stages * year, "pending": 0} for one in plans):
        raise RuntimeError(f"a plan of {stages * year} fresh steps expected, found {plans[0].facts}")
    if any(one.facts != {"asset_partitions": 0, "launched": 0} for one in idle):
        raise RuntimeError(f"nothing to launch expected, found {idle[0].facts}")
    count = stages * days
    total = middle([one.wall_s for one in ranged])
    added = total - middle([one.wall_s for one in plain])
    return Report(
        name="orchestration",
        about=f"{days} and {year} dates of a catalog without items, {stages} stages; medians of {repeat}",
        tables=[
            Table(
                title=f"{days} dates without a scene, to be stored",
                columns=_COLUMNS,
                rows=[
                    _row("geostack run: plan, Dagster runs, events, checks", ranged, count),
                    _row("the stages as functions, without Dagster", plain, count),
                ],
                note=f"{ranged[-1].facts['launched']} runs launched; the run asks 4 dates at once, the functions one; "
                "both load their libraries within the time",
            ),
            Table(
                title=f"{year} dates, all stored",
                columns=_COLUMNS,
                rows=[
                    _row("make_plan: compare the versions", plans, stages * year),
                    _row("geostack run: nothing launched", idle, stages * year),
                ],
            ),
        ],
        targets=[
            _at_most("what Dagster adds to an asset partition of a ranged run", added / count, 0.1),
            _at_most("a whole ranged run per asset partition, work included", total / count, 0.1),
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


def _checked(measured: Measured, count: int) -> Measured:
    if measured.facts.get("asset_partitions") != count:
        raise RuntimeError(f"{count} asset partitions expected, found {measured.facts}")
    return measured


def _at_most(what: str, found: float, limit: float) -> Target:
    return Target(what=what, found=found, unit="s", limit=limit, at_most=True)
