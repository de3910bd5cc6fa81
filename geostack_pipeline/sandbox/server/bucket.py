"""Buckets on moto, readable by anyone, filled without moving a byte.

Putting 0.3 GB through boto3 takes about ten seconds at every start.  The objects are files already, so keys
are registered in moto's own store, each reading its file when it is asked for.  Requests go through moto's real
S3 code: signatures, policies, listings, ranges, conditions and errors are moto's.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

import anyio.to_thread
from starlette.types import ASGIApp, Receive, Scope, Send

ACCOUNT = "123456789012"
REGION = "us-west-2"
READ_ACTIONS = ("s3:GetObject", "s3:HeadObject", "s3:ListBucket")
"""What reading is, in moto's words."""
_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class Stored(Protocol):
    """What is known of an object: :class:`~geostack_pipeline.sandbox.dialects.base.StoredObject`."""

    @property
    def content_type(self) -> str: ...  # noqa: D102

    @property
    def size(self) -> int: ...  # noqa: D102

    @property
    def md5(self) -> str: ...  # noqa: D102

    @property
    def path(self) -> Path | None: ...  # noqa: D102

    @property
    def data(self) -> bytes: ...  # noqa: D102


def make_bucket_app(buckets: Mapping[str, Mapping[str, Stored]]) -> ASGIApp:
    """Return an ASGI application that is S3 with these buckets, path-style, anonymous reads allowed."""
    register(buckets)
    for name in buckets:
        # moto checks HEAD as an action of its own; on S3 it is part of GetObject.
        statement = {
            "Effect": "Allow",
            "Principal": "*",
            "Action": list(READ_ACTIONS),
            "Resource": [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"],
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        _backend().put_bucket_policy(name, policy.encode())
    return s3_application(read_only=True)


def s3_application(*, read_only: bool) -> ASGIApp:
    """Return moto's S3 as an ASGI application; ``read_only`` denies what would write before moto sees it."""
    # Imported here because it takes more than a second, and only the server's process needs it.
    from moto.moto_server.werkzeug_app import create_backend_app  # noqa: PLC0415

    return _FromWsgi(create_backend_app("s3"), read_only=read_only)


def _backend() -> Any:
    from moto.s3.models import s3_backends  # noqa: PLC0415 - see above

    return s3_backends[ACCOUNT]["aws"]


def register(buckets: Mapping[str, Mapping[str, Stored]]) -> None:
    """Put objects into buckets of this process's moto, without reading them; buckets that are not there are made."""
    from moto.s3.models import FakeKey  # noqa: PLC0415 - see above

    class FileKey(FakeKey):
        """A key whose value stays where it is until it is read."""

        def __init__(self, name: str, stored: Stored, bucket: str) -> None:
            super().__init__(
                name, b"", account_id=ACCOUNT, region_name=REGION, etag=stored.md5, bucket_name=bucket
            )
            self._value_buffer.close()
            self._stored = stored
            self.contentsize = stored.size
            # One fixed time: a world has no history, and listings should not differ between starts.
            self.last_modified = datetime(2024, 6, 30, tzinfo=UTC).replace(tzinfo=None)
            self._metadata["Content-Type"] = stored.content_type

        @property
        def value(self) -> bytes:
            stored = self._stored
            return stored.data if stored.path is None else stored.path.read_bytes()

        @value.setter
        def value(self, new_value: bytes) -> None:
            # The constructor sets an empty value; objects of the world are never written.
            self.contentsize = len(new_value)

    for name, objects in buckets.items():
        there = _backend().buckets
        bucket = there[name] if name in there else _backend().create_bucket(name, REGION)
        for key, stored in objects.items():
            bucket.keys[key] = FileKey(key, stored, name)


class _FromWsgi:
    """A WSGI application as ASGI: one thread per request, bodies whole.

    moto's own server closes the connection after each answer; behind this one clients keep theirs, and the
    log and the faults are the same for catalogs and buckets.
    """

    def __init__(self, app: Any, *, read_only: bool) -> None:
        self._app = app
        self._read_only = read_only
        self._limit = anyio.CapacityLimiter(16)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if self._read_only and scope["method"] not in {"GET", "HEAD"}:
            # moto lets anyone write into a bucket; public buckets do not.
            headers = [(b"content-type", b"application/xml"), (b"content-length", str(len(_DENIED)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": _DENIED})
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, headers, answer = await anyio.to_thread.run_sync(self._call, scope, body, limiter=self._limit)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer})

    def _call(self, scope: Scope, body: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        answered: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
            answered[:] = [status, headers]
            return io.BytesIO().write

        chunks = self._app(_environ(scope, body), start_response)
        try:
            answer = b"".join(chunks)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        status, headers = answered
        kept = [
            (name.lower().encode("latin-1"), str(value).encode("latin-1"))
            for name, value in headers
            if name.lower() != "connection"
        ]
        return int(status.split()[0]), kept, answer


def _environ(scope: Scope, body: bytes) -> dict[str, Any]:
    host, port = scope["server"]
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(scope["raw_path"].decode("latin-1").partition("?")[0], encoding="latin-1"),
        "RAW_URI": scope["raw_path"].decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": scope["client"][0] if scope.get("client") else "127.0.0.1",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name == "content-type":
            environ["CONTENT_TYPE"] = value
        elif name != "content-length":
            environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
    return environ


def isolate_moto() -> None:
    """Keep moto to itself: fake credentials in this process, no lookups elsewhere."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "MOTO_", "S3_"))]:
        del os.environ[name]
    os.environ.update(
        AWS_ACCESS_KEY_ID="sandbox",
        AWS_SECRET_ACCESS_KEY="sandbox",  # noqa: S106 - moto wants some value
        AWS_EC2_METADATA_DISABLED="true",
        MOTO_IAM_LOAD_MANAGED_POLICIES="false",
    )
