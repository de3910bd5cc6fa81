"""File servers over HTTP(S) as obstore stores, with a login in the headers that never leave their host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from obstore.store import HTTPStore

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.storage.roots import CLIENT_OPTIONS, retry_config

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SAFE_HEADERS = frozenset({"Authorization", "Cookie"})
"""Headers that obstore drops when a redirect leads to another host or port; any other one would be forwarded."""


def open_http(
    url: str, *, headers: Mapping[str, Secret] | None = None, allow_http: bool = False
) -> ObjectStore:
    """Return a store whose keys are paths below a URL; nothing is requested.

    Args:
        url: Origin, or origin and folder, without a trailing slash.
        headers: Sent with each request; the names are among :data:`SAFE_HEADERS`.
        allow_http: Plain http, for a server on loopback.

    Raises:
        SettingsError: The address is plain http, or a header would be shown to the host of a redirect.
    """
    strange = sorted(set(headers or {}) - SAFE_HEADERS)
    if strange:
        raise SettingsError(
            "a header that redirects would carry to other hosts",
            subject=url,
            found=", ".join(strange),
            action=f"use {' or '.join(sorted(SAFE_HEADERS))}",
        )
    if not url.startswith("https://") and not (allow_http and url.startswith("http://")):
        raise SettingsError(
            "a file server answers by https", subject=url, action="use https, or allow_http on loopback"
        )
    options: dict[str, Any] = dict(CLIENT_OPTIONS)
    if allow_http:
        options["allow_http"] = True
    if headers:
        options["default_headers"] = {name: secret.reveal() for name, secret in headers.items()}
    return HTTPStore.from_url(url, client_options=cast("Any", options), retry_config=retry_config())
