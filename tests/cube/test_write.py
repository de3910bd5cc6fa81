"""Trees of cubes on disk: what plain xarray, rioxarray and zarr make of them."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numcodecs.blosc
import numpy as np
import pytest
import xarray as xr
import zarr
from cube_oracle import layer, scene
from obstore.store import LocalStore
from synthetic_rasters import noise, write_tiff
from zarr.storage import ObjectStore

from geostack_pipeline.areas import Area
from geostack_pipeline.cube.build import build_cube, build_packed
from geostack_pipeline.cube.grid import GridSpec, grid_for
from geostack_pipeline.cube.lazy import lazy
from geostack_pipeline.cube.write import finish_tree, write_node
from geostack_pipeline.errors import RasterError

GRID = grid_for(Area(name="a", bbox=(10.32, 45.93, 10.42, 46.04), resolution_m=20))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    folder = tmp_path_factory.mktemp("scene")
    band = write_tiff(folder / "b.tif", noise((2, 700, 640), "uint16"), predictor=2)
    classes = write_tiff(
        folder / "s.tif", np.clip(noise((1, 700, 640), "uint8") % 12, 1, 11).astype(np.uint8)
    )
    bands = {"SCL": layer(classes), "B11": layer(band), "B12": layer(band, band=2)}
    return build_packed(GRID, [scene("S2A_one", bands), scene("S2A_two", bands)], ["B11", "B12"])


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write(folder: Path, nodes: dict[str, xr.Dataset]) -> Path:
    folder.mkdir()
    store = ObjectStore(LocalStore(folder))
    for name, dataset in nodes.items():
        write_node(store, name, dataset)
    finish_tree(store, {"provider": "earth_search"})
    return folder


def test_same_input_same_bytes(tmp_path: Path, packed: xr.Dataset) -> None:
    before = numcodecs.blosc.get_nthreads()
    found = []
    try:
        for threads, dataset in ((1, packed), (8, packed), (2, xr.decode_cf(packed))):
            numcodecs.blosc.set_nthreads(threads)
            found.append(digests(write(tmp_path / str(len(found)), {"korpezhe": dataset})))
    finally:
        numcodecs.blosc.set_nthreads(before)
    assert len(found[0]) > 30
    assert found[0] == found[1], "threads of the codec"
    assert found[0] == found[2], "written decoded"


def test_reads_back_with_plain_xarray(tmp_path: Path, packed: xr.Dataset) -> None:
    folder = write(tmp_path / "tree", {"korpezhe": packed, "empty": build_cube(GRID, [], ["B11"])})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        tree = xr.open_datatree(folder, engine="zarr", chunks=None)
        alone = xr.open_zarr(folder, group="korpezhe", chunks=None)
    assert set(tree.children) == {"korpezhe", "empty"}
    assert tree.attrs == {"provider": "earth_search"}
    expected = xr.decode_cf(packed)
    for found in (tree["korpezhe"].to_dataset(), alone):
        assert set(found.variables) == set(expected.variables)
        for name in expected.variables:
            one, other = found[name], expected[name]
            assert one.dims == other.dims, name
            if other.dtype.kind == "O" or one.dtype.kind == "T":
                assert [str(v) for v in one.values] == [str(v) for v in other.values], name
            else:
                assert np.array_equal(one.values, other.values, equal_nan=other.dtype.kind == "f"), name
    assert alone.reflectance.attrs["units"] == "1"
    assert alone.scl.dtype == np.uint8
    assert alone.source_scene.dtype == np.int16
    assert alone.sel(band="B12").reflectance.shape == (1, *GRID.shape)
    assert np.isfinite(alone.reflectance.values).mean() > 0.5
    assert tree["empty"].sizes["time"] == 0
    assert zarr.open_group(folder, mode="r").metadata.consolidated_metadata is not None


def test_georeferencing_is_understood(tmp_path: Path, packed: xr.Dataset) -> None:
    rioxarray = pytest.importorskip("rioxarray")
    assert rioxarray is not None
    folder = write(tmp_path / "tree", {"korpezhe": packed})
    for decode in (True, "all"):
        cube = xr.open_zarr(folder, group="korpezhe", chunks=None, decode_coords=decode)
        assert cube.rio.crs.to_epsg() == 32632
        assert tuple(cube.rio.transform())[:6] == GRID.transform
        assert cube.reflectance.rio.crs.to_epsg() == 32632
        assert cube.rio.bounds() == pytest.approx(GRID.bounds)
    attrs = zarr.open_group(folder, mode="r")["korpezhe"].attrs.asdict()
    assert attrs["proj:code"] == "EPSG:32632"
    assert attrs["proj:transform"][:6] == list(GRID.transform)
    assert attrs["proj:shape"] == list(GRID.shape)


def test_gdal_reads_the_georeferencing(tmp_path: Path, packed: xr.Dataset) -> None:
    import rasterio

    assert rasterio.crs.CRS.from_wkt(packed.spatial_ref.attrs["crs_wkt"]).to_epsg() == 32632
    c, a, b, f, d, e = map(float, packed.spatial_ref.attrs["GeoTransform"].split())
    assert (a, b, c, d, e, f) == GRID.transform


def test_an_empty_tree_opens(tmp_path: Path) -> None:
    folder = write(tmp_path / "tree", {})
    tree = xr.open_datatree(folder, engine="zarr")
    assert not tree.children
    assert tree.attrs == {"provider": "earth_search"}


@pytest.mark.filterwarnings("ignore:Object at")  # a local store leaves empty folders behind
def test_a_node_is_replaced(tmp_path: Path, packed: xr.Dataset) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    store = ObjectStore(LocalStore(folder))
    write_node(store, "a", packed)
    write_node(store, "a", packed[["scl"]].isel(time=slice(0, 0)))
    finish_tree(store, {})
    cube = xr.open_datatree(folder, engine="zarr")["a"].to_dataset()
    assert "reflectance" not in cube
    assert not [path for path in (folder / "a" / "reflectance").rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["", "/", "../x", "a/", "a/../b"])
def test_names_of_nodes_are_checked(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="node"):
        write_node(ObjectStore(LocalStore(tmp_path)), name, xr.Dataset())


def test_chunks_are_squares_of_one_band(tmp_path: Path, packed: xr.Dataset) -> None:
    folder = write(tmp_path / "tree", {"a": packed})
    array = zarr.open_group(folder, mode="r")["a/reflectance"]
    assert GRID.height > 512 > GRID.width
    assert array.chunks == (1, 1, 512, GRID.width)
    assert array.shards == (1, 1, 1024, GRID.width), "all chunks of a band in one object"
    files = [
        path.relative_to(folder).as_posix()
        for path in (folder / "a/reflectance/c").rglob("*")
        if path.is_file()
    ]
    assert sorted(files) == ["a/reflectance/c/0/0/0/0", "a/reflectance/c/0/1/0/0"]
    assert array.dtype == np.uint16
    assert [codec.to_dict()["name"] for codec in array.compressors] == ["blosc"]
    band = zarr.open_group(folder, mode="r")["a/band"]
    assert band.metadata.data_type.to_json(zarr_format=3) == "string"


def test_float_fields_of_other_stages(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2, 300, 600)).astype(np.float32)
    values[0, :50] = np.nan
    times = np.array(["2024-06-01T10:20:31.5", "NaT"], "datetime64[ns]")
    fields = xr.Dataset(
        {
            "ch4": (("time", "y", "x"), values, {"units": "ppm m"}),
            "flags": (("time", "y", "x"), (values > 0).astype(np.uint8)),
            "reference_time": ("time", times),
        },
        coords={
            "time": np.array(["2024-06-01", "2024-06-02"], "datetime64[ns]"),
            "y": np.arange(300.0),
            "x": np.arange(600.0),
        },
    )
    folder = write(tmp_path / "tree", {"a": fields})
    found = xr.open_zarr(folder, group="a", chunks=None)
    assert found.ch4.dtype == np.float32
    assert np.array_equal(found.ch4.values, values, equal_nan=True)
    assert np.array_equal(found.flags.values, fields.flags.values)
    assert found.reference_time.values[0] == times[0]
    assert np.isnat(found.reference_time.values[1])


def test_geographic_grids_are_described(tmp_path: Path) -> None:
    grid = GridSpec(crs="EPSG:4326", transform=(0.5, 0.0, 10.0, 0.0, -0.5, 50.0), width=4, height=3)
    cube = xr.open_zarr(write(tmp_path / "t", {"a": build_cube(grid, [], ["B"])}), group="a", chunks=None)
    assert cube.x.attrs["standard_name"] == "longitude"
    assert cube.y.attrs["units"] == "degrees_north"
    assert cube.y.values.tolist() == [49.75, 49.25, 48.75]


def test_every_shard_is_written_once_and_never_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of a shard could only be written by reading the rest of it: no place for two writers, nor for speed."""
    from geostack_pipeline.cube import write as module

    monkeypatch.setattr(module, "CHUNK", 16)
    monkeypatch.setattr(module, "SHARD", 64)
    calls: list[tuple[str, str]] = []

    class Noted(ObjectStore):
        async def get(self, key, prototype, byte_range=None):
            found = await super().get(key, prototype, byte_range)
            if found is not None:
                calls.append(("get", key))
            return found

        async def set(self, key, value):
            calls.append(("set", key))
            await super().set(key, value)

    values = np.random.default_rng(1).integers(1, 99, (2, 3, 150, 300)).astype(np.uint16)
    cube = xr.Dataset(
        {"v": (("time", "band", "y", "x"), values), "flat": (("y", "x"), values[0, 0].repeat(2, 0)[:150])}
    )
    write_node(Noted(LocalStore(tmp_path)), "a", cube)
    array = zarr.open_array(tmp_path / "a/v", mode="r")
    assert (array.chunks, array.shards) == ((1, 1, 16, 16), (1, 1, 64, 64))
    chunks = [key for call, key in calls if call == "set" and "/c/" in key]
    assert len(chunks) == len(set(chunks)) == 2 * 3 * 3 * 5 + 3 * 5
    assert not [key for call, key in calls if call == "get" and "/c/" in key]
    assert np.array_equal(array[...], values)
    assert np.array_equal(zarr.open_array(tmp_path / "a/flat", mode="r")[...], cube.flat.values)


def _spectra(read: Any, shape: tuple[int, int, int]) -> xr.Dataset:
    spectra = lazy(("line", "sample", "band"), shape, np.float32, read, {"units": "1"})
    plane = xr.Variable(("line", "sample"), np.arange(shape[0] * shape[1]).reshape(shape[:2]))
    return xr.Dataset({"spectra": spectra, "plane": plane})


def test_chunks_that_are_written_apart_are_those_that_are_written_in_turn(tmp_path: Path) -> None:
    values = np.random.default_rng(3).standard_normal((70, 61, 7)).astype(np.float32)
    found = {}
    for apart in ((), ("spectra",)):
        told: list[np.ndarray] = []
        folder = tmp_path / str(len(apart))
        folder.mkdir()
        store = ObjectStore(LocalStore(folder))
        dataset = _spectra(lambda box: values[box], values.shape)
        write_node(
            store,
            "a",
            dataset,
            chunks={"spectra": (16, 8, 7)},
            apart=apart,
            on_block=lambda _, block, told=told: told.append(block.copy()),
        )
        assert sorted(np.concatenate([block.ravel() for block in told])) == sorted(values.ravel())
        assert len(told) == (5 * 8 if apart else 1)
        found[apart] = digests(folder)
    assert found[()] == found["spectra",]
    assert np.array_equal(zarr.open_array(folder / "a/spectra", mode="r")[...], values)


def test_a_chunk_that_cannot_be_read_ends_the_writing(tmp_path: Path) -> None:
    asked: list[tuple[slice, ...]] = []

    def read(box: tuple[slice, ...]) -> np.ndarray:
        asked.append(box)
        if box[0].start == 16 and box[0].stop > 17:
            raise RasterError("The chunk is broken", subject="x", found="noise", action="fetch it again")
        return np.ones(tuple(each.stop - each.start for each in box), np.float32)

    with pytest.raises(RasterError, match="The chunk is broken"):
        write_node(
            ObjectStore(LocalStore(tmp_path)),
            "a",
            _spectra(read, (1600, 8, 7)),
            chunks={"spectra": (16, 8, 7)},
            apart=("spectra",),
        )
    assert len(asked) < 50, "of 100 chunks"
