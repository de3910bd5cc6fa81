"""A folder of objects over HTTP with ranges, entity tags and conditions; the kernel sends the bytes."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from benchmarks.web import Answer, Request, Server, options

_RANGE = re.compile(r"bytes=(\d+)-(\d*)$")


class Objects:
    """Answers GET and HEAD for the files of one folder."""

    def __init__(self, folder: Path, latency_s: float) -> None:
        self._folder = folder
        self._latency_s = latency_s

    async def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        path = self._folder / request.path.strip("/")
        if request.method not in {"GET", "HEAD"} or ".." in request.path or not path.is_file():
            return Answer(status=404)
        status = path.stat()
        size, etag = status.st_size, f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        if request.headers.get("if-match", etag) != etag:
            return Answer(status=412)
        headers = {
            "etag": etag,
            "accept-ranges": "bytes",
            "content-type": "application/octet-stream",
            "last-modified": "Sat, 01 Jun 2024 00:00:00 GMT",
        }
        asked = _RANGE.match(request.headers.get("range", ""))
        if asked is None:
            return Answer(headers=headers, file=path, length=size)
        start = int(asked[1])
        stop = min(size, int(asked[2]) + 1 if asked[2] else size)
        headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
        return Answer(status=206, headers=headers, file=path, start=start, length=stop - start)


if __name__ == "__main__":
    chosen = options(folder="", latency=0.0)
    asyncio.run(Server(Objects(Path(chosen.folder), chosen.latency)).serve())
