"""What feeding a training costs: steps on batches of a stored training set against the same step on one batch.

``python -m benchmarks.learning_stored`` measures this alone, on tiles of noise, which compress as badly as measured ones.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl
import xarray as xr

from geostack_pipeline.cube.write import finish_tree, write_node
from geostack_pipeline.learning.batches import Batch, Tile, Tiles, batch, batches
from geostack_pipeline.learning.fields import FIELDS, Background, background
from geostack_pipeline.learning.profiles import PROFILES, Recipe
from geostack_pipeline.learning.training import compiled
from geostack_pipeline.stages import training_set, training_tiles
from geostack_pipeline.stages.stored_tiles import StoredTiles
from geostack_pipeline.stages.tables import parquet_bytes
from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.roots import open_root
from geostack_pipeline.storage.snapshot import Snapshot

STEPS = 10
"""Steps of a round."""


def noise(count: int, edge: int = 96) -> list[Tile]:
    """Return tiles of noise, half of them with a plume."""
    made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        stack = rng.normal(200.0, 100.0, (3, edge, edge)).astype(np.float32)
        target = np.zeros((edge, edge), np.uint8)
        if number % 2:
            target[20:40, 20:50] = 1
        made.append(Tile(stack=stack, target=target, background=background(stack).array, weight=1.0))
    return made


def store(folder: str, tiles: Sequence[Tile]) -> Snapshot:
    """Store tiles as the stage does, each as a granule."""
    artifacts = ArtifactStore(open_root(folder))
    with artifacts.begin(
        training_set.NAME, training_set.PARTITION, "1", kind="tree", code_version="1", upstream={}
    ) as attempt:
        zarr = attempt.zarr_store()
        for number, tile in enumerate(tiles):
            about = background(tile.stack).as_dict()
            assert set(about) == set(Background.__dataclass_fields__)
            node = xr.Dataset(
                {
                    **{name: (("tile", "y", "x"), tile.stack[None, at]) for at, name in enumerate(FIELDS)},
                    "target": (("tile", "y", "x"), tile.target[None]),
                    "split": ("tile", np.zeros(1, np.uint8)),
                    "weight": ("tile", np.full(1, tile.weight, np.float32)),
                },
                attrs={f"background_{name}": value for name, value in about.items()},
            )
            write_node(zarr, f"n{number:04d}", node, chunks=training_tiles.chunks(node))
        finish_tree(zarr, {})
        rows = [
            {"node": f"n{number:04d}", "tiles_train": 1, "tiles_validation": 0}
            for number in range(len(tiles))
        ]
        attempt.put("members.parquet", parquet_bytes(pl.DataFrame(rows)))
        return attempt.commit(meta={})


def throughput(recipe: Recipe, tiles: Sequence[Tile], rounds: int) -> list[tuple[str, float, float]]:
    """Return way, tiles per second, and the share of the step on one batch, which comes first.

    Each round does every way in turn, so that what else the machine does meets all of them alike; the share is the median of
    the rounds' own.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = store(folder, tiles)
        held, anew = StoredTiles(source).of("train"), StoredTiles(source, megabytes=0).of("train")
        for number in range(len(tiles)):
            held.read(number)
        step = compiled(recipe, 0)
        one = batch(held, held.plumes, seed=0, step=0, size=recipe.batch, crop=recipe.crop)
        fixed = step.place(one)
        weights, state, value = step.run(step.weights, step.optimiser, fixed)
        value.block_until_ready()

        def made(which: Tiles) -> Callable[[int], Iterator[Batch]]:
            def of(number: int) -> Iterator[Batch]:
                fed = batches(which, seed=number, first=0, last=STEPS, size=recipe.batch, crop=recipe.crop)
                return (step.place(each) for each in fed)

            return of

        ways: dict[str, Callable[[int], Iterator[Batch]]] = {
            "step on one batch": lambda _: (fixed for _ in range(STEPS)),
            "stored tiles, held in memory": made(held),
            "stored tiles, each read anew": made(anew),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(rounds):
            for way, feed in ways.items():
                began = time.perf_counter()
                for each in feed(number):
                    weights, state, value = step.run(weights, state, each)
                value.block_until_ready()
                seconds[way].append(time.perf_counter() - began)
    plain = seconds["step on one batch"]
    return [
        (
            way,
            recipe.batch * STEPS / statistics.median(spent),
            statistics.median(alone / fed for alone, fed in zip(plain, spent, strict=True)),
        )
        for way, spent in seconds.items()
    ]


if __name__ == "__main__":
    profile, count = [*sys.argv[1:], "demo", "9"][:2] if len(sys.argv) != 2 else [sys.argv[1], "9"]
    for row in throughput(PROFILES[profile], noise(130), int(count)):
        sys.stdout.write("{}: {:.1f} tiles/s, share {:.3f}\n".format(*row))
