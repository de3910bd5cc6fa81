"""``geostack plan``: what a run would ask and move, before it moves any pixels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from geostack_pipeline.commands.console import Exit, console, errors, print_json, size, table
from geostack_pipeline.commands.run import open_pinned
from geostack_pipeline.errors import GeostackError, SettingsError
from geostack_pipeline.settings import SETTINGS_VARIABLE, load_settings
from geostack_pipeline.stages.egress import price_of
from geostack_pipeline.stages.forecast import Forecast, by_host, forecast
from geostack_pipeline.stages.plan import Plan, day_range, make_plan
from geostack_pipeline.stages.workspace import Workspace


def plan_command(
    providers: Sequence[str],
    first: str,
    last: str,
    *,
    settings_file: Path | None,
    until: str | None,
    refresh: bool,
    pins: Mapping[str, str],
    offline: bool,
    as_json: bool,
) -> Exit:
    """Print what a run would do; FAILED where a catalog or store did not answer."""
    if settings_file is not None:
        os.environ[SETTINGS_VARIABLE] = str(settings_file.resolve())
    settings = load_settings(settings_file)
    ws = open_pinned(settings, pins)
    days = day_range(ws, first, last)
    chosen = tuple(providers) or tuple(settings.providers)
    if not chosen:
        raise SettingsError(
            "no provider is configured", subject="setting providers", action="name at least one"
        )
    plans: list[Plan] = []
    found: list[Forecast] = []
    failed: dict[str, str] = {}
    for key in chosen:
        settings.provider(key)
        catalog = settings.build_provider(key)
        plan = make_plan(ws, catalog, days, until=until, refresh=refresh)
        plans.append(plan)
        if offline:
            continue
        for day in days:
            if not as_json and errors.is_terminal:
                errors.print(f"looking at {key} {day} …", style="dim", end="\r")
            steps = [step for step in plan.steps if step.day == day]
            try:
                found.append(forecast(ws, catalog, day, steps, refresh=refresh))
            except GeostackError as error:
                failed[f"{key} {day}"] = str(error)
    document = as_document(ws, plans, found, failed, offline=offline)
    if as_json:
        print_json(document)
    else:
        _print(plans, found, document, offline=offline)
    return Exit.FAILED if failed else Exit.OK


def as_document(
    ws: Workspace,
    plans: Sequence[Plan],
    found: Sequence[Forecast],
    failed: Mapping[str, str],
    *,
    offline: bool,
) -> dict[str, Any]:
    """Return the plan as one JSON document."""
    document: dict[str, Any] = {
        "steps": [{"provider": plan.provider, **asdict(step)} for plan in plans for step in plan.pending()],
    }
    if offline:
        return document
    hosts = []
    for (provider, purpose, host), move in by_host(found).items():
        price = price_of(host, ws.settings.egress_usd_per_gb)
        moved = move.bytes_moved
        hosts.append(
            {
                "provider": provider,
                "purpose": purpose,
                "host": host,
                "requests": move.requests,
                "bytes": moved,
                "objects": move.objects,
                "cached": move.cached,
                # The answers of a catalog are not charged for.
                "usd_per_gb": price.usd_per_gb if purpose == "fetch" else 0.0,
                "price_source": price.source if purpose == "fetch" else "free: answers of a catalog",
                "usd": None
                if price.usd_per_gb is None or moved is None
                else price.usd_per_gb * moved / 1e9
                if purpose == "fetch"
                else 0.0,
            }
        )
    costs = [row["usd"] for row in hosts if row["purpose"] == "fetch"]
    spent = [one.spent.totals() for one in found]
    return {
        **document,
        "dates": [_date(one) for one in found],
        "hosts": hosts,
        "totals": {
            purpose: {"requests": requests, "bytes": moved}
            for purpose in ("search", "fetch")
            for requests, moved in [_sums(hosts, purpose)]
        },
        "usd": None if None in costs else sum(costs),
        "spent": {
            "requests": sum(one["requests"] for one in spent),
            "bytes": sum(one["bytes_moved"] for one in spent),
        },
        "failed": dict(failed),
    }


def _sums(hosts: Sequence[Mapping[str, Any]], purpose: str) -> tuple[int, int]:
    rows = [row for row in hosts if row["purpose"] == purpose]
    return sum(row["requests"] for row in rows), sum(row["bytes"] or 0 for row in rows)


def _date(one: Forecast) -> dict[str, Any]:
    requests, moved = one.total("fetch")
    fetches = [move for move in one.moves if move.purpose == "fetch"]
    return {
        "provider": one.provider,
        "date": one.day,
        "asks": any(move.purpose == "search" for move in one.moves),
        "scenes": one.scenes,
        "selected": one.selected,
        "skipped": one.skipped,
        "objects": sum(move.objects for move in fetches),
        "cached": sum(move.cached for move in fetches),
        "requests": requests,
        "bytes": moved,
        "estimated": one.estimated,
    }


def _print(
    plans: Sequence[Plan], found: Sequence[Forecast], document: Mapping[str, Any], *, offline: bool
) -> None:
    if not any(plan.pending() for plan in plans):
        console.print("nothing to do: every version is what its inputs lead to")
        if offline or not any(move.requests for one in found for move in one.moves):
            return
    for plan in plans:
        if not plan.pending():
            continue
        shown = table(f"{plan.provider}  what a run would do", "date", "stage", "action", "because")
        for step in plan.pending():
            shown.add_row(step.day, step.stage, step.action, step.reason)
        console.print(shown)
        console.print()
    if offline:
        return
    dates = table(
        "what it would move by date",
        "provider", "date", "asks the catalog", "scenes", "selected", "to fetch", "in cache", "requests", "bytes",
        right=("scenes", "selected", "to fetch", "in cache", "requests", "bytes"),
    )  # fmt: skip
    quiet = 0
    for row in document["dates"]:
        if not row["scenes"] and not row["asks"]:
            quiet += 1
            continue
        dates.add_row(
            row["provider"], row["date"], "yes" if row["asks"] else "-", _number(row["scenes"]),
            _number(row["selected"]), str(row["objects"]), str(row["cached"]), str(row["requests"]),
            ("up to " if row["estimated"] else "") + size(row["bytes"]),
        )  # fmt: skip
    console.print(dates)
    if quiet:
        console.print(f"{quiet} further date(s) without a scene and without a question", style="dim")
    hosts = table(
        "\nby host", "provider", "for", "host", "requests", "bytes", "USD per GB", "USD", "price",
        right=("requests", "bytes", "USD per GB", "USD"),
    )  # fmt: skip
    for row in document["hosts"]:
        hosts.add_row(
            row["provider"], row["purpose"], row["host"], str(row["requests"]),
            "not shown" if row["bytes"] is None else size(row["bytes"]),
            "?" if row["usd_per_gb"] is None else f"{row['usd_per_gb']:g}",
            "?" if row["usd"] is None else f"{row['usd']:.2f}", row["price_source"],
        )  # fmt: skip
    console.print(hosts)
    totals, spent = document["totals"]["fetch"], document["spent"]
    cost = "of unknown cost" if document["usd"] is None else f"for about {document['usd']:.2f} USD of egress"
    console.print(
        f"\na run would move {size(totals['bytes'])} in {totals['requests']} request(s) {cost}, besides logins; "
        f"this plan moved {size(spent['bytes'])} in {spent['requests']} request(s): answers of catalogs and headers "
        "of rasters"
    )
    for name, error in document["failed"].items():
        errors.print(f"[red]failed[/red] {name}: ", end="")
        errors.print(error, markup=False)


def _number(value: int | None) -> str:
    return "?" if value is None else str(value)
