"""What ``gc`` finds in a root, and what of it must stay."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from geostack_pipeline.storage.layout import (
    ARTIFACTS,
    COMPLETE,
    place_of,
    split_reference,
    version_key,
)
from geostack_pipeline.storage.leases import is_held
from geostack_pipeline.storage.marker import HEARTBEAT_S, MISSED_BEATS
from geostack_pipeline.storage.parallel import in_threads
from geostack_pipeline.storage.pins import pins
from geostack_pipeline.storage.pointer import Pointer, read_pointer
from geostack_pipeline.storage.roots import Root
from geostack_pipeline.storage.snapshot import Snapshot, decode_complete, read_document

VersionId = tuple[str, str, str]
"""Asset, partition, version."""


LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass
class Stored:
    """Objects of one attempt or one version folder."""

    keys: list[str] = field(default_factory=list)
    bytes: int = 0
    newest: datetime = LONG_AGO

    def add(self, meta: Mapping[str, Any]) -> None:
        """Take in one listed object."""
        self.keys.append(meta["path"])
        self.bytes += meta["size"]
        self.newest = max(self.newest, meta["last_modified"])


@dataclass
class Found:
    """What one listing of ``artifacts/`` shows."""

    complete: dict[VersionId, Snapshot] = field(default_factory=dict)
    completed_at: dict[VersionId, datetime] = field(default_factory=dict)
    attempts: dict[VersionId, dict[str, Stored]] = field(default_factory=dict)
    """Data of attempts, winners included."""
    markers: dict[tuple[VersionId, str], datetime] = field(default_factory=dict)
    pointers: dict[tuple[str, str], Pointer] = field(default_factory=dict)
    condemned: dict[VersionId, datetime] = field(default_factory=dict)
    running: set[tuple[VersionId, str]] = field(default_factory=set)
    """Attempts whose writer lives."""
    fresh: set[VersionId] = field(default_factory=set)
    """Versions that became complete during the survey."""
    running_reads: set[VersionId] = field(default_factory=set)
    """Versions that running attempts read."""


def survey(root: Root, *, now: datetime, grace: timedelta) -> Found:
    """Return what lies in a root.

    Raises:
        StorageError: A document cannot be read: what it refers to is unknown, so nothing may be removed.
    """
    found = Found()
    pointed: list[tuple[str, str]] = []
    for meta in root.objects(ARTIFACTS):
        place = place_of(meta["path"])
        if place is None:
            continue
        if place.version is None:
            pointed.append((place.asset, place.partition))
            continue
        version = (place.asset, place.partition, place.version)
        if place.attempt is None:
            (found.completed_at if place.file == COMPLETE else found.condemned)[version] = meta[
                "last_modified"
            ]
        elif not place.file:
            found.markers[version, place.attempt] = meta["last_modified"]
        else:
            found.attempts.setdefault(version, {}).setdefault(place.attempt, Stored()).add(meta)
    _read_documents(root, found, pointed)
    _find_running(root, found, now=now, grace=grace)
    return found


def _read_documents(root: Root, found: Found, pointed: list[tuple[str, str]]) -> None:
    serial = 1 << 30 if root.path is not None else 2
    versions = sorted(found.completed_at)
    for version, snapshot in zip(
        versions, in_threads(partial(load_complete, root), versions, serial_below=serial), strict=True
    ):
        if snapshot is None:  # removed since the listing
            del found.completed_at[version]
        else:
            found.complete[version] = snapshot
    pointers = in_threads(lambda pair: read_pointer(root, *pair), pointed, serial_below=serial)
    found.pointers = {pair: one for pair, one in zip(pointed, pointers, strict=True) if one is not None}


def load_complete(root: Root, version: VersionId) -> Snapshot | None:
    """Return a version if it is complete."""
    try:
        return decode_complete(root, *version, root.read(f"{version_key(*version)}/{COMPLETE}"))
    except FileNotFoundError:
        return None


def _find_running(root: Root, found: Found, *, now: datetime, grace: timedelta) -> None:
    silence = max(grace, timedelta(seconds=MISSED_BEATS * HEARTBEAT_S))
    for (version, attempt), renewed in found.markers.items():
        key = f"{version_key(*version)}/{attempt}.json"
        alive = is_held(root.path / key) if root.path is not None else now - renewed < silence
        document = None
        if alive:
            with contextlib.suppress(FileNotFoundError):
                document = read_document(root.read(key), f"attempt {attempt}", key)
        if document is None:
            # Ended; if it was committed after the listing, it counts as a version that has just become complete.
            snapshot = None if version in found.complete else load_complete(root, version)
            if snapshot is not None:
                found.complete[version], found.completed_at[version] = snapshot, now
                found.fresh.add(version)
            continue
        found.running.add((version, attempt))
        found.running_reads |= upstream_ids(document["upstream"])


def upstream_ids(upstream: Mapping[str, str]) -> set[VersionId]:
    """Return the versions that an upstream mapping names."""
    return {(*split_reference(name), version) for name, version in upstream.items()}


def closure(root: Root, complete: Mapping[VersionId, Snapshot], start: Iterable[VersionId]) -> set[VersionId]:
    """Return versions with everything they were made from, and what that was made from, and so on."""
    reached: set[VersionId] = set()
    waiting = list(start)
    while waiting:
        version = waiting.pop()
        if version in reached:
            continue
        reached.add(version)
        snapshot = complete.get(version) or load_complete(root, version)
        if snapshot is not None:
            waiting.extend(upstream_ids(snapshot.upstream))
    return reached


def mark(root: Root, found: Found, *, now: datetime, grace: timedelta) -> set[VersionId]:
    """Return the versions that must stay.

    These are: what pointers and pins lead to, what running attempts read, what became complete or lost its
    pointer within the grace period (a reader may still be at it), each with its lineage.
    """
    start = {(one.asset, one.partition, one.version) for one in found.pointers.values()}
    start |= {(one.asset, one.partition, one.version) for one in pins(root)}
    start |= found.running_reads | found.fresh
    for version, completed in found.completed_at.items():
        pointer = found.pointers.get(version[:2])
        # A version stopped being current, at the earliest, when the pointer moved to where it is now.
        moved = datetime.fromisoformat(pointer.pointed_at) if pointer is not None else completed
        if now - max(completed, moved) < grace:
            start.add(version)
    return closure(root, found.complete, start)


def downstream_first(
    versions: Iterable[VersionId], complete: Mapping[VersionId, Snapshot]
) -> list[VersionId]:
    """Return versions so that each comes before what it was made from; an interrupted gc leaves no loose lineage."""
    chosen = set(versions)
    done: set[VersionId] = set()
    order: list[VersionId] = []
    for first in sorted(chosen):
        stack: list[tuple[VersionId, bool]] = [(first, False)]
        while stack:
            version, expanded = stack.pop()
            if expanded:
                order.append(version)
            elif version not in done:
                done.add(version)
                stack.append((version, True))
                stack.extend((one, False) for one in upstream_ids(complete[version].upstream) & chosen)
    return order[::-1]
