"""Tries the places of an object in their order, with a login that is renewed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from geostack_pipeline.errors import AuthError, GeostackError, TransferError
from geostack_pipeline.raster.fetch import WebPageError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from geostack_pipeline.providers.contract import ObjectRef, Provider
    from geostack_pipeline.stages.wishes import Wish

T = TypeVar("T")
Work = Callable[["ObjectRef", "ObjectStore", str], T]
"""Called with a place, its store and how to name it in an error."""


def by_first_route(provider: Provider, wish: Wish, work: Work[T]) -> T:
    """Return what ``work`` makes of the first place that gives the object.

    The next place is tried where one refuses the login, or does not answer.

    Raises:
        AuthError: Every place refused the login, also after it was renewed.
        GeostackError: Whatever else ``work`` raises, with the item and asset as its subject.
    """
    for ref in wish.routes[:-1]:
        try:
            return _by(provider, wish, ref, work)
        except AuthError:
            continue
        except TransferError as error:
            if not error.retryable:
                raise
    return _by(provider, wish, wish.routes[-1], work)


def _by(provider: Provider, wish: Wish, ref: ObjectRef, work: Work[T]) -> T:
    """Work with one place; a refused login is renewed once, since tokens expire and are revoked half-way."""
    subject = f"{provider.key} item {wish.item['id']} asset {wish.asset} ({ref.store_id}/{ref.key})"
    try:
        return _once(provider, ref, work, subject)
    except (AuthError, WebPageError) as error:
        if not provider.renew(ref.store_id):
            raise _meaning(provider, error, subject) from error
    try:
        return _once(provider, ref, work, subject)
    except (AuthError, WebPageError) as error:
        raise _meaning(provider, error, subject) from error


def _once(provider: Provider, ref: ObjectRef, work: Work[T], subject: str) -> T:
    try:
        return work(ref, provider.store(ref.store_id), subject)
    except GeostackError as error:
        error.subject = subject
        raise


def _meaning(provider: Provider, error: GeostackError, subject: str) -> GeostackError:
    return provider.explain_page(error.page, subject) if isinstance(error, WebPageError) else error
