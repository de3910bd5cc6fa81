"""Copernicus Data Space Ecosystem: Sentinel-2 L2A as ESA's own JPEG 2000 files, on S3 with keys.

Seen in recorded answers:

- The catalog is open to anyone.  It pages with tokens (``next`` is a POST link) and counts only what a page has.
- Answers carry ``x-ratelimit-limit: 2000, 2000;w=60``, ``-remaining`` and ``-reset``: a spent limit is waited for.
- Hrefs are ``s3://eodata/…``; other catalogs of the Data Space write ``s3://EODATA/…`` for the same objects.
- The bucket is read with S3 keys, path-style, region ``default``.  A JPEG 2000 file cannot be cropped by ranges: it comes
  whole, checked against the size and checksum that the item promises, and is read by window from the cache.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from geostack_pipeline.errors import AuthError, GeostackError, HrefRefusedError, SettingsError
from geostack_pipeline.providers import sentinel2
from geostack_pipeline.providers.base import BaseProvider
from geostack_pipeline.providers.cdse_items import COLLECTION, CdseForm
from geostack_pipeline.providers.configuring import check_endpoint, chosen, read_options
from geostack_pipeline.providers.contract import Dialect, Endpoint, Item, ObjectRef, SearchWindow, Want
from geostack_pipeline.providers.credentials import CredentialField, Credentials, missing
from geostack_pipeline.providers.registry import ProviderConfig, ProviderSpec
from geostack_pipeline.storage.hrefs import AllowList, BucketRule
from geostack_pipeline.storage.roots import open_store

if TYPE_CHECKING:
    from obstore.store import ObjectStore

URL = "https://stac.dataspace.copernicus.eu/v1"
"""The public API."""

S3_URL = "https://eodata.dataspace.copernicus.eu"
REGION = "default"
BUCKET = "eodata"
STORE_ID = f"s3://{BUCKET}"

KEYS = (
    CredentialField(
        name="access_key",
        variable="CDSE_S3_ACCESS_KEY",
        purpose="S3 key of the Data Space, made at https://eodata-s3keysmanager.dataspace.copernicus.eu",
    ),
    CredentialField(name="secret_key", variable="CDSE_S3_SECRET_KEY", purpose="its secret"),
)


class _Options(BaseModel):
    """Settings that only this provider has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: dict[str, dict[str, Any]] | None = None
    """STAC ``query`` sent along to shorten the lists, e.g. ``{"eo:cloud_cover": {"lt": 60}}``."""
    filter: dict[str, Any] | None = None
    """CQL2-JSON sent along instead."""


class Cdse(BaseProvider):
    """The Data Space's catalog and bucket; implements :class:`~geostack_pipeline.providers.contract.Provider`."""

    product = sentinel2.PRODUCT

    def __init__(
        self,
        *,
        key: str = "cdse",
        url: str = URL,
        collections: Sequence[str] = (COLLECTION,),
        endpoints: Mapping[str, Endpoint] | None = None,
        query: Mapping[str, Any] | None = None,
        cql2: Mapping[str, Any] | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """Set up; nothing is requested, and searching needs no keys.

        Args:
            key: Name in settings and asset keys.
            url: Root of the STAC API, without a trailing slash.
            collections: ``sentinel-2-l2a``.
            endpoints: ``eodata`` -> where the bucket answers, path-style.
            query: STAC ``query`` sent along; it changes what the scene table holds.
            cql2: CQL2-JSON filter sent along; not together with ``query``.
            credentials: ``access_key`` and ``secret_key`` of the bucket.

        Raises:
            SettingsError: A collection or an endpoint that this provider does not know, or plain http to
                another machine.
        """
        for collection in collections or ("",):
            if collection != COLLECTION:
                raise SettingsError(
                    "the collection cannot be read" if collection else "no collection is asked for",
                    subject=f"{key} collection {collection!r}",
                    action=f"name {COLLECTION}",
                )
        if query and cql2:
            raise SettingsError(
                "query and filter cannot be sent together", subject=f"{key} options", action="remove one"
            )
        for name, endpoint in (endpoints or {}).items():
            check_endpoint(key, name, endpoint, (BUCKET,))
        self.key = key
        self.url = url.rstrip("/")
        self.collections: Sequence[str] = tuple(collections)
        # 100 items are 6.5 MB; the pager sees the rate-limit headers
        self.dialect = Dialect(page_size=100, walker="pager", count="none", filter_style="cql2-json")
        self._endpoint = (endpoints or {}).get(BUCKET, Endpoint())
        self._query = dict(query) if query else None
        self._filter = dict(cql2) if cql2 else None
        self._credentials = dict(credentials or {})
        self._form = CdseForm((self.url, URL))
        host = urlsplit(S3_URL).hostname or ""
        self._allowed = AllowList(
            BucketRule(bucket=name, path_hosts=(host,), store_id=STORE_ID)
            for name in (BUCKET, BUCKET.upper())
        )
        self._lock = threading.Lock()
        self._opened: ObjectStore | None = None

    def __reduce__(self) -> NoReturn:
        """Refuse: the provider holds keys."""
        raise TypeError("a provider with a login is not pickled; build it again")

    def search_body(self, window: SearchWindow) -> dict[str, Any]:
        """Return the body of a window: a closed interval that includes the window's end."""
        body: dict[str, Any] = {
            "collections": list(self.collections),
            "bbox": list(window.bbox),
            "datetime": window.interval,
        }
        if self._query is not None:
            body["query"] = self._query
        if self._filter is not None:
            body |= {"filter-lang": "cql2-json", "filter": self._filter}
        return body

    def canonical(self, item: Item) -> Item:
        """Return the canonical form of a Sentinel-2 item. Pure and idempotent.

        Raises:
            RejectedItemError: With a reason of :meth:`ItemForm.canonical`, or ``datetime``, ``platform``, ``tile``,
                ``baseline``.
        """
        return self._form.canonical(item)

    def template(self) -> Item:
        """Return a canonical item whose every column holds a value of its type."""
        return self._form.template(self.collections[0])

    def wants(self, item: Item, bands: Sequence[str]) -> Sequence[Want]:
        """Return the bands and the classification as whole files: ranges of a JPEG 2000 file are no picture."""
        return [Want(asset=want.asset, how="whole") for want in super().wants(item, bands)]

    def locate(self, href: str) -> ObjectRef:
        """Return bucket and key of an href in the bucket, whichever way its name is written.

        Raises:
            HrefRefusedError: Any other place: the message names the bucket or host, never credentials.
        """
        store_id, key = self._allowed.resolve(href)
        return ObjectRef(store_id=store_id, key=key, canonical=f"{store_id}/{key}")

    def store(self, store_id: str) -> ObjectStore:
        """Return the bucket, opened with the keys; nothing is requested yet.

        One store serves all threads: keys do not end, and connections are kept.  The machine's ``AWS_*`` variables
        have no say in it.

        Raises:
            AuthError: The keys are not set; names the variables.
            HrefRefusedError: Not an id from :meth:`locate`.
        """
        if store_id != STORE_ID:
            raise HrefRefusedError(
                "not a store of this provider",
                subject=f"{self.key} {store_id[:80]!r}",
                action="use the id from locate()",
            )
        if any(not self._credentials.get(field.name) for field in KEYS):
            raise missing("cdse", KEYS, subject=self.key)
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> ObjectStore:
        options = {
            "access_key_id": self._credentials["access_key"].reveal(),
            "secret_access_key": self._credentials["secret_key"].reveal(),
            "region": self._endpoint.region or REGION,
            "endpoint": self._endpoint.url or S3_URL,
            "virtual_hosted_style_request": "false",
        }
        if self._endpoint.allow_http:
            options["allow_http"] = "true"
        return open_store(STORE_ID, options)

    def explain_page(self, page: bytes, subject: str) -> GeostackError:  # noqa: ARG002 - any page says the same
        """Return an error of the login: the bucket itself never serves pages."""
        return AuthError(
            "a web page came instead of the file",
            subject=subject,
            action=f"check {' and '.join(field.variable for field in KEYS)}, and that nothing stands between here "
            f"and {self._endpoint.url or S3_URL}",
        )


def _build(config: ProviderConfig) -> Cdse:
    options = read_options(
        config, _Options, action="this provider has query (STAC query) and filter (CQL2-JSON)"
    )
    return Cdse(**chosen(config), query=options.query, cql2=options.filter, credentials=config.credentials)


SPEC = ProviderSpec(
    title="Copernicus Data Space Ecosystem", product=sentinel2.PRODUCT, build=_build, credentials=KEYS
)
"""Anyone may search; files need S3 keys of a free account."""
