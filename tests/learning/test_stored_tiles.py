"""Tiles of a stored training set: the numbers that xarray reads, in the order and turns of tiles in memory."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from learning_world import START, some, store, workspace

from geostack_pipeline.errors import StorageError
from geostack_pipeline.learning.batches import InMemory, Tile, batches
from geostack_pipeline.learning.fields import FIELDS, Background
from geostack_pipeline.stages import stored_tiles, training_set
from geostack_pipeline.stages.stored_tiles import StoredTiles
from geostack_pipeline.storage.snapshot import Snapshot


def cut(folder: Path) -> Snapshot:
    ws = workspace(folder, test_share=0.2)
    store(ws, some(6))
    return training_set.build(ws, now=START + timedelta(days=400)).snapshot


def by_xarray(source: Snapshot) -> list[Tile]:
    """The oracle: every tile to train on, through xarray alone, node by node."""
    tree = source.open()
    made = []
    for node in sorted(tree.children):
        dataset = tree[node].to_dataset()
        about = Background.from_dict(
            {name: dataset.attrs[f"background_{name}"] for name in Background.__dataclass_fields__}
        )
        for number in np.flatnonzero(dataset["split"].values == 0):
            one = dataset.isel(tile=int(number))
            made.append(
                Tile(
                    stack=np.stack([one[name].values for name in FIELDS]),
                    target=one["target"].values,
                    background=about.array,
                    weight=float(one["weight"].values),
                )
            )
    return made


@pytest.mark.parametrize("way", ["held", "anew", "through zarr"])
def test_batches_are_those_of_tiles_in_memory_bit_for_bit(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = cut(tmp_path)
    if way == "through zarr":
        # As where a set is stored in another way.
        monkeypatch.setattr(stored_tiles._Chunked, "of", lambda *_: None)
    stored = StoredTiles(source, megabytes=2048 if way == "held" else 0)
    split = stored.of("train")
    if way == "anew":
        node = next(iter(stored._nodes.values()))
        assert set(node.arrays) == {*FIELDS, "target"}, "all are read from their objects"
    held = InMemory(by_xarray(source))
    assert split.plumes.tolist() == held.plumes.tolist()
    assert any(np.isnan(tile.stack).any() for tile in held.tiles)
    for _ in range(2):
        pairs = zip(
            batches(split, seed=3, first=0, last=8, size=5, crop=16),
            batches(held, seed=3, first=0, last=8, size=5, crop=16),
            strict=True,
        )
        for mine, theirs in pairs:
            for part in ("stack", "target", "background", "weight"):
                one, other = getattr(mine, part), getattr(theirs, part)
                assert (one.dtype, one.tobytes()) == (other.dtype, other.tobytes())


def test_a_chunk_that_is_gone_or_damaged_is_an_error(tmp_path: Path) -> None:
    source = cut(tmp_path)
    split = StoredTiles(source, megabytes=0).of("train")
    node, number = split._places[0]
    chunk = f"tree.zarr/{node}/ch4_sensitivity/c/{number}/0/0"
    file = tmp_path / "store" / source.key(chunk)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StorageError, match="ch4_sensitivity"):
        split.read(0)
    file.unlink()
    with pytest.raises(StorageError, match="is gone"):
        split.read(0)
