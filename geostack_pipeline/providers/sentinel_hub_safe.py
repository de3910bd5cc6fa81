"""Which file of a SAFE product holds a band: told by a listing, since the granule's folder has a name of its own."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import obstore

from geostack_pipeline.errors import AuthError, TransferError
from geostack_pipeline.providers.sentinel_hub_items import METRES
from geostack_pipeline.storage.failures import kind_of, plain_text

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_BAND = re.compile(
    r"GRANULE/[^/]+/IMG_DATA/R(?P<metres>10|20|60)m/[^/]+_(?P<band>[A-Z0-9]{3})_(?P=metres)m\.jp2", re.ASCII
)


class SafeFolders:
    """Listings of product folders, each made once; thread-safe.

    Args:
        store: Opens the store of the products.
        variables: Environment variables of the keys, for messages.
    """

    def __init__(self, store: Callable[[], ObjectStore], variables: tuple[str, str]) -> None:
        self._store = store
        self._variables = variables
        self._lock = threading.Lock()
        self._pending: dict[str, threading.Lock] = {}
        self._known: dict[str, Mapping[str, str]] = {}

    def band_key(self, folder: str, band: str) -> str:
        """Return the key of a band's file at the band's own pixel size; lists the folder the first time.

        Args:
            folder: Key of the product, ``Sentinel-2/MSI/…SAFE``.
            band: Canonical key, ``B04`` or ``SCL``.

        Raises:
            AuthError: The keys are missing or refused.
            TransferError: The folder cannot be listed, or lacks the band.
        """
        files = self._files(folder.rstrip("/"))
        if band not in files:
            raise TransferError(
                f"the product has no file of {band} at {METRES.get(band, 0)} m",
                subject=f"s3://eodata/{folder}",
                found=", ".join(sorted(files)) or "no band at all below GRANULE/*/IMG_DATA",
                action="the product may still be on its way into the store, or have been withdrawn: run again later",
                retryable=True,
            )
        return files[band]

    def _files(self, folder: str) -> Mapping[str, str]:
        with self._lock:
            pending = self._pending.setdefault(folder, threading.Lock())
        # One listing however many bands and threads ask; other products are listed meanwhile.
        with pending:
            if folder not in self._known:
                self._known[folder] = self._list(folder)
            return self._known[folder]

    def _list(self, folder: str) -> Mapping[str, str]:
        store = self._store()
        found: dict[str, str] = {}
        try:
            for batch in obstore.list(store, f"{folder}/GRANULE"):
                for meta in batch:
                    match = _BAND.fullmatch(str(meta["path"])[len(folder) + 1 :])
                    if match is None or METRES.get(match["band"]) != int(match["metres"]):
                        continue
                    if match["band"] in found:
                        raise TransferError(
                            "the product has several granules",
                            subject=f"s3://eodata/{folder}",
                            found=f"two files of {match['band']}",
                            action="such products (before 2016) are not read: leave the item out by `where`",
                        )
                    found[match["band"]] = str(meta["path"])
        except (obstore.exceptions.BaseError, OSError) as error:
            if isinstance(error, TransferError):
                raise
            kind = kind_of(error)
            if kind in {"login", "denied"}:
                raise AuthError(
                    "the store of the products refuses the keys",
                    subject=f"s3://eodata/{folder}",
                    found=plain_text(error),
                    action=f"check {' and '.join(self._variables)}; keys expire (docs/providers/sentinel_hub.md)",
                ) from error
            raise TransferError(
                "the product's folder cannot be listed",
                subject=f"s3://eodata/{folder}",
                found=plain_text(error),
                action="run again later",
                retryable=kind in {"unreachable", "other"},
            ) from error
        return found
