"""Small steps that several storage tests take."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import polars as pl

from geostack_pipeline.storage.artifacts import ArtifactStore, Snapshot

DAY = "2024-06-01"


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def write(
    store: ArtifactStore,
    asset: str = "earth_search/scenes",
    partition: str = DAY,
    version: str = "v1",
    *,
    files: Mapping[str, bytes] | None = None,
    upstream: Mapping[str, str] | None = None,
    blobs: tuple[str, ...] = (),
    meta: Mapping[str, Any] | None = None,
    point: bool = True,
    kind: Any = "table",
) -> Snapshot:
    """Write, commit and (unless told otherwise) point at a version."""
    with store.begin(
        asset, partition, version, kind=kind, code_version="1", upstream=upstream or {}
    ) as attempt:
        for path, data in (files or {"data.bin": f"{asset} {partition} {version}".encode()}).items():
            attempt.put(path, data)
        snapshot = attempt.commit(meta=meta or {}, blobs=blobs)
    if point:
        store.point(snapshot, run_id="run")
    return snapshot
