"""DLR's two servers behind the catalog: the CAS login form, and the download server that asks for it.

As found on the real ones: a file without a session leads to ``<cas>/login?service=<file>``; the page there has two
forms, and the second one hands over to another identity provider; the password is posted with a one-time token; the
ticket in the redirect back works once, within seconds; the download server then sets its cookie.  A wrong password is
a 401 with the form again; missing rights and an unaccepted usage policy are pages too.
"""

from __future__ import annotations

import html
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from geostack_pipeline.sandbox.dialects.base import StoredObject
from geostack_pipeline.sandbox.server.files import answer_file

USERNAME = "sandbox-enmap"
WITHOUT_RIGHTS = "sandbox-norights"
"""An account that is not subscribed to the EnMAP Access Service."""
WITHOUT_POLICY = "sandbox-nopolicy"
"""An account that has not accepted the usage policy."""
PASSWORD = "sandbox-dlr-Pa55&word+"  # noqa: S105 - opens nothing but the sandbox
COOKIE = "MOD_AUTH_CAS_S"
TICKET_S = 10.0

_PAGE = """<!DOCTYPE html><html lang="en">

<head>
    <meta charset="UTF-8" />
    <title>{title}</title>
    <style>{style}</style>
</head>
<body>{body}</body></html>
"""
# A real page's head is long: what it asks for does not stand within its first bytes.
_STYLE = " ".join(f".mdc-{number} {{ margin: {number}px; }}" for number in range(60))


def _page(title: str, body: str, status: int = 200) -> Response:
    return HTMLResponse(_PAGE.format(title=title, style=_STYLE, body=body), status)


@dataclass
class DlrLogin:
    """Tokens, tickets and sessions of both servers."""

    cas: str
    """Address of the login server, ``…/eoc/auth``."""
    files_at: str
    """Address of the download server."""
    files: Mapping[str, StoredObject]
    """Path -> file."""
    basic: bool = True
    """Whether the download server takes Basic; without, it answers 403 as the real one does to most."""
    _executions: dict[str, str] = field(default_factory=dict)
    _tickets: dict[str, tuple[str, float]] = field(default_factory=dict)
    _sessions: set[str] = field(default_factory=set)
    _granting: dict[str, str] = field(default_factory=dict)

    # -- the login server -----------------------------------------------------------------------------

    def cas_app(self) -> Starlette:
        """Return the login server."""
        base = urlsplit(self.cas).path
        app = Starlette(
            routes=[
                Route(f"{base}/login", self._show_form, methods=["GET"]),
                Route(f"{base}/login", self._take_form, methods=["POST"]),
            ]
        )
        app.state.forget_logins = self.revoke
        return app

    async def _show_form(self, request: Request) -> Response:
        service = request.query_params.get("service", "")
        if not self._known(service):
            return _page("Application Not Authorized", "<h2>Application Not Authorized to Use CAS</h2>", 403)
        user = self._granting.get(request.cookies.get("TGC", ""))
        return self._form() if user is None else self._grant(user, service)

    async def _take_form(self, request: Request) -> Response:
        service = request.query_params.get("service", "")
        sent = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        if not self._known(service):
            return _page("Application Not Authorized", "<h2>Application Not Authorized to Use CAS</h2>", 403)
        if sent.get("_eventId") != "submit" or "client_name" in sent:
            # The other form's event: off to the other identity provider, the password unread.
            return RedirectResponse("https://eo-lab.example/realms/eolab/auth", 302)
        if self._executions.pop(sent.get("execution", ""), None) is None:
            return self._form("The login form has expired. Please try again.", 401)
        user, password = sent.get("username", ""), sent.get("password", "")
        if user not in {USERNAME, WITHOUT_RIGHTS, WITHOUT_POLICY} or password != PASSWORD:
            return self._form("Authentication attempt has failed.", 401)
        return self._grant(user, service)

    def _grant(self, user: str, service: str) -> Response:
        if user == WITHOUT_RIGHTS:
            return _page(
                "EOC UMS: EnMAP Access Service",
                "<h2>Authentication Failure</h2><p>Service access denied due to missing privileges. You may see "
                "this notification because you are actually logged into another of our services with another "
                "account.</p>",
            )
        if user == WITHOUT_POLICY:
            return _page(
                "EOC UMS: EnMAP Access Service",
                f"<h2>Acceptable Usage Policy</h2><form method='post'><input type='hidden' name='execution' "
                f"value='{secrets.token_hex(16)}'><input type='hidden' name='_eventId' value='submit'>"
                "<button type='submit'>I accept</button></form>",
            )
        ticket = f"ST-{secrets.token_urlsafe(18)}"
        self._tickets[ticket] = (service, time.monotonic())
        joint = "&" if urlsplit(service).query else "?"
        answer = RedirectResponse(f"{service}{joint}{urlencode({'ticket': ticket})}", 302)
        granting = f"TGT-{secrets.token_urlsafe(18)}"
        self._granting[granting] = user
        answer.set_cookie("TGC", granting, path=urlsplit(self.cas).path, httponly=True)
        return answer

    def _form(self, failure: str = "", status: int = 200) -> Response:
        execution = secrets.token_hex(24)
        self._executions[execution] = "login"
        failed = f"<h2>Authentication Failure</h2><p>{html.escape(failure)}</p>" if failure else ""
        return _page(
            "EOC UMS: EnMAP Access Service",
            f"""{failed}<h2>EnMAP Access Service</h2>
<form action="login" method="post">
  <input name="username" value=""><input type="password" name="password" value="">
  <input type="checkbox" name="rememberMe" value="true">
  <input type="hidden" name="execution" value="{execution}">
  <input type="hidden" name="_eventId" value="submit">
</form>
<form action="{urlsplit(self.cas).path}/login" method="post">
  <input type="hidden" name="_csrf" value="{secrets.token_hex(8)}">
  <input type="hidden" name="client_name" value="eolab2_enmap-dl">
  <input type="hidden" name="_eventId" value="delegatedAuthenticationRedirect">
</form>""",
            status,
        )

    def _known(self, service: str) -> bool:
        return service.startswith(f"{self.files_at}/")

    # -- the download server --------------------------------------------------------------------------

    def files_app(self) -> Starlette:
        """Return the download server."""
        return Starlette(routes=[Route("/{path:path}", self._serve, methods=["GET", "HEAD"])])

    def _serve(self, request: Request) -> Response:
        path = request.path_params["path"]
        if any(fault.kind == "revoked-token" for fault in request.scope.get("sandbox.faults", ())):
            self.revoke()
        if "authorization" in request.headers:
            if not self.basic or not self._may(request.headers["authorization"]):
                return _page("403 Forbidden", "<h1>Forbidden</h1>", 403)
        elif request.cookies.get(COOKIE) not in self._sessions:
            return self._without_session(request, path)
        stored = self.files.get(path)
        if stored is not None:
            return answer_file(request, stored)
        if path.endswith("/"):
            return _page(f"Index of /{html.escape(path)}", "<h1>Index</h1>")
        return _page("404 Not Found", "<h1>Not Found</h1>", 404)

    def _without_session(self, request: Request, path: str) -> Response:
        ticket = request.query_params.get("ticket")
        url = f"{self.files_at}/{quote(path)}"
        if ticket is None:
            return RedirectResponse(f"{self.cas}/login?{urlencode({'service': url})}", 302)
        service, since = self._tickets.pop(ticket, ("", 0.0))
        if service != url or time.monotonic() - since > TICKET_S:
            return _page("401 Unauthorized", "<h1>Unauthorized</h1>", 401)
        session = secrets.token_hex(16)
        self._sessions.add(session)
        answer = RedirectResponse(url, 302)
        answer.set_cookie(COOKIE, session, path="/ENMAP", httponly=True)
        return answer

    def _may(self, header: str) -> bool:
        import base64  # noqa: PLC0415

        pair = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
        return header == f"Basic {pair}"

    def revoke(self) -> None:
        """End all sessions, as a restart of the server does."""
        self._sessions.clear()
        self._granting.clear()
