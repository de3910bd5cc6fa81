"""The blob cache: bytes of remote objects, kept under what they are, verified on the way in.

::

    blobs/<first 2>/<key>/<sha256><suffix>     the bytes; never replaced by others
    blobs/<first 2>/<key>/blob.json            the sidecar: which bytes are current, and where they came from

The key is the canonical identity of the source object (and of the crop).  When the source changes, the
sidecar moves on to new bytes, and the old ones stay for the manifests that name them, until ``gc``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import obstore

from geostack_pipeline.errors import IntegrityError, SettingsError, StorageError
from geostack_pipeline.storage.digest import CHUNK, canonical_json, sha256_bytes, sha256_file
from geostack_pipeline.storage.failures import storage_errors
from geostack_pipeline.storage.layout import BLOBS
from geostack_pipeline.storage.roots import Root
from geostack_pipeline.storage.snapshot import FORMAT, hash_object

SIDECAR = "blob.json"
RENEW_S = 3600.0
"""On object stores a sidecar this old is renewed when it is found, so that ``gc`` sees that it is in use;
on a local disk its time is set at each find."""

_KEY = re.compile(r"[0-9a-f]{64}")
_SUFFIX = re.compile(r"(\.[A-Za-z0-9_]{1,12}){1,2}")
_SECRETS = re.compile(r"//[^/]*:[^/]*@|\?")


@dataclass(frozen=True, kw_only=True)
class Blob:
    """One cached object; ``root.store`` and :attr:`path` open it."""

    path: str
    """Key in the root."""
    sha256: str
    """64 hex digits."""
    size: int
    """Bytes in the cache."""
    etag: str | None
    """ETag of the source when it was fetched."""
    origin: str
    """Canonical identity of the source, free of credentials."""
    source_size: int | None
    """Bytes of the whole source object; more than ``size`` for a crop."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What the fetcher noted: JSON."""


class BlobCache:
    """Cached objects in one root.  Threads and processes may share it freely.

    Args:
        root: The root that also holds the artifacts.
    """

    def __init__(self, root: Root) -> None:
        self.root = root

    @staticmethod
    def key(canonical: str, crop: Mapping[str, Any] | None = None) -> str:
        """Return the cache key of a source object, or of one crop of it: 64 hex digits.

        Args:
            canonical: Identity of the object, free of credentials and of the way it is reached.
            crop: What was cut out, as JSON; None is the whole object.
        """
        return sha256_bytes(canonical_json({"canonical": canonical, "crop": crop}))

    def find(self, key: str) -> Blob | None:
        """Return what is cached under a key: one read of the sidecar, one look at the object's size.

        None where there is nothing, or where the bytes are gone or cut: they are to be fetched again.

        Raises:
            StorageError: The root cannot be read, or a symbolic link leads out of the cache.
        """
        folder = self._folder(key)
        try:
            data = self.root.read(f"{folder}/{SIDECAR}")
        except FileNotFoundError:
            return None
        blob = _decode(data, folder)
        if blob is None or self.root.size(blob.path) != blob.size:
            return None
        self._refuse_escape(blob.path)
        self._renew(f"{folder}/{SIDECAR}", data)
        return blob

    def add(
        self,
        key: str,
        file: Path,
        *,
        origin: str,
        etag: str | None,
        source_size: int | None,
        suffix: str,
        extra: Mapping[str, Any] | None = None,
    ) -> Blob:
        """Copy a file into the cache and return its blob; the same bytes are stored once.

        Args:
            key: From :meth:`key`.
            file: What was fetched; it stays where it is.
            origin: Canonical identity of the source, free of credentials.
            etag: ETag of the source.
            source_size: Bytes of the whole source object.
            suffix: ``.tif`` …, so that tools know the format; anything unusual is left out.
            extra: What to note: JSON.

        Raises:
            IntegrityError: The file changed while it was copied.
            StorageError: The root cannot be written, or a symbolic link leads out of the cache.
        """
        if _SECRETS.search(origin):
            raise SettingsError(
                "an origin holds no credentials and no query",
                subject=re.split(r"[?]", re.sub(r"//[^/]*@", "//…@", origin), maxsplit=1)[0][:120],
                action="pass the canonical identity of the object",
            )
        folder = self._folder(key)
        with storage_errors(str(file), "reading what was fetched"):
            size, digest = sha256_file(file)
        name = digest + (suffix if _SUFFIX.fullmatch(suffix) else "")
        blob = Blob(
            path=f"{folder}/{name}",
            sha256=digest,
            size=size,
            etag=etag,
            origin=origin,
            source_size=source_size,
            extra=dict(extra or {}),
        )
        sidecar = _encode(blob, name)
        self._refuse_escape(blob.path)
        if not (self.root.size(blob.path) == size and self.verify(blob)):
            # Missing, or damaged since: bytes under this name may only ever be these.
            self._copy(file, blob)
        self.root.put(f"{folder}/{SIDECAR}", sidecar)
        return blob

    def verify(self, blob: Blob) -> bool:
        """Return whether the bytes of a blob are there and have its size and sha256; reads all of them."""
        self._refuse_escape(blob.path)
        try:
            return hash_object(self.root, blob.path) == (blob.size, blob.sha256)
        except FileNotFoundError:
            return False

    def _folder(self, key: str) -> str:
        if not _KEY.fullmatch(key):
            raise SettingsError(
                "not a cache key", subject=repr(key)[:80], action="make it with BlobCache.key"
            )
        return f"{BLOBS}/{key[:2]}/{key}"

    def _copy(self, file: Path, blob: Blob) -> None:
        with storage_errors(f"{blob.origin} ({self.root.describe(blob.path)})", "caching"):
            # A generator that raises aborts the upload, so bytes that changed meanwhile never get the name.
            obstore.put(self.root.store, blob.path, _checked_chunks(file, blob))
        stored = self.root.size(blob.path)
        if stored != blob.size:
            raise StorageError(
                "the cache did not keep all bytes",
                subject=blob.origin,
                found=f"{stored} of {blob.size} bytes",
                action="check the root, then run again",
                retryable=True,
            )

    def _renew(self, sidecar: str, data: bytes) -> None:
        """Let ``gc`` see that an entry is in use; what fails here costs a second fetch at worst."""
        with contextlib.suppress(OSError):
            if self.root.path is not None:
                os.utime(self.root.path / sidecar)
                return
            modified = obstore.head(self.root.store, sidecar)["last_modified"]
            if (datetime.now(UTC) - modified).total_seconds() > RENEW_S:
                self.root.put(sidecar, data)

    def _refuse_escape(self, path: str) -> None:
        """Refuse a path that a symbolic link below the cache's folder leads elsewhere.

        obstore follows links.  The folder ``blobs`` itself may be one: an operator's other disk.
        """
        if self.root.path is None:
            return
        base = os.path.realpath(self.root.path / BLOBS)
        real = os.path.realpath(self.root.path / path)
        if real != f"{base}/{path.removeprefix(f'{BLOBS}/')}":
            raise StorageError(
                "a symbolic link leads out of the cache",
                subject=self.root.describe(path),
                action=f"remove the link; only the folder {BLOBS} itself may be one",
            )


def _checked_chunks(file: Path, blob: Blob) -> Iterator[bytes]:
    digest, size = hashlib.sha256(), 0
    with file.open("rb", buffering=0) as source:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
            yield chunk
    if (size, digest.hexdigest()) != (blob.size, blob.sha256):
        raise IntegrityError(
            "the fetched file changed while it was cached",
            subject=blob.origin,
            found=f"{size} bytes instead of {blob.size}, or other ones",
            action="let one process at a time write it, then run again",
        )


def _encode(blob: Blob, name: str) -> bytes:
    return canonical_json(
        {
            "format": FORMAT,
            "name": name,
            "sha256": blob.sha256,
            "size": blob.size,
            "etag": blob.etag,
            "origin": blob.origin,
            "source_size": blob.source_size,
            "extra": blob.extra,
        }
    )


def _decode(data: bytes, folder: str) -> Blob | None:
    """Return the blob of a sidecar; None for one that cannot be read, which the next fetch replaces."""
    try:
        document = json.loads(data)
        if document["format"] != FORMAT or not re.fullmatch(r"[0-9a-f]{64}[.A-Za-z0-9_]*", document["name"]):
            return None
        return Blob(
            path=f"{folder}/{document['name']}",
            sha256=document["sha256"],
            size=document["size"],
            etag=document["etag"],
            origin=document["origin"],
            source_size=document["source_size"],
            extra=document["extra"],
        )
    except (ValueError, KeyError, TypeError):
        return None
