"""Ranges of one remote object, few requests for many ranges, never a mixture of two versions.

Neighbours are merged here: obstore's own ``get_ranges`` joins ranges up to a megabyte apart, which
turned 2,000 scattered ranges into a whole gigabyte.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import obstore
from obstore import exceptions as obs_errors

from geostack_pipeline.errors import TransferError
from geostack_pipeline.storage.failures import kind_of
from geostack_pipeline.storage.parallel import in_threads
from geostack_pipeline.storage.retry import Retry, is_temporary, transfer_error

if TYPE_CHECKING:
    from obstore.store import ObjectStore

MAX_GAP = 16 << 10
"""Unwanted bytes between two ranges that one request is worth: less than a round trip takes to move."""
MAX_REQUEST = 8 << 20
"""Longer spans are split, so that several threads share them."""
THREADS = 8
"""Parallel requests; more than 16 gained nothing where it was measured."""


@dataclass
class Meter:
    """Counts what transfers move; threads may share one."""

    requests: int = 0
    """GET requests, retries of ours included; those inside the store are not seen."""
    bytes_moved: int = 0
    """Bytes received, gaps included."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, *, requests: int = 0, bytes_moved: int = 0) -> None:
        """Count more."""
        with self._lock:
            self.requests += requests
            self.bytes_moved += bytes_moved


def plan_spans(ranges: Sequence[tuple[int, int]], *, max_gap: int = MAX_GAP) -> list[tuple[int, int]]:
    """Return the fewest sorted, disjoint spans that cover all ranges without bridging gaps above ``max_gap``."""
    spans: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if start == stop:
            continue
        if spans and start - spans[-1][1] <= max_gap:
            spans[-1] = (spans[-1][0], max(stop, spans[-1][1]))
        else:
            spans.append((start, stop))
    return spans


def read_ranges(
    store: ObjectStore,
    key: str,
    ranges: Sequence[tuple[int, int]],
    *,
    if_match: str | None = None,
    max_gap: int = MAX_GAP,
    max_request: int = MAX_REQUEST,
    threads: int = THREADS,
    meter: Meter | None = None,
    retry: Retry | None = None,
) -> list[bytes]:
    """Return the bytes of each half-open range ``(start, stop)``, in the order asked.

    All come from one version of the object: of the ETag given, or of the one the first answer names.

    Args:
        store: Where the object lies.
        key: Key in the store.
        ranges: Any order, may overlap or repeat; an empty range gives ``b""``.
        if_match: ETag that the object must have; a weak one cannot be asked for and is compared instead.
        max_gap: Ranges at most this far apart come with one request.
        max_request: Longer spans are split into requests of this many bytes.
        threads: Requests at once.
        meter: Counts requests and bytes.
        retry: Tries and waits of each request.

    Raises:
        TransferError: A range is not one, or ends behind the object; the object is missing, changed, or
            could not be read.
        AuthError: The store refuses the login.
    """
    for start, stop in ranges:
        if not 0 <= start <= stop:
            raise TransferError(
                "not a byte range",
                subject=key,
                found=f"({start}, {stop})",
                action="ask for 0 <= start <= stop",
            )
    spans = plan_spans(ranges, max_gap=max_gap)
    pieces = [
        (start, min(start + max_request, stop))
        for first, stop in spans
        for start in range(first, stop, max_request)
    ]
    reader = _Reader(store, key, if_match, meter or Meter(), retry or Retry())
    chunks = dict(zip(pieces, in_threads(reader.read, pieces, threads=threads), strict=True))
    buffers: dict[tuple[int, int], memoryview] = {}
    for first, stop in spans:
        parts = [
            chunks.pop((start, min(start + max_request, stop))) for start in range(first, stop, max_request)
        ]
        buffers[first, stop] = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))
    return [_cut(buffers, spans, start, stop) for start, stop in ranges]


def _cut(
    buffers: dict[tuple[int, int], memoryview], spans: list[tuple[int, int]], start: int, stop: int
) -> bytes:
    if start == stop:
        return b""
    low, high = 0, len(spans)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if spans[middle][0] <= start else (low, middle)
    offset = start - spans[low][0]
    return bytes(buffers[spans[low]][offset : offset + stop - start])


class _Reader:
    """Reads pieces of one object and sees to it that all are of one version."""

    def __init__(self, store: ObjectStore, key: str, etag: str | None, meter: Meter, retry: Retry) -> None:
        self._store = store
        self._key = key
        self._condition = etag if etag is not None and not etag.startswith("W/") else None
        self._meter = meter
        self._retry = retry
        self._seen: tuple[str | None, int | None] | None = None if etag is None else (etag, None)
        self._lock = threading.Lock()

    def read(self, piece: tuple[int, int]) -> bytes:
        failures = 0
        while True:
            try:
                data = self._get(piece)
            except (OSError, obs_errors.BaseError) as error:
                if isinstance(error, TransferError) and not error.retryable:
                    raise
                if not isinstance(error, TransferError):
                    if kind_of(error) == "changed":
                        raise self._changed("another ETag than asked for") from error
                    if not is_temporary(error):
                        raise transfer_error(error, self._key) from error
                failures += 1
                if failures >= self._retry.attempts:
                    if isinstance(error, TransferError):
                        raise
                    raise transfer_error(error, self._key, tries=failures) from error
                self._retry.pause(failures)
            else:
                return data

    def _get(self, piece: tuple[int, int]) -> bytes:
        start, stop = piece
        options: Any = {"range": piece}
        if self._condition is not None:
            options["if_match"] = self._condition
        self._meter.add(requests=1)
        answer = obstore.get(self._store, self._key, options=options)
        data = bytes(answer.bytes())
        self._meter.add(bytes_moved=len(data))
        etag, size = answer.meta["e_tag"], answer.meta["size"]
        with self._lock:
            seen = self._seen
            if seen is None or (seen[1] is None and seen[0] == etag):
                self._seen = seen = (etag, size)
        if seen != (etag, size):
            raise self._changed(f"ETag {etag}, {size} bytes; before {seen[0]}, {seen[1]} bytes")
        if size < stop:
            raise TransferError(
                "a range ends behind the object",
                subject=self._key,
                found=f"bytes {start} to {stop} of {size}",
                action="fetch the object's header again: it is cut, or its index is wrong",
            )
        if len(data) != stop - start:
            raise TransferError(
                "the server sent another number of bytes than asked for",
                subject=self._key,
                found=f"{len(data)} bytes for {start} to {stop}",
                action="try again",
                retryable=True,
            )
        return data

    def _changed(self, found: str) -> TransferError:
        # Not retried here: what the caller knows of the object is of the other version, too.
        return TransferError(
            "the source changed while it was read",
            subject=self._key,
            found=found,
            action="read the object's header again and start over",
        )
