"""What moving bytes out of a store costs whoever reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a reader pays for one GB (10^9 bytes)."""

    usd_per_gb: float | None
    """0.0 is free; None is not known."""
    source: str
    """Who says so."""


_KNOWN: Mapping[str, Price] = {
    "s3://sentinel-cogs": Price(usd_per_gb=0.0, source="free: AWS Open Data pays for us-west-2"),
    "s3://e84-earth-search-sentinel-data": Price(
        usd_per_gb=0.0, source="free: AWS Open Data pays for us-west-2"
    ),
    "s3://sentinel-s2-l2a": Price(usd_per_gb=0.09, source="requester pays: AWS list price, eu-central-1 out"),
    "az://sentinel2l2a01/sentinel2-l2": Price(
        usd_per_gb=0.0, source="free: Planetary Computer pays for West Europe"
    ),
    "s3://lp-prod-protected": Price(usd_per_gb=0.0, source="free: read in us-west-2 only"),
}
_ENDINGS: Mapping[str, Price] = {
    "dataspace.copernicus.eu": Price(usd_per_gb=0.0, source="free within the monthly quota of the account"),
    "earthdatacloud.nasa.gov": Price(usd_per_gb=0.0, source="free: NASA Earthdata pays"),
    "earthdata.nasa.gov": Price(usd_per_gb=0.0, source="free: NASA Earthdata pays"),
    "geoservice.dlr.de": Price(usd_per_gb=0.0, source="free: DLR pays"),
}
_EODATA = Price(usd_per_gb=0.0, source="free within the monthly quota of the account")
UNKNOWN = Price(usd_per_gb=None, source="not known: set egress_usd_per_gb for this host")


def price_of(host: str, own: Mapping[str, float] | None = None) -> Price:
    """Return what reading from a host, bucket or container costs.

    Args:
        host: As the ledger names it, e.g. ``s3://sentinel-cogs`` or ``az://account/container``.
        own: Host -> USD per GB, from the settings; comes before what is known here.
    """
    for name, usd in (own or {}).items():
        if host == name:
            return Price(usd_per_gb=usd, source="settings: egress_usd_per_gb")
    if host in _KNOWN:
        return _KNOWN[host]
    if host.lower() == "s3://eodata":
        return _EODATA
    place = host.partition("://")[2] or host
    name = place.partition("/")[0].partition(":")[0]
    for ending, price in _ENDINGS.items():
        if name == ending.lstrip(".") or name.endswith("." + ending.lstrip(".")):
            return price
    if name in {"127.0.0.1", "localhost"}:
        return Price(usd_per_gb=0.0, source="free: this machine")
    return UNKNOWN
