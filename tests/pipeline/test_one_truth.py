"""One physical scene, four catalogs: the same reflectance in every cube, and one name for the scene.

The catalogs differ in all that they could: the offset is removed from the files or not, and said so rightly, wrongly or
not at all; COGs and JPEG 2000; other asset keys, other times for one scene, one processing or two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml

from geostack_pipeline.catalog.scene_table import from_parquet
from geostack_pipeline.errors import IntegrityError
from geostack_pipeline.sandbox import Sandbox
from geostack_pipeline.settings import Settings, load_settings
from geostack_pipeline.stages import cube, granules, scenes, selected
from geostack_pipeline.stages.workspace import open_workspace
from geostack_pipeline.storage.snapshot import Snapshot

pytestmark = pytest.mark.slow  # four catalogs rendered and run: minutes

PROVIDERS = ("earth_search", "planetary_computer", "cdse", "sentinel_hub")
DAYS = ("2024-06-02", "2024-06-06")
"""Two tiles in two UTM zones, each processed twice; a swath's edge, with wrong offsets in two catalogs."""
BANDS = ["B03", "B12"]


@pytest.fixture(scope="module")
def served(worlds: Path) -> Iterator[Sandbox]:
    with Sandbox.start(worlds, small=True, providers=PROVIDERS) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def told(served: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of all four, a store, the logins in the environment, and a machine that has its own of AWS."""
    folder = tmp_path_factory.mktemp("truth")
    settings: dict[str, Any] = {"root": "file:store", **served.settings()}
    for own in settings["providers"].values():
        own |= {"bands": BANDS, "where": None}
    file = folder / "geostack.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            **served.credentials(),
            "AWS_ACCESS_KEY_ID": "MACHINE",
            "AWS_SECRET_ACCESS_KEY": "machine",
            "AWS_SKIP_SIGNATURE": "true",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            "AZURE_STORAGE_ACCOUNT_NAME": "machine",
        }.items():
            patch.setenv(name, value)
        yield load_settings(file)


def _run(settings: Settings, provider_key: str, day: str) -> Mapping[str, Snapshot]:
    ws = open_workspace(settings, run_id="truth")
    provider = settings.build_provider(provider_key)
    listed = scenes.build(ws, provider, day, refresh=True).snapshot
    chosen = selected.build(ws, provider, day, listed).snapshot
    fetched = granules.build(ws, provider, day, chosen).snapshot
    return {
        "selected": chosen,
        "granules": fetched,
        "cube": cube.build(ws, provider, day, fetched).snapshot,
    }


@pytest.fixture(scope="module")
def made(told: Settings) -> Mapping[tuple[str, str], Mapping[str, Snapshot]]:
    return {(key, day): _run(told, key, day) for key in PROVIDERS for day in DAYS}


def _nodes(snapshot: Snapshot) -> dict[str, xr.Dataset]:
    tree = snapshot.open()
    return {name: tree[name].to_dataset().load() for name in sorted(snapshot.nodes)}


@pytest.mark.parametrize("day", DAYS)
def test_all_cubes_hold_the_same_reflectance(
    made: Mapping[tuple[str, str], Mapping[str, Snapshot]], day: str
) -> None:
    truth = _nodes(made["earth_search", day]["cube"])
    assert truth
    for key in PROVIDERS[1:]:
        other = _nodes(made[key, day]["cube"])
        assert other.keys() == truth.keys()
        for name, mine in truth.items():
            theirs = other[name]
            assert theirs["reflectance"].dtype == mine["reflectance"].dtype
            assert theirs["reflectance"].dims == mine["reflectance"].dims
            assert list(theirs["band"].values) == list(mine["band"].values)
            assert np.array_equal(theirs["x"], mine["x"])
            assert np.array_equal(theirs["y"], mine["y"])
            assert np.isfinite(mine["reflectance"].values).any()
            assert np.array_equal(theirs["reflectance"].values, mine["reflectance"].values, equal_nan=True), (
                f"{key} {day} {name}: largest difference "
                f"{np.nanmax(np.abs(theirs['reflectance'].values - mine['reflectance'].values))}"
            )
            assert np.array_equal(theirs["scl"].values, mine["scl"].values)


@pytest.mark.parametrize("day", DAYS)
def test_all_call_the_scene_by_one_name(
    made: Mapping[tuple[str, str], Mapping[str, Snapshot]], day: str, served: Sandbox
) -> None:
    physical = {scene.id for scene in served.world.scenes if f"{scene.datetime:%Y-%m-%d}" == day}
    for key in PROVIDERS:
        items = from_parquet(made[key, day]["selected"].read("selected.parquet"))
        assert {item["properties"]["geostack:scene"] for item in items} == physical, key
        assert len(items) == len(physical), f"{key} keeps two processings of one scene"
        for node in _nodes(made[key, day]["cube"]).values():
            assert set(node["scene_id"].values.tolist()) <= physical


def test_the_cubes_hold_what_the_satellite_saw(
    made: Mapping[tuple[str, str], Mapping[str, Snapshot]], served: Sandbox
) -> None:
    """Against the world itself, so that four equal mistakes are seen too."""
    (scene,) = [each for each in served.world.scenes if f"{each.datetime:%Y-%m-%d}" == "2024-06-06"]
    node = _nodes(made["cdse", "2024-06-06"]["cube"])["hassi"]
    values = node["reflectance"].sel(band="B12").isel(time=0).values
    truth = served.world.reflectance(scene, "B12")
    grid = scene.grid.coarser(2)
    # The area's grid lies on the tile's lattice: its pixels are the tile's.
    column = round((float(node["x"][0]) - grid.west) / 20.0 - 0.5)
    row = round((grid.north - float(node["y"][0])) / 20.0 - 0.5)
    seen = truth[row : row + values.shape[0], column : column + values.shape[1]]
    assert values.shape == seen.shape
    assert np.isfinite(values).any()
    assert np.array_equal(np.isnan(values), np.isnan(seen))
    np.testing.assert_allclose(values, seen, atol=6e-5, equal_nan=True)


def test_why_each_offset_was_taken_is_in_the_scene_list(
    made: Mapping[tuple[str, str], Mapping[str, Snapshot]],
) -> None:
    reasons = {
        key: {
            item["properties"]["geostack:radiometry"]
            for item in from_parquet(made[key, "2024-06-06"]["selected"].read("selected.parquet"))
        }
        for key in PROVIDERS
    }
    assert reasons["earth_search"] == {"raster:bands"}
    assert reasons["planetary_computer"] == {"baseline"}
    assert reasons["cdse"] == {"baseline-over-raster:offset"}
    assert all(len(each) == 1 for each in reasons.values())


def test_a_file_of_the_data_space_is_fetched_once_for_both_of_its_catalogs(
    made: Mapping[tuple[str, str], Mapping[str, Snapshot]],
) -> None:
    rows = {key: made[key, DAYS[0]]["granules"].open() for key in ("cdse", "sentinel_hub")}
    first, second = (set(rows[key]["blob"]) for key in ("cdse", "sentinel_hub"))
    assert first == second
    assert set(rows["cdse"]["canonical"]) == set(rows["sentinel_hub"]["canonical"])
    assert all(name.startswith("s3://eodata/") for name in rows["cdse"]["canonical"])


def test_a_file_that_is_not_the_promised_one_is_refused(
    told: Settings, served: Sandbox, made: Mapping[tuple[str, str], Mapping[str, Snapshot]], tmp_path: Path
) -> None:
    fresh = told.model_copy(update={"root": f"file:{tmp_path / 'fresh'}"})
    served.fault("corrupt@eodata?path=B12")
    try:
        with pytest.raises(IntegrityError, match="sha3_256") as error:
            _run(fresh, "cdse", "2024-06-06")
        assert "B12" in str(error.value)
    finally:
        served.clear_faults()
    assert _run(fresh, "cdse", "2024-06-06")["cube"].content_digest()
