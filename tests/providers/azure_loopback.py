"""Azure on loopback for tests: our blob server or Azurite, a token server, and servers that answer as they are told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import obstore
import pytest
from obstore.store import AzureStore
from starlette.types import ASGIApp

from geostack_pipeline.sandbox.dialects.base import StoredObject
from geostack_pipeline.sandbox.server.azure_blob import make_blob_app
from geostack_pipeline.sandbox.server.azure_sas import Account, sign, time_text
from geostack_pipeline.sandbox.server.serving import address, listen, serve_all

ACCOUNT, CONTAINER = "sentinel2l2a01", "sentinel2-l2"
KEY = bytes(range(64))
BLOBS = {"13/T/DE/a.tif": bytes(range(256)) * 64, "13/T/DE/b c.txt": b"b", "empty": b""}
AZURITE = "3.35.0"


@contextlib.contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """Serve an application from a thread; gives its origin."""
    listener, stop, up = listen(0), threading.Event(), threading.Event()
    thread = threading.Thread(
        target=lambda: asyncio.run(serve_all([app], [listener], up.set, stop)), daemon=True
    )
    origin = address(listener)
    thread.start()
    assert up.wait(20)
    try:
        yield origin
    finally:
        stop.set()
        thread.join(10)


@dataclass
class Scripted:
    """A server that answers with what the script returns for the n-th request (from 1), and keeps what it was sent."""

    script: Callable[[int, str], tuple[int, Mapping[str, str], bytes]]
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def scripted(script: Callable[[int, str], tuple[int, Mapping[str, str], bytes]]) -> Iterator[Scripted]:
    """Serve a script on loopback."""
    server = Scripted(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            status, headers, body = server.script(len(server.requests), self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join(10)


@dataclass(frozen=True)
class Azure:
    """A running blob server with :data:`BLOBS` in one container."""

    url: str
    account: Account
    delegated: bool
    """Whether its tokens are signed with a delegated key, which can be revoked."""


@contextlib.contextmanager
def our_blobs(*, delegated: bool) -> Iterator[Azure]:
    """Run the sandbox's blob server."""
    account = Account(ACCOUNT, KEY)
    blobs = {
        f"{ACCOUNT}/{CONTAINER}/{key}": StoredObject(
            content_type="image/tiff",
            size=len(data),
            md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
            data=data,
        )
        for key, data in BLOBS.items()
    }
    with serving(make_blob_app({ACCOUNT: account}, blobs)) as url:
        yield Azure(url, account, delegated)


def azurite_program() -> str:
    """Return the path of ``azurite-blob``, installing it once per machine where npm works; skips where it does not."""
    named = os.environ.get("GEOSTACK_AZURITE") or shutil.which("azurite-blob")
    if named:
        return named
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("Azurite needs node and npm, which are not here")
    folder = Path(tempfile.gettempdir()) / f"geostack-azurite-{AZURITE}"
    program = folder / "node_modules" / ".bin" / "azurite-blob"
    if not program.is_file():
        folder.mkdir(exist_ok=True)
        command = [npm, "install", f"azurite@{AZURITE}", "--no-audit", "--no-fund", "--prefix", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=900)
        except (subprocess.SubprocessError, OSError) as error:
            pytest.skip(f"npm could not install azurite@{AZURITE}: {type(error).__name__}")
    return str(program)


@contextlib.contextmanager
def azurite_blobs(folder: Path) -> Iterator[Azure]:
    """Run Azurite with an account and a key of ours."""
    program = azurite_program()
    listener = listen(0)
    port = listener.getsockname()[1]
    listener.close()
    command = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    command += ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    named = {**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{base64.b64encode(KEY).decode()}"}
    process = subprocess.Popen(command, env=named, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        _fill(url)
        yield Azure(url, Account(ACCOUNT, KEY), delegated=False)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _fill(url: str) -> None:
    """Make the container with an account signature, and put the blobs with the key."""
    now = datetime.now(UTC)
    fields = {"sp": "c", "ss": "b", "srt": "c", "st": time_text(now - timedelta(hours=1))}
    fields |= {"se": time_text(now + timedelta(hours=1)), "sv": "2021-06-08"}
    order = ("sp", "ss", "srt", "st", "se", "sip", "spr", "sv", "ses")
    text = "\n".join([ACCOUNT, *(fields.get(name, "") for name in order), ""])
    query = {"restype": "container", **fields, "sig": sign(KEY, text)}
    ends = time.monotonic() + 60
    while True:
        try:
            answer = httpx.put(f"{url}/{ACCOUNT}/{CONTAINER}", params=query, trust_env=False, timeout=10)
            break
        except httpx.TransportError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.2)
    assert answer.status_code == 201, answer.text
    store = AzureStore(
        CONTAINER,
        account_name=ACCOUNT,
        access_key=base64.b64encode(KEY).decode(),
        endpoint=f"{url}/{ACCOUNT}",
        client_options={"allow_http": True},
    )
    for key, data in BLOBS.items():
        obstore.put(store, key, data)
