"""A training gives the same weights, however it is interrupted; a model gives the same numbers, however it is cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from learning_world import START, TINY_RECIPE, Made, made, some, store, workspace

from geostack_pipeline.errors import IntegrityError, RasterError
from geostack_pipeline.learning import batches, fields, network, tiles
from geostack_pipeline.learning.batches import InMemory, Tile
from geostack_pipeline.learning.checkpoints import Checkpoints, State
from geostack_pipeline.learning.inference import PlumeModel, probability
from geostack_pipeline.learning.loss import loss
from geostack_pipeline.learning.profiles import PROFILES, Recipe
from geostack_pipeline.learning.targets import target
from geostack_pipeline.learning.training import train
from geostack_pipeline.learning.weights import load_weights, named, save_weights
from geostack_pipeline.stages import candidate_model, training_set

ROOT = Path(__file__).parents[2]


def stack_of(granule: Made) -> np.ndarray:
    masked = {name: np.where(values == -9999.0, np.nan, values) for name, values in granule.fields.items()}
    return fields.stacked(masked)


def tile_of(granule: Made) -> Tile:
    stack = stack_of(granule)
    return Tile(
        stack=stack,
        target=target(granule.truth & granule.outlined, np.isfinite(stack[0]), 1),
        background=fields.background(stack).array,
        weight=1.0,
    )


@pytest.fixture(scope="module")
def few() -> InMemory:
    return InMemory([tile_of(granule) for granule in some(6)])


def test_two_trainings_and_one_that_was_interrupted_end_alike(
    few: InMemory, tiny: Recipe, tmp_path: Path
) -> None:
    whole = train(tiny, few, seed=3, validation=few)
    seen: list[float] = []

    def stop(row: dict[str, float]) -> None:
        seen.append(row["step"])
        if row["step"] >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny, few, seed=3, validation=few, checkpoints=tmp_path / "kept", report=stop)
    resumed = train(tiny, few, seed=3, validation=few, checkpoints=tmp_path / "kept")
    assert resumed.resumed_at == 4
    assert [row["step"] for row in resumed.history] == [row["step"] for row in whole.history]
    for name, values in named(whole.model).items():
        assert np.array_equal(values, named(resumed.model)[name]), name
    assert whole.history[-1]["loss"] == resumed.history[-1]["loss"]
    other = train(tiny, few, seed=4, validation=few)
    assert any(
        not np.array_equal(values, named(other.model)[name]) for name, values in named(whole.model).items()
    )


def test_checkpoints_of_another_training_or_architecture_are_refused(
    few: InMemory, tiny: Recipe, tmp_path: Path
) -> None:
    arrays = {"a": np.arange(3.0), "b": np.zeros((2, 2), np.float32)}
    with Checkpoints(tmp_path / "kept", {"seed": 1}) as kept:
        assert kept.latest(arrays) is None
        kept.save(State(step=2, arrays=arrays, history=[{"step": 2.0}]))
        found = kept.latest(arrays)
        assert found is not None
        assert found.step == 2
        assert np.array_equal(found.arrays["a"], arrays["a"])
        assert found.history == ({"step": 2.0},)
        with pytest.raises(IntegrityError, match="another architecture"):
            kept.latest({"a": np.zeros(4), "b": arrays["b"]})
    with pytest.raises(IntegrityError, match="another training"):
        Checkpoints(tmp_path / "kept", {"seed": 2})
    with pytest.raises(IntegrityError, match="another training"):
        train(tiny, few, seed=1, checkpoints=tmp_path / "kept")
    for file in (tmp_path / "kept").rglob("*"):
        assert file.suffix not in {".pkl", ".pickle"}
        assert not (file.is_file() and file.read_bytes()[:2] == b"\x80\x04"), file


def test_a_batch_follows_from_seed_and_step_alone(few: InMemory) -> None:
    def one(step: int, seed: int = 0) -> batches.Batch:
        return batches.batch(few, few.plumes, seed=seed, step=step, size=4, crop=16)

    streamed = list(batches.batches(few, seed=0, first=0, last=5, size=4, crop=16, threads=3))
    for step, batch in enumerate(streamed):
        assert np.array_equal(batch.stack, one(step).stack, equal_nan=True)
        assert np.array_equal(batch.target, one(step).target)
    assert not np.array_equal(one(0).target, one(1).target)
    assert not np.array_equal(one(0).stack, one(0, seed=1).stack, equal_nan=True)
    assert (np.stack([batch.target for batch in streamed])[:, :2] == 1).any(axis=(2, 3)).all(), (
        "half show plumes"
    )


def test_augmentation_turns_fields_and_targets_together() -> None:
    values = np.arange(64.0, dtype=np.float32).reshape(8, 8)
    one = Tile(
        stack=np.stack([values] * 3),
        target=(values % 7 == 0).astype(np.uint8),
        background=np.zeros(5, np.float32),
        weight=1.0,
    )
    made = batches.batch(InMemory([one]), np.array([False]), seed=0, step=0, size=64, crop=8)
    assert np.array_equal(made.target, made.stack[:, 0] % 7 == 0)
    assert len({stack.tobytes() for stack in made.stack}) == 8, "four turns, two sides"


def test_loss_is_that_of_numpy_and_ignores_what_is_ignored(tiny: Recipe) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((3, 5, 5))
    truth = rng.integers(0, 2, (3, 5, 5)).astype(np.uint8)
    truth[0, :2] = 255
    weight = np.array([1.0, 0.5, 0.0])
    p = 1.0 / (1.0 + np.exp(-logits))
    w = (truth != 255) * weight[:, None, None]
    y = truth == 1
    entropy = -(np.where(y, np.log(p), np.log1p(-p)) * w).sum() / w.sum()
    hit, false, missed = (p * y * w).sum(), (p * ~y * w).sum(), ((1 - p) * y * w).sum()
    index = (hit + 1) / (hit + tiny.alpha * false + tiny.beta * missed + 1)
    expected = (1 - tiny.tversky) * entropy + tiny.tversky * (1 - index)
    assert float(loss(tiny, jnp.asarray(logits), jnp.asarray(truth), jnp.asarray(weight))) == pytest.approx(
        expected, rel=1e-5
    )
    changed = np.where((truth == 255) | (np.arange(3)[:, None, None] == 2), 50.0, logits)
    assert float(loss(tiny, jnp.asarray(changed), jnp.asarray(truth), jnp.asarray(weight))) == pytest.approx(
        expected, rel=1e-5
    )


def test_features_are_those_of_numpy_and_finite() -> None:
    stack = stack_of(some(2)[1])
    about = fields.background(stack)
    found = np.asarray(network.features(jnp.asarray(stack), jnp.asarray(about.array)))
    assert found.shape[0] == network.FEATURES
    assert np.isfinite(found).all()
    good = np.isfinite(stack[0])
    smooth = fields.blurred(stack[0])
    expected = np.arcsinh((smooth - about.blurred_centre) / about.blurred_scatter / 5.0)
    assert found[2][good] == pytest.approx(expected[good], abs=1e-3)
    assert found[0][good] == pytest.approx(
        np.arcsinh((stack[0] - about.centre) / about.scatter / 3.0)[good], abs=1e-4
    )
    assert (found[:, ~good] == 0.0).all()


def test_weights_are_safetensors_of_one_architecture(tiny: Recipe) -> None:
    model = network.new_network(tiny.architecture, 5)
    data = save_weights(model, tiny.architecture)
    again = load_weights(data, tiny.architecture, "model")
    for name, values in named(model).items():
        assert np.array_equal(values, named(again)[name])
    assert json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    with pytest.raises(IntegrityError, match="another architecture"):
        load_weights(data, PROFILES["cpu"].architecture, "model")
    with pytest.raises(IntegrityError, match="cannot be read"):
        load_weights(data[: len(data) // 2], tiny.architecture, "model")


def test_the_large_network_is_of_the_promised_size() -> None:
    shapes = jax.tree.leaves(network.skeleton(PROFILES["full"].architecture))
    size = sum(int(np.prod(leaf.shape)) for leaf in shapes if isinstance(leaf, jax.ShapeDtypeStruct))
    assert 500_000 <= size <= 2_000_000


@pytest.mark.parametrize(
    ("length", "tile", "overlap"), [(20, 32, 8), (32, 32, 8), (33, 32, 8), (100, 32, 16), (64, 16, 0)]
)
def test_tiles_cover_an_axis_and_end_flush(length: int, tile: int, overlap: int) -> None:
    found = tiles.starts(length, tile, overlap)
    covered = np.zeros(max(length, tile), bool)
    for start in found:
        covered[start : start + tile] = True
    assert covered.all()
    assert found == sorted(set(found))
    assert length <= tile or found[-1] == length - tile
    assert all(b - a <= tile - overlap for a, b in pairwise(found))


def test_probability_names_its_model_and_is_the_same_however_often(tiny: Recipe) -> None:
    model = PlumeModel(
        network=network.new_network(tiny.architecture, 0),
        version="abc",
        name="plume-unet",
        tile=32,
        overlap=8,
        threshold=0.4,
    )
    granule = some(2)[1]
    masked = {
        name: (("y", "x"), np.where(values == -9999.0, np.nan, values))
        for name, values in granule.fields.items()
    }
    node = xr.Dataset(masked, coords={"y": np.arange(48.0), "x": np.arange(48.0)}, attrs={"item_id": "a"})
    one, two = probability(node, model), probability(node, model)
    assert one.attrs["model_version"] == "abc"
    assert one.attrs["model_name"] == "plume-unet"
    assert one.dims == ("y", "x")
    assert np.array_equal(one.values, two.values, equal_nan=True)
    known = np.isfinite(node["ch4_enhancement"].values)
    assert np.array_equal(np.isfinite(one.values), known)
    assert ((one.values[known] >= 0) & (one.values[known] <= 1)).all()
    with pytest.raises(RasterError, match="lacks an input"):
        probability(node.drop_vars("ch4_uncertainty"), model)


_PROBABILITIES = """
import sys; sys.path[:0] = [{tests!r}]
import numpy as np
from test_training import model_of, stack_of
from learning_world import made
from pathlib import Path
folder = Path({folder!r})
model = model_of((folder / "weights").read_bytes())
for number in {numbers!r}:
    granule = made(number, size=40 + 12 * number)
    np.save(folder / f"{{number}}.npy", model.probabilities(stack_of(granule)))
"""


def model_of(weights: bytes) -> PlumeModel:
    """Return a model of stored weights."""
    return PlumeModel(
        network=load_weights(weights, TINY_RECIPE.architecture, "test"),
        version="abc",
        name="plume-unet",
        tile=32,
        overlap=8,
        threshold=0.5,
    )


@pytest.mark.slow
def test_another_process_gives_the_same_probabilities_in_any_order(tiny: Recipe, tmp_path: Path) -> None:
    weights = save_weights(network.new_network(tiny.architecture, 0), tiny.architecture)
    (tmp_path / "weights").write_bytes(weights)
    model = model_of(weights)
    numbers = [0, 1, 2, 3]
    here = {number: model.probabilities(stack_of(made(number, size=40 + 12 * number))) for number in numbers}
    assert len({values.tobytes() for values in here.values()}) == len(numbers)
    code = _PROBABILITIES.format(
        tests=str(Path(__file__).parent), folder=str(tmp_path), numbers=[2, 0, 3, 1, 2]
    )
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=900, check=True
    )
    for number, values in here.items():
        assert np.load(tmp_path / f"{number}.npy").tobytes() == values.tobytes(), number


def test_blending_is_the_weighted_mean_of_tiles(tiny: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a loop over pixels, with a network that says which tile it is in."""
    from geostack_pipeline.learning import inference

    model = PlumeModel(
        network=network.new_network(tiny.architecture, 0),
        version="",
        name="",
        tile=32,
        overlap=8,
        threshold=0.5,
    )
    stack = np.ones((3, 40, 50), np.float32)
    stack[0] = np.arange(40.0)[:, None] + 100.0 * np.arange(50.0)[None, :]

    def corner(_: object, tile: np.ndarray, *__: object) -> np.ndarray:
        return np.broadcast_to(
            np.nan_to_num(tile)[:, :1, :1, 0].transpose(0, 2, 1) / 5000.0, (len(tile), 32, 32)
        )

    monkeypatch.setattr(inference, "_sigmoids", corner)
    found = model.probabilities(stack)
    window = np.outer(np.hanning(34)[1:-1], np.hanning(34)[1:-1])
    for row, column in ((0, 0), (9, 20), (39, 49), (20, 30)):
        total = weight = 0.0
        for top in (0, 8):
            for left in (0, 18):
                if top <= row < top + 32 and left <= column < left + 32:
                    w = window[row - top, column - left]
                    total += w * (top + 100.0 * left) / 5000.0
                    weight += w
        assert found[row, column] == pytest.approx(total / weight, abs=1e-5)


_ON_DEVICES = """
import sys; sys.path[:0] = [{tests!r}]
import json, jax
from learning_world import TINY_RECIPE, some
from test_training import tile_of
from geostack_pipeline.learning.batches import InMemory
from geostack_pipeline.learning.training import train
out = train(TINY_RECIPE, InMemory([tile_of(granule) for granule in some(6)]), seed=3)
print(json.dumps([len(jax.devices()), [row["loss"] for row in out.history]]))
"""


@pytest.mark.slow
def test_the_loss_is_the_same_on_two_and_four_devices() -> None:
    found = {}
    for count in (1, 2, 4):
        environment = {
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            [sys.executable, "-c", _ON_DEVICES.format(tests=str(Path(__file__).parent))],
            env=environment, capture_output=True, text=True, timeout=900, check=True,
        )  # fmt: skip
        devices, losses = json.loads(done.stdout.strip().splitlines()[-1])
        assert devices == count
        found[count] = losses
    for count in (2, 4):
        assert found[count] == pytest.approx(found[1], rel=1e-4), count


@pytest.mark.slow
def test_the_full_profile_trains_and_judges(tmp_path: Path) -> None:
    """The network and squares of a GPU's training for two steps, from the settings to whole granules."""
    ws = workspace(tmp_path, profile="full", steps=2, batch=2, tile=256, overlap=64, test_share=0.01)
    granules = [made(number, plume=number != 3, size=260) for number in (1, 2, 3)]
    store(ws, granules)
    training_set.build(ws, now=START + timedelta(days=400))
    snapshot = candidate_model.build(ws).snapshot
    chosen = candidate_model.recipe(ws.settings.learning)
    assert (chosen.crop, chosen.architecture) == (256, PROFILES["full"].architecture)
    assert snapshot.meta["profile"] == "full"
    assert 500_000 <= snapshot.meta["parameters"] <= 2_000_000
    model = candidate_model.load(snapshot)
    stack = stack_of(granules[0])
    found = model.probabilities(stack)
    good = np.isfinite(stack[0])
    assert ((found[good] >= 0.0) & (found[good] <= 1.0)).all()
    assert np.isnan(found[~good]).all()
