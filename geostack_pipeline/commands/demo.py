"""``geostack demo``: the whole pipeline on a synthetic world, scored against what was planted there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import shapely

from geostack_pipeline.commands.console import Exit, console, errors, print_json, table
from geostack_pipeline.commands.run import print_summary, run_range, summary_rows
from geostack_pipeline.commands.sandbox import running_sandbox, settings_in_force
from geostack_pipeline.stages.workspace import Workspace, asset_name

MATCH_METRES = 500.0
"""A candidate finds a planted plume when it touches its true footprint or starts this near to its source."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Plumes found against plumes planted."""

    planted: int
    found: int
    missed: tuple[str, ...]
    false_candidates: int


def demo_command(folder: Path, *, seed: int | None, small: bool, as_json: bool) -> Exit:
    """Start the world, run every provider over its dates, print what came of it."""
    started = time.monotonic()
    if not as_json:
        errors.print(
            "starting the sandbox: a catalog, a bucket and synthetic scenes on loopback …", style="dim"
        )
    with running_sandbox(folder, seed=seed, small=small) as (sandbox, file), settings_in_force(file):
        ready = time.monotonic()
        first, last = sandbox.days
        report, ws = run_range("earth_search", first, last, settings_file=file, quiet=as_json)
        rows = summary_rows(ws, report.provider, report.days)
        score = score_plumes(ws, report.provider, report.days, sandbox.truth())
        seconds = time.monotonic() - ready
    if as_json:
        print_json(
            {
                **asdict(report),
                "dates": rows,
                "score": asdict(score),
                "seconds": round(time.monotonic() - started, 2),
                "settings": str(file),
            }
        )
        return Exit.FAILED if report.failed else Exit.OK
    print_summary(report, rows, seconds)
    _print_score(score)
    console.print(
        f"\n[dim]total {time.monotonic() - started:.1f} s. Look at it: [/dim]make ui"
        f"[dim], then http://127.0.0.1:3000; pictures and cubes lie under[/dim] {folder}/store",
        soft_wrap=True,
    )
    return Exit.FAILED if report.failed else Exit.OK


def score_plumes(
    ws: Workspace, provider: str, days: Sequence[str], planted: Sequence[dict[str, Any]]
) -> Score:
    """Compare the stored plume candidates with the planted plumes, date by date."""
    found: set[str] = set()
    false = 0
    wanted = [plume for plume in planted if plume["time"][:10] in days]
    for day in days:
        snapshot = ws.artifacts.current(asset_name(provider, "methane"), day)
        if snapshot is None or not snapshot.nodes:
            continue
        table_: pl.DataFrame = snapshot.open("plumes")
        truth = [plume for plume in wanted if plume["time"][:10] == day]
        for row in table_.iter_rows(named=True):
            outline = shapely.from_wkb(row["geometry"])
            hits = [
                _identity(plume)
                for plume in truth
                if plume["area"] == row["area"] and _matches(outline, plume)
            ]
            found.update(hits)
            false += not hits
    missed = tuple(
        f"{plume['area']} {plume['date']} {plume['rate_kg_h'] / 1000:.1f} t/h"
        for plume in wanted
        if _identity(plume) not in found
    )
    return Score(planted=len(wanted), found=len(found), missed=missed, false_candidates=false)


def _identity(plume: dict[str, Any]) -> str:
    # One source may plume at several overpasses.
    return f"{plume['name']} {plume['time']}"


def _matches(outline: shapely.Geometry, plume: dict[str, Any]) -> bool:
    source = shapely.Point(plume["longitude"], plume["latitude"])
    degrees = MATCH_METRES / 111_320.0
    if outline.distance(source) <= degrees:
        return True
    footprint = plume.get("footprint")
    return footprint is not None and bool(outline.intersects(shapely.geometry.shape(footprint)))


def _print_score(score: Score) -> None:
    shown = table("against the planted truth", "plumes planted", "found", "missed", "other candidates",
                  right=("plumes planted", "found", "other candidates"))  # fmt: skip
    shown.add_row(
        str(score.planted), str(score.found), "\n".join(score.missed) or "-", str(score.false_candidates)
    )
    console.print()
    console.print(shown)
