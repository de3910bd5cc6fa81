"""Sentinel Hub's Process API: what is asked for, as JSON and as an evalscript, and how it is fetched and checked.

One request makes one GeoTIFF of all wanted bands on an area's grid.  The service mosaics the tiles of the time span
and resamples by nearest neighbour; the evalscript writes ``reflectance * 10,000 + 1,000`` as 16-bit numbers (0: no
data), with ``harmonizeValues`` off, which in units of reflectance only means that negative values are not clamped.
"""

from __future__ import annotations

import itertools
import math
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from geostack_pipeline.errors import AuthError, GeostackError, IntegrityError, SettingsError, TransferError
from geostack_pipeline.providers.contract import PixelGrid, Rendered
from geostack_pipeline.providers.oauth import ClientCredentials, checked_url, pause, trust, wait_asked_for
from geostack_pipeline.providers.sentinel_hub_items import COLLECTION, METRES
from geostack_pipeline.storage.failures import storage_errors

RENDERING = "process-uint16-1"
"""Raised whenever the same request would mean other pixels."""

LARGEST_SIDE = 2500
"""Most columns and rows of one answer; larger areas are asked for in blocks."""

ATTEMPTS = 6
TIMEOUT = httpx.Timeout(180.0, connect=15.0)
MILLISECOND = 0.001
"""Unit of the service's ``Retry-After``, unlike the standard's seconds."""

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_MAX_PIXEL_BYTES = 64
_EPSG = re.compile(r"EPSG:(\d{4,6})", re.ASCII)


def evalscript(bands: Sequence[str]) -> str:
    """Return the script that the service runs per pixel: one output band per wanted band, in their order.

    Raises:
        SettingsError: A band that the collection does not have, or none at all.
    """
    unknown = [band for band in bands if band not in METRES]
    if unknown or not bands:
        raise SettingsError(
            "the Process API cannot make this band" if unknown else "no band is asked for",
            subject="sentinel_hub bands",
            found=", ".join(unknown) or None,
            action=f"choose among {', '.join(METRES)}",
        )
    inputs = ", ".join(f'"{band}"' for band in (*bands, "dataMask"))
    units = ", ".join(
        '"DN"' if band in {"SCL", "dataMask"} else '"REFLECTANCE"' for band in (*bands, "dataMask")
    )
    values = ", ".join(
        f"s.{band}" if band == "SCL" else f"Math.max(1, Math.round(s.{band} * 10000) + 1000)"
        for band in bands
    )
    nothing = ", ".join("0" for _ in bands)
    return "\n".join(
        (
            "//VERSION=3",
            "function setup() {",
            f"  return {{input: [{{bands: [{inputs}], units: [{units}]}}],",
            f'    output: {{bands: {len(bands)}, sampleType: "UINT16"}}}};',
            "}",
            "function evaluatePixel(s) {",
            f"  if (s.dataMask == 0) return [{nothing}];",
            f"  return [{values}];",
            "}",
            "",
        )
    )


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a grid that one request covers."""

    column: int
    row: int
    width: int
    height: int


def blocks(grid: PixelGrid) -> list[Block]:
    """Return the parts of a grid, as few as the service allows, of almost equal size, by row and column."""
    across, down = (_cuts(grid.width), _cuts(grid.height))
    return [
        Block(column=left, row=top, width=right - left, height=bottom - top)
        for top, bottom in down
        for left, right in across
    ]


def _cuts(size: int) -> list[tuple[int, int]]:
    parts = max(1, math.ceil(size / LARGEST_SIDE))
    edges = [round(size * part / parts) for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


def process_body(
    grid: PixelGrid, block: Block, bands: Sequence[str], start: datetime, end: datetime
) -> dict[str, Any]:
    """Return the JSON of one request.

    Args:
        grid: The area's grid; its CRS must be an EPSG code.
        block: Which part of it.
        bands: Canonical band names.
        start: First sensing time, UTC.
        end: Last sensing time, UTC.

    Raises:
        SettingsError: The grid's CRS is no EPSG code, or a band is unknown.
    """
    code = _EPSG.fullmatch(grid.crs)
    if code is None:
        raise SettingsError(
            "the Process API takes EPSG codes only",
            subject="sentinel_hub area grid",
            found=grid.crs[:80],
            action="give the area a crs of the form EPSG:<code>, or leave it out to take the UTM zone",
        )
    a, _, c, _, e, f = grid.transform
    west, north = c + a * block.column, f + e * block.row
    return {
        "input": {
            "bounds": {
                "bbox": [west, north + e * block.height, west + a * block.width, north],
                "properties": {"crs": f"http://www.opengis.net/def/crs/EPSG/0/{code[1]}"},
            },
            "data": [
                {
                    "type": COLLECTION,
                    "dataFilter": {
                        "timeRange": {"from": _time(start), "to": _time(end)},
                        "mosaickingOrder": "mostRecent",
                    },
                    "processing": {
                        "upsampling": "NEAREST",
                        "downsampling": "NEAREST",
                        "harmonizeValues": False,
                    },
                }
            ],
        },
        "output": {
            "width": block.width,
            "height": block.height,
            "responses": [{"identifier": "default", "format": {"type": "image/tiff"}}],
        },
        "evalscript": evalscript(bands),
    }


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def span(moments: Sequence[datetime]) -> tuple[datetime, datetime]:
    """Return the whole seconds around some sensing times."""
    first, last = min(moments).replace(microsecond=0), max(moments).replace(microsecond=0)
    return first, last + timedelta(seconds=1)


def processing_units(width: int, height: int, bands: int) -> float:
    """Return what a request costs: 512 x 512 pixels of three 16-bit bands are one unit.

    Sentinel Hub's definition of a processing unit; the smallest area factor is 0.01, the smallest cost 0.005.
    """
    return max(0.005, max(0.01, width * height / 512.0**2) * bands / 3.0)


@dataclass
class _Gate:
    """When the next request may go out: a spent limit is the account's, not one request's."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    until: float = 0.0

    def hold(self, seconds: float) -> None:
        with self.lock:
            self.until = max(self.until, time.monotonic() + seconds)

    def wait(self) -> None:
        while (left := self.until - time.monotonic()) > 0.0:
            time.sleep(left)


class ProcessApi:
    """Sends requests and checks what comes back; thread-safe.

    Args:
        provider: Key of the provider, for messages.
        url: Where requests are posted.
        login: Tokens.
        variables: Environment variables of the login, for messages.
        allow_http: Plain http, for a server on loopback.

    Raises:
        SettingsError: The address is no https URL.
    """

    def __init__(
        self,
        *,
        provider: str,
        url: str,
        login: ClientCredentials,
        variables: tuple[str, str],
        allow_http: bool = False,
    ) -> None:
        self._provider = provider
        self._url = checked_url(url, subject=f"{provider} Process API", allow_http=allow_http)
        self._login = login
        self._variables = variables
        self._gate = _Gate()

    def make(
        self, grid: PixelGrid, bodies: Sequence[tuple[Block, Mapping[str, Any]]], bands: int, dest: Path
    ) -> Rendered:
        """Write the picture of a grid: one GeoTIFF of 16-bit bands, put together from its blocks.

        Raises:
            AuthError: The login is refused, lacks the right, or has no processing units left.
            TransferError: The service does not answer, or refuses the request.
            IntegrityError: What came is no GeoTIFF of the grid asked for.
        """
        moved = requests = 0
        empty = True
        parts: list[tuple[Block, Path]] = []
        try:
            for number, (block, body) in enumerate(bodies):
                part = dest if len(bodies) == 1 else dest.with_name(f"{dest.name}.{number}")
                parts.append((block, part))
                received, sent = self._fetch(body, part)
                moved, requests = moved + received, requests + sent
                empty = self._check(part, grid, block, bands) and empty
            if len(parts) > 1:
                _join(parts, grid, bands, dest)
        finally:
            for _, part in parts:
                if part != dest:
                    part.unlink(missing_ok=True)
        return Rendered(size=dest.stat().st_size, bytes_moved=moved, requests=requests, empty=empty)

    def _fetch(self, body: Mapping[str, Any], dest: Path) -> tuple[int, int]:
        """Write one answer to a file; returns bytes received and requests made."""
        output = body["output"]
        most = output["width"] * output["height"] * _MAX_PIXEL_BYTES + (1 << 20)
        moved = 0
        renewed = False
        seen = "no answer"
        attempt = requests = 0
        with httpx.Client(trust_env=False, follow_redirects=False, timeout=TIMEOUT, verify=trust()) as client:
            while attempt < ATTEMPTS:
                attempt += 1
                self._gate.wait()
                token = self._login.token()
                asked: float | None = None
                requests += 1
                try:
                    with client.stream(
                        "POST",
                        self._url,
                        json=body,
                        headers={"Authorization": f"Bearer {token.reveal()}", "accept": "image/tiff"},
                    ) as answer:
                        self._note(answer.headers)
                        if answer.status_code == 200 and _is_tiff(answer.headers):
                            received = _save(answer, dest, most)
                            return moved + received, requests
                        said = _beginning(answer)
                        status, headers = answer.status_code, answer.headers
                except httpx.HTTPError as error:
                    seen = type(error).__name__
                else:
                    moved += len(said)
                    if status == 401 and not renewed and self._login.forget(token):
                        renewed = True
                        attempt -= 1
                        continue
                    if status not in _PASSING:
                        raise self._refusal(status, headers, said)
                    seen = f"status {status}"
                    asked = wait_asked_for(headers, MILLISECOND)
                    if status == 429 and asked is not None:
                        self._gate.hold(asked)
                if attempt < ATTEMPTS:
                    pause(attempt, asked)
        raise TransferError(
            "the Process API does not answer",
            subject=self._subject(),
            found=f"{seen}, in each of {ATTEMPTS} attempts",
            action="run again later; what is stored stays as it is",
            retryable=True,
        )

    def _note(self, headers: Mapping[str, str]) -> None:
        """Hold the next requests where an answer says that a limit is spent."""
        for left, after in (
            ("x-ratelimit-remaining", "retry-after"),
            ("x-processingunits-remaining", "x-processingunits-retry-after"),
        ):
            try:
                spent = float(headers.get(left, "")) <= 0.0
                asked = float(headers.get(after, "")) * MILLISECOND
            except ValueError:
                continue
            if spent and asked > 0.0:
                self._gate.hold(min(asked, 120.0))

    def _refusal(self, status: int, headers: Mapping[str, str], said: bytes) -> GeostackError:
        kind = headers.get("content-type", "")[:60]
        found = f"status {status}, {kind or 'no content type'}"
        if status in {401, 403} or "html" in kind:
            return AuthError(
                "the Process API refuses the login"
                if status != 403
                else "the account may not make this request, or its processing units are used up",
                subject=self._subject(),
                found=found,
                action=f"check {' and '.join(self._variables)}, and the quota on the dashboard of the service",
            )
        text = "".join(letter for letter in said[:300].decode("utf-8", "replace") if letter.isprintable())
        return TransferError(
            "the Process API refuses the request",
            subject=self._subject(),
            found=f"{found}: {text}" if text and status != 200 else found,
            action="check the areas, bands and the url of endpoint sh-api; use `source: safe` to go without it",
        )

    def _check(self, file: Path, grid: PixelGrid, block: Block, bands: int) -> bool:
        """Hold an answer to what was asked for: size, bands, type and place; returns whether no pixel has data."""
        import rasterio  # noqa: PLC0415 - GDAL takes long to import, and a search needs none of it
        from rasterio.errors import RasterioError  # noqa: PLC0415

        a, _, c, _, e, f = grid.transform
        wanted = (a, 0.0, c + a * block.column, 0.0, e, f + e * block.row)
        try:
            with rasterio.open(file, driver="GTiff") as raster:
                shape = (raster.count, raster.height, raster.width, set(raster.dtypes))
                placed = all(
                    math.isclose(found, asked, rel_tol=0.0, abs_tol=1e-6 * abs(a))
                    for found, asked in zip(raster.transform[:6], wanted, strict=True)
                )
                placed = placed and raster.crs is not None and raster.crs.to_epsg() == int(grid.crs[5:])
                # Reads all of it: a picture that was cut in half still has its header.
                empty = True
                for _, window in raster.block_windows(1):
                    empty = not raster.read(window=window).any() and empty
        except (RasterioError, ValueError) as error:
            raise IntegrityError(
                "the answer of the Process API is no whole GeoTIFF",
                subject=self._subject(),
                found=str(error)[:160].replace(str(file), file.name),
                action="run again",
                retryable=True,
            ) from error
        if shape != (bands, block.height, block.width, {"uint16"}) or not placed:
            raise IntegrityError(
                "the Process API made another picture than was asked for",
                subject=self._subject(),
                found=f"{shape[0]} bands of {shape[2]} x {shape[1]} {'/'.join(sorted(shape[3]))}"
                + ("" if placed else ", elsewhere"),
                action="run again; if it stays, use `source: safe`",
            )
        return empty

    def _subject(self) -> str:
        return f"{self._provider} Process API"


def _is_tiff(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() in {
        "image/tiff",
        "application/octet-stream",
    }


def _beginning(answer: httpx.Response) -> bytes:
    said = b""
    for chunk in answer.iter_bytes():
        said += chunk
        if len(said) > 4096:
            break
    return said[:4096]


def _save(answer: httpx.Response, dest: Path, most: int) -> int:
    received = 0
    with storage_errors(dest.name, "writing"), dest.open("wb") as file:
        for chunk in answer.iter_bytes(1 << 20):
            received += len(chunk)
            if received > most:
                raise IntegrityError(
                    "the answer of the Process API is larger than any picture of this size",
                    subject="sentinel_hub Process API",
                    found=f"more than {most} bytes",
                    action="run again; if it stays, check the url of endpoint sh-api",
                )
            file.write(chunk)
    return received


def _join(parts: Sequence[tuple[Block, Path]], grid: PixelGrid, bands: int, dest: Path) -> None:
    """Put blocks side by side into one tiled GeoTIFF."""
    import rasterio  # noqa: PLC0415 - GDAL takes long to import
    from rasterio.windows import Window  # noqa: PLC0415

    with rasterio.open(
        dest,
        "w",
        driver="GTiff",
        width=grid.width,
        height=grid.height,
        count=bands,
        dtype="uint16",
        crs=grid.crs,
        transform=rasterio.Affine(*grid.transform),
        nodata=0,
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress="DEFLATE",
        interleave="band",
        BIGTIFF="IF_SAFER",
    ) as whole:
        for block, part in parts:
            with rasterio.open(part, driver="GTiff") as raster:
                for band in range(1, bands + 1):
                    window = Window(block.column, block.row, block.width, block.height)
                    whole.write(raster.read(band), band, window=window)
