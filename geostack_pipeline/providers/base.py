"""What most providers have in common: no login, one place per asset, the classification with the bands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geostack_pipeline.errors import AuthError, GeostackError, TransferError
from geostack_pipeline.providers.contract import Dialect, Item, ObjectRef, Product, SearchWindow, Want

if TYPE_CHECKING:
    from obstore.store import ObjectStore


class BaseProvider(ABC):
    """A provider without a login; implements :class:`~geostack_pipeline.providers.contract.Provider`."""

    key: str
    url: str
    collections: Sequence[str]
    dialect: Dialect
    product: Product

    @abstractmethod
    def search_body(self, window: SearchWindow) -> dict[str, Any]:
        """Return the search body of a window."""

    @abstractmethod
    def canonical(self, item: Item) -> Item:
        """Return the canonical form of an item."""

    @abstractmethod
    def template(self) -> Item:
        """Return a canonical item with a value in every column."""

    @abstractmethod
    def locate(self, href: str) -> ObjectRef:
        """Return where an href's bytes live."""

    @abstractmethod
    def store(self, store_id: str) -> ObjectStore:
        """Return the store of an id from :meth:`locate`."""

    def search_headers(self) -> Mapping[str, str]:
        """Return no headers."""
        return {}

    def wants(self, item: Item, bands: Sequence[str]) -> Sequence[Want]:  # noqa: ARG002 - for those whose items differ
        """Return the bands by window, and the classification where the product has one."""
        extra = [self.product.classification] if self.product.classification else []
        return [Want(asset=band, how="window") for band in [*bands, *extra]]

    def routes(self, item: Item, asset: str) -> Sequence[ObjectRef]:
        """Return the one place of the asset's href."""
        return (self.locate(item["assets"][asset]["href"]),)

    def renew(self, store_id: str | None) -> bool:  # noqa: ARG002 - there is no login
        """Return False: there is nothing to renew."""
        return False

    def explain_page(self, page: bytes, subject: str) -> GeostackError:  # noqa: ARG002 - says the same of any page
        """Return an error of the transfer; of the login where the provider has one."""
        if self.search_headers():
            return AuthError(
                "a web page came instead of the file: the login was not accepted for it",
                subject=subject,
                action=f"check the rights of the account of {self.key}",
            )
        return TransferError(
            "a web page came instead of the file",
            subject=subject,
            action="run again later; if it stays, the source moved the file",
            retryable=True,
        )
