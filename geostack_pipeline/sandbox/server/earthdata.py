"""NASA's Earthdata Login and the archive behind it, as one user meets them.

Three servers, each an origin of its own: the login server (``edl``: OAuth, tokens), the archive (``daac``: files by
redirect, keys for S3) and the place that redirects lead to (``cloudfront``: signed URLs).  A wrong password at the
login page is a web page with status 200; a request that brings a login to ``cloudfront`` is refused, as there.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

if TYPE_CHECKING:
    from geostack_pipeline.sandbox.dialects.base import StoredObject

USERNAME = "sandbox-user"
PASSWORD = "sandbox-edl-password-0123456789"  # noqa: S105 - opens a sandbox on loopback
TOKEN = "sandbox-edl-token-0123456789abcdefghijklmnop"  # noqa: S105 - as above
CLIENT = "sandbox-archive"
COOKIE = "asf-urs"
SIGNED_FOR_S = 3600.0
KEYS_FOR_S = 3600.0

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_PAGE = (
    "<!DOCTYPE html><html><head><title>Earthdata Login</title></head><body><h1>Earthdata Login</h1><p>{text}</p>"
    "<form method='post'><input name='username'><input name='password' type='password'></form></body></html>"
)


@dataclass
class Logins:
    """Who is logged in; shared by the three servers."""

    edl: str
    daac: str
    cloudfront: str
    private: str
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    revoked: set[str] = field(default_factory=set)
    codes: set[str] = field(default_factory=set)
    cookies: set[str] = field(default_factory=set)
    tokens_per_user: int = 2
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def token(self) -> str | None:
        """Return the user's valid token, or a new one; None when the user has as many as allowed."""
        minted = sorted(self.tokens - self.revoked - {TOKEN})
        if minted:
            return minted[0]
        if len(self.tokens - self.revoked) >= self.tokens_per_user:
            return None
        made = f"sandbox-edl-minted-{secrets.token_hex(16)}"
        self.tokens.add(made)
        return made

    def revoke_all(self) -> None:
        """End all tokens and web logins."""
        self.revoked |= self.tokens
        self.cookies.clear()

    def knows(self, request: Request) -> bool:
        """Return whether a request to the archive brings a valid token or web login."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind == "Bearer" and token in self.tokens and token not in self.revoked:
            return True
        return request.cookies.get(COOKIE) in self.cookies

    def ended(self, request: Request) -> bool:
        """Return whether a request brings a token that was valid once."""
        return request.headers.get("authorization", "").partition(" ")[2] in self.revoked

    def authorize_url(self, state: str) -> str:
        """Return where the archive sends who is not logged in."""
        query = {
            "client_id": CLIENT,
            "response_type": "code",
            "redirect_uri": f"{self.daac}/login",
            "state": state,
        }
        return f"{self.edl}/oauth/authorize?{urlencode(query)}"

    def sign(self, path: str, expires: str) -> str:
        """Return the signature of a path until a moment."""
        return hmac.new(self.key, f"{path}?{expires}".encode(), hashlib.sha256).hexdigest()

    def signed_url(self, path: str) -> str:
        """Return a URL that gives a file to whoever has it, for a while."""
        expires = str(int(time.time() + SIGNED_FOR_S))
        query = {
            "A-userid": USERNAME,
            "Expires": expires,
            "Signature": self.sign(path, expires),
            "Key-Pair-Id": "K0",
        }
        return f"{self.cloudfront}{quote(path)}?{urlencode(query)}"


def make_edl_app(logins: Logins) -> ASGIApp:
    """Return the login server."""

    async def authorize(request: Request) -> Response:
        if not _basic_ok(request):
            text = "Invalid username or password" if "authorization" in request.headers else "Please log in"
            return HTMLResponse(_PAGE.format(text=text))
        target = request.query_params.get("redirect_uri", "")
        if request.query_params.get("client_id") != CLIENT or target != f"{logins.daac}/login":
            return JSONResponse({"error": "invalid_request"}, 400)
        code = secrets.token_hex(16)
        logins.codes.add(code)
        query = urlencode({"code": code, "state": request.query_params.get("state", "")})
        return RedirectResponse(f"{target}?{query}", 302)

    async def find_or_create(request: Request) -> Response:
        if not _basic_ok(request):
            return _invalid()
        token = logins.token()
        if token is None:
            text = "Max token limit reached"
            return JSONResponse({"error": "max_token_limit", "error_description": text}, 403)
        ends = time.strftime("%m/%d/%Y", time.gmtime(time.time() + 60 * 86400))
        return JSONResponse({"access_token": token, "token_type": "Bearer", "expiration_date": ends})

    async def revoke(request: Request) -> Response:
        if not _basic_ok(request):
            return _invalid()
        token = request.query_params.get("token")
        if token is None:
            logins.revoke_all()
        else:
            logins.revoked.add(token)
        return Response(status_code=200)

    async def profile(_: Request) -> Response:
        return HTMLResponse(_PAGE.format(text="Please log in"))

    app = Starlette(
        routes=[
            Route("/oauth/authorize", authorize),
            Route("/api/users/find_or_create_token", find_or_create, methods=["POST"]),
            Route("/api/users/revoke_token", revoke, methods=["POST"]),
            Route("/profile", profile),
        ]
    )
    app.state.forget_logins = logins.revoke_all
    return app


def make_daac_app(
    logins: Logins, *, protected: str, public: str, private_buckets: tuple[str, ...]
) -> ASGIApp:
    """Return the archive: files below two folders, and keys for its buckets.

    Args:
        logins: Shared with the other servers.
        protected: Folder whose files need a login.
        public: Folder of files for everyone.
        private_buckets: Buckets that the keys open.
    """
    # The dialects import this module, and that one the dialects.
    from geostack_pipeline.sandbox.server.strict_bucket import issue_session  # noqa: PLC0415

    async def s3credentials(request: Request) -> Response:
        if not logins.knows(request):
            return RedirectResponse(logins.authorize_url("/s3credentials"), 307)
        return JSONResponse(await issue_session(logins.private, private_buckets, lifetime_s=KEYS_FOR_S))

    async def login(request: Request) -> Response:
        code, state = request.query_params.get("code", ""), request.query_params.get("state", "/")
        if code not in logins.codes or not state.startswith("/"):
            return HTMLResponse(_PAGE.format(text="The login did not work"), 400)
        logins.codes.discard(code)
        cookie = secrets.token_hex(24)
        logins.cookies.add(cookie)
        answer = RedirectResponse(f"{logins.daac}{state}", 301)
        answer.set_cookie(COOKIE, cookie, path="/", httponly=True)
        return answer

    async def file(request: Request) -> Response:
        path = request.url.path
        if path.startswith(f"/{protected}/") and not logins.knows(request):
            if logins.ended(request):
                return JSONResponse(
                    {"status_code": 401, "error_description": "Token expired or revoked"}, 401
                )
            return RedirectResponse(logins.authorize_url(path), 307)
        return RedirectResponse(logins.signed_url(path), 303)

    return Starlette(
        routes=[
            Route("/s3credentials", s3credentials),
            Route("/login", login),
            Route(f"/{protected}/{{path:path}}", file),
            Route(f"/{public}/{{path:path}}", file),
        ]
    )


def make_cloudfront_app(logins: Logins, files: Mapping[str, StoredObject]) -> ASGIApp:
    """Return the server of signed URLs; ``files`` by their path."""

    async def serve(request: Request) -> Response:
        path = request.url.path
        if "authorization" in request.headers or "cookie" in request.headers:
            text = "Only one auth mechanism allowed; a login was sent along with a signed URL"
            return Response(f"<Error><Code>InvalidArgument</Code><Message>{text}</Message></Error>", 400)
        expires = request.query_params.get("Expires", "")
        signature = request.query_params.get("Signature", "")
        good = hmac.compare_digest(signature.encode(), logins.sign(path, expires).encode())
        if not good or not expires.isdecimal() or int(expires) < time.time():
            return Response("<Error><Code>AccessDenied</Code></Error>", 403)
        stored = files.get(path.lstrip("/"))
        if stored is None:
            return Response("<Error><Code>NoSuchKey</Code></Error>", 404)
        return _answer(request, stored)

    return Starlette(routes=[Route("/{path:path}", serve)])


def _basic_ok(request: Request) -> bool:
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    if kind != "Basic":
        return False
    try:
        decoded = base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return False
    return hmac.compare_digest(decoded.encode(), f"{USERNAME}:{PASSWORD}".encode())


def _invalid() -> Response:
    text = "Invalid user credentials"
    return JSONResponse({"error": "invalid_credentials", "error_description": text}, 401)


def _answer(request: Request, stored: StoredObject) -> Response:
    data = stored.data if stored.path is None else stored.path.read_bytes()
    etag = f'"{stored.md5}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Last-Modified": "Sun, 30 Jun 2024 00:00:00 GMT"}
    if request.headers.get("if-match", etag) not in {etag, "*"}:
        return Response(status_code=412, headers=headers)
    status = 200
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    if match and (match[1] or match[2]):
        size = len(data)
        start = int(match[1]) if match[1] else max(0, size - int(match[2]))
        stop = min(size, int(match[2]) + 1) if match[1] and match[2] else size
        if start >= size or start >= stop:
            return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        data, status = data[start:stop], 206
    return Response(data, status, headers, stored.content_type)
