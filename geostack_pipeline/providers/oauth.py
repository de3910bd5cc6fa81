"""OAuth2 client credentials: an id and a secret against a bearer token that is good for some minutes.

The secret leaves the process only in the body of a POST to the one token address that the provider names; redirects
are not followed.  A token is shared by everything in the process that logs in there as the same client.
"""

from __future__ import annotations

import json
import random
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import urlsplit

import httpx

from geostack_pipeline.errors import AuthError, CatalogUnavailableError, SettingsError
from geostack_pipeline.providers import logins
from geostack_pipeline.providers.credentials import Secret

TIMEOUT_S = 30.0
ATTEMPTS = 5
RETRY_AFTER_CAP_S = 120.0
"""Longest wait that one ``Retry-After`` is granted."""
EARLY_S = 60.0
"""A token is not used in its last minute, or in its last tenth where that is shorter: the clock of the service and
the way to it count too."""

UNSAID_LIFETIME_S = 300.0
"""How long a token is used whose lifetime the server does not say."""

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_MAX_ANSWER = 1 << 20


@dataclass
class _Held:
    """The token of one client at one address."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    token: Secret | None = None
    until: float = 0.0
    """Monotonic time from which it is not used any more."""


_held: dict[tuple[str, Secret, Secret], _Held] = {}
_held_lock = threading.Lock()


class ClientCredentials:
    """Tokens for one client; nothing is requested before the first :meth:`token`.

    Args:
        provider: Key of the provider, for messages.
        token_url: Where tokens are given: https, or http on loopback with ``allow_http``.
        client_id: Sent in the body of the token request only.
        client_secret: As the id.
        variables: Environment variables that hold id and secret, for messages.
        allow_http: Plain http, for a server on loopback.
        retry_after_unit_s: Seconds per unit of the server's ``Retry-After``.

    Raises:
        SettingsError: The address is no https URL.
    """

    def __init__(
        self,
        *,
        provider: str,
        token_url: str,
        client_id: Secret,
        client_secret: Secret,
        variables: tuple[str, str],
        allow_http: bool = False,
        retry_after_unit_s: float = 1.0,
    ) -> None:
        self._url = checked_url(token_url, subject=f"{provider} token address", allow_http=allow_http)
        self._provider = provider
        self._client_id = client_id
        self._client_secret = client_secret
        self._variables = variables
        self._unit_s = retry_after_unit_s
        with _held_lock:
            self._held = _held.setdefault((self._url, client_id, client_secret), _Held())

    def token(self) -> Secret:
        """Return a token that is valid for at least some seconds; asks for one at most once at a time.

        Raises:
            AuthError: The client is not known, or its secret is wrong.
            CatalogUnavailableError: The token server does not answer, or keeps answering 429 or 5xx.
        """
        with self._held.lock:
            if self._held.token is None or time.monotonic() >= self._held.until:
                self._held.token = None
                self._held.token, lifetime = self._ask()
                self._held.until = time.monotonic() + lifetime - min(EARLY_S, lifetime / 10.0)
            return self._held.token

    def headers(self) -> dict[str, str]:
        """Return the ``Authorization`` header with a valid token; raises as :meth:`token`."""
        return {"Authorization": f"Bearer {self.token().reveal()}"}

    def forget(self, refused: Secret | None = None) -> bool:
        """Drop the token after a service refused it; returns whether asking once more makes sense.

        Args:
            refused: The token that was refused: where another thread has already got a new one, that one is kept.
                None drops whatever there is.
        """
        with self._held.lock:
            if self._held.token is None:
                # Nothing was sent: it is the token server itself that refused, and it would again.
                return False
            if refused is None or self._held.token == refused:
                self._held.token = None
            return True

    def _ask(self) -> tuple[Secret, float]:
        """Return a new token and its lifetime in seconds."""
        seen = "no answer"
        with httpx.Client(
            trust_env=False,
            follow_redirects=False,
            timeout=TIMEOUT_S,
            verify=trust(),
            event_hooks=logins.HOOKS,
        ) as client:
            for attempt in range(1, ATTEMPTS + 1):
                asked: float | None = None
                try:
                    answer = client.post(
                        self._url,
                        data={
                            "grant_type": "client_credentials",
                            "client_id": self._client_id.reveal(),
                            "client_secret": self._client_secret.reveal(),
                        },
                        headers={"accept": "application/json"},
                    )
                except httpx.HTTPError as error:
                    seen = type(error).__name__
                else:
                    if answer.status_code not in _PASSING:
                        return self._read(answer)
                    seen = f"status {answer.status_code}"
                    asked = wait_asked_for(answer.headers, self._unit_s)
                if attempt < ATTEMPTS:
                    pause(attempt, asked)
        raise CatalogUnavailableError(
            "the token server is not available",
            subject=f"{self._provider} login at {_place(self._url)}",
            found=f"{seen}, in each of {ATTEMPTS} attempts",
            action="run again later; what is stored stays as it is",
            retryable=True,
        )

    def _read(self, answer: httpx.Response) -> tuple[Secret, float]:
        try:
            said = json.loads(answer.content[:_MAX_ANSWER])
        except (ValueError, RecursionError):
            said = None
        if answer.status_code == 200 and isinstance(said, dict):
            token, lifetime = said.get("access_token"), said.get("expires_in")
            if isinstance(token, str) and token and token.isascii() and token.isprintable():
                if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or not lifetime > 0:
                    lifetime = UNSAID_LIFETIME_S
                return Secret(token), float(lifetime)
        names = " and ".join(self._variables)
        if answer.status_code in {400, 401, 403}:
            # The code only: a description may repeat what was sent.
            code = said.get("error") if isinstance(said, dict) else None
            shown = f" ({code[:40]})" if isinstance(code, str) and code.replace("_", "").isalnum() else ""
            raise AuthError(
                "the login was refused",
                subject=f"{self._provider} login at {_place(self._url)}",
                found=f"status {answer.status_code}{shown}",
                action=f"check {names}; a client may have been deleted or have expired (docs/providers)",
            )
        raise AuthError(
            "the token server answers with something else than a token",
            subject=f"{self._provider} login at {_place(self._url)}",
            found=f"status {answer.status_code}, {answer.headers.get('content-type', 'no content type')[:60]}",
            action=f"check that the address of the token server is right; {names} were sent nowhere else",
        )


def checked_url(url: str, *, subject: str, allow_http: bool) -> str:
    """Return an address that a secret may be sent to, or raise ``SettingsError``: https, or http on loopback."""
    parts = urlsplit(url)
    loopback = parts.hostname in {"127.0.0.1", "localhost", "::1"}
    right = parts.scheme == "https" or (parts.scheme == "http" and allow_http and loopback)
    if not (right and parts.hostname) or "@" in parts.netloc or parts.query or parts.fragment:
        raise SettingsError(
            "no address for a login",
            subject=subject,
            found=f"{parts.scheme or 'no scheme'}://{parts.hostname or ''}",
            action="use https (plain http is for servers on loopback, with allow_http), without user, query or fragment",
        )
    return url


def wait_asked_for(headers: Mapping[str, str], unit_s: float = 1.0) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, at most two minutes; None where it gives no number."""
    try:
        asked = float(headers.get("retry-after", "")) * unit_s
    except ValueError:
        return None
    return min(asked, RETRY_AFTER_CAP_S) if asked >= 0.0 else None


def pause(attempt: int, asked: float | None) -> None:
    """Wait before attempt ``attempt + 1``: as long as was asked for, and a random time that doubles (full jitter)."""
    own = random.uniform(0.1, min(10.0, 0.5 * 2.0 ** (attempt - 1)))  # noqa: S311 - no secret
    time.sleep(max(own, asked or 0.0))


@cache
def trust() -> ssl.SSLContext:
    """Return the TLS settings of all logins: reading the certificates takes longer than a request."""
    return httpx.create_ssl_context()


def _place(url: str) -> str:
    return urlsplit(url).netloc
