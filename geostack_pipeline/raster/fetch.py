"""Bytes of one remote object by range, from one and the same version of it.

The first request is a ranged GET of the beginning: it gives the size and the ETag without a
HEAD (some servers answer 403 to an anonymous HEAD).  Every later range carries ``If-Match``
with that ETag, so an object that changes between two reads is an error, never a mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import BaseError, NotSupportedError
from obstore.store import LocalStore

from geostack_pipeline.errors import AuthError, GeostackError, RasterError, TransferError
from geostack_pipeline.storage.failures import kind_of, plain_text

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ObjectStore

_T = TypeVar("_T")

HEAD_BYTES = 16_384
"""First range asked for: holds the whole header of a COG with a few thousand tiles."""

GROWTH_BYTES = 16_384
"""Smallest later header read, so that neighbouring tag arrays come with one request."""


class SourceObject:
    """One object read by ranges; counts what it moved.

    Reads of the beginning and of the header are kept, so that asking for them twice costs
    nothing.  Thread-safe.

    Args:
        store: Object store; nothing of its configuration is shown in errors.
        key: Key in the store.
        head_bytes: Size of the first range.

    Raises:
        TransferError: The object is missing, unreadable or does not honour ranges.
        AuthError: The store refuses the login.
        RasterError: The object is empty, or a web page was served in its place.
    """

    def __init__(self, store: ObjectStore, key: str, *, head_bytes: int = HEAD_BYTES) -> None:
        self.store = store
        self.key = key
        self.bytes_moved = 0
        """Bytes received so far."""
        self.requests = 0
        """Requests made so far."""
        self._lock = Lock()
        self._segments: list[tuple[int, bytes]] = []
        self.size, self.etag, self._modified = self._read_beginning(head_bytes)

    @property
    def strong_etag(self) -> str | None:
        """The ETag if it can guard ranges (RFC 9110 forbids weak ones in ``If-Match``)."""
        return None if self.etag is None or self.etag.startswith("W/") else self.etag

    @property
    def head(self) -> bytes:
        """The first bytes of the object."""
        return self._segments[0][1]

    def read(self, start: int, stop: int) -> bytes:
        """Return header bytes [start, stop), from memory where they were read before.

        Raises:
            RasterError: The range ends behind the object's end: the file is cut or lies about itself.
            TransferError: The bytes could not be moved, or the source changed.
        """
        if not 0 <= start <= stop <= self.size:
            raise RasterError(
                "The file points outside itself",
                subject=self.key,
                found=f"bytes {start}-{stop} of an object of {self.size} bytes",
                action="fetch the object again; if it stays so, the source is cut or corrupt",
            )
        cached = self.cached(start, stop)
        if cached is not None:
            return cached
        end = min(self.size, max(stop, start + GROWTH_BYTES))
        data = self.read_many([(start, end)])[0]
        with self._lock:
            self._segments.append((start, data))
        return data[: stop - start]

    def cached(self, start: int, stop: int) -> bytes | None:
        """Return [start, stop) if it was read as header before, else None."""
        for offset, data in self._segments:
            if offset <= start and stop <= offset + len(data):
                return data[start - offset : stop - offset]
        return None

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each [start, stop), one request each, in order."""
        return [self._get(start, stop) for start, stop in ranges]

    def confirm_unchanged(self) -> None:
        """Check once more that the object is the one that was opened, where no ETag guarded the ranges.

        Costs one request of one byte without a strong ETag, nothing with one.
        """
        if self.strong_etag is not None:
            return
        result = self._call(lambda: obstore.get(self.store, self.key, options={"range": (0, 1)}))
        self._count(len(bytes(result.bytes())))
        meta = result.meta
        if (meta["size"], meta["e_tag"], meta["last_modified"]) != (self.size, self.etag, self._modified):
            raise self._changed(f"size {meta['size']} instead of {self.size}, or another modification time")

    def _read_beginning(self, head_bytes: int) -> tuple[int, str | None, datetime]:
        try:
            result = obstore.get(self.store, self.key, options={"range": (0, head_bytes)})
            data = bytes(result.bytes())
        except NotSupportedError:
            raise self._without_ranges() from None
        except (BaseError, OSError) as error:
            if _is_unsatisfiable(error):
                raise RasterError(
                    "The object is empty",
                    subject=self.key,
                    found="0 bytes",
                    action="look at the source; an upload may still be running",
                ) from None
            raise self._translated(error) from None
        self._count(len(data))
        meta = result.meta
        if len(data) < min(head_bytes, meta["size"]):
            raise self._short(0, min(head_bytes, meta["size"]), len(data))
        self._segments.append((0, data))
        return meta["size"], meta["e_tag"], meta["last_modified"]

    def _get(self, start: int, stop: int) -> bytes:
        options: GetOptions = {"range": (start, stop)}
        if self.strong_etag is not None:
            options["if_match"] = self.strong_etag
        result = self._call(lambda: obstore.get(self.store, self.key, options=options))
        data = self._call(lambda: bytes(result.bytes()))
        self._count(len(data))
        if result.meta["size"] != self.size:
            raise self._changed(f"{result.meta['size']} bytes instead of {self.size}")
        if len(data) != stop - start:
            raise self._short(start, stop, len(data))
        return data

    def _count(self, moved: int) -> None:
        with self._lock:
            self.requests += 1
            self.bytes_moved += moved

    def _call(self, what: Callable[[], _T]) -> _T:
        try:
            return what()
        except (BaseError, OSError) as error:
            raise self._translated(error) from None

    def _without_ranges(self) -> GeostackError:
        """Tell a login page from a file server that cannot serve ranges."""
        start = b""
        try:
            for chunk in obstore.get(self.store, self.key).stream(min_chunk_size=64):
                start = bytes(chunk)[:256]
                self._count(len(chunk))
                break
        except (BaseError, OSError) as error:
            return self._translated(error)
        if looks_like_text(start):
            return not_a_raster(self.key, start)
        return TransferError(
            "The server does not honour range requests",
            subject=self.key,
            found="the whole object in answer to a range",
            action="fetch the whole object instead of a crop",
        )

    def _translated(self, error: Exception) -> GeostackError:
        kind = kind_of(error)
        if kind == "changed":
            return self._changed("another ETag than at the first read")
        if kind == "missing":
            return TransferError(
                "The object does not exist",
                subject=self.key,
                found="not found",
                action="search the catalog again; the item may have been replaced",
            )
        if kind in {"denied", "login"}:
            return AuthError(
                "The store refuses to read the object",
                subject=self.key,
                found=type(error).__name__,
                action="check the provider's credentials and their rights",
            )
        return TransferError(
            "The bytes could not be read",
            subject=self.key,
            found=plain_text(error),
            action="try again; if it stays so, look at the state of the source",
            retryable=True,
        )

    def _changed(self, found: str) -> TransferError:
        return TransferError(
            "The source changed while it was read",
            subject=self.key,
            found=found,
            action="start again: the parts read so far belong to another version",
            retryable=True,
        )

    def _short(self, start: int, stop: int, got: int) -> TransferError:
        return TransferError(
            "The server sent fewer bytes than asked for",
            subject=self.key,
            found=f"{got} bytes for the range {start}-{stop}",
            action="try again",
            retryable=True,
        )


def looks_like_text(start: bytes) -> bool:
    """Return whether bytes begin like a web page, XML or JSON instead of a raster."""
    return start.lstrip()[:1] in {b"<", b"{", b"["}


def not_a_raster(key: str, start: bytes) -> RasterError:
    """Return the error for an object that is no raster, with its first characters."""
    shown = "".join(c if c.isprintable() else "." for c in start[:60].decode("latin-1"))
    kind = "text (a web page or an error message?)" if looks_like_text(start) else "unknown bytes"
    return RasterError(
        "The object is not a TIFF",
        subject=key,
        found=f"{kind} beginning with {shown!r}",
        action="check the login and the href: a portal's page may have been served instead of the file",
    )


def merged(
    ranges: Sequence[tuple[int, int]], *, gap_share: float = 0.02, largest: int = 8 << 20
) -> Iterator[tuple[int, int]]:
    """Yield few ranges that cover all of ``ranges``, sorted, without moving much between them.

    Neighbours are joined where they touch or where the gap is small; all gaps together stay
    below ``gap_share`` of the wanted bytes, the smallest ones being bridged first.

    Args:
        ranges: Half-open byte ranges; may repeat, need not be sorted.
        gap_share: Unwanted bytes moved, as a share of the wanted ones.
        largest: A joined range is closed once it holds this many bytes, which bounds memory.
    """
    wanted = sorted({r for r in ranges if r[1] > r[0]})
    if not wanted:
        return
    budget = gap_share * sum(stop - start for start, stop in wanted)
    bridged: set[int] = set()
    gaps = sorted(
        (wanted[i + 1][0] - wanted[i][1], i)
        for i in range(len(wanted) - 1)
        if wanted[i + 1][0] > wanted[i][1]
    )
    for gap, i in gaps:
        budget -= gap
        if budget < 0:
            break
        bridged.add(i)
    start, stop = wanted[0]
    for i, (next_start, next_stop) in enumerate(wanted[1:]):
        near = next_start <= stop or i in bridged
        if near and (next_start < stop or max(stop, next_stop) - start <= largest):
            stop = max(stop, next_stop)
        else:
            yield start, stop
            start, stop = next_start, next_stop
    yield start, stop


def is_local(store: ObjectStore) -> bool:
    """Return whether a store is a folder of this machine."""
    return isinstance(store, LocalStore)


def _is_unsatisfiable(error: Exception) -> bool:
    text = str(error)
    return "416 Range" in text or "Requested range was invalid" in text or "Invalid range" in text
