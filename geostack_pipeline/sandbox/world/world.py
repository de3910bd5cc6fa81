"""The world on disk: scenes rendered once per seed, in the encodings that publishers ask for, and the truth."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from rasterio.features import shapes
from rasterio.transform import Affine
from rasterio.windows import Window

from geostack_pipeline.areas import Area
from geostack_pipeline.errors import StorageError
from geostack_pipeline.sandbox.config import DEFAULT_SEED
from geostack_pipeline.sandbox.world import plume
from geostack_pipeline.sandbox.world.cog import write_cog
from geostack_pipeline.sandbox.world.grids import Floats, area_of, ground_grid, project, site_centre
from geostack_pipeline.sandbox.world.ground import FACTOR, Ground, TileGround
from geostack_pipeline.sandbox.world.plan import FIRST_DAY, LAST_DAY, SitePlan, full_plan, small_plan
from geostack_pipeline.sandbox.world.scene import (
    FOOTPRINT_PPM_M,
    PhysicalScene,
    SceneRenderer,
    numbers_from,
    percentages,
    scenes_of,
)
from geostack_pipeline.sandbox.world.workers import render_in_processes

GENERATOR_VERSION = 1
"""Raised whenever the same seed gives other bytes, so that cached worlds are never mixed."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """One way in which the numbers of a scene are stored in files."""

    baseline: str
    """Which processing of the overpass."""
    offset: int
    """Added to ``reflectance * 10000``; 0 or 1000."""
    container: str = "cog"

    @property
    def folder(self) -> str:
        """Name of the folder that holds the files."""
        return f"{self.container}-{self.baseline}-plus{self.offset}"


@dataclass(frozen=True, kw_only=True)
class PlumeTruth:
    """One planted plume of one overpass."""

    name: str
    area: str
    time: datetime
    """Start of the datatake, UTC (naive)."""
    longitude: float
    """Of the source, degrees."""
    latitude: float
    rate_kg_h: float
    wind_m_s: float
    """Speed with which the plume drifts; also the wind to hand to a retrieval."""
    wind_to_deg: float
    mass_kg: float
    """Methane in the air above the background."""
    peak_ppm_m: float
    threshold_ppm_m: float
    footprint: Mapping[str, Any]
    """GeoJSON MultiPolygon, longitude and latitude, of the columns of at least the threshold."""
    visible: float
    """Share of the footprint that some scene of the overpass saw without cloud or shadow."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**self.__dict__, "time": self.time.isoformat() + "Z", "footprint": dict(self.footprint)}


class World:
    """A seeded world; pixels are rendered on :meth:`prepare` and kept under ``folder``.

    Args:
        folder: Where worlds are kept; this one takes a subfolder named by seed, size and generator version.
        seed: Same seed and same library versions: same bytes.
        small: A world of 4.8 km tiles for tests.
    """

    def __init__(self, folder: str | Path, *, seed: int = DEFAULT_SEED, small: bool = False) -> None:
        self.seed = seed
        self.plan = small_plan() if small else full_plan()
        self.folder = Path(folder).resolve() / f"world-{self.plan.size}-{seed}-v{GENERATOR_VERSION}"
        self._grounds: dict[tuple[str, str], TileGround] = {}
        sites = {site.name: site for site in self.plan.sites}
        self.scenes: tuple[PhysicalScene, ...] = tuple(
            scene for overpass in self.plan.passes for scene in scenes_of(sites[overpass.site], overpass)
        )

    @property
    def areas(self) -> tuple[Area, ...]:
        """The areas of interest."""
        return tuple(area_of(site) for site in self.plan.sites)

    @property
    def days(self) -> tuple[date, date]:
        """First and last day in which something happens or could; most days between are empty."""
        return FIRST_DAY, LAST_DAY

    def scene(self, scene_id: str) -> PhysicalScene:
        """Return a scene by its id."""
        for scene in self.scenes:
            if scene.id == scene_id:
                return scene
        raise KeyError(f"{scene_id} is no scene of this world; there are {', '.join(s.id for s in self.scenes)}")

    # --- rendering -----------------------------------------------------------------------------------------

    def prepare(
        self,
        wanted: Mapping[str, Iterable[Encoding]],
        *,
        workers: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Render what is missing of the wanted encodings (scene id -> encodings); return how many scenes that were.

        Each folder of files appears by one rename when it is complete, so that a kill at any time leaves only
        temporary folders behind, which the next call removes.  ``workers`` processes share the work: by default
        two, and this one alone for the small world.
        """
        workers = workers or (1 if self.plan.size == "small" else 2)
        missing = [
            (scene, todo)
            for scene in self.scenes
            if (todo := [e for e in wanted.get(scene.id, ()) if not (self._scene_folder(scene) / e.folder).is_dir()])
        ]
        if not missing:
            return 0
        finished: list[str] = []

        def note(scene_id: str) -> None:
            finished.append(scene_id)
            if progress is not None:
                progress(len(finished), len(missing))

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if workers > 1 and len(missing) > 2:
                jobs = [
                    {"scene": scene.id, "tile": scene.tile.mgrs, "encodings": [asdict(each) for each in todo]}
                    for scene, todo in missing
                ]
                about = {"folder": str(self.folder.parent), "seed": self.seed, "small": self.plan.size == "small"}
                render_in_processes(about, jobs, workers, note, self.folder)
            else:
                for scene, todo in missing:
                    self.render(scene, todo)
                    note(scene.id)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(
                "the sandbox's scenes cannot be written",
                subject=str(self.folder),
                found=str(error),
                action="free about 0.5 GB there, or choose another folder",
            ) from error
        finally:
            self._grounds.clear()
        return len(missing)

    def render(self, scene: PhysicalScene, todo: Iterable[Encoding]) -> None:
        """Render one scene into the encodings ``todo``; what appears first stays."""
        todo = list(todo)
        renderer = SceneRenderer(self.seed, scene, self._ground(scene))
        column = renderer.enhancement()
        classes = renderer.classification()
        home = self._scene_folder(scene)
        home.mkdir(parents=True, exist_ok=True)
        for leftover in home.glob(".tmp-*"):
            if not _alive(leftover.name):
                shutil.rmtree(leftover, ignore_errors=True)
        work = home / f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            for encoding in todo:
                (work / encoding.folder).mkdir(parents=True)
            block = scene.site.block_pixels
            gains = {processing.baseline: processing.gain for processing in scene.overpass.processings}
            for band in self.plan.bands:
                reflectance = renderer.reflectance(band, column)
                grid = scene.grid.coarser(FACTOR[band])
                for encoding in todo:
                    numbers = numbers_from(reflectance, gain=gains[encoding.baseline], offset=encoding.offset)
                    write_cog(
                        work / encoding.folder / f"{band}.tif", numbers, grid, block=block, categorical=False
                    )
            for encoding in todo:
                target = work / encoding.folder
                write_cog(target / "SCL.tif", classes, scene.grid.coarser(2), block=block, categorical=True)
                listing = {path.name: _describe(path) for path in sorted(target.iterdir())}
                (target / "files.json").write_text(json.dumps(listing, indent=1), encoding="utf-8")
            facts = {"percentages": percentages(classes), "visible": self._visible(scene, renderer, classes)}
            (work / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
            os.replace(work / "facts.json", home / "facts.json")
            for encoding in todo:
                try:
                    (work / encoding.folder).rename(home / encoding.folder)
                except OSError:
                    # Another process rendered the same bytes first.
                    if not (home / encoding.folder).is_dir():
                        raise
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _ground(self, scene: PhysicalScene) -> TileGround:
        key = (scene.site.name, scene.tile.mgrs)
        if key not in self._grounds:
            self._grounds[key] = Ground(self.seed, scene.site).tile(scene.tile)
        return self._grounds[key]

    @staticmethod
    def _visible(
        scene: PhysicalScene, renderer: SceneRenderer, classes: npt.NDArray[np.uint8]
    ) -> dict[str, list[int]]:
        """Return plume -> [clear pixels, pixels] of its footprint within this tile."""
        counts = {}
        for planted in scene.overpass.plumes:
            inside = _halved(renderer.enhancement((planted,))) >= FOOTPRINT_PPM_M
            clear = inside & np.isin(classes, (4, 5))
            counts[planted.name] = [int(clear.sum()), int(inside.sum())]
        return counts

    # --- what is on disk -----------------------------------------------------------------------------------

    def _scene_folder(self, scene: PhysicalScene) -> Path:
        return self.folder / "scenes" / scene.id

    def facts(self, scene: PhysicalScene) -> dict[str, Any]:
        """Return what rendering counted: percentages of classes, visible parts of plumes."""
        loaded: dict[str, Any] = json.loads((self._scene_folder(scene) / "facts.json").read_text(encoding="utf-8"))
        return loaded

    def files(self, scene: PhysicalScene, encoding: Encoding) -> dict[str, tuple[Path, dict[str, Any]]]:
        """Return file name -> (path, {size, md5}) of one encoding."""
        folder = self._scene_folder(scene) / encoding.folder
        listing = json.loads((folder / "files.json").read_text(encoding="utf-8"))
        return {name: (folder / name, description) for name, description in listing.items()}

    def _some_encoding(self, scene: PhysicalScene, baseline: str) -> tuple[Path, int]:
        for folder in sorted(self._scene_folder(scene).glob(f"*-{baseline}-plus*")):
            return folder, int(folder.name.rpartition("plus")[2])
        raise StorageError(
            "the scene has not been rendered",
            subject=f"{scene.id}, baseline {baseline}",
            action="call prepare() first, or start the sandbox once",
        )

    def reflectance(
        self, scene: PhysicalScene, band: str, window: tuple[int, int, int, int] | None = None, *, baseline: str | None = None
    ) -> Floats:
        """Return the true reflectance of a band, (rows, columns) float32, NaN where nothing was seen.

        It is what the satellite measured, with plume, clouds and noise, to 1e-4; whatever offset a publisher
        stores is undone by what the world knows, not by what an item says.

        Args:
            scene: The scene.
            band: ``B02`` … ``B12``.
            window: Column, row, width, height in pixels of the band; None is the tile.
            baseline: The processing; None is the newest.
        """
        folder, offset = self._some_encoding(scene, baseline or scene.newest.baseline)
        with rasterio.open(folder / f"{band}.tif") as raster:
            numbers = raster.read(1, window=Window(*window) if window else None)
        values = ((numbers.astype(np.float64) - offset) * 1e-4).astype(np.float32)
        values[numbers == 0] = np.nan
        return values

    def classification(
        self, scene: PhysicalScene, window: tuple[int, int, int, int] | None = None
    ) -> npt.NDArray[np.uint8]:
        """Return the scene classification on 20 m pixels; ``window`` as in :meth:`reflectance`."""
        folder, _ = self._some_encoding(scene, scene.newest.baseline)
        with rasterio.open(folder / "SCL.tif") as raster:
            return np.asarray(raster.read(1, window=Window(*window) if window else None))

    def enhancement(self, scene: PhysicalScene) -> Floats:
        """Return the true methane column above the background on the tile's 20 m pixels, ppm m; renders anew."""
        empty = TileGround(reflectance={}, vegetated=np.zeros((0, 0), np.float32))
        return _halved(SceneRenderer(self.seed, scene, empty).enhancement())

    # --- the truth -----------------------------------------------------------------------------------------

    @cached_property
    def truth(self) -> tuple[PlumeTruth, ...]:
        """Every planted plume, by time and name; needs rendered scenes."""
        found = []
        for overpass in self.plan.passes:
            site = next(site for site in self.plan.sites if site.name == overpass.site)
            seen = [self.facts(scene)["visible"] for scene in self.scenes if scene.overpass is overpass]
            for planted in overpass.plumes:
                found.append(self._truth_of(site, overpass.start, planted, [each[planted.name] for each in seen]))
        return tuple(found)

    def _truth_of(self, site: SitePlan, start: datetime, planted: Any, seen: list[list[int]]) -> PlumeTruth:
        ground = ground_grid(site)
        column = plume.enhancement(self.seed, site, ground, planted, when=start.isoformat())
        x, y = site_centre(site)
        longitude, latitude = project(ground.epsg, 4326, x + planted.east_m, y + planted.north_m)
        coarse = _halved(column)
        inside = coarse >= FOOTPRINT_PPM_M
        transform = Affine(*ground.coarser(2).transform)
        polygons = [
            shapely.geometry.shape(geometry)
            for geometry, value in shapes(inside.astype(np.uint8), mask=inside, transform=transform)
            if value == 1
        ]

        def to_degrees(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            return np.stack(project(ground.epsg, 4326, points[:, 0], points[:, 1]), axis=1).round(7)

        outline = shapely.transform(shapely.MultiPolygon(polygons), to_degrees)
        # A kilogram per square metre is so many ppm m; a pixel has 100 square metres.
        mass = float(column.sum(dtype=np.float64)) * 100.0 / plume.ppm_m_per_kg_m2()
        pixels = max(int(inside.sum()), 1)
        return PlumeTruth(
            name=planted.name,
            area=site.name,
            time=start,
            longitude=round(float(longitude), 6),
            latitude=round(float(latitude), 6),
            rate_kg_h=planted.rate_kg_h,
            wind_m_s=planted.wind_m_s,
            wind_to_deg=planted.wind_to_deg,
            mass_kg=round(mass, 2),
            peak_ppm_m=round(float(coarse.max()), 1),
            threshold_ppm_m=FOOTPRINT_PPM_M,
            footprint=shapely.geometry.mapping(outline),
            visible=round(min(1.0, max((clear for clear, _ in seen), default=0) / pixels), 3),
        )


def _halved(values: Floats) -> Floats:
    rows, columns = values.shape
    return np.asarray(values.reshape(rows // 2, 2, columns // 2, 2).mean(axis=(1, 3)), np.float32)


def _describe(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"size": len(data), "md5": hashlib.md5(data, usedforsecurity=False).hexdigest()}


def _alive(name: str) -> bool:
    """Tell whether the process that made a temporary folder still runs."""
    try:
        os.kill(int(name.split("-")[1]), 0)
    except (ProcessLookupError, ValueError, IndexError):
        return False
    except PermissionError:
        return True
    return True
