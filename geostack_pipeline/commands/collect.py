"""``geostack gc``: removes versions, attempts and cached bytes that nothing refers to any more."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from geostack_pipeline.commands.console import Exit, console, print_json, size
from geostack_pipeline.errors import SettingsError
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages.workspace import open_workspace
from geostack_pipeline.storage.gc import collect

LONGEST_HOURS = 24.0 * 36_525


def gc_command(*, grace_hours: float, dry_run: bool, settings_file: Path | None, as_json: bool) -> Exit:
    """Collect, or say what would be collected."""
    if not 0 <= grace_hours <= LONGEST_HOURS:
        raise SettingsError(
            "the grace period is no number of hours within a century",
            subject=f"--grace-hours {grace_hours}",
            action="give 24, or 0 to keep nothing that is not referred to",
        )
    ws = open_workspace(load_settings(settings_file))
    report = collect(ws.artifacts, grace=timedelta(hours=grace_hours), dry_run=dry_run)
    if as_json:
        print_json({
            "dry_run": dry_run, "versions": report.versions, "attempts": report.attempts,
            "blobs": report.blobs, "bytes": report.bytes,
        })  # fmt: skip
        return Exit.OK
    verb = "would remove" if dry_run else "removed"
    console.print(
        f"{verb} {report.versions} version(s), {report.attempts} abandoned attempt(s) and {report.blobs} cached "
        f"object(s): {size(report.bytes)}"
    )
    return Exit.OK
