"""What a provider is: the four questions each catalog module answers, and their types.

A provider knows no Dagster and moves no bytes by itself.  It tells how its catalog is
asked, what an item means, where an asset's bytes live, and who is asking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from geostack_pipeline.providers.coerce import format_time

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from geostack_pipeline.errors import GeostackError

Item = dict[str, Any]
"""A STAC item as JSON."""


@dataclass(frozen=True, kw_only=True)
class SearchWindow:
    """One question to a catalog: a half-open span of time and one box."""

    start: datetime
    """First instant, inclusive, UTC."""
    end: datetime
    """First instant after the window, exclusive, UTC."""
    bbox: tuple[float, float, float, float]
    """West, south, east, north with west <= east; degrees, WGS 84."""

    @property
    def interval(self) -> str:
        """The window as the closed interval of a search body; fractions of a second only where there are any."""
        return "/".join(format_time(moment).replace(".000000Z", "Z") for moment in (self.start, self.end))


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one catalog speaks STAC search."""

    page_size: int
    """Largest ``limit`` the catalog honours."""
    walker: Literal["rustac", "pager"]
    """Who follows the next links: rustac's client where a test proves it right for this paging
    style, otherwise our own pager."""
    count: Literal["exact", "estimate", "none"]
    """Whether the catalog says how many items match, and whether that number is binding."""
    filter_style: Literal["query", "cql2-json", "none"] = "none"
    """What the catalog honours for property filters; everything is re-checked client-side anyway."""
    request_timeout_s: float = 60.0
    """Time limit of one request, body included."""
    max_parallel_windows: int = 4
    """Windows walked at once."""
    retry_after_unit_s: float = 1.0
    """Seconds per unit of a ``Retry-After`` number: 1 by the standard, 0.001 where the catalog counts milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Radiometry:
    """How stored numbers become reflectance: ``reflectance = number * scale + offset``."""

    scale: float
    offset: float
    nodata: float | None
    reason: str
    """Why these values and not what the item says; kept in the scene list."""


@dataclass(frozen=True, kw_only=True)
class ObjectRef:
    """Where the bytes of an asset live, chosen by the provider's allow-list."""

    store_id: str
    """Which of the provider's stores, e.g. ``s3://sentinel-cogs``."""
    key: str
    """Key inside that store."""
    canonical: str
    """Identity of the object, free of credentials and of the way it is reached; the cache key's base."""


class RejectedItemError(ValueError):
    """An item that cannot become canonical; ``reason`` is a stable short code, ``detail`` says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where one object store of a provider answers; the default is the real one."""

    url: str | None = None
    """Endpoint URL; None is the cloud's own."""
    region: str | None = None
    allow_http: bool = False
    """Plain http, for a server on loopback only."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """What a provider's scenes are, as far as the later stages care."""

    kind: Literal["surface", "swath"]
    """``surface``: reflectance bands on a map, mosaicked per area onto the area's grid.  ``swath``: every granule is
    a node of its own, in its own geometry."""
    bands: tuple[str, ...]
    """Everything that the setting ``bands`` may name: bands of a surface, asset keys of a swath."""
    default_bands: tuple[str, ...]
    """What is fetched when the setting names nothing."""
    classification: str | None = None
    """Asset of the scene classification, fetched with every scene of a surface."""
    methane: bool = False
    """Whether the methane stage can read its cubes."""


@dataclass(frozen=True, kw_only=True)
class Want:
    """One asset to fetch of an item."""

    asset: str
    """Canonical asset key."""
    how: Literal["window", "whole"]
    """``window``: of a tiled TIFF only the tiles that meet the area (what is no tiled TIFF comes whole).
    ``whole``: the file as it is."""
    required: bool = True
    """Whether an item without it is left out, with a reason; else it is fetched where it exists."""


@runtime_checkable
class Provider(Protocol):
    """One catalog.  :class:`~geostack_pipeline.providers.base.BaseProvider` holds what most have in common."""

    key: str
    """Name in settings and asset keys, e.g. ``earth_search``."""
    url: str
    """Root of the STAC API."""
    collections: Sequence[str]
    dialect: Dialect
    product: Product

    def search_headers(self) -> Mapping[str, str]:
        """Return the headers of a search request, with a token that is valid now; never logged.

        May ask a token server, so it is called outside the event loop.

        Raises:
            AuthError: The login was refused; the message names the variables to check.
        """
        ...

    def search_body(self, window: SearchWindow) -> dict[str, Any]:
        """Return the STAC search body for a window, without ``limit``; its interval may be wider, never narrower."""
        ...

    def canonical(self, item: Item) -> Item:
        """Return the canonical form of a raw item, or raise :class:`RejectedItemError`. Pure and idempotent.

        A canonical item has a 2-D ``bbox`` and a ``geometry``; ``properties.datetime`` as
        ``YYYY-MM-DDTHH:MM:SS.ffffffZ``; the columns of :data:`CANONICAL_PROPERTIES` with their
        types; assets under canonical keys (``B04``, ``SCL`` …), each band asset with one
        ``raster:bands`` entry holding the decided ``scale``, ``offset`` and ``nodata``.
        """
        ...

    def template(self) -> Item:
        """Return one canonical item with every canonical column, from which an empty table takes its schema."""
        ...

    def locate(self, href: str) -> ObjectRef:
        """Return where an href's bytes live; raises ``HrefRefusedError`` outside the allow-list."""
        ...

    def store(self, store_id: str) -> ObjectStore:
        """Return the object store of an id from :meth:`locate`, with this provider's credentials.

        Called once per object, so that a login which was renewed in between is used; must be cheap and thread-safe.
        """
        ...

    def wants(self, item: Item, bands: Sequence[str]) -> Sequence[Want]:
        """Return which assets of a canonical item are fetched when ``bands`` are wanted, in a fixed order."""
        ...

    def routes(self, item: Item, asset: str) -> Sequence[ObjectRef]:
        """Return the places of an asset in the order in which they are tried; all have one ``canonical``.

        Raises:
            HrefRefusedError: The href lies outside the allow-list.
        """
        ...

    def renew(self, store_id: str | None) -> bool:
        """Forget the login of a store (None: of the search) after it was refused; thread-safe.

        Returns:
            Whether trying once more makes sense: False where there is nothing to renew.
        """
        ...

    def explain_page(self, page: bytes, subject: str) -> GeostackError:
        """Return what a web page means that was served in place of a file; the first bytes of it are given."""
        ...


class PixelGrid(Protocol):
    """Where the pixels of an area lie: rows from north to south, columns from west to east."""

    @property
    def crs(self) -> str:
        """CRS of the coordinates, ``EPSG:…`` or WKT."""
        ...

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """(a, b, c, d, e, f) of (column, row) -> (x, y) at pixel corners; b and d are 0, e is negative."""
        ...

    @property
    def width(self) -> int:
        """Columns."""
        ...

    @property
    def height(self) -> int:
        """Rows."""
        ...


@dataclass(frozen=True, kw_only=True)
class RenderedBand:
    """One asset inside a rendered file."""

    index: int
    """Band of the file, counted from 1."""
    radiometry: Radiometry
    """How its numbers become reflectance; scale 1, offset 0 for a classification."""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A file that a service has made."""

    size: int
    """Bytes of the file."""
    bytes_moved: int
    """Bytes received, those of failed tries too."""
    requests: int
    empty: bool
    """Whether it shows nothing: no pixel has data."""


@dataclass(frozen=True, kw_only=True)
class RenderRequest:
    """One picture of an area that a service is asked to make: one GeoTIFF with all wanted bands on the area's grid."""

    canonical: str
    """Identity of the picture, from everything that decides its pixels; the cache key's base."""
    service: str
    """Address of the service, for the ledger."""
    items: tuple[str, ...]
    """Ids of the items it is made of; the first one stands for it in manifests and cubes."""
    bands: Mapping[str, RenderedBand]
    """Canonical asset key -> where it lies in the file."""
    expected_bytes: int
    """Size without compression: what a plan counts."""
    expected_requests: int = 1
    """Requests that it takes: more than one where the area is too large for one answer."""
    perform: Callable[[Path], Rendered] = field(compare=False)
    """Makes the request and writes the checked file to a path; raises ``AuthError``, ``TransferError`` or
    ``IntegrityError``. Thread-safe."""


@runtime_checkable
class AreaRenderer(Protocol):
    """A provider whose pixels come from a service that resamples and mosaics, not from files."""

    rendering: str
    """Names how pictures are made; part of the version of what is fetched, so that a change fetches anew."""

    def render(self, grid: PixelGrid, items: Sequence[Item], bands: Sequence[str]) -> Sequence[RenderRequest]:
        """Return the pictures of an area on one date: one per overpass. Requests nothing.

        Args:
            grid: The area's grid.
            items: Canonical items of one date over the area, the preferred ones first.
            bands: Canonical asset keys, the classification among them.

        Raises:
            SettingsError: The service cannot make pictures on this grid or of these bands.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ItemsAnswer:
    """Everything that a catalog has for one window."""

    items: list[Item]
    """Raw items, as :meth:`Provider.canonical` takes them, each with ``id`` and ``collection``."""
    matched: int | None
    """Number that the catalog counts for the window; None where it does not count."""
    requests: int
    """Requests that were made."""
    bytes_moved: int = 0
    """Bytes that were received."""


class SourceFaultError(Exception):
    """A catalog's answer that may be another one next time; the text says what was seen, without a secret."""

    def __init__(
        self,
        found: str,
        *,
        timed_out: bool = False,
        malformed: bool = False,
        wait_s: float | None = None,
        requests: int = 1,
    ) -> None:
        self.timed_out = timed_out
        """No answer within the time limit: a smaller window may help."""
        self.malformed = malformed
        """An answer that is not of the catalog's protocol."""
        self.wait_s = wait_s
        """Seconds that the catalog asks to wait."""
        self.requests = requests
        """Requests that were made."""
        super().__init__(found)


@runtime_checkable
class ItemSource(Protocol):
    """A provider whose catalog is no STAC search: it fetches the items of a window itself.

    The search supervises it like any other: windows, retries, waits, the count and its check are the search's.
    Both methods are called from several threads and block.  They raise :class:`SourceFaultError` for what may pass,
    ``AuthError`` and ``CatalogError`` for what will not.
    """

    def count_items(self, window: SearchWindow) -> ItemsAnswer:
        """Return how many items the catalog counts for a window, and none of them; cheap."""
        ...

    def fetch_items(self, window: SearchWindow) -> ItemsAnswer:
        """Return all items of a window; they may be more than belong to it, never fewer."""
        ...


CANONICAL_PROPERTIES: Mapping[str, type] = {
    "datetime": str,
    "platform": str,
    "eo:cloud_cover": float,
    "proj:code": str,
    "grid:code": str,
    "sat:relative_orbit": int,
    "view:sun_elevation": float,
    "view:incidence_angle": float,
    "processing:baseline": str,
    "processing:datetime": str,
    "geostack:scene": str,
    "geostack:radiometry": str,
}
"""Properties that every canonical item of an optical scene has (null where the catalog cannot tell)."""


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """What a search did: kept in the metadata of the scene list."""

    windows: int
    requests: int
    matched: int | None
    """Number the catalog claims over all windows; None where it does not count."""
    returned: int
    """Distinct raw items received."""
    retries: int
    waited_s: float
    """Seconds waited for 429 and 5xx answers."""
    bytes_moved: int | None = None
    """Bytes of the answers, decompressed; None where a client walked that does not show them."""
    notes: tuple[str, ...] = field(default=())
