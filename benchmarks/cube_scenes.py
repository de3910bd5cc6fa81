"""What cubes are built of: scenes of two UTM zones as COGs, as Sentinel-2 tiles its overpasses, and the exact cube.

Twelve scenes: three days, and on each of them two tiles of zone 33 and the two of zone 32 that overlap them.  The
tiles of zone 33 lack the west of the area, as behind the edge of a swath; those of zone 32 have it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

BANDS = ("B04", "B08", "B11", "B12")
DAYS = 3
CRS = "EPSG:32633"
FULL, QUICK = 5490, 549
"""Rows and columns of a scene."""

_VERSION = 1
_TILE_M = 109_800.0
_AREA_M = 61_440.0
_WEST, _NORTH = 236_880.0, 5_127_720.0
_TILES = (
    ("33TTM", "EPSG:32633", 199_980.0, 5_200_020.0),
    ("33TTL", "EPSG:32633", 199_980.0, 5_100_000.0),
    ("32TQS", "EPSG:32632", 699_960.0, 5_200_020.0),
    ("32TQR", "EPSG:32632", 699_960.0, 5_100_000.0),
)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One scene of the benchmark."""

    id: str
    crs: str
    west: float
    north: float
    pixel_m: float
    side: int
    when: datetime
    files: Mapping[str, str]
    """Band -> file name."""

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """Pixel corner to CRS coordinates."""
        return (self.pixel_m, 0.0, self.west, 0.0, -self.pixel_m, self.north)


@dataclass(frozen=True, kw_only=True)
class Target:
    """The grid of the cube."""

    crs: str
    transform: tuple[float, float, float, float, float, float]
    side: int


def target(side: int, share: int = 1) -> Target:
    """Return the grid of 61.44 km for scenes of ``side`` pixels, or a quarter, a sixteenth (``share`` 2, 4) of it."""
    pixel = _TILE_M / side
    across = round(_AREA_M / pixel) // share
    left, top = _WEST + (_AREA_M - across * pixel) / 2, _NORTH - (_AREA_M - across * pixel) / 2
    return Target(
        crs=CRS,
        transform=(pixel, 0.0, _on_lattice(left, pixel), 0.0, -pixel, _on_lattice(top, pixel)),
        side=across,
    )


def _on_lattice(corner: float, pixel: float) -> float:
    """Return a corner on the multiples of the pixel: at 20 m all are, larger pixels of quick runs are moved there."""
    return round(corner / pixel) * pixel


def scenes(side: int, days: int = DAYS) -> list[Scene]:
    """Return the scenes in order of priority, four a day; more days than three show the files of the first again."""
    pixel = _TILE_M / side
    found = []
    for day in range(days):
        for number, (tile, crs, west, north) in enumerate(_TILES):
            when = datetime(2024, 6, 1, 10, 10, tzinfo=UTC) + timedelta(days=5 * day, seconds=10 * number)
            shown = when - timedelta(days=5 * (day - day % DAYS))
            name = f"S2A_{tile}_{shown:%Y%m%d}"
            found.append(
                Scene(
                    id=f"S2A_{when:%Y%m%dT%H%M%S}_{tile}",
                    crs=crs,
                    west=_on_lattice(west, pixel),
                    north=_on_lattice(north, pixel),
                    pixel_m=pixel,
                    side=side,
                    when=when,
                    files={band: f"{name}_{band}.tif" for band in BANDS},
                )
            )
    return found


def parts(side: int, number: int) -> list[Scene]:
    """Return the scenes of one moment that share a quarter of the area: each covers a part of it that no other has.

    ``number`` is a square.  Every other scene lies in zone 32.
    """
    from pyproj import Transformer

    grid = target(side, 2)
    pixel, across = grid.transform[0], round(number**0.5)
    when = datetime(2024, 6, 1, 10, 10, tzinfo=UTC)
    edges = [round(grid.side * i / across) for i in range(across + 1)]
    found = []
    for index in range(number):
        row, column = divmod(index, across)
        left = grid.transform[2] + pixel * edges[column]
        top = grid.transform[5] - pixel * edges[row]
        right = grid.transform[2] + pixel * edges[column + 1]
        bottom = grid.transform[5] - pixel * edges[row + 1]
        crs = CRS if (row + column) % 2 == 0 else "EPSG:32632"
        if crs != CRS:
            left, bottom, right, top = Transformer.from_crs(CRS, crs, always_xy=True).transform_bounds(
                left, bottom, right, top
            )
            left, top = pixel * np.floor(left / pixel), pixel * np.ceil(top / pixel)
        found.append(
            Scene(
                id=f"S2A_part_{index:02d}",
                crs=crs,
                west=float(left),
                north=float(top),
                pixel_m=pixel,
                side=int(np.ceil(max(right - left, top - bottom) / pixel)),
                when=when,
                files={band: f"part_{index:02d}_{band}.tif" for band in BANDS},
            )
        )
    return found


def folder(side: int, cache: Path) -> Path:
    """Return the folder with the COGs and ``reference.npy``; written once and then kept."""

    def write(work: Path) -> None:
        for number, scene in enumerate(scenes(side)):
            _write(work, scene, number, _valid(scene))
        np.save(work / "reference.npy", _reference(work, side))
        (work / "scenes.json").write_text(json.dumps([scene.id for scene in scenes(side)], indent=2))

    return _kept(cache / f"cube-{side}-v{_VERSION}", write)


def parts_folder(side: int, number: int, cache: Path) -> Path:
    """Return the folder with the COGs of :func:`parts`; written once and then kept."""

    def write(work: Path) -> None:
        for index, scene in enumerate(parts(side, number)):
            _write(work, scene, index, np.ones((scene.side, scene.side), bool))

    return _kept(cache / f"cube-{side}-parts-{number}-v{_VERSION}", write)


def _kept(place: Path, write: Callable[[Path], None]) -> Path:
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix="writing-", dir=place.parent))
        try:
            write(work)
            os.rename(work, place)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return place


def _write(work: Path, scene: Scene, number: int, valid: np.ndarray) -> None:
    import rasterio
    from rasterio.transform import Affine

    side = scene.side
    dice = np.random.default_rng(number)
    for name in scene.files.values():
        pixels = _ground(side, dice) + dice.integers(0, 512, (side, side), dtype=np.uint16)
        pixels[~valid] = 0
        with rasterio.open(
            work / name,
            "w",
            driver="COG",
            width=side,
            height=side,
            count=1,
            dtype="uint16",
            crs=scene.crs,
            transform=Affine(*scene.transform),
            nodata=0,
            compress="DEFLATE",
            predictor="YES",
            blocksize=512 if scene.pixel_m < _TILE_M / QUICK else 128,
            num_threads="ALL_CPUS",
        ) as file:
            file.write(pixels, 1)


def _ground(side: int, dice: np.random.Generator) -> np.ndarray:
    """Smooth ground: with nine bits of noise DEFLATE leaves about 0.7 of it, as of real reflectances."""
    cell = max(side // 90, 2)
    coarse = dice.integers(1500, 4000, (side // cell + 2, side // cell + 2)).astype(np.float32)
    at = np.arange(side, dtype=np.float32) / cell
    low = at.astype(np.int64)
    part = at - low
    lines = coarse[low] * (1 - part)[:, None] + coarse[low + 1] * part[:, None]
    return (lines[:, low] * (1 - part) + lines[:, low + 1] * part).astype(np.uint16)


def _valid(scene: Scene) -> np.ndarray:
    side = scene.side
    row, column = np.mgrid[0:side, 0:side] / side
    if scene.crs == CRS:
        return column > 0.52 - 0.12 * row  # the swath's edge, a slanted line
    return np.asarray(column + row > 0.05)


def _reference(work: Path, side: int) -> np.ndarray:
    """Return the cube as GDAL has it with a tolerance of 1e-4 pixels: nearest pixel, first valid scene."""
    import rasterio
    from rasterio.transform import Affine
    from rasterio.vrt import WarpedVRT

    grid = target(side)
    cube = np.zeros((DAYS, len(BANDS), grid.side, grid.side), np.uint16)
    for number, scene in enumerate(scenes(side)):
        for band, name in enumerate(scene.files.values()):
            picture = cube[number // len(_TILES), band]
            with (
                rasterio.open(work / name) as source,
                WarpedVRT(
                    source,
                    crs=grid.crs,
                    transform=Affine(*grid.transform),
                    width=grid.side,
                    height=grid.side,
                    tolerance=1e-4,
                ) as warped,
            ):
                np.copyto(picture, warped.read(1), where=picture == 0)
    return cube


def items(found: Sequence[Scene], base: str) -> list[Any]:
    """Return STAC items as the peers need them, with the projection extension; hrefs begin with ``base``."""
    import pystac
    from pyproj import Transformer

    made = []
    for scene in found:
        a, b, c, d, e, f = scene.transform
        extent = scene.pixel_m * scene.side
        west, south, east, north = Transformer.from_crs(
            scene.crs, "EPSG:4326", always_xy=True
        ).transform_bounds(c, f - extent, c + extent, f)
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        item = pystac.Item(
            id=scene.id,
            geometry={"type": "Polygon", "coordinates": [ring]},
            bbox=[west, south, east, north],
            datetime=scene.when,
            properties={
                "proj:epsg": int(scene.crs.split(":")[1]),
                "proj:code": scene.crs,
                "proj:shape": [scene.side, scene.side],
                "proj:transform": [a, b, c, d, e, f, 0, 0, 1],
            },
            stac_extensions=[
                "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
                "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
            ],
            collection="scenes",
        )
        for band, name in scene.files.items():
            item.add_asset(
                band,
                pystac.Asset(
                    href=f"{base}/{name}",
                    media_type=pystac.MediaType.COG,
                    roles=["data"],
                    extra_fields={"raster:bands": [{"nodata": 0, "data_type": "uint16"}]},
                ),
            )
        made.append(item)
    return made
