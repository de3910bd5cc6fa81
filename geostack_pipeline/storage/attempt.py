"""Attempts: one writer's private folder, and the single step that makes it the version everyone sees.

The failure: two runs of one partition, a kill at any instant, a full disk.  The rule: data goes to a
folder nobody else writes or reads; size and sha256 of every file are read back; then one create-only
put of ``complete.json`` names the attempt.  Before that put the version does not exist, after it the
version is whole.  The put succeeds for one writer alone; the others adopt what it wrote.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import obstore

from geostack_pipeline.errors import SettingsError, StorageError
from geostack_pipeline.storage.digest import canonical_json
from geostack_pipeline.storage.failures import kind_of, storage_errors
from geostack_pipeline.storage.layout import (
    ATTEMPT,
    BLOBS,
    COMPLETE,
    check_file,
    split_reference,
    version_key,
)
from geostack_pipeline.storage.local import create_flushed, flush, remove_empty
from geostack_pipeline.storage.marker import Marker
from geostack_pipeline.storage.parallel import in_threads
from geostack_pipeline.storage.roots import Root
from geostack_pipeline.storage.snapshot import (
    FORMAT,
    FileEntry,
    Kind,
    Snapshot,
    decode_complete,
    encode_complete,
    hash_object,
)

if TYPE_CHECKING:
    import zarr.storage
    from obstore.store import ObjectStore


class Attempt:
    """A writer's attempt at one version; a context manager.

    Leaving the block without :meth:`commit` removes what was written.  A process that is killed leaves
    its folder behind, invisible to readers, for ``gc``.
    """

    def __init__(
        self,
        root: Root,
        asset: str,
        partition: str,
        version: str,
        *,
        kind: Kind,
        code_version: str,
        upstream: Mapping[str, str],
        durable: bool = False,
    ) -> None:
        for name in upstream:
            split_reference(name)
        self.root = root
        self.asset = asset
        self.partition = partition
        self.version = version
        self.kind: Kind = kind
        self.code_version = code_version
        self.upstream = dict(upstream)
        self.id = f"{ATTEMPT}{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}"
        self.adopted = False
        """Whether the commit lost the race and adopted another writer's version."""
        self._folder = version_key(asset, partition, version)
        self._prefix = f"{self._folder}/{self.id}"
        self._durable = durable
        self._marker: Marker | None = None
        self._store: ObjectStore | None = None
        self._referenced: dict[str, tuple[str | None, FileEntry]] = {}
        self._state = "new"

    def __enter__(self) -> Self:
        """Announce the attempt, so that ``gc`` leaves it and what it reads alone."""
        assert self._state == "new", "an attempt is entered once"
        document = {
            "format": FORMAT,
            "attempt": self.id,
            "code_version": self.code_version,
            "upstream": self.upstream,
            "begun_at": datetime.now(UTC).isoformat(),
            "pid": os.getpid(),
        }
        self._marker = Marker(self.root, f"{self._prefix}.json", canonical_json(document))
        self._state = "open"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Withdraw the attempt unless it was committed."""
        if self._state == "open":
            self._withdraw()

    @property
    def store(self) -> ObjectStore:
        """The obstore store whose keys are paths inside the attempt."""
        self._require_open()
        if self._store is None:
            self._store = self.root.prefixed(self._prefix)
        return self._store

    def put(self, path: str, data: bytes | Iterable[bytes]) -> None:
        """Write one file, atomically; an iterable is streamed, never held whole in memory."""
        self._require_open()
        key = f"{self._prefix}/{check_file(path)}"
        with storage_errors(self._describe(path), "writing"):
            if isinstance(data, bytes | bytearray | memoryview):
                obstore.put(self.root.store, key, bytes(data))
            else:
                # The sync put takes iterators; a generator that raises aborts the upload.
                obstore.put(self.root.store, key, iter(data))

    def zarr_store(self, path: str = "tree.zarr") -> zarr.storage.ObjectStore[Any]:
        """Return a writable zarr store at a path of the attempt."""
        from zarr.storage import ObjectStore as ZarrStore  # noqa: PLC0415 - tables do not need zarr

        self._require_open()
        return ZarrStore(self.root.prefixed(f"{self._prefix}/{check_file(path)}"))

    def reference(self, snapshot: Snapshot, prefix: str, *, to: str | None = None) -> int:
        """Take over the files at or below a path of another complete version; returns how many.

        No byte passes through this process: hard links on a local disk, server-side copies elsewhere.
        The copies belong to this version, so ``gc`` may remove the other one.

        Args:
            snapshot: The other version, of the same root.
            prefix: File or folder there.
            to: Its path here; None keeps the path.

        Raises:
            SettingsError: The other version lies in another root, or has nothing there.
            StorageError: A file could not be copied.
        """
        return self.reference_all(snapshot, {prefix: prefix if to is None else to})

    def reference_all(self, snapshot: Snapshot, prefixes: Mapping[str, str]) -> int:
        """Take over several files or folders of another version at once, as :meth:`reference` does; returns how many files.

        Args:
            snapshot: The other version, of the same root; it is listed once.
            prefixes: File or folder there -> its path here; none lies in another.
        """
        self._require_open()
        if snapshot.root_url != self.root.url:
            raise SettingsError(
                "only versions of the same root can be referenced",
                subject=self._describe(next(iter(prefixes), "")),
                found=snapshot.root_url,
                action="open both with the same root",
            )
        targets = {
            check_file(prefix.rstrip("/")): check_file(to.rstrip("/")) for prefix, to in prefixes.items()
        }
        renamed: dict[str, str] = {}
        used: set[str] = set()
        for path in sorted(snapshot.files):
            above = (path, *(path[:at] for at, letter in enumerate(path) if letter == "/"))
            prefix = next((each for each in above if each in targets), None)
            if prefix is not None:
                renamed[path] = targets[prefix] + path[len(prefix) :]
                used.add(prefix)
        for prefix in targets.keys() - used:
            raise SettingsError(
                f"nothing to reference at {prefix!r}",
                subject=f"{snapshot.asset} {snapshot.partition} {snapshot.version}",
                action="reference a path that the version has",
            )
        if not renamed:
            return 0
        # A link or a plain copy keeps the ETag, by which commit knows the bytes were not replaced since.
        e_tags = {meta["path"]: meta["e_tag"] for meta in self.root.objects(snapshot.key())}

        def copy(path: str) -> None:
            source, target = snapshot.key(path), f"{self._prefix}/{renamed[path]}"
            with storage_errors(self._describe(path), "referencing"):
                try:
                    obstore.copy(self.root.store, source, target)
                except FileNotFoundError as error:
                    raise snapshot.damaged(f"{path} is gone") from error
                except Exception as error:
                    if self.root.path is None or kind_of(error) == "full":
                        raise
                    # A file system without hard links.
                    obstore.put(self.root.store, target, self.root.path / source)

        in_threads(copy, list(renamed), serial_below=64 if self.root.path is not None else 2)
        for path, target in renamed.items():
            self._referenced[target] = (e_tags.get(snapshot.key(path)), snapshot.files[path])
        return len(renamed)

    def commit(
        self,
        *,
        meta: Mapping[str, Any],
        nodes: Mapping[str, str] | None = None,
        blobs: Iterable[str] = (),
    ) -> Snapshot:
        """Make the attempt the version, or adopt the version another writer made meanwhile.

        Args:
            meta: What to note beside the data: JSON, no NaN.
            nodes: Node of a tree -> its own input-addressed version.
            blobs: Paths in the root of the cached objects that the data refers to; ``gc`` keeps them.

        Raises:
            StorageError: Nothing was written, a blob is gone, or the root cannot be written.
        """
        self._require_open()
        wanted_blobs = sorted(set(blobs))
        self._require_blobs(wanted_blobs)
        fields = {
            "asset": self.asset,
            "partition": self.partition,
            "version": self.version,
            "attempt": self.id,
            "kind": self.kind,
            "code_version": self.code_version,
            "upstream": self.upstream,
            "meta": dict(meta),
            "nodes": dict(nodes or {}),
            "blobs": wanted_blobs,
            "completed_at": datetime.now(UTC).isoformat(),
        }
        # Before anything is read back: a value without JSON form is the caller's mistake.
        canonical_json(fields)
        files = self._read_back()
        data = encode_complete(fields, files)
        if self._marker is None or not self._marker.is_alive():
            raise self._lost("it was silent so long that gc may have removed files of it")
        key = f"{self._folder}/{COMPLETE}"
        if not self._create(key, data, files):
            try:
                data = self.root.read(key)
            except FileNotFoundError as error:
                raise self._lost("the version that won the race was removed") from error
        snapshot = decode_complete(self.root, self.asset, self.partition, self.version, data)
        # Its own id there means that the first put landed and only its answer was lost.
        self.adopted = snapshot.attempt != self.id
        if self.adopted:
            self._withdraw()
        else:
            self._state = "committed"
            self._end_marker()
        return snapshot

    def _create(self, key: str, data: bytes, files: Iterable[str]) -> bool:
        if not self._durable or self.root.path is None:
            return self.root.create(key, data)
        flush(self.root.path, [f"{self._prefix}/{path}" for path in files])
        with storage_errors(self._describe(COMPLETE), "writing"):
            return create_flushed(self.root.path / key, data)

    def _read_back(self) -> dict[str, FileEntry]:
        """Return size and sha256 of every file, read back from the root."""
        start = len(self._prefix) + 1
        metas = self.root.objects(self._prefix)
        if not metas:
            raise self._lost("nothing was written before the commit")

        def entry(meta: dict[str, Any]) -> tuple[str, FileEntry]:
            path = check_file(meta["path"][start:])
            known = self._referenced.get(path)
            if (
                known is not None
                and known[0] is not None
                and (known[0], known[1].size) == (meta["e_tag"], meta["size"])
            ):
                return path, known[1]
            size, digest = hash_object(self.root, meta["path"])
            if size != meta["size"]:
                raise self._lost(f"{path} changed while it was read back: {meta['size']} and {size} bytes")
            return path, FileEntry(size, digest)

        files = dict(in_threads(entry, metas, serial_below=8 if self.root.path is not None else 2))
        gone = sorted(set(self._referenced) - set(files))
        if gone:
            raise self._lost(f"{len(gone)} referenced files are gone, e.g. {gone[0]}")
        return files

    def _require_blobs(self, blobs: list[str]) -> None:
        strangers = [blob for blob in blobs if not blob.startswith(f"{BLOBS}/")]
        if strangers:
            raise SettingsError(
                "a blob is named by its path in the root",
                subject=f"{self.asset} {self.partition}",
                found=strangers[0][:120],
                action=f"pass Blob.path, which begins with {BLOBS}/",
            )
        sizes = in_threads(self.root.size, blobs, serial_below=64 if self.root.path is not None else 2)
        gone = [blob for blob, size in zip(blobs, sizes, strict=True) if size is None]
        if gone:
            raise StorageError(
                f"{len(gone)} cached objects that the version refers to are gone",
                subject=f"{self.asset} {self.partition} {self.version}",
                found=gone[0],
                action="run again: they will be fetched anew",
                retryable=True,
            )

    def _lost(self, found: str) -> StorageError:
        return StorageError(
            "the attempt cannot be committed",
            subject=f"{self.asset} {self.partition} {self.version}",
            found=found,
            action="run again",
            retryable=True,
        )

    def _require_open(self) -> None:
        if self._state != "open":
            raise RuntimeError(
                f"the attempt at {self.asset} {self.partition} {self.version} is {self._state}"
            )

    def _describe(self, path: str) -> str:
        return f"{self.asset} {self.partition} {self.version} {path}"

    def _withdraw(self) -> None:
        """Remove the attempt's files: tidiness alone, so failures leave the rest to ``gc``."""
        self._state = "withdrawn"
        with contextlib.suppress(Exception):
            keys = [meta["path"] for meta in self.root.objects(self._prefix)]
            in_threads(self.root.delete, keys, serial_below=8)
            if self.root.path is not None:
                remove_empty(self.root.path / self._prefix, self.root.path / self._folder)
        self._end_marker()
        if self.root.path is not None:
            with contextlib.suppress(OSError):
                (self.root.path / self._folder).rmdir()

    def _end_marker(self) -> None:
        if self._marker is not None:
            self._marker.end()
            self._marker = None
