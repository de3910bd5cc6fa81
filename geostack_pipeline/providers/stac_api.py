"""Any STAC API, described by settings: where it is, which asset is which band, where its files may lie.

Nothing about a catalog is built in here.  Its answers are walked by every paging style that is known, its items are
checked like all others, its files are read from the places that the settings name and from nowhere else.  A token goes
to the catalog's own origin; to a file host only if the settings say so of that host, and only as ``Authorization``,
since any other header would follow a redirect to another host.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from geostack_pipeline.errors import AuthError, GeostackError, SettingsError, TransferError
from geostack_pipeline.providers.base import BaseProvider
from geostack_pipeline.providers.contract import (
    Dialect,
    Endpoint,
    Item,
    ObjectRef,
    Product,
    SearchWindow,
    Want,
)
from geostack_pipeline.providers.credentials import CredentialField, Credentials, Secret
from geostack_pipeline.providers.registry import ProviderConfig, ProviderSpec
from geostack_pipeline.providers.stac_items import CLASSES, ConfiguredForm, Description, Numbers
from geostack_pipeline.providers.stac_rules import AllowedPlace, Places
from geostack_pipeline.storage.hrefs import is_loopback

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CREDENTIALS = (
    CredentialField(
        name="token",
        variable="STAC_API_TOKEN",
        purpose="token or API key of the catalog, where it asks for one",
        required=False,
    ),
)
PRODUCT = Product(kind="surface", bands=(), default_bands=())
"""What is known without the settings: bands have the names that the option ``bands`` gives them."""

_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}", re.ASCII)
_FORBIDDEN = frozenset(
    {"host", "cookie", "connection", "content-length", "content-type", "transfer-encoding"}
)
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}", re.ASCII)


class Options(BaseModel):
    """What a catalog is told by."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bands: Mapping[str, str] = Field(min_length=1)
    """Band of the cube -> name of its asset in the catalog."""
    classification: str | None = None
    """Name of the asset with Sentinel-2's scene classes, where there is one."""
    allow: tuple[AllowedPlace, ...] = Field(min_length=1)
    """Places that files may lie in."""
    product: Literal["surface", "raw"] = "surface"
    """``surface``: reflectance, mosaicked on the areas' grids.  ``raw``: every scene for itself, numbers as stored."""
    paging: Literal["auto"] = "auto"
    """Next links by POST or GET, merged or whole, and ``context.next``: told apart by themselves."""
    page_size: int = Field(default=100, ge=1, le=10_000)
    count: Literal["exact", "estimate", "none"] = "estimate"
    """What the catalog's count is worth; without an exact one, each window is walked until two walks agree."""
    header: str = "Authorization"
    """Header that carries the token; ``Authorization`` sends ``Bearer <token>``, any other one the bare token."""
    query: Mapping[str, Any] | None = None
    """STAC ``query`` sent along with the search; it changes what the scene table holds."""
    filter: str | Mapping[str, Any] | None = None
    """CQL2 sent along, as text or JSON; likewise."""
    numbers: Literal["item", "settings", "sentinel2"] = "item"
    """Where scale and offset come from: the item (else these settings), these settings, or Sentinel-2's baseline."""
    scale: float | None = Field(default=None, gt=0)
    offset: float | None = None
    nodata: float | None = None
    scene: str | None = None
    """Property that identifies a scene, where neither Sentinel-2's names nor the id do."""

    @field_validator("bands")
    @classmethod
    def _names(cls, bands: Mapping[str, str]) -> Mapping[str, str]:
        for key in bands:
            if not _KEY.fullmatch(key) or key == CLASSES:
                raise ValueError(f"{key!r} is no name of a band (the classes have an option of their own)")
        if len(set(bands.values())) < len(bands):
            raise ValueError("two bands are one asset")
        return bands

    @field_validator("header")
    @classmethod
    def _header(cls, header: str) -> str:
        if not _HEADER.fullmatch(header) or header.lower() in _FORBIDDEN:
            raise ValueError(f"{header!r} is no header for a token")
        return header

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        if self.classification in set(self.bands.values()):
            raise ValueError("the classification is one of the bands")
        if self.header.lower() != "authorization" and any(place.token for place in self.allow):
            raise ValueError(
                f"the token is sent as {self.header}, which redirects would carry to other hosts: "
                "no place of `allow` can get it"
            )
        return self


class StacApi(BaseProvider):
    """One configured catalog."""

    def __init__(
        self,
        *,
        key: str,
        url: str,
        collections: Sequence[str],
        options: Options,
        endpoints: Mapping[str, Endpoint] | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """Set up; nothing is requested.

        Args:
            key: Name in settings and asset keys.
            url: Root of the STAC API, without a trailing slash.
            collections: Collections to search, at least one.
            options: See :class:`Options`.
            endpoints: Host, bucket or account of ``options.allow`` -> where it answers instead.
            credentials: ``token``, where the catalog has one.

        Raises:
            SettingsError: No url or collection, a token over plain http, or an endpoint of no place.
        """
        if not url or not collections:
            raise SettingsError(
                "a catalog needs its url and at least one collection",
                subject=f"providers.{key}",
                found="no url" if not url else "no collections",
                action="see docs/providers/stac_api.md",
            )
        token = (credentials or {}).get("token")
        if token and not _is_private(url):
            raise SettingsError(
                "the token would go over plain http, where everyone on the way can read it",
                subject=f"providers.{key}.url",
                action="use https",
            )
        self.key = key
        self.url = url.rstrip("/")
        self.collections: Sequence[str] = tuple(collections)
        self.product = product_of(options)
        style: Literal["query", "cql2-json", "none"] = "none"
        if options.query is not None:
            style = "query"
        elif options.filter is not None:
            style = "cql2-json"
        # our own pager: headers may hold a token, and the paging style is not known before
        self.dialect = Dialect(
            page_size=options.page_size, walker="pager", count=options.count, filter_style=style
        )
        self._options = options
        self._form = ConfiguredForm(
            Description(
                collections=tuple(collections),
                bands=dict(options.bands),
                classification=options.classification,
                surface=options.product == "surface",
                numbers=Numbers(
                    source=options.numbers, scale=options.scale, offset=options.offset, nodata=options.nodata
                ),
                scene=options.scene,
            ),
            (self.url,),
        )
        self._header = Secret(self._header_value(token)) if token else None
        self._places = Places(key, options.allow, dict(endpoints or {}), self._header)

    def search_headers(self) -> Mapping[str, str]:
        """Return the header with the token, where there is one; the search sends it to the catalog's origin only."""
        return {self._options.header: self._header.reveal()} if self._header else {}

    def search_body(self, window: SearchWindow) -> dict[str, Any]:
        """Return the body of a window: a closed interval that includes the window's end."""
        body: dict[str, Any] = {
            "collections": list(self.collections),
            "bbox": list(window.bbox),
            "datetime": window.interval,
        }
        if self._options.query is not None:
            body["query"] = dict(self._options.query)
        chosen = self._options.filter
        if chosen is not None:
            body["filter"] = chosen if isinstance(chosen, str) else dict(chosen)
            body["filter-lang"] = "cql2-text" if isinstance(chosen, str) else "cql2-json"
        return body

    def canonical(self, item: Item) -> Item:
        """Return the canonical form of an item of the configured collections. Pure and idempotent.

        Raises:
            RejectedItemError: With a reason of :meth:`ItemForm.canonical`, or ``datetime``.
        """
        return self._form.canonical(item)

    def template(self) -> Item:
        """Return a canonical item whose every column holds a value of its type."""
        return self._form.template(self.collections[0])

    def wants(self, item: Item, bands: Sequence[str]) -> Sequence[Want]:
        """Return the bands by window (all of them where none are named), and the classification.

        Raises:
            SettingsError: A band that the option ``bands`` does not have.
        """
        unknown = [band for band in bands if band not in self._options.bands]
        if unknown:
            raise SettingsError(
                "there is no such band",
                subject=f"providers.{self.key}.bands",
                found=", ".join(unknown),
                action=f"choose among {', '.join(self._options.bands)}, or add it to options.bands",
            )
        return super().wants(item, bands or self.product.default_bands)

    def locate(self, href: str) -> ObjectRef:
        """Return where an href's bytes live.

        Raises:
            HrefRefusedError: Not in one of the places of ``options.allow``.
        """
        return self._places.locate(href)

    def store(self, store_id: str) -> ObjectStore:
        """Return the store of a place: anonymous, but for https hosts that get the token."""
        return self._places.store(store_id)

    def explain_page(self, page: bytes, subject: str) -> GeostackError:  # noqa: ARG002 - says the same of any page
        """Return an error of the login where file hosts get one, else of the transfer."""
        if self._header and any(place.token for place in self._options.allow):
            return AuthError(
                "a web page came instead of the file: the token was not accepted for it",
                subject=subject,
                action="check the rights that come with the token",
            )
        return TransferError(
            "a web page came instead of the file",
            subject=subject,
            action="open the address in a browser; a host that asks for a login needs `token: true` in options.allow",
            retryable=True,
        )

    def _header_value(self, token: Secret) -> str:
        bearer = self._options.header.lower() == "authorization"
        text = token.reveal()
        return f"Bearer {text}" if bearer and " " not in text else text


def product_of(options: Options) -> Product:
    """Return what the scenes of a catalog with these options are."""
    bands = tuple(options.bands)
    return Product(
        kind="surface" if options.product == "surface" else "swath",
        bands=bands,
        default_bands=bands,
        classification=CLASSES if options.classification else None,
    )


def _is_private(url: str) -> bool:
    """Return whether nobody on the way can read what is sent: https, or this machine itself."""
    parts = urlsplit(url)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")


def _build(config: ProviderConfig) -> StacApi:
    try:
        options = Options.model_validate(dict(config.options))
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(str(part) for part in detail['loc']) or 'options'}: "
            f"{str(detail['msg']).removeprefix('Value error, ')}"
            for detail in error.errors()
        )
        raise SettingsError(
            "the catalog is not described completely",
            subject=f"providers.{config.key}.options",
            found=found,
            action="see docs/providers/stac_api.md",
        ) from None
    return StacApi(
        key=config.key,
        url=config.url or "",
        collections=config.collections,
        options=options,
        endpoints=config.endpoints,
        credentials=config.credentials,
    )


SPEC = ProviderSpec(title="STAC API", product=PRODUCT, build=_build, credentials=CREDENTIALS)
"""Any other catalog."""
