"""What both dialects that list EMIT granules share: bucket, files, login servers, and the way to them in settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import shapely
from starlette.types import ASGIApp

from geostack_pipeline.sandbox.dialects.base import Addresses, Publication
from geostack_pipeline.sandbox.dialects.emit_granules import PROTECTED, PUBLIC, records
from geostack_pipeline.sandbox.dialects.emit_history import EmitHistory
from geostack_pipeline.sandbox.server.earthdata import (
    PASSWORD,
    TOKEN,
    USERNAME,
    Logins,
    make_cloudfront_app,
    make_daac_app,
    make_edl_app,
)
from geostack_pipeline.sandbox.world.world import World

SERVERS = ("edl", "daac", "cloudfront")
"""Login server, archive, and where its redirects lead."""


_histories: WeakKeyDictionary[World, EmitHistory] = WeakKeyDictionary()


def history(world: World) -> EmitHistory:
    """Return the one history of a world: what one catalog lists the other lists too."""
    if world not in _histories:
        areas = [shapely.box(*area.bbox) for area in world.areas]
        _histories[world] = EmitHistory(records(world), areas)
    return _histories[world]


def publication(items: Sequence[dict[str, Any]], told: EmitHistory) -> Publication:
    """Return items with the private bucket, and all files by their path at the archive."""
    return Publication(
        items=items,
        private_buckets={PROTECTED: told.buckets[PROTECTED]},
        files=told.files,
        history=told,
    )


def services(published: Publication, at: Addresses) -> Mapping[str, ASGIApp]:
    """Return the three servers' applications."""
    logins = Logins(
        edl=at.servers["edl"],
        daac=at.servers["daac"],
        cloudfront=at.servers["cloudfront"],
        private=at.private,
    )
    return {
        "edl": make_edl_app(logins),
        "daac": make_daac_app(logins, protected=PROTECTED, public=PUBLIC, private_buckets=(PROTECTED,)),
        "cloudfront": make_cloudfront_app(logins, published.files),
    }


def endpoints(at: Addresses) -> dict[str, Any]:
    """Return where login server, archive and bucket answer."""
    return {
        "edl": {"url": at.servers["edl"], "allow_http": True},
        "daac": {"url": at.servers["daac"], "allow_http": True},
        PROTECTED: {"url": at.private, "region": "us-west-2", "allow_http": True},
    }


def credentials() -> dict[str, str]:
    """Return the login: a token, and the user and password that get another one."""
    return {"EARTHDATA_TOKEN": TOKEN, "EARTHDATA_USERNAME": USERNAME, "EARTHDATA_PASSWORD": PASSWORD}
