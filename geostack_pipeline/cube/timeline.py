"""Cubes of one area on many dates as one lazy dataset on the axis ``time``: nothing is copied, little is read.

Opening reads each date's consolidated metadata and the coordinates ``time`` and ``scene``.  Pixels stay where they
are, and are read by zarr-python through :class:`~geostack_pipeline.cube.timeline_store.TimelineStore`.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from pydantic_core import from_json
from xarray.backends import BackendArray
from xarray.core import indexing

from geostack_pipeline.cube.timeline_store import METADATA, Joined, Part, TimelineStore
from geostack_pipeline.errors import SettingsError
from geostack_pipeline.storage.parallel import in_threads
from geostack_pipeline.storage.snapshot import Snapshot

TREE = "tree.zarr"
SCENE_NUMBERS = "source_scene"
NOBODY = -1
VERSION: dict[str, Any] = {"long_name": "version of the cube that the time belongs to"}

_AXES = ("time", "scene")
"""Dimensions along which dates stand one after another; all others are the same on every date."""
_DECODING = ("units", "calendar", "scale_factor", "add_offset", "_FillValue", "flag_values", "flag_meanings")
_GRID = ("proj:code", "proj:wkt2", "proj:transform", "proj:shape")
_OF_ONE_DATE = frozenset({"partition"})


@dataclass(frozen=True, kw_only=True)
class _Date:
    """What is known of one date's node before a pixel is read."""

    snapshot: Snapshot
    part: Part
    attributes: Mapping[str, Any]
    arrays: Mapping[str, Mapping[str, Any]]
    layout: Mapping[str, Any]
    """What must be the same on all dates, by the words that name it in an error."""

    def size(self, dimension: str) -> int:
        """Return the length of a dimension on this date."""
        for document in self.arrays.values():
            names = _names(document)
            if dimension in names:
                return int(document["shape"][names.index(dimension)])
        return 0


def open_timeline(snapshots: Sequence[Snapshot], node: str, *, mask_and_scale: bool = True) -> xr.Dataset:
    """Return a node's cubes, one per snapshot, as one dataset along ``time``; lazy, without dask.

    The dataset has the variables of a single date's cube.  ``scene`` and what lies along it stand one after
    another as well, and ``source_scene`` counts on with them, so that it is an index along the whole dimension
    (32 bits wide where 16 are too few).  The coordinate ``cube_version(time)`` says which version a step is of.
    Attributes that differ between dates are left out.  It pickles; where it is computed the root must be open, or
    open with the options of the environment.

    Args:
        snapshots: Versions of gridded cubes that have the node, in the order of time, all in one root.
        node: Name of the area.
        mask_and_scale: As in xarray: False leaves the stored numbers as they are.

    Raises:
        SettingsError: Grid, bands, packing, chunks or codecs of some dates differ from those of most dates.
        StorageError: A version's metadata cannot be read.
    """
    serial = 2 if snapshots[0].local_path() is None else len(snapshots) + 1
    alike = _Alike()
    dates = in_threads(lambda one: _read(one, node, alike), list(snapshots), serial_below=serial)
    _require_alike(dates, node)
    latest = dates[-1]
    root_url = latest.snapshot.root_url
    parts = [date.part for date in dates]
    small = [name for name, document in latest.arrays.items() if _is_small(document)]
    large = {name: _joined(name, dates) for name in latest.arrays if name not in small}
    store = TimelineStore(root_url, parts, _common([date.attributes for date in dates]), large)
    lengths = {axis: [date.size(axis) for date in dates] for axis in _AXES}
    raw = xr.open_zarr(store, chunks=None, decode_cf=False, consolidated=True)
    for name in small:
        document = latest.arrays[name]
        pieces = _Pieces(root_url, parts, name, tuple(date.arrays[name] for date in dates))
        attributes = _common([date.arrays[name].get("attributes", {}) for date in dates])
        raw[name] = xr.Variable(
            document["dimension_names"],
            indexing.LazilyIndexedArray(pieces),
            attributes,
            # As xarray's reader of Zarr notes it; without, texts would be read and made objects of at once.
            encoding={"dtype": pieces.dtype},
        )
    if SCENE_NUMBERS in large:
        raw[SCENE_NUMBERS] = _counted_on(store, raw[SCENE_NUMBERS].variable, lengths)
    raw["cube_version"] = (
        "time",
        np.repeat(np.array([date.snapshot.version for date in dates], object), lengths["time"]),
        VERSION,
    )
    coordinates = set(_coordinates(latest)) | {"cube_version"}
    raw = raw.set_coords([name for name in sorted(coordinates) if name in raw.variables])
    return xr.decode_cf(raw, mask_and_scale=mask_and_scale)


class _Alike:
    """Metadata of arrays, which nearly all dates share: each is kept, and looked at, once."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Mapping[str, Any], dict[str, Any]]] = {}

    def of(self, name: str, document: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """Return an array's document, the one of another date where they are equal, and its part of the layout."""
        known = self._last.get(name)
        if known is not None and known[0] == document:
            return known
        found = document, _layout_of(name, document)
        # Another thread may be faster; then a few are kept twice.
        self._last[name] = found
        return found


def _read(snapshot: Snapshot, node: str, alike: _Alike) -> _Date:
    """Return what the consolidated metadata of a version says about a node."""
    path = f"{TREE}/{METADATA}"
    try:
        # Quicker than the standard library's, and a year has hundreds of them.
        found = from_json(snapshot.read(path))["consolidated_metadata"]["metadata"]
        attributes = found[node]["attributes"]
    except (ValueError, KeyError, TypeError) as error:
        raise snapshot.damaged(f"{path} has no metadata of {node}: {error!r}"[:200]) from error
    start = f"{node}/"
    known = {
        name.removeprefix(start): alike.of(name.removeprefix(start), document)
        for name, document in found.items()
        if name.startswith(start) and "/" not in name.removeprefix(start) and document["node_type"] == "array"
    }
    arrays = {name: document for name, (document, _) in known.items()}
    layout: dict[str, Any] = {
        "the grid": {name: attributes.get(name) for name in _GRID},
        "the bands": snapshot.meta.get("bands"),
        "the variables": sorted(arrays),
    }
    for name in sorted(known):
        layout |= known[name][1]
    return _Date(
        snapshot=snapshot,
        part=Part(
            asset=snapshot.asset,
            partition=snapshot.partition,
            version=snapshot.version,
            folder=snapshot.key(),
            path=f"{TREE}/{node}",
        ),
        attributes=attributes,
        arrays=arrays,
        layout=layout,
    )


def _names(document: Mapping[str, Any]) -> list[str]:
    """Return the names of an array's dimensions."""
    return [str(name) for name in document.get("dimension_names") or ()]


def _is_small(document: Mapping[str, Any]) -> bool:
    """Return whether an array has one value per time or scene: read whole, as its chunks differ in length."""
    names = _names(document)
    return len(names) == 1 and names[0] in _AXES


def _layout_of(name: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be the same on all dates of an array, by the words that name it in an error."""
    layout: dict[str, Any] = {}
    names = _names(document)
    own = document.get("attributes", {})
    layout[f"the packing or the units of {name}"] = {key: own[key] for key in _DECODING if key in own}
    layout[f"the type of {name}"] = (document["data_type"], document["fill_value"])
    sizes = [None if axis in _AXES else size for axis, size in zip(names, document["shape"], strict=True)]
    layout[f"the shape of {name}"] = (names, sizes)
    if not _is_small(document):
        layout[f"the chunks or codecs of {name}"] = {
            key: document.get(key)
            for key in ("chunk_grid", "chunk_key_encoding", "codecs", "storage_transformers")
        }
        thickness = dict(zip(names, document["chunk_grid"]["configuration"]["chunk_shape"], strict=False))
        alone = "time" not in names or (names[0] == "time" and thickness["time"] == 1)
        layout[f"how {name} is cut along time"] = alone
    return layout


def _require_alike(dates: Sequence[_Date], node: str) -> None:
    """Refuse dates that differ from the layout that most have, the latest one where it is a draw."""
    texts = [json.dumps(date.layout, sort_keys=True, default=str) for date in dates]
    most = max(Counter(texts).values())
    usual = next(text for text in reversed(texts) if texts.count(text) == most)
    pattern = dates[texts.index(usual)]
    others = [date for date, text in zip(dates, texts, strict=True) if text != usual]
    if not others:
        cut = [what for what, fine in pattern.layout.items() if what.startswith("how ") and not fine]
        if cut:
            raise SettingsError(
                f"{cut[0]} does not let dates stand one after another",
                subject=f"{pattern.part.asset} {node}",
                found="chunks of several times",
                action="open the dates one by one with `load`",
            )
        return
    first = others[0]
    what = next(
        name
        for name in (*pattern.layout, *first.layout)
        if pattern.layout.get(name) != first.layout.get(name)
    )
    days = [date.part.partition for date in others]
    raise SettingsError(
        f"{len(others)} of {len(dates)} dates do not fit on one axis with the others",
        subject=f"{first.part.asset} {node}",
        found=f"{what} of {', '.join(days[:5])}{', …' if len(days) > 5 else ''} is not that of "
        f"{pattern.part.partition} (version {first.part.version}: {first.layout.get(what)!r}, version "
        f"{pattern.part.version}: {pattern.layout.get(what)!r})"[:600],
        action="bring these dates up to date with `geostack run`, leave them out of the range, or name versions "
        "that fit",
    )


def _joined(name: str, dates: Sequence[_Date]) -> Joined:
    """Return an array along ``time``, or the latest date's where it has none."""
    latest = dates[-1].arrays[name]
    names = _names(latest)
    attributes = _common([date.arrays[name].get("attributes", {}) for date in dates])
    if _AXES[0] not in names:
        return Joined(metadata={**latest, "attributes": attributes}, parts=(len(dates) - 1,), starts=(0,))
    steps = [int(date.arrays[name]["shape"][0]) for date in dates]
    starts = np.cumsum([0, *steps[:-1]]).tolist()
    shape = [sum(steps), *latest["shape"][1:]]
    kept = [i for i, size in enumerate(steps) if size]
    return Joined(
        metadata={**latest, "attributes": attributes, "shape": shape},
        parts=tuple(kept),
        starts=tuple(starts[i] for i in kept),
    )


def _coordinates(date: _Date) -> list[str]:
    """Return the arrays of a date that are coordinates: those with the name of a dimension, and xarray's list."""
    dimensions = {name for document in date.arrays.values() for name in _names(document)}
    listed = str(date.attributes.get("coordinates", "")).split()
    for document in date.arrays.values():
        listed += str(document.get("attributes", {}).get("coordinates", "")).split()
    return [name for name in date.arrays if name in dimensions or name in listed]


def _common(attributes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the attributes that have the same value everywhere; those of one date have no meaning for many."""
    return {
        name: value
        for name, value in attributes[0].items()
        if name not in _OF_ONE_DATE and all(name in other and other[name] == value for other in attributes)
    }


class _Pieces(BackendArray):
    """A variable of one dimension, one piece per date, read whole when a value is first asked for."""

    def __init__(
        self, root_url: str, parts: Sequence[Part], name: str, documents: tuple[Mapping[str, Any], ...]
    ) -> None:
        self._arguments = (root_url, tuple(parts), name, documents)
        self.shape = (sum(int(document["shape"][0]) for document in documents),)
        self.dtype = zarr.core.dtype.parse_dtype(documents[0]["data_type"], zarr_format=3).to_native_dtype()
        self._values: npt.NDArray[Any] | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return (_Pieces, self._arguments)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._values_at
        )

    def _values_at(self, key: tuple[Any, ...]) -> Any:
        """Return values; of a single one, which xarray wants in order to learn what times are like, its date alone is read."""
        wanted = np.arange(self.shape[0])[key[0]]
        if self._values is not None or wanted.size != 1:
            return self._all()[key]
        ends = np.cumsum([int(document["shape"][0]) for document in self._arguments[3]])
        number = int(wanted.reshape(-1)[0])
        date = int(np.searchsorted(ends, number, side="right"))
        root_url, parts, name, documents = self._arguments
        piece = _whole(root_url, parts, name, Joined(metadata=documents[date], parts=(date,), starts=(0,)))
        at = number - int(ends[date]) + len(piece)
        return piece[at] if wanted.ndim == 0 else piece[at : at + 1]

    def _all(self) -> npt.NDArray[Any]:
        with self._lock:
            if self._values is None:
                self._values = self._read()
            return self._values

    def _read(self) -> npt.NDArray[Any]:
        """Return all values; pieces of one length are read as the chunks of one array."""
        root_url, parts, name, documents = self._arguments
        groups: dict[str, list[int]] = defaultdict(list)
        for i, document in enumerate(documents):
            if document["shape"][0]:
                groups[json.dumps({**document, "attributes": {}}, sort_keys=True)].append(i)
        pieces: dict[int, npt.NDArray[Any]] = {}
        for members in groups.values():
            document = documents[members[0]]
            size, chunk = document["shape"][0], document["chunk_grid"]["configuration"]["chunk_shape"][0]
            if size == chunk:
                joined = Joined(
                    metadata={**document, "shape": [size * len(members)], "attributes": {}},
                    parts=tuple(members),
                    starts=tuple(range(len(members))),
                )
                values = _whole(root_url, parts, name, joined)
                pieces |= dict(zip(members, np.split(values, len(members)), strict=True))
            else:
                for i in members:
                    alone = Joined(metadata=documents[i], parts=(i,), starts=(0,))
                    pieces[i] = _whole(root_url, parts, name, alone)
        if not pieces:
            return np.empty(0, self.dtype)
        return np.concatenate([pieces[i] for i in sorted(pieces)])


def _whole(root_url: str, parts: Sequence[Part], name: str, joined: Joined) -> npt.NDArray[Any]:
    store = TimelineStore(root_url, parts, {}, {name: joined})
    return np.asarray(zarr.open_array(store, path=name, mode="r", zarr_format=3)[:])


class _CountedOn(BackendArray):
    """Scene numbers of many dates: each date's own, plus the number of scenes before it."""

    def __init__(self, store: TimelineStore, first: npt.NDArray[np.int64], dtype: np.dtype[Any]) -> None:
        self._array = zarr.open_array(store, path=SCENE_NUMBERS, mode="r", zarr_format=3)
        self._first = first
        self.shape = self._array.shape
        self.dtype = dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._numbers
        )

    def _numbers(self, key: tuple[Any, ...]) -> Any:
        numbers = np.asarray(self._array.oindex[key]).astype(self.dtype)
        first = self._first[key[0]].astype(self.dtype)
        # Where one time is asked for, its dimension is gone from the result.
        first = first.reshape(first.shape + (1,) * (numbers.ndim - first.ndim))
        return np.where(numbers > NOBODY, numbers + first, numbers).astype(self.dtype)


def _counted_on(
    store: TimelineStore, variable: xr.Variable, lengths: Mapping[str, Sequence[int]]
) -> xr.Variable:
    before = np.cumsum([0, *lengths["scene"][:-1]])
    scenes = sum(lengths["scene"])
    narrow = scenes <= np.iinfo(variable.dtype).max
    dtype = variable.dtype if narrow else np.dtype(np.int32)
    numbers = _CountedOn(store, np.repeat(before, lengths["time"]).astype(np.int64), dtype)
    return xr.Variable(
        variable.dims, indexing.LazilyIndexedArray(numbers), variable.attrs, encoding=variable.encoding
    )
