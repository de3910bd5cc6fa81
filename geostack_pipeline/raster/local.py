"""Ranges of a file of the local disk, read without a detour.

An object store opens the file, asks for its state and copies the bytes three times for every range; with tiles of a
hundred kilobytes that cost as much as decoding them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from obstore.store import LocalStore

from geostack_pipeline.storage.ranges import Meter

if TYPE_CHECKING:
    from obstore.store import ObjectStore


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """A file that must stay the one that a local store named an ETag of."""

    path: Path
    etag: str

    @classmethod
    def of(cls, store: ObjectStore, key: str, etag: str | None) -> Self | None:
        """Return the file behind an object; None where it lies elsewhere, or cannot be told apart from a later one."""
        if not isinstance(store, LocalStore) or etag is None or not hasattr(os, "pread"):
            return None
        return cls(path=Path(store.prefix or "/") / key, etag=etag)

    def read_many(self, ranges: Sequence[tuple[int, int]], meter: Meter) -> list[bytes] | None:
        """Return the bytes of each [start, stop), in order.

        None where that is not simply possible (the file is gone, changed or shorter): the store, asked for the same, has the right
        error for it.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if _etag(os.fstat(descriptor)) != self.etag:
                return None
            parts = [os.pread(descriptor, stop - start, start) for start, stop in ranges]
            # asked again, for a file that was written to meanwhile
            if _etag(os.fstat(descriptor)) != self.etag:
                return None
        except OSError:
            return None
        finally:
            os.close(descriptor)
        if any(len(part) != stop - start for part, (start, stop) in zip(parts, ranges, strict=True)):
            return None
        meter.add(requests=len(ranges), bytes_moved=sum(map(len, parts)))
        return parts


def _etag(state: os.stat_result) -> str:
    """Return the ETag that obstore's local store gives a file: inode, microseconds of its last change, size."""
    return f'"{state.st_ino:x}-{state.st_mtime_ns // 1000:x}-{state.st_size:x}"'
