"""What a run moved: requests, bytes and cache hits per store, summed over threads."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Counts:
    """Numbers of one store."""

    requests: int = 0
    moved: int = 0
    """Bytes received."""
    hits: int = 0
    """Objects that were in the cache already."""
    fetched: int = 0
    """Objects brought into the cache."""
    unseen: bool = False
    """Whether bytes were moved that nobody could count."""


@dataclass
class Traffic:
    """Numbers of one run, by store: a bucket, a container or a host."""

    stores: dict[str, Counts] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(
        self,
        store: str,
        *,
        moved: int = 0,
        requests: int = 0,
        hits: int = 0,
        fetched: int = 0,
        unseen: bool = False,
    ) -> None:
        """Add to one store's numbers."""
        with self._lock:
            counts = self.stores.setdefault(store, Counts())
            counts.moved += moved
            counts.requests += requests
            counts.hits += hits
            counts.fetched += fetched
            counts.unseen |= unseen

    def totals(self) -> dict[str, int]:
        """Return the sums over all stores: ``bytes_moved``, ``requests``, ``cache_hits``, ``fetched``."""
        with self._lock:
            every = list(self.stores.values())
        return {
            "bytes_moved": sum(counts.moved for counts in every),
            "requests": sum(counts.requests for counts in every),
            "cache_hits": sum(counts.hits for counts in every),
            "fetched": sum(counts.fetched for counts in every),
        }

    def by_store(self) -> Mapping[str, Mapping[str, int]]:
        """Return each store's numbers under the names of :meth:`totals`."""
        with self._lock:
            return {
                name: {
                    "bytes_moved": counts.moved,
                    "requests": counts.requests,
                    "cache_hits": counts.hits,
                    "fetched": counts.fetched,
                }
                for name, counts in sorted(self.stores.items())
            }
