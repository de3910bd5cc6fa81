"""What the two providers of EMIT granules share: where files lie, in which order places are tried, who is asking.

Every file of the archive can be had in two ways: from S3 with keys that work inside us-west-2 only, and over HTTPS with
a bearer token from anywhere, by a redirect to a signed URL on another host.  Which one works is found out by trying, for
each file anew.  Both are one object with one identity, whichever catalog listed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

from obstore.store import HTTPStore
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from geostack_pipeline.errors import AuthError, GeostackError, HrefRefusedError, SettingsError
from geostack_pipeline.providers.base import BaseProvider
from geostack_pipeline.providers.cmr import URL as CMR_URL
from geostack_pipeline.providers.cmr import CmrRevisions
from geostack_pipeline.providers.coerce import format_time
from geostack_pipeline.providers.contract import (
    Endpoint,
    Item,
    ObjectRef,
    Product,
    RejectedItemError,
    Want,
)
from geostack_pipeline.providers.credentials import Credentials
from geostack_pipeline.providers.earthdata import EarthdataLogin, shared_login
from geostack_pipeline.providers.earthdata_tokens import URS, TokenSource
from geostack_pipeline.providers.emit_form import (
    COGS,
    COLLECTIONS,
    DATA_KEYS,
    DEFAULT_COLLECTIONS,
    EmitForm,
    collection_id,
)
from geostack_pipeline.providers.registry import ProviderConfig
from geostack_pipeline.providers.revisions import Revision
from geostack_pipeline.storage.hrefs import AllowList, BucketRule, HostRule
from geostack_pipeline.storage.roots import CLIENT_OPTIONS, open_store, retry_config

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore

HOST = "data.lpdaac.earthdatacloud.nasa.gov"
"""The archive over HTTPS: NASA's Land Processes DAAC."""
ARCHIVE = f"https://{HOST}"
PROTECTED = "lp-prod-protected"
"""Bucket of the data."""
PUBLIC = "lp-prod-public"
"""Bucket of the pictures; read over HTTPS."""
REGION = "us-west-2"
S3 = f"s3://{PROTECTED}"
ENDPOINTS = ("edl", "daac", PROTECTED)
"""Names of the servers that settings may move: login server, archive over HTTPS, bucket."""

PRODUCT = Product(
    kind="swath",
    bands=(*DATA_KEYS, "BROWSE"),
    default_bands=(
        "CH4ENH",
        "CH4UNCERT",
        "CH4SENS",
        "CH4PLM",
        "CH4PLMMETA",
        "RAD",
        "OBS",
        "RFL",
        "MASK",
    ),
    methane=True,
)
"""Each collection has some of these assets; RFLUNCERT (1.9 GB a granule) and pictures only when asked for."""


class Options(BaseModel):
    """Settings of these providers alone."""

    model_config = ConfigDict(extra="forbid")

    cloud_cover_below: float | None = Field(default=None, ge=0.0, le=100.0)
    """Leave out granules with this cloud cover or more, in percent, and those that state none (plumes)."""
    cmr_url: str | None = Field(default=None, pattern=r"^https?://[^/@\s?#]+[^@\s?#]*$")
    """Root of the CMR search that is asked what changed; None is NASA's, or the provider's own url where it is one."""


def read_options(config: ProviderConfig) -> Options:
    """Return the options; raises ``SettingsError`` for one that does not exist or has no sense."""
    try:
        return Options(**config.options)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(
            "an option is not accepted",
            subject=f"providers.{config.key}.options.{'.'.join(str(part) for part in first['loc'])}",
            found=str(first["msg"]),
            action="choose among cloud_cover_below (a number from 0 to 100) and cmr_url (root of a CMR search)",
        ) from None


class EmitProvider(BaseProvider):
    """EMIT granules at the LP DAAC; a subclass says how they are found."""

    product = PRODUCT

    def __init__(
        self,
        *,
        key: str,
        url: str,
        collections: Sequence[str],
        endpoints: Mapping[str, Endpoint] | None = None,
        credentials: Credentials | None = None,
        cloud_cover_below: float | None = None,
        cmr_url: str | None = None,
    ) -> None:
        """Set up; nothing is requested.

        Args:
            key: Name in settings.
            url: Root of the API.
            collections: Ids in any form that CMR takes; empty takes methane enhancement and plumes, version 2.
            endpoints: Any of :data:`ENDPOINTS` -> where it answers.
            credentials: Login, by token or by user and password; without any, the netrc file is read when needed.
            cloud_cover_below: See :class:`Options`.
            cmr_url: Root of the CMR search that is asked for revisions.

        Raises:
            SettingsError: A collection or an endpoint that this provider does not know, or two versions of one product.
        """
        self.key = key
        self.url = url.rstrip("/")
        self.collections = _chosen(key, collections)
        self._endpoints = {name: Endpoint() for name in ENDPOINTS} | dict(endpoints or {})
        for name in self._endpoints:
            if name not in ENDPOINTS:
                raise SettingsError(
                    "there is no such server",
                    subject=f"providers.{key}.endpoints.{name}",
                    action=f"choose among {', '.join(ENDPOINTS)}",
                )
        self.cloud_cover_below = cloud_cover_below
        self._revisions = CmrRevisions(cmr_url or CMR_URL, subject=key)
        self._form = EmitForm(self.collections, homes=(self.url, "https://cmr.earthdata.nasa.gov/"))
        self._allowed = AllowList(
            [
                HostRule(host=HOST, prefix=PROTECTED, store_id=ARCHIVE),
                HostRule(host=HOST, prefix=PUBLIC, store_id=ARCHIVE),
                BucketRule.aws(PROTECTED, REGION, store_id=S3),
            ]
        )
        login_url = self._endpoints["edl"].url or URS
        self._archive_url = (self._endpoints["daac"].url or ARCHIVE).rstrip("/")
        self.login: EarthdataLogin = shared_login(
            login_url=login_url,
            archive_url=self._archive_url,
            credentials=credentials or {},
            subject=key,
            sources=self.token_sources(login_url, credentials or {}),
        )

    def token_sources(self, login_url: str, credentials: Credentials) -> Sequence[TokenSource] | None:  # noqa: ARG002
        """Return the ways to a token; None for the usual ones."""
        return None

    # -- items ----------------------------------------------------------------------------------------

    def canonical(self, item: Item) -> Item:
        """Return the canonical form of an item. Pure and idempotent.

        Raises:
            RejectedItemError: See :meth:`ItemForm.canonical` and :meth:`EmitForm.describe`; ``cloud_cover`` where the
                option ``cloud_cover_below`` leaves it out: CMR reads "less than" as "at most", and 0 as nothing.
        """
        found = self._form.canonical(item)
        if self.cloud_cover_below is not None:
            cover = found["properties"]["eo:cloud_cover"]
            if cover is None or cover >= self.cloud_cover_below:
                stated = "no cloud cover" if cover is None else f"{cover:g} %"
                raise RejectedItemError(
                    "cloud_cover", f"{stated}, where less than {self.cloud_cover_below:g} % is asked for"
                )
        return found

    def template(self) -> Item:
        """Return a canonical item whose every column holds a value of its type."""
        return self._form.template(self.collections[0])

    def wants(self, item: Item, bands: Sequence[str]) -> Sequence[Want]:
        """Return those of the bands that granules of the item's collection have: GeoTIFFs by window, others whole."""
        known = COLLECTIONS[item["collection"]]
        return [
            Want(
                asset=key,
                how="window" if key in COGS else "whole",
                required=key in known.assets,
            )
            for key in bands
            if key in known.assets or key in known.sometimes
        ]

    # -- changes --------------------------------------------------------------------------------------

    def revisions(self, since: datetime, until: datetime) -> list[Revision]:
        """Return what CMR added, revised or deleted of the collections: see :class:`RevisionSource`."""
        return self._revisions.ask([COLLECTIONS[name] for name in self.collections], since, until)

    # -- places ---------------------------------------------------------------------------------------

    def locate(self, href: str) -> ObjectRef:
        """Return where a file lies; its identity is its S3 URL, however it is reached.

        Raises:
            HrefRefusedError: Any other place.
        """
        store_id, key = self._allowed.resolve(href)
        canonical = f"s3://{key}" if store_id == ARCHIVE else f"{S3}/{key}"
        return ObjectRef(store_id=store_id, key=key, canonical=canonical)

    def routes(self, item: Item, asset: str) -> Sequence[ObjectRef]:
        """Return S3, then HTTPS, for a file of the protected bucket; the other way round while S3 rests.

        Raises:
            HrefRefusedError: A place outside the archive, or two places that are not one file.
        """
        entry = item["assets"][asset]
        hrefs = [entry["href"], ((entry.get("alternate") or {}).get("s3") or {}).get("href")]
        found = [self.locate(href) for href in hrefs if href is not None]
        canonical = found[0].canonical
        if any(ref.canonical != canonical for ref in found):
            raise HrefRefusedError(
                "the two places of the asset are not one file",
                subject=f"{item['id']} {asset}",
                found=" and ".join(ref.canonical for ref in found),
                action="report it to the catalog",
            )
        path = canonical.removeprefix("s3://")
        web = ObjectRef(store_id=ARCHIVE, key=path, canonical=canonical)
        if not canonical.startswith(f"{S3}/"):
            return (web,)
        direct = ObjectRef(store_id=S3, key=path.removeprefix(f"{PROTECTED}/"), canonical=canonical)
        return (web, direct) if self.login.s3_rests else (direct, web)

    def store(self, store_id: str) -> ObjectStore:
        """Return the bucket, which asks for keys when a request needs them, or the archive with a token valid now.

        For the archive the login server is asked, once, and again when what it gave ends.

        Raises:
            AuthError: The login was refused, or none is configured.
            TransferError: The login server does not answer.
        """
        if store_id == S3:
            return self._bucket()
        if store_id == ARCHIVE:
            return self._archive()
        raise HrefRefusedError(
            "not a store of this provider",
            subject=f"{self.key} {store_id[:80]!r}",
            action="use the id from locate() or routes()",
        )

    def _bucket(self) -> ObjectStore:
        endpoint = self._endpoints[PROTECTED]
        region = endpoint.region or REGION
        options = {
            "region": region,
            "endpoint": endpoint.url or f"https://s3.{region}.amazonaws.com",
            "virtual_hosted_style_request": "false",
        }
        if endpoint.allow_http:
            options["allow_http"] = "true"
        return open_store(S3, options, credential_provider=self.login.key_ring())

    def _archive(self) -> ObjectStore:
        client = cast("ClientConfig", {**CLIENT_OPTIONS, "default_headers": dict(self.login.headers())})
        if self._endpoints["daac"].allow_http:
            client["allow_http"] = True
        return HTTPStore.from_url(self._archive_url, client_options=client, retry_config=retry_config())

    def renew(self, store_id: str | None) -> bool:
        """Forget the login of a store; S3 that refuses new keys is out of reach, which no renewal changes."""
        if store_id == S3:
            return self.login.renew_s3()
        return store_id == ARCHIVE and self.login.renew()

    def explain_page(self, page: bytes, subject: str) -> GeostackError:
        """Return what a page means that the archive served in place of a file."""
        text = page[:20_000].decode("utf-8", "replace").lower()
        if "eula" in text or "terms of use" in text or "authorize" in text:
            return AuthError(
                "the account may not have this file yet",
                subject=subject,
                found="a page about terms of use or approval in place of the file",
                action="log in at https://urs.earthdata.nasa.gov, approve the application 'LP DAAC Data Pool' and accept its terms",
            )
        return AuthError(
            "the login page came in place of the file",
            subject=subject,
            found="the login was not accepted: the token has expired or was revoked",
            action="set a new EARTHDATA_TOKEN, or EARTHDATA_USERNAME and EARTHDATA_PASSWORD",
        )


def interval(start: datetime, end: datetime) -> tuple[str, str]:
    """Return both ends of a window in whole seconds, the window within."""
    first = start.astimezone(UTC).replace(microsecond=0)
    last = end.astimezone(UTC)
    whole = last.replace(microsecond=0)
    if whole < last:
        whole += timedelta(seconds=1)
    return format_time(first).replace(".000000Z", "Z"), format_time(whole).replace(".000000Z", "Z")


def _chosen(key: str, collections: Sequence[str]) -> tuple[str, ...]:
    """Return the canonical ids of the configured collections, each once."""
    chosen: dict[str, str] = {}
    for name in collections or DEFAULT_COLLECTIONS:
        found = collection_id(name)
        if found is None:
            raise SettingsError(
                "the collection cannot be read",
                subject=f"providers.{key}.collections, {name!r}",
                action=f"choose among {', '.join(COLLECTIONS)}",
            )
        short_name = COLLECTIONS[found].short_name
        if chosen.setdefault(short_name, found) != found:
            raise SettingsError(
                "two versions of one product are named",
                subject=f"providers.{key}.collections",
                found=f"{chosen[short_name]} and {found}",
                action="choose one: their values are not comparable; use two providers, one for each, to have both",
            )
    return tuple(chosen.values())
