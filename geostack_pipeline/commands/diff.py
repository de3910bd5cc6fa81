"""``geostack scenes diff``: what changed between two versions of a scene list."""

from __future__ import annotations

from pathlib import Path

from geostack_pipeline.catalog.diff import diff
from geostack_pipeline.catalog.scene_table import from_parquet
from geostack_pipeline.commands.console import Exit, console, print_json
from geostack_pipeline.errors import ArtifactNotFoundError
from geostack_pipeline.providers.contract import Item
from geostack_pipeline.reading import find_artifact
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages.workspace import asset_name, open_workspace
from geostack_pipeline.storage.snapshot import Snapshot


def diff_command(
    provider: str, day: str, old: str | None, new: str | None, *, settings_file: Path | None, as_json: bool
) -> Exit:
    """Compare two versions of a date's scene list; by default the one before the current one with the current one."""
    ws = open_workspace(load_settings(settings_file))
    asset = asset_name(provider, "scenes")
    current = find_artifact(ws, asset, day, new)
    if old is None:
        others = ws.artifacts.versions(asset, day)
        # Of a version named by hand, the one before it; of the current one the newest other one, which is a later one
        # where the catalog went back to what it had.
        others = (
            [version for version in others if version != current.version]
            if new is None
            else others[: others.index(current.version)]
        )
        if not others:
            raise ArtifactNotFoundError(
                "there is no other version to compare with"
                if new is None
                else "there is no earlier version to compare with",
                subject=f"{asset} {day}",
                found=f"the oldest version: {current.version}",
                action="run the date again with --refresh once the catalog has changed",
            )
        old = others[-1]
    before = find_artifact(ws, asset, day, old)
    result = diff(scene_items(before), scene_items(current))
    if as_json:
        print_json({
            "old": before.version, "new": current.version,
            "added": result.added, "removed": result.removed, "changed": result.changed,
        })  # fmt: skip
        return Exit.OK
    console.print(f"{asset} {day}: {before.version} -> {current.version}", style="bold")
    for item in result.added:
        console.print(f"+ {item}", style="green", markup=False)
    for item in result.removed:
        console.print(f"- {item}", style="red", markup=False)
    for item, fields in result.changed.items():
        console.print(f"~ {item}", style="yellow", markup=False)
        for path, (left, right) in fields.items():
            console.print(f"    {path}: {left!r} -> {right!r}", markup=False)
    console.print(
        f"{len(result.added)} added, {len(result.removed)} removed, {len(result.changed)} changed",
        style="dim",
    )
    return Exit.OK


def scene_items(snapshot: Snapshot) -> list[Item]:
    """Return the canonical items of a scene list."""
    items: list[Item] = []
    for path in sorted(snapshot.files):
        if path == "scenes.parquet" or (path.startswith("scenes-") and path.endswith(".parquet")):
            items += from_parquet(snapshot.read(path))
    return sorted(items, key=lambda item: str(item["id"]))
