"""Training: the same weights from the same tiles and seed, however often it is interrupted.

A step depends on the state before and on (seed, step) alone.  The batch is spread over all devices there are; the
weights are the same on each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import equinox as eqx
import jax
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from geostack_pipeline.learning.batches import Batch, Tiles, batches, whole
from geostack_pipeline.learning.checkpoints import Checkpoints, State
from geostack_pipeline.learning.loss import loss
from geostack_pipeline.learning.network import PlumeNet, logits, new_network
from geostack_pipeline.learning.profiles import Recipe

Report = Callable[[Mapping[str, float]], None]
_VALIDATION_TILES = 64


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came out of a training."""

    model: PlumeNet
    history: tuple[Mapping[str, float], ...]
    """A row for each tenth of a checkpoint's interval: step, loss, learning rate, loss on validation tiles or NaN."""
    resumed_at: int
    """Step at which this process began; 0 for a training of its own."""
    seconds: float
    steps: int
    """Steps of this process."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One jitted step, with where its inputs lie."""

    run: Callable[[Any, Any, Batch], tuple[Any, Any, Array]]
    """(weights, optimiser state, batch) -> the same after the step, and the loss before it."""
    judge: Callable[[Any, Batch], Array]
    """(weights, batch) -> loss."""
    place: Callable[[Batch], Batch]
    """Puts a batch on the devices."""
    weights: Any
    optimiser: Any
    static: Any
    """What of the network is no array."""


def optimiser(recipe: Recipe) -> optax.GradientTransformation:
    """Return AdamW under a cosine schedule with a linear rise, gradients clipped."""
    return optax.chain(
        optax.clip_by_global_norm(recipe.clip),
        optax.adamw(schedule(recipe), weight_decay=recipe.weight_decay),
    )


def schedule(recipe: Recipe) -> optax.Schedule:
    """Return the learning rate by step."""
    rise = max(1, round(recipe.warmup * recipe.steps))
    return optax.warmup_cosine_decay_schedule(
        0.0, recipe.learning_rate, rise, max(recipe.steps, rise + 1), end_value=recipe.learning_rate * 0.01
    )


def compiled(recipe: Recipe, seed: int) -> Step:
    """Return the step of a recipe, with fresh weights."""
    functions = _functions(recipe)
    weights = eqx.filter(new_network(recipe.architecture, seed), eqx.is_array)
    # Every part of a fresh state is zero; asking optax for its shapes compiles nothing.
    shapes = jax.eval_shape(optimiser(recipe).init, weights)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)

    def place(batch: Batch) -> Batch:
        parts = jax.device_put(_parts(batch), functions.spread)
        return Batch(stack=parts[0], target=parts[1], background=parts[2], weight=parts[3])

    return Step(
        run=lambda weights, state, batch: functions.run(weights, state, _parts(batch)),
        judge=lambda weights, batch: functions.judge(weights, _parts(batch)),
        place=place,
        weights=jax.device_put(weights, functions.everywhere),
        optimiser=jax.device_put(state, functions.everywhere),
        static=functions.static,
    )


@dataclass(frozen=True, kw_only=True)
class _Functions:
    run: Callable[..., tuple[Any, Any, Array]]
    judge: Callable[..., Array]
    spread: NamedSharding
    everywhere: NamedSharding
    static: Any


@lru_cache(maxsize=8)
def _functions(recipe: Recipe) -> _Functions:
    """Return the compiled functions of a recipe; a second training of the process compiles nothing."""
    # As many devices as share the batch evenly.
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if recipe.batch % n == 0)
    mesh = Mesh(np.array(devices[:count]), ("batch",))
    _, static = eqx.partition(new_network(recipe.architecture, 0), eqx.is_array)
    update = optimiser(recipe)

    def judged(weights: Any, parts: tuple[Array, ...]) -> Array:
        stack, target, background, weight = parts
        model = cast("PlumeNet", eqx.combine(weights, static))
        return loss(recipe, logits(model, stack, background), target, weight)

    def stepped(weights: Any, state: Any, parts: tuple[Array, ...]) -> tuple[Any, Any, Array]:
        value, gradient = jax.value_and_grad(judged)(weights, parts)
        change, state = update.update(gradient, state, weights)
        return optax.apply_updates(weights, change), state, value

    return _Functions(
        run=jax.jit(stepped, donate_argnums=(0, 1)),
        judge=jax.jit(judged),
        spread=_sharding(mesh, "batch"),
        everywhere=_sharding(mesh),
        static=static,
    )


def _sharding(mesh: Mesh, *axes: str) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*axes))  # type: ignore[no-untyped-call]


def _parts(batch: Batch) -> tuple[Any, ...]:
    return batch.stack, batch.target, batch.background, batch.weight


def train(
    recipe: Recipe,
    tiles: Tiles,
    *,
    seed: int,
    validation: Tiles | None = None,
    checkpoints: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    report: Report | None = None,
) -> Trained:
    """Train a network.

    Args:
        recipe: What of, how long, how.
        tiles: To learn from.
        seed: Decides initial weights, order and augmentation.
        validation: Tiles that the loss is noted for; nothing is chosen by it.
        checkpoints: Local folder; a training that was killed goes on from its last checkpoint there.
        identity: What else fixes the training, e.g. the version of the training set.
        report: Called with each new row of the history.

    Raises:
        IntegrityError: The folder holds checkpoints of another training or architecture.
    """
    began = time.perf_counter()
    step = compiled(recipe, seed)
    state = State(step=0, arrays=(step.weights, step.optimiser), history=())
    if checkpoints is None:
        ended = _run(recipe, step, state, tiles, validation, seed, None, report)
        first = 0
    else:
        known = {"recipe": recipe.as_dict(), "seed": seed, **(identity or {})}
        with Checkpoints(checkpoints, known) as kept:
            stored = kept.latest(state.arrays)
            state = stored or state
            first = state.step
            ended = _run(recipe, step, state, tiles, validation, seed, kept, report)
    weights, _ = ended.arrays
    return Trained(
        model=cast("PlumeNet", eqx.combine(jax.device_get(weights), step.static)),
        history=tuple(ended.history),
        resumed_at=first,
        seconds=time.perf_counter() - began,
        steps=recipe.steps - first,
    )


def _run(
    recipe: Recipe,
    step: Step,
    state: State,
    tiles: Tiles,
    validation: Tiles | None,
    seed: int,
    kept: Checkpoints | None,
    report: Report | None,
) -> State:
    like = (step.weights, step.optimiser)
    weights, optimiser_state = jax.tree.map(
        lambda value, where: jax.device_put(value, where.sharding), state.arrays, like
    )
    history = list(state.history)
    rate = schedule(recipe)
    every = max(1, recipe.checkpoint_every // 5)
    losses: list[Array] = []
    noted = state.step
    for number, batch in enumerate(_made(recipe, tiles, seed, state.step), start=state.step + 1):
        weights, optimiser_state, value = step.run(weights, optimiser_state, step.place(batch))
        losses.append(value)
        saving = number % recipe.checkpoint_every == 0 or number == recipe.steps
        if number % every == 0 or saving:
            row = {
                "step": float(number),
                "loss": float(np.mean([float(one) for one in losses])),
                "learning_rate": float(rate(number - 1)),
                "validation_loss": _validated(step, weights, validation, recipe) if saving else float("nan"),
            }
            losses, noted = [], number
            history.append(row)
            if report is not None:
                report(row)
        if saving and kept is not None:
            rows = [{name: value for name, value in each.items() if value == value} for each in history]  # noqa: PLR0124 - NaN is no JSON
            kept.save(State(step=number, arrays=(weights, optimiser_state), history=rows))
    assert noted == recipe.steps
    return State(step=recipe.steps, arrays=(weights, optimiser_state), history=history)


def _made(recipe: Recipe, tiles: Tiles, seed: int, first: int) -> Iterator[Batch]:
    return batches(tiles, seed=seed, first=first, last=recipe.steps, size=recipe.batch, crop=recipe.crop)


def _validated(step: Step, weights: Any, validation: Tiles | None, recipe: Recipe) -> float:
    """Return the loss on the first tiles of the validation split, NaN where there are none."""
    count = 0 if validation is None else len(validation.plumes)
    values, sizes = [], []
    if validation is not None:
        for first in range(0, min(count, _VALIDATION_TILES), recipe.batch):
            numbers = np.arange(first, min(first + recipe.batch, count, _VALIDATION_TILES))
            # A batch of always one shape: the last is filled up with copies that weigh nothing.
            filled = np.concatenate([numbers, np.zeros(recipe.batch - len(numbers), np.int64)])
            made = whole(validation, filled)
            made.weight[len(numbers) :] = 0.0
            values.append(float(step.judge(weights, step.place(made))))
            sizes.append(len(numbers))
    return float(np.average(values, weights=sizes)) if values else float("nan")
