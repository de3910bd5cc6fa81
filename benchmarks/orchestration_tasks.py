"""A range of dates without a scene, with Dagster and without; each in a process of its own (see worker)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

Work = Callable[[], dict[str, Any]]
FIRST_DAY = date(2025, 1, 1)
_KEY = "earth_search"


def write_settings(folder: Path, url: str) -> None:
    """Write a project folder whose catalog has nothing: settings and the project's own dagster.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).parents[1] / "dagster.yaml", folder)
    (folder / "geostack.yaml").write_text(
        f"""
root: file:store
start_date: {FIRST_DAY}
areas:
  korpezhe: {{bbox: [53.95, 38.45, 54.25, 38.60]}}
providers:
  {_KEY}: {{url: "{url}"}}
"""
    )


def _days(count: int) -> list[str]:
    return [(FIRST_DAY + timedelta(days=number)).isoformat() for number in range(count)]


def ranged_run(folder: str, days: int, until: str) -> Work:
    """``geostack run`` over a range, in this process: plan, Dagster runs, events, checks."""
    from geostack_pipeline.commands.run import run_range

    os.environ.pop("DAGSTER_HOME", None)
    os.chdir(folder)
    span = _days(days)

    def work() -> dict[str, Any]:
        report, _ = run_range(
            _KEY, span[0], span[-1], settings_file=Path("geostack.yaml"), until=until, quiet=True
        )
        if report.failed:
            raise RuntimeError(str(next(iter(report.failed.items()))))
        return {
            "asset_partitions": sum(len(built) for built in report.built.values()),
            "launched": report.launched,
        }

    return work


def plain_stages(folder: str, days: int, until: str) -> Work:
    """The same five stages called as functions, date by date: what the work itself takes."""
    from geostack_pipeline.settings import load_settings
    from geostack_pipeline.stages import cube, granules, methane, scenes, selected
    from geostack_pipeline.stages.plan import STAGES
    from geostack_pipeline.stages.workspace import open_workspace

    file = Path(folder, "geostack.yaml")
    ws = open_workspace(load_settings(file))
    provider = load_settings(file).build_provider(_KEY)

    between = {"selected": selected, "granules": granules, "cube": cube}
    wanted = STAGES[1 : STAGES.index(until) + 1]

    def work() -> dict[str, Any]:
        built = 0
        for day in _days(days):
            outcomes = [scenes.build(ws, provider, day)]
            for name in wanted:
                source = outcomes[-1].snapshot
                if name == methane.NAME:
                    earlier = methane.references(ws, provider, day)
                    outcomes.append(methane.build(ws, provider, day, source, earlier))
                else:
                    outcomes.append(between[name].build(ws, provider, day, source))
            built += sum(not outcome.reused for outcome in outcomes)
        return {"asset_partitions": built}

    return work


def plan(folder: str, days: int, until: str) -> Work:
    """``stages.plan.make_plan`` over dates that are all stored."""
    from geostack_pipeline.settings import load_settings
    from geostack_pipeline.stages.plan import make_plan
    from geostack_pipeline.stages.workspace import open_workspace

    file = Path(folder, "geostack.yaml")
    ws = open_workspace(load_settings(file))
    provider = load_settings(file).build_provider(_KEY)

    def work() -> dict[str, Any]:
        made = make_plan(ws, provider, _days(days), until=until)
        return {"asset_partitions": len(made.steps), "pending": len(made.pending())}

    return work
