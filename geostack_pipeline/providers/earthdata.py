"""Earthdata Login: who asks NASA's archives, in the two forms they take.

Over HTTPS a request carries a bearer token, or the cookie of a web login; inside AWS's us-west-2, S3 requests are signed
with keys that live for an hour, given out for the same login.  One login is shared by all providers of a process that
name the same servers and the same user.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from geostack_pipeline.errors import AuthError, GeostackError, TransferError
from geostack_pipeline.providers.coerce import parse_time
from geostack_pipeline.providers.credentials import CredentialField, Credentials, Secret
from geostack_pipeline.providers.earthdata_tokens import (
    VARIABLES,
    AccountTokens,
    GivenToken,
    NetrcTokens,
    Token,
    TokenSource,
    ask,
    is_page,
    now,
    wrong_password,
)

FIELDS = (
    CredentialField(
        name="token",
        variable="EARTHDATA_TOKEN",
        purpose="a bearer token of Earthdata Login, made at https://urs.earthdata.nasa.gov/profile",
        required=False,
    ),
    CredentialField(
        name="username",
        variable="EARTHDATA_USERNAME",
        purpose="the user of an account made at https://urs.earthdata.nasa.gov/users/new",
        required=False,
    ),
    CredentialField(
        name="password", variable="EARTHDATA_PASSWORD", purpose="that user's password", required=False
    ),
)
"""The login of both EMIT providers; a netrc file does instead."""

EARLY = timedelta(minutes=1)
"""A token is renewed this long before it ends."""
KEYS_EARLY = timedelta(minutes=10)
"""S3 keys are renewed this long before they end (at most a quarter of their life), so that a long transfer survives."""
YOUNG = timedelta(minutes=5)
"""S3 keys this new that are refused are not at fault: the requests come from outside the region."""
S3_REST = timedelta(minutes=10)
"""How long S3 is tried last after it was refused; then it is tried first again."""
_HOPS = 6


@dataclass(frozen=True, kw_only=True)
class S3Keys:
    """Keys for signing S3 requests, for about an hour."""

    access_key: str
    secret_key: Secret
    session_token: Secret
    expires: datetime
    got: datetime
    """When they were given out."""

    def good(self, moment: datetime) -> bool:
        """Return whether they live long enough for one more transfer."""
        return moment < self.expires - min(KEYS_EARLY, (self.expires - self.got) / 4)


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """What an HTTPS request to the archive carries."""

    header: str
    value: Secret
    origin: str
    expires: datetime | None = None


class KeyRing:
    """Hands the login's keys to one S3 store, when a request needs them, and knows which it handed out."""

    def __init__(self, login: EarthdataLogin) -> None:
        self._login = login
        self.keys: S3Keys | None = None

    def __call__(self) -> dict[str, Any]:
        """Return the keys in obstore's form; raises what :meth:`EarthdataLogin.s3_keys` raises."""
        keys = self.keys = self._login.s3_keys()
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key.reveal(),
            "token": keys.session_token.reveal(),
            "expires_at": keys.expires,
        }


class _Used(threading.local):
    """What this thread's last stores were opened with: that is what was refused when it asks for a renewal."""

    web: _Pass | None = None
    s3: KeyRing | None = None


class EarthdataLogin:
    """One user's login at one archive. Thread-safe; holds tokens in memory only.

    Args:
        login_url: The login server, ``https://urs.earthdata.nasa.gov``.
        archive_url: The archive, ``https://data.lpdaac.earthdatacloud.nasa.gov``.
        sources: Ways to a token, tried in this order.
        subject: Whose login it is, for messages.
    """

    def __init__(
        self, *, login_url: str, archive_url: str, sources: Sequence[TokenSource], subject: str
    ) -> None:
        self._login_url = login_url.rstrip("/")
        self._archive_url = archive_url.rstrip("/")
        self._sources = tuple(sources)
        self._subject = subject
        self._lock = threading.RLock()
        self._pass: _Pass | None = None
        self._refused: set[Secret] = set()
        self._keys: S3Keys | None = None
        self._s3_rests_until: datetime | None = None
        self._used = _Used()

    # -- HTTPS ----------------------------------------------------------------------------------------

    def headers(self) -> Mapping[str, str]:
        """Return the header of a request to the archive: ``Authorization``, or ``Cookie`` of a web login.

        HTTP clients drop both on the way to another host, where signed URLs lead.

        Raises:
            AuthError: No login is configured, or all that are were refused; names the variables.
            TransferError: The login server does not answer.
        """
        with self._lock:
            found = self._pass
            if found is None or (found.expires is not None and found.expires - EARLY <= now()):
                found = self._pass = self._log_in()
            self._used.web = found
            return {found.header: found.value.reveal()}

    def renew(self) -> bool:
        """Forget the pass that this thread's last request was refused with; whether there may be another."""
        with self._lock:
            refused = self._used.web or self._pass
            if refused is None:
                return False
            self._refused.add(refused.value)
            if self._pass is not None and self._pass.value != refused.value:
                return True  # another thread has renewed it already
            self._pass = None
            return any(
                not isinstance(source, GivenToken) and self._has_account(source) for source in self._sources
            )

    def _log_in(self) -> _Pass:
        tried: list[str] = []
        for source in self._sources:
            token = source.fetch()
            found = _bearer(token, source.origin) if token is not None else None
            if found is not None and found.value not in self._refused:
                return found
            if found is not None:
                tried.append(source.origin)
            elif (account := source.account()) is not None:
                # No token to be had for this account: log in as a browser does.
                found = self._web_login(account.username, account.password, source)
                if found.value not in self._refused:
                    return found
                tried.append(source.origin)
        if tried:
            raise AuthError(
                "the archive refuses the login",
                subject=f"{self._subject}, {self._archive_url}",
                found=f"the token from {' and the one from '.join(tried)} was not accepted: "
                "it has expired, was revoked, or belongs to another system",
                action=f"make a new token at {self._login_url}/profile and set EARTHDATA_TOKEN, "
                "or set EARTHDATA_USERNAME and EARTHDATA_PASSWORD",
            )
        raise AuthError(
            "no Earthdata login is configured",
            subject=self._subject,
            found="EARTHDATA_TOKEN, EARTHDATA_USERNAME and EARTHDATA_PASSWORD are not set, and "
            f"{self._netrc()} has no entry for {urlsplit(self._login_url).hostname}",
            action=f"set {VARIABLES}, or add the netrc entry; see docs/providers/cmr_stac.md",
        )

    def _netrc(self) -> str:
        origins = [source.origin for source in self._sources]
        return origins[-1] if origins and "netrc" in origins[-1] else "no netrc file"

    @staticmethod
    def _has_account(source: TokenSource) -> bool:
        try:
            return source.account() is not None
        except GeostackError:
            return False

    def _web_login(self, username: str, password: Secret, source: TokenSource) -> _Pass:
        """Return the cookie of the OAuth exchange: archive -> login server, which alone sees the password -> archive."""
        jar = httpx.Cookies()
        url, referred = f"{self._archive_url}/s3credentials", False
        for _ in range(_HOPS):
            at_login = _origin(url) == _origin(self._login_url)
            if not at_login and _origin(url) != _origin(self._archive_url):
                break
            auth = httpx.BasicAuth(username, password.reveal()) if at_login else None
            answer = ask("GET", url, auth=auth, cookies=None if at_login else jar)
            if not at_login:
                jar.update(answer.cookies)
            if answer.is_redirect:
                referred = referred or at_login
                url = urljoin(url, answer.headers.get("location", ""))
                continue
            account = source.account()
            if at_login and account is not None:
                raise wrong_password(self._login_url, account, f"status {answer.status_code}, no way back")
            if referred and answer.status_code == 200 and not is_page(answer) and len(jar):
                # Archive and login server are named by the settings: a cookie for the first goes to no other.
                text = "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar.jar)
                return _Pass(header="Cookie", value=Secret(text), origin=source.origin)
            break
        raise AuthError(
            "the web login at the archive does not end with a login",
            subject=f"{self._subject}, {self._archive_url}",
            found=f"with the login from {source.origin}",
            action=f"log in at {self._login_url} once, approve the archive's application and accept its terms of use",
        )

    # -- S3 -------------------------------------------------------------------------------------------

    def s3_keys(self) -> S3Keys:
        """Return keys for the archive's buckets, with enough life left for a transfer.

        Raises:
            AuthError: The login was refused, also after its renewal.
            TransferError: The archive does not answer; S3 is then tried last for a while.
        """
        with self._lock:
            if self._keys is None or not self._keys.good(now()):
                try:
                    self._keys = self._fetch_keys()
                except TransferError:
                    self._s3_rests_until = now() + S3_REST
                    raise
            return self._keys

    def key_ring(self) -> KeyRing:
        """Return a source of keys for one store, for obstore's ``credential_provider``; requests nothing yet."""
        ring = self._used.s3 = KeyRing(self)
        return ring

    def renew_s3(self) -> bool:
        """Return whether S3 is worth another try after it was refused.

        Keys that are no longer new are fetched again. New ones that are refused mean that the request comes from
        outside the region: then S3 rests, and HTTPS is tried first.
        """
        with self._lock:
            ring = self._used.s3
            refused = (ring.keys if ring is not None else None) or self._keys
            if refused is None:
                return False  # there were no keys to be had
            if self._keys is not None and self._keys is not refused:
                return True
            moment = now()
            if moment - refused.got < YOUNG and moment < refused.expires:
                self._s3_rests_until = moment + S3_REST
                return False
            self._keys = None
            return True

    @property
    def s3_rests(self) -> bool:
        """Whether S3 was refused or did not answer lately."""
        until = self._s3_rests_until
        return until is not None and now() < until

    def _fetch_keys(self) -> S3Keys:
        answer = self._ask_keys()
        if answer is None:
            # Refused: the token may have ended since it was fetched.
            self._used.web = self._pass
            if not self.renew():
                self._log_in()  # raises with what was refused
            answer = self._ask_keys()
        if answer is None:
            self.renew()
            raise AuthError(
                "the archive gives out no S3 keys for this login",
                subject=f"{self._subject}, {self._archive_url}/s3credentials",
                found="a redirect to the login page",
                action=f"check {VARIABLES}, and accept the archive's terms of use at {self._login_url}/profile",
            )
        return self._keys_of(answer)

    def _ask_keys(self) -> httpx.Response | None:
        """Return the archive's answer; None where it refuses the login."""
        answer = ask("GET", f"{self._archive_url}/s3credentials", headers=dict(self.headers()))
        refused = answer.is_redirect or answer.status_code in {401, 403} or is_page(answer)
        return None if refused else answer

    def _keys_of(self, answer: httpx.Response) -> S3Keys:
        try:
            body = answer.json()
            parts = [body[name] for name in ("accessKeyId", "secretAccessKey", "sessionToken", "expiration")]
        except (ValueError, KeyError, TypeError):
            parts = []
        expires = parse_time(parts[3]) if parts else None
        if answer.status_code != 200 or expires is None or not all(isinstance(part, str) for part in parts):
            raise TransferError(
                "the archive's S3 keys cannot be read",
                subject=f"{self._subject}, {self._archive_url}/s3credentials",
                found=f"status {answer.status_code}, {len(answer.content)} bytes",
                action="run again later",
                retryable=True,
            )
        return S3Keys(
            access_key=parts[0],
            secret_key=Secret(parts[1]),
            session_token=Secret(parts[2]),
            expires=expires,
            got=now(),
        )


_logins: dict[tuple[Any, ...], EarthdataLogin] = {}
_logins_lock = threading.Lock()


def shared_login(
    *,
    login_url: str,
    archive_url: str,
    credentials: Credentials,
    subject: str,
    sources: Sequence[TokenSource] | None = None,
) -> EarthdataLogin:
    """Return this process's login for these servers and this user; nothing is requested yet.

    Args:
        login_url: The login server.
        archive_url: The archive.
        credentials: ``token``, ``username``, ``password``: any of them.
        subject: Whose login it is, for messages.
        sources: Ways to a token; None is the given token, then user and password, then the netrc file.
    """
    ways = sources or (
        GivenToken(credentials.get("token")),
        AccountTokens(login_url, credentials.get("username"), credentials.get("password")),
        NetrcTokens(login_url),
    )
    key = (
        login_url,
        archive_url,
        subject,
        ways[-1].origin,
        *(credentials.get(field.name) for field in FIELDS),
    )
    with _logins_lock:
        if key not in _logins:
            _logins[key] = EarthdataLogin(
                login_url=login_url, archive_url=archive_url, sources=ways, subject=subject
            )
        return _logins[key]


def _bearer(token: Token, origin: str) -> _Pass:
    return _Pass(
        header="Authorization",
        value=Secret(f"Bearer {token.secret.reveal()}"),
        origin=origin,
        expires=token.expires,
    )


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
