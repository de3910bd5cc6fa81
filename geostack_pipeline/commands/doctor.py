"""``geostack doctor``: tries every configured provider and says what to do where it does not work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from rich.markup import escape

from geostack_pipeline.commands.console import Exit, console, errors, print_json
from geostack_pipeline.settings import SETTINGS_VARIABLE, load_settings, settings_path
from geostack_pipeline.stages.health import Finding, examine
from geostack_pipeline.stages.workspace import parse_day

_SHOWN = {
    "ok": "[green]ok[/green]     ",
    "failed": "[red]failed[/red] ",
    "skipped": "[dim]skipped[/dim]",
}


def doctor_command(
    providers: Sequence[str], *, settings_file: Path | None, day: str | None, as_json: bool
) -> Exit:
    """Examine the named providers, or all; return FAILED when one is not ready."""
    if settings_file is not None:
        os.environ[SETTINGS_VARIABLE] = str(settings_file.resolve())
    settings = load_settings(settings_file)
    asked = parse_day(day) if day is not None else _recent(settings.end_date)
    findings: dict[str, list[Finding]] = {}
    for key in providers or tuple(settings.providers):
        settings.provider(key)
        if not as_json:
            errors.print(f"examining {key} …", style="dim")
        findings[key] = list(examine(settings, key, day=asked))
    failed = any(one.state == "failed" for found in findings.values() for one in found)
    if as_json:
        print_json({key: [asdict(one) for one in found] for key, found in findings.items()})
        return Exit.FAILED if failed else Exit.OK
    console.print(f"{settings_path(settings_file)}: providers on {asked}", markup=False, soft_wrap=True)
    for key, found in findings.items():
        console.print(f"\n[bold]{key}[/bold]")
        said = ""
        for one in found:
            console.print(f"  {one.step:<9}{_SHOWN[one.state]} {escape(one.detail)}", soft_wrap=True)
            if one.action and one.action != said:
                console.print(f"           next: {escape(one.action)}", soft_wrap=True)
            said = one.action or said
    return Exit.FAILED if failed else Exit.OK


def _recent(end: date | None) -> date:
    """Return the date to search: two days ago, when most catalogs list everything, or the settings' last one."""
    usual = (datetime.now(UTC) - timedelta(days=2)).date()
    return usual if end is None else min(usual, end)
