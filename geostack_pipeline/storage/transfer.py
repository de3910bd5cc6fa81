"""Bytes from a remote store to a file: streamed, resumed, checked.

Everything here is synchronous and meant for threads: obstore's sync calls are as fast, and need no
event loop.  Ranges of one object are read by :func:`read_ranges`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore import exceptions as obs_errors

from geostack_pipeline.errors import IntegrityError, StorageError
from geostack_pipeline.storage.digest import Multihash
from geostack_pipeline.storage.failures import kind_of
from geostack_pipeline.storage.part import PartFile
from geostack_pipeline.storage.ranges import Meter, read_ranges
from geostack_pipeline.storage.retry import (
    BrokenOffError,
    ChangedError,
    Retry,
    is_temporary,
    status_of,
    transfer_error,
)

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["Downloaded", "Meter", "Retry", "download", "read_ranges"]

_CHUNK = 1 << 17
"""Least bytes per write.  What a broken stream had gathered short of this is lost, so a flaky line needs it small."""
_PROGRESS = 1 << 20
"""So many new bytes count as progress, after which the tries are counted anew."""
_NOT_SATISFIABLE = 416


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """What a download did."""

    size: int
    """Bytes of the file."""
    etag: str | None
    """ETag of the version it holds."""
    sha256: str
    """Of the file."""
    bytes_moved: int
    """Bytes received by this call: less than ``size`` after a resume, more after a restart."""
    requests: int
    """GET requests made by this call; retries inside the store are not seen."""
    resumed: bool
    """Whether bytes that another process left were used."""


def download(
    store: ObjectStore,
    key: str,
    dest: Path,
    *,
    expected_size: int | None = None,
    checksum: str | None = None,
    max_size: int | None = None,
    progress: Callable[[int], None] | None = None,
    retry: Retry | None = None,
    meter: Meter | None = None,
) -> Downloaded:
    """Bring one object to a local path, which appears whole or not at all.

    A broken connection is continued by range where the object has a strong ETag, with ``If-Match``, so
    bytes of two versions never mix; otherwise it begins again.  A process that was killed leaves
    ``<dest>.part``, which the next call continues.

    Args:
        store: Where the object lies; its client's timeouts apply.
        key: Key in the store.
        dest: Final path; its folder is made.
        expected_size: Size in bytes that the catalog promises.
        checksum: Hex multihash that the catalog promises (``file:checksum``).
        max_size: Largest size accepted, in bytes; checked before the body is read.
        progress: Called with the number of each newly received bytes.
        retry: Tries and waits; ``Retry-After`` is not visible through obstore.
        meter: Counts requests and bytes, also where an error ends the download.

    Raises:
        TransferError: The object is missing, kept changing, or could not be read after all tries.
        IntegrityError: Its size or checksum is not the promised one; nothing is kept.
        AuthError: The store refuses the login (401, 403).
        StorageError: The file cannot be written (disk full, no rights).
    """
    promised = _parse_checksum(key, checksum)
    policy = retry or Retry()
    moved = requests = failures = since_progress = 0
    ranges = True
    hashers = [promised.hasher()] if promised else []
    with PartFile(dest, f"{_identity(store)}/{key}", hashers) as part:
        resumed = part.offset > 0
        while True:
            if part.offset and not (ranges and _continues(part)):
                part.restart()
                resumed = False
            requests += 1
            if meter is not None:
                meter.add(requests=1)
            try:
                for count in _receive(store, key, part, expected_size, max_size):
                    moved += count
                    since_progress += count
                    if meter is not None:
                        meter.add(bytes_moved=count)
                    if progress is not None:
                        progress(count)
                break
            except IntegrityError:
                part.discard()
                raise
            except StorageError as error:
                if kind_of(error.__cause__ or error) == "full":
                    part.discard()  # the room is needed by someone
                raise
            except (BrokenOffError, OSError, obs_errors.BaseError) as error:
                kind = kind_of(error)
                if kind == "unsupported":
                    ranges = False
                elif (
                    kind == "changed"
                    or isinstance(error, ChangedError)
                    or status_of(error) == _NOT_SATISFIABLE
                ):
                    part.restart()
                    resumed = False
                elif not isinstance(error, BrokenOffError) and not is_temporary(error):
                    raise transfer_error(error, key) from error
                if since_progress >= _PROGRESS:
                    failures = since_progress = 0
                failures += 1
                if failures >= policy.attempts:
                    raise transfer_error(error, key, tries=failures) from error
                if kind != "unsupported":
                    policy.pause(failures)
        if promised is not None and part.digests[0] != promised.hexdigest:
            found = part.digests[0]
            part.discard()
            raise IntegrityError(
                f"its {promised.algorithm} is not the promised one",
                subject=key,
                found=f"{found}, promised {promised.hexdigest}",
                action="fetch again; if it stays so, the catalog or the source is wrong",
            )
        return Downloaded(
            size=part.size,
            etag=part.etag,
            bytes_moved=moved,
            requests=requests,
            resumed=resumed,
            sha256=part.finish(),
        )


def _receive(
    store: ObjectStore, key: str, part: PartFile, expected_size: int | None, max_size: int | None
) -> Iterator[int]:
    """Ask once and write what comes; yields the number of bytes after each write."""
    options: Any = {}
    if part.offset:
        options = {"range": {"offset": part.offset}, "if_match": part.etag}
    answer = obstore.get(store, key, options=options)
    etag, size = answer.meta["e_tag"], answer.meta["size"]
    if not part.offset:
        _check_sizes(key, size, expected_size, max_size)
        part.begin(etag, size)
    elif (etag, size) != (part.etag, part.size):
        # A server may ignore If-Match: what it says it sends is compared.
        raise ChangedError("the source changed while it was read")
    elif answer.range[0] != part.offset:
        raise BrokenOffError(f"bytes from {answer.range[0]} instead of {part.offset}")
    for chunk in answer.stream(_CHUNK):
        view = memoryview(chunk)
        if part.offset + len(view) > part.size:
            raise BrokenOffError(f"more than the {part.size} bytes announced")
        part.write(view)
        yield len(view)
    if part.offset != part.size:
        raise BrokenOffError(f"{part.offset} of {part.size} bytes")


def _continues(part: PartFile) -> bool:
    return part.etag is not None and not part.etag.startswith("W/")


def _check_sizes(key: str, size: int, expected: int | None, largest: int | None) -> None:
    if expected is not None and size != expected:
        raise IntegrityError(
            "its size is not the promised one",
            subject=key,
            found=f"{size} bytes, promised {expected}",
            action="search again; if it stays so, the catalog is wrong about this object",
        )
    if largest is not None and size > largest:
        raise IntegrityError(
            "the object is larger than allowed",
            subject=key,
            found=f"{size} bytes, limit {largest}",
            action="raise the limit if the object is right",
        )


def _parse_checksum(key: str, checksum: str | None) -> Multihash | None:
    if checksum is None:
        return None
    try:
        return Multihash.parse(checksum)
    except ValueError as error:
        raise IntegrityError(
            "its checksum cannot be read", subject=key, found=str(error), action="report it to the catalog"
        ) from error


def _identity(store: ObjectStore) -> str:
    """Return what distinguishes stores without secrets: class, bucket or container, prefix."""
    config = getattr(store, "config", {})
    names = ("bucket", "container_name", "account_name")
    parts = [str(config[name]) for name in names if isinstance(config, dict) and name in config]
    return "|".join([type(store).__name__, *parts, str(getattr(store, "prefix", None) or "")])
