"""Grids of areas: stored once, the same for everybody from then on, and never believed when damaged."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from storage_steps import write

import geostack_pipeline as gp
from geostack_pipeline.areas import Area
from geostack_pipeline.cube import grid as grid_module
from geostack_pipeline.cube import grid_store
from geostack_pipeline.cube.grid import GridSpec, grid_for
from geostack_pipeline.cube.grid_store import definitions, grid_key, settled_grid, stored_grid
from geostack_pipeline.errors import ArtifactNotFoundError, SettingsError, StorageError
from geostack_pipeline.settings import Settings, load_settings
from geostack_pipeline.stages import cube, wishes
from geostack_pipeline.stages.workspace import Workspace, open_workspace
from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.gc import collect
from geostack_pipeline.storage.roots import Root

AREA = Area(name="korpezhe", bbox=(53.95, 38.45, 54.25, 38.60))


def moved(area: Area, columns: int = 1) -> GridSpec:
    """The grid that another PROJ would compute: some pixels further east."""
    grid = grid_for(area)
    a, b, c, d, e, f = grid.transform
    return replace(grid, transform=(a, b, c + columns * a, d, e, f))


@pytest.fixture
def another_proj(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def switch() -> None:
        monkeypatch.setattr(grid_store, "grid_for", moved)
        monkeypatch.setattr(grid_module, "grid_for", moved)

    return switch


def test_a_grid_is_computed_once(any_root: Root, another_proj: Callable[[], None]) -> None:
    expected = grid_for(AREA)
    assert stored_grid(any_root, AREA) is None
    assert definitions(any_root, AREA.name) == []
    assert settled_grid(any_root, AREA) == expected
    key = f"grids/korpezhe/{grid_key(AREA).rsplit('/', 1)[1]}"
    assert [meta["path"] for meta in any_root.objects("grids")] == [key] == definitions(any_root, AREA.name)
    before = any_root.read(key)
    another_proj()
    assert settled_grid(any_root, AREA) == stored_grid(any_root, AREA) == expected != moved(AREA)
    assert any_root.read(key) == before
    document = json.loads(before)
    assert document["grid"] == {
        "crs": "EPSG:32640",
        "transform": list(expected.transform),
        "width": expected.width,
        "height": expected.height,
    }
    assert set(document["made_with"]) == {"proj", "pyproj"}


def test_another_definition_is_another_file_and_the_first_one_stays(
    root: Root, another_proj: Callable[[], None]
) -> None:
    expected = settled_grid(root, AREA)
    others = [
        replace(AREA, bbox=(53.95, 38.45, 54.25, 38.61)),
        replace(AREA, resolution_m=10),
        replace(AREA, crs="EPSG:32639"),
        replace(AREA, name="twin"),
    ]
    assert len({grid_key(area) for area in (AREA, *others)}) == 5
    another_proj()
    assert [settled_grid(root, area) for area in others] == [moved(area) for area in others]
    assert len(definitions(root, "korpezhe")) == 4
    assert settled_grid(root, AREA) == expected
    # the same numbers, written otherwise, and what is no matter of pixels
    same = Area(name="zero", bbox=(0, -1, 1, 1), resolution_m=20)
    assert grid_key(same) == grid_key(replace(same, bbox=(-0.0, -1.0, 1.0, 1.0), resolution_m=20.0))
    assert grid_key(replace(AREA, resampling="average")) == grid_key(AREA)


def test_another_rule_of_snapping_is_another_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    before = grid_key(AREA)
    monkeypatch.setattr(grid_store, "SNAP", "pixel centre at 0, 0")
    assert grid_key(AREA) != before


def _twin(text: bytes) -> bytes:
    """What stands in the file of another area."""
    return grid_store._encoded(replace(AREA, name="twin"), grid_for(AREA))


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda text: text[:100], "100 bytes that are no JSON"),
        (lambda text: b"", "0 bytes"),
        (lambda text: b"[]", "list"),
        (lambda text: text.replace(b'"format":1', b'"format":2'), "format 2"),
        (lambda text: text.replace(b'"width":', b'"width":1'), "edited or damaged"),
        (lambda text: text.replace(b'"digest"', b'"digit"'), "KeyError"),
        (_twin, "area 'twin'"),
        (
            lambda text: grid_store._encoded(replace(AREA, resolution_m=60.0), grid_for(AREA)),
            "'resolution': 60.0",
        ),
    ],
)
def test_a_damaged_or_foreign_file_is_named_and_left_alone(
    root: Root, damage: Callable[[bytes], bytes], found: str
) -> None:
    settled_grid(root, AREA)
    key = grid_key(AREA)
    bad = damage(root.read(key))
    root.put(key, bad)
    for use in (stored_grid, settled_grid):
        with pytest.raises(StorageError, match=re.escape(found)) as raised:
            use(root, AREA)
        text = str(raised.value)
        assert "grid of area korpezhe" in text
        assert f"{root.url}/{key}" in text
        assert "Next: restore the file from a copy, or remove it" in text
    assert root.read(key) == bad


def test_the_grid_that_a_run_wrote_and_somebody_removed_is_told_of(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid_store, "_create", lambda *_: False)
    with pytest.raises(StorageError, match="removed at once"):
        settled_grid(root, AREA)


def test_threads_that_compute_different_grids_agree(any_root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(8)

    def computed(area: Area) -> GridSpec:
        together.wait(30)  # nobody has stored anything, everybody is about to
        return moved(area, threading.get_ident() % 1000)

    monkeypatch.setattr(grid_store, "grid_for", computed)
    with ThreadPoolExecutor(8) as pool:
        found = [job.result() for job in [pool.submit(settled_grid, any_root, AREA) for _ in range(8)]]
    assert len(set(found)) == 1
    assert stored_grid(any_root, AREA) == found[0]


RACER = """
import sys, time
from dataclasses import replace
from geostack_pipeline.areas import Area
from geostack_pipeline.cube import grid_store
from geostack_pipeline.storage.roots import open_root
root, me, start = open_root(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
whole = grid_store.grid_for
grid_store.grid_for = lambda area: replace(whole(area), width=10_000 + me)
areas = [Area(name=f"a{n}", bbox=(10.0, 45.0, 10.1 + n / 100, 45.1)) for n in range(25)]
whole(areas[0])
time.sleep(max(0.0, start - time.time()))
for area in areas:
    print(area.name, grid_store.settled_grid(root, area).width)
"""


def test_processes_that_compute_different_grids_agree(root: Root) -> None:
    start = str(time.time() + 4.0)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, root.url, str(n), start], stdout=subprocess.PIPE, text=True
        )
        for n in range(3)
    ]
    outputs = [racer.communicate(timeout=120)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 3
    assert len(set(outputs)) == 1
    assert len(outputs[0].splitlines()) == 25
    # no half of a file has another name either
    assert all(path.suffix == ".json" for path in (root.path / "grids").rglob("*") if path.is_file())


def test_gc_keeps_grids_and_sweeps_what_a_killed_writer_left(root: Root) -> None:
    store = ArtifactStore(root)
    write(store, version="v1")
    write(store, version="v2")
    grid = settled_grid(root, AREA)
    retired = settled_grid(root, replace(AREA, name="no_longer_an_area"))
    for path in (root.path / "grids").rglob("*.json"):
        os.utime(path, (1e9, 1e9))
    left = (root.path / grid_key(AREA)).with_name("x.json#12ab")
    left.write_bytes(b"half")
    assert collect(store, grace=timedelta(0), dry_run=False).versions == 1
    assert left.exists(), "its writer may be alive"
    os.utime(left, (1e9, 1e9))
    assert collect(store, grace=timedelta(0), dry_run=False).names == ()
    assert not left.exists()
    assert stored_grid(root, AREA) == grid
    assert stored_grid(root, replace(AREA, name="no_longer_an_area")) == retired


def test_gc_keeps_grids_on_an_object_store(s3_root: Root) -> None:
    grid = settled_grid(s3_root, AREA)
    assert collect(ArtifactStore(s3_root), grace=timedelta(0), dry_run=False).names == ()
    assert stored_grid(s3_root, AREA) == grid


# -- stages -----------------------------------------------------------------------------------------


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    file = tmp_path / "geostack.yaml"
    box = "bbox: [53.95, 38.45, 54.25, 38.60]"
    file.write_text(
        f"root: file:store\nareas: {{korpezhe: {{{box}}}}}\nproviders: {{earth_search: {{}}, planetary_computer: {{}}}}\n",
        encoding="utf-8",
    )
    return file


def _versions(ws: Workspace, settings: Settings) -> list[str]:
    return [
        cube.version(ws, settings.build_provider(key), "granules")
        for key in ("earth_search", "planetary_computer")
    ]


def test_versions_and_windows_of_all_providers_stay_with_the_stored_grid(
    settings_file: Path, another_proj: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(settings_file)
    (area,) = settings.area_list
    before = _versions(open_workspace(settings), settings)
    root = open_workspace(settings).artifacts.root
    assert definitions(root, "korpezhe") == [], "planning stores nothing"
    writer = open_workspace(settings)
    writer.settle_grids()
    assert _versions(writer, settings) == before, "what is stored is what was computed until now"
    another_proj()
    later = open_workspace(settings)
    assert _versions(later, settings) == before
    later.settle_grids()
    assert later.grid(area) == writer.grid(area) != moved(area)
    monkeypatch.setattr(wishes, "from_parquet", lambda _: [{"id": "x"}])
    (target,) = wishes.targets(later, settings.build_provider("earth_search"), _Selected())  # type: ignore[arg-type]
    assert target.bounds == writer.grid(area).bounds
    (root.path / grid_key(area)).unlink()
    assert _versions(open_workspace(settings), settings) != before, "the grid counts for the versions"


class _Selected:
    def open(self, name: str) -> Any:
        import polars as pl

        return pl.DataFrame({"item_id": ["x"], "area": ["korpezhe"], "coverage": [1.0]})

    def read(self, name: str) -> bytes:
        return b""


def test_a_grid_is_looked_up_once_by_a_run(settings_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(settings_file)
    ws = open_workspace(settings)
    ws.settle_grids()
    reads: list[str] = []
    read = Root.read
    monkeypatch.setattr(Root, "read", lambda self, key: (reads.append(key), read(self, key))[1])
    for _ in range(5):
        _versions(ws, settings)
    assert reads == []


def test_load_grid(settings_file: Path, another_proj: Callable[[], None]) -> None:
    settings = load_settings(settings_file)
    with pytest.raises(ArtifactNotFoundError, match=r"area korpezhe.*none at all.*geostack run"):
        gp.load_grid("korpezhe", settings=settings_file)
    ws = open_workspace(settings)
    ws.settle_grids()
    expected = grid_for(settings.area_list[0])
    another_proj()
    assert gp.load_grid("korpezhe", settings=settings_file) == expected
    with pytest.raises(SettingsError, match=r"area 'nowhere'.*korpezhe"):
        gp.load_grid("nowhere", settings=settings_file)
    text = settings_file.read_text(encoding="utf-8")
    settings_file.write_text(text.replace("38.60", "38.70"), encoding="utf-8")
    with pytest.raises(ArtifactNotFoundError, match=r"1 grid\(s\) of other definitions"):
        gp.load_grid("korpezhe", settings=settings_file)
