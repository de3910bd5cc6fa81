"""The earthaccess library, kept to what it is told: one CMR, one login server, nothing global.

Its module-level functions work on one global login and on NASA's own addresses; the classes behind them, ``Auth``,
``System`` and ``DataGranules``, are used here instead, each with values of its own.  Searches go out through an adapter
of ours, which adds what the library lacks: a time limit, errors by status, a count, and a refusal of other hosts.
"""

from __future__ import annotations

import threading
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from geostack_pipeline.errors import AuthError, CatalogError, SettingsError, TransferError
from geostack_pipeline.providers.contract import Item, ItemsAnswer, SearchWindow, SourceFaultError
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.providers.earthdata_tokens import (
    Account,
    AccountTokens,
    NetrcTokens,
    Token,
    expiry_of,
    wrong_password,
)
from geostack_pipeline.providers.emit import interval
from geostack_pipeline.providers.emit_form import Collection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_HEADER_WAIT_S = 3600.0


def library() -> ModuleType:
    """Return the earthaccess library.

    Raises:
        SettingsError: It is not installed.
    """
    try:
        import earthaccess  # noqa: PLC0415 - an extra, and a second to import
    except ImportError as error:
        raise SettingsError(
            "the earthaccess library is not installed",
            subject="provider earthaccess",
            found=str(error),
            action="pip install 'geostack_pipeline[earthaccess]', or use the provider cmr_stac: it finds the same files",
        ) from None
    return earthaccess


# -- search -------------------------------------------------------------------------------------------


class GranuleSearch:
    """Searches one CMR for granules. Thread-safe: each search has a session of its own.

    Args:
        url: CMR's search root, ``https://cmr.earthdata.nasa.gov/search``.
        timeout_s: Time limit of connecting, and of each wait for bytes.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s

    def ask(
        self,
        collections: Sequence[Collection],
        window: SearchWindow,
        *,
        below: float | None = None,
        fetch: bool = True,
    ) -> ItemsAnswer:
        """Return the granules of some collections, one collection after the other, as CMR gives them.

        Args:
            collections: What to ask for.
            window: Time and box.
            below: Largest cloud cover, percent; granules without one are then left out by CMR.
            fetch: False only counts (``CMR-Hits``).
        """
        answers = [self._run(each, window, below, fetch=fetch) for each in collections]
        return ItemsAnswer(
            items=[item for answer in answers for item in answer.items],
            matched=sum(answer.matched or 0 for answer in answers),
            requests=sum(answer.requests for answer in answers),
            bytes_moved=sum(answer.bytes_moved for answer in answers),
        )

    def _run(
        self, collection: Collection, window: SearchWindow, below: float | None, *, fetch: bool
    ) -> ItemsAnswer:
        wire = _Wire(self._url, self._timeout_s)
        query = self._query(collection, window, below, wire)
        try:
            hits = query.hits()
            # One more than counted is asked for: a list that is longer than its count shows.
            items: list[Item] = _pages(query, hits + 1) if fetch and hits else []
        except SourceFaultError as error:
            error.requests = wire.requests
            raise
        except (requests.Timeout, TimeoutError):
            raise SourceFaultError(
                f"no answer within {self._timeout_s:g} s", timed_out=True, requests=wire.requests
            ) from None
        except requests.JSONDecodeError:
            raise SourceFaultError(
                "an answer that is no complete JSON", malformed=True, requests=wire.requests
            ) from None
        except requests.RequestException as error:
            raise SourceFaultError(type(error).__name__, requests=wire.requests) from None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise SourceFaultError(
                f"JSON that is no list of granules ({type(error).__name__} {error})"[:120],
                malformed=True,
                requests=wire.requests,
            ) from None
        return ItemsAnswer(items=items, matched=hits, requests=wire.requests, bytes_moved=wire.bytes_moved)

    def _query(self, collection: Collection, window: SearchWindow, below: float | None, wire: _Wire) -> Any:
        query = library().DataGranules()
        query.mode(f"{self._url}/")
        query.session = wire.session()
        start, end = interval(window.start, window.end)
        west, south, east, north = window.bbox
        query.short_name(collection.short_name).version(collection.version)
        query.temporal(datetime.fromisoformat(start), datetime.fromisoformat(end))
        query.bounding_box(west, south, east, north)
        if below is not None:
            query.cloud_cover(0, below)
        return query


def _pages(query: Any, limit: int) -> list[Item]:
    """Return the granules of a query page by page, as CMR gives them.

    The paging behind the library's ``DataGranules.get``, without its ``DataGranule`` around each of them, which looks
    into links and sizes that a malformed granule lacks.
    """
    from earthaccess.utils._search import get_results  # noqa: PLC0415 - only with the extra

    return list(get_results(query.session, query, limit))


class _Wire(HTTPAdapter):
    """Sends the requests of one search to one origin, and says what an answer other than 200 means."""

    def __init__(self, url: str, timeout_s: float) -> None:
        super().__init__()
        self._origin = urlsplit(url)[:2]
        self._timeout_s = timeout_s
        self.requests = 0
        self.bytes_moved = 0

    def session(self) -> requests.Session:
        """Return a session whose requests all go through here; the machine's netrc and proxies have no say in it."""
        session = requests.Session()
        session.trust_env = False
        session.max_redirects = 0
        for scheme in ("https://", "http://"):
            session.mount(scheme, self)
        return session

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        """Send a request; raises :class:`SourceFaultError`, ``AuthError`` or ``CatalogError`` for other answers than 200."""
        where = str(request.url).split("?", 1)[0]
        if urlsplit(str(request.url))[:2] != self._origin:
            raise self._final("CMR sends elsewhere instead of answering", f"a request to {where}")
        self.requests += 1
        answer = super().send(request, **{**options, "timeout": (15.0, self._timeout_s)})
        self.bytes_moved += len(answer.content)
        status = answer.status_code
        if status in _RETRIED:
            raise SourceFaultError(f"status {status} from {where}", wait_s=_wait(answer))
        if status in {401, 403}:
            raise AuthError(
                "CMR asks for a login",
                subject="earthaccess",
                found=f"status {status} from {where}",
                action="check that the collections are public",
            )
        if status != 200:
            raise self._final("CMR refused the search", f"status {status} from {where}")
        if "html" in answer.headers.get("content-type", "").lower():
            raise SourceFaultError("an HTML page (a login or error page?) instead of JSON", malformed=True)
        return answer

    @staticmethod
    def _final(problem: str, found: str) -> CatalogError:
        return CatalogError(
            problem,
            subject="earthaccess",
            found=found,
            action="check the provider's url and collections",
        )


def _wait(answer: requests.Response) -> float | None:
    text = answer.headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0.0 <= seconds <= _LONGEST_HEADER_WAIT_S else None


# -- login --------------------------------------------------------------------------------------------


class LibraryAccountTokens(AccountTokens):
    """Tokens for user and password by the library's session, which sends them to the login server alone."""

    def fetch(self) -> Token | None:
        """Return a token of the account."""
        account = self.account()
        return _token_of(self._url, account) if account is not None else None


class LibraryNetrcTokens(NetrcTokens):
    """Tokens for the user of the netrc file, by the library's session."""

    def fetch(self) -> Token | None:
        """Return a token of the file's account."""
        account = self.account()
        return _token_of(self._url, account) if account is not None else None


_login_lock = threading.Lock()


def _token_of(url: str, account: Account) -> Token | None:
    """Return a token of an account through the library's ``Auth``; None where the account can have no more."""
    earthaccess = library()
    auth = earthaccess.Auth()
    auth.system = _system(url)
    # the library writes https before a host name: an address with a port needs the whole URL
    auth.EDL_FIND_OR_CREATE_TOKEN_URL = f"{url}/api/users/find_or_create_token"
    auth.username, auth.password = account.username, account.password.reveal()
    session: requests.Session = auth.get_session()
    session.trust_env = False
    try:
        with _login_lock, session:
            answer = session.post(
                auth.EDL_FIND_OR_CREATE_TOKEN_URL,
                headers={"Accept": "application/json"},
                timeout=30,
                allow_redirects=False,
            )
    except requests.RequestException as error:
        raise TransferError(
            "the login server does not answer",
            subject=f"Earthdata Login {url}",
            found=type(error).__name__,
            action="run again later",
            retryable=True,
        ) from None
    try:
        body = cast("dict[str, Any]", answer.json())
        text = body.get("access_token")
    except (ValueError, AttributeError):
        body, text = {}, None
    if answer.status_code in {401, 403}:
        if isinstance(body, dict) and "max_token" in str(body.get("error")):
            return None
        raise wrong_password(url, account, f"status {answer.status_code}")
    if answer.status_code in _RETRIED:
        raise TransferError(
            "the login server gives no token",
            subject=f"Earthdata Login {url}",
            found=f"status {answer.status_code}",
            action="run again later",
            retryable=True,
        )
    if not isinstance(text, str) or not text:
        raise wrong_password(url, account, "a login page instead of a token")
    return Token(secret=Secret(text), expires=expiry_of(body.get("expiration_date")))


def _system(url: str) -> Any:
    from earthaccess.system import System  # noqa: PLC0415 - only with the extra

    make: Any = System
    return make(
        cmr_base_url="",
        status_url="",
        status_api_url="",
        edl_hostname=urlsplit(url).hostname or "",
    )
