"""The plume model against the blurred matched filter on truth, and how much of a step the data pipeline costs.

Granules are scenarios of the sandbox's world; the model learns from what an analyst would outline and is judged on
what was planted.  No place of the training is in the test: each scenario has a ground of its own.
Rendered granules are kept in the folder that ``GEOSTACK_SCENARIOS`` names, curves drawn in that of ``GEOSTACK_FIGURES``.
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import label

from benchmarks.report import Report, Table, Target, ratio
from geostack_pipeline.learning.batches import InMemory, Tile, batch, batches
from geostack_pipeline.learning.fields import background, matched_filter_score
from geostack_pipeline.learning.inference import PlumeModel
from geostack_pipeline.learning.judging import (
    THRESHOLDS,
    Granule,
    Method,
    Result,
    baseline,
    best_threshold,
    calibrated,
    difference,
    interval_of,
    judge,
)
from geostack_pipeline.learning.profiles import PROFILES, Architecture, Recipe
from geostack_pipeline.learning.targets import target
from geostack_pipeline.learning.training import compiled, train

EDGE = 96
"""Lines and samples of a granule, pixels of 60 m."""
TRUTH_PPM_M = 200.0
_FIELDS = ("CH4ENH", "CH4UNCERT", "CH4SENS")


def run(*, quick: bool, repeat: int) -> Report:
    """Return what was found; ``repeat`` is the number of seeds."""
    recipe = PROFILES["demo"]
    counts = (130, 20, 60)
    if quick:
        recipe = dataclasses.replace(
            recipe, steps=4, batch=4, crop=32, architecture=Architecture(widths=(4, 8), groups=2)
        )
        counts = (4, 2, 4)
    found = [_one_seed(seed, recipe, counts) for seed in range(repeat)]
    rows = [row for each in found for row in each]
    gains = [row for row in rows if row[1] == "difference"]
    speed, share = _throughput(recipe, counts[0], 9 if not quick else 2)
    return Report(
        name="learning",
        about="plume model against the blurred matched filter, on planted truth; the cost of feeding it",
        tables=[
            Table(
                title=f"test: {counts[2]} granules of {EDGE} x {EDGE} pixels per seed, never seen; training: {counts[0]}",
                columns=(
                    "seed",
                    "method",
                    "AUPRC",
                    "low",
                    "high",
                    "F1",
                    "F1 low",
                    "F1 high",
                    "false/granule",
                    "ECE",
                ),
                rows=rows,
                note="95 % intervals by bootstrap over granules; paired for the difference; truth: "
                f"more than {TRUTH_PPM_M:g} ppm m; F1 of plumes at thresholds chosen on other granules",
            ),
            Table(
                title="training throughput",
                columns=("way", "tiles/s"),
                rows=speed,
                note=f"profile demo: batch {recipe.batch}, {recipe.crop} x {recipe.crop} pixels",
            ),
        ],
        targets=[
            Target(
                what="smallest lower bound of the AUPRC difference",
                found=min(row[3] for row in gains),
                unit="",
                limit=0.0,
                at_most=False,
            ),
            Target(
                what="smallest lower bound of the F1 difference",
                found=min(row[6] for row in gains),
                unit="",
                limit=0.0,
                at_most=False,
            ),
            Target(
                what="steps with the data pipeline over steps on one batch",
                found=share,
                unit="x",
                limit=0.9,
                at_most=False,
            ),
        ],
    )


def _one_seed(seed: int, recipe: Recipe, counts: tuple[int, int, int]) -> list[tuple[object, ...]]:
    first = seed * sum(counts)
    learn, choose, test = (
        range(first, first + counts[0]),
        range(first + counts[0], first + counts[0] + counts[1]),
        range(first + counts[0] + counts[1], first + sum(counts)),
    )
    trained = train(recipe, InMemory([_tile(number) for number in learn]), seed=seed)
    model = PlumeModel(
        network=trained.model, version=str(seed), name="benchmark", tile=EDGE, overlap=24, threshold=0.5
    )
    chosen = [_labelled(number) for number in choose]
    model = dataclasses.replace(model, calibration=calibrated(model.probabilities, chosen))
    methods = [
        Method(
            name="model",
            score=model.probabilities,
            threshold=best_threshold(model.probabilities, chosen, THRESHOLDS),
        ),
        baseline(best_threshold(matched_filter_score, chosen)),
    ]
    results = judge(methods, (_true(number) for number in test), seed=seed)
    mine, theirs = (results[method.name] for method in methods)
    _draw(seed, mine, theirs)
    rows: list[tuple[object, ...]] = []
    for result in (mine, theirs):
        sure = interval_of(result, count=1000, seed=seed)
        rows.append(
            (
                seed,
                result.method,
                result.auprc,
                sure["auprc"].low,
                sure["auprc"].high,
                result.plumes.f1,
                sure["f1"].low,
                sure["f1"].high,
                result.plumes.false_per_granule,
                None if result.reliability is None else result.reliability.expected_error,
            )
        )
    gap = difference(mine, theirs, count=1000, seed=seed)
    rows.append(
        (
            seed,
            "difference",
            gap.auprc.value,
            gap.auprc.low,
            gap.auprc.high,
            gap.f1.value,
            gap.f1.low,
            gap.f1.high,
            None,
            None,
        )
    )
    return rows


def _draw(seed: int, mine: Result, theirs: Result) -> None:
    """Draw the curves of a seed where ``GEOSTACK_FIGURES`` names a folder."""
    folder = os.environ.get("GEOSTACK_FIGURES")
    if folder is not None and mine.reliability is not None:
        from geostack_pipeline.publish.learning_figures import precision_recall

        curves = {result.method.replace("_", " "): result.curve for result in (mine, theirs)}
        picture = precision_recall(
            curves, mine.reliability.rows(), f"seed {seed}, {len(mine.item_ids)} test granules"
        )
        Path(folder, f"learning-{seed}.png").write_bytes(picture)


def _throughput(recipe: Recipe, granules: int, rounds: int) -> tuple[list[tuple[str, float]], float]:
    """Return tiles per second of the step alone and with the data pipeline, and the share of the first that is left."""
    tiles = InMemory([_tile(number) for number in range(granules)])
    step = compiled(recipe, 0)
    fixed = step.place(batch(tiles, tiles.plumes, seed=0, step=0, size=recipe.batch, crop=recipe.crop))
    weights, state = step.weights, step.optimiser
    weights, state, value = step.run(weights, state, fixed)
    value.block_until_ready()
    steps = 10
    plain, fed = [], []
    for number in range(rounds):
        began = time.perf_counter()
        for _ in range(steps):
            weights, state, value = step.run(weights, state, fixed)
        value.block_until_ready()
        alone = time.perf_counter() - began
        made = batches(tiles, seed=number, first=0, last=steps, size=recipe.batch, crop=recipe.crop)
        began = time.perf_counter()
        for one in made:
            weights, state, value = step.run(weights, state, step.place(one))
        value.block_until_ready()
        together = time.perf_counter() - began
        plain.append(alone)
        fed.append(together)
    # The quickest round of each: what else the machine does only ever adds.
    tiles_in_round = recipe.batch * steps
    speed = [
        ("step on one batch", tiles_in_round / min(plain)),
        ("with the data pipeline", tiles_in_round / min(fed)),
    ]
    return speed, ratio(min(plain), min(fed))


def _tile(number: int) -> Tile:
    arrays = _rendered(number)
    stack = _stack(arrays)
    return Tile(
        stack=stack,
        target=target(arrays["labels"] > 0, np.isfinite(stack[0]), 2),
        background=background(stack).array,
        weight=1.0,
    )


def _labelled(number: int) -> Granule:
    """Return a granule with what an analyst outlined."""
    arrays = _rendered(number)
    stack = _stack(arrays)
    present = np.unique(arrays["labels"][arrays["labels"] > 0])
    return Granule(
        item_id=str(number),
        stack=stack,
        plumes=np.searchsorted(present, arrays["labels"], side="right").astype(np.int32)
        * (arrays["labels"] > 0),
        target=target(arrays["labels"] > 0, np.isfinite(stack[0]), 2),
        rates_kg_h=tuple(float(arrays["rates"][one - 1]) for one in present),
    )


def _true(number: int) -> Granule:
    """Return a granule with what was planted; the pixels at the edge of a plume are ignored."""
    arrays = _rendered(number)
    stack = _stack(arrays)
    plumes, count = label(arrays["column"] > TRUTH_PPM_M, np.ones((3, 3)))
    return Granule(
        item_id=str(number),
        stack=stack,
        plumes=plumes.astype(np.int32),
        target=target(plumes > 0, np.isfinite(stack[0]), 1),
        rates_kg_h=(None,) * count,
    )


def _stack(arrays: dict[str, np.ndarray]) -> np.ndarray:
    stack = np.stack([arrays[name] for name in _FIELDS]).astype(np.float32)
    stack[:, ~np.isfinite(stack).all(axis=0)] = np.nan
    return stack


_HELD: dict[int, dict[str, np.ndarray]] = {}


def _rendered(number: int) -> dict[str, np.ndarray]:
    if number not in _HELD:
        _HELD[number] = _render(number)
    return _HELD[number]


def _render(number: int) -> dict[str, np.ndarray]:
    from geostack_pipeline.sandbox.world.scenario import scenario

    kept = os.environ.get("GEOSTACK_SCENARIOS")
    file = Path(kept) / f"{number}.npz" if kept else None
    if file is not None and file.exists():
        with np.load(file) as stored:
            return {name: stored[name] for name in ("labels", "column", "rates", *_FIELDS)}
    planned = scenario(number, lines=EDGE, samples=EDGE)
    granule = planned.render()
    arrays = {
        "labels": granule.labels,
        "column": granule.column,
        "rates": np.array([plume.rate_kg_h for plume in granule.plumes]),
        **{name: np.asarray(granule.level2[name]) for name in _FIELDS},
    }
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, **arrays)
    return arrays
