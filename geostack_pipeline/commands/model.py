"""``geostack model``: which models there were, going back to one, and the trail of data through them."""

from __future__ import annotations

from pathlib import Path

from geostack_pipeline.commands.console import Exit, console, print_json, table
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages import champion_model, model_trail
from geostack_pipeline.stages.workspace import open_workspace


def list_command(*, settings_file: Path | None, as_json: bool) -> Exit:
    """Show every model that was promoted, and every candidate that was refused."""
    ws = open_workspace(load_settings(settings_file))
    models, refused = model_trail.models(ws), model_trail.refusals(ws)
    if as_json:
        print_json({"models": models, "refused": refused})
        return Exit.OK
    if not models and not refused:
        console.print("no model was trained yet; run the job `retrain`")
        return Exit.OK
    shown = table(
        "models", "", "version", "promoted", "labelled", "AUPRC", "F1", right=("labelled", "AUPRC", "F1")
    )
    for row in models:
        numbers = ["-" if row[name] is None else f"{row[name]:.3f}" for name in ("auprc", "f1")]
        shown.add_row(
            "in use" if row["current"] else "",
            row["version"],
            row["promoted"][:19],
            str(row["labelled"]),
            *numbers,
        )
    console.print(shown)
    if refused:
        shown = table("refused candidates", "version", "judged", "against", "did not hold")
        for row in refused:
            shown.add_row(row["candidate"], row["judged"][:19], row["against"], row["failed"])
        console.print(shown)
    return Exit.OK


def rollback_command(version: str, *, settings_file: Path | None, as_json: bool) -> Exit:
    """Make an earlier model the one in use."""
    # Dagster takes seconds to import: only where it is told something.
    from geostack_pipeline.orchestration.instance import shared_instance  # noqa: PLC0415
    from geostack_pipeline.orchestration.learning_assets import tell_champion  # noqa: PLC0415

    ws = open_workspace(load_settings(settings_file))
    snapshot = champion_model.rollback(ws, version)
    with shared_instance() as instance:
        tell_champion(instance, snapshot)
    if as_json:
        print_json({"version": snapshot.version})
    else:
        console.print(f"in use: {snapshot.version}; the next run of a date makes its methane with it")
    return Exit.OK


def trail_command(subject: str | None, *, settings_file: Path | None, as_json: bool) -> Exit:
    """Follow data through models: back from a model, or forth from an item or label."""
    ws = open_workspace(load_settings(settings_file))
    if subject is not None and subject.startswith("EMIT_"):
        found = model_trail.forth(ws, subject)
        if as_json:
            print_json(found)
            return Exit.OK
        for name in ("training_sets", "candidates", "models"):
            console.print(f"{name.replace('_', ' ')}: {', '.join(found[name]) or 'none'}")
        for row in found["methane"]:
            console.print(
                f"{row['methane']} {row['version']}: model {row['model']}, {row['plumes']} plume(s)"
            )
        return Exit.OK
    found = model_trail.back(ws, subject)
    made = list(model_trail.inferences(ws, {found["model"]}))
    if as_json:
        print_json({**found, "methane": made})
        return Exit.OK
    console.print(f"model {found['name']} {found['model']}, evaluation {found['evaluation']}")
    console.print(f"training set {found['training_set']}, cut from {len(found['cubes'])} cube(s)")
    shown = table("items", "item", "state", "label revision", "split")
    for row in found["items"]:
        shown.add_row(row["item_id"], row["state"], row["label_revision"], row["split"] or "between")
    console.print(shown)
    for row in made:
        console.print(f"{row['methane']} {row['version']}: {row['plumes']} plume(s)")
    return Exit.OK
