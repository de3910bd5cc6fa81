"""Blocks of a cube as JAX arrays, read ahead in threads, handed over without a copy.

``jax.device_put`` takes a NumPy array over as it is, where it lies on a multiple of 64 bytes and the device is the
CPU: the JAX array then *is* the buffer, and writing into the buffer once more would change a value that XLA takes for
immutable.  So every block is read into memory of its own, which lives exactly as long as the JAX arrays that are made of
it, and no buffer is ever filled twice.  Zarr decodes straight into it.  With several devices each one's part is a
buffer of its own, read by itself, so that no part is cut out of a larger one afterwards.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from xarray.backends.zarr import FillValueCoder
from zarr.buffer.cpu import NDBuffer

ALIGNMENT = 64
"""Bytes: XLA's CPU client takes over host memory that lies on a multiple of it, and copies what does not."""

Last = Literal["short", "pad", "drop"]


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block on its device or devices."""

    start: Mapping[str, int]
    """Dimension that was cut -> index of the block's first element in the whole variable."""
    sizes: Mapping[str, int]
    """Dimension that was cut -> elements of the cube in the block; what is beyond them in an array is padding."""
    arrays: Mapping[str, jax.Array]
    """Variable -> values.  Of a Zarr group the stored numbers, see :func:`unpacked`."""

    def __getitem__(self, name: str) -> jax.Array:
        return self.arrays[name]


def blocks(
    source: xr.Dataset | zarr.Group,
    variables: Sequence[str],
    sizes: Mapping[str, int],
    *,
    prefetch: int = 2,
    threads: int = 2,
    device: jax.Device | None = None,
    mesh: Mesh | None = None,
    split: Mapping[str, str] | None = None,
    last: Last = "short",
) -> Generator[Block, None, None]:
    """Yield a cube block by block, in order, while the next blocks are being read.

    Memory: at most ``prefetch`` blocks wait or are being read, besides those the caller still holds.  Closing the
    generator, or dropping it, ends the threads; an error of a reading thread is raised where its block would have come.

    Args:
        source: A node of a tree as a Zarr group: blocks of the stored numbers, decoded straight into the memory that
            JAX takes over.  Or a dataset, e.g. of ``load_timeline``: blocks of its values, by one copy more.
        variables: Names of the variables, of numbers or booleans; 64-bit integers, as of times, only with
            ``jax_enable_x64``.
        sizes: Dimension -> elements per block; the dimensions not named are whole in every block.  Blocks that
            consist of whole chunks are read fastest, since no chunk is decoded twice.  The first dimension named is
            the slowest.
        prefetch: Blocks read ahead.
        threads: Blocks that are read at the same time; zarr-python also decodes the chunks of one in parallel.
        device: Where the blocks go; None is JAX's default device.
        mesh: Instead of one device: a mesh, over which the dimensions of ``split`` are divided.
        split: Dimension -> axis of the mesh; a variable without any of them is on all devices.
        last: What becomes of a block at the end of a dimension that is not as long as the others: it is ``short``,
            is filled up (``pad``: with the fill value of a Zarr array, else NaN, 0 or False), so that a
            jitted function is compiled once, or is left out (``drop``).

    Raises:
        KeyError: The source has no such variable.
        ValueError: A size, dimension, type or axis does not fit; says which.
    """
    if prefetch < 1 or threads < 1:
        raise ValueError(f"prefetch ({prefetch}) and threads ({threads}) must be at least 1")
    readers = {name: _reader(source, name) for name in dict.fromkeys(variables)}
    lengths = _lengths(readers)
    for dimension, size in sizes.items():
        if dimension not in lengths:
            raise ValueError(f"no variable has the dimension {dimension!r}; there are {', '.join(lengths)}")
        if size < 1:
            raise ValueError(f"blocks of {size} along {dimension!r} are none")
    if (split is not None) != (mesh is not None) or (mesh is not None and device is not None):
        raise ValueError("give either a device, or a mesh together with split")
    shardings = {name: _sharding(reader, device, mesh, split or {}) for name, reader in readers.items()}
    plans = list(_plans(lengths, sizes, last))
    for name, reader in readers.items():
        for shape in {reader.shape_of(sizes, plan.sizes, last) for plan in plans}:
            _require_divisible(name, reader, shardings[name], shape)
    # Asked here: `jax.enable_x64` as a context holds for the caller's thread alone.
    wide = jax.dtypes.canonicalize_dtype(np.int64) == np.int64
    return _ahead(readers, shardings, sizes, plans, last, prefetch, threads, wide=wide)


def unpacked(stored: jax.Array, attributes: Mapping[str, Any]) -> jax.Array:
    """Return stored numbers as 32-bit floats in the variable's units, NaN where there is no data; for use under jit.

    Args:
        stored: Numbers as they lie in Zarr.
        attributes: CF attributes of the array: ``scale_factor``, ``add_offset``, ``_FillValue``; all optional.
    """
    values = stored.astype(jnp.float32) * jnp.float32(attributes.get("scale_factor", 1.0))
    values += jnp.float32(attributes.get("add_offset", 0.0))
    fill = attributes.get("_FillValue")
    if isinstance(fill, str):
        # how xarray writes fill values of floats into the JSON of Zarr
        fill = FillValueCoder.decode(fill, stored.dtype)
    return values if fill is None else jnp.where(stored == fill, jnp.nan, values)


def aligned_empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an uninitialised array in C order whose memory begins on a multiple of 64 bytes."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    skip = -raw.ctypes.data % ALIGNMENT
    return raw[skip : skip + size].view(kind).reshape(shape)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    start: Mapping[str, int]
    sizes: Mapping[str, int]


class _Reader(Protocol):
    """A variable that fills memory with a part of itself."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: Any

    def read(self, selection: tuple[slice, ...], out: npt.NDArray[Any]) -> None: ...

    def shape_of(
        self, wanted: Mapping[str, int], there: Mapping[str, int], last: Last
    ) -> tuple[int, ...]: ...


class _Shaped:
    dims: tuple[str, ...]
    shape: tuple[int, ...]

    def shape_of(self, wanted: Mapping[str, int], there: Mapping[str, int], last: Last) -> tuple[int, ...]:
        """Return the shape of the variable's part of a block."""
        chosen = wanted if last == "pad" else there
        return tuple(chosen.get(dim, size) for dim, size in zip(self.dims, self.shape, strict=True))


class _ZarrReader(_Shaped):
    def __init__(self, array: zarr.Array[Any], name: str) -> None:
        names = getattr(array.metadata, "dimension_names", None)
        if names is None or None in names:
            raise ValueError(f"{name}: its dimensions have no names")
        self._array = array
        self.dims = tuple(str(dim) for dim in names)
        self.shape = array.shape
        self.dtype = _jax_dtype(array.dtype, name)
        self._direct = self.dtype == array.dtype
        self.fill = array.fill_value

    def read(self, selection: tuple[slice, ...], out: npt.NDArray[Any]) -> None:
        if self._direct and out.ndim:
            self._array.get_basic_selection(selection, out=NDBuffer.from_numpy_array(out))
        else:
            out[...] = self._array[selection]


class _VariableReader(_Shaped):
    def __init__(self, variable: xr.Variable, name: str) -> None:
        self._variable = variable
        self.dims = tuple(str(dim) for dim in variable.dims)
        self.shape = variable.shape
        self.dtype = _jax_dtype(variable.dtype, name)
        self.fill = np.nan if self.dtype.kind in "fc" else 0

    def read(self, selection: tuple[slice, ...], out: npt.NDArray[Any]) -> None:
        out[...] = self._variable[selection].to_numpy()


def _reader(source: xr.Dataset | zarr.Group, name: str) -> _Reader:
    if isinstance(source, xr.Dataset):
        return _VariableReader(source[name].variable, name)
    array = source[name]
    if not isinstance(array, zarr.Array):
        raise KeyError(f"{name} is a group, not an array")
    return _ZarrReader(array, name)


def _jax_dtype(dtype: np.dtype[Any], name: str) -> np.dtype[Any]:
    """Return the type JAX holds: in its 32-bit mode floats half as wide as 64-bit ones; integers would wrap.

    Raises:
        ValueError: No numbers, or 64-bit integers in the 32-bit mode.
    """
    if dtype.kind not in "biufc":
        raise ValueError(f"{name}: {dtype} is no type of numbers")
    held = np.dtype(jax.dtypes.canonicalize_dtype(dtype))
    if dtype.kind in "iu" and held != dtype:
        raise ValueError(
            f"{name}: {dtype} does not fit into the {held} that JAX holds while jax_enable_x64 is off; read it with "
            f"NumPy (numpy.asarray of {name!r} of the source) and give JAX what fits, as differences from the first, "
            "or turn jax_enable_x64 on"
        )
    return held


def _lengths(readers: Mapping[str, _Reader]) -> dict[str, int]:
    lengths: dict[str, int] = {}
    for name, reader in readers.items():
        for dim, size in zip(reader.dims, reader.shape, strict=True):
            if lengths.setdefault(dim, size) != size:
                raise ValueError(f"{name} has {size} along {dim!r}, another variable {lengths[dim]}")
    return lengths


def _plans(lengths: Mapping[str, int], sizes: Mapping[str, int], last: Last) -> Iterator[_Plan]:
    for corner in product(*(range(0, lengths[dim], size) for dim, size in sizes.items())):
        start = dict(zip(sizes, corner, strict=True))
        there = {dim: min(size, lengths[dim] - start[dim]) for dim, size in sizes.items()}
        if last != "drop" or there == dict(sizes):
            yield _Plan(start=start, sizes=there)


def _sharding(
    reader: _Reader, device: jax.Device | None, mesh: Mesh | None, split: Mapping[str, str]
) -> Sharding:
    if mesh is not None:
        strange = sorted(set(split.values()) - set(mesh.axis_names))
        if strange:
            raise ValueError(
                f"the mesh has no axis {strange[0]!r}; it has {', '.join(map(str, mesh.axis_names))}"
            )
        axes = (split.get(dim) for dim in reader.dims)
        return NamedSharding(mesh, PartitionSpec(*axes))  # type: ignore[no-untyped-call]
    if device is None:
        # Asked here: `jax.default_device` holds for the caller's thread alone.
        (device,) = jax.device_put(np.zeros((), np.float32)).devices()
    return SingleDeviceSharding(device)


def _require_divisible(name: str, reader: _Reader, sharding: Sharding, shape: tuple[int, ...]) -> None:
    try:
        sharding.shard_shape(shape)
    except ValueError as error:
        parts = ", ".join(f"{dim} {size}" for dim, size in zip(reader.dims, shape, strict=True))
        raise ValueError(
            f"{name}: a block of {parts} cannot be divided evenly over the devices; choose other sizes, or last='pad'"
        ) from error


def _ahead(
    readers: Mapping[str, _Reader],
    shardings: Mapping[str, Sharding],
    wanted: Mapping[str, int],
    plans: Sequence[_Plan],
    last: Last,
    prefetch: int,
    threads: int,
    *,
    wide: bool,
) -> Generator[Block, None, None]:
    """Yield the blocks of plans, in order; the next ones are read meanwhile. ``wide``: 64-bit types stay such."""

    def load(plan: _Plan) -> Block:
        with jax.enable_x64(wide):
            arrays = {
                name: _load(reader, shardings[name], plan, reader.shape_of(wanted, plan.sizes, last))
                for name, reader in readers.items()
            }
        return Block(start=plan.start, sizes=plan.sizes, arrays=arrays)

    waiting: deque[Future[Block]] = deque()
    todo = iter(plans)
    pool = ThreadPoolExecutor(min(threads, prefetch), thread_name_prefix="geostack-loader")
    try:
        for plan in plans[:prefetch]:
            waiting.append(pool.submit(load, plan))
            next(todo)
        while waiting:
            block = waiting.popleft().result()
            for plan in todo:
                waiting.append(pool.submit(load, plan))
                break
            yield block
            # The caller's name for it is the only one from here on: its memory may go before the next block comes.
            del block
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _load(reader: _Reader, sharding: Sharding, plan: _Plan, shape: tuple[int, ...]) -> jax.Array:
    """Read a variable's part of a block, a buffer for each different part of the sharding."""
    filled: dict[tuple[tuple[int, int], ...], npt.NDArray[Any]] = {}
    parts = []
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        cut = tuple(
            piece.indices(size)[:2]
            for piece, size in zip(index or (slice(None),) * len(shape), shape, strict=True)
        )
        if cut not in filled:
            filled[cut] = _fill(reader, plan, cut)
        parts.append(jax.device_put(filled[cut], device))
    # Until a copy to another device is done its source must stay; waiting here bounds the memory of the host.
    for part in parts:
        part.block_until_ready()
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def _fill(reader: _Reader, plan: _Plan, cut: tuple[tuple[int, int], ...]) -> npt.NDArray[Any]:
    """Return new memory with the values of one device, padded where the cube ends."""
    out = aligned_empty(tuple(end - begin for begin, end in cut), reader.dtype)
    selection, inside = [], []
    for dim, size, (begin, end) in zip(reader.dims, reader.shape, cut, strict=True):
        first = plan.start.get(dim, 0)
        there = min(end, plan.sizes.get(dim, size)) - begin
        selection.append(slice(first + begin, first + begin + max(there, 0)))
        inside.append(slice(0, max(there, 0)))
    view = out[tuple(inside)] if inside else out
    if view.shape != out.shape:
        out[...] = reader.fill
    if view.size:
        reader.read(tuple(selection), view)
    return out
