"""pystac-client, which nobody here wrote, walks the catalogs and finds what our search finds."""

from __future__ import annotations

import pystac_client
import pytest

from geostack_pipeline.catalog.normalise import normalise
from geostack_pipeline.sandbox.config import PROVIDERS
from tests.every_provider import Every, ids, text

NO_STAC = frozenset({"earthaccess"})
"""Catalogs with a protocol of their own."""
NO_LINKS = frozenset({"sentinel_hub"})
"""Catalogs whose next pages no STAC client finds: the token stands in ``context``, so one page must hold everything."""


@pytest.mark.parametrize("key", [name for name in PROVIDERS if name not in NO_STAC])
def test_a_stranger_finds_the_same_items(every_provider: Every, key: str) -> None:
    every = every_provider
    every.sandbox.clear_faults()
    provider = every.provider(key)
    day = every.day(key)
    catalog = pystac_client.Client.open(provider.url, headers=dict(provider.search_headers()))
    found = {}
    pages = 0
    for area in every.areas:
        search = catalog.search(
            collections=list(provider.collections),
            bbox=area.bbox,
            # every date of the world, so that there are pages enough
            datetime="{}T00:00:00Z/{}T23:59:59Z".format(*every.sandbox.days),
            limit=100 if key in NO_LINKS else 1,
        )
        for page in search.pages_as_dicts():
            pages += 1
            found |= {item["id"]: item for item in page["features"]}
    assert key in NO_LINKS or pages > len(every.areas), "there was nothing to page through"
    theirs = normalise(provider, found.values(), day, every.areas)
    ours = every.normalised(provider, day)
    assert text(theirs.items) == text(ours.items)
    assert ours.items
    assert set(ids(ours)) <= set(found)
