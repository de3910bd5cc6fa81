"""``geostack demo --learning``: a plume model from nothing, and what it makes of the next day, on a synthetic campaign."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geostack_pipeline.commands.console import Exit, console, errors, print_json, table
from geostack_pipeline.commands.demo import Score, score_plumes
from geostack_pipeline.commands.run import run_range
from geostack_pipeline.commands.sandbox import running_sandbox, settings_in_force, write_settings
from geostack_pipeline.commands.train import print_verdict, train, verdict
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages import champion_model, evaluation
from geostack_pipeline.stages.workspace import Workspace, asset_name, open_workspace

PROVIDER = "cmr_stac"
LEARN, USE = "2024-06-04", "2024-06-05"
"""Days of the campaign: the first one is learnt from and tested on, the model in use judges the second one."""
CAMPAIGN = 120
"""Granules: a hundred on the first day."""
LEARNING: dict[str, Any] = {
    "enabled": True,
    "profile": "demo",
    "steps": 250,
    "site_degrees": 0.5,
    "test_share": 0.48,
    "validation_share": 0.3,
    "tile": 128,
    "overlap": 0,
}
"""Settings for a hundred places half a degree apart: nearly half of them are for the test, so that chance does not decide."""


def learning_demo_command(folder: Path, *, seed: int | None, as_json: bool) -> Exit:
    """Bring a day of the campaign up to date, train on it, and let the model judge the next day."""
    started = time.monotonic()
    if not as_json:
        errors.print(f"starting the sandbox with a campaign of {CAMPAIGN} small EMIT granules …", style="dim")
    with running_sandbox(folder, seed=seed, small=True, providers=(PROVIDER,), campaign=CAMPAIGN) as (
        sandbox,
        _,
    ):
        file = write_settings(folder.resolve(), campaign_settings(sandbox.settings()), sandbox.wind())
        with settings_in_force(file, sandbox.credentials()):
            before, _ = run_range(PROVIDER, LEARN, LEARN, settings_file=file, quiet=as_json)
            stored = time.monotonic()
            if not as_json:
                errors.print(f"{LEARN} stored, {stored - started:.1f} s", style="dim")
            ws = open_workspace(load_settings(file))
            # A second demo has the next day to learn from as well, and nothing to show that the first one did not.
            known = champion_model.champion(ws) is not None
            error = None if known else train(file, quiet=as_json)[1]
            trained = time.monotonic()
            after, ws = run_range(PROVIDER, USE, USE, settings_file=file, quiet=as_json)
            judged = None if error else ws.current(evaluation.NAME, evaluation.PARTITION)
            from geostack_pipeline.sandbox.world.campaign import campaign_granules  # noqa: PLC0415 - GDAL

            # Each granule shows a site of its own; the settings have one area around them all.
            truth = [
                {**plume.to_json(), "area": "campaign"}
                for granule in campaign_granules(sandbox.world)
                for plume in granule.truth
            ]
            score = score_plumes(ws, PROVIDER, [USE], truth)
    failed = bool(error or before.failed or after.failed)
    seconds = {"training": round(trained - stored, 2), "total": round(time.monotonic() - started, 2)}
    if as_json:
        print_json(
            {
                "error": error,
                "failed": {**before.failed, **after.failed},
                "verdict": None if judged is None else verdict(ws, judged),
                "next_day": {**vars(score), **_model_of(ws)},
                "seconds": seconds,
                "settings": str(file),
            }
        )
        return Exit.FAILED if failed else Exit.OK
    for day, why in {**before.failed, **after.failed, **({"training": error} if error else {})}.items():
        errors.print(f"[red]failed[/red] {day}: ", end="")
        errors.print(why, markup=False)
    if judged is not None:
        print_verdict(ws, judged)
    _print_next_day(ws, score)
    console.print(
        f"\n[dim]training {seconds['training']} s, total {seconds['total']} s. Where it came from: [/dim]"
        f"geostack model trail --settings {file}",
        soft_wrap=True,
    )
    return Exit.FAILED if failed else Exit.OK


def campaign_settings(sandbox_settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sandbox's settings with the campaign's area and methane products alone, and learning switched on."""
    own = {
        **sandbox_settings["providers"][PROVIDER],
        "collections": ["EMITL2BCH4ENH_002", "EMITL2BCH4PLM_002"],
    }
    return {
        **sandbox_settings,
        "areas": {"campaign": sandbox_settings["areas"]["campaign"]},
        "providers": {PROVIDER: own},
        "learning": LEARNING,
    }


def _model_of(ws: Workspace) -> dict[str, Any]:
    """Return which model judged the next day."""
    made = ws.stored(asset_name(PROVIDER, "methane"), USE)
    name = f"{champion_model.NAME}/{champion_model.PARTITION}"
    return {"model": None if made is None else made.upstream.get(name)}


def _print_next_day(ws: Workspace, score: Score) -> None:
    numbers = ("planted", "found", "other candidates")
    shown = table(f"the next day, {USE}", "candidates by", *numbers, right=numbers)
    shown.add_row(
        _model_of(ws)["model"] or "no model",
        str(score.planted),
        str(score.found),
        str(score.false_candidates),
    )
    console.print()
    console.print(shown)
