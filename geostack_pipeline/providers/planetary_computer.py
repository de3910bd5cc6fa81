"""Microsoft's Planetary Computer: Sentinel-2 L2A as COGs in an Azure container, opened with short-lived signatures.

Seen in recorded answers and in the catalog's issues:

- ``next`` is a POST link whose body repeats the query and adds ``token: "next:<collection>:<last id>"``; there is a
  ``previous`` one too, and no count at all.  Paging was reported to lose items, so two walks have to agree.
- Searches that take the catalog too long end with 504: pages are kept small.
- ``query`` and CQL2 (``filter``) both work; everything is checked again by the selection.
- The blobs are public, but are read with a signature (SAS) only, which anyone gets per storage account and container;
  a subscription key makes the token server more generous and is sent nowhere else.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import BaseModel, ConfigDict

from geostack_pipeline.errors import HrefRefusedError, SettingsError
from geostack_pipeline.providers import sentinel2
from geostack_pipeline.providers.azure_sas import SasLogin, SasTokens
from geostack_pipeline.providers.base import BaseProvider
from geostack_pipeline.providers.configuring import check_endpoint, chosen, read_options
from geostack_pipeline.providers.contract import Dialect, Endpoint, Item, ObjectRef, SearchWindow
from geostack_pipeline.providers.credentials import CredentialField, Secret
from geostack_pipeline.providers.planetary_computer_items import COLLECTION, PlanetaryComputerForm
from geostack_pipeline.providers.registry import ProviderConfig, ProviderSpec
from geostack_pipeline.storage.hrefs import AllowList, ContainerRule
from geostack_pipeline.storage.roots import open_store

if TYPE_CHECKING:
    from obstore.store import ObjectStore

URL = "https://planetarycomputer.microsoft.com/api/stac/v1"
"""The public API."""

TOKEN_URL = "https://planetarycomputer.microsoft.com/api/sas/v1/token"  # noqa: S105 - an address
"""The public token server."""

CONTAINERS: Mapping[str, tuple[str, str]] = {COLLECTION: ("sentinel2l2a01", "sentinel2-l2")}
"""Collection -> storage account and container that hold its files."""

TOKENS = "sas"
"""Name of the token server among the endpoints; the others are storage accounts."""

SUBSCRIPTION_KEY = CredentialField(
    name="subscription_key",
    variable="PC_SDK_SUBSCRIPTION_KEY",
    purpose="subscription key of the Planetary Computer, for more tokens per minute",
    required=False,
)


class _Options(BaseModel):
    """Settings that only this provider has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: dict[str, dict[str, Any]] | None = None
    """STAC ``query`` sent along to shorten the lists, e.g. ``{"eo:cloud_cover": {"lt": 60}}``."""
    filter: dict[str, Any] | None = None
    """CQL2-JSON sent along instead."""


class PlanetaryComputer(BaseProvider):
    """The Planetary Computer; implements :class:`~geostack_pipeline.providers.contract.Provider`."""

    product = sentinel2.PRODUCT

    def __init__(
        self,
        *,
        key: str = "planetary_computer",
        url: str = URL,
        collections: Sequence[str] = (COLLECTION,),
        endpoints: Mapping[str, Endpoint] | None = None,
        query: Mapping[str, Any] | None = None,
        cql2: Mapping[str, Any] | None = None,
        subscription_key: Secret | None = None,
    ) -> None:
        """Set up; nothing is requested.

        Args:
            key: Name in settings and asset keys.
            url: Root of the STAC API, without a trailing slash.
            collections: ``sentinel-2-l2a``.
            endpoints: ``sas`` (the token server, whose address ends before ``/<account>/<container>``) or a
                storage account -> where it answers; an account's containers then lie at ``<url>/<account>``.
            query: STAC ``query`` sent along; it changes what the scene table holds.
            cql2: CQL2-JSON filter sent along; not together with ``query``.
            subscription_key: Sent to the token server alone.

        Raises:
            SettingsError: A collection or an endpoint that this provider does not know, or plain http to
                another machine.
        """
        for collection in collections:
            if collection not in CONTAINERS:
                raise SettingsError(
                    "the collection cannot be read",
                    subject=f"{key} collection {collection!r}",
                    action=f"choose among {', '.join(CONTAINERS)}",
                )
        if not collections:
            raise SettingsError(
                "no collection is asked for",
                subject=f"{key} collections",
                action=f"name at least one of {', '.join(CONTAINERS)}",
            )
        if query and cql2:
            raise SettingsError(
                "query and filter cannot be sent together", subject=f"{key} options", action="remove one"
            )
        self._endpoints = dict(endpoints or {})
        names = (TOKENS, *(account for account, _ in CONTAINERS.values()))
        for name, endpoint in self._endpoints.items():
            check_endpoint(key, name, endpoint, names)
        self.key = key
        self.url = url.rstrip("/")
        self.collections: Sequence[str] = tuple(collections)
        # 250 items are 5 MB; searches of larger pages run into the catalog's time limit
        self.dialect = Dialect(page_size=250, walker="pager", count="none", filter_style="query")
        self._query = dict(query) if query else None
        self._filter = dict(cql2) if cql2 else None
        self._form = PlanetaryComputerForm((self.url, URL))
        self._allowed = AllowList(
            ContainerRule(account=account, container=container) for account, container in CONTAINERS.values()
        )
        self._stores = {
            f"az://{account}/{container}": (account, container) for account, container in CONTAINERS.values()
        }
        self._tokens = SasTokens(
            self._endpoints.get(TOKENS, Endpoint()).url or TOKEN_URL,
            provider=key,
            key=subscription_key,
            key_variable=SUBSCRIPTION_KEY.variable,
        )
        self._handed = threading.local()

    def __reduce__(self) -> NoReturn:
        """Refuse: the provider holds tokens and perhaps a key."""
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

    def locate(self, href: str) -> ObjectRef:
        """Return container and blob of an href in one of the containers, read by ourselves, exactly.

        Raises:
            HrefRefusedError: Any other account, container or host, or an href that could be misread.
        """
        store_id, key = self._allowed.resolve(href)
        return ObjectRef(store_id=store_id, key=key, canonical=f"{store_id}/{key}")

    def store(self, store_id: str) -> ObjectStore:
        """Return a store of a container, with a token; asks the token server where there is none that lasts.

        The machine's ``AZURE_*`` variables have no say in it.

        Raises:
            AuthError: The token server refuses.
            CatalogUnavailableError: It does not answer, or keeps answering 429 or 5xx.
        """
        account, container = self._container(store_id)
        login = SasLogin(self._tokens, account, container)
        # Asked here already, where an error keeps its kind: obstore would wrap it in one of its own.
        login()
        handed: dict[str, SasLogin] = self._handed.__dict__.setdefault("logins", {})
        handed[store_id] = login
        endpoint = self._endpoints.get(account, Endpoint())
        options = {"account_name": account}
        if endpoint.url is not None:
            options["endpoint"] = f"{endpoint.url.rstrip('/')}/{account}"
            options["allow_http"] = "true" if endpoint.allow_http else "false"
        return open_store(f"az://{container}", options, credential_provider=login)

    def renew(self, store_id: str | None) -> bool:
        """Forget the token of a store after it was refused (expired, or revoked before its time).

        A token that another thread has got meanwhile is kept: it has not been refused.
        """
        if store_id is None:
            return False
        account, container = self._container(store_id)
        handed: dict[str, SasLogin] = self._handed.__dict__.get("logins", {})
        login = handed.get(store_id)
        return login.drop() if login is not None else self._tokens.drop(account, container)

    def _container(self, store_id: str) -> tuple[str, str]:
        if store_id not in self._stores:
            raise HrefRefusedError(
                "not a store of this provider",
                subject=f"{self.key} {store_id[:80]!r}",
                action="use the id from locate()",
            )
        return self._stores[store_id]


def _build(config: ProviderConfig) -> PlanetaryComputer:
    options = read_options(
        config, _Options, action="this provider has query (STAC query) and filter (CQL2-JSON)"
    )
    return PlanetaryComputer(
        **chosen(config),
        query=options.query,
        cql2=options.filter,
        subscription_key=config.credentials.get(SUBSCRIPTION_KEY.name),
    )


SPEC = ProviderSpec(
    title="Microsoft Planetary Computer",
    product=sentinel2.PRODUCT,
    build=_build,
    credentials=(SUBSCRIPTION_KEY,),
)
"""Works without an account; a subscription key raises the limits."""
