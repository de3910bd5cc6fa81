"""Many dates as one dataset: the same numbers and coordinates as the dates put one after another by xarray."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
import zarr
from stored_days import ASSET, BANDS, GRID, at, packed, store_day
from zarr.core.sync import sync

import geostack_pipeline as gp
from geostack_pipeline.cube.timeline import open_timeline
from geostack_pipeline.errors import ArtifactNotFoundError, SettingsError, StorageError
from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.roots import open_root

CHUNKS = {"reflectance": (1, 1, 32, 32), "scl": (1, 32, 32), "source_scene": (1, 32, 50)}
FIRST, LAST = "2024-06-01", "2024-06-30"


def fill(artifacts: ArtifactStore) -> None:
    """Five dates: one time, two times, another area alone, nothing seen, a single scene."""
    store_day(
        artifacts,
        "2024-06-01",
        {"field": packed([at("2024-06-01")], [2], seed=1)},
        version="a1",
        chunks=CHUNKS,
    )
    two = packed([at("2024-06-04", 6), at("2024-06-04", 23, 50)], [3, 1], seed=2)
    store_day(artifacts, "2024-06-04", {"field": two}, version="b1", chunks=CHUNKS)
    store_day(artifacts, "2024-06-05", {"other": packed([at("2024-06-05")], [1], seed=3)}, version="c1")
    blank = packed([at("2024-06-08")], [0], seed=4)
    store_day(artifacts, "2024-06-08", {"field": blank, "other": blank}, version="d1", chunks=CHUNKS)
    store_day(
        artifacts,
        "2024-06-20",
        {"field": packed([at("2024-06-20")], [1], seed=5)},
        version="e1",
        chunks=CHUNKS,
    )


def settings_file(folder: Path, root: str, options: dict[str, str] | None = None) -> Path:
    file = folder / "geostack.yaml"
    area = {"bbox": [52.2, 38.8, 52.3, 38.9], "resolution_m": 20}
    content = {
        "root": root,
        "root_options": options or {},
        "areas": {"field": area},
        "providers": {"earth_search": {}, "dlr_geoservice": {}},
    }
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timeline")
    fill(ArtifactStore(open_root(str(folder / "store"))))
    return settings_file(folder, str(folder / "store"))


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import boto3

    server = pytest.importorskip("moto.server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {
            "endpoint": f"http://{host}:{port}",
            "region": "us-east-1",
            "access_key_id": "key",
            "secret_access_key": "secret",
            "allow_http": "true",
        }
        name = f"b{uuid.uuid4().hex[:12]}"
        boto3.client(
            "s3",
            endpoint_url=options["endpoint"],
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
        ).create_bucket(Bucket=name)
        url = f"s3://{name}/some/prefix"
        fill(ArtifactStore(open_root(url, options)))
        yield settings_file(tmp_path_factory.mktemp("bucket"), url, options)
    finally:
        server.stop()


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def settings(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue("local" if request.param == "local" else "bucket")


def singles(settings: Path, days: list[str]) -> list[xr.Dataset]:
    return [gp.load(ASSET, day, settings=settings)["field"].to_dataset().load() for day in days]


DAYS = ["2024-06-01", "2024-06-04", "2024-06-08", "2024-06-20"]


def test_it_is_what_xarray_makes_of_the_single_dates(settings: Path) -> None:
    found = gp.load_timeline("earth_search", "field", FIRST, LAST, settings=settings)
    dates = singles(settings, DAYS)
    by_time = [date.drop_dims("scene") for date in dates]
    expected = xr.concat(
        by_time, dim="time", data_vars="minimal", combine_attrs="drop_conflicts", join="exact"
    )
    expected = expected.drop_attrs(deep=False).assign_attrs(found.attrs)
    scenes = xr.concat(
        [date.drop_dims("time") for date in dates], dim="scene", combine_attrs="drop_conflicts"
    )
    assert found.sizes == {"time": 5, "band": 2, "y": 70, "x": 50, "scene": 7}
    assert set(found.variables) == set(dates[0].variables) | {"cube_version"}
    assert set(found.coords) == set(dates[0].coords) | {"cube_version"}
    for name in found.variables:
        if name in {"source_scene", "cube_version"}:
            continue
        one = found[name]
        other = expected[name] if name in expected.variables else scenes[name]
        assert one.dims == other.dims, name
        assert one.dtype == dates[1][name].dtype, name
        if one.dtype.kind in "OT":
            assert [str(v) for v in one.values.ravel()] == [str(v) for v in other.values.ravel()], name
        else:
            assert np.array_equal(one.values, other.values, equal_nan=one.dtype.kind == "f"), name
        assert one.attrs == other.attrs, name
    assert np.isfinite(found.reflectance.values).any()
    assert found.cube_version.values.tolist() == ["a1", "b1", "b1", "d1", "e1"]
    assert "partition" not in found.attrs
    assert "clipped_pixels" not in found.reflectance.attrs
    assert found.attrs["proj:code"] == "EPSG:32639"
    assert found.indexes["time"].is_monotonic_increasing


def test_scene_numbers_lead_to_the_same_items(local: Path) -> None:
    found = gp.load_timeline("earth_search", "field", FIRST, LAST, settings=local)
    names = np.array([*found.scene.values, "nobody"])
    step = 0
    for date in singles(local, DAYS):
        own = np.array([*date.scene.values, "nobody"])
        for t in range(date.sizes["time"]):
            one, other = found.source_scene.isel(time=step).values, date.source_scene.isel(time=t).values
            assert np.array_equal(names[one], own[other])
            step += 1
    assert found.source_scene.dtype == np.int16
    # every way of asking leads to the same numbers
    whole = found.source_scene.values
    assert np.array_equal(
        found.source_scene.isel(time=[4, 1], y=slice(3, 9), x=[7, 2]).values, whole[[4, 1], 3:9][..., [7, 2]]
    )
    assert found.source_scene.isel(time=2, y=5, x=6).values == whole[2, 5, 6]
    points = xr.DataArray([0, 4], dims="p")
    assert np.array_equal(
        found.source_scene.isel(time=points, y=points, x=points).values, whole[[0, 4], [0, 4], [0, 4]]
    )


def test_nothing_of_the_pixels_is_read_before_it_is_used(
    local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geostack_pipeline.cube.timeline_store import TimelineStore

    asked: list[str] = []
    get = TimelineStore.get

    async def counted(self: TimelineStore, key: str, **options: object) -> object:
        asked.append(key)
        return await get(self, key, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(TimelineStore, "get", counted)
    found = gp.load_timeline("earth_search", "field", FIRST, LAST, settings=local)
    names = ("reflectance/c", "scl/c", "source_scene/c")
    assert not [key for key in asked if key.startswith(names)]
    found.reflectance.isel(band=1, y=40, x=40).values  # noqa: B018
    assert sorted(key for key in asked if key.startswith(names)) == [
        f"reflectance/c/{t}/1/1/1" for t in range(5)
    ]


def test_ranges_include_both_ends_and_skip_what_is_missing(local: Path) -> None:
    found = gp.load_timeline("earth_search", "field", "2024-06-04", "2024-06-08", settings=local)
    assert found.solar_day.dt.strftime("%Y-%m-%d").values.tolist() == ["2024-06-04"] * 2 + ["2024-06-08"]


def test_moments_stand_for_their_date(local: Path) -> None:
    east = timezone(timedelta(hours=8))
    first, last = datetime(2024, 6, 4, 5), datetime(2024, 6, 9, 3, tzinfo=east)
    found = gp.load_timeline("earth_search", "field", first, last, settings=local)
    expected = gp.load_timeline("earth_search", "field", "2024-06-04", "2024-06-08", settings=local)
    assert found.solar_day.equals(expected.solar_day)


def test_it_pickles_and_takes_chunks(local: Path) -> None:
    found = gp.load_timeline("earth_search", "field", FIRST, LAST, settings=local)
    again = pickle.loads(pickle.dumps(found))
    xr.testing.assert_identical(found.load(), again.load())


@pytest.mark.slow  # a process that imports xarray and zarr
def test_another_process_can_compute_it(local: Path, tmp_path: Path) -> None:
    found = gp.load_timeline("earth_search", "field", FIRST, LAST, settings=local)
    (tmp_path / "timeline.pickle").write_bytes(pickle.dumps(found[["scl", "source_scene"]]))
    code = (
        "import pickle, sys; d = pickle.load(open(sys.argv[1], 'rb')); "
        "print(int(d.scl.sum()), int(d.source_scene.astype('i8').sum()))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "timeline.pickle")],
        capture_output=True, text=True, check=True, timeout=900,
    )  # fmt: skip
    expected = f"{int(found.scl.values.sum())} {int(found.source_scene.values.astype(np.int64).sum())}"
    assert said.stdout.strip() == expected


def test_versions_can_be_named(tmp_path: Path) -> None:
    artifacts = ArtifactStore(open_root(str(tmp_path / "store")))
    for day in ("2024-06-01", "2024-06-02"):
        for seed, version in ((1, "old"), (2, "new")):
            store_day(artifacts, day, {"field": packed([at(day)], [1], seed=seed)}, version=version)
    settings = settings_file(tmp_path, str(tmp_path / "store"))

    def load(**versions: str) -> xr.Dataset:
        pins = {f"2024-06-{day[1:]}": version for day, version in versions.items()}
        return gp.load_timeline(
            "earth_search", "field", "2024-06-01", "2024-06-02", versions=pins, settings=settings
        )

    assert load().cube_version.values.tolist() == ["new", "new"]
    pinned = load(d01="old")
    assert pinned.cube_version.values.tolist() == ["old", "new"]
    old = gp.load(ASSET, "2024-06-01", "old", settings=settings)["field"].to_dataset()
    assert np.array_equal(pinned.scl[0].values, old.scl[0].values)
    assert not np.array_equal(pinned.scl[0].values, pinned.scl[1].values)
    with pytest.raises(SettingsError, match="never is not stored"):
        load(d01="never")
    with pytest.raises(SettingsError, match="outside the range"):
        load(d09="old")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            {"grid": dataclasses.replace(GRID, transform=(20.0, 0.0, 600_020.0, 0.0, -20.0, 4_300_020.0))},
            "the grid",
        ),
        ({"grid": dataclasses.replace(GRID, crs="EPSG:32640")}, "the grid"),
        ({"bands": ("B04", "B12")}, "the bands"),
    ],
)
def test_dates_that_do_not_fit_are_named(tmp_path: Path, change: dict[str, object], what: str) -> None:
    artifacts = ArtifactStore(open_root(str(tmp_path / "store")))
    for day in ("2024-06-01", "2024-06-02", "2024-06-03"):
        other = change if day == "2024-06-02" else {}
        store_day(artifacts, day, {"field": packed([at(day)], [1], seed=1, **other)}, version="v")  # type: ignore[arg-type]
    settings = settings_file(tmp_path, str(tmp_path / "store"))
    with pytest.raises(SettingsError, match=rf"1 of 3 dates do not fit.*{what} of 2024-06-02") as caught:
        gp.load_timeline("earth_search", "field", FIRST, LAST, settings=settings)
    assert "geostack run" in str(caught.value)


def test_other_chunks_and_packings_are_refused(tmp_path: Path) -> None:
    artifacts = ArtifactStore(open_root(str(tmp_path / "store")))
    one = packed([at("2024-06-01")], [1], seed=1)
    usual = store_day(artifacts, "2024-06-01", {"field": one}, version="v")
    finer = store_day(artifacts, "2024-06-02", {"field": one}, version="v", chunks=CHUNKS)
    with pytest.raises(SettingsError, match="the chunks or codecs of reflectance of 2024-06-01"):
        open_timeline([usual, finer], "field")
    repacked = one.copy()
    repacked["reflectance"] = one.reflectance.assign_attrs(add_offset=0.0)
    other = store_day(artifacts, "2024-06-03", {"field": repacked}, version="v")
    with pytest.raises(SettingsError, match="the packing or the units of reflectance"):
        open_timeline([usual, other], "field")
    thick = store_day(
        artifacts, "2024-06-04", {"field": packed([at("2024-06-04"), at("2024-06-04", 23)], [1, 1], seed=1)},
        version="v", chunks={"scl": (2, 70, 50)},
    )  # fmt: skip
    with pytest.raises(SettingsError, match="how scl is cut along time"):
        open_timeline([thick], "field")


def test_what_cannot_be_opened_says_why(local: Path) -> None:
    with pytest.raises(SettingsError, match="a swath has no timeline"):
        gp.load_timeline("dlr_geoservice", "field", FIRST, LAST, settings=local)
    with pytest.raises(SettingsError, match="not configured"):
        gp.load_timeline("nobody", "field", FIRST, LAST, settings=local)
    with pytest.raises(ArtifactNotFoundError, match=r"5 stored dates; areas on them: field, other"):
        gp.load_timeline("earth_search", "nowhere", FIRST, LAST, settings=local)
    with pytest.raises(ArtifactNotFoundError, match=r"0 stored dates; areas on them: none"):
        gp.load_timeline("earth_search", "field", "2020-01-01", "2020-02-01", settings=local)
    with pytest.raises(SettingsError, match="ends before it starts"):
        gp.load_timeline("earth_search", "field", LAST, FIRST, settings=local)
    with pytest.raises(SettingsError, match="YYYY-MM-DD"):
        gp.load_timeline("earth_search", "field", "June", LAST, settings=local)


def test_a_lost_chunk_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    artifacts = ArtifactStore(open_root(str(tmp_path / "store")))
    blank = packed([at("2024-06-01")], [0], seed=1)
    full = packed([at("2024-06-02")], [1], seed=2)
    snapshots = [
        store_day(artifacts, day, {"field": cube}, version="v")
        for day, cube in (("2024-06-01", blank), ("2024-06-02", full))
    ]
    assert not [path for path in snapshots[0].files if "/scl/c/" in path], "nothing but fill is not written"
    found = open_timeline(snapshots, "field")
    assert not found.scl[0].values.any()
    chunk = snapshots[1].local_path("tree.zarr/field/scl/c/0/0/0")
    assert chunk is not None
    chunk.unlink()
    assert not found.scl[0].values.any()
    with pytest.raises(StorageError, match=r"a file of the timeline is gone.*scl/c/0/0/0"):
        found.scl.values  # noqa: B018


def test_the_store_lists_and_refuses_like_a_read_only_zarr_store(local: Path) -> None:
    found = gp.load_timeline("earth_search", "field", FIRST, LAST, settings=local)
    from geostack_pipeline.cube import timeline, timeline_store

    snapshots = [ArtifactStore(open_root(str(local.parent / "store"))).current(ASSET, day) for day in DAYS]
    dates = [timeline._read(snapshot, "field", timeline._Alike()) for snapshot in snapshots if snapshot]
    store = timeline_store.TimelineStore(
        dates[0].snapshot.root_url,
        [date.part for date in dates],
        {},
        {name: timeline._joined(name, dates) for name in ("reflectance", "x", "spatial_ref")},
    )
    group = zarr.open_group(store, mode="r")
    assert sorted(name for name, _ in group.arrays()) == ["reflectance", "spatial_ref", "x"]
    assert group["reflectance"].shape == (5, len(BANDS), *GRID.shape)
    assert group["reflectance"].nchunks_initialized == 4 * 2 * 3 * 2, "of the blank date none is written"
    assert np.array_equal(group["x"][:], found.x.values)
    assert store == pickle.loads(pickle.dumps(store))
    for changed in (lambda: group.create_group("a"), lambda: sync(store.delete("x/zarr.json"))):
        with pytest.raises(ValueError, match=r"read-only|read only"):
            changed()


def test_shards_are_joined_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from geostack_pipeline.cube import write

    monkeypatch.setattr(write, "CHUNK", 16)
    monkeypatch.setattr(write, "SHARD", 32)
    monkeypatch.setattr(write, "_LARGE", 100)
    artifacts = ArtifactStore(open_root(str(tmp_path / "store")))
    cubes = {
        day: packed([at(day), at(day, 23)], [2, 0], seed=i)
        for i, day in enumerate(("2024-06-01", "2024-06-02"))
    }
    snapshots = [store_day(artifacts, day, {"field": cube}, version="v") for day, cube in cubes.items()]
    assert "tree.zarr/field/reflectance/c/0/1/2/1" in snapshots[0].files
    assert "tree.zarr/field/reflectance/c/0/1/3/1" not in snapshots[0].files, (
        "16-pixel chunks lie in 32-pixel shards"
    )
    found = open_timeline(snapshots, "field")
    expected = np.concatenate([xr.decode_cf(cube).reflectance.values for cube in cubes.values()])
    assert np.array_equal(found.reflectance.values, expected, equal_nan=True)
    part = found.reflectance.isel(time=[3, 0, 2], band=1, y=slice(30, 51), x=33).values
    assert np.array_equal(part, expected[[3, 0, 2], 1, 30:51, 33], equal_nan=True)


def test_stored_numbers_go_to_jax_as_they_are(local: Path) -> None:
    from geostack_pipeline.cube.loader import blocks, unpacked

    raw = gp.load_timeline("earth_search", "field", FIRST, LAST, mask_and_scale=False, settings=local)
    expected = gp.load_timeline("earth_search", "field", FIRST, LAST, settings=local).reflectance.values
    assert raw.reflectance.dtype == np.uint16
    about = raw.reflectance.attrs
    found = [unpacked(block["reflectance"], about) for block in blocks(raw, ["reflectance"], {"time": 2})]
    assert np.allclose(np.concatenate(found), expected, rtol=0, atol=6e-7, equal_nan=True)
