"""The plume model against the blurred matched filter on truth, and how much of a step the data pipeline costs.

Granules are scenarios of the sandbox's world; the model learns from what an analyst would outline and is judged on
what was planted.  No place of the training is in the test: each scenario has a ground of its own.
Curves are drawn in the folder that ``GEOSTACK_FIGURES`` names.
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import numpy as np

from benchmarks.learning_granules import EDGE, TRUTH_PPM_M, labelled, tile, true
from benchmarks.learning_stored import throughput
from benchmarks.report import Report, Table, Target
from geostack_pipeline.learning import plume_score
from geostack_pipeline.learning.batches import InMemory, batches
from geostack_pipeline.learning.fields import matched_filter_score
from geostack_pipeline.learning.inference import PlumeModel
from geostack_pipeline.learning.judging import (
    LEVELS,
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
from geostack_pipeline.learning.plume_score import Counts, PlumeScore
from geostack_pipeline.learning.profiles import PROFILES, Architecture, Recipe
from geostack_pipeline.learning.training import compiled, train
from geostack_pipeline.methane.detection import SPECTROMETER, Judgement, find_candidates


def run(*, quick: bool, repeat: int) -> Report:
    """Return what was found; ``repeat`` is the number of seeds."""
    recipe = PROFILES["demo"]
    counts = (130, 20, 60)
    if quick:
        recipe = dataclasses.replace(
            recipe, steps=4, batch=4, crop=32, architecture=Architecture(widths=(4, 8), groups=2)
        )
        counts = (4, 2, 4)
    found = [one_seed(seed, recipe, counts) for seed in range(repeat)]
    rows = [row for each in found for row in each.scores]
    stage = [row for each in found for row in each.candidates]
    pairs = list(zip(stage[::2], stage[1::2], strict=True))
    gains = [row for row in rows if row[1] == "difference"]
    speed = throughput(recipe, [tile(number) for number in range(counts[0])], 9 if not quick else 2)
    cpu = training_time(recipe if quick else PROFILES["cpu"], counts[0], 0.0 if quick else 60.0)
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
                title="false plumes where both find as many (the gate's comparison)",
                columns=("seed", "filter finds", "filter's false", "model's false", "model finds there"),
                rows=[each.equal for each in found],
            ),
            Table(
                title="candidates of the methane stage on the same granules",
                columns=("seed", "by", "plumes", "found", "false"),
                rows=stage,
                note="two-sided threshold: what the stage does without a model; model: what it does with one",
            ),
            Table(
                title="training throughput",
                columns=("way", "tiles/s", "share of the step on one batch"),
                rows=speed,
                note=f"profile demo: batch {recipe.batch}, {recipe.crop} x {recipe.crop} pixels; median of rounds in turn",
            ),
            Table(
                title="a whole training of profile cpu, from at least a minute of its steps",
                columns=("steps", "steps measured", "s per step", "CPU s per step", "CPU minutes"),
                rows=[cpu],
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
                what="most false candidates more with the model than without",
                found=max(mine[4] - plain[4] for plain, mine in pairs),
                unit="",
                limit=0.0,
                at_most=True,
            ),
            Target(
                what="fewest plumes found more with the model than without",
                found=min(mine[3] - plain[3] for plain, mine in pairs),
                unit="",
                limit=0.0,
                at_most=False,
            ),
            Target(
                what="minutes of a training of profile cpu",
                found=cpu[-1],
                unit="min",
                limit=15.0,
                at_most=True,
            ),
            *(
                Target(what=f"{way} over steps on one batch", found=share, unit="x", limit=0.9, at_most=False)
                for way, _, share in speed[1:]
            ),
        ],
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
    """Rows of a seed."""

    scores: list[tuple[object, ...]]
    equal: tuple[object, ...]
    candidates: list[tuple[int, str, int, int, int]]


def one_seed(seed: int, recipe: Recipe, counts: tuple[int, int, int]) -> _Found:
    """Train and judge the model of a seed on granules that no other seed has: of the training, to choose on, of the test."""
    first = seed * sum(counts)
    learn, choose, test = (
        range(first, first + counts[0]),
        range(first + counts[0], first + counts[0] + counts[1]),
        range(first + counts[0] + counts[1], first + sum(counts)),
    )
    trained = train(recipe, InMemory([tile(number) for number in learn]), seed=seed)
    model = PlumeModel(
        network=trained.model, version=str(seed), name="benchmark", tile=EDGE, overlap=24, threshold=0.5
    )
    chosen = [labelled(number) for number in choose]
    model = dataclasses.replace(model, calibration=calibrated(model.probabilities, lambda: chosen))
    model = dataclasses.replace(
        model, threshold=best_threshold(model.probabilities, lambda: chosen, THRESHOLDS)
    )
    methods = [
        Method(name="model", score=model.probabilities, threshold=model.threshold, levels=LEVELS),
        baseline(best_threshold(matched_filter_score, lambda: chosen)),
    ]
    results = judge(methods, lambda: (true(number) for number in test), seed=seed)
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
    there = mine.finding(theirs.plumes.found)
    same = (None, None) if there is None else (there[1].false, there[1].found)
    found = zip(
        ("two-sided threshold", "model"), candidates(model, [true(number) for number in test]), strict=True
    )
    return _Found(
        scores=rows,
        equal=(seed, theirs.plumes.found, theirs.plumes.false, *same),
        candidates=[(seed, name, each.plumes, each.found, each.false) for name, each in found],
    )


def candidates(model: PlumeModel, granules: list[Granule]) -> tuple[PlumeScore, PlumeScore]:
    """Return what the candidates that the methane stage makes of granules are, without and with the model."""
    counts: tuple[list[Counts], list[Counts]] = ([], [])
    for granule in granules:
        said = Judgement(probability=model.probabilities(granule.stack), threshold=model.threshold)
        for judgement, into in zip((None, said), counts, strict=True):
            made = find_candidates(
                granule.stack[0],
                pixel_m=(60.0, 60.0),
                seed_z=SPECTROMETER.seed_z,
                settings=SPECTROMETER,
                judgement=judgement,
            )
            inside = (made.labels > 0).astype(np.float32)
            into.append(plume_score.count(inside, 0.5, granule.plumes, granule.target, granule.rates_kg_h))
    return plume_score.total(counts[0]), plume_score.total(counts[1])


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


def training_time(
    recipe: Recipe, granules: int = 40, at_least_s: float = 60.0
) -> tuple[int, int, float, float, float]:
    """Return steps of a training, steps measured, wall and CPU seconds of one, CPU minutes of the whole training.

    Steps are fed by the data pipeline; compiling them counts once.
    """
    tiles = InMemory([tile(number) for number in range(granules)])
    began = time.process_time()
    step = compiled(recipe, 0)
    weights, state = step.weights, step.optimiser
    made = batches(tiles, seed=0, first=0, last=recipe.steps, size=recipe.batch, crop=recipe.crop)
    weights, state, value = step.run(weights, state, step.place(next(made)))
    value.block_until_ready()
    compiling = time.process_time() - began
    began, worked, count = time.perf_counter(), time.process_time(), 0
    for one in made:
        weights, state, value = step.run(weights, state, step.place(one))
        value.block_until_ready()
        count += 1
        if time.perf_counter() - began >= at_least_s and count >= 3:
            break
    wall, cpu = time.perf_counter() - began, time.process_time() - worked
    minutes = (compiling + cpu / count * recipe.steps) / 60.0
    return recipe.steps, count, wall / count, cpu / count, minutes
