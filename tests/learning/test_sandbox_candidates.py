"""With a model the methane stage invents fewer plumes over the sandbox's ground than with its threshold, and finds as many."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.learning import candidates
from benchmarks.learning_granules import EDGE, labelled, tile, true
from geostack_pipeline.learning.batches import InMemory
from geostack_pipeline.learning.inference import PlumeModel
from geostack_pipeline.learning.judging import THRESHOLDS, best_threshold, calibrated
from geostack_pipeline.learning.profiles import PROFILES
from geostack_pipeline.learning.training import train


@pytest.mark.slow
def test_candidates_on_scenarios_that_the_model_never_saw() -> None:
    learn, choose, test = range(60), range(130, 142), range(150, 190)
    recipe = replace(PROFILES["demo"], steps=200)
    trained = train(recipe, InMemory([tile(number) for number in learn]), seed=0)
    model = PlumeModel(network=trained.model, version="0", name="u", tile=EDGE, overlap=24, threshold=0.5)
    chosen = [labelled(number) for number in choose]
    model = replace(model, calibration=calibrated(model.probabilities, lambda: chosen))
    model = replace(model, threshold=best_threshold(model.probabilities, lambda: chosen, THRESHOLDS))
    plain, judged = candidates(model, [true(number) for number in test])
    # Solar parks, roofs and carbonates look like methane to a filter.
    assert plain.false > 20
    assert judged.false < 0.5 * plain.false
    assert judged.found >= plain.found > 5
