"""Cubes into Zarr v3: nodes of one tree, packed, chunked, the same bytes for the same input."""

from __future__ import annotations

import asyncio
import json
import math
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import product
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from xarray.conventions import encode_cf_variable
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, BloscShuffle
from zarr.core.buffer import default_buffer_prototype
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from geostack_pipeline.storage.loop import run_async

CHUNK = 512
"""Rows and columns of a chunk; a chunk holds one time and one band, so that one band is read alone.

512 is the fastest to write and to read whole of 256, 512 and 1024, and near the fastest for series of pixels
(docs/benchmarks.md, "Chunks")."""

SHARD = 8 * CHUNK
"""Most rows and columns of a shard: one file of chunks that are still read one by one.

A shard holds one time and one band, as a chunk does, so a date never shares one with another date, and is written
once, whole.  It costs a few per cent of time and saves nine of ten objects of a usual area; the limit bounds the memory
of writing one to 32 MiB of 16-bit numbers."""

OVERVIEWS = "overviews"
"""Group in a node with its overviews, which the tree's consolidated metadata leave out."""

_MOMENTS = {"units": "microseconds since 1970-01-01", "calendar": "proleptic_gregorian", "dtype": "int64"}
"""How times are stored, whatever the times are."""

_BLOCK_BYTES = 80 << 20
"""Most bytes of a block that is read at once where a variable has its own chunks: 256 lines of EMIT with 60 bands."""

_METADATA = "zarr.json"

_CHUNKS_AT_ONCE = min(4, (os.cpu_count() or 1) + 1)
"""Chunks that are read or compressed at a time; one more than cores, since each waits for Zarr between the two."""

_LARGE = 1 << 16
"""Variables with more values are written block by block."""


def write_node(
    store: Store,
    node: str,
    dataset: xr.Dataset,
    *,
    chunks: Mapping[str, tuple[int, ...]] | None = None,
    apart: Collection[str] = (),
    on_block: Callable[[str, npt.NDArray[np.generic]], None] | None = None,
) -> None:
    """Write a dataset as one node of a tree, replacing what stood there.

    Takes packed cubes (:func:`~geostack_pipeline.cube.build.build_packed`) as they are; of decoded ones
    the encoding is used, so both give the same bytes.  Works block by block, never with a second
    copy of a large variable.  The tree is complete after :func:`finish_tree`.

    Args:
        store: Zarr store of the whole tree, writable.
        node: Name of the node, e.g. of an area.
        dataset: What to write; large variables have ``y`` and ``x`` as last dimensions, or their own chunks.
        chunks: Variable -> chunk shape, for those that are not written in squares; they may be read lazily, some
            chunks at a time.
        apart: Those of ``chunks`` that are read and written chunk by chunk, several at a time.
        on_block: Called with the stored numbers of each block of the variables in ``chunks``, once at a time.
    """
    chunks = dict(chunks or {})
    large = sorted(
        str(name)
        for name, v in dataset.variables.items()
        if name in chunks or (v.size > _LARGE and v.ndim >= 2)
    )
    with quiet():
        group = create_node(store, node, dataset, large, chunks)
        with ThreadPoolExecutor(_CHUNKS_AT_ONCE) as pool:
            running: list[Future[None]] = []
            lock = Lock()
            try:
                for name in sorted(large, key=lambda name: name not in apart):
                    array, variable = group[name], dataset[name].variable
                    assert isinstance(array, zarr.Array)
                    note = (
                        None
                        if on_block is None or name not in chunks
                        else partial(_one_at_a_time, lock, on_block, name)
                    )
                    if name in apart and name in chunks:
                        # Meanwhile this thread writes the other variables.
                        running += _apart(array, variable, chunks[name], note, pool)
                        continue
                    # Whole shards, or whole chunks where there are none: a part of one would be read back and written anew.
                    blocks = (
                        _chunks(variable.shape, chunks[name], variable.dtype.itemsize)
                        if name in chunks
                        else _blocks(variable.shape, _rows(array))
                    )
                    for block in blocks:
                        values = _encoded(variable[block]).values
                        array[block] = values
                        if note is not None:
                            note(values)
                        del values  # before the next block is read: two would be twice the memory
                for future in running:
                    future.result()
            finally:
                for future in running:
                    future.cancel()


def _one_at_a_time(
    lock: Lock,
    on_block: Callable[[str, npt.NDArray[np.generic]], None],
    name: str,
    values: npt.NDArray[np.generic],
) -> None:
    with lock:
        on_block(name, values)


def _apart(
    array: zarr.Array[Any],
    variable: xr.Variable,
    chunk: tuple[int, ...],
    note: Callable[[npt.NDArray[np.generic]], None] | None,
    pool: Executor,
) -> list[Future[None]]:
    """Begin to write a variable chunk by chunk: some chunks are read while others are compressed.

    Chunks of fill values are written like others: to look for them takes a tenth of the time, and spectra have few.
    """
    target = array.with_config({"write_empty_chunks": True})

    def one(box: tuple[slice, ...]) -> None:
        values = _encoded(variable[box]).values
        target[box] = values
        if note is not None:
            note(values)

    return [pool.submit(one, box) for box in _boxes(variable.shape, chunk)]


def create_node(
    store: Store,
    node: str,
    dataset: xr.Dataset,
    later: Sequence[str],
    chunks: Mapping[str, tuple[int, ...]] | None = None,
) -> zarr.Group:
    """Write a node without the pixels of some variables, and return its group, in which they are to be written.

    Args:
        store: Zarr store of the whole tree, writable.
        node: Name of the node; what stood there is replaced.
        dataset: As in :func:`write_node`; of the variables in ``later`` only shape, type and attributes are used.
        later: Variables whose arrays are made and left empty.
        chunks: Variable -> chunk shape, for those that are not written in squares.

    Raises:
        ValueError: ``node`` is no name of a node.
    """
    chunks = chunks or {}
    if not node or node.strip("/") != node or ".." in node.split("/"):
        raise ValueError(f"{node!r} is no name of a node")
    small = dataset.drop_vars(later)
    template = xr.Dataset(
        {name: _encoded(small[name].variable) for name in small.data_vars},
        coords={name: _encoded(small[name].variable) for name in small.coords},
        attrs=dataset.attrs,
    )
    template = template.assign({name: _template(dataset[name].variable) for name in later})
    template = template.set_coords([name for name in later if name in dataset.coords])
    with quiet():
        # xarray writes arrays whole, and would make one in memory of what has no pixels yet: it writes a small one like
        # it elsewhere, whose metadata are these but for the shape.
        model = MemoryStore()
        template.isel(dict.fromkeys(template.sizes, slice(0, 1))).to_zarr(
            model,
            mode="w",
            zarr_format=3,
            consolidated=False,
            encoding={
                str(name): _storage(v, chunks.get(str(name))) for name, v in template.variables.items()
            },
        )
        zarr.create_group(store, path=node, overwrite=True, zarr_format=3)
        shapes = {str(name): v.shape for name, v in template.variables.items()}
        run_async(_copy_metadata(model, store, node, shapes))
        group = zarr.open_group(store, path=node, mode="r+", zarr_format=3)
        for name in sorted(set(shapes) - set(later)):
            array = group[name]
            assert isinstance(array, zarr.Array)
            array[...] = template[name].to_numpy()
        return group


async def _copy_metadata(
    model: MemoryStore, store: Store, node: str, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Copy the metadata of a group and its arrays, with other shapes."""
    prototype = default_buffer_prototype()

    async def copy(name: str | None) -> None:
        path = _METADATA if name is None else f"{name}/{_METADATA}"
        found = await model.get(path, prototype)
        assert found is not None
        document = json.loads(found.to_bytes())
        if name is not None:
            document["shape"] = list(shapes[name])
        await store.set(
            f"{node}/{path}", prototype.buffer.from_bytes(json.dumps(document, indent=2).encode())
        )

    await asyncio.gather(copy(None), *(copy(name) for name in shapes))


def write_plane(array: zarr.Array[Any], index: tuple[int, ...], plane: npt.NDArray[np.generic]) -> None:
    """Write the pixels (row, column) at an index of the leading dimensions, as stored numbers, by whole shards."""
    step = _rows(array)
    where = tuple(slice(i, i + 1) for i in index)
    for row in range(0, plane.shape[0], step):
        part = plane[row : row + step]
        array[(*where, slice(row, row + len(part)), slice(None))] = part[(None,) * len(index)]


def _rows(array: zarr.Array[Any]) -> int:
    """Return how many rows are written at once: those of a shard, or of a chunk where there are none."""
    return int((array.shards or array.chunks)[-2])


def finish_tree(store: Store, attributes: Mapping[str, Any]) -> None:
    """Write the tree's root with its attributes and consolidate the metadata of all nodes there.

    A tree without nodes is a root alone, which opens like any other.  Overviews are left out of the consolidated
    metadata: xarray opens no tree in which a group has other coordinates than the one above it.
    """
    with quiet():
        root = zarr.open_group(store, mode="a", zarr_format=3)
        root.attrs.put(dict(attributes))
        zarr.consolidate_metadata(store, zarr_format=3)
        run_async(_leave_out(store))


async def _leave_out(store: Store) -> None:
    """Take the groups of overviews, and all in them, out of the root's consolidated metadata."""
    prototype = default_buffer_prototype()
    found = await store.get("zarr.json", prototype)
    assert found is not None
    document = json.loads(found.to_bytes())
    nodes = document["consolidated_metadata"]["metadata"]
    kept = {path: node for path, node in nodes.items() if path.split("/")[1:2] != [OVERVIEWS]}
    if len(kept) < len(nodes):
        document["consolidated_metadata"]["metadata"] = kept
        await store.set("zarr.json", prototype.buffer.from_bytes(json.dumps(document, indent=2).encode()))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence zarr where it says that consolidation and texts of variable length are in no core specification yet.

    Every reader of this format has both.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part", ZarrUserWarning)
        warnings.filterwarnings(
            "ignore", ".*does not have a Zarr V3 specification", zarr.errors.UnstableSpecificationWarning
        )
        yield


def _encoded(variable: xr.Variable) -> xr.Variable:
    """Return a variable as it is stored, its attributes in order; what is encoded already stays as it is."""
    variable = variable.to_base_variable().copy(deep=False)
    if variable.dtype.kind == "M":
        variable.encoding = {**_MOMENTS, "_FillValue": None} if variable.ndim < 2 else dict(_MOMENTS)
        if bool(np.isnat(variable.values).any()):
            variable.encoding.pop("_FillValue", None)
    elif variable.ndim < 2 and "_FillValue" not in variable.attrs:
        variable.encoding = {**variable.encoding, "_FillValue": variable.encoding.get("_FillValue")}
    encoded = encode_cf_variable(variable)
    return xr.Variable(encoded.dims, encoded.data, dict(sorted(encoded.attrs.items())))


def _template(variable: xr.Variable) -> xr.Variable:
    """Return a variable like the encoded one that takes no memory: zeros, whose chunks are not written."""
    sample = _encoded(variable[(slice(0, 1),) * variable.ndim])
    return xr.Variable(
        variable.dims, np.broadcast_to(np.zeros((), sample.dtype), variable.shape), sample.attrs
    )


def _storage(variable: xr.Variable, chunks: tuple[int, ...] | None) -> dict[str, Any]:
    """Return chunks and codec of an encoded variable: squares of one time and band, or all of a small one."""
    encoding: dict[str, Any] = {}
    if chunks is not None:
        encoding["chunks"] = tuple(
            max(1, min(size, chunk)) for size, chunk in zip(variable.shape, chunks, strict=True)
        )
    elif variable.ndim:
        leading = (1,) * max(0, variable.ndim - 2)
        if variable.ndim == 1:
            encoding["chunks"] = (max(1, variable.size),)
        else:
            pixels = tuple(max(1, min(size, CHUNK)) for size in variable.shape[-2:])
            encoding["chunks"] = (*leading, *pixels)
            if max(variable.shape[-2:]) > CHUNK:
                encoding["shards"] = (*leading, *map(_shard, variable.shape[-2:], pixels))
    if "_FillValue" not in variable.attrs:
        # xarray would give every float one, which CF forbids for coordinates.
        encoding["_FillValue"] = None
    if variable.dtype.kind in "iufb":
        encoding["compressors"] = [BloscCodec(cname="zstd", clevel=1, shuffle=BloscShuffle.shuffle)]
    return encoding


def _shard(size: int, chunk: int) -> int:
    """Return how far a shard reaches along a dimension: as few whole chunks as cover it, at most ``SHARD``."""
    return min(-(-size // chunk) * chunk, SHARD)


def _blocks(shape: tuple[int, ...], rows: int) -> Iterator[tuple[slice | int, ...]]:
    """Yield bands of ``rows`` rows for each index of the leading dimensions."""
    leading = [range(size) for size in shape[:-2]]
    for index in product(*leading):
        for row in range(0, shape[-2], rows):
            yield (*(slice(i, i + 1) for i in index), slice(row, min(row + rows, shape[-2])), slice(None))


def _chunks(shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int) -> Iterator[tuple[slice, ...]]:
    """Yield boxes of whole chunks, long ones in the last dimensions, of at most :data:`_BLOCK_BYTES` bytes or one chunk.

    A file that is read has chunks of its own, which a box of one chunk would have decompressed several times.
    """
    box = [max(1, min(size, chunk)) for size, chunk in zip(shape, chunks, strict=True)]
    for axis in reversed(range(len(shape))):
        bytes_now = itemsize * math.prod(box)
        many = max(1, min(-(-shape[axis] // box[axis]), _BLOCK_BYTES // max(1, bytes_now)))
        box[axis] *= many
        if box[axis] < shape[axis]:
            break
    yield from _boxes(shape, tuple(box))


def _boxes(shape: tuple[int, ...], box: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Yield boxes that cover a shape; the last ones are cut off."""
    starts = (range(0, size, max(1, step)) for size, step in zip(shape, box, strict=True))
    for corner in product(*starts):
        yield tuple(
            slice(start, min(start + step, size))
            for start, step, size in zip(corner, box, shape, strict=True)
        )
