"""Which places a configured catalog's files may lie in, and the store of each; nothing else is ever read."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from geostack_pipeline.errors import HrefRefusedError, SettingsError
from geostack_pipeline.providers.contract import Endpoint, ObjectRef
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.providers.http_files import open_http
from geostack_pipeline.storage.hrefs import AllowList, BucketRule, ContainerRule, HostRule, Rule
from geostack_pipeline.storage.roots import open_store

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_AWS_REGION = "us-east-1"


class AllowedPlace(BaseModel):
    """One place that files may lie in: exactly one of ``https``, ``s3`` and ``azure``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    https: str | None = None
    """Host and folder, ``data.example.org/sentinel-2``; everything below that folder."""
    s3: str | None = None
    """Bucket that anyone may read."""
    region: str | None = None
    """Of the bucket, ``eu-central-1``."""
    endpoint: str | None = None
    """Address of an S3 that is not Amazon's, ``https://s3.example.org``."""
    azure: str | None = None
    """``account/container`` that anyone may read."""
    token: bool = False
    """Whether this host gets the catalog's token too; of ``https`` places only."""

    @model_validator(mode="after")
    def _one(self) -> AllowedPlace:
        if sum(place is not None for place in (self.https, self.s3, self.azure)) != 1:
            raise ValueError("names one place: https, s3 or azure")
        if self.s3 is None and (self.region or self.endpoint):
            raise ValueError("region and endpoint belong to an s3 place")
        if self.token and self.https is None:
            raise ValueError("token goes to https places only")
        return self

    @field_validator("https")
    @classmethod
    def _host_and_folder(cls, value: str | None) -> str | None:
        if value is None:
            return None
        text = value.removeprefix("https://").strip("/")
        if not re.fullmatch(r"[A-Za-z0-9.-]+(/[A-Za-z0-9._~+=,@-]+)*", text) or "//" in text or ".." in text:
            raise ValueError(f"{value!r} is no host with a folder, such as data.example.org/sentinel-2")
        return text

    @field_validator("azure")
    @classmethod
    def _account_and_container(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[a-z0-9]{3,24}/[a-z0-9$][a-z0-9-]{2,62}", value):
            raise ValueError(f"{value!r} is not of the form account/container")
        return value

    @field_validator("endpoint")
    @classmethod
    def _https(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc or parts.query:
            raise ValueError("an S3 endpoint is https://host (one on loopback is set under `endpoints`)")
        return value.rstrip("/")

    @property
    def name(self) -> str:
        """Name under ``endpoints``: the host, the bucket, or the account."""
        return self.s3 if self.s3 is not None else (self.https or self.azure or "").partition("/")[0].lower()

    @property
    def store_id(self) -> str:
        """Id of the store."""
        if self.https is not None:
            return f"https://{self.name}"
        return f"s3://{self.s3}" if self.s3 is not None else f"az://{self.azure}"

    def rule(self) -> Rule:
        """Return the rule that hrefs are matched with."""
        if self.https is not None:
            host, _, folder = self.https.partition("/")
            return HostRule(host=host.lower(), prefix=folder)
        if self.azure is not None:
            account, _, container = self.azure.partition("/")
            return ContainerRule(account=account, container=container)
        assert self.s3 is not None
        if self.endpoint is None:
            return BucketRule.aws(self.s3, self.region or _AWS_REGION)
        host = urlsplit(self.endpoint).netloc.lower()
        return BucketRule(bucket=self.s3, virtual_hosts=(f"{self.s3}.{host}",), path_hosts=(host,))


class Places:
    """The places of one catalog; stores are built when they are asked for, and nothing is requested here.

    Args:
        key: Provider, for messages.
        allowed: The places.
        endpoints: Name of a place -> where it answers instead; for servers on loopback.
        token: Header value for the ``https`` places that get it; None sends none.
    """

    def __init__(
        self,
        key: str,
        allowed: Sequence[AllowedPlace],
        endpoints: Mapping[str, Endpoint],
        token: Secret | None,
    ) -> None:
        names = {place.name for place in allowed}
        unknown = sorted(set(endpoints) - names)
        if unknown:
            raise SettingsError(
                "an endpoint is given for a place that is never read",
                subject=f"providers.{key}.endpoints.{unknown[0]}",
                action=f"choose among {', '.join(sorted(names)) or 'the places of options.allow'}",
            )
        for place in allowed:
            if any(other.store_id == place.store_id and other.token != place.token for other in allowed):
                raise SettingsError(
                    "one host cannot both get the token and not get it",
                    subject=f"providers.{key}.options.allow",
                    found=place.name,
                    action="set token the same way in all its places",
                )
        self._key = key
        self._lock = threading.Lock()
        self._stores: dict[str, ObjectStore] = {}
        self._places = {place.store_id: place for place in allowed}
        self._rules = AllowList(place.rule() for place in allowed)
        self._endpoints = dict(endpoints)
        self._token = token

    def locate(self, href: str) -> ObjectRef:
        """Return the store and key of an href; raises ``HrefRefusedError`` outside the places."""
        store_id, key = self._rules.resolve(href)
        return ObjectRef(store_id=store_id, key=key, canonical=f"{store_id}/{key}")

    def store(self, store_id: str) -> ObjectStore:
        """Return the store of a place, anonymous but for the hosts that get the token."""
        place = self._places.get(store_id)
        if place is None:
            raise HrefRefusedError(
                "not a store of this provider",
                subject=f"{self._key} {store_id[:80]!r}",
                action="use the id from locate()",
            )
        with self._lock:
            if store_id not in self._stores:
                self._stores[store_id] = self._open(place)
            return self._stores[store_id]

    def _open(self, place: AllowedPlace) -> ObjectStore:
        endpoint = self._endpoints.get(place.name, Endpoint())
        plain = {"allow_http": "true"} if endpoint.allow_http else {}
        if place.https is not None:
            token = self._token if place.token else None
            return open_http(
                (endpoint.url or place.store_id).rstrip("/"),
                headers={"Authorization": token} if token else None,
                allow_http=endpoint.allow_http,
            )
        if place.azure is not None:
            account, _, container = place.azure.partition("/")
            options: dict[str, Any] = {"account_name": account, "skip_signature": "true", **plain}
            if endpoint.url:
                options["endpoint"] = f"{endpoint.url.rstrip('/')}/{account}"
            return open_store(f"az://{container}", options)
        region = endpoint.region or place.region or _AWS_REGION
        options = {
            "skip_signature": "true",
            "region": region,
            "endpoint": endpoint.url or place.endpoint or f"https://s3.{region}.amazonaws.com",
            "virtual_hosted_style_request": "false",
            **plain,
        }
        return open_store(f"s3://{place.s3}", options)
