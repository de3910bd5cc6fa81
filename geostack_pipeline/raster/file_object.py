"""Objects of a store as Python files, for libraries that read files only."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from obstore.store import LocalStore

from geostack_pipeline.raster.fetch import SourceObject

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_BUFFER = 1 << 20
"""Bytes read at once: the trees by which such a library finds its way are many small neighbours."""


class _Ranges(io.RawIOBase):
    """A seekable file over ranged reads of one version of an object."""

    def __init__(self, source: SourceObject) -> None:
        super().__init__()
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        stop = min(self._source.size, self._at + view.nbytes)
        if stop <= self._at:
            return 0
        data = self._source.read_many([(self._at, stop)])[0]
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def open_file(store: ObjectStore, key: str) -> Path | BinaryIO:
    """Return the path of an object on a local store, else a file that reads ranges of it.

    Raises:
        TransferError: The object is missing or cannot be read.
        RasterError: It is empty.
    """
    if isinstance(store, LocalStore):
        return Path(store.prefix or "/") / key
    return io.BufferedReader(_Ranges(SourceObject(store, key)), _BUFFER)
