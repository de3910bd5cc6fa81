"""A sandbox with NASA's catalogs and archive, and providers that look at it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import httpx

from geostack_pipeline.providers.contract import Endpoint, Item
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.providers.emit import EmitProvider
from geostack_pipeline.providers.registry import build_provider
from geostack_pipeline.sandbox import Sandbox
from geostack_pipeline.sandbox.server.earthdata import PASSWORD, TOKEN, USERNAME

BY_TOKEN = {"token": TOKEN}
BY_PASSWORD = {"username": USERNAME, "password": PASSWORD}
_number = itertools.count()


def start(folder: Path) -> Sandbox:
    return Sandbox.start(folder, small=True, providers=["cmr_stac", "earthaccess"])


def provider(
    sandbox: Sandbox, kind: str, credentials: dict[str, str] | None = None, **changes: Any
) -> EmitProvider:
    """Build a provider with a login that no other test has: logins are shared by a process."""
    settings = sandbox.settings()["providers"][kind]
    endpoints = {name: Endpoint(**each) for name, each in settings["endpoints"].items()}
    built = build_provider(
        f"{kind}_{next(_number)}",
        kind=kind,
        url=settings["url"],
        collections=changes.pop("collections", settings["collections"]),
        endpoints=endpoints | changes.pop("endpoints", {}),
        options=changes.pop("options", {}),
        credentials={
            name: Secret(text) for name, text in (BY_TOKEN if credentials is None else credentials).items()
        },
    )
    assert isinstance(built, EmitProvider)
    return built


def revoke(sandbox: Sandbox, token: str | None = None) -> None:
    """End one token, or all tokens and web logins, as a user does on the login server."""
    answer = httpx.post(
        f"{sandbox.endpoints['edl']}/api/users/revoke_token",
        params={"token": token} if token else None,
        auth=(USERNAME, PASSWORD),
        trust_env=False,
    )
    assert answer.status_code == 200


def some_item(sandbox: Sandbox, collection: str = "EMITL2BCH4ENH_002") -> Item:
    """Return one raw item of a collection."""
    answer = httpx.post(
        f"{sandbox.endpoints['cmr_stac']}/search",
        json={"collections": [collection], "limit": 1},
        trust_env=False,
    )
    item: Item = answer.json()["features"][0]
    return item
