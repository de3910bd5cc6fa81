"""The artifact store: immutable versions behind an atomic pointer.

The failure it prevents: a run is killed, a disk fills up, two runs write one partition, and a reader
sees half of one version, or halves of two.  The rule: a writer fills a private attempt, one create-only
put of ``complete.json`` makes it the version, one atomic move of ``current.json`` shows it
(:mod:`.attempt`, :mod:`.pointer`; paths in :mod:`.layout`).

What survives what:

* **The end of a process** (``kill -9``, out of memory, Ctrl-C), at any instant: everything.  Readers see
  the previous version until the pointer has moved, and the new one afterwards.  The rest of a broken
  attempt stays invisible until ``gc`` removes it.  The kernel releases the leases.
* **Power loss on a local root:** by default nothing is flushed, as on most file systems the operating
  system writes within seconds; what was committed in these last seconds may come back torn, which
  :meth:`Snapshot.verify` finds.  ``ArtifactStore(root, durable=True)`` flushes every file and folder
  before ``complete.json`` names them and before the pointer does, at some milliseconds per file.
* **Object stores** keep what they acknowledged.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from geostack_pipeline.errors import StorageError
from geostack_pipeline.storage.attempt import Attempt
from geostack_pipeline.storage.layout import (
    ARTIFACTS,
    ATTEMPT,
    COMPLETE,
    CURRENT,
    check_asset,
    partition_key,
    version_key,
)
from geostack_pipeline.storage.parallel import in_threads
from geostack_pipeline.storage.pointer import Pointer, move_pointer, read_pointer, replace_pointer
from geostack_pipeline.storage.roots import Root
from geostack_pipeline.storage.snapshot import FileEntry, Kind, Snapshot, decode_complete

__all__ = ["ArtifactStore", "Attempt", "FileEntry", "Pointer", "Snapshot"]

_MOST_FOLLOWS = 5
_DEEPEST_ASSET = 6


class ArtifactStore:
    """Versions of assets by partition, in one root.  Threads and processes may share a root freely.

    Args:
        root: Where everything lies.
        durable: Flush to disk at each commit and pointer move (local roots), so that power loss cannot
            tear what was committed.
    """

    def __init__(self, root: Root, *, durable: bool = False) -> None:
        self.root = root
        self.durable = durable

    def current(self, asset: str, partition: str) -> Snapshot | None:
        """Return the version that readers see, None where none was ever pointed at.  Two reads, no listing.

        Raises:
            StorageError: The pointer leads nowhere, or a document cannot be read.
        """
        pointer = None
        for _ in range(_MOST_FOLLOWS):
            pointer = self.pointer(asset, partition)
            if pointer is None:
                return None
            snapshot = self.find(asset, partition, pointer.version)
            if snapshot is not None:
                return snapshot
            # The pointer moved on and gc removed the old version in between: follow it anew.
        raise StorageError(
            "its pointer leads to a version that is not there",
            subject=f"{asset} {partition}",
            found=f"no {COMPLETE} of version {pointer and pointer.version}",
            action="run this partition again, or restore the root from a copy",
        )

    def pointer(self, asset: str, partition: str) -> Pointer | None:
        """Return what ``current.json`` says, None where there is none.  One read."""
        return read_pointer(self.root, asset, partition)

    def find(self, asset: str, partition: str, version: str) -> Snapshot | None:
        """Return a version if it is complete, pointed at or not.  One read."""
        try:
            data = self.root.read(f"{version_key(asset, partition, version)}/{COMPLETE}")
        except FileNotFoundError:
            return None
        return decode_complete(self.root, asset, partition, version, data)

    def begin(
        self,
        asset: str,
        partition: str,
        version: str,
        *,
        kind: Kind,
        code_version: str,
        upstream: Mapping[str, str],
    ) -> Attempt:
        """Return an attempt at a version, to be used as a context manager.

        Args:
            asset: Asset key, parts joined by ``/``.
            partition: Partition key.
            version: Name of the version, e.g. from :func:`~.digest.version_of`.
            kind: ``table``, ``tree`` or ``model``.
            code_version: Code version of the stage that writes.
            upstream: ``<asset>/<partition>`` -> version of everything that is read.
        """
        return Attempt(
            self.root,
            asset,
            partition,
            version,
            kind=kind,
            code_version=code_version,
            upstream=upstream,
            durable=self.durable,
        )

    def point(self, snapshot: Snapshot, *, run_id: str | None = None, confirm: bool = False) -> Pointer:
        """Make readers see a complete version; returns the pointer, unchanged where it points there already.

        With ``confirm``, a pointer that stays notes that its version was found right once more.

        Raises:
            ArtifactNotFoundError: The version is not complete any more.
            StorageError: The pointer cannot be moved.
        """
        return move_pointer(self.root, snapshot, run_id=run_id, confirm=confirm, durable=self.durable)

    def replace(self, snapshot: Snapshot, before: Pointer | None, *, run_id: str | None = None) -> bool:
        """Make readers see a version that was made from what ``before`` points at, if it still does.

        Returns:
            Whether it did.  Otherwise another writer came first, and nothing was changed.

        Raises:
            ArtifactNotFoundError: The version is not complete any more.
            StorageError: The pointer cannot be moved.
        """
        return replace_pointer(self.root, snapshot, before, run_id=run_id, durable=self.durable)

    def assets(self) -> list[str]:
        """Return the keys of all assets that have at least an attempt, sorted."""
        return sorted(self._assets_below(()))

    def partitions(self, asset: str) -> list[str]:
        """Return the partitions that have a pointer, sorted."""
        names, _ = self.root.folders(f"{ARTIFACTS}/{check_asset(asset)}")
        serial = len(names) + 1 if self.root.path is not None else 2
        pointers = in_threads(partial(self.pointer, asset), names, serial_below=serial)
        return [name for name, pointer in zip(names, pointers, strict=True) if pointer is not None]

    def versions(self, asset: str, partition: str) -> list[str]:
        """Return the complete versions of a partition, the oldest first."""
        names, _ = self.root.folders(partition_key(asset, partition))
        serial = len(names) + 1 if self.root.path is not None else 2
        found = in_threads(partial(self.find, asset, partition), names, serial_below=serial)
        complete = [snapshot for snapshot in found if snapshot is not None]
        return [
            snapshot.version for snapshot in sorted(complete, key=lambda one: (one.completed_at, one.version))
        ]

    def _assets_below(self, parts: tuple[str, ...]) -> set[str]:
        """Return the assets at and below a folder, looking into the first version of each alone."""
        folders, _ = self.root.folders("/".join((ARTIFACTS, *parts)))
        found: set[str] = set()
        for name in folders:
            depth = self._depth_of_version((*parts, name))
            if depth is None:
                continue
            # A version lies two folders below the end of its asset's key.
            length = depth - 2
            if length == len(parts):
                return {"/".join(parts)}
            found |= (
                {"/".join((*parts, name))} if length == len(parts) + 1 else self._assets_below((*parts, name))
            )
        return found

    def _depth_of_version(self, parts: tuple[str, ...]) -> int | None:
        """Return at which depth the first version folder at or below a folder lies; None where there is none."""
        folders, objects = self.root.folders("/".join((ARTIFACTS, *parts)))
        if CURRENT in objects:
            return len(parts) + 1
        if COMPLETE in objects or any(name.startswith(ATTEMPT) for name in (*folders, *objects)):
            return len(parts)
        if len(parts) < _DEEPEST_ASSET + 2:
            for name in folders:
                depth = self._depth_of_version((*parts, name))
                if depth is not None:
                    return depth
        return None
