"""Provider key -> what is known of it, and the provider object.

A provider's module ends with ``SPEC``, a :class:`ProviderSpec`.  Modules are imported when they are asked for: one of
them needs an extra package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.providers.contract import Endpoint, Product, Provider
from geostack_pipeline.providers.credentials import CredentialField, Credentials


@dataclass(frozen=True, kw_only=True)
class ProviderConfig:
    """What a provider is built from."""

    key: str
    """Name in settings and asset keys."""
    url: str | None = None
    """Root of the API; None is the public one."""
    collections: tuple[str, ...] = ()
    """Collections to search; empty takes the provider's default."""
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    """Store or login server, by the names the provider knows -> where it answers; others are the real ones."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings that only this provider has; it checks them."""
    credentials: Credentials = field(default_factory=dict)
    """Field name -> secret."""


@dataclass(frozen=True, kw_only=True)
class ProviderSpec:
    """What is known of a kind of provider without building it."""

    title: str
    """Name for people, e.g. ``Element 84 Earth Search``."""
    product: Product
    build: Callable[[ProviderConfig], Provider]
    """Returns the provider; raises ``SettingsError`` for a setting it does not have; requests nothing."""
    credentials: tuple[CredentialField, ...] = ()
    """Its login, if it has one."""
    tells_revisions: bool = False
    """Whether it is a :class:`~geostack_pipeline.providers.revisions.RevisionSource`."""


def refuse_options(config: ProviderConfig) -> None:
    """Raise for options given to a provider that has none."""
    if config.options:
        raise SettingsError(
            "has no options",
            subject=f"providers.{config.key}.options",
            found=", ".join(sorted(config.options)),
            action="remove them",
        )


_MODULES: Mapping[str, str] = {
    name: f"geostack_pipeline.providers.{name}"
    for name in (
        "earth_search",
        "planetary_computer",
        "cdse",
        "sentinel_hub",
        "cmr_stac",
        "earthaccess",
        "dlr_geoservice",
        "stac_api",
    )
}
PROVIDERS: tuple[str, ...] = tuple(_MODULES)
"""Kinds of providers, in the order in which they are shown."""


def spec(kind: str) -> ProviderSpec:
    """Return what is known of a kind of provider.

    Raises:
        SettingsError: There is no such kind.
    """
    if kind not in _MODULES:
        raise SettingsError(
            "there is no such provider",
            subject=f"provider {kind!r}",
            action=f"choose one of {', '.join(PROVIDERS)}",
        )
    found: ProviderSpec = import_module(_MODULES[kind]).SPEC
    return found


def build_provider(
    key: str,
    *,
    kind: str | None = None,
    url: str | None = None,
    collections: Sequence[str] = (),
    endpoints: Mapping[str, Endpoint] | None = None,
    options: Mapping[str, Any] | None = None,
    credentials: Credentials | None = None,
) -> Provider:
    """Return the provider of a key; what is not given is the catalog's public default.

    Args:
        key: Name in settings and asset keys.
        kind: Which provider it is, where that is not the key: ``stac_api`` for a catalog with a name of its own.
        url: Root of the API.
        collections: Collections to search.
        endpoints: Store or login server -> where it answers.
        options: Settings of this provider alone.
        credentials: Field name -> secret.
    """
    return spec(kind or key).build(
        ProviderConfig(
            key=key,
            url=url.rstrip("/") if url else None,
            collections=tuple(collections),
            endpoints=dict(endpoints or {}),
            options=dict(options or {}),
            credentials=dict(credentials or {}),
        )
    )
