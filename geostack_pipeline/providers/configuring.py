"""What the settings of a provider say, checked the same way for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.providers.contract import Endpoint
from geostack_pipeline.providers.registry import ProviderConfig
from geostack_pipeline.storage.hrefs import is_loopback

Options = TypeVar("Options", bound=BaseModel)


def read_options(config: ProviderConfig, model: type[Options], *, action: str) -> Options:
    """Return a provider's own options; ``action`` says which there are."""
    try:
        return model.model_validate(dict(config.options))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}"
            for each in error.errors(include_input=False, include_url=False)
        )
        raise SettingsError(
            "has options that are not known or malformed",
            subject=f"providers.{config.key}.options",
            found=wrong[:300],
            action=action,
        ) from None


def chosen(config: ProviderConfig) -> dict[str, Any]:
    """Return the arguments that every provider takes, without those that keep their default."""
    given: dict[str, Any] = {"key": config.key, "endpoints": config.endpoints}
    if config.url:
        given["url"] = config.url
    if config.collections:
        given["collections"] = config.collections
    return given


def check_endpoint(key: str, name: str, endpoint: Endpoint, names: Sequence[str]) -> None:
    """Raise ``SettingsError`` for an endpoint that is never asked, or that would show a login to the network."""
    if name not in names:
        raise SettingsError(
            "an endpoint is given for something that is never asked",
            subject=f"{key} endpoint {name!r}",
            action=f"choose among {', '.join(names)}",
        )
    if endpoint.url is None:
        return
    parts = urlsplit(endpoint.url)
    plain = parts.scheme == "http" and endpoint.allow_http and is_loopback(parts.hostname or "")
    if "@" in parts.netloc or parts.query or parts.fragment or not (parts.scheme == "https" or plain):
        raise SettingsError(
            "the endpoint cannot be used",
            subject=f"{key} endpoint {name!r}",
            found=f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"[:120],
            action="give an https address without login and query; plain http (allow_http) is for loopback only",
        )
