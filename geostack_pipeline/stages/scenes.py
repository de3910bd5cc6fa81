"""Scene list: everything a catalog has for the areas on one date, normalised and frozen.

The version is content-addressed: the digest of the canonical rows, the rejections and the question asked.
An unchanged catalog therefore gives an unchanged version, however often it is asked.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, time, timedelta
from typing import Any
from urllib.parse import urlsplit

import polars as pl

from geostack_pipeline.catalog.normalise import Normalised, normalise
from geostack_pipeline.catalog.scene_table import canonical_digest, to_parquet
from geostack_pipeline.catalog.search import SearchResult, search
from geostack_pipeline.errors import IntegrityError
from geostack_pipeline.providers.contract import Provider, SearchWindow
from geostack_pipeline.stages import ledger
from geostack_pipeline.stages.tables import parquet_bytes
from geostack_pipeline.stages.workspace import Check, Outcome, Workspace, asset_name, parse_day, require
from geostack_pipeline.storage.digest import version_of
from geostack_pipeline.storage.snapshot import Snapshot

NAME = "scenes"
CODE_VERSION = "1"

REJECTED_SCHEMA = {"id": pl.String, "reason": pl.String, "detail": pl.String, "item": pl.String}


def question(ws: Workspace, provider: Provider) -> str:
    """Return the fingerprint of what is asked: a list answers only the question it was asked with."""
    probe = SearchWindow(
        start=datetime(2000, 1, 1, tzinfo=UTC),
        end=datetime(2000, 1, 2, tzinfo=UTC),
        bbox=(0.0, 0.0, 1.0, 1.0),
    )
    return version_of(
        {
            "code": CODE_VERSION,
            "provider": provider.key,
            "collections": list(provider.collections),
            "body": provider.search_body(probe),
            "areas": sorted([*area.bbox] for area in ws.areas),
        }
    )


def is_due(ws: Workspace, provider: Provider, day: str) -> str | None:
    """Return why the catalog must be asked for a date, or None when the stored list is frozen.

    A list is frozen once it was asked, with today's question, at least ``refresh_days`` after its date.
    """
    asset = asset_name(provider.key, NAME)
    if f"{asset}/{day}" in ws.pins:
        return None
    pointer = ws.artifacts.pointer(asset, day)
    if pointer is None:
        return "never asked"
    snapshot = ws.artifacts.find(asset, day, pointer.version)
    if snapshot is None:
        return "the stored version is gone"
    if snapshot.meta.get("question") != question(ws, provider):
        return "areas or collections changed"
    end = datetime.combine(parse_day(day), time.max, tzinfo=UTC) + timedelta(days=ws.settings.refresh_days)
    if datetime.fromisoformat(pointer.confirmed_at) < end:
        return f"asked within {ws.settings.refresh_days} days of its date"
    return None


def build(ws: Workspace, provider: Provider, day: str, *, refresh: bool = False) -> Outcome:
    """Ask the catalog for one UTC date and store what it has, or keep the frozen list."""
    asset = asset_name(provider.key, NAME)
    if not refresh and is_due(ws, provider, day) is None:
        snapshot = ws.current(asset, day)
        if snapshot is not None:
            return Outcome(snapshot=snapshot, reused=True, checks=_checks(snapshot))
    host = urlsplit(provider.url).netloc
    with ledger.recording(ws, provider.key, day, "search") as traffic:
        result = search(
            provider,
            parse_day(day),
            ws.areas,
            done=lambda report: traffic.add(
                host,
                requests=report.requests,
                moved=report.bytes_moved or 0,
                unseen=report.bytes_moved is None,
            ),
        )
    normalised = normalise(provider, result.items, parse_day(day), ws.areas)
    accounted = len(normalised.items) + len(normalised.rejected)
    if accounted != len(result.items):
        raise IntegrityError(
            "items were lost between the search and the scene list",
            subject=f"{asset} {day}",
            found=f"{len(result.items)} found, {len(normalised.items)} kept and {len(normalised.rejected)} rejected",
            action="report this as a defect of the provider's normalisation",
        )
    asked = question(ws, provider)
    version = version_of(
        {
            "rows": canonical_digest(normalised.items),
            "rejected": [[row.id, row.reason, row.detail] for row in normalised.rejected],
            "question": asked,
        }
    )
    stats = {
        **asdict(result.report),
        "notes": list(result.report.notes),
        "stores": traffic.by_store(),
    }
    snapshot = ws.artifacts.find(asset, day, version)
    reused = snapshot is not None
    if snapshot is None:
        snapshot = _write(ws, provider, day, version, asked, result, normalised)
    checks = _checks(snapshot)
    require(snapshot, checks)
    # The time of this confirmation decides when the list is frozen.
    ws.artifacts.point(snapshot, run_id=ws.run_id, confirm=True)
    return Outcome(snapshot=snapshot, reused=reused, checks=checks, stats=stats)


def _write(
    ws: Workspace,
    provider: Provider,
    day: str,
    version: str,
    asked: str,
    result: SearchResult,
    normalised: Normalised,
) -> Snapshot:
    from geostack_pipeline.publish.figures import footprint_map

    with ws.artifacts.begin(
        asset_name(provider.key, NAME), day, version, kind="table", code_version=CODE_VERSION, upstream={}
    ) as attempt:
        for name, data in to_parquet(normalised.items, provider.template()).items():
            attempt.put(name, data)
        rejected = pl.DataFrame(
            [(row.id, row.reason, row.detail, row.raw) for row in normalised.rejected],
            schema=REJECTED_SCHEMA,
            orient="row",
        )
        attempt.put("rejected.parquet", parquet_bytes(rejected))
        if normalised.items:
            attempt.put(
                "preview.png", footprint_map([_footprint(item) for item in normalised.items], ws.areas)
            )
        return attempt.commit(
            meta={
                "rows": len(normalised.items),
                "rejected": len(normalised.rejected),
                "found": len(result.items),
                "matched": result.report.matched,
                "question": asked,
            }
        )


def _footprint(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "geometry": item["geometry"],
        "label": item["id"],
        "kept": True,
        "cloud_cover": item["properties"].get("eo:cloud_cover"),
    }


def _checks(snapshot: Snapshot) -> tuple[Check, ...]:
    table = snapshot.open()
    required = {"id", "geometry", "bbox", "datetime", "assets", "geostack:scene", "geostack:radiometry"}
    missing = sorted(required - set(table.columns))
    rows = table.height
    duplicates = rows - table["id"].n_unique() if "id" in table.columns else 0
    counted = rows == snapshot.meta["rows"] and rows + snapshot.meta["rejected"] == snapshot.meta["found"]
    return (
        Check(
            name="scene_list_schema",
            passed=not missing and duplicates == 0,
            detail={"missing columns": ", ".join(missing) or "none", "repeated ids": duplicates},
        ),
        Check(
            name="scene_list_count",
            passed=counted,
            detail={"rows": rows, "rejected": snapshot.meta["rejected"], "found": snapshot.meta["found"]},
        ),
    )
