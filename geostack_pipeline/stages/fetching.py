"""Brings one wished object into the cache: by the first place that gives it, with a login that is renewed once."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obstore.exceptions import BaseError

from geostack_pipeline.errors import IntegrityError, TransferError
from geostack_pipeline.providers.contract import ObjectRef, Provider
from geostack_pipeline.raster.crop import crop
from geostack_pipeline.raster.fetch import PAGE_BYTES, WebPageError, web_page
from geostack_pipeline.raster.hdf5_size import require_whole
from geostack_pipeline.stages.routes import by_first_route
from geostack_pipeline.stages.traffic import Traffic
from geostack_pipeline.stages.wishes import Wish
from geostack_pipeline.stages.workspace import Workspace
from geostack_pipeline.storage.blobs import Blob, BlobCache
from geostack_pipeline.storage.failures import plain_text
from geostack_pipeline.storage.transfer import Downloaded, Meter, download

if TYPE_CHECKING:
    from obstore.store import ObjectStore


OVERVIEW = "overview"
"""Form of a cached object that is the window of an overview."""


class Fetcher:
    """Fetches the wishes of one provider; its methods are called from several threads.

    Args:
        ws: Where the cache is.
        provider: Says where objects are and holds the login.
        scratch: Folder for files on their way into the cache.
        traffic: Counts what is moved.
        refresh: Ask the source of a cached object for its etag again.
        moved: Called with the bytes of each fetched object.
    """

    def __init__(
        self,
        ws: Workspace,
        provider: Provider,
        scratch: Path,
        traffic: Traffic,
        *,
        refresh: bool = False,
        moved: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._cache: BlobCache = ws.blobs
        self._provider = provider
        self._scratch = scratch
        self._incoming = _incoming(ws)
        self._traffic = traffic
        self._refresh = refresh
        self._moved = moved
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def fetch(self, wish: Wish) -> Blob | None:
        """Return the cached blob of a wish, fetching it when needed; None for a raster that does not reach the box.

        Raises:
            AuthError: Every place refused the login, also after it was renewed.
            HrefRefusedError: A redirect or store outside the allow-list.
            TransferError: The bytes could not be moved.
            IntegrityError: They are not those that the catalog promised.
            RasterError: They are no raster.
        """
        # Two areas of one scene may need the same whole file: the second waits and finds it.
        with self._alone(wish.canonical):
            known = None if self._refresh else self._cached(wish)
            if known is not None:
                # Before a place is opened: what is here already needs no login.
                self._traffic.add(wish.routes[0].store_id, hits=1)
                return known
            return by_first_route(self._provider, wish, partial(self._from, wish))

    def _from(self, wish: Wish, ref: ObjectRef, store: ObjectStore, subject: str) -> Blob | None:
        known = self._cached(wish)
        if known is not None and known.etag == self._etag(store, ref, subject):
            self._traffic.add(ref.store_id, hits=1)
            return known
        meter = Meter()
        blob = None
        try:
            blob = self._fetched(wish, ref, store, meter)
        finally:
            # What a failed try moved was moved too.
            self._traffic.add(
                ref.store_id,
                moved=meter.bytes_moved,
                requests=meter.requests,
                fetched=int(blob is not None),
            )
            self._moved(meter.bytes_moved)
        return blob

    def _cached(self, wish: Wish) -> Blob | None:
        window = self._cache.find(wish.window_key) if wish.want.how == "window" else None
        return window or self._cache.find(wish.whole_key)

    def _fetched(self, wish: Wish, ref: ObjectRef, store: ObjectStore, meter: Meter) -> Blob | None:
        if wish.want.how == "whole":
            return self._whole(wish, ref, store, meter)
        plan = wish.plan(store, ref, meter)
        if plan is None:
            return self._whole(wish, ref, store, meter)
        if not plan.intersects:
            return None
        file = self._scratch / f"{wish.window_key}-{threading.get_ident()}"
        try:
            result = crop(store, ref.key, plan, file)
            _check_size(wish, result.source_size)
            return self._cache.add(
                wish.window_key,
                file,
                origin=wish.canonical,
                etag=result.etag,
                source_size=result.source_size,
                suffix=".tif",
                extra={
                    "form": "crop" if result.overview is None else OVERVIEW,
                    "window": [*result.window],
                    "source_shape": [*result.source_shape],
                },
            )
        finally:
            file.unlink(missing_ok=True)

    def _whole(self, wish: Wish, ref: ObjectRef, store: ObjectStore, meter: Meter) -> Blob:
        file = self._scratch / f"{wish.whole_key}-{threading.get_ident()}"
        asset = wish.item["assets"][wish.asset]
        size, checksum = asset.get("file:size"), asset.get("file:checksum")
        try:
            try:
                loaded = _download(
                    store, ref.key, self._incoming / wish.whole_key, file, meter, size=size, checksum=checksum
                )
            except IntegrityError:
                # A login page has another size than the file: the size is the symptom, the login the cause.
                _refuse_page(store, ref.key, meter)
                raise
            with file.open("rb") as opened:
                start = opened.read(PAGE_BYTES)
            page = web_page(start)
            if page is not None and "html" not in str(asset.get("type") or ""):
                raise WebPageError.of(ref.key, page)
            # Catalogs of NetCDF tell no sizes: half a file with a Content-Length that fits would stay in the cache.
            require_whole(start, loaded.size, wish.canonical)
            return self._cache.add(
                wish.whole_key,
                file,
                origin=wish.canonical,
                etag=loaded.etag,
                source_size=loaded.size,
                suffix=Path(ref.key).suffix.lower(),
                extra={"form": "object"},
            )
        finally:
            file.unlink(missing_ok=True)

    def _etag(self, store: ObjectStore, ref: ObjectRef, subject: str) -> str | None:
        try:
            # One byte by GET: anonymous buckets may refuse HEAD.
            result = store.get(ref.key, options={"range": (0, 1)})
            etag = result.meta.get("e_tag")
            result.bytes()
        except Exception as error:
            raise TransferError(
                "the source does not say whether its bytes changed",
                subject=subject,
                found=plain_text(error),
                action="run again with --refresh later; what is stored stays as it is",
                retryable=True,
            ) from error
        self._traffic.add(ref.store_id, moved=1, requests=1)
        return str(etag) if etag is not None else None

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        with self._guard:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            yield


def _refuse_page(store: ObjectStore, key: str, meter: Meter) -> None:
    """Raise ``WebPageError`` if an object begins like a web page; say nothing of what else it may be."""
    try:
        start = bytes(store.get(key, options={"range": (0, PAGE_BYTES)}).bytes())
    except (BaseError, OSError):
        return
    meter.add(requests=1, bytes_moved=len(start))
    if (page := web_page(start)) is not None:
        raise WebPageError.of(key, page)


def _check_size(wish: Wish, found: int) -> None:
    promised = wish.item["assets"][wish.asset].get("file:size")
    if promised is not None and promised != found:
        raise IntegrityError(
            "its size is not the promised one",
            subject=wish.canonical,
            found=f"{found} bytes, promised {promised}",
            action="search again with --refresh; if it stays so, the catalog is wrong about this object",
        )


def _incoming(ws: Workspace) -> Path:
    """Return where part files outlive a killed process: beside a local store, else in the temporary folder."""
    local = ws.artifacts.root.path
    # A folder of the user's own: in a shared temporary folder, another user's could neither be written nor trusted.
    return (local or Path(tempfile.gettempdir()) / f"geostack-{os.getuid()}") / "incoming"


def _download(
    store: Any, key: str, shared: Path, own: Path, meter: Meter, *, size: int | None, checksum: str | None
) -> Downloaded:
    """Download a whole object; a process killed half-way leaves a part in the shared folder that the next one continues."""
    for _ in range(2):
        loaded = download(store, key, shared, expected_size=size, checksum=checksum, meter=meter)
        try:
            shared.replace(own)
        except FileNotFoundError:
            continue  # another process finished the same object and took it first
        return loaded
    return download(store, key, own, expected_size=size, checksum=checksum, meter=meter)
