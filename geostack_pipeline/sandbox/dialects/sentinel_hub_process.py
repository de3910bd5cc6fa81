"""Sentinel Hub's Process API over the world's scenes: it runs the evalscript's arithmetic and resamples by GDAL.

Shares no code with what asks it.  Scripts may have one input of plain bands with units, and return numbers computed
from samples by ``+ - *``, ``Math.round``, ``Math.max`` and ``Math.min``; anything else is refused, as a script with an
error is.
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from geostack_pipeline.sandbox.dialects.stac_query import BadRequestError, instant
from geostack_pipeline.sandbox.world.scene import PhysicalScene

PROCESS_PATH = "/api/v1/process"
LARGEST_SIDE = 2500
_CRS = re.compile(r"http://www\.opengis\.net/def/crs/EPSG/0/(\d{4,6})")
_SETUP = re.compile(
    r"//VERSION=3\s.*?input:\s*\[\{\s*bands:\s*\[(?P<bands>[^\]]*)\],\s*units:\s*\[(?P<units>[^\]]*)\]\s*\}\]"
    r".*?output:\s*\{\s*bands:\s*(?P<count>\d+),\s*sampleType:\s*\"(?P<type>[A-Z0-9]+)\"\s*\}"
    r".*?function\s+evaluatePixel\s*\(\s*(?P<name>\w+)\s*\)\s*\{(?P<body>.*)\}",
    re.DOTALL,
)
_BODY = re.compile(
    r"\s*(?:if\s*\(\s*(?P<mask>[\w.]+)\s*===?\s*0\s*\)\s*return\s*\[(?P<nothing>[^\]]*)\];)?\s*"
    r"return\s*\[(?P<values>.*)\];\s*",
    re.DOTALL,
)
_TYPES = {"UINT8": (np.uint8, 255), "UINT16": (np.uint16, 65535), "FLOAT32": (np.float32, None)}

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What the service has of a scene: the newest processing."""

    scene: PhysicalScene
    files: Mapping[str, Path]
    """Band -> raster."""
    offset: int
    """Added to ``reflectance * 10000`` in the files."""


def make_process_app(pictures: Sequence[Picture]) -> Starlette:
    """Return the Process API."""

    async def process(request: Request) -> Response:
        try:
            body = json.loads(await request.body())
        except ValueError:
            return _refusal(400, "The request body is no JSON")
        try:
            job = _parse(body)
            data = await run_in_threadpool(_make, job, pictures)
        except (BadRequestError, KeyError, TypeError, IndexError) as error:
            return _refusal(400, f"Invalid request: {error}")
        units = max(0.005, max(0.01, job.width * job.height / 512**2) * len(job.bands) / 3.0)
        return Response(
            data,
            media_type="image/tiff",
            headers={
                "x-processingunits-spent": f"{units:.6f}",
                "x-processingunits-remaining": "9999",
                "x-ratelimit-remaining": "299",
            },
        )

    return Starlette(routes=[Route(PROCESS_PATH, process, methods=["POST"])])


def _refusal(status: int, message: str) -> Response:
    error = {"status": status, "reason": "Bad Request", "message": message, "code": "COMMON_BAD_PAYLOAD"}
    return JSONResponse({"error": error}, status)


@dataclass(frozen=True, kw_only=True)
class _Job:
    epsg: int
    bbox: tuple[float, float, float, float]
    width: int
    height: int
    start: datetime
    end: datetime
    newest_first: bool
    clamp: bool
    """Negative reflectance becomes 0: what ``harmonizeValues`` means for reflectance."""
    bands: Sequence[str]
    units: Sequence[str]
    sample_type: str
    mask: str | None
    nothing: Sequence[float]
    values: Sequence[Callable[[Mapping[str, Values]], Values]]


def _parse(body: Any) -> _Job:
    bounds, (data,), output = body["input"]["bounds"], body["input"]["data"], body["output"]
    code = _CRS.fullmatch(bounds["properties"]["crs"])
    west, south, east, north = (float(value) for value in bounds["bbox"])
    width, height = output["width"], output["height"]
    if code is None or not (west < east and south < north):
        raise BadRequestError("input.bounds")
    if not all(isinstance(side, int) and 1 <= side <= LARGEST_SIDE for side in (width, height)):
        raise BadRequestError(f"output.width and output.height must lie between 1 and {LARGEST_SIDE}")
    if data["type"] != "sentinel-2-l2a" or output["responses"][0]["format"]["type"] != "image/tiff":
        raise BadRequestError("the collection or the format is not known here")
    processing = data.get("processing", {})
    if {processing.get("upsampling", "NEAREST"), processing.get("downsampling", "NEAREST")} != {"NEAREST"}:
        raise BadRequestError("only NEAREST is known here")
    time = data["dataFilter"]["timeRange"]
    script = _SETUP.fullmatch(body["evalscript"].strip())
    body_of = _BODY.fullmatch(script["body"]) if script else None
    if script is None or body_of is None or script["type"] not in _TYPES:
        raise BadRequestError("Failed to evaluate script!")
    bands, units = (_words(script[name]) for name in ("bands", "units"))
    name = script["name"]
    values = [_compiled(tree, name, bands) for tree in _expressions(body_of["values"])]
    nothing = [float(part) for part in (body_of["nothing"] or "").split(",") if part.strip()]
    mask = body_of["mask"].removeprefix(f"{name}.") if body_of["mask"] else None
    if len(values) != int(script["count"]) or len(units) != len(bands) or (mask and mask not in bands):
        raise BadRequestError("Failed to evaluate script!")
    return _Job(
        epsg=int(code[1]),
        bbox=(west, south, east, north),
        width=width,
        height=height,
        start=instant(time["from"]),
        end=instant(time["to"]),
        newest_first=data["dataFilter"].get("mosaickingOrder", "mostRecent") == "mostRecent",
        clamp=processing.get("harmonizeValues", True),
        bands=bands,
        units=units,
        sample_type=script["type"],
        mask=mask,
        nothing=nothing or [0.0] * len(values),
        values=values,
    )


def _words(text: str) -> list[str]:
    return [part.strip().strip("\"'") for part in text.split(",") if part.strip()]


def _expressions(text: str) -> list[ast.expr]:
    """Return the syntax of the returned numbers: such arithmetic is written alike in JavaScript and in Python."""
    try:
        parsed = ast.parse(f"[{text}]", mode="eval").body
    except SyntaxError as error:
        raise BadRequestError("Failed to evaluate script!") from error
    assert isinstance(parsed, ast.List)
    return parsed.elts


_FUNCTIONS: Mapping[str, Callable[..., Values]] = {
    # JavaScript rounds halves upwards.
    "round": lambda value: np.floor(value + 0.5),
    "max": np.maximum,
    "min": np.minimum,
}
_OPERATIONS: Mapping[type, Callable[[Values, Values], Values]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
}


def _compiled(tree: ast.expr, name: str, bands: Sequence[str]) -> Callable[[Mapping[str, Values]], Values]:
    """Return a function from samples to the number that an expression means."""
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int | float):
        constant = np.float64(tree.value)
        return lambda _: np.asarray(constant)
    if isinstance(tree, ast.Attribute) and isinstance(tree.value, ast.Name) and tree.value.id == name:
        band = tree.attr
        if band in bands:
            return lambda samples: samples[band]
    if isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATIONS:
        operation = _OPERATIONS[type(tree.op)]
        left, right = _compiled(tree.left, name, bands), _compiled(tree.right, name, bands)
        return lambda samples: operation(left(samples), right(samples))
    if (
        isinstance(tree, ast.Call)
        and isinstance(tree.func, ast.Attribute)
        and isinstance(tree.func.value, ast.Name)
        and tree.func.value.id == "Math"
        and tree.func.attr in _FUNCTIONS
        and not tree.keywords
    ):
        function = _FUNCTIONS[tree.func.attr]
        arguments = [_compiled(argument, name, bands) for argument in tree.args]
        return lambda samples: function(*[argument(samples) for argument in arguments])
    raise BadRequestError("Failed to evaluate script!")


def _make(job: _Job, pictures: Sequence[Picture]) -> bytes:
    """Return the GeoTIFF of a job."""
    from rasterio.transform import from_bounds  # noqa: PLC0415 - GDAL takes long to import

    transform = from_bounds(*job.bbox, job.width, job.height)
    samples = {band: np.zeros((job.height, job.width), np.float64) for band in (*job.bands, "dataMask")}
    wanted = [picture for picture in pictures if job.start <= picture.scene.datetime <= job.end]
    for picture in sorted(wanted, key=lambda each: each.scene.datetime, reverse=job.newest_first):
        _lay_below(job, transform, picture, samples)
    kind, largest = _TYPES[job.sample_type]
    image = np.empty((len(job.values), job.height, job.width), kind)
    for index, value in enumerate(job.values):
        numbers = np.broadcast_to(value(samples), image.shape[1:])
        if job.mask is not None:
            numbers = np.where(samples[job.mask] == 0, job.nothing[index], numbers)
        # The service rounds to whole numbers and clamps them to what the type holds.
        image[index] = numbers if largest is None else np.clip(np.floor(numbers + 0.5), 0, largest)
    return _encoded(image, job.epsg, transform)


def _lay_below(job: _Job, transform: Any, picture: Picture, samples: Mapping[str, Values]) -> None:
    """Fill what earlier scenes left empty from one scene."""
    layers = {band: _resampled(job, transform, picture, band) for band in job.bands if band != "dataMask"}
    free = samples["dataMask"] == 0
    for numbers in layers.values():
        free &= numbers != 0
    if not free.any():
        return
    samples["dataMask"][free] = 1
    for band, unit in zip(job.bands, job.units, strict=True):
        if band == "dataMask":
            continue
        numbers = layers[band]
        if unit == "REFLECTANCE":
            numbers = (numbers - picture.offset) / 10000.0
            if job.clamp:
                numbers = np.maximum(numbers, 0.0)
        samples[band][free] = numbers[free]


def _resampled(job: _Job, transform: Any, picture: Picture, band: str) -> Values:
    """Return a band on the job's grid by nearest neighbour, 0 where the scene has nothing."""
    import rasterio  # noqa: PLC0415 - GDAL takes long to import
    from rasterio.warp import Resampling, reproject  # noqa: PLC0415

    if band not in picture.files:
        raise BadRequestError(f"band {band} is not available")
    numbers = np.zeros((job.height, job.width), np.uint16)
    with rasterio.open(picture.files[band]) as raster:
        reproject(
            raster.read(1).astype(np.uint16),
            numbers,
            src_transform=raster.transform,
            src_crs=raster.crs,
            src_nodata=0,
            dst_transform=transform,
            dst_crs=f"EPSG:{job.epsg}",
            dst_nodata=0,
            resampling=Resampling.nearest,
        )
    return numbers.astype(np.float64)


def _encoded(image: npt.NDArray[Any], epsg: int, transform: Any) -> bytes:
    """Return a striped GeoTIFF with interleaved bands and without a nodata tag, as the service answers."""
    import rasterio  # noqa: PLC0415 - GDAL takes long to import

    file = io.BytesIO()
    with rasterio.open(
        file,
        "w",
        driver="GTiff",
        width=image.shape[2],
        height=image.shape[1],
        count=image.shape[0],
        dtype=image.dtype,
        crs=f"EPSG:{epsg}",
        transform=transform,
        interleave="pixel",
        compress="DEFLATE",
    ) as raster:
        raster.write(image)
    return file.getvalue()
