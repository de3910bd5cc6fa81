"""The pointer of a partition: which version readers see.  It moves atomically, or not at all.

On a local disk the move is a rename under the partition's lease.  On an object store it is a put that
succeeds only if the pointer is still the one that was read (``If-Match``, or ``If-None-Match: *`` for
the first), so two writers never overwrite each other unseen.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import obstore
from obstore import exceptions as obs_errors

from geostack_pipeline.errors import ArtifactNotFoundError, StorageError
from geostack_pipeline.storage.digest import canonical_json
from geostack_pipeline.storage.failures import storage_errors
from geostack_pipeline.storage.layout import COMPLETE, CONDEMNED, CURRENT, partition_key, version_key
from geostack_pipeline.storage.leases import lease
from geostack_pipeline.storage.local import replace_flushed
from geostack_pipeline.storage.roots import Root
from geostack_pipeline.storage.snapshot import FORMAT, FileTable, Snapshot, read_document, unreadable

if TYPE_CHECKING:
    from pathlib import Path

_MOST_TRIES = 30
_PAUSE_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """What a partition's ``current.json`` says."""

    asset: str
    """Asset key."""
    partition: str
    """Partition key."""
    version: str
    """The version readers see."""
    attempt: str
    """The attempt that made it."""
    kind: str
    """``table``, ``tree`` or ``model``."""
    code_version: str
    """Code version of the stage that wrote it."""
    upstream: Mapping[str, str]
    """``<asset>/<partition>`` -> version of what it was made from."""
    run_id: str | None
    """Run that moved the pointer here."""
    files: int
    """Number of files."""
    bytes: int
    """Their size together."""
    pointed_at: str
    """When the pointer was moved, ISO 8601, UTC."""
    confirmed_at: str
    """When the version was last found to be the right one, by moving the pointer or by confirming it; ISO 8601, UTC."""


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A pointer document as it lies in the root."""

    pointer: Pointer | None
    """None in a document that only fences: no version was ever pointed at."""
    move: str
    """Unique per write: makes each document, and so its ETag, another one, and tells a lost answer to
    our own write from another writer's."""
    e_tag: str | None


def read_pointer(root: Root, asset: str, partition: str) -> Pointer | None:
    """Return the pointer of a partition, None where none was ever set.

    Raises:
        StorageError: The document cannot be read.
    """
    try:
        data = root.read(f"{partition_key(asset, partition)}/{CURRENT}")
    except FileNotFoundError:
        return None
    return _decode(data, asset, partition, None).pointer


def move_pointer(
    root: Root, snapshot: Snapshot, *, run_id: str | None, confirm: bool = False, durable: bool = False
) -> Pointer:
    """Point a partition at a version and return the pointer.

    Where it points there already, nothing is written; with ``confirm`` only the time of confirmation is.

    Raises:
        ArtifactNotFoundError: The version is not complete, or gc is removing it.
        StorageError: The pointer cannot be written, or others kept moving it.
    """
    pointer = _pointer_to(snapshot, run_id)
    if root.path is not None:
        with lease(root, snapshot.asset, snapshot.partition):
            before = read_pointer(root, snapshot.asset, snapshot.partition)
            if before is not None and _same(before, pointer):
                if not confirm:
                    return before
                pointer = replace(before, confirmed_at=pointer.confirmed_at)
            _require_complete(root, snapshot)
            _put_pointer(root, root.path, pointer, durable=durable)
        return pointer
    return _swap_until_done(root, snapshot, pointer, confirm=confirm)


def replace_pointer(
    root: Root, snapshot: Snapshot, before: Pointer | None, *, run_id: str | None, durable: bool = False
) -> bool:
    """Point a partition at a version if its pointer is still ``before``; returns whether it was.

    For a version that was made from the one before: a writer that lost makes its own anew from the winner's.

    Raises:
        ArtifactNotFoundError: The version is not complete, or gc is removing it.
        StorageError: The pointer cannot be written.
    """
    pointer = _pointer_to(snapshot, run_id)
    asset, partition = snapshot.asset, snapshot.partition
    if root.path is not None:
        with lease(root, asset, partition):
            if not _unmoved(read_pointer(root, asset, partition), before):
                return False
            _require_complete(root, snapshot)
            _put_pointer(root, root.path, pointer, durable=durable)
        return True
    stored = _load(root, asset, partition)
    if not _unmoved(stored.pointer, before):
        return False
    _require_complete(root, snapshot)
    move = uuid.uuid4().hex
    return _swap(root, asset, partition, _encode(pointer, move), stored, move)


def _unmoved(now: Pointer | None, before: Pointer | None) -> bool:
    if now is None or before is None:
        return now is before
    return _same(now, before)


def _pointer_to(snapshot: Snapshot, run_id: str | None) -> Pointer:
    files = cast("FileTable", snapshot.files)
    now = datetime.now(UTC).isoformat()
    return Pointer(
        asset=snapshot.asset,
        partition=snapshot.partition,
        version=snapshot.version,
        attempt=snapshot.attempt,
        kind=snapshot.kind,
        code_version=snapshot.code_version,
        upstream=snapshot.upstream,
        run_id=run_id,
        files=len(files),
        bytes=files.total_bytes,
        pointed_at=now,
        confirmed_at=now,
    )


def _put_pointer(root: Root, folder: Path, pointer: Pointer, *, durable: bool) -> None:
    """Write the pointer of a local root, whose lease is held."""
    key = _key(pointer.asset, pointer.partition)
    data = _encode(pointer, uuid.uuid4().hex)
    if durable:
        with storage_errors(root.describe(key), "writing"):
            replace_flushed(folder / key, data)
    else:
        root.put(key, data)


def fence(root: Root, asset: str, partition: str) -> Pointer | None:
    """Make every move that has already read the pointer fail, and return the pointer (object stores).

    gc calls it between condemning a version and removing it: a move that begins later sees the
    condemnation, a move that began earlier fails its condition and begins anew.
    """
    for _ in range(_MOST_TRIES):
        stored = _load(root, asset, partition)
        move = uuid.uuid4().hex
        data = _encode(stored.pointer, move)
        if _swap(root, asset, partition, data, stored, move):
            return stored.pointer
        time.sleep(_PAUSE_S)
    raise _contended(asset, partition)


def _swap_until_done(root: Root, snapshot: Snapshot, pointer: Pointer, *, confirm: bool) -> Pointer:
    asset, partition = snapshot.asset, snapshot.partition
    for attempt in range(_MOST_TRIES):
        # The order matters: first the pointer, then the version's state, then the conditional write.
        stored = _load(root, asset, partition)
        wanted = pointer
        if stored.pointer is not None and _same(stored.pointer, pointer):
            if not confirm:
                return stored.pointer
            wanted = replace(stored.pointer, confirmed_at=pointer.confirmed_at)
        _require_complete(root, snapshot)
        move = uuid.uuid4().hex
        if _swap(root, asset, partition, _encode(wanted, move), stored, move):
            return wanted
        time.sleep(_PAUSE_S * min(attempt + 1, 10))
    raise _contended(asset, partition)


def _swap(root: Root, asset: str, partition: str, data: bytes, stored: _Stored, move: str) -> bool:
    key = _key(asset, partition)
    mode: Any = "create" if stored.e_tag is None else {"e_tag": stored.e_tag}
    try:
        with storage_errors(f"{asset} {partition}", "moving its pointer"):
            obstore.put(root.store, key, data, mode=mode)
    except (obs_errors.AlreadyExistsError, obs_errors.PreconditionError):
        # Either another writer came first, or our own write landed and only its answer was lost
        # before obstore sent it again.
        return _load(root, asset, partition).move == move
    return True


def _load(root: Root, asset: str, partition: str) -> _Stored:
    try:
        with storage_errors(f"{asset} {partition}", "reading its pointer"):
            answer = obstore.get(root.store, _key(asset, partition))
            data = bytes(answer.bytes())
    except FileNotFoundError:
        return _Stored(pointer=None, move="", e_tag=None)
    e_tag = answer.meta["e_tag"]
    if e_tag is None:
        raise StorageError(
            "the object store gives no ETag",
            subject=root.url,
            action="use a store with conditional writes: pointers cannot be moved safely without",
        )
    return _decode(data, asset, partition, e_tag)


def _require_complete(root: Root, snapshot: Snapshot) -> None:
    folder = version_key(snapshot.asset, snapshot.partition, snapshot.version)
    gone = root.size(f"{folder}/{COMPLETE}") is None
    if gone or (root.path is None and root.size(f"{folder}/{CONDEMNED}") is not None):
        raise ArtifactNotFoundError(
            "the version cannot be pointed at",
            subject=f"{snapshot.asset} {snapshot.partition} {snapshot.version}",
            found="it is not complete" if gone else "gc is removing it",
            action="run again: it will be made anew" if gone else "run gc again to finish, then run again",
        )


def _same(one: Pointer, other: Pointer) -> bool:
    return (one.version, one.attempt) == (other.version, other.attempt)


def _key(asset: str, partition: str) -> str:
    return f"{partition_key(asset, partition)}/{CURRENT}"


def _encode(pointer: Pointer | None, move: str) -> bytes:
    fields = {"version": None} if pointer is None else asdict(pointer)
    return canonical_json({"format": FORMAT, **fields, "move": move})


def _decode(data: bytes, asset: str, partition: str, e_tag: str | None) -> _Stored:
    subject = f"{asset} {partition}"
    document = read_document(data, subject, CURRENT)
    try:
        move = str(document.pop("move"))
        del document["format"]
        pointer = None if document["version"] is None else Pointer(**document)
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(subject, CURRENT, f"{type(error).__name__}: {error}") from error
    if pointer is not None and (pointer.asset, pointer.partition) != (asset, partition):
        raise unreadable(subject, CURRENT, f"the pointer of {pointer.asset} {pointer.partition}")
    return _Stored(pointer=pointer, move=move, e_tag=e_tag)


def _contended(asset: str, partition: str) -> StorageError:
    return StorageError(
        "its pointer could not be moved",
        subject=f"{asset} {partition}",
        found=f"other writers moved it {_MOST_TRIES} times in between",
        action="run again when fewer runs write this partition",
        retryable=True,
    )
