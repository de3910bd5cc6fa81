"""The world on disk: scenes rendered once per seed, in the encodings that publishers ask for, and the truth."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geostack_pipeline.areas import Area
from geostack_pipeline.errors import StorageError
from geostack_pipeline.sandbox.config import DEFAULT_SEED
from geostack_pipeline.sandbox.world.grids import Floats, area_of
from geostack_pipeline.sandbox.world.plan import FIRST_DAY, LAST_DAY, full_plan, small_plan
from geostack_pipeline.sandbox.world.scene import PhysicalScene, PlumeTruth, scenes_of
from geostack_pipeline.sandbox.world.workers import render_in_processes

GENERATOR_VERSION = 4
"""Raised whenever the same seed gives other bytes, so that cached worlds are never mixed."""


SUFFIXES = {"cog": ".tif", "jp2": ".jp2"}
"""Container -> ending of its files."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """One way in which the numbers of a scene are stored in files."""

    baseline: str
    """Which processing of the overpass."""
    offset: int
    """Added to ``reflectance * 10000``; 0 or 1000."""
    container: str = "cog"
    """``cog`` (GeoTIFF) or ``jp2`` (JPEG 2000, lossless)."""

    @property
    def suffix(self) -> str:
        """Ending of the files' names."""
        return SUFFIXES[self.container]

    @property
    def folder(self) -> str:
        """Name of the folder that holds the files."""
        return f"{self.container}-{self.baseline}-plus{self.offset}"


class World:
    """A seeded world; pixels are rendered on :meth:`prepare` and kept under ``folder``.

    Args:
        folder: Where worlds are kept; this one takes a subfolder named by seed, size and generator version.
        seed: Same seed and same library versions: same bytes.
        small: A world of 4.8 km tiles for tests.
        campaign: Granules of EMIT's campaign, see :mod:`~geostack_pipeline.sandbox.world.campaign`.
    """

    def __init__(
        self, folder: str | Path, *, seed: int = DEFAULT_SEED, small: bool = False, campaign: int = 0
    ) -> None:
        self.seed = seed
        self.campaign = campaign
        self.plan = small_plan() if small else full_plan()
        self.folder = Path(folder).resolve() / f"world-{self.plan.size}-{seed}-v{GENERATOR_VERSION}"
        self._grounds: dict[tuple[str, str], Any] = {}
        sites = {site.name: site for site in self.plan.sites}
        self.scenes: tuple[PhysicalScene, ...] = tuple(
            scene for overpass in self.plan.passes for scene in scenes_of(sites[overpass.site], overpass)
        )

    @property
    def areas(self) -> tuple[Area, ...]:
        """The areas of interest; with a campaign, the area of its places too."""
        own = tuple(area_of(site) for site in self.plan.sites)
        if not self.campaign:
            return own
        from geostack_pipeline.sandbox.world.campaign import AREA  # noqa: PLC0415 - it brings GDAL

        return (*own, AREA)

    @property
    def recipe(self) -> dict[str, Any]:
        """What another process makes the same world of, plain JSON."""
        return {
            "folder": str(self.folder.parent),
            "seed": self.seed,
            "small": self.plan.size == "small",
            "campaign": self.campaign,
        }

    @property
    def days(self) -> tuple[date, date]:
        """First and last day in which something happens or could; most days between are empty."""
        return FIRST_DAY, LAST_DAY

    def scene(self, scene_id: str) -> PhysicalScene:
        """Return a scene by its id."""
        for scene in self.scenes:
            if scene.id == scene_id:
                return scene
        raise KeyError(
            f"{scene_id} is no scene of this world; there are {', '.join(s.id for s in self.scenes)}"
        )

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
            if (
                todo := [
                    e for e in wanted.get(scene.id, ()) if not (self.scene_folder(scene) / e.folder).is_dir()
                ]
            )
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
                render_in_processes(self.recipe, jobs, workers, note, self.folder)
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
        from geostack_pipeline.sandbox.world.rendering import render_scene  # noqa: PLC0415 - it brings GDAL and numba

        render_scene(self, scene, list(todo), self._grounds)

    # --- what is on disk -----------------------------------------------------------------------------------

    def scene_folder(self, scene: PhysicalScene) -> Path:
        """Return the folder of a scene's encodings."""
        return self.folder / "scenes" / scene.id

    def facts(self, scene: PhysicalScene) -> dict[str, Any]:
        """Return what rendering counted: percentages of classes, visible parts of plumes."""
        loaded: dict[str, Any] = json.loads(
            (self.scene_folder(scene) / "facts.json").read_text(encoding="utf-8")
        )
        return loaded

    def files(self, scene: PhysicalScene, encoding: Encoding) -> dict[str, tuple[Path, dict[str, Any]]]:
        """Return file name -> (path, {size, md5, and sha3_256 of JPEG 2000}) of one encoding."""
        folder = self.scene_folder(scene) / encoding.folder
        listing = json.loads((folder / "files.json").read_text(encoding="utf-8"))
        return {name: (folder / name, description) for name, description in listing.items()}

    def _some_encoding(self, scene: PhysicalScene, baseline: str) -> tuple[Path, int]:
        for folder in sorted(self.scene_folder(scene).glob(f"*-{baseline}-plus*")):
            return folder, int(folder.name.rpartition("plus")[2])
        raise StorageError(
            "the scene has not been rendered",
            subject=f"{scene.id}, baseline {baseline}",
            action="call prepare() first, or start the sandbox once",
        )

    def reflectance(
        self,
        scene: PhysicalScene,
        band: str,
        window: tuple[int, int, int, int] | None = None,
        *,
        baseline: str | None = None,
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
        numbers = _read(_raster(folder, band), window)
        values = ((numbers.astype(np.float64) - offset) * 1e-4).astype(np.float32)
        values[numbers == 0] = np.nan
        return values

    def classification(
        self, scene: PhysicalScene, window: tuple[int, int, int, int] | None = None
    ) -> npt.NDArray[np.uint8]:
        """Return the scene classification on 20 m pixels; ``window`` as in :meth:`reflectance`."""
        folder, _ = self._some_encoding(scene, scene.newest.baseline)
        return _read(_raster(folder, "SCL"), window)

    def enhancement(self, scene: PhysicalScene) -> Floats:
        """Return the true methane column above the background on the tile's 20 m pixels, ppm m; renders anew."""
        from geostack_pipeline.sandbox.world.rendering import column_of  # noqa: PLC0415 - it brings GDAL and numba

        return column_of(self.seed, scene)

    # --- the truth -----------------------------------------------------------------------------------------

    @cached_property
    def truth(self) -> tuple[PlumeTruth, ...]:
        """Every planted plume, by time and name; kept beside the scenes once all of them are rendered.

        Scenes that are not rendered have shown nothing: where only other sensors' products are served, no share of a
        plume is visible in them.
        """
        kept = self.folder / "truth.json"
        if not kept.is_file():
            from geostack_pipeline.sandbox.world.truth import plume_truth  # noqa: PLC0415 - it brings GDAL

            found = []
            rendered = [scene for scene in self.scenes if (self.scene_folder(scene) / "facts.json").is_file()]
            for overpass in self.plan.passes:
                site = next(site for site in self.plan.sites if site.name == overpass.site)
                seen = [self.facts(scene)["visible"] for scene in rendered if scene.overpass is overpass]
                found += [
                    plume_truth(
                        self.seed, site, overpass.start, planted, [each[planted.name] for each in seen]
                    )
                    for planted in overpass.plumes
                ]
            if len(rendered) < len(self.scenes):
                return tuple(PlumeTruth.from_json(each) for each in found)
            partial = kept.with_name(f".truth-{os.getpid()}-{uuid.uuid4().hex[:8]}")
            partial.write_text(json.dumps(found), encoding="utf-8")
            partial.replace(kept)
        return tuple(PlumeTruth.from_json(each) for each in json.loads(kept.read_text(encoding="utf-8")))


def _raster(folder: Path, band: str) -> Path:
    """Return the file of a band in the folder of an encoding."""
    return folder / f"{band}{SUFFIXES[folder.name.partition('-')[0]]}"


def _read(path: Path, window: tuple[int, int, int, int] | None) -> npt.NDArray[Any]:
    import rasterio  # noqa: PLC0415 - GDAL takes long to import, and serving needs none of it
    from rasterio.windows import Window  # noqa: PLC0415

    with rasterio.open(path) as raster:
        return np.asarray(raster.read(1, window=Window(*window) if window else None))
