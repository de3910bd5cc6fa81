"""Bytes of one remote object by range, from one and the same version of it.

The first request is a ranged GET of the beginning: it gives the size and the ETag without a
HEAD (some servers answer 403 to an anonymous HEAD).  Every later range carries ``If-Match``
with that ETag, so an object that changes between two reads is an error, never a mixture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, NotSupportedError

from geostack_pipeline.errors import GeostackError, RasterError, TransferError
from geostack_pipeline.raster.local import LocalFile
from geostack_pipeline.storage.ranges import Meter, read_ranges
from geostack_pipeline.storage.retry import Retry, is_temporary, transfer_error

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

HEAD_BYTES = 16_384
"""First range asked for: holds the whole header of a COG with a few thousand tiles."""

GROWTH_BYTES = 16_384
"""Smallest later header read, so that neighbouring tag arrays come with one request."""

PAGE_BYTES = 65_536
"""How much is kept of a web page served in place of a file: what it wants stands behind its long head."""


class SourceObject:
    """One object read by ranges; counts what it moved.

    Reads of the beginning and of the header are kept, so that asking for them twice costs
    nothing.  Thread-safe.

    Args:
        store: Object store; nothing of its configuration is shown in errors.
        key: Key in the store.
        head_bytes: Size of the first range.
        retry: Tries and waits of each request.
        meter: Counts what is moved, also where an error ends it; of this object alone.

    Raises:
        TransferError: The object is missing, unreadable or does not honour ranges.
        AuthError: The store refuses the login.
        RasterError: The object is empty, or a web page was served in its place.
    """

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        *,
        head_bytes: int = HEAD_BYTES,
        retry: Retry | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.store = store
        self.key = key
        self._meter = meter or Meter()
        self._retry = retry or Retry()
        self._lock = Lock()
        self._segments: list[tuple[int, bytes]] = []
        self.size, self.etag, self._modified = self._read_beginning(head_bytes)
        self._local = LocalFile.of(store, key, self.etag)

    @property
    def bytes_moved(self) -> int:
        """Bytes received so far."""
        return self._meter.bytes_moved

    @property
    def requests(self) -> int:
        """Requests made so far."""
        return self._meter.requests

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

    def read_many(self, ranges: Sequence[tuple[int, int]], *, threads: int = 1) -> list[bytes]:
        """Return the bytes of each [start, stop), in order, one request each unless they touch.

        Raises:
            TransferError: The bytes could not be moved, or the source changed.
            AuthError: The store refuses.
        """
        local = self._local.read_many(ranges, self._meter) if self._local is not None else None
        if local is not None:
            return local
        return read_ranges(
            self.store,
            self.key,
            ranges,
            if_match=self.etag,
            max_gap=0,
            threads=threads,
            meter=self._meter,
            retry=self._retry,
        )

    @property
    def is_guarded(self) -> bool:
        """Whether every range carries an ETag that the server must compare."""
        return self.etag is not None and not self.etag.startswith("W/")

    def confirm_unchanged(self) -> None:
        """Check once more that the object is the one that was opened, where no ETag guarded the ranges.

        Costs one request of one byte without a strong ETag, nothing with one (RFC 9110 forbids weak
        ones in ``If-Match``).
        """
        if self.is_guarded:
            return
        data, meta = self._get(1)
        if (meta["size"], meta["e_tag"], meta["last_modified"]) != (self.size, self.etag, self._modified):
            raise TransferError(
                "the source changed while it was read",
                subject=self.key,
                found=f"{meta['size']} bytes instead of {self.size}, or another modification time",
                action="read the object's header again and start over",
            )
        if data != self.head[:1]:
            raise TransferError(
                "the source changed while it was read",
                subject=self.key,
                found="another first byte",
                action="read the object's header again and start over",
            )

    def _read_beginning(self, head_bytes: int) -> tuple[int, str | None, datetime]:
        data, meta = self._get(head_bytes)
        self._segments.append((0, data))
        return meta["size"], meta["e_tag"], meta["last_modified"]

    def _get(self, size: int) -> tuple[bytes, ObjectMeta]:
        """Return the first bytes and what the answer says about the object; retries what may pass."""
        failures = 0
        while True:
            self._meter.add(requests=1)
            try:
                answer = obstore.get(self.store, self.key, options={"range": (0, size)})
                data = bytes(answer.bytes())
            except NotSupportedError:
                raise self._without_ranges() from None
            except (BaseError, OSError) as error:
                if _is_unsatisfiable(error):
                    raise self._empty() from None
                failures += 1
                if not is_temporary(error) or failures >= self._retry.attempts:
                    raise transfer_error(error, self.key, tries=failures) from error
                self._retry.pause(failures)
                continue
            self._meter.add(bytes_moved=len(data))
            if answer.meta["size"] == 0:
                raise self._empty()
            if len(data) == min(size, answer.meta["size"]):
                return data, answer.meta
            failures += 1
            if failures >= self._retry.attempts:
                raise TransferError(
                    "the server sent another number of bytes than asked for",
                    subject=self.key,
                    found=f"{len(data)} of {min(size, answer.meta['size'])} bytes",
                    action="try again",
                    retryable=True,
                )
            self._retry.pause(failures)

    def _empty(self) -> RasterError:
        return RasterError(
            "The object is empty",
            subject=self.key,
            found="0 bytes",
            action="look at the source; an upload may still be running",
        )

    def _without_ranges(self) -> GeostackError:
        """Tell a login page from a file server that cannot serve ranges."""
        start = b""
        try:
            self._meter.add(requests=1)
            for chunk in obstore.get(self.store, self.key).stream(min_chunk_size=PAGE_BYTES):
                start = bytes(chunk)[:PAGE_BYTES]
                self._meter.add(bytes_moved=len(chunk))
                break
        except (BaseError, OSError) as error:
            return transfer_error(error, self.key)
        if looks_like_text(start):
            return not_a_raster(self.key, start)
        return TransferError(
            "The server does not honour range requests",
            subject=self.key,
            found="the whole object in answer to a range",
            action="fetch the whole object instead of a crop",
        )


def looks_like_text(start: bytes) -> bool:
    """Return whether bytes begin like a web page, XML or JSON instead of a raster."""
    return start.lstrip()[:1] in {b"<", b"{", b"["}


class WebPageError(RasterError):
    """A web page was served in place of a file: a login page as a rule."""

    page: bytes = b""
    """Its first bytes."""

    @classmethod
    def of(cls, key: str, page: bytes) -> WebPageError:
        """Return the error for an object."""
        error = cls(
            "A web page was served in place of the file",
            subject=key,
            found=f"a page beginning with {_shown(page)!r}",
            action="check the login and the href",
        )
        error.page = page
        return error


def web_page(start: bytes) -> bytes | None:
    """Return the bytes if they begin like a web page, else None."""
    head = start.lstrip().lower()
    return start if head.startswith((b"<!doctype html", b"<html")) else None


def not_a_raster(key: str, start: bytes) -> RasterError:
    """Return the error for an object that is no raster, with its first characters."""
    if web_page(start) is not None:
        return WebPageError.of(key, start)
    kind = "text (a web page or an error message?)" if looks_like_text(start) else "unknown bytes"
    return RasterError(
        "The object is not a TIFF",
        subject=key,
        found=f"{kind} beginning with {_shown(start)!r}",
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


def _is_unsatisfiable(error: Exception) -> bool:
    text = str(error)
    return "416 Range" in text or "Requested range was invalid" in text or "Invalid range" in text


def _shown(start: bytes) -> str:
    return "".join(c if c.isprintable() else "." for c in start[:60].decode("latin-1"))
