"""DLR EOC Geoservice: EnMAP hyperspectral scenes in a GeoServer's STAC API, files behind a login.

Seen in recorded answers and in other clients' sources:

- ``next`` is a POST link with ``merge: true`` and a body of ``startIndex`` and ``limit``, and its href carries
  ``?f=application%2Fgeo%2Bjson``; ``numberMatched`` is exact.
- ``query`` is ignored without a word, ``filter`` (CQL2) works; one without a bbox times out, so each search has one.
- Searching needs no login.  The download server sends everyone without a session to a CAS login form; it answers 403
  to an ``Authorization`` header, as most report, while a few say that Basic works: both are there.
- A login page, a page about a missing right and a page with a usage policy all come with status 200.
- Three layouts of file addresses, all below ``/ENMAP/files/``.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from geostack_pipeline.errors import AuthError, GeostackError, HrefRefusedError, SettingsError
from geostack_pipeline.providers.base import BaseProvider
from geostack_pipeline.providers.cas import CasSession
from geostack_pipeline.providers.cas_pages import Cause, cause_of
from geostack_pipeline.providers.configuring import chosen
from geostack_pipeline.providers.contract import (
    Dialect,
    Endpoint,
    Item,
    ObjectRef,
    Product,
    SearchWindow,
    Want,
)
from geostack_pipeline.providers.credentials import CredentialField, Credentials, Secret, missing
from geostack_pipeline.providers.enmap_items import COLLECTIONS, IMAGE, IMAGES, KEYS, METADATA, EnmapForm
from geostack_pipeline.providers.http_files import open_http
from geostack_pipeline.providers.registry import ProviderConfig, ProviderSpec
from geostack_pipeline.storage.hrefs import AllowList, HostRule

if TYPE_CHECKING:
    from obstore.store import ObjectStore

URL = "https://geoservice.dlr.de/eoc/ogc/stac/v1"
"""The public API."""
FILES = "https://download.geoservice.dlr.de"
FOLDER = "ENMAP/files"
"""All files lie below it."""
CAS = "https://sso.eoc.dlr.de/eoc/auth"
PERMISSIONS = "https://sso.eoc.dlr.de/eoc/kc/realms/geoservice/account/#/permissions"

CREDENTIALS = (
    CredentialField(
        name="username",
        variable="DLR_USERNAME",
        purpose="user name (not the mail address) of a free EOC Geoservice account, from "
        "https://sso.eoc.dlr.de/geoservice/selfservice/register",
    ),
    CredentialField(name="password", variable="DLR_PASSWORD", purpose="its password"),
)
PRODUCT = Product(
    kind="swath",
    bands=KEYS,
    default_bands=(IMAGE, METADATA),
    methane=True,
)
"""EnMAP scenes: every one in its own geometry."""

_HELP: Mapping[Cause, str] = {
    "rights": f"subscribe to `EnMAP Access Service` at {PERMISSIONS} with this account, log in there once, and run again",
    "policy": f"log in once with a browser at {FILES}/{FOLDER}/L2A/ and accept the policy; nobody else may do so for you",
    "password": "check DLR_USERNAME (not the mail address) and DLR_PASSWORD by logging in with a browser at "
    f"{FILES}/{FOLDER}/L2A/",
    "login": "run again; if it stays, check DLR_USERNAME and DLR_PASSWORD, and the option `login` (cas or basic)",
}


class Options(BaseModel):
    """What only this provider can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    login: Literal["cas", "basic"] = "cas"
    """How the download server is logged in to."""
    filter: str | Mapping[str, Any] | None = None
    """CQL2 sent along with the search, as text or JSON, to shorten the lists; it changes what the scene table holds."""


class DlrGeoservice(BaseProvider):
    """The catalog of DLR's Earth Observation Center, EnMAP collections only."""

    product = PRODUCT

    def __init__(
        self,
        *,
        key: str = "dlr_geoservice",
        url: str = URL,
        collections: Sequence[str] = (COLLECTIONS[0],),
        endpoints: Mapping[str, Endpoint] | None = None,
        options: Options | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """Set up; nothing is requested.

        Args:
            key: Name in settings.
            url: Root of the STAC API, without a trailing slash.
            collections: Any of ``ENMAP_HSI_L2A``, ``ENMAP_HSI_L1B``, ``ENMAP_HSI_L1C`` and ``ENMAP_HSI_L0_QL``.
            endpoints: ``files`` and ``cas`` -> where the download server and the login server answer.
            options: See :class:`Options`.
            credentials: ``username`` and ``password``; searching works without.

        Raises:
            SettingsError: A collection or an endpoint that this provider does not know.
        """
        for collection in collections:
            if collection not in COLLECTIONS:
                raise SettingsError(
                    "the collection cannot be read",
                    subject=f"{key} collection {collection!r}",
                    action=f"choose among {', '.join(COLLECTIONS)}",
                )
        for name in endpoints or {}:
            if name not in {"files", "cas"}:
                raise SettingsError(
                    "there is no such endpoint",
                    subject=f"{key} endpoint {name!r}",
                    action="choose files or cas",
                )
        self.key = key
        self.url = url.rstrip("/")
        self.collections: Sequence[str] = tuple(collections)
        # 50 items of up to 50 kB; our own pager, which merges the next link's body into the last one
        self.dialect = Dialect(
            page_size=50, walker="pager", count="exact", filter_style="cql2-json", request_timeout_s=90.0
        )
        self._options = options or Options()
        self._form = EnmapForm((self.url, URL))
        self._allowed = AllowList([HostRule(host=urlsplit(FILES).netloc, prefix=FOLDER)])
        given = dict(endpoints or {})
        self._files, self._allow_http = _address(key, "files", given.get("files"), FILES)
        self._credentials = dict(credentials or {})
        self._session = self._cas_session(_address(key, "cas", given.get("cas"), CAS)[0])
        self._lock = threading.Lock()
        self._store: tuple[Secret, ObjectStore] | None = None

    # -- searching ------------------------------------------------------------------------------------

    def search_body(self, window: SearchWindow) -> dict[str, Any]:
        """Return the body of a window: a closed interval that includes the window's end, always with a box."""
        body: dict[str, Any] = {
            "collections": list(self.collections),
            "bbox": list(window.bbox),
            "datetime": window.interval,
        }
        chosen = self._options.filter
        if chosen is not None:
            body["filter"] = chosen if isinstance(chosen, str) else dict(chosen)
            body["filter-lang"] = "cql2-text" if isinstance(chosen, str) else "cql2-json"
        return body

    def canonical(self, item: Item) -> Item:
        """Return the canonical form of an item of an EnMAP collection. Pure and idempotent.

        Raises:
            RejectedItemError: With a reason of :meth:`ItemForm.canonical`, or ``datetime``, ``scene``.
        """
        return self._form.canonical(item)

    def template(self) -> Item:
        """Return a canonical item whose every column holds a value of its type."""
        return self._form.template(self.collections[0])

    # -- files ----------------------------------------------------------------------------------------

    def wants(self, item: Item, bands: Sequence[str]) -> Sequence[Want]:
        """Return the image by window, everything else whole; the metadata always, which alone knows the wavelengths.

        Images of L1B, its test flags and masks of defective pixels are one per detector and not on a map: where one
        is asked for, both come, whole.
        """
        wanted: dict[str, Want] = {}
        for band in bands:
            names = [band]
            if band not in item["assets"]:
                parts = [f"{band}_{part}" for part in ("VNIR", "SWIR")]
                names = [name for name in parts if name in item["assets"]] or names
            for name in names:
                on_map = name in IMAGES and item["collection"] != "ENMAP_HSI_L1B"
                wanted[name] = Want(asset=name, how="window" if on_map else "whole")
        wanted.setdefault(METADATA, Want(asset=METADATA, how="whole"))
        return tuple(wanted.values())

    def locate(self, href: str) -> ObjectRef:
        """Return the key of a file below ``/ENMAP/files/`` of the download server.

        Raises:
            HrefRefusedError: Any other place: the message names it, never credentials.
        """
        store_id, key = self._allowed.resolve(href)
        return ObjectRef(store_id=store_id, key=key, canonical=f"{store_id}/{key}")

    def store(self, store_id: str) -> ObjectStore:
        """Return the download server as a store, with the session's cookie; logs in where there is no session yet.

        Raises:
            AuthError: No login is configured, or it was refused.
            TransferError: The login server does not answer.
        """
        if store_id != FILES:
            raise HrefRefusedError(
                "not a store of this provider",
                subject=f"{self.key} {store_id[:80]!r}",
                action="use the id from locate()",
            )
        if self._session is None:
            login, name = self._basic(), "Authorization"
        else:
            login, name = self._session.cookie(), "Cookie"
        with self._lock:
            if self._store is None or self._store[0] != login:
                store = open_http(
                    self._files, headers={name: login} if login else {}, allow_http=self._allow_http
                )
                self._store = (login, store)
            return self._store[1]

    def renew(self, store_id: str | None) -> bool:
        """Have the session opened anew if the download server does not take it any more."""
        if store_id != FILES or self._session is None:
            return False
        return self._session.renew()

    def explain_page(self, page: bytes, subject: str) -> GeostackError:
        """Return the failed login that a web page in place of a file stands for, with its cause."""
        cause = cause_of(page.decode("utf-8", "replace")) or "login"
        if self._session is not None:
            error = self._session.refusal(cause)
        else:
            error = AuthError(
                "the server asks for its login form: Basic is not taken, or user name or password is wrong",
                subject=subject,
                action="set the option `login: cas`, or check DLR_USERNAME and DLR_PASSWORD",
            )
        error.subject = subject
        return error

    def _cas_session(self, cas: str) -> CasSession | None:
        """Return the session that store() logs in with; None where the login is Basic."""
        if self._options.login == "basic":
            return None
        return CasSession(
            subject=self.key,
            login_url=f"{cas}/login",
            service_url=f"{self._files}/{FOLDER}/L2A/",
            credentials=self._login,
            help_text=_HELP,
        )

    def _login(self) -> tuple[Secret, Secret]:
        username, password = (self._credentials.get(name) for name in ("username", "password"))
        if username is None or password is None:
            raise missing(self.key, CREDENTIALS)
        return username, password

    def _basic(self) -> Secret:
        username, password = self._login()
        pair = f"{username.reveal()}:{password.reveal()}".encode()
        return Secret(f"Basic {base64.b64encode(pair).decode('ascii')}")


def _address(key: str, name: str, endpoint: Endpoint | None, default: str) -> tuple[str, bool]:
    """Return where a server answers, and whether plain http is allowed for it."""
    url = (endpoint.url if endpoint and endpoint.url else default).rstrip("/")
    plain = endpoint is not None and endpoint.allow_http
    parts = urlsplit(url)
    if parts.scheme not in {"https", "http"} or not parts.hostname or "@" in parts.netloc or parts.query:
        raise SettingsError(
            "not an address of a server", subject=f"{key} endpoint {name}", action="write https://…"
        )
    if parts.scheme == "http" and not plain:
        raise SettingsError(
            "the endpoint is plain http, which would show the login to everyone",
            subject=f"{key} endpoint {name}",
            action="use https, or set allow_http for a server on loopback",
        )
    return url, plain


def _build(config: ProviderConfig) -> DlrGeoservice:
    try:
        options = Options.model_validate(dict(config.options))
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(
            "an option is wrong",
            subject=f"providers.{config.key}.options.{'.'.join(str(part) for part in first['loc'])}",
            found=first["msg"],
            action="see docs/providers/dlr_geoservice.md",
        ) from None
    return DlrGeoservice(**chosen(config), options=options, credentials=config.credentials)


SPEC = ProviderSpec(
    title="DLR EOC Geoservice (EnMAP)", product=PRODUCT, build=_build, credentials=CREDENTIALS
)
"""The catalog is open; files need an account with the EnMAP Access Service."""
