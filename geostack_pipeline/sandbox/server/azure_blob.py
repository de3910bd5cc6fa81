"""A small Azure blob server, path-style (``/<account>/<container>/<blob>``), that checks the token of every request.

It serves ``Get Blob`` and ``Get Blob Properties`` with ranges and conditions; whatever else is asked is refused as it is
with a token that may only read.  Errors are Azure's, as XML with ``x-ms-error-code``.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from xml.sax.saxutils import escape

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from geostack_pipeline.sandbox.dialects.base import StoredObject
from geostack_pipeline.sandbox.server.azure_sas import Account, RefusedError

_RANGE = re.compile(r"bytes=(\d+)-(\d*)", re.ASCII)
_MODIFIED = datetime(2024, 6, 30, tzinfo=UTC)
"""One fixed time: a world has no history."""
_READ = {"GET", "HEAD"}


def make_blob_app(
    accounts: Mapping[str, Account],
    blobs: Mapping[str, StoredObject],
    *,
    clock: Callable[[], datetime] | None = None,
) -> Starlette:
    """Return the server.

    Args:
        accounts: Name -> account, whose tokens are checked.
        blobs: ``<account>/<container>/<blob>`` -> object.
        clock: Returns the time, aware; None is the machine's clock.
    """
    now = clock or (lambda: datetime.now(UTC))
    containers = {tuple(path.split("/", 2)[:2]) for path in blobs}

    def find(request: Request) -> StoredObject:
        account, container, blob = (request.path_params[name] for name in ("account", "container", "blob"))
        if account not in accounts:
            raise RefusedError(400, "OutOfRangeInput", "One of the request inputs is out of range.")
        known = accounts[account]
        if any(fault.kind == "revoked-token" for fault in request.scope.get("sandbox.faults", ())):
            known.revoke()
        reads = request.method in _READ
        known.check(dict(request.query_params), container, "r" if reads else "w", now())
        if not reads or "comp" in request.query_params:
            raise RefusedError(405, "UnsupportedHttpVerb", "The resource doesn't support this operation.")
        if (account, container) not in containers:
            raise RefusedError(404, "ContainerNotFound", "The specified container does not exist.")
        stored = blobs.get(f"{account}/{container}/{blob}")
        if stored is None:
            raise RefusedError(404, "BlobNotFound", "The specified blob does not exist.")
        return stored

    def serve(request: Request) -> Response:
        try:
            return _answer(request, find(request))
        except RefusedError as error:
            return _refusal(request, error)

    routes = [
        Route(
            "/{account}/{container}/{blob:path}",
            serve,
            methods=["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"],
        )
    ]
    return Starlette(routes=routes)


def etag_of(stored: StoredObject) -> str:
    """Return an object's ETag in Azure's form."""
    return f'"0x{stored.md5[:15].upper()}"'


def _answer(request: Request, stored: StoredObject) -> Response:
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag_of(stored),
        "Last-Modified": format_datetime(_MODIFIED, usegmt=True),
        "Content-Type": stored.content_type,
        "x-ms-blob-type": "BlockBlob",
        **_common(request),
    }
    if not _may_be_sent(request, stored):
        return Response(status_code=304, headers=headers)
    # obstore and the SDKs send either; x-ms-range counts where both are there
    asked = request.headers.get("x-ms-range") or request.headers.get("range") or ""
    match = _RANGE.fullmatch(asked)
    start, end, status = 0, stored.size, 200
    if match is not None and (not match[2] or int(match[2]) >= int(match[1])):
        start = int(match[1])
        end = min(stored.size, int(match[2]) + 1) if match[2] else stored.size
        if start >= stored.size:
            raise RefusedError(416, "InvalidRange", "The range specified is invalid for the current size.")
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{stored.size}"
    headers["Content-Length"] = str(end - start)
    body = b"" if request.method == "HEAD" else _read(stored, start, end)
    return Response(body, status, headers=headers, media_type=None)


def _may_be_sent(request: Request, stored: StoredObject) -> bool:
    """Return whether the conditions hold: False is 304; raises where the answer is 412."""
    tag = etag_of(stored)
    wanted, unwanted = request.headers.get("if-match"), request.headers.get("if-none-match")
    since, until = request.headers.get("if-modified-since"), request.headers.get("if-unmodified-since")
    if wanted is not None:
        met = wanted.strip() == "*" or tag in [each.strip() for each in wanted.split(",")]
    else:
        met = until is None or parsedate_to_datetime(until) >= _MODIFIED
    if not met:
        raise RefusedError(
            412, "ConditionNotMet", "The condition specified using HTTP conditional header(s) is not met."
        )
    if unwanted is not None:
        return unwanted.strip() != "*" and tag not in [each.strip() for each in unwanted.split(",")]
    return since is None or parsedate_to_datetime(since) < _MODIFIED


def _read(stored: StoredObject, start: int, end: int) -> bytes:
    if stored.path is None:
        return stored.data[start:end]
    with stored.path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def _common(request: Request) -> dict[str, str]:
    return {
        "Server": "Windows-Azure-Blob/1.0 Microsoft-HTTPAPI/2.0",
        "x-ms-request-id": secrets.token_hex(16),
        "x-ms-version": request.headers.get("x-ms-version", request.query_params.get("sv", "2021-06-08")),
    }


def _refusal(request: Request, error: RefusedError) -> Response:
    common = _common(request)
    detail = f"{error.message}\nRequestId:{common['x-ms-request-id']}\nTime:{datetime.now(UTC).isoformat()}"
    body = (
        '\N{ZERO WIDTH NO-BREAK SPACE}<?xml version="1.0" encoding="utf-8"?>'
        f"<Error><Code>{error.code}</Code><Message>{escape(detail)}</Message></Error>"
    ).encode()
    headers = {**common, "Content-Type": "application/xml", "x-ms-error-code": error.code}
    if request.method == "HEAD":
        # The length is that of no body: clients would wait for one.
        return Response(status_code=error.status, headers=headers)
    return Response(body, error.status, headers=headers)
