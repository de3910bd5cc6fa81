"""Servers of somebody else: one that listens, and one that sends everybody to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LOGIN_HEADERS = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "cookie",
        "x-amz-security-token",
        "ocp-apim-subscription-key",
        "x-api-key",
    }
)
"""Headers that say who is asking."""


class Listener:
    """Remembers every request in full."""

    def __init__(self) -> None:
        self.port = 0
        self.redirect: str | None = None
        self.status = 307
        self.page = b'{"type":"FeatureCollection","features":[],"access_token":"x","expires_in":60}'
        self.kind = "application/json"
        self.requests: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        """Its address by name: a host other than the sandbox's, which goes by number."""
        return f"http://localhost:{self.port}"

    @property
    def own_url(self) -> str:
        """Its address by number, as the sandbox's servers have."""
        return f"http://127.0.0.1:{self.port}"

    def heard(self) -> str:
        """Return everything that it heard, as text."""
        return "\n".join(f"{path} {headers} {body!r}" for path, headers, body in self.requests)

    def credentials(self, secrets: set[str]) -> list[str]:
        """Return what it heard of logins: names of headers, and secrets by their first letters."""
        found = [name for _, headers, _ in self.requests for name in headers if name in LOGIN_HEADERS]
        text = self.heard()
        found += [f"{secret[:3]}…" for secret in secrets if secret in text]
        return found + [mark for mark in ("sig=", "ticket=", "X-Amz-Signature", "password=") if mark in text]


@contextmanager
def listening(redirect: str | None = None) -> Iterator[Listener]:
    """Serve on loopback: pages to those who ask, or a redirect to another server for whatever is asked."""
    heard = Listener()
    heard.redirect = redirect

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            heard.requests.append((f"{self.command} {self.path}", headers, self.rfile.read(length)))
            body = heard.page
            self.send_response(200 if heard.redirect is None else heard.status)
            if heard.redirect is not None:
                self.send_header("Location", heard.redirect)
            self.send_header("Content-Type", heard.kind)
            self.send_header("Last-Modified", "Sat, 01 Jun 2024 00:00:00 GMT")
            self.send_header("ETag", '"e"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_HEAD = do_CONNECT = _answer

        def log_message(self, *_: Any) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    heard.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
