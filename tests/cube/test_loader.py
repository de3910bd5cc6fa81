"""Blocks for JAX: every number in its place, no copy, no buffer used twice, bounded memory, no thread left behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import LocalStore
from zarr.storage import MemoryStore, ObjectStore

from geostack_pipeline.cube import loader
from geostack_pipeline.cube.loader import aligned_empty, blocks, unpacked

SHAPE = (10, 2, 40, 30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cube")
    rng = np.random.default_rng(3)
    values = rng.integers(0, 60_000, SHAPE).astype(np.uint16)
    values[:, :, :4] = 0
    about = {"scale_factor": 1e-4, "add_offset": -0.1, "_FillValue": np.uint16(0)}
    cube = xr.Dataset(
        {
            "reflectance": (("time", "band", "y", "x"), values, about),
            "scl": (("time", "y", "x"), rng.integers(0, 12, (10, 40, 30)).astype(np.uint8)),
            "gain": (("band",), np.array([1.5, 2.5], np.float32)),
        }
    )
    chunks = {"reflectance": {"chunks": (1, 1, 20, 30)}, "scl": {"chunks": (1, 20, 30)}}
    cube.to_zarr(path / "node", zarr_format=3, consolidated=False, encoding=chunks)
    return path / "node"


@pytest.fixture
def group(folder: Path) -> zarr.Group:
    return zarr.open_group(ObjectStore(LocalStore(folder), read_only=True), mode="r")


@pytest.fixture
def buffers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, weakref.ref[Any]]]:
    """Address of every buffer made, and a reference that shows whether it still lives."""
    made: list[tuple[int, weakref.ref[Any]]] = []

    def noted(shape: tuple[int, ...], dtype: Any) -> Any:
        buffer = aligned_empty(shape, dtype)
        # the owner of the memory: JAX holds on to it, not to the view that it was given
        made.append((buffer.ctypes.data, weakref.ref(buffer.base)))
        return buffer

    monkeypatch.setattr(loader, "aligned_empty", noted)
    return made


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("geostack-loader")]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.complex64, np.bool_])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (5, 7, 11)])
def test_buffers_are_aligned(shape: tuple[int, ...], dtype: type) -> None:
    for _ in range(20):
        buffer = aligned_empty(shape, dtype)
        assert not buffer.size or buffer.ctypes.data % 64 == 0
        assert buffer.shape == shape
        assert buffer.dtype == dtype
        assert buffer.flags.c_contiguous
        assert buffer.flags.writeable


@pytest.mark.parametrize("kind", ["zarr", "dataset"])
@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_integers_of_64_bits_never_wrap(kind: str, dtype: str) -> None:
    """Times of cubes are microseconds: in 32 bits they would be others."""
    values = np.array([1_717_237_231_024_000, 2**31, 5], dtype)
    source: zarr.Group | xr.Dataset = xr.Dataset({"time_us": ("time", values)})
    if kind == "zarr":
        source = zarr.create_group(MemoryStore(), zarr_format=3)
        array = source.create_array("time_us", shape=(3,), dtype=dtype, dimension_names=("time",))
        array[...] = values
    with pytest.raises(ValueError, match=f"time_us: {dtype} .*NumPy.*jax_enable_x64"):
        blocks(source, ["time_us"], {})
    with jax.enable_x64(True):
        (block,) = blocks(source, ["time_us"], {}, threads=1)
        assert block["time_us"].dtype == dtype
        assert np.array_equal(block["time_us"], values)


def test_blocks_come_in_order_and_hold_what_zarr_holds(group: zarr.Group) -> None:
    expected = {name: np.asarray(group[name][...]) for name in ("reflectance", "scl", "gain")}
    starts = []
    for block in blocks(group, ["reflectance", "scl", "gain"], {"time": 3, "y": 20}, threads=3, prefetch=4):
        t, y = (slice(block.start[dim], block.start[dim] + block.sizes[dim]) for dim in ("time", "y"))
        assert np.array_equal(block["reflectance"], expected["reflectance"][t, :, y])
        assert np.array_equal(block["scl"], expected["scl"][t, y])
        assert np.array_equal(block["gain"], expected["gain"])
        assert block["reflectance"].dtype == jnp.uint16
        starts.append((block.start["time"], block.start["y"]))
    assert starts == [(t, y) for t in (0, 3, 6, 9) for y in (0, 20)]


def test_the_arrays_are_the_buffers_that_zarr_filled(
    group: zarr.Group, buffers: list[tuple[int, weakref.ref[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = np.asarray(group["reflectance"][...])
    filled: list[int] = []
    read = zarr.Array.get_basic_selection

    def noted(self: Any, selection: Any, *, out: Any = None, **rest: Any) -> Any:
        assert out is not None
        filled.append(out.as_numpy_array().ctypes.data)
        return read(self, selection, out=out, **rest)

    monkeypatch.setattr(zarr.Array, "get_basic_selection", noted)
    held = list(blocks(group, ["reflectance"], {"time": 1}, threads=1))
    pointers = [block["reflectance"].unsafe_buffer_pointer() for block in held]
    assert pointers == filled == [address for address, _ in buffers]
    assert len(set(pointers)) == 10, "no buffer is filled twice while its array lives"
    for t, block in enumerate(held):
        assert np.array_equal(block["reflectance"][0], expected[t])


def test_what_is_computed_survives_its_block(group: zarr.Group) -> None:
    """The hazard itself: an aliased buffer that is filled anew would change these arrays afterwards."""
    kept = [block["scl"][0] for block in blocks(group, ["scl"], {"time": 1}, prefetch=1, threads=1)]
    gc.collect()
    assert np.array_equal(np.stack(kept), np.asarray(group["scl"][...]))


def test_donating_a_block_writes_into_no_buffer() -> None:
    buffer = aligned_empty((256, 256), np.float32)
    buffer[...] = 1
    array = jax.device_put(buffer)
    assert array.unsafe_buffer_pointer() == buffer.ctypes.data
    jax.jit(lambda v: v + 1, donate_argnums=0)(array).block_until_ready()
    assert (buffer == 1).all()


@pytest.mark.parametrize("prefetch", [1, 3])
def test_memory_is_bounded_by_what_is_read_ahead(
    group: zarr.Group, buffers: list[tuple[int, weakref.ref[Any]]], prefetch: int
) -> None:
    def held() -> int:
        return sum(reference() is not None for _, reference in buffers)

    most = 0
    for block in blocks(group, ["reflectance"], {"time": 1, "y": 20}, prefetch=prefetch, threads=2):
        time.sleep(0.02)  # the threads run as far ahead as they may
        until = time.monotonic() + 5.0
        while held() > prefetch + 1 and time.monotonic() < until:
            time.sleep(0.01)  # XLA's own threads give a buffer back when they get to it
        most = max(most, held())
        del block
    assert len(buffers) == 20
    assert 1 <= most <= prefetch + 1
    gc.collect()
    assert not [reference for _, reference in buffers if reference() is not None], (
        "nothing is kept afterwards"
    )


def test_the_next_blocks_are_read_while_one_is_used(
    group: zarr.Group, buffers: list[tuple[int, weakref.ref[Any]]]
) -> None:
    stream = blocks(group, ["scl"], {"time": 1}, prefetch=3, threads=2)
    next(stream)
    deadline = time.monotonic() + 20
    while len(buffers) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(buffers) == 4
    stream.close()


def test_an_error_comes_where_its_block_would_have(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "node"
    shutil.copytree(folder, copy)
    (copy / "scl" / "c" / "4" / "1" / "0").write_bytes(b"no chunk")
    group = zarr.open_group(ObjectStore(LocalStore(copy), read_only=True), mode="r")
    seen = []

    def walk() -> None:
        for block in blocks(group, ["scl"], {"time": 1}, prefetch=4, threads=3):
            seen.append(block.start["time"])  # noqa: PERF401 - what came before the error counts

    with pytest.raises(Exception, match=r"(?i)zstd|decompress|codec|blosc"):
        walk()
    assert seen == [0, 1, 2, 3]
    assert not loader_threads()


@pytest.mark.parametrize("how", ["close", "drop", "error in the loop"])
def test_leaving_early_ends_the_threads(group: zarr.Group, how: str) -> None:
    stream = blocks(group, ["reflectance"], {"time": 1}, prefetch=4, threads=3)
    next(stream)
    assert loader_threads()
    if how == "close":
        stream.close()
    elif how == "drop":
        del stream
        gc.collect()
    else:
        with pytest.raises(ZeroDivisionError):
            stream.throw(ZeroDivisionError())
    assert not loader_threads()


def test_no_thread_starts_before_the_first_block_is_asked_for(group: zarr.Group) -> None:
    stream = blocks(group, ["scl"], {"time": 1})
    assert not loader_threads()
    stream.close()


@given(
    shape=st.tuples(st.integers(0, 7), st.integers(1, 6), st.integers(1, 9)),
    chunks=st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5)),
    sizes=st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 8), max_size=3),
    last=st.sampled_from(["short", "pad", "drop"]),
    prefetch=st.integers(1, 4),
)
@settings(max_examples=40)
def test_any_cutting_gives_every_element_once(
    shape: tuple[int, ...], chunks: tuple[int, ...], sizes: dict[str, int], last: Any, prefetch: int
) -> None:
    values = np.arange(1, np.prod(shape) + 1, dtype=np.int32).reshape(shape)
    group = zarr.create_group(MemoryStore(), zarr_format=3)
    array = group.create_array(
        "v", shape=shape, chunks=chunks, dtype="int32", dimension_names=("a", "b", "c"), fill_value=-7
    )
    array[...] = values
    found = np.full(shape, -1)
    for block in blocks(group, ["v"], sizes, last=last, prefetch=prefetch):
        there = tuple(slice(0, block.sizes.get(dim)) for dim in "abc")
        place = tuple(
            slice(block.start.get(dim, 0), block.start.get(dim, 0) + block.sizes.get(dim, size))
            for dim, size in zip("abc", shape, strict=True)
        )
        part = np.asarray(block["v"])
        assert (found[place] == -1).all()
        found[place] = part[there]
        if last != "short":
            assert part.shape == tuple(sizes.get(dim, size) for dim, size in zip("abc", shape, strict=True))
        rest = np.ones(part.shape, bool)
        rest[there] = False
        assert (part[rest] == -7).all()
    full = tuple(
        slice(0, size // sizes[dim] * sizes[dim] if last == "drop" and dim in sizes else size)
        for dim, size in zip("abc", shape, strict=True)
    )
    assert np.array_equal(found[full], values[full])
    outside = np.ones(shape, bool)
    outside[full] = False
    assert (found[outside] == -1).all()


def test_padded_blocks_compile_once(group: zarr.Group) -> None:
    compiled = 0

    @jax.jit
    def total(values: jax.Array) -> jax.Array:
        nonlocal compiled
        compiled += 1
        return values.astype(jnp.uint32).sum()

    found = sum(int(total(block["scl"])) for block in blocks(group, ["scl"], {"time": 4}, last="pad"))
    assert found == int(np.asarray(group["scl"][...]).astype(np.int64).sum())
    assert compiled == 1


def test_datasets_give_their_values(folder: Path) -> None:
    cube = xr.open_zarr(folder, chunks=None, consolidated=False)
    expected = cube.reflectance.values
    assert expected.dtype == np.float64
    found = list(blocks(cube, ["reflectance", "scl"], {"time": 4}))
    both = np.concatenate([block["reflectance"] for block in found])
    assert both.dtype == np.float32
    assert np.array_equal(both, expected.astype(np.float32), equal_nan=True)
    assert np.isnan(both).any()


def test_unpacked_numbers_are_those_of_xarray(folder: Path, group: zarr.Group) -> None:
    expected = xr.open_zarr(folder, chunks=None, consolidated=False).reflectance.values
    attributes = group["reflectance"].attrs.asdict()
    (block,) = blocks(group, ["reflectance"], {})
    found = np.asarray(jax.jit(lambda v: unpacked(v, attributes))(block["reflectance"]))
    assert found.dtype == np.float32
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert np.nanmax(np.abs(found - expected)) < 6e-7
    floats = unpacked(jnp.array([-9999.0, 2.0]), {"_FillValue": "AAAAAICHw8A="})
    assert np.array_equal(floats, [np.nan, 2.0], equal_nan=True)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"variables": ["nothing"]}, "nothing"),
        ({"sizes": {"depth": 2}}, "no variable has the dimension 'depth'; there are time, y, x"),
        ({"sizes": {"time": 0}}, "blocks of 0 along 'time'"),
        ({"prefetch": 0}, "at least 1"),
        ({"split": {"time": "data"}}, "either a device, or a mesh"),
    ],
)
def test_what_does_not_fit_is_said_at_once(group: zarr.Group, change: dict[str, Any], what: str) -> None:
    arguments: dict[str, Any] = {"variables": ["scl"], "sizes": {"time": 1}, **change}
    with pytest.raises((ValueError, KeyError), match=what):
        blocks(group, **arguments)


def test_texts_and_times_are_refused() -> None:
    cube = xr.Dataset({"t": ("a", np.array(["2024-06-01"], "datetime64[ns]"))})
    with pytest.raises(ValueError, match=r"t: datetime64\[ns\] is no type of numbers"):
        blocks(cube, ["t"], {"a": 1})


@pytest.mark.slow  # a process with four devices
def test_a_mesh_of_devices_shares_the_blocks(folder: Path) -> None:
    code = """
        import sys, weakref
        import jax, numpy as np, zarr
        from jax.sharding import PartitionSpec as P
        from obstore.store import LocalStore
        from zarr.storage import ObjectStore
        from geostack_pipeline.cube import loader

        assert len(jax.devices()) == 4
        made = []
        plain = loader.aligned_empty
        loader.aligned_empty = lambda *a: (made.append(plain(*a)), made[-1])[1]
        group = zarr.open_group(ObjectStore(LocalStore(sys.argv[1]), read_only=True), mode="r")
        values, classes = np.asarray(group["reflectance"][...]), np.asarray(group["scl"][...])
        mesh = jax.make_mesh((2, 2), ("data", "rows"))
        split = {"time": "data", "y": "rows"}
        count = 0
        for block in loader.blocks(group, ["reflectance", "scl", "gain"], {"time": 4}, mesh=mesh, split=split, last="pad"):
            t, n = block.start["time"], block.sizes["time"]
            one, two, gain = block["reflectance"], block["scl"], block["gain"]
            assert one.sharding.spec == P("data", None, "rows", None), one.sharding
            assert two.sharding.spec == P("data", "rows", None)
            assert gain.sharding.is_fully_replicated and len(gain.addressable_shards) == 4
            assert np.array_equal(np.asarray(one)[:n], values[t : t + n])
            assert np.array_equal(np.asarray(two)[:n], classes[t : t + n])
            assert not np.asarray(one)[n:].any()
            buffers = {b.ctypes.data for b in made}
            for array in (one, two, gain):
                for i, shard in enumerate(array.addressable_shards):
                    assert array.addressable_data(i).unsafe_buffer_pointer() in buffers, "copied"
            assert one.addressable_data(0).shape == (2, 2, 20, 30)
            total = jax.jit(lambda v: v.astype("uint32").sum())(one)
            assert int(total) == int(values[t : t + n].astype("int64").sum())
            count += 1
        assert count == 3
        # reflectance and scl: four parts each; gain, the same everywhere, is read once
        assert len(made) == 3 * (4 + 4 + 1)
        there = jax.devices()[2]
        (block,) = loader.blocks(group, ["scl"], {}, device=there)
        assert block["scl"].devices() == {there}
        with jax.default_device(jax.devices()[3]):
            stream = loader.blocks(group, ["scl"], {"time": 5})
        assert all(b["scl"].devices() == {jax.devices()[3]} for b in stream)
        for wrong, said in (({"time": 3}, "cannot be divided evenly"), ({"time": 4}, "cannot be divided evenly")):
            try:
                loader.blocks(group, ["scl"], wrong, mesh=jax.make_mesh((4,), ("d",)), split={"time": "d"})
            except ValueError as error:
                assert said in str(error), error
            else:
                raise AssertionError(wrong)
        try:
            loader.blocks(group, ["scl"], {"time": 4}, mesh=mesh, split={"time": "columns"})
        except ValueError as error:
            assert "no axis 'columns'" in str(error)
        else:
            raise AssertionError
        print("fine")
    """
    import os

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(folder)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "fine"
