"""NASA's CMR-STAC, catalog LPCLOUD: granules of the EMIT spectrometer.

Read in the catalog's own source and seen by its users:

- ``next`` is a GET link with everything in its query, after a POST search too; a page holds at most 100 items,
  whatever ``limit`` says, and a limit above 5,000 is refused.
- ``context.matched`` is exact.
- Of ``query`` only ``eo:cloud_cover`` is read; ``lt`` acts as ``lte``, and a 0 is dropped.
- ``EMITL2BCH4ENH.v002`` is taken in requests; items say ``EMITL2BCH4ENH_002``.
- Asset keys are the paths of files; a bbox that ends at longitude 0 is null.
- Deep pages sometimes answer 500; asked again they come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from geostack_pipeline.providers.contract import Dialect, Endpoint, SearchWindow
from geostack_pipeline.providers.credentials import Credentials
from geostack_pipeline.providers.earthdata import FIELDS
from geostack_pipeline.providers.emit import PRODUCT, EmitProvider, interval, read_options
from geostack_pipeline.providers.registry import ProviderConfig, ProviderSpec

URL = "https://cmr.earthdata.nasa.gov/stac/LPCLOUD"
"""The public API of the archive's catalog."""
PAGE_SIZE = 100


class CmrStac(EmitProvider):
    """CMR-STAC; implements :class:`~geostack_pipeline.providers.contract.Provider`."""

    def __init__(
        self,
        *,
        key: str = "cmr_stac",
        url: str = URL,
        collections: Sequence[str] = (),
        endpoints: Mapping[str, Endpoint] | None = None,
        credentials: Credentials | None = None,
        cloud_cover_below: float | None = None,
        cmr_url: str | None = None,
    ) -> None:
        """Set up; nothing is requested. Arguments as for :class:`~geostack_pipeline.providers.emit.EmitProvider`."""
        super().__init__(
            key=key,
            url=url,
            collections=collections,
            endpoints=endpoints,
            credentials=credentials,
            cloud_cover_below=cloud_cover_below,
            cmr_url=cmr_url,
        )
        self.dialect = Dialect(page_size=PAGE_SIZE, walker="pager", count="exact", filter_style="query")

    def search_body(self, window: SearchWindow) -> dict[str, Any]:
        """Return the body of a window: a closed interval of whole seconds around it."""
        body: dict[str, Any] = {
            "collections": list(self.collections),
            "bbox": list(window.bbox),
            "datetime": "/".join(interval(window.start, window.end)),
        }
        if self.cloud_cover_below is not None:
            body["query"] = {"eo:cloud_cover": {"lt": self.cloud_cover_below}}
        return body


def _build(config: ProviderConfig) -> CmrStac:
    options = read_options(config)
    return CmrStac(
        key=config.key,
        url=config.url or URL,
        collections=config.collections,
        endpoints=config.endpoints,
        credentials=config.credentials,
        cloud_cover_below=options.cloud_cover_below,
        cmr_url=options.cmr_url,
    )


SPEC = ProviderSpec(
    title="NASA CMR-STAC (EMIT)", product=PRODUCT, build=_build, credentials=FIELDS, tells_revisions=True
)
"""The catalog is public; files need an Earthdata Login."""
