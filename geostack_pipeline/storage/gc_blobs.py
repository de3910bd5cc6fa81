"""Cached objects that ``gc`` may remove."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import obstore

from geostack_pipeline.storage.blobs import RENEW_S, SIDECAR
from geostack_pipeline.storage.failures import storage_errors
from geostack_pipeline.storage.layout import BLOBS
from geostack_pipeline.storage.local import remove_empty
from geostack_pipeline.storage.roots import Root


@dataclass(frozen=True, kw_only=True)
class CachedObject:
    """Bytes in the cache that no remaining version names."""

    key: str
    """Key of the bytes in the root."""
    size: int
    """Bytes."""
    sidecar: str | None
    """Key of the sidecar, if it leads to these bytes."""
    used: datetime
    """When they were last stored or found."""


def unused_blobs(root: Root, named: set[str], *, now: datetime, grace: timedelta) -> list[CachedObject]:
    """Return the cached objects that none of the named paths is, and that were not used for the grace period."""
    # On object stores a find renews the sidecar once an hour, so it may be that much older than the last find.
    patience = grace if root.path is not None else grace + timedelta(seconds=RENEW_S)
    folders: dict[str, list[dict[str, Any]]] = {}
    for meta in root.objects(BLOBS):
        folders.setdefault(meta["path"].rpartition("/")[0], []).append(meta)
    unused: list[CachedObject] = []
    for folder, metas in sorted(folders.items()):
        sidecar = f"{folder}/{SIDECAR}"
        renewed = next((meta["last_modified"] for meta in metas if meta["path"] == sidecar), None)
        target = _target(root, sidecar) if renewed is not None else None
        for meta in metas:
            path = meta["path"]
            if path == sidecar or path in named:
                continue
            used = (
                max(meta["last_modified"], renewed) if renewed and path == target else meta["last_modified"]
            )
            if now - used >= patience:
                link = sidecar if path == target else None
                unused.append(CachedObject(key=path, size=meta["size"], sidecar=link, used=used))
    return unused


def remove_blob(root: Root, entry: CachedObject) -> bool:
    """Remove an unused object, the sidecar first; returns False if it came into use since the survey."""
    if entry.sidecar is not None:
        if _modified(root, entry.sidecar) > entry.used:
            return False
        root.delete(entry.sidecar)
    root.delete(entry.key)
    if root.path is not None:
        folder = (root.path / entry.key).parent
        remove_empty(folder, root.path / BLOBS)
    return True


def _target(root: Root, sidecar: str) -> str | None:
    """Return the key of the bytes that a sidecar leads to; None for one that cannot be read."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        name = json.loads(root.read(sidecar))["name"]
        return f"{sidecar.rpartition('/')[0]}/{name}"
    return None


def _modified(root: Root, key: str) -> datetime:
    try:
        with storage_errors(root.describe(key), "looking"):
            return obstore.head(root.store, key)["last_modified"]
    except FileNotFoundError:
        return datetime.min.replace(tzinfo=UTC)
