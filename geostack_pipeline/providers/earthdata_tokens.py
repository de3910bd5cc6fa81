"""Where an Earthdata Login token comes from: given, minted for user and password, or for those of a netrc file.

Every request goes to the login server that the settings name and to no other host; redirects are not followed.
"""

from __future__ import annotations

import netrc
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx

from geostack_pipeline.errors import AuthError, GeostackError, TransferError
from geostack_pipeline.providers import logins
from geostack_pipeline.providers.coerce import parse_time
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.providers.oauth import trust

URS = "https://urs.earthdata.nasa.gov"
"""The login server."""
VARIABLES = "EARTHDATA_TOKEN, or EARTHDATA_USERNAME and EARTHDATA_PASSWORD"
TIMEOUT_S = 30.0
ATTEMPTS = 3
LONGEST_WAIT_S = 30.0
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, kw_only=True)
class Token:
    """A bearer token."""

    secret: Secret
    expires: datetime | None = None
    """When it ends, as far as is known."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user's name and password."""

    username: str
    password: Secret
    origin: str
    """Where they were found, for messages."""


class TokenSource(Protocol):
    """One way to a token."""

    origin: str
    """Where the login comes from, for messages; never the login itself."""

    def account(self) -> Account | None:
        """Return user and password, where that is what this way is about."""
        ...

    def fetch(self) -> Token | None:
        """Return a token; None where nothing of the kind is configured, or only the web login is left.

        Raises:
            AuthError: The login was refused.
            TransferError: The login server does not answer.
        """
        ...


class GivenToken:
    """A token that the user has made; it cannot be renewed."""

    origin = "EARTHDATA_TOKEN"

    def __init__(self, token: Secret | None) -> None:
        self._token = token

    def account(self) -> None:
        """Return None: a token tells no password."""
        return

    def fetch(self) -> Token | None:
        """Return the token."""
        return Token(secret=self._token) if self._token else None


class AccountTokens:
    """Tokens that the login server mints for user and password; it hands out the one it has while that is valid."""

    origin = "EARTHDATA_USERNAME and EARTHDATA_PASSWORD"

    def __init__(self, url: str, username: Secret | None, password: Secret | None) -> None:
        self._url = url
        self._username = username
        self._password = password

    def account(self) -> Account | None:
        """Return user and password where both are given.

        Raises:
            AuthError: Only one of the two is.
        """
        if self._username and self._password:
            return Account(username=self._username.reveal(), password=self._password, origin=self.origin)
        if self._username or self._password:
            lacking = "EARTHDATA_PASSWORD" if self._username else "EARTHDATA_USERNAME"
            raise AuthError(
                "half a login is configured",
                subject=f"Earthdata Login {self._url}",
                found=f"{lacking} not set",
                action=f"set {VARIABLES}",
            )
        return None

    def fetch(self) -> Token | None:
        """Return a token of the account."""
        account = self.account()
        return find_or_create_token(self._url, account) if account else None


class NetrcTokens(AccountTokens):
    """Tokens for the user of a netrc file: ``machine urs.earthdata.nasa.gov login … password …``."""

    def __init__(self, url: str) -> None:
        super().__init__(url, None, None)
        self.origin = f"the netrc file {_shown(netrc_path())}"

    def account(self) -> Account | None:
        """Return the entry of the login server's host; None where there is no file or no entry."""
        path, host = netrc_path(), urlsplit(self._url).hostname or ""
        try:
            found = netrc.netrc(path).authenticators(host)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except netrc.NetrcParseError as error:
            # The parser's own words may hold a password.
            raise AuthError(
                "the netrc file cannot be read",
                subject=f"{_shown(path)}, line {error.lineno}",
                action="correct it: machine <host> login <user> password <password>",
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise AuthError(
                "the netrc file cannot be read",
                subject=_shown(path),
                found=type(error).__name__,
                action="give yourself the right to read it, as plain text",
            ) from None
        if found is None or not found[0] or not found[2]:
            return None
        return Account(username=found[0], password=Secret(found[2]), origin=self.origin)


def netrc_path() -> Path:
    """Return the netrc file: ``NETRC``, else ``~/.netrc``."""
    named = os.environ.get("NETRC")
    return Path(named) if named else Path.home() / ".netrc"


def _shown(path: Path) -> str:
    try:
        return f"~/{path.relative_to(Path.home())}"
    except (ValueError, RuntimeError):
        return str(path)


def find_or_create_token(url: str, account: Account) -> Token | None:
    """Return a token of an account, an existing one where there is one; None where the account can have no more.

    Raises:
        AuthError: User or password is wrong, or the account may not have tokens.
        TransferError: The server does not answer, or not in its protocol.
    """
    where = f"{url}/api/users/find_or_create_token"
    basic = httpx.BasicAuth(account.username, account.password.reveal())
    answer = ask("POST", where, auth=basic, headers={"accept": "application/json"})
    if answer.status_code in {401, 403}:
        said = _json(answer)
        if "max_token" in str(said.get("error")):
            return None
        raise wrong_password(url, account, f"status {answer.status_code}")
    if is_page(answer) or answer.is_redirect:
        raise wrong_password(url, account, "a login page instead of a token")
    body = _json(answer)
    text = body.get("access_token")
    if answer.status_code != 200 or not isinstance(text, str) or not text:
        raise TransferError(
            "the login server gives no token",
            subject=f"Earthdata Login {url}",
            found=f"status {answer.status_code}",
            action="run again later",
            retryable=answer.status_code >= 500,
        )
    return Token(secret=Secret(text), expires=expiry_of(body.get("expiration_date")))


def expiry_of(value: Any) -> datetime | None:
    """Return the end of a token's validity: the server writes a date, ``MM/DD/YYYY``."""
    if not isinstance(value, str):
        return None
    try:
        day = datetime.strptime(f"{value.strip()}+0000", "%m/%d/%Y%z")
    except ValueError:
        return parse_time(value)
    return day + timedelta(days=1)


def wrong_password(url: str, account: Account, found: str) -> AuthError:
    """Return the error for a refused user and password."""
    return AuthError(
        "Earthdata Login refuses user and password",
        subject=f"Earthdata Login {url}",
        found=f"{found}, for the login from {account.origin}",
        action=f"check {account.origin}; they are those of {url}",
    )


def ask(
    method: str,
    url: str,
    *,
    auth: httpx.Auth | None = None,
    headers: Mapping[str, str] | None = None,
    cookies: httpx.Cookies | None = None,
) -> httpx.Response:
    """Return the answer to one request, as it is: redirects are not followed; 429 and 5xx are tried again.

    Raises:
        TransferError: No connection, or a 429 or 5xx to the last.
    """
    failure: GeostackError | None = None
    for attempt in range(1, ATTEMPTS + 1):
        wait = min(LONGEST_WAIT_S, 0.5 * 2.0 ** (attempt - 1))
        try:
            with httpx.Client(
                timeout=TIMEOUT_S,
                verify=trust(),
                trust_env=False,
                follow_redirects=False,
                cookies=cookies,
                event_hooks=logins.HOOKS,
            ) as client:
                answer = client.request(method, url, auth=auth, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            failure = _unavailable(url, type(error).__name__)
        else:
            if answer.status_code not in _RETRIED:
                return answer
            failure = _unavailable(url, f"status {answer.status_code}")
            asked = answer.headers.get("retry-after", "")
            if asked.isdecimal():
                wait = min(LONGEST_WAIT_S, float(asked))
        if attempt < ATTEMPTS:
            time.sleep(wait)
    assert failure is not None
    raise failure


def is_page(answer: httpx.Response) -> bool:
    """Return whether this is a web page."""
    kind = answer.headers.get("content-type", "").lower()
    return "html" in kind or answer.content[:200].lstrip().lower().startswith((b"<!doctype", b"<html"))


def now() -> datetime:
    """Return the time, UTC."""
    return datetime.now(UTC)


def _unavailable(url: str, found: str) -> TransferError:
    parts = urlsplit(url)
    return TransferError(
        "the login server does not answer",
        subject=f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}",
        found=f"{found}, in each of {ATTEMPTS} attempts",
        action="run again later",
        retryable=True,
    )


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        value = answer.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
