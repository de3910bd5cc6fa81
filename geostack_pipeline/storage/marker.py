"""Markers: how ``gc`` knows that an attempt still runs, and what it reads.

On a local disk the marker is a file that its writer holds locked, so the kernel tells the truth
however the writer ended.  On an object store it is renewed every minute.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from geostack_pipeline.storage.failures import storage_errors
from geostack_pipeline.storage.leases import create_locked
from geostack_pipeline.storage.roots import Root

HEARTBEAT_S = 60.0
"""How often a running attempt on an object store renews its marker."""


class Marker:
    """The marker of one running attempt."""

    def __init__(self, root: Root, key: str, data: bytes) -> None:
        self._root = root
        self._key = key
        self._data = data
        self._descriptor: int | None = None
        self._ended = threading.Event()
        with storage_errors(root.describe(key), "beginning an attempt"):
            if root.path is not None:
                self._descriptor = create_locked(root.path / key, data)
                return
        root.put(key, data)
        threading.Thread(target=self._renew, name="geostack-heartbeat", daemon=True).start()

    def _renew(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            # A missed beat does no harm: gc waits for several.
            with contextlib.suppress(Exception):
                self._root.put(self._key, self._data)

    def end(self) -> None:
        """Remove the marker; what cannot be removed is left to ``gc``."""
        self._ended.set()
        with contextlib.suppress(Exception):
            self._root.delete(self._key)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def path(self) -> Path | None:
        """The marker's file on a local root."""
        return None if self._root.path is None else self._root.path / self._key
