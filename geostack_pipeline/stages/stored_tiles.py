"""The tiles of a stored training set, read when a batch needs them.

The failure this guards against: a training that waits for its tiles.  Read through xarray and Zarr a tile of four
variables takes milliseconds of Python, with the interpreter's lock held, while the step wants both.  Each tile of each
variable is a chunk of its own (:func:`~geostack_pipeline.stages.training_tiles.chunks`), so a tile is read as the four
objects that hold it, decoded without the lock.  What is stored in another way is read through xarray: the same numbers.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import polars as pl

from geostack_pipeline.learning.batches import Tile
from geostack_pipeline.learning.fields import FIELDS, Background
from geostack_pipeline.learning.targets import PLUME
from geostack_pipeline.storage.roots import Root, reopen
from geostack_pipeline.storage.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr

TREE = "tree.zarr"
_PACKED = {"scale_factor", "add_offset", "missing_value"}


class StoredTiles:
    """The tiles of a training set, read when they are needed; the last ones stay in memory.

    Args:
        source: The training set.
        megabytes: Memory for tiles that stay; 0 reads each anew.
    """

    def __init__(self, source: Snapshot, megabytes: int = 2048) -> None:
        self._source = source
        self._root = reopen(source.root_url)
        self._tree: xr.DataTree = source.open()
        self._table = source.open("members")
        self._room = megabytes * 2**20
        self._held: dict[tuple[str, int], Tile] = {}
        self._nodes: dict[str, _Node] = {}
        self._lock = threading.Lock()

    def of(self, split: str) -> Split:
        """Return the tiles of a split: ``train`` or ``validation``."""
        wanted = {"train": 0, "validation": 1}[split]
        places: list[tuple[str, int]] = []
        plumes: list[bool] = []
        used = self._table.filter((pl.col("tiles_train") + pl.col("tiles_validation")) > 0).sort("node")
        for node in used["node"]:
            dataset = self._node(node).dataset
            inside = np.flatnonzero(dataset["split"].values == wanted)
            if inside.size:
                # Of a selection: what is read of a variable itself stays in the open tree.
                has = (dataset["target"][inside].values == PLUME).any(axis=(1, 2))
                places += [(node, int(number)) for number in inside]
                plumes += has.tolist()
        return Split(self, places, np.array(plumes, bool))

    def read(self, node: str, number: int) -> Tile:
        """Return a tile of a node.

        Raises:
            StorageError: A chunk that the set's record lists is gone or damaged.
        """
        key = (node, number)
        held = self._held.get(key)
        if held is not None:
            return held
        tile = self._node(node).tile(number)
        size = tile.stack.nbytes + tile.target.nbytes
        with self._lock:
            if self._room >= size and key not in self._held:
                self._room -= size
                self._held[key] = tile
        return tile

    def _node(self, name: str) -> _Node:
        node = self._nodes.get(name)
        if node is None:
            # Two threads may make the same one; both are right.
            node = _Node.of(self._source, self._root, name, self._tree[name].to_dataset())
            self._nodes[name] = node
        return node


class Split:
    """The tiles of one split by number."""

    def __init__(self, source: StoredTiles, places: Sequence[tuple[str, int]], plumes: Any) -> None:
        self._source = source
        self._places = places
        self.plumes = plumes
        """Whether each tile has a plume."""

    def read(self, number: int) -> Tile:
        """Return a tile."""
        return self._source.read(*self._places[number])


@dataclass(frozen=True, kw_only=True)
class _Node:
    """The tiles of a granule."""

    dataset: xr.Dataset
    background: npt.NDArray[np.float32]
    weight: npt.NDArray[np.floating[Any]]
    arrays: Mapping[str, _Chunked]
    """Those variables that can be read from their objects."""

    @classmethod
    def of(cls, source: Snapshot, root: Root, name: str, dataset: xr.Dataset) -> _Node:
        about = Background.from_dict(
            {each: dataset.attrs[f"background_{each}"] for each in Background.__dataclass_fields__}
        )
        found = {each: _Chunked.of(source, root, f"{TREE}/{name}/{each}") for each in (*FIELDS, "target")}
        return cls(
            dataset=dataset,
            background=about.array,
            weight=dataset["weight"].values,
            arrays={each: array for each, array in found.items() if array is not None},
        )

    def tile(self, number: int) -> Tile:
        return Tile(
            stack=np.stack([self._values(name, number) for name in FIELDS]),
            target=self._values("target", number).astype(np.uint8),
            background=self.background,
            weight=float(self.weight[number]),
        )

    def _values(self, name: str, number: int) -> npt.NDArray[Any]:
        array = self.arrays.get(name)
        if array is None:
            values: npt.NDArray[Any] = self.dataset[name].isel(tile=number).values
            return values
        return array.read(number)


@dataclass(frozen=True, kw_only=True)
class _Chunked:
    """A variable whose every tile is one chunk, as its own metadata say."""

    source: Snapshot
    root: Root
    path: str
    """In the version."""
    dtype: np.dtype[Any]
    shape: tuple[int, int]
    """Of a tile."""
    fill: Any

    @classmethod
    def of(cls, source: Snapshot, root: Root, path: str) -> _Chunked | None:
        """Return how a variable is read; None where it is stored in a way that Zarr had better read."""
        import json

        told = json.loads(source.read(f"{path}/zarr.json"))
        attributes = told.get("attributes", {})
        codecs = [(each["name"], each.get("configuration", {})) for each in told["codecs"]]
        plain = (
            len(told["shape"]) == 3
            and told["data_type"] in {"float32", "uint8"}
            and told["chunk_grid"]["name"] == "regular"
            and told["chunk_grid"]["configuration"]["chunk_shape"] == [1, *told["shape"][1:]]
            and told["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
            and [name for name, _ in codecs] == ["bytes", "blosc"]
            and codecs[0][1].get("endian", "little") == "little"
            and not told.get("storage_transformers")
            and not _PACKED & attributes.keys()
            # xarray replaces a fill value by NaN: nothing is to do only where it is NaN already.
            and ("_FillValue" not in attributes or (told["data_type"] == "float32" and _is_nan(attributes)))
        )
        if not plain:
            return None
        return cls(
            source=source,
            root=root,
            path=path,
            dtype=np.dtype(told["data_type"]).newbyteorder("<"),
            shape=(told["shape"][1], told["shape"][2]),
            fill=np.nan if told["fill_value"] == "NaN" else told["fill_value"],
        )

    def read(self, number: int) -> npt.NDArray[Any]:
        """Return a tile."""
        path = f"{self.path}/c/{number}/0/0"
        if path not in self.source.files:
            # A chunk of fill values is not written.
            return np.full(self.shape, self.fill, self.dtype)
        try:
            data = imagecodecs.blosc_decode(self.root.read(self.source.key(path)), numthreads=1)
        except FileNotFoundError:
            raise self.source.damaged(f"{path} is gone") from None
        except (imagecodecs.BloscError, ValueError) as error:
            raise self.source.damaged(f"{path} cannot be decoded: {error}"[:200]) from None
        if len(data) != self.dtype.itemsize * math.prod(self.shape):
            raise self.source.damaged(f"{path} has {len(data)} bytes once decoded")
        return np.frombuffer(data, self.dtype).reshape(self.shape)


def _is_nan(attributes: Mapping[str, Any]) -> bool:
    """Whether the fill value that xarray wrote, base64 of eight bytes, is NaN."""
    import base64

    try:
        return bool(np.isnan(np.frombuffer(base64.b64decode(attributes["_FillValue"]), "<f8")[0]))
    except (TypeError, ValueError, IndexError):
        return False
