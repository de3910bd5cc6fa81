"""From the catalog to the methane map in Dagster, on the small world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import rasterio
import xarray as xr

import geostack_pipeline as gp
from geostack_pipeline.errors import ArtifactNotFoundError
from geostack_pipeline.stages.plan import STAGES, make_plan
from geostack_pipeline.stages.workspace import asset_name

FIRST, LAST = "2024-06-01", "2024-06-12"
BUSY = "2024-06-07"
"""A date with a mosaic of two tiles and a reference five days before."""


def _versions(ws: Any, days: tuple[str, ...]) -> dict[tuple[str, str], str]:
    found = {}
    for day in days:
        for stage in STAGES:
            snapshot = ws.artifacts.current(asset_name("earth_search", stage), day)
            assert snapshot is not None, (stage, day)
            found[stage, day] = snapshot.version
    return found


@pytest.fixture(scope="module")
def stored(
    tmp_path_factory: pytest.TempPathFactory, small_sandbox: Any, instance: Any
) -> tuple[Path, Any, Any]:
    """The whole range, run once."""
    import yaml

    from geostack_pipeline.orchestration.build import build_definitions
    from geostack_pipeline.orchestration.launch import Launcher
    from geostack_pipeline.settings import load_settings
    from geostack_pipeline.stages.plan import day_range
    from geostack_pipeline.stages.workspace import open_workspace

    folder = tmp_path_factory.mktemp("whole")
    file = folder / "geostack.yaml"
    file.write_text(yaml.safe_dump({"root": "file:store", **small_sandbox.settings()}), encoding="utf-8")
    settings = load_settings(file)
    ws = open_workspace(settings)
    provider = load_settings(file).build_provider("earth_search")
    launcher = Launcher(build_definitions(settings, str(file)), instance, ws, provider)
    return file, ws, launcher.run(day_range(ws, FIRST, LAST))


def test_every_date_of_every_stage_is_stored(stored: tuple[Path, Any, Any]) -> None:
    _, ws, report = stored
    assert report.failed == {}
    assert len(_versions(ws, report.days)) == 12 * len(STAGES)


def test_an_empty_day_is_a_value(stored: tuple[Path, Any, Any]) -> None:
    file, _, _ = stored
    scenes = gp.load("earth_search/scenes", "2024-06-03", settings=file)
    assert isinstance(scenes, pl.DataFrame)
    assert scenes.height == 0
    assert scenes.columns == gp.load("earth_search/scenes", BUSY, settings=file).columns
    tree = gp.load("earth_search/cube", "2024-06-03", settings=file)
    assert isinstance(tree, xr.DataTree)
    assert not tree.children
    assert gp.load("earth_search/methane", "2024-06-03", name="plumes", settings=file).height == 0


def test_duplicates_are_dropped_with_their_reason(stored: tuple[Path, Any, Any]) -> None:
    file, _, _ = stored
    scenes = gp.load("earth_search/scenes", "2024-06-02", settings=file)
    selected = gp.load("earth_search/selected", "2024-06-02", settings=file)
    dropped = gp.load("earth_search/selected", "2024-06-02", name="dropped", settings=file)
    assert scenes.height == selected.height + dropped.height
    assert selected["geostack:scene"].n_unique() == selected.height
    assert set(dropped["reason"]) == {"duplicate"}
    assert (selected["processing:baseline"] > "04").all()


def test_the_cloudy_scene_is_dropped_by_the_filter(stored: tuple[Path, Any, Any]) -> None:
    file, _, _ = stored
    dropped = gp.load("earth_search/selected", "2024-06-04", name="dropped", settings=file)
    assert set(dropped["reason"]) == {"where"}


def test_reflectance_is_that_of_the_source_files(stored: tuple[Path, Any, Any], small_sandbox: Any) -> None:
    """The cube against the published COGs, read whole by rasterio."""
    file, _, _ = stored
    tree = gp.load("earth_search/cube", BUSY, settings=file)
    manifest = gp.load("earth_search/granules", BUSY, settings=file)
    node = tree["korpezhe"].to_dataset()
    compared = 0
    for index, item in enumerate(node["scene"].values):
        row = manifest.filter((pl.col("item_id") == str(item)) & (pl.col("asset") == "B12")).row(
            0, named=True
        )
        key = row["canonical"].removeprefix("s3://sentinel-cogs/")
        with (
            rasterio.open(small_sandbox.world.folder / "bucket" / key)
            if (small_sandbox.world.folder / "bucket" / key).exists()
            else rasterio.open(
                f"/vsicurl/{small_sandbox.endpoints['sentinel-cogs']}/sentinel-cogs/{key}"
            ) as source
        ):
            if source.crs.to_string() != node.attrs.get("proj:code"):
                continue
            pixels = source.read(1)
            inverse = ~source.transform
        mine = node["source_scene"].isel(time=0).values == index
        rows, columns = np.nonzero(mine)
        x, y = node["x"].values[columns], node["y"].values[rows]
        col, line = inverse @ (x, y)
        expected = (
            pixels[np.floor(line).astype(int), np.floor(col).astype(int)] * row["scale"] + row["offset"]
        )
        got = node["reflectance"].sel(band="B12").isel(time=0).values[rows, columns]
        np.testing.assert_allclose(got, expected, atol=1e-7)
        compared += rows.size
    assert compared > 1000


def test_the_tree_opens_with_plain_xarray(stored: tuple[Path, Any, Any]) -> None:
    _, ws, _ = stored
    snapshot = ws.artifacts.current("earth_search/cube", BUSY)
    tree = xr.open_datatree(snapshot.local_path("tree.zarr"), engine="zarr")
    assert set(tree.children) == {"korpezhe"}
    assert set(tree["korpezhe"].data_vars) >= {"reflectance", "scl", "source_scene"}
    assert tree["korpezhe"]["reflectance"].dims == ("time", "band", "y", "x")


def test_a_strong_planted_plume_is_found_and_the_reference_is_recorded(
    stored: tuple[Path, Any, Any], small_sandbox: Any
) -> None:
    from geostack_pipeline.commands.demo import score_plumes

    _, ws, report = stored
    score = score_plumes(ws, "earth_search", report.days, small_sandbox.truth())
    assert score.planted == len(small_sandbox.truth())
    assert score.found >= 2
    fields = ws.artifacts.current("earth_search/methane", BUSY).open()["korpezhe"]
    assert np.datetime_as_string(fields["reference_time"].values[0], unit="D") == "2024-06-02"
    assert fields.attrs["maturity"] == "screening"


def test_lineage_names_the_versions_read(stored: tuple[Path, Any, Any]) -> None:
    _, ws, report = stored
    versions = _versions(ws, report.days)
    methane = ws.artifacts.current("earth_search/methane", BUSY)
    assert methane.upstream[f"earth_search/cube/{BUSY}"] == versions["cube", BUSY]
    assert methane.upstream["earth_search/cube/2024-06-02"] == versions["cube", "2024-06-02"]
    granules = ws.artifacts.current("earth_search/granules", BUSY)
    assert granules.upstream == {f"earth_search/selected/{BUSY}": versions["selected", BUSY]}


def test_what_is_stored_verifies(stored: tuple[Path, Any, Any]) -> None:
    _, ws, report = stored
    for stage, day in _versions(ws, report.days):
        assert ws.artifacts.current(asset_name("earth_search", stage), day).verify() == []


def test_a_second_run_launches_nothing(stored: tuple[Path, Any, Any], run: Any, small_sandbox: Any) -> None:
    file, ws, report = stored
    small_sandbox.clear_log()
    again, _ = run(file, FIRST, LAST)
    assert again.launched == 0
    assert small_sandbox.log()["entries"] == []
    assert _versions(ws, report.days)


def test_dagster_has_each_dates_own_version(stored: tuple[Path, Any, Any], instance: Any) -> None:
    import dagster as dg

    _, ws, report = stored
    for stage in STAGES:
        key = dg.AssetKey(["earth_search", stage])
        assert set(instance.get_materialized_partitions(key)) >= set(report.days)
        record = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=[BUSY]), limit=1
        ).records[0]
        tags = record.asset_materialization.tags
        assert tags["dagster/data_version"] == ws.artifacts.current(f"earth_search/{stage}", BUSY).version


def test_bytes_moved_are_a_small_part_of_the_whole_files(stored: tuple[Path, Any, Any]) -> None:
    file, _, report = stored
    whole = 0
    for day in report.days:
        manifest = gp.load("earth_search/granules", day, settings=file)
        whole += int(manifest.unique(subset=["canonical"])["source_size"].sum())
        assert (manifest["form"] == "crop").all()
    assert 0 < report.stats["granules/bytes_moved"] < 0.6 * whole


def test_loading_what_is_not_there_says_what_is(stored: tuple[Path, Any, Any]) -> None:
    file, _, _ = stored
    with pytest.raises(ArtifactNotFoundError, match=r"stored assets: earth_search/cube, "):
        gp.load("earth_search/clouds", BUSY, settings=file)
    with pytest.raises(ArtifactNotFoundError, match=r"stored versions: none"):
        gp.load("earth_search/cube", "2024-07-01", settings=file)
    with pytest.raises(ArtifactNotFoundError, match=r"Next: choose one of them"):
        gp.load("earth_search/cube", BUSY, version="0123456789abcdef", settings=file)


def test_a_changed_setting_touches_only_what_depends_on_it(
    stored: tuple[Path, Any, Any], run: Any, small_sandbox: Any, tmp_path: Path
) -> None:
    import yaml

    from geostack_pipeline.settings import load_settings
    from geostack_pipeline.stages.workspace import open_workspace

    file, _, report = stored
    raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    raw["root"] = f"file:{file.parent / 'store'}"
    raw["methane"] = {"detection": {"min_area_m2": 20_000.0}}
    other = tmp_path / "stricter.yaml"
    other.write_text(yaml.safe_dump(raw), encoding="utf-8")
    ws = open_workspace(load_settings(other))
    plan = make_plan(ws, load_settings(other).build_provider("earth_search"), report.days)
    assert {step.stage for step in plan.pending()} == {"methane", "plumes", "published"}


def test_a_new_area_adds_nodes_and_takes_the_others_over(
    sandbox_settings: Callable[..., Path], run: Any, small_sandbox: Any
) -> None:
    areas = small_sandbox.settings()["areas"]
    one = sandbox_settings("one.yaml", areas={"korpezhe": areas["korpezhe"]})
    _, ws = run(one, BUSY, BUSY, until="cube")
    before = ws.artifacts.current("earth_search/cube", BUSY)
    west, south, east, north = areas["korpezhe"]["bbox"]
    corner = {"bbox": [west, south, (west + east) / 2, (south + north) / 2]}
    both = sandbox_settings("both.yaml", areas={"korpezhe": areas["korpezhe"], "corner": corner})
    report, ws = run(both, BUSY, BUSY, until="cube")
    after = ws.artifacts.current("earth_search/cube", BUSY)
    assert set(after.nodes) == {"korpezhe", "corner"}
    assert after.nodes["korpezhe"] == before.nodes["korpezhe"]
    assert report.stats["cube/taken_over"] == 1
    assert report.stats["cube/computed"] == 1
    part = f"{before.local_path('tree.zarr/korpezhe')}"
    same = f"{after.local_path('tree.zarr/korpezhe')}"
    xr.testing.assert_identical(
        xr.open_zarr(part, consolidated=False).load(), xr.open_zarr(same, consolidated=False).load()
    )
    assert before.verify() == []


def test_a_pinned_list_is_read_instead_of_the_current_one(
    sandbox_settings: Callable[..., Path], run: Any, small_sandbox: Any
) -> None:
    file = sandbox_settings()
    small_sandbox.fault("wrong-offset-flag@earth_search?count=always")
    _, ws = run(file, "2024-06-06", "2024-06-06", until="selected")
    old = ws.artifacts.current("earth_search/scenes", "2024-06-06").version
    small_sandbox.clear_faults()
    _, ws = run(file, "2024-06-06", "2024-06-06", until="selected", refresh=True)
    new = ws.artifacts.current("earth_search/scenes", "2024-06-06").version
    assert new != old
    _, ws = run(
        file,
        "2024-06-06",
        "2024-06-06",
        until="selected",
        pins={"earth_search/scenes/2024-06-06": old},
    )
    assert ws.artifacts.current("earth_search/scenes", "2024-06-06").version == new
    selected = ws.artifacts.current("earth_search/selected", "2024-06-06")
    assert selected.upstream == {"earth_search/scenes/2024-06-06": old}


def test_all_dates_are_one_timeline(stored: tuple[Path, Any, Any]) -> None:
    file, ws, _ = stored
    area = ws.areas[0].name
    year = gp.load_timeline("earth_search", area, FIRST, LAST, settings=file)
    step = 0
    for day in (f"2024-06-{number:02d}" for number in range(1, 13)):
        tree = gp.load("earth_search/cube", day, settings=file)
        if area not in tree.children:
            continue
        cube = tree[area].to_dataset()
        there = year.isel(time=slice(step, step + cube.sizes["time"]))
        for name in ("time", "reflectance", "scl"):
            assert np.array_equal(there[name].values, cube[name].values, equal_nan=name == "reflectance")
        step += cube.sizes["time"]
    assert step == year.sizes["time"] >= 3


def test_all_cubes_lie_on_the_stored_grid(stored: tuple[Path, Any, Any]) -> None:
    file, ws, report = stored
    seen = set()
    for day in report.days:
        tree = gp.load("earth_search/cube", day, settings=file)
        assert isinstance(tree, xr.DataTree)
        for area, node in tree.children.items():
            grid = gp.load_grid(area, settings=file)
            assert np.array_equal(node["x"].values, grid.x)
            assert np.array_equal(node["y"].values, grid.y)
            seen.add(area)
    stored_grids = {meta["path"].split("/")[1] for meta in ws.artifacts.root.objects("grids")}
    assert seen <= stored_grids == {area.name for area in ws.areas}


def test_overviews_make_another_version_with_the_same_cube(stored: tuple[Path, Any, Any]) -> None:
    from geostack_pipeline.settings import load_settings
    from geostack_pipeline.stages import cube
    from geostack_pipeline.stages.workspace import open_workspace

    file, ws, _ = stored
    settings = load_settings(file)
    own = settings.provider("earth_search").model_copy(update={"overviews": 2})
    other = open_workspace(
        settings.model_copy(update={"providers": {**settings.providers, "earth_search": own}})
    )
    provider = settings.build_provider("earth_search")
    plain = ws.artifacts.current("earth_search/cube", BUSY)
    granules = ws.artifacts.current("earth_search/granules", BUSY)
    try:
        found = cube.build(other, provider, BUSY, granules).snapshot
        assert found.version != plain.version
        assert cube.build(other, provider, BUSY, granules).reused
        for area in plain.nodes:
            xr.testing.assert_identical(
                found.open()[area].to_dataset().drop_attrs(), plain.open()[area].to_dataset().drop_attrs()
            )
            levels = gp.load("earth_search/cube", BUSY, name=f"{area}/overviews", settings=file)
            assert list(levels.children) == ["2", "4"]
            fine, coarse = found.open()[area]["reflectance"], levels["4"]["reflectance"]
            rows, columns = fine.sizes["y"] // 4 * 4, fine.sizes["x"] // 4 * 4
            blocks = fine.values[:, :, :rows, :columns].reshape(
                *fine.shape[:2], rows // 4, 4, columns // 4, 4
            )
            whole = np.isfinite(blocks).all(axis=(3, 5))
            expected = blocks.mean(axis=(3, 5))[whole]
            assert np.abs(coarse.values[:, :, : rows // 4, : columns // 4][whole] - expected).max() <= 0.51e-4
    finally:
        assert cube.build(ws, provider, BUSY, granules).reused
    assert ws.artifacts.current("earth_search/cube", BUSY).version == plain.version
