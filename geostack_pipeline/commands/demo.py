"""``geostack demo``: the whole pipeline on a synthetic world, scored against what was planted there."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import shapely

from geostack_pipeline.commands.console import Exit, console, errors, print_json, size, table
from geostack_pipeline.commands.run import print_summary, run_range, summary_rows
from geostack_pipeline.commands.sandbox import running_sandbox, settings_in_force
from geostack_pipeline.orchestration.launch import LaunchReport
from geostack_pipeline.settings import Settings, load_settings
from geostack_pipeline.stages import methane, plumes, published
from geostack_pipeline.stages.workspace import Workspace, asset_name

if TYPE_CHECKING:
    from geostack_pipeline.sandbox.serve import Sandbox

_MISSED_SHOWN = 4
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
            "starting the sandbox: catalogs, logins, buckets and synthetic scenes on loopback …", style="dim"
        )
    with (
        running_sandbox(folder, seed=seed, small=small) as (sandbox, file),
        settings_in_force(file, sandbox.credentials()),
    ):
        first, last = sandbox.days
        outcomes: list[ProviderOutcome] = []
        settings = load_settings(file)
        detecting = plumes.providers(settings)
        for key in settings.providers:
            before = time.monotonic()
            # The last of them counts and publishes the plumes of all: done after each, it would be done anew each time.
            until = methane.NAME if key in detecting[:-1] else None
            report, ws = run_range(key, first, last, settings_file=file, until=until, quiet=as_json)
            outcome = ProviderOutcome(
                report=report, rows=summary_rows(ws, key, report.days), seconds=time.monotonic() - before
            )
            outcomes.append(outcome)
            if not as_json:
                errors.print(f"{key}: {outcome.sentence()}", style="dim", markup=False)
        planted = planted_plumes(sandbox, ws.settings)
        scores = {key: score_plumes(ws, key, outcomes[0].report.days, own) for key, own in planted.items()}
        physical = physical_plumes(ws, outcomes[0].report.days)
        rates = score_rates(ws, outcomes[0].report.days, leaks_of(planted))
    failed = any(outcome.report.failed for outcome in outcomes)
    if as_json:
        print_json(
            {
                "providers": [
                    {**asdict(one.report), "dates": one.rows, "seconds": round(one.seconds, 2)}
                    for one in outcomes
                ],
                "score": {key: asdict(score) for key, score in scores.items()},
                "plumes": asdict(physical),
                "rates": [asdict(rate) for rate in rates],
                "seconds": round(time.monotonic() - started, 2),
                "settings": str(file),
            }
        )
        return Exit.FAILED if failed else Exit.OK
    print_summary(outcomes[0].report, outcomes[0].rows, outcomes[0].seconds)
    _print_providers(outcomes)
    _print_score(scores, physical)
    _print_rates(rates)
    _print_pages(ws, outcomes[0].report.days)
    console.print(
        f"\n[dim]total {time.monotonic() - started:.1f} s. Look at it: [/dim]make ui"
        f"[dim], then http://127.0.0.1:3000; pictures and cubes lie under[/dim] {folder}/store",
        soft_wrap=True,
    )
    return Exit.FAILED if failed else Exit.OK


@dataclass(frozen=True, kw_only=True)
class ProviderOutcome:
    """What one provider's run came to."""

    report: LaunchReport
    rows: Sequence[Mapping[str, Any]]
    """One per date with a scene."""
    seconds: float

    def total(self, name: str) -> int:
        """Return the sum of a column over the dates."""
        return sum(row[name] or 0 for row in self.rows)

    def sentence(self) -> str:
        """Return the outcome in a few words."""
        if self.report.failed:
            return f"{len(self.report.failed)} date(s) failed"
        what = "nothing to do" if not self.report.launched else f"{self.total('selected')} scene(s)"
        return f"{what}, {self.seconds:.1f} s"


def _print_providers(outcomes: Sequence[ProviderOutcome]) -> None:
    # Eighty columns hold it: the names of providers are long.
    numbers = ("scenes", "nodes", "requests", "moved", "whole", "plumes", "seconds")
    shown = table("all providers", "provider", *numbers, right=numbers)
    shown.columns[0].no_wrap = True
    for column in shown.columns[1:]:
        column.no_wrap = True
    for one in outcomes:
        stats = one.report.stats
        methane = any(row["plumes"] is not None for row in one.rows)
        shown.add_row(
            one.report.provider,
            str(one.total("selected")),
            str(sum(len(row["cube"]) for row in one.rows)),
            f"{stats.get('granules/requests', 0):.0f}",
            size(stats.get("granules/bytes_moved", 0)),
            size(one.total("whole_bytes")),
            str(one.total("plumes")) if methane else "-",
            f"{one.seconds:.1f}",
        )
    console.print()
    console.print(shown)
    console.print(
        "selected scenes, cube nodes, requests and bytes moved for files against whole files, plume candidates",
        style="dim",
    )
    for one in outcomes[1:]:
        for day, error in one.report.failed.items():
            errors.print(f"[red]failed[/red] {one.report.provider} {day}: ", end="")
            errors.print(error, markup=False)


@dataclass(frozen=True, kw_only=True)
class PhysicalPlumes:
    """Candidates of all providers against the plumes that they are."""

    candidates: int
    plumes: int


def physical_plumes(ws: Workspace, days: Sequence[str]) -> PhysicalPlumes:
    """Return how many candidates of all providers there are, and how many physical plumes."""
    candidates = physical = 0
    for day in days:
        snapshot = ws.artifacts.current(plumes.NAME, day)
        if snapshot is not None:
            physical += snapshot.meta["rows"]
            candidates += snapshot.meta["members"]
    return PhysicalPlumes(candidates=candidates, plumes=physical)


def planted_plumes(sandbox: Sandbox, settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """Return the plumes that each provider's scenes could show, of the providers whose scenes may show methane.

    A spectrometer passes at other times than Sentinel-2 does, and sees what is there then.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for key in plumes.providers(settings):
        if settings.provider_spec(key).product.kind == "surface":
            found[key] = sandbox.truth()
            continue
        # The worlds of the spectrometers bring HDF5 and GDAL: loaded where a demo ends, not where it starts.
        from geostack_pipeline.sandbox.world.emit import emit_granules  # noqa: PLC0415
        from geostack_pipeline.sandbox.world.enmap import enmap_scenes  # noqa: PLC0415

        world = sandbox.world
        seen = enmap_scenes(world) if key == "dlr_geoservice" else emit_granules(world)
        found[key] = [plume.to_json() for granule in seen for plume in granule.truth]
    return found


def leaks_of(planted: Mapping[str, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return each leak of a date once, whichever instruments see it."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for seen in planted.values():
        for plume in seen:
            found.setdefault((plume["name"], plume["time"][:10]), plume)
    return list(found.values())


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
        f"{plume['area']} {plume['time'][:10]} {plume['rate_kg_h'] / 1000:.1f} t/h"
        for plume in wanted
        if _identity(plume) not in found
    )
    return Score(planted=len(wanted), found=len(found), missed=missed, false_candidates=false)


@dataclass(frozen=True, kw_only=True)
class RatedPlume:
    """A planted plume that was found, with the rate that came out."""

    plume: str
    time: str
    instrument: str
    true_kg_h: float
    rate_kg_h: float | None
    sigma_kg_h: float | None
    true_wind_m_s: float
    wind_m_s: float | None
    source_error_m: float
    """From the planted source to the reported one."""
    reason: str | None
    """Why there is no rate."""


def score_rates(ws: Workspace, days: Sequence[str], planted: Sequence[dict[str, Any]]) -> list[RatedPlume]:
    """Return the planted plumes that a row of the asset ``plumes`` shows, with true and stated rates."""
    rows = []
    for day in days:
        snapshot = ws.artifacts.current(plumes.NAME, day)
        if snapshot is None:
            continue
        found: pl.DataFrame = snapshot.open()
        for row in found.iter_rows(named=True):
            outline = shapely.from_wkb(row["geometry"])
            place = shapely.Point(row["source_longitude"], row["source_latitude"])
            hits = [plume for plume in planted if plume["time"][:10] == day and _matches(outline, plume)]
            if len(hits) != 1:
                # Of two plumes under one outline, neither's rate is told.
                continue
            plume = hits[0]
            east = (place.x - plume["longitude"]) * math.cos(math.radians(plume["latitude"]))
            rows.append(
                RatedPlume(
                    plume=plume["name"],
                    time=plume["time"][:16],
                    instrument=row["instrument"],
                    true_kg_h=plume["rate_kg_h"],
                    rate_kg_h=row["emission_rate_kg_h"],
                    sigma_kg_h=row["emission_rate_sigma_kg_h"],
                    true_wind_m_s=plume["wind_m_s"],
                    wind_m_s=row["wind_speed_m_s"],
                    source_error_m=111_195.0 * math.hypot(east, place.y - plume["latitude"]),
                    reason=row["rate_missing_reason"],
                )
            )
    return rows


def _print_pages(ws: Workspace, days: Sequence[str]) -> None:
    """Name the page of the date with most plumes, and how the others are found."""
    stored = [snapshot for day in days if (snapshot := ws.artifacts.current(published.NAME, day)) is not None]
    if not stored:
        return
    richest = max(stored, key=lambda snapshot: (snapshot.meta["plumes"], snapshot.partition))
    console.print()
    console.print(
        f"{len(stored)} date(s) published as STAC, each with a page; the one of {richest.partition}:",
        style="dim",
    )
    console.print(f"  {richest.url(published.REPORT)}", markup=False, soft_wrap=True)


def _print_rates(rates: Sequence[RatedPlume]) -> None:
    if not rates:
        return
    shown = table("emission rates", "plume", "time", "planted t/h", "rate t/h", "error", "in sigma", "wind (true) m/s",
                  right=("planted t/h", "rate t/h", "error", "in sigma", "wind (true) m/s"))  # fmt: skip
    for one in rates:
        error = None if one.rate_kg_h is None else one.rate_kg_h - one.true_kg_h
        sigma = one.sigma_kg_h
        shown.add_row(
            one.plume,
            one.time.replace("T", " "),
            f"{one.true_kg_h / 1000:.1f}",
            one.reason
            if one.rate_kg_h is None
            else f"{one.rate_kg_h / 1000:.1f}" + ("" if sigma is None else f" ± {sigma / 1000:.1f}"),
            "-" if error is None else f"{100 * error / one.true_kg_h:+.0f} %",
            "-" if error is None or not sigma else f"{error / sigma:+.1f}",
            "-" if one.wind_m_s is None else f"{one.wind_m_s:.1f} ({one.true_wind_m_s:.1f})",
        )
    console.print()
    console.print(shown)


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


def _print_score(scores: Mapping[str, Score], physical: PhysicalPlumes) -> None:
    shown = table("against the planted truth", "provider", "planted", "found", "missed", "other candidates",
                  right=("planted", "found", "other candidates"))  # fmt: skip
    for key, score in scores.items():
        missed = [*score.missed[:_MISSED_SHOWN]]
        if len(score.missed) > _MISSED_SHOWN:
            missed.append(f"and {len(score.missed) - _MISSED_SHOWN} more")
        shown.add_row(
            key, str(score.planted), str(score.found), "\n".join(missed) or "-", str(score.false_candidates)
        )
    console.print()
    console.print(shown)
    console.print(
        f"{physical.candidates} candidate(s) of all providers are {physical.plumes} physical plume(s)",
        style="dim",
    )
