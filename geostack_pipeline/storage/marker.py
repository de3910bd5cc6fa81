"""Markers: how ``gc`` knows that an attempt still runs, and what it reads.

On a local disk the marker is a file that its writer holds locked, so the kernel tells the truth
however the writer ended.  On an object store it is renewed every minute.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

from geostack_pipeline.storage.failures import storage_errors
from geostack_pipeline.storage.leases import create_locked
from geostack_pipeline.storage.roots import Root

HEARTBEAT_S = 60.0
"""How often a running attempt on an object store renews its marker."""
MISSED_BEATS = 5
"""After so many ``gc`` takes its writer for dead."""


class Marker:
    """The marker of one running attempt."""

    def __init__(self, root: Root, key: str, data: bytes) -> None:
        self._root = root
        self._key = key
        self._data = data
        self._descriptor: int | None = None
        self._ended = threading.Event()
        self._renewed = 0.0
        with storage_errors(root.describe(key), "beginning an attempt"):
            if root.path is not None:
                self._descriptor = create_locked(root.path / key, data)
                return
        root.put(key, data)
        self._renewed = time.time()
        threading.Thread(target=self._renew, name="geostack-heartbeat", daemon=True).start()

    def _renew(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            # A missed beat does no harm: gc waits for several.
            with contextlib.suppress(Exception):
                before = time.time()
                self._root.put(self._key, self._data)
                self._renewed = before

    def is_alive(self) -> bool:
        """Return whether ``gc`` still takes the attempt for running; False after a long silence (a suspended machine)."""
        if self._root.path is not None:
            return True
        # By the wall clock, which goes on while a machine sleeps; well before gc loses its patience.
        return time.time() - self._renewed < (MISSED_BEATS - 1) * HEARTBEAT_S

    def end(self) -> None:
        """Remove the marker; what cannot be removed is left to ``gc``."""
        self._ended.set()
        with contextlib.suppress(Exception):
            self._root.delete(self._key)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
