"""Granules: the bytes of the selected scenes, cropped to the areas and kept in the verified cache.

The artifact is a manifest: one row per scene, area and asset, with the cached object's digest and everything
the cube needs to know (radiometry, sun and view angles, priority).  The bytes are in the blob cache, where a
second fetch of the same asset and crop finds them and moves nothing.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from geostack_pipeline.areas import Area
from geostack_pipeline.catalog.scene_table import from_parquet
from geostack_pipeline.cube.grid import GridSpec, grid_for
from geostack_pipeline.errors import GeostackError, IntegrityError, TransferError
from geostack_pipeline.providers.contract import Item, ObjectRef, Provider
from geostack_pipeline.raster.crop import crop, plan_crop
from geostack_pipeline.stages.progress import Event, emit
from geostack_pipeline.stages.scenes import parquet_bytes
from geostack_pipeline.stages.workspace import Check, Outcome, Workspace, asset_name, require
from geostack_pipeline.storage.blobs import Blob, BlobCache
from geostack_pipeline.storage.digest import version_of
from geostack_pipeline.storage.failures import plain_text
from geostack_pipeline.storage.parallel import in_threads
from geostack_pipeline.storage.snapshot import Snapshot
from geostack_pipeline.storage.transfer import Downloaded, download

NAME = "granules"
CODE_VERSION = "1"
CLASSIFICATION = "SCL"
"""Asset of the scene classification, fetched with every scene."""
FETCH_THREADS = 8

MANIFEST_SCHEMA: Mapping[str, Any] = {
    "area": pl.String,
    "item_id": pl.String,
    "scene": pl.String,
    "asset": pl.String,
    "canonical": pl.String,
    "blob": pl.String,
    "sha256": pl.String,
    "size": pl.Int64,
    "source_size": pl.Int64,
    "source_etag": pl.String,
    "form": pl.String,
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


@dataclass(frozen=True, kw_only=True)
class _Wish:
    area: Area
    grid: GridSpec
    item: Item
    asset: str
    coverage: float
    ref: ObjectRef


@dataclass
class _Ledger:
    """Bytes and requests of one run, summed over threads."""

    moved: int = 0
    requests: int = 0
    hits: int = 0
    fetched: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *, moved: int = 0, requests: int = 0, hits: int = 0, fetched: int = 0) -> None:
        with self.lock:
            self.moved += moved
            self.requests += requests
            self.hits += hits
            self.fetched += fetched


def base(ws: Workspace, provider: Provider, selected_version: str) -> str:
    """Return what a selection and the settings lead to, before any change of bytes at the source."""
    return version_of(
        {
            "code": CODE_VERSION,
            "selected": selected_version,
            "bands": sorted(ws.provider_settings(provider.key).bands),
            "grids": [[area.name, *area.bbox, area.resolution_m, area.crs] for area in ws.areas],
        }
    )


def build(
    ws: Workspace, provider: Provider, day: str, selected: Snapshot, *, refresh: bool = False
) -> Outcome:
    """Fetch what one date's selection needs and store the manifest.

    Args:
        refresh: Ask every source for its etag again; changed bytes are fetched and give a new version.
    """
    asset = asset_name(provider.key, NAME)
    target = base(ws, provider, selected.version)
    current = ws.stored(asset, day)
    if not refresh:
        for candidate in (current, ws.artifacts.find(asset, day, target)):
            if candidate is not None and candidate.meta.get("base") == target and _cached(ws, candidate):
                ws.artifacts.point(candidate, run_id=ws.run_id)
                return Outcome(snapshot=candidate, reused=True, checks=_checks(ws, candidate))
    ledger = _Ledger()
    rows, skipped = _fetch(ws, provider, day, selected, ledger, refresh=refresh)
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
    stats = {
        "bytes_moved": ledger.moved,
        "requests": ledger.requests,
        "cache_hits": ledger.hits,
        "fetched": ledger.fetched,
    }
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


def wishes(
    ws: Workspace, provider: Provider, selected: Snapshot
) -> tuple[list[_Wish], list[tuple[str, str, str, str, str]]]:
    """Return every (scene, area, asset) to fetch, and the scenes that lack a wanted asset with the reason."""
    bands = [*ws.provider_settings(provider.key).bands, CLASSIFICATION]
    least = ws.provider_settings(provider.key).min_coverage
    coverage = {
        (row["item_id"], row["area"]): row["coverage"]
        for row in selected.open("coverage").iter_rows(named=True)
    }
    wanted: list[_Wish] = []
    skipped: list[tuple[str, str, str, str, str]] = []
    items = from_parquet(selected.read("selected.parquet"))
    for area in ws.areas:
        grid = grid_for(area)
        for item in items:
            share = coverage.get((item["id"], area.name), 0.0)
            if share <= 0.0 or share < least:
                continue
            lacking = [band for band in bands if band not in item["assets"]]
            if lacking:
                skipped.append(
                    (area.name, item["id"], ",".join(lacking), "asset missing", "the item has no such asset")
                )
                continue
            for band in bands:
                try:
                    ref = provider.locate(item["assets"][band]["href"])
                except GeostackError as error:
                    error.subject = f"{provider.key} item {item['id']} asset {band}: {error.subject}"
                    raise
                wanted.append(_Wish(area=area, grid=grid, item=item, asset=band, coverage=share, ref=ref))
    return wanted, skipped


def _fetch(
    ws: Workspace, provider: Provider, day: str, selected: Snapshot, ledger: _Ledger, *, refresh: bool
) -> tuple[list[dict[str, Any]], list[tuple[str, str, str, str, str]]]:
    wanted, skipped = wishes(ws, provider, selected)
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory(prefix="geostack-") as scratch,
        ThreadPoolExecutor(FETCH_THREADS) as pool,
    ):

        def report(moved: int) -> None:
            emit(Event(provider=provider.key, stage=NAME, day=day, status="moved", info={"bytes": moved}))

        jobs = [
            (
                wish,
                pool.submit(
                    _one,
                    ws.blobs,
                    provider,
                    wish,
                    Path(scratch),
                    _incoming(ws),
                    ledger,
                    report,
                    refresh=refresh,
                ),
            )
            for wish in wanted
        ]
        try:
            for wish, job in jobs:
                blob = job.result()
                if blob is None:
                    skipped.append(
                        (
                            wish.area.name,
                            wish.item["id"],
                            wish.asset,
                            "no overlap",
                            "the raster does not reach the area, though the footprint does",
                        )
                    )
                    continue
                rows.append(_row(wish, blob))
        except BaseException:
            for _, job in jobs:
                job.cancel()
            raise
    incomplete = {(area, item) for area, item, *_ in skipped}
    rows = [row for row in rows if (row["area"], row["item_id"]) not in incomplete]
    rows.sort(key=lambda row: (row["area"], row["item_id"], row["asset"]))
    return rows, sorted(set(skipped))


def _one(
    cache: BlobCache,
    provider: Provider,
    wish: _Wish,
    scratch: Path,
    incoming: Path,
    ledger: _Ledger,
    report: Callable[[int], None],
    *,
    refresh: bool,
) -> Blob | None:
    """Return the cached blob of a wish, fetching it when needed; None for a raster that does not reach the area."""
    store = provider.store(wish.ref.store_id)
    bounds = wish.grid.bounds
    cropped = BlobCache.key(wish.ref.canonical, crop={"crs": wish.grid.crs, "bounds": [*bounds]})
    whole = BlobCache.key(wish.ref.canonical)
    known = cache.find(cropped) or cache.find(whole)
    subject = f"{provider.key} item {wish.item['id']} asset {wish.asset} ({wish.ref.canonical})"
    if known is not None and (not refresh or known.etag == _etag(store, wish.ref.key, subject, ledger)):
        ledger.add(hits=1)
        return known
    try:
        plan = plan_crop(store, wish.ref.key, bounds, wish.grid.crs)
    except GeostackError as error:
        error.subject = subject
        raise
    # Two areas of one extent share a key, not a file.
    file = scratch / f"{cropped}-{wish.area.name}"
    if plan is None:
        loaded = _download(store, wish.ref.key, incoming / whole, file)
        ledger.add(moved=loaded.bytes_moved, requests=loaded.requests, fetched=1)
        report(loaded.bytes_moved)
        blob = cache.add(
            whole,
            file,
            origin=wish.ref.canonical,
            etag=loaded.etag,
            source_size=loaded.size,
            suffix=Path(wish.ref.key).suffix.lower(),
            extra={"form": "object"},
        )
    elif not plan.intersects:
        ledger.add(moved=plan.header_bytes, requests=plan.header_requests)
        return None
    else:
        result = crop(store, wish.ref.key, plan, file)
        ledger.add(moved=result.bytes_moved, requests=result.requests, fetched=1)
        report(result.bytes_moved)
        blob = cache.add(
            cropped,
            file,
            origin=wish.ref.canonical,
            etag=result.etag,
            source_size=result.source_size,
            suffix=".tif",
            extra={"form": "crop", "window": [*result.window], "source_shape": [*result.source_shape]},
        )
    file.unlink(missing_ok=True)
    return blob


def _incoming(ws: Workspace) -> Path:
    """Return where part files outlive a killed process: beside a local store, else in the temporary folder."""
    local = ws.artifacts.root.path
    # A folder of the user's own: in a shared temporary folder, another user's could neither be written nor trusted.
    return (local or Path(tempfile.gettempdir()) / f"geostack-{os.getuid()}") / "incoming"


def _download(store: Any, key: str, shared: Path, own: Path) -> Downloaded:
    """Download a whole object; a process killed half-way leaves a part in the shared folder that the next one continues."""
    for _ in range(2):
        loaded = download(store, key, shared)
        try:
            shared.replace(own)
        except FileNotFoundError:
            continue  # another process finished the same object and took it first
        return loaded
    return download(store, key, own)


def _etag(store: Any, key: str, subject: str, ledger: _Ledger) -> str | None:
    try:
        # One byte by GET: anonymous buckets may refuse HEAD.
        result = store.get(key, options={"range": (0, 1)})
        etag = result.meta.get("e_tag")
        result.bytes()
    except Exception as error:
        raise TransferError(
            "the source does not say whether its bytes changed",
            subject=subject,
            found=plain_text(error),
            action="run again with --refresh later; what is stored stays as it is",
            retryable=True,
        ) from error
    ledger.add(moved=1, requests=1)
    return str(etag) if etag is not None else None


def _row(wish: _Wish, blob: Blob) -> dict[str, Any]:
    properties = wish.item["properties"]
    band = wish.item["assets"][wish.asset]["raster:bands"][0]
    sun = properties.get("view:sun_elevation")
    return {
        "area": wish.area.name,
        "item_id": wish.item["id"],
        "scene": properties["geostack:scene"],
        "asset": wish.asset,
        "canonical": blob.origin,
        "blob": blob.path,
        "sha256": blob.sha256,
        "size": blob.size,
        "source_size": blob.source_size,
        "source_etag": blob.etag,
        "form": blob.extra.get("form"),
        "scale": float(band["scale"]),
        "offset": float(band["offset"]),
        "nodata": band.get("nodata"),
        "datetime": properties["datetime"],
        "platform": properties.get("platform"),
        "relative_orbit": properties.get("sat:relative_orbit"),
        "sun_zenith": 90.0 - sun if sun is not None else None,
        "view_zenith": properties.get("view:incidence_angle"),
        "cloud_cover": properties.get("eo:cloud_cover"),
        "coverage": wish.coverage,
    }


def _write(
    ws: Workspace,
    provider: Provider,
    day: str,
    version: str,
    selected: Snapshot,
    rows: Sequence[Mapping[str, Any]],
    skipped: Sequence[tuple[str, str, str, str, str]],
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
                "cached_bytes": int(manifest["size"].sum()),
                "whole_bytes": int(manifest.unique(subset=["canonical"])["source_size"].sum()),
            },
            blobs=sorted({str(row["blob"]) for row in rows}),
        )


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
            detail={"objects": manifest["blob"].n_unique(), "bytes": int(manifest["size"].sum())},
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
