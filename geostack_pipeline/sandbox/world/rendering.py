"""From a scene to files: rendered bands are encoded, described and put in place by one rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geostack_pipeline.sandbox.world.cog import write_cog
from geostack_pipeline.sandbox.world.grids import Floats, Grid
from geostack_pipeline.sandbox.world.ground import Ground, TileGround
from geostack_pipeline.sandbox.world.jp2 import write_jp2
from geostack_pipeline.sandbox.world.plan import FACTOR
from geostack_pipeline.sandbox.world.render import SceneRenderer, halved, numbers_from, percentages
from geostack_pipeline.sandbox.world.scene import FOOTPRINT_PPM_M, PhysicalScene

if TYPE_CHECKING:
    from geostack_pipeline.sandbox.world.world import Encoding, World

JP2_LEFT_OUT = frozenset({"B08"})
"""Bands that JPEG 2000 encodings do not have."""


def render_scene(
    world: World, scene: PhysicalScene, todo: list[Encoding], grounds: dict[tuple[str, str], TileGround]
) -> None:
    """Render a scene into the encodings ``todo``; ``grounds`` remembers what lies below each tile.

    Each encoding's folder appears complete, by a rename; where another process was faster, its folder stays.
    """
    key = (scene.site.name, scene.tile.mgrs)
    if key not in grounds:
        grounds[key] = Ground(world.seed, scene.site).tile(scene.tile)
    renderer = SceneRenderer(world.seed, scene, grounds[key])
    home = world.scene_folder(scene)
    home.mkdir(parents=True, exist_ok=True)
    for leftover in home.glob(".tmp-*"):
        if not _alive(leftover.name):
            shutil.rmtree(leftover, ignore_errors=True)
    work = home / f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        facts = _write(world, scene, todo, renderer, work)
        (work / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        (work / "facts.json").replace(home / "facts.json")
        for encoding in todo:
            try:
                (work / encoding.folder).rename(home / encoding.folder)
            except OSError:
                if not (home / encoding.folder).is_dir():
                    raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(
    world: World, scene: PhysicalScene, todo: list[Encoding], renderer: SceneRenderer, work: Path
) -> dict[str, Any]:
    """Write the files of all encodings below ``work``; return the scene's facts."""
    block = scene.site.block_pixels
    gains = {processing.baseline: processing.gain for processing in scene.overpass.processings}
    column = renderer.enhancement()
    classes = renderer.classification()
    for encoding in todo:
        (work / encoding.folder).mkdir(parents=True)
    for band in world.plan.bands:
        reflectance = renderer.reflectance(band, column)
        grid = scene.grid.coarser(FACTOR[band])
        for encoding in todo:
            numbers = numbers_from(reflectance, gain=gains[encoding.baseline], offset=encoding.offset)
            _encode(work, encoding, band, numbers, grid, block)
    for encoding in todo:
        folder = work / encoding.folder
        _encode(work, encoding, "SCL", classes, scene.grid.coarser(2), block)
        listing = {path.name: _describe(path) for path in sorted(folder.iterdir())}
        (folder / "files.json").write_text(json.dumps(listing, indent=1), encoding="utf-8")
    return {"percentages": percentages(classes), "visible": _visible(scene, renderer, classes)}


def _encode(
    work: Path, encoding: Encoding, band: str, numbers: npt.NDArray[Any], grid: Grid, block: int
) -> None:
    path = work / encoding.folder / f"{band}{encoding.suffix}"
    if encoding.container == "jp2":
        # Their codec is slow: what no catalog of JPEG 2000 files needs is left out.
        if band not in JP2_LEFT_OUT:
            write_jp2(path, numbers, grid, block=2 * block)
    else:
        write_cog(path, numbers, grid, block=block, categorical=band == "SCL")


def _visible(
    scene: PhysicalScene, renderer: SceneRenderer, classes: npt.NDArray[np.uint8]
) -> dict[str, list[int]]:
    """Return plume -> [clear pixels, pixels] of its footprint within this tile."""
    counts = {}
    for planted in scene.overpass.plumes:
        inside = halved(renderer.enhancement((planted,))) >= FOOTPRINT_PPM_M
        clear = inside & np.isin(classes, (4, 5))
        counts[planted.name] = [int(clear.sum()), int(inside.sum())]
    return counts


def column_of(seed: int, scene: PhysicalScene) -> Floats:
    """Return the true methane column of a scene's plumes on its 20 m pixels, ppm m."""
    empty = TileGround(reflectance={}, vegetated=np.zeros((0, 0), np.float32))
    return halved(SceneRenderer(seed, scene, empty).enhancement())


def _describe(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    about = {"size": len(data), "md5": hashlib.md5(data, usedforsecurity=False).hexdigest()}
    if path.suffix == ".jp2":
        about["sha3_256"] = hashlib.sha3_256(data).hexdigest()
    return about


def _alive(name: str) -> bool:
    """Tell whether the process that made a temporary folder still runs."""
    try:
        os.kill(int(name.split("-")[1]), 0)
    except (ProcessLookupError, ValueError, IndexError):
        return False
    except PermissionError:
        return True
    return True
