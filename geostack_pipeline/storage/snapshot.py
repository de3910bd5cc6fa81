"""Snapshots: lazy handles on complete, immutable versions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import obstore

from geostack_pipeline.errors import ArtifactNotFoundError, StorageError
from geostack_pipeline.storage.digest import canonical_json, sha256_bytes, sha256_chunks, sha256_file
from geostack_pipeline.storage.failures import storage_errors
from geostack_pipeline.storage.layout import ATTEMPT, COMPLETE, version_key
from geostack_pipeline.storage.opening import open_named
from geostack_pipeline.storage.parallel import in_threads
from geostack_pipeline.storage.roots import Root, reopen

Kind = Literal["table", "tree", "model"]
FORMAT = 1
"""Version of the documents ``complete.json`` and ``current.json``."""


@dataclass(frozen=True)
class FileEntry:
    """One file of a version."""

    size: int
    """Bytes."""
    sha256: str
    """64 hex digits."""


class FileTable(Mapping[str, FileEntry]):
    """The files of a version by path; entries are made when they are asked for, as a tree may have thousands."""

    __slots__ = ("_raw",)

    def __init__(self, raw: dict[str, list[Any]]) -> None:
        self._raw = raw

    def __getitem__(self, path: str) -> FileEntry:
        size, digest = self._raw[path]
        return FileEntry(size, digest)

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def __repr__(self) -> str:
        return f"FileTable({len(self._raw)} files, {self.total_bytes} bytes)"

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(size for size, _ in self._raw.values())


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One complete version of an artifact.  Making one reads no data; it never changes afterwards.

    Pickling carries these fields alone; the store is reopened by :attr:`root_url` in the other process,
    with what that process opened the root with, or the options of its environment.
    """

    asset: str
    """Asset key, e.g. ``earth_search/scenes``."""
    partition: str
    """Partition key, e.g. ``2024-06-01``."""
    version: str
    """Name of the version: content- or input-addressed."""
    attempt: str
    """Which writer's attempt won."""
    kind: Kind
    """Codec: ``table`` (parquet), ``tree`` (Zarr v3) or ``model``."""
    code_version: str
    """Code version of the stage that wrote it."""
    upstream: Mapping[str, str]
    """``<asset>/<partition>`` -> version of everything it was made from."""
    meta: Mapping[str, Any]
    """What the writer noted: JSON."""
    nodes: Mapping[str, str]
    """Node of a tree -> that node's own input-addressed version."""
    blobs: tuple[str, ...]
    """Paths in the root of the cached objects it refers to, sorted."""
    files: Mapping[str, FileEntry]
    """Every file by its path inside the attempt."""
    completed_at: str
    """When it was committed, ISO 8601, UTC."""
    root_url: str
    """URL of the root it lies in; no credentials."""

    def __hash__(self) -> int:
        return hash((self.root_url, self.asset, self.partition, self.version, self.attempt))

    def open(self, name: str | None = None) -> Any:
        """Return the data: a ``polars.DataFrame`` or a lazy ``xarray.DataTree``.

        A table is ``<name>.parquet`` (default: the last part of the asset's key), or, where it was split
        by schema, all of ``<name>-*.parquet`` under one another with the union of their columns.  A tree is
        ``<name>.zarr`` (default ``tree.zarr``), read-only and unread until computed (``chunks=None``: no
        dask).  A version may hold both: ``open("plumes")`` of a tree gives its ``plumes.parquet``.  A group of a
        tree is opened by its path, e.g. ``open("korpezhe/overviews")``.

        Raises:
            ArtifactNotFoundError: The version has no such table or tree; says what it has.
            StorageError: The root cannot be read, or a file is damaged.
        """
        return open_named(self, name)

    def read(self, path: str) -> bytes:
        """Return the bytes of one file, checked against its recorded size.

        Raises:
            ArtifactNotFoundError: The version has no such file.
            StorageError: The file is gone or has another size than recorded.
        """
        entry = self.files.get(path)
        if entry is None:
            raise self.missing(path)
        try:
            data = reopen(self.root_url).read(self.key(path))
        except FileNotFoundError as error:
            raise self.damaged(f"{path} is gone") from error
        if len(data) != entry.size:
            raise self.damaged(f"{path} has {len(data)} bytes, recorded are {entry.size}")
        return data

    def key(self, path: str = "") -> str:
        """Return the key in the root of a file, or of the attempt's folder."""
        folder = f"{version_key(self.asset, self.partition, self.version)}/{self.attempt}"
        return f"{folder}/{path}" if path else folder

    def url(self, path: str = "") -> str:
        """Return the URL of a file or of the whole version; no credentials."""
        return reopen(self.root_url).describe(self.key(path))

    def local_path(self, path: str = "") -> Path | None:
        """Return the path of a file or of the whole version on a local root, else None."""
        folder = reopen(self.root_url).path
        return None if folder is None else folder / self.key(path)

    def verify(self) -> list[str]:
        """Return what is wrong with the files: missing, another size, another sha256; reads every byte."""
        root = reopen(self.root_url)

        def check(path: str) -> str | None:
            entry = self.files[path]
            try:
                size, digest = hash_object(root, self.key(path))
            except FileNotFoundError:
                return f"{path}: missing"
            if size != entry.size:
                return f"{path}: {size} bytes instead of {entry.size}"
            if digest != entry.sha256:
                return f"{path}: sha256 {digest} instead of {entry.sha256}"
            return None

        return [problem for problem in in_threads(check, sorted(self.files)) if problem is not None]

    def content_digest(self) -> str:
        """Return the sha256 over the sorted (path, sha256) of all files: equal for equal content."""
        return sha256_bytes(canonical_json([[path, self.files[path].sha256] for path in sorted(self.files)]))

    def missing(self, what: str) -> ArtifactNotFoundError:
        """Return the error that a version holds no such file, table or tree."""
        tops = sorted({path.split("/", 1)[0] for path in self.files})
        return ArtifactNotFoundError(
            f"the version holds no {what}",
            subject=f"{self.asset} {self.partition} {self.version}",
            found=", ".join(tops[:10]) + (", …" if len(tops) > 10 else ""),
            action="ask for one of these",
        )

    def damaged(self, found: str) -> StorageError:
        """Return the error that a file of a complete version is not what was recorded."""
        return StorageError(
            "a complete version is damaged",
            subject=f"{self.asset} {self.partition} {self.version}",
            found=found,
            action="restore the root from a copy, or remove the version's folder and run again",
        )


def hash_object(root: Root, key: str) -> tuple[int, str]:
    """Return size and sha256 of an object, streaming; ``FileNotFoundError`` where there is none."""
    with storage_errors(root.describe(key), "reading back"):
        if root.path is not None:
            return sha256_file(root.path / key)
        # memoryview: obstore's buffers go to hashlib without a copy.
        return sha256_chunks(memoryview(chunk) for chunk in obstore.get(root.store, key).stream(1 << 20))


def encode_complete(fields: Mapping[str, Any], files: Mapping[str, FileEntry]) -> bytes:
    """Return the text of ``complete.json``."""
    table = {path: [entry.size, entry.sha256] for path, entry in files.items()}
    return canonical_json({"format": FORMAT, **fields, "files": table})


def decode_complete(root: Root, asset: str, partition: str, version: str, data: bytes) -> Snapshot:
    """Return the snapshot that a ``complete.json`` describes.

    Raises:
        StorageError: The document is not readable, of a newer format, or belongs to another version.
    """
    subject = f"{asset} {partition} {version}"
    document = read_document(data, subject, COMPLETE)
    try:
        owner = (document["asset"], document["partition"], document["version"])
        attempt, kind = str(document["attempt"]), document["kind"]
        strange = owner != (asset, partition, version) or kind not in get_args(Kind)
        if strange or not attempt.startswith(ATTEMPT) or "/" in attempt:
            raise unreadable(subject, COMPLETE, f"{kind!r} of {owner}, {attempt!r}"[:200])
        return Snapshot(
            asset=asset,
            partition=partition,
            version=version,
            attempt=attempt,
            kind=kind,
            code_version=document["code_version"],
            upstream=document["upstream"],
            meta=document["meta"],
            nodes=document["nodes"],
            blobs=tuple(document["blobs"]),
            files=FileTable(document["files"]),
            completed_at=document["completed_at"],
            root_url=root.url,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise unreadable(subject, COMPLETE, f"{type(error).__name__}: {error}") from error


def read_document(data: bytes, subject: str, name: str) -> dict[str, Any]:
    """Return a JSON document of the store, its format checked; raises :class:`StorageError`."""
    try:
        document = json.loads(data)
    except ValueError as error:
        raise unreadable(subject, name, f"{len(data)} bytes that are no JSON") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise unreadable(subject, name, f"format {found!r}, this release reads {FORMAT}")
    return document


def unreadable(subject: str, name: str, found: str) -> StorageError:
    """Return the error that a document of the store cannot be read."""
    return StorageError(
        f"its {name} cannot be read",
        subject=subject,
        found=found,
        action="restore the file from a copy, or remove it and run again; a newer release may be needed",
    )
