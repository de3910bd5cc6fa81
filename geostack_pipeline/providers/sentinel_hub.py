"""Sentinel Hub on the Copernicus Data Space: its catalog, and pixels from SAFE products or from the Process API.

Seen in recorded answers and in the service's documentation:

- Every call takes a bearer token from the Data Space's identity server.
- ``context.next`` (an int) is sent back as ``next`` in the body; there is no next link and no count, so two walks have
  to agree.  ``filter`` (CQL2) works; there is neither ``query`` nor ``sortby``.
- The only asset is the product's folder, ``s3://EODATA/…SAFE`` in capitals; the bucket answers as ``eodata``, which is
  also how the other catalog of the Data Space writes it: a file fetched by one is a cache hit for the other.
- ``Retry-After`` counts milliseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from geostack_pipeline.errors import AuthError, GeostackError, HrefRefusedError, SettingsError
from geostack_pipeline.providers import sentinel2
from geostack_pipeline.providers import sentinel_hub_items as items_of
from geostack_pipeline.providers.base import BaseProvider
from geostack_pipeline.providers.coerce import parse_time
from geostack_pipeline.providers.configuring import chosen
from geostack_pipeline.providers.contract import (
    Dialect,
    Endpoint,
    Item,
    ObjectRef,
    PixelGrid,
    Radiometry,
    Rendered,
    RenderedBand,
    RenderRequest,
    SearchWindow,
    Want,
)
from geostack_pipeline.providers.credentials import CredentialField, Credentials, missing
from geostack_pipeline.providers.oauth import ClientCredentials, checked_url
from geostack_pipeline.providers.registry import ProviderConfig, ProviderSpec
from geostack_pipeline.providers.sentinel_hub_items import COLLECTION, METRES, SentinelHubForm
from geostack_pipeline.providers.sentinel_hub_process import (
    MILLISECOND,
    RENDERING,
    ProcessApi,
    blocks,
    process_body,
    span,
)
from geostack_pipeline.providers.sentinel_hub_safe import SafeFolders
from geostack_pipeline.storage.digest import canonical_json, sha256_bytes
from geostack_pipeline.storage.hrefs import AllowList, BucketRule
from geostack_pipeline.storage.roots import open_store

if TYPE_CHECKING:
    from obstore.store import ObjectStore

URL = "https://sh.dataspace.copernicus.eu/api/v1/catalog/1.0.0"
"""The catalog on the Data Space."""
AUTH_URL = "https://identity.dataspace.copernicus.eu"
TOKEN_PATH = "/auth/realms/CDSE/protocol/openid-connect/token"  # noqa: S105 - an address
API_URL = "https://sh.dataspace.copernicus.eu"
PROCESS_PATH = "/api/v1/process"
S3_URL = "https://eodata.dataspace.copernicus.eu"
BUCKET = "eodata"
STORE_ID = f"s3://{BUCKET}"
REGION = "default"

AUTH, API = "sh-auth", "sh-api"
ENDPOINTS = (AUTH, API, BUCKET)
"""Names that the setting ``endpoints`` takes."""

LOGIN = (
    CredentialField(
        name="client_id",
        variable="SH_CLIENT_ID",
        purpose="id of an OAuth client, made in the Data Space's Sentinel Hub dashboard",
    ),
    CredentialField(name="client_secret", variable="SH_CLIENT_SECRET", purpose="its secret, shown once"),
)
KEYS = (
    CredentialField(
        name="access_key",
        variable="CDSE_S3_ACCESS_KEY",
        purpose="S3 key of the Data Space, for `source: safe`",
        required=False,
    ),
    CredentialField(name="secret_key", variable="CDSE_S3_SECRET_KEY", purpose="its secret", required=False),
)
_LOGIN_VARIABLES = (LOGIN[0].variable, LOGIN[1].variable)
_KEY_VARIABLES = (KEYS[0].variable, KEYS[1].variable)

_WITH_KEYS = tuple(
    CredentialField(name=field.name, variable=field.variable, purpose=field.purpose) for field in KEYS
)


class Options(BaseModel):
    """Settings that only this provider has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["safe", "process"] = "safe"
    """Where pixels come from: the files of the SAFE products, or pictures made by the Process API."""
    filter: dict[str, Any] | None = None
    """CQL2 JSON sent along to shorten the lists; it changes what the scene table holds."""


def radiometry(properties: Mapping[str, Any], source: Literal["safe", "process"] = "safe") -> Radiometry:
    """Return how a reflectance band's numbers become reflectance; see :func:`sentinel_hub_items.radiometry`."""
    return items_of.radiometry(properties, source)


class SentinelHub(BaseProvider):
    """The catalog, with pixels from the SAFE products on the Data Space's S3.

    Args:
        url: Root of the catalog.
        collections: ``sentinel-2-l2a`` is the only one that is read.
        endpoints: ``sh-auth`` (token server), ``sh-api`` (Process API) and ``eodata`` (S3) -> where they answer.
        credentials: ``client_id`` and ``client_secret``; ``access_key`` and ``secret_key`` for the products.
        filter: CQL2 JSON for the search.
        key: Name in settings and asset keys.

    Raises:
        SettingsError: A collection or an endpoint that this provider does not have, or no address for a login.
    """

    key = "sentinel_hub"
    product = sentinel2.PRODUCT
    source: Literal["safe", "process"] = "safe"

    def __init__(
        self,
        *,
        url: str = URL,
        collections: Sequence[str] = (COLLECTION,),
        endpoints: Mapping[str, Endpoint] | None = None,
        credentials: Credentials | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - what STAC calls it
        key: str = "sentinel_hub",
    ) -> None:
        self.key = key
        given = dict(endpoints or {})
        if tuple(collections) != (COLLECTION,):
            raise SettingsError(
                "the collection cannot be read",
                subject=f"{key} collections",
                found=", ".join(collections) or "none",
                action=f"use {COLLECTION}, the only one",
            )
        unknown = [name for name in given if name not in ENDPOINTS]
        if unknown:
            raise SettingsError(
                "an endpoint is given for a server that is never asked",
                subject=f"{key} endpoint {unknown[0]!r}",
                action=f"choose among {', '.join(ENDPOINTS)}",
            )
        # The token goes there.
        self.url = checked_url(url.rstrip("/"), subject=f"{key} url", allow_http=True)
        if (bucket := given.get(BUCKET, Endpoint())).url is not None:
            checked_url(bucket.url, subject=f"{key} endpoint {BUCKET}", allow_http=bucket.allow_http)
        self.collections: Sequence[str] = tuple(collections)
        self.dialect = Dialect(
            page_size=100,
            walker="pager",
            count="none",
            filter_style="cql2-json",
            max_parallel_windows=2,
            retry_after_unit_s=MILLISECOND,
        )
        self._endpoints = given
        self._credentials = dict(credentials or {})
        self._filter = dict(filter) if filter else None
        self._form = SentinelHubForm(self.url, URL, self.source)
        self._allowed = AllowList(
            (BucketRule(bucket=BUCKET), BucketRule(bucket=BUCKET.upper(), store_id=STORE_ID))
        )
        self._lock = threading.Lock()
        self._opened: ObjectStore | None = None
        self._folders = SafeFolders(lambda: self.store(STORE_ID), _KEY_VARIABLES)
        self._login = self._open_login()

    # -- who is asking ----------------------------------------------------------------------------

    def search_headers(self) -> Mapping[str, str]:
        """Return the bearer token; asks the token server for a new one when the last is about to expire.

        Raises:
            AuthError: No login is set, or it is refused; names the variables.
            CatalogUnavailableError: The token server does not answer.
        """
        return self._logged_in().headers()

    def renew(self, store_id: str | None) -> bool:
        """Forget the token of the search; the keys of the store are what they are."""
        return store_id is None and self._login is not None and self._login.forget()

    def explain_page(self, page: bytes, subject: str) -> GeostackError:  # noqa: ARG002 - says the same of any page
        """Return an error of the login: neither store serves pages to who is known."""
        return AuthError(
            "a web page came instead of the file: the login was not accepted for it",
            subject=subject,
            action=f"check {', '.join(_KEY_VARIABLES)} and the url of endpoint {BUCKET}",
        )

    def _logged_in(self) -> ClientCredentials:
        if self._login is None:
            raise missing("sentinel_hub", LOGIN, subject=self.key)
        return self._login

    def _open_login(self) -> ClientCredentials | None:
        if not all(self._credentials.get(field.name) for field in LOGIN):
            return None
        endpoint = self._endpoints.get(AUTH, Endpoint())
        return ClientCredentials(
            provider=self.key,
            token_url=_below(endpoint.url or AUTH_URL, TOKEN_PATH),
            client_id=self._credentials["client_id"],
            client_secret=self._credentials["client_secret"],
            variables=_LOGIN_VARIABLES,
            allow_http=endpoint.allow_http,
            retry_after_unit_s=1.0,
        )

    # -- the catalog ------------------------------------------------------------------------------

    def search_body(self, window: SearchWindow) -> dict[str, Any]:
        """Return the body of a window: a closed interval that includes the window's end."""
        body: dict[str, Any] = {
            "collections": list(self.collections),
            "bbox": list(window.bbox),
            "datetime": window.interval,
        }
        if self._filter is not None:
            body |= {"filter": self._filter, "filter-lang": "cql2-json"}
        return body

    def canonical(self, item: Item) -> Item:
        """Return the canonical form of an item, bands told from the product's folder. Pure and idempotent.

        Every band's ``href`` is the folder as the catalog gives it; :meth:`routes` finds the file.

        Raises:
            RejectedItemError: With a reason of :meth:`ItemForm.canonical`, or ``datetime``, ``platform``, ``tile``.
        """
        return self._form.canonical(item)

    def template(self) -> Item:
        """Return a canonical item whose every column holds a value of its type."""
        return self._form.template(COLLECTION)

    # -- the bytes --------------------------------------------------------------------------------

    def wants(self, item: Item, bands: Sequence[str]) -> Sequence[Want]:
        """Return the bands and the classification as whole files: ranges of a JPEG 2000 file are no picture."""
        return [Want(asset=want.asset, how="whole") for want in super().wants(item, bands)]

    def locate(self, href: str) -> ObjectRef:
        """Return bucket and key of an href; of a product's folder, not of a file in it.

        Raises:
            HrefRefusedError: Any place but the bucket of the products.
        """
        store_id, key = self._allowed.resolve(href.rstrip("/") if isinstance(href, str) else href)
        return ObjectRef(store_id=store_id, key=key, canonical=f"{store_id}/{key}")

    def routes(self, item: Item, asset: str) -> Sequence[ObjectRef]:
        """Return the file of a band; lists the product's folder once.

        Raises:
            HrefRefusedError: The folder lies outside the bucket of the products.
            AuthError: The keys are missing or refused.
            TransferError: The folder cannot be listed, or lacks the band.
        """
        place = self.locate(item["assets"][asset]["href"])
        if asset not in METRES:
            return (place,)
        key = self._folders.band_key(place.key, asset)
        return (ObjectRef(store_id=place.store_id, key=key, canonical=f"{place.store_id}/{key}"),)

    def store(self, store_id: str) -> ObjectStore:
        """Return the store of the products, signed with the S3 keys of the Data Space.

        Raises:
            AuthError: The keys are not set.
            HrefRefusedError: Not an id from :meth:`locate`.
        """
        if store_id != STORE_ID:
            raise HrefRefusedError(
                "not a store of this provider",
                subject=f"{self.key} {store_id[:80]!r}",
                action="use the id from locate()",
            )
        if not all(self._credentials.get(field.name) for field in KEYS):
            raise missing("sentinel_hub", _WITH_KEYS, subject=f"{self.key}, source: safe")
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> ObjectStore:
        endpoint = self._endpoints.get(BUCKET, Endpoint())
        options = {
            "access_key_id": self._credentials["access_key"].reveal(),
            "secret_access_key": self._credentials["secret_key"].reveal(),
            "region": endpoint.region or REGION,
            "endpoint": endpoint.url or S3_URL,
            "virtual_hosted_style_request": "false",
        }
        if endpoint.allow_http:
            options["allow_http"] = "true"
        return open_store(STORE_ID, options)


class SentinelHubProcess(SentinelHub):
    """The same catalog, with pixels from the Process API; implements ``AreaRenderer``."""

    source: Literal["safe", "process"] = "process"
    rendering = RENDERING

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._api = self._open_api()

    def render(self, grid: PixelGrid, items: Sequence[Item], bands: Sequence[str]) -> Sequence[RenderRequest]:
        """Return one request per overpass: the tiles that one satellite took in one go, mosaicked by the service.

        The service takes every tile of the overpass over the area, those that a selection left out too.
        """
        wanted = list(dict.fromkeys(bands))
        overpasses: dict[str, list[Item]] = {}
        for item in items:
            overpasses.setdefault(item["properties"]["geostack:scene"].rpartition("_T")[0], []).append(item)
        return [self._request(grid, members, wanted) for members in overpasses.values()]

    def _request(self, grid: PixelGrid, members: Sequence[Item], bands: Sequence[str]) -> RenderRequest:
        moments = [parse_time(item["properties"]["datetime"]) for item in members]
        start, end = span([moment for moment in moments if moment is not None])
        bodies = [(block, process_body(grid, block, bands, start, end)) for block in blocks(grid)]
        ids = tuple(str(item["id"]) for item in members)
        # The ids hold the time of processing: products that were processed again make another picture.
        decides = {"rendering": RENDERING, "requests": [body for _, body in bodies], "items": sorted(ids)}
        identity = sha256_bytes(canonical_json(decides))
        chosen = {
            band: RenderedBand(
                index=index,
                radiometry=Radiometry(scale=1.0, offset=0.0, nodata=0.0, reason=items_of.PROCESS)
                if band == sentinel2.PRODUCT.classification
                else items_of.RENDERED,
            )
            for index, band in enumerate(bands, start=1)
        }

        def perform(dest: Path) -> Rendered:
            if self._api is None:
                raise missing("sentinel_hub", LOGIN, subject=self.key)
            return self._api.make(grid, bodies, len(bands), dest)

        return RenderRequest(
            canonical=f"sentinel-hub-process://{COLLECTION}/{identity}",
            service=API_URL,
            items=ids,
            bands=chosen,
            expected_bytes=grid.width * grid.height * len(bands) * 2,
            expected_requests=len(bodies),
            perform=perform,
        )

    def _open_api(self) -> ProcessApi | None:
        if self._login is None:
            return None
        endpoint = self._endpoints.get(API, Endpoint())
        return ProcessApi(
            provider=self.key,
            url=_below(endpoint.url or API_URL, PROCESS_PATH),
            allow_http=endpoint.allow_http,
            login=self._login,
            variables=_LOGIN_VARIABLES,
        )


def _below(url: str, path: str) -> str:
    """Return the address of a server with its usual path; an address with a path of its own is taken as it is."""
    return url if urlsplit(url).path.strip("/") else f"{url.rstrip('/')}{path}"


def _options(config: ProviderConfig) -> Options:
    try:
        return Options.model_validate(dict(config.options))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            "not a setting of this provider" if first["type"] == "extra_forbidden" else first["msg"],
            subject=f"providers.{config.key}.options.{name}",
            action="sentinel_hub knows source (safe or process) and filter (CQL2 JSON)",
        ) from None


def _build(config: ProviderConfig) -> SentinelHub:
    options = _options(config)
    kind = SentinelHubProcess if options.source == "process" else SentinelHub
    return kind(**chosen(config), credentials=config.credentials, filter=options.filter)


SPEC = ProviderSpec(
    title="Sentinel Hub on the Copernicus Data Space",
    product=sentinel2.PRODUCT,
    build=_build,
    credentials=(*LOGIN, *KEYS),
)
