"""A file server and a CAS login server on loopback, each as strange as a test wants it; it keeps what it was sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

EXECUTION = "one-time-token-1"


@dataclass
class Answer:
    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    cookies: tuple[str, ...] = ()


@dataclass
class Seen:
    method: str
    path: str
    query: dict[str, list[str]]
    cookie: str
    authorization: str
    form: dict[str, list[str]]
    text: str
    """Everything that was sent, for looking for secrets."""


Rule = Callable[[Seen], Answer]


class Server:
    """One origin; ``rule`` answers, ``seen`` remembers."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.seen: list[Seen] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
                parts = urlsplit(self.path)
                seen = Seen(
                    method=self.command,
                    path=parts.path,
                    query=parse_qs(parts.query),
                    cookie=self.headers.get("cookie") or "",
                    authorization=self.headers.get("authorization") or "",
                    form=parse_qs(body, keep_blank_values=True),
                    text=f"{self.path}\n{self.headers}\n{body}",
                )
                outer.seen.append(seen)
                answer = outer.rule(seen)
                data = answer.body.encode()
                self.send_response(answer.status)
                for name, value in {
                    "Content-Type": "text/html",
                    "Content-Length": str(len(data)),
                    **answer.headers,
                }.items():
                    self.send_header(name, value)
                for cookie in answer.cookies:
                    self.send_header("Set-Cookie", cookie)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@contextmanager
def serving(*rules: Rule) -> Iterator[list[Server]]:
    servers = [Server(rule) for rule in rules]
    try:
        yield servers
    finally:
        for server in servers:
            server.close()


def login_page(extra: str = "") -> str:
    """The page with the two forms that was found on the real server."""
    return f"""<!DOCTYPE html><html lang="en">

<head><title>EOC UMS: EnMAP Access Service</title></head><body>{extra}
<h2>EnMAP Access Service</h2>
<form action="login" method="post">
  <input name="username" value=""><input type="password" name="password" value="">
  <input type="checkbox" name="rememberMe" value="true">
  <input type="hidden" name="execution" value="{EXECUTION}"><input type="hidden" name="_eventId" value="submit">
</form>
<form action="/eoc/auth/login" method="post">
  <input type="hidden" name="_csrf" value="c"><input type="hidden" name="client_name" value="eolab2_enmap-dl">
  <input type="hidden" name="_eventId" value="delegatedAuthenticationRedirect">
</form></body></html>"""


POLICY_PAGE = """<html><body><h2>EOC UMS: Geoservice Login</h2><h2>Acceptable Usage Policy</h2>
<form method="post"><input name="execution" value="second-token"><input name="_eventId" value="submit"></form>
</body></html>"""
RIGHTS_PAGE = """<html><body><h2>Authentication Failure</h2><p>Service access denied due to missing privileges. You may
see this notification because you are actually logged into another of our services.</p></body></html>"""
