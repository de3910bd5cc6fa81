"""Provider key -> provider object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.providers.contract import Endpoint, Provider
from geostack_pipeline.providers.earth_search import EarthSearch


def build_provider(
    key: str,
    *,
    url: str | None = None,
    collections: Sequence[str] = (),
    endpoints: Mapping[str, Endpoint] | None = None,
) -> Provider:
    """Return the provider of a key; what is not given is the catalog's public default."""
    given = {
        name: value
        for name, value in (("url", url), ("collections", tuple(collections)), ("endpoints", endpoints))
        if value
    }
    if key == "earth_search":
        return EarthSearch(**given)  # type: ignore[arg-type]
    raise SettingsError(
        "there is no such provider", subject=f"provider {key!r}", action="choose earth_search"
    )
