"""Removal of what nothing refers to: old versions, abandoned attempts, cached bytes.

The failure: a version is removed while a reader, a running attempt or a pointer that moves back at that
very moment still needs it.  The rule: what is reachable stays (:func:`~.gc_marking.mark`), a version is
removed under its partition's lease and only if the pointer still does not lead there, ``complete.json``
goes first, so that the version is gone before it is torn, and downstream versions go before what they
were made from.  Grids of areas stay, also those of areas that are no longer named: whoever names them again must find
the same pixels.  Object stores have no lease: there the version is condemned, moves of the pointer
that had begun are made to fail (:func:`~.pointer.fence`), and only then it is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.digest import canonical_json
from geostack_pipeline.storage.gc_blobs import remove_blob, unused_blobs
from geostack_pipeline.storage.gc_marking import (
    Found,
    Stored,
    VersionId,
    closure,
    downstream_first,
    mark,
    survey,
)
from geostack_pipeline.storage.layout import ARTIFACTS, BLOBS, COMPLETE, CONDEMNED, GRIDS, version_key
from geostack_pipeline.storage.leases import is_held, lease
from geostack_pipeline.storage.local import remove_empty
from geostack_pipeline.storage.parallel import in_threads
from geostack_pipeline.storage.pointer import Pointer, fence, read_pointer
from geostack_pipeline.storage.roots import Root
from geostack_pipeline.storage.snapshot import FORMAT

_STAGED = re.compile(r".+#[0-9a-f]*")
_STALE = timedelta(hours=1)
"""A staging file or a condemnation this old belongs to nobody any more, whatever the grace period."""
_STAMP = re.compile(r"attempt-(\d{8}T\d{6})-")


@dataclass(frozen=True, kw_only=True)
class GcReport:
    """What was removed, or would be."""

    dry_run: bool
    """Whether nothing was removed."""
    versions: int
    """Complete versions that nothing leads to."""
    attempts: int
    """Attempts that were never committed and whose writers are gone."""
    blobs: int
    """Cached objects that no remaining version names."""
    bytes: int
    """Size of all these; files shared by hard links are counted once per name."""
    kept: int
    """Complete versions that stay."""
    names: tuple[str, ...]
    """What was removed: ``<asset>/<partition>/<version>[/<attempt>]``, or the key of a blob."""


def collect(store: ArtifactStore, *, grace: timedelta, dry_run: bool) -> GcReport:
    """Remove what nothing refers to and return what that was.  One gc per root at a time.

    A version stays while a pointer or a pin leads to it or to something made from it, while a running
    attempt reads it, and for the grace period after it was completed or lost its pointer.  Attempts stay
    while their writer lives, and for the grace period; cached objects while a remaining version names
    them, and for the grace period after they were last found or fetched.

    Args:
        store: Whose root is cleaned.
        grace: Longer than the longest run and the longest read.
        dry_run: Only say what would be removed.

    Raises:
        StorageError: A document cannot be read (nothing is removed then), or removing failed.
    """
    if grace < timedelta(0):
        raise SettingsError(
            "a grace period is not negative", subject="gc", found=str(grace), action="correct it"
        )
    root = store.root
    with _alone(root):
        return _Collection(root, grace, dry_run=dry_run).run()


@contextmanager
def _alone(root: Root) -> Iterator[None]:
    if root.path is None:
        yield
        return
    with lease(root, "gc", "all", timeout_s=5.0):
        yield


class _Collection:
    """One gc."""

    def __init__(self, root: Root, grace: timedelta, *, dry_run: bool) -> None:
        self.root = root
        self.grace = grace
        self.dry_run = dry_run
        self.now = _now()
        self.names: list[str] = []
        self.bytes = 0

    def run(self) -> GcReport:
        found = survey(self.root, now=self.now, grace=self.grace)
        keep = mark(self.root, found, now=self.now, grace=self.grace)
        versions = self._versions(found, keep)
        attempts = self._attempts(found)
        remaining = set(found.complete)
        named = {blob for version in remaining for blob in found.complete[version].blobs}
        cached = unused_blobs(self.root, named, now=self.now, grace=self.grace)
        if not self.dry_run:
            cached = [entry for entry in cached if remove_blob(self.root, entry)]
        for entry in cached:
            self._count(entry.key, entry.size)
        if not self.dry_run:
            self._leftovers(found)
        return GcReport(
            dry_run=self.dry_run,
            versions=versions,
            attempts=attempts,
            blobs=len(cached),
            bytes=self.bytes,
            kept=len(remaining),
            names=tuple(self.names),
        )

    # -- versions ---------------------------------------------------------------------------------

    def _versions(self, found: Found, keep: set[VersionId]) -> int:
        busy = {version for version, _ in found.running}
        candidates = [version for version in found.complete if version not in keep and version not in busy]
        count = 0
        for version in downstream_first(candidates, found.complete):
            if version in keep:  # reached since, by a pointer that moved
                continue
            winner = found.complete[version].attempt
            stored = found.attempts.get(version, {}).get(winner, Stored())
            if not self.dry_run and not self._remove_version(found, keep, version, stored):
                continue
            count += 1
            self._count("/".join(version), stored.bytes)
            del found.complete[version]
            found.attempts.get(version, {}).pop(winner, None)
        return count

    def _remove_version(self, found: Found, keep: set[VersionId], version: VersionId, stored: Stored) -> bool:
        """Remove a version unless its partition's pointer leads there by now; returns whether it is gone."""
        asset, partition, _ = version
        folder = version_key(*version)
        if self.root.path is not None:
            with lease(self.root, asset, partition):
                if self._moved_to(found, keep, version, read_pointer(self.root, asset, partition)):
                    return False
                self.root.delete(f"{folder}/{COMPLETE}")
            self._delete(stored.keys)
            remove_empty(self.root.path / folder, self.root.path / folder)
            with contextlib.suppress(OSError):
                (self.root.path / folder).rmdir()
            return True
        note = canonical_json({"format": FORMAT, "condemned_at": self.now.isoformat()})
        self.root.put(f"{folder}/{CONDEMNED}", note)
        if self._moved_to(found, keep, version, fence(self.root, asset, partition)):
            self.root.delete(f"{folder}/{CONDEMNED}")
            return False
        self.root.delete(f"{folder}/{COMPLETE}")
        self._delete(stored.keys)
        self.root.delete(f"{folder}/{CONDEMNED}")
        return True

    def _moved_to(
        self, found: Found, keep: set[VersionId], version: VersionId, pointer: Pointer | None
    ) -> bool:
        """Take in a pointer that moved since the survey; returns whether the version must stay after all."""
        asset, partition, _ = version
        before = found.pointers.get((asset, partition))
        if pointer is not None and (before is None or before.version != pointer.version):
            found.pointers[asset, partition] = pointer
            keep |= closure(self.root, found.complete, [(asset, partition, pointer.version)])
        return version in keep

    # -- attempts ---------------------------------------------------------------------------------

    def _attempts(self, found: Found) -> int:
        """Remove attempts that did not win, whose writers are gone, and that are old enough."""
        count = 0
        names = {(version, one) for version, ones in found.attempts.items() for one in ones} | set(
            found.markers
        )
        for version, attempt in sorted(names):
            stored = found.attempts.get(version, {}).get(attempt, Stored())
            snapshot = found.complete.get(version)
            won = snapshot is not None and snapshot.attempt == attempt
            marker = f"{version_key(*version)}/{attempt}.json"
            renewed = found.markers.get((version, attempt), stored.newest)
            # Hard links carry the time of what they link to: an attempt is no older than its name says.
            active = max(stored.newest, renewed, _begun(attempt))
            if (version, attempt) in found.running or self.now - active < self.grace:
                continue
            if won:
                if not self.dry_run and (version, attempt) in found.markers:
                    self.root.delete(marker)  # its writer was killed after the commit
                continue
            if not self.dry_run and not self._remove_attempt(version, attempt, stored, marker):
                continue
            count += 1
            self._count("/".join((*version, attempt)), stored.bytes)
        return count

    def _remove_attempt(self, version: VersionId, attempt: str, stored: Stored, marker: str) -> bool:
        # Its writer may have committed it since the survey.
        with contextlib.suppress(FileNotFoundError):
            document = json.loads(self.root.read(f"{version_key(*version)}/{COMPLETE}"))
            if document.get("attempt") == attempt:
                return False
        if self.root.path is not None and is_held(self.root.path / marker):
            return False
        self._delete(stored.keys)
        self.root.delete(marker)
        if self.root.path is not None:
            folder = self.root.path / version_key(*version)
            remove_empty(folder / attempt, folder)
            with contextlib.suppress(OSError):
                folder.rmdir()
        return True

    # -- the rest ---------------------------------------------------------------------------------

    def _leftovers(self, found: Found) -> None:
        """Remove what a killed gc or a killed write left: condemnations and staging files."""
        for version, since in found.condemned.items():
            if self.now - since > _STALE:
                self.root.delete(f"{version_key(*version)}/{CONDEMNED}")
        if self.root.path is None:
            return
        for top in (ARTIFACTS, BLOBS, GRIDS):
            for folder, _, files in os.walk(self.root.path / top):
                for name in files:
                    if _STAGED.fullmatch(name):
                        self._remove_stale(Path(folder) / name)

    def _remove_stale(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            if self.now.timestamp() - path.stat().st_mtime > max(_STALE, self.grace).total_seconds():
                path.unlink()

    def _delete(self, keys: list[str]) -> None:
        in_threads(self.root.delete, keys, serial_below=64 if self.root.path is not None else 2)

    def _count(self, name: str, size: int) -> None:
        self.names.append(name)
        self.bytes += size


def _now() -> datetime:
    return datetime.now(UTC)


def _begun(attempt: str) -> datetime:
    """Return when an attempt began, from its name; the distant past for a name of another form."""
    match = _STAMP.match(attempt)
    if match is None:
        return datetime.min.replace(tzinfo=UTC)
    return datetime.strptime(match[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
