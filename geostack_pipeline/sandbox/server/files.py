"""Files as a plain web server gives them: ranges, ETags, conditions; who may have them is decided before."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime

from starlette.requests import Request
from starlette.responses import Response

from geostack_pipeline.sandbox.dialects.base import StoredObject

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_MODIFIED = format_datetime(datetime(2024, 6, 30, tzinfo=UTC), usegmt=True)
"""One fixed time: a world has no history."""


def answer_file(request: Request, stored: StoredObject) -> Response:
    """Return the answer to a GET or HEAD of a file: whole, a part (206), unchanged (304), changed (412) or 416."""
    tag = f'"{stored.md5}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": tag,
        "Last-Modified": _MODIFIED,
        "Content-Type": stored.content_type,
    }
    wanted, unwanted = request.headers.get("if-match"), request.headers.get("if-none-match")
    if wanted is not None and tag not in _tags(wanted):
        return Response(status_code=412, headers=headers)
    if unwanted is not None and tag in _tags(unwanted):
        return Response(status_code=304, headers=headers)
    start, end, status = 0, stored.size, 200
    match = _RANGE.fullmatch(request.headers.get("range", "")) if request.method == "GET" else None
    if match is not None and (match[1] or match[2]):
        if match[1]:
            start = int(match[1])
            end = min(stored.size, int(match[2]) + 1) if match[2] else stored.size
        else:
            start = max(0, stored.size - int(match[2]))
        if start >= end:
            return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{stored.size}"})
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{stored.size}"
    headers["Content-Length"] = str(end - start)
    body = b"" if request.method == "HEAD" else _read(stored, start, end)
    return Response(body, status, headers=headers, media_type=None)


def _tags(text: str) -> set[str]:
    return {part.strip() for part in text.split(",")}


def _read(stored: StoredObject, start: int, end: int) -> bytes:
    if stored.path is None:
        return stored.data[start:end]
    with stored.path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)
