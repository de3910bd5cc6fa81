"""The identity server of the Data Space, as far as Sentinel Hub's clients use it: OAuth2 client credentials."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from geostack_pipeline.sandbox.server.faults import Fault

TOKEN_PATH = "/auth/realms/CDSE/protocol/openid-connect/token"  # noqa: S105 - an address
CLIENT_ID = "sh-sandbox-client"
CLIENT_SECRET = "sandbox-secret-of-the-oauth-client"  # noqa: S105 - the sandbox tells it to everyone
LIFETIME_S = 600


class TokenBook:
    """The tokens that are good now; shared by the servers that give and that check them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}

    def issue(self, lifetime_s: float = LIFETIME_S) -> str:
        """Return a new token."""
        token = f"sandbox.{secrets.token_urlsafe(48)}"
        with self._lock:
            self._until[token] = time.monotonic() + lifetime_s
        return token

    def accepts(self, header: str | None) -> bool:
        """Tell whether an ``Authorization`` header holds a token that is good."""
        scheme, _, token = (header or "").partition(" ")
        with self._lock:
            return scheme.lower() == "bearer" and self._until.get(token, 0.0) > time.monotonic()

    def revoke(self, header: str | None) -> None:
        """Make the token of an ``Authorization`` header bad."""
        with self._lock:
            self._until.pop((header or "").partition(" ")[2], None)

    def revoke_all(self) -> int:
        """Make every token bad; return how many there were."""
        with self._lock:
            count = len(self._until)
            self._until.clear()
            return count


def faults_of(scope: Any) -> Sequence[Fault]:
    """Return the faults that a request meets."""
    faults: Sequence[Fault] = scope.get("sandbox.faults", ())
    return faults


def make_auth_app(tokens: TokenBook) -> Starlette:
    """Return the token endpoint, and ``POST /revoke``, which the real one does not have: every token is bad then."""

    async def token(request: Request) -> Response:
        if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return _refusal(415, "unsupported_media_type", "HTTP 415 Unsupported Media Type")
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        if form.get("grant_type") != "client_credentials":
            return _refusal(400, "unsupported_grant_type", "Unsupported grant_type")
        if form.get("client_id") != CLIENT_ID:
            return _refusal(401, "invalid_client", "Invalid client or Invalid client credentials")
        if form.get("client_secret") != CLIENT_SECRET:
            return _refusal(401, "unauthorized_client", "Invalid client or Invalid client credentials")
        short = next((fault for fault in faults_of(request.scope) if fault.kind == "short-token"), None)
        lifetime = LIFETIME_S if short is None else short.seconds or 2.0
        return JSONResponse(
            {
                "access_token": tokens.issue(lifetime),
                "expires_in": lifetime,
                "refresh_expires_in": 0,
                "token_type": "Bearer",
                "not-before-policy": 0,
                "scope": "email profile user-context",
            },
            headers={"Cache-Control": "no-store"},
        )

    async def revoke(_: Request) -> Response:
        return JSONResponse({"revoked": tokens.revoke_all()})

    app = Starlette(
        routes=[Route(TOKEN_PATH, token, methods=["POST"]), Route("/revoke", revoke, methods=["POST"])]
    )
    app.state.forget_logins = tokens.revoke_all
    return app


def _refusal(status: int, error: str, description: str) -> Response:
    return JSONResponse({"error": error, "error_description": description}, status)
