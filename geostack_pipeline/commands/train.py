"""``geostack model train``: the job ``retrain`` in this process, with the gate's verdict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from geostack_pipeline.commands.console import Exit, console, errors, print_json, table
from geostack_pipeline.errors import SettingsError
from geostack_pipeline.orchestration.build import build_definitions
from geostack_pipeline.orchestration.instance import shared_instance
from geostack_pipeline.orchestration.launch import run_retrain
from geostack_pipeline.settings import load_settings, settings_path
from geostack_pipeline.stages import candidate_model, champion_model, evaluation, training_set
from geostack_pipeline.stages.progress import Event, listening
from geostack_pipeline.stages.workspace import Workspace, open_workspace
from geostack_pipeline.storage.snapshot import Snapshot


def train_command(*, settings_file: Path | None, as_json: bool) -> Exit:
    """Train a candidate on what is stored and let it meet the champion."""
    ws, error = train(settings_file, quiet=as_json)
    judged = None if error else ws.current(evaluation.NAME, evaluation.PARTITION)
    if as_json:
        print_json({"error": error, **({} if judged is None else verdict(ws, judged))})
    elif error:
        errors.print("[red]failed[/red] ", end="")
        errors.print(error, markup=False)
    elif judged is not None:
        print_verdict(ws, judged)
    return Exit.FAILED if error else Exit.OK


def train(settings_file: Path | None, *, quiet: bool = False) -> tuple[Workspace, str | None]:
    """Run the job; return the stores, and why it failed if it did.

    Raises:
        SettingsError: Learning is off, or no provider has EMIT's methane products.
    """
    settings = load_settings(settings_file)
    if not settings.learning.enabled or not training_set.providers(settings):
        raise SettingsError(
            "there is nothing to train with",
            subject="setting learning.enabled",
            found="off"
            if not settings.learning.enabled
            else "no EMIT provider among the settings' providers",
            action="set learning: {enabled: true} and configure cmr_stac or earthaccess (docs/learning.md)",
        )
    file = str(settings_path(settings_file).resolve())
    defs = build_definitions(settings, file)
    with shared_instance() as instance, _progress(quiet=quiet):
        error = run_retrain(defs, instance)
    return open_workspace(settings), error


@contextmanager
def _progress(*, quiet: bool) -> Iterator[None]:
    """Show the steps of the training on a terminal."""
    progress = Progress(
        TextColumn("training"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=errors,
        disable=quiet or not errors.is_terminal,
        transient=True,
    )
    task = progress.add_task("", total=None, note="")

    def follow(event: Event) -> None:
        if event.stage == candidate_model.NAME and event.status == "waits":
            # Also where there is no bar: a wait may take hours.
            errors.print(f"waits for the training of {event.info['waits for']}", style="dim", markup=False)
        if event.stage == candidate_model.NAME and event.status == "moved":
            loss = event.info.get("loss")
            progress.update(
                task,
                total=event.info["of"],
                completed=event.info.get("step", 0),
                note="" if loss is None else f"loss {loss:.3f}",
            )

    with listening(follow), progress:
        yield


def verdict(ws: Workspace, judged: Snapshot) -> dict[str, Any]:
    """Return what the gate said, and which model is in use."""
    model = champion_model.champion(ws)
    return {
        "candidate": judged.meta["candidate"],
        "promoted": judged.meta["verdict"]["promoted"],
        "against": judged.meta["verdict"]["against"],
        "champion_left_out": judged.meta["champion_left_out"],
        "criteria": judged.meta["verdict"]["criteria"],
        "in_use": None if model is None else model.version,
    }


def print_verdict(ws: Workspace, judged: Snapshot) -> None:
    """Print the methods side by side, and the gate's criteria."""
    numbers = ("AUPRC", "F1", "found", "false per granule")
    shown = table("on granules of places that no model learnt from", "method", *numbers, right=numbers)
    for result in judged.meta["results"].values():
        shown.add_row(
            result["method"].replace("_", " "),
            "-" if result["auprc"] is None else f"{result['auprc']:.3f}",
            f"{result['f1']:.3f}",
            f"{100 * result['recall']:.0f} %",
            f"{result['false_per_granule']:.2f}",
        )
    console.print(shown)
    check = champion_model.gate_check(judged)
    shown = table(f"the gate: candidate against {check.detail['against'].replace('_', ' ')}", "criterion", "")
    for name, said in check.detail.items():
        if name not in {"candidate", "against"}:
            shown.add_row(name.replace("_", " "), str(said))
    console.print()
    console.print(shown)
    model = champion_model.champion(ws)
    what = "promoted" if check.passed else "refused"
    console.print(
        f"candidate {check.detail['candidate']} {what}; in use: {'none' if model is None else model.version}",
        style="dim",
    )
