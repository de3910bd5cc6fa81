"""NASA's CMR through the earthaccess library: granules of the EMIT spectrometer, with their revisions.

The same files as through :mod:`~geostack_pipeline.providers.cmr_stac`, under the same ids, asset keys and identities, so
that what one has fetched the other finds in the cache.  In addition CMR's own metadata tell sizes and checksums, the
sun's height, when a granule was produced, and when it was last revised: plumes are listed and corrected long after the
overpass, which no STAC datetime shows.

Seen in recorded answers: pages follow the header ``CMR-Search-After``, ``CMR-Hits`` counts exactly; a plume has a
``SingleDateTime`` where a scene has a range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from geostack_pipeline.providers import umm
from geostack_pipeline.providers.contract import Dialect, Endpoint, Item, ItemsAnswer, SearchWindow
from geostack_pipeline.providers.credentials import Credentials
from geostack_pipeline.providers.earthaccess_client import (
    GranuleSearch,
    LibraryAccountTokens,
    LibraryNetrcTokens,
    library,
)
from geostack_pipeline.providers.earthdata import FIELDS
from geostack_pipeline.providers.earthdata_tokens import GivenToken, TokenSource
from geostack_pipeline.providers.emit import PRODUCT, EmitProvider, interval, read_options
from geostack_pipeline.providers.emit_form import COLLECTIONS, Collection
from geostack_pipeline.providers.registry import ProviderConfig, ProviderSpec

URL = "https://cmr.earthdata.nasa.gov/search"
"""The root of CMR's search."""
PAGE_SIZE = 2000
"""Granules that the library asks for at once."""


class EarthAccess(EmitProvider):
    """CMR by the earthaccess library; implements Provider and ItemSource of the contract."""

    def __init__(
        self,
        *,
        key: str = "earthaccess",
        url: str = URL,
        collections: Sequence[str] = (),
        endpoints: Mapping[str, Endpoint] | None = None,
        credentials: Credentials | None = None,
        cloud_cover_below: float | None = None,
        cmr_url: str | None = None,
    ) -> None:
        """Set up; nothing is requested. Arguments as for :class:`~geostack_pipeline.providers.emit.EmitProvider`.

        Raises:
            SettingsError: As there, or the library is not installed.
        """
        library()
        super().__init__(
            key=key,
            url=url,
            collections=collections,
            endpoints=endpoints,
            credentials=credentials,
            cloud_cover_below=cloud_cover_below,
            cmr_url=cmr_url or url,
        )
        self.dialect = Dialect(page_size=PAGE_SIZE, walker="pager", count="exact")
        self._search = GranuleSearch(self.url, timeout_s=self.dialect.request_timeout_s)

    def token_sources(self, login_url: str, credentials: Credentials) -> Sequence[TokenSource]:
        """Return the given token, and those that the library gets for user and password or for the netrc file."""
        return (
            GivenToken(credentials.get("token")),
            LibraryAccountTokens(login_url, credentials.get("username"), credentials.get("password")),
            LibraryNetrcTokens(login_url),
        )

    def search_body(self, window: SearchWindow) -> dict[str, Any]:
        """Return what CMR is asked for, by its own names; the library writes it into the URL."""
        body: dict[str, Any] = {
            "entry_id": list(self.collections),
            "bounding_box": list(window.bbox),
            "temporal": ",".join(interval(window.start, window.end)),
        }
        if self.cloud_cover_below is not None:
            body["cloud_cover"] = [0, self.cloud_cover_below]
        return body

    def count_items(self, window: SearchWindow) -> ItemsAnswer:
        """Return the sum of ``CMR-Hits`` over the collections: one request each."""
        return self._search.ask(self._asked(), window, below=self.cloud_cover_below, fetch=False)

    def fetch_items(self, window: SearchWindow) -> ItemsAnswer:
        """Return the granules of a window with the ids and collections that their items will have."""
        found = self._search.ask(self._asked(), window, below=self.cloud_cover_below)
        return replace(found, items=[umm.identified(granule) for granule in found.items])

    def canonical(self, item: Item) -> Item:
        """Return the canonical form of a granule, or of a canonical item. Pure and idempotent."""
        return super().canonical(umm.item_of(item) if umm.is_granule(item) else item)

    def _asked(self) -> list[Collection]:
        return [COLLECTIONS[name] for name in self.collections]


def _build(config: ProviderConfig) -> EarthAccess:
    options = read_options(config)
    return EarthAccess(
        key=config.key,
        url=config.url or URL,
        collections=config.collections,
        endpoints=config.endpoints,
        credentials=config.credentials,
        cloud_cover_below=options.cloud_cover_below,
        cmr_url=options.cmr_url,
    )


SPEC = ProviderSpec(
    title="NASA CMR by earthaccess (EMIT)",
    product=PRODUCT,
    build=_build,
    credentials=FIELDS,
    tells_revisions=True,
)
"""CMR is public; files need an Earthdata Login."""
