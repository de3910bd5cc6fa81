"""Granules: the bytes of the selected scenes, cropped to the areas and kept in the verified cache.

The artifact is a manifest: one row per scene, area and asset, with the cached object's digest and everything
the cube needs to know (radiometry, sun and view angles, priority).  The bytes are in the blob cache, where a
second fetch of the same asset and crop finds them and moves nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl

from geostack_pipeline.errors import IntegrityError
from geostack_pipeline.providers.contract import Item, Provider
from geostack_pipeline.stages import ledger
from geostack_pipeline.stages.fetching import Fetcher
from geostack_pipeline.stages.pictures import Shot, Studio, distinct, rendering_of, shots
from geostack_pipeline.stages.progress import Event, emit
from geostack_pipeline.stages.tables import parquet_bytes
from geostack_pipeline.stages.traffic import Traffic
from geostack_pipeline.stages.wishes import Skipped, Wish, wishes
from geostack_pipeline.stages.workspace import Check, Outcome, Workspace, asset_name, require
from geostack_pipeline.storage.blobs import Blob
from geostack_pipeline.storage.digest import version_of
from geostack_pipeline.storage.parallel import in_threads
from geostack_pipeline.storage.snapshot import Snapshot

NAME = "granules"
CODE_VERSION = "2"
FETCH_THREADS = 8

MANIFEST_SCHEMA: Mapping[str, Any] = {
    "area": pl.String,
    "item_id": pl.String,
    "collection": pl.String,
    "scene": pl.String,
    "asset": pl.String,
    "canonical": pl.String,
    "blob": pl.String,
    "sha256": pl.String,
    "size": pl.Int64,
    "source_size": pl.Int64,
    "source_etag": pl.String,
    "form": pl.String,
    "band": pl.Int64,
    "scale": pl.Float64,
    "offset": pl.Float64,
    "nodata": pl.Float64,
    "datetime": pl.String,
    "platform": pl.String,
    "relative_orbit": pl.Int64,
    "sun_zenith": pl.Float64,
    "view_zenith": pl.Float64,
    "cloud_cover": pl.Float64,
    "coverage": pl.Float64,
}
SKIPPED_SCHEMA: Mapping[str, Any] = {
    "area": pl.String,
    "item_id": pl.String,
    "asset": pl.String,
    "reason": pl.String,
    "detail": pl.String,
}


def base(ws: Workspace, provider: Provider, selected_version: str) -> str:
    """Return what a selection and the settings lead to, before any change of bytes at the source."""
    rendering = rendering_of(provider)
    return version_of(
        {
            "code": CODE_VERSION,
            "selected": selected_version,
            "bands": sorted(ws.provider_settings(provider.key).bands),
            "grids": [[area.name, *area.bbox, area.resolution_m, area.crs] for area in ws.areas],
            # Only there where pixels come from a service, so that the versions of all others stay as they were.
            **({"rendering": rendering} if rendering is not None else _cuts(ws, provider)),
        }
    )


def _cuts(ws: Workspace, provider: Provider) -> dict[str, Any]:
    """Return what versions hold of settings that decide what is cut: nothing where no area has them, as they were before."""
    areas = [] if provider.product.kind == "swath" else ws.areas
    names = {
        "read_overviews": [area.name for area in areas if ws.reads_overviews(provider.key, area)],
        "bilinear": [area.name for area in areas if ws.resampling(provider.key, area) == "bilinear"],
    }
    return {what: own for what, own in names.items() if own}


def build(
    ws: Workspace, provider: Provider, day: str, selected: Snapshot, *, refresh: bool = False
) -> Outcome:
    """Fetch what one date's selection needs and store the manifest.

    Args:
        refresh: Ask every source for its etag again; changed bytes are fetched and give a new version.
    """
    if provider.product.kind == "surface":
        ws.settle_grids()
    asset = asset_name(provider.key, NAME)
    target = base(ws, provider, selected.version)
    current = ws.stored(asset, day)
    if not refresh:
        for candidate in (current, ws.artifacts.find(asset, day, target)):
            if candidate is not None and candidate.meta.get("base") == target and _cached(ws, candidate):
                ws.artifacts.point(candidate, run_id=ws.run_id)
                return Outcome(snapshot=candidate, reused=True, checks=_checks(ws, candidate))
    with ledger.recording(ws, provider.key, day, "fetch") as traffic:
        rows, skipped = _fetch(ws, provider, day, selected, traffic, refresh=refresh)
    changed: dict[str, str] = {}
    if current is not None and current.meta.get("base") == target:
        changed = {**current.meta.get("changed", {}), **_changes(current, rows)}
    version, snapshot = _named(ws, asset, day, target, changed)
    if snapshot is not None and _changes(snapshot, rows):
        # The bytes are not those of the version with this name: they changed while another one was current, or were
        # cached by a run that ended before it committed.
        changed |= _changes(snapshot, rows)
        version, snapshot = _named(ws, asset, day, target, changed)
    reused = snapshot is not None
    if snapshot is None:
        snapshot = _write(ws, provider, day, version, selected, rows, skipped, base=target, changed=changed)
    checks = _checks(ws, snapshot)
    require(snapshot, checks)
    ws.artifacts.point(snapshot, run_id=ws.run_id)
    stats = {**traffic.totals(), "stores": traffic.by_store()}
    return Outcome(snapshot=snapshot, reused=reused, checks=checks, stats=stats)


def _named(
    ws: Workspace, asset: str, day: str, base: str, changed: Mapping[str, str]
) -> tuple[str, Snapshot | None]:
    """Return the version that changed sources lead to, and what is stored under it."""
    version = version_of({"base": base, "changed": dict(changed)}) if changed else base
    return version, ws.artifacts.find(asset, day, version)


def _changes(snapshot: Snapshot, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the rows whose bytes are not those of a stored manifest: ``<source>#<area>`` -> digest."""
    stored = {
        (row["canonical"], row["area"]): row["sha256"]
        for row in snapshot.open().select("canonical", "area", "sha256").iter_rows(named=True)
    }
    return {
        f"{row['canonical']}#{row['area']}": row["sha256"]
        for row in rows
        if stored.get((row["canonical"], row["area"])) != row["sha256"]
    }


def _fetch(
    ws: Workspace, provider: Provider, day: str, selected: Snapshot, traffic: Traffic, *, refresh: bool
) -> tuple[list[dict[str, Any]], list[Skipped]]:
    def report(moved: int) -> None:
        emit(Event(provider=provider.key, stage=NAME, day=day, status="moved", info={"bytes": moved}))

    fetch = _pictures if rendering_of(provider) is not None else _files
    rows, skipped = fetch(ws, provider, selected, traffic, report, refresh=refresh)
    incomplete = {(area, item) for area, item, *_ in skipped}
    rows = [row for row in rows if (row["area"], row["item_id"]) not in incomplete]
    rows.sort(key=lambda row: (row["area"], row["item_id"], row["asset"]))
    return rows, sorted(set(skipped))


def _files(
    ws: Workspace,
    provider: Provider,
    selected: Snapshot,
    traffic: Traffic,
    report: Callable[[int], None],
    *,
    refresh: bool,
) -> tuple[list[dict[str, Any]], list[Skipped]]:
    wanted, skipped = wishes(ws, provider, selected)
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory(prefix="geostack-") as scratch,
        ThreadPoolExecutor(FETCH_THREADS) as pool,
    ):
        fetcher = Fetcher(ws, provider, Path(scratch), traffic, refresh=refresh, moved=report)
        jobs = [(wish, pool.submit(fetcher.fetch, wish)) for wish in wanted]
        try:
            for wish, job in jobs:
                blob = job.result()
                if blob is not None:
                    rows.append(_row(wish, blob))
                    continue
                skipped.append(
                    (
                        wish.area,
                        wish.item["id"],
                        wish.asset,
                        "no overlap",
                        "the raster does not reach the area, though the footprint does",
                    )
                )
        except BaseException:
            for _, job in jobs:
                job.cancel()
            raise
    return rows, skipped


def _pictures(
    ws: Workspace,
    provider: Provider,
    selected: Snapshot,
    traffic: Traffic,
    report: Callable[[int], None],
    *,
    refresh: bool,  # noqa: ARG001 - what makes another picture is another request
) -> tuple[list[dict[str, Any]], list[Skipped]]:
    wanted, skipped = shots(ws, provider, selected)
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory(prefix="geostack-") as scratch,
        ThreadPoolExecutor(FETCH_THREADS) as pool,
    ):
        studio = Studio(ws, provider, Path(scratch), traffic, moved=report)
        jobs = {key: pool.submit(studio.take, shot) for key, shot in distinct(wanted).items()}
        try:
            for shot in wanted:
                blob = jobs[shot.key].result()
                if blob.extra.get("empty"):
                    reason = (
                        "no overlap",
                        "the picture shows no data, though the footprint reaches the area",
                    )
                    skipped.append((shot.area, shot.item["id"], ",".join(shot.request.bands), *reason))
                else:
                    rows += _picture_rows(shot, blob)
        except BaseException:
            for job in jobs.values():
                job.cancel()
            raise
    return rows, skipped


def _row(wish: Wish, blob: Blob) -> dict[str, Any]:
    band = (wish.item["assets"][wish.asset].get("raster:bands") or [{}])[0]
    return {
        **_about(wish.area, wish.item, wish.coverage, blob),
        "asset": wish.asset,
        "band": 1,
        "scale": float(band.get("scale", 1.0)),
        "offset": float(band.get("offset", 0.0)),
        "nodata": band.get("nodata"),
    }


def _picture_rows(shot: Shot, blob: Blob) -> list[dict[str, Any]]:
    """Return a row per band: they lie side by side in one file."""
    return [
        {
            **_about(shot.area, shot.item, shot.coverage, blob),
            "asset": asset,
            "band": band.index,
            "scale": band.radiometry.scale,
            "offset": band.radiometry.offset,
            "nodata": band.radiometry.nodata,
        }
        for asset, band in shot.request.bands.items()
    ]


def _about(area: str, item: Item, coverage: float, blob: Blob) -> dict[str, Any]:
    properties = item["properties"]
    sun = properties.get("view:sun_elevation")
    return {
        "area": area,
        "item_id": item["id"],
        "collection": item["collection"],
        "scene": properties["geostack:scene"],
        "canonical": blob.origin,
        "blob": blob.path,
        "sha256": blob.sha256,
        "size": blob.size,
        "source_size": blob.source_size,
        "source_etag": blob.etag,
        "form": blob.extra.get("form"),
        "datetime": properties["datetime"],
        "platform": properties.get("platform"),
        "relative_orbit": properties.get("sat:relative_orbit"),
        "sun_zenith": 90.0 - sun if sun is not None else None,
        "view_zenith": properties.get("view:incidence_angle"),
        "cloud_cover": properties.get("eo:cloud_cover"),
        "coverage": coverage,
    }


def _write(
    ws: Workspace,
    provider: Provider,
    day: str,
    version: str,
    selected: Snapshot,
    rows: Sequence[Mapping[str, Any]],
    skipped: Sequence[Skipped],
    *,
    base: str,
    changed: Mapping[str, str],
) -> Snapshot:
    manifest = pl.DataFrame(rows, schema=MANIFEST_SCHEMA)
    from geostack_pipeline.publish.figures import bytes_chart

    with ws.artifacts.begin(
        asset_name(provider.key, NAME),
        day,
        version,
        kind="table",
        code_version=CODE_VERSION,
        upstream={f"{selected.asset}/{day}": selected.version},
    ) as attempt:
        attempt.put("granules.parquet", parquet_bytes(manifest))
        attempt.put(
            "skipped.parquet", parquet_bytes(pl.DataFrame(skipped, schema=SKIPPED_SCHEMA, orient="row"))
        )
        if rows:
            attempt.put("preview.png", bytes_chart(manifest))
        return attempt.commit(
            meta={
                "base": base,
                "changed": dict(changed),
                "rows": manifest.height,
                "skipped": len(skipped),
                "cached_bytes": _bytes(manifest),
                "whole_bytes": int(manifest.unique(subset=["canonical"])["source_size"].sum()),
            },
            blobs=sorted({str(row["blob"]) for row in rows}),
        )


def _bytes(manifest: pl.DataFrame) -> int:
    """Return the bytes of a manifest's objects, each counted once: several rows may point to one."""
    return int(manifest.unique(subset=["blob"])["size"].sum())


def _cached(ws: Workspace, snapshot: Snapshot) -> bool:
    """Whether every blob of a manifest is still in the cache with its size."""
    return not _lost(ws, snapshot.open())


def _lost(ws: Workspace, manifest: pl.DataFrame) -> list[str]:
    wanted = sorted(manifest.select("blob", "size").unique().iter_rows())
    # One small request each: side by side where each is a round trip.
    serial = 64 if ws.artifacts.root.path is not None else 2
    sizes = in_threads(ws.artifacts.root.size, [path for path, _ in wanted], serial_below=serial)
    return [path for (path, size), found in zip(wanted, sizes, strict=True) if found != size]


def _checks(ws: Workspace, snapshot: Snapshot) -> tuple[Check, ...]:
    manifest = snapshot.open()
    lost = _lost(ws, manifest)
    if lost:
        raise IntegrityError(
            f"{len(lost)} cached object(s) are missing or have another size",
            subject=f"{snapshot.asset} {snapshot.partition}",
            found=", ".join(lost[:3]),
            action="run the date again with --refresh; the objects are then fetched anew",
        )
    skipped = snapshot.open("skipped")
    return (
        Check(
            name="cache_integrity",
            passed=True,
            detail={"objects": manifest["blob"].n_unique(), "bytes": _bytes(manifest)},
        ),
        Check(
            name="assets_complete",
            passed=skipped.height == 0,
            detail={
                "skipped": skipped.height,
                "reasons": "; ".join(skipped["reason"].unique().sort()) or "none",
            },
        ),
    )
